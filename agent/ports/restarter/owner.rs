//! The systemd unit that runs a container. When the container stops, the unit's main process (the engine's client, or podman's
//! monitor) ends with it, and the unit runs its `ExecStop*`, or starts anew: it removes what the daemon has just begun again.
//!
//! Told by the commands of each running unit as systemd has them, since nothing else leads from a container of Docker to
//! its unit. A unit that names its container by a variable or within a script of its own is not found. Called by `docker`.

use zbus::OwnedObjectPath;

use super::systemd::bus::{Bus, BusError};

const CLIENTS: [&str; 3] = ["docker", "podman", "nerdctl"];
const COMMANDS: [&str; 4] = ["ExecStartPre", "ExecStart", "ExecStop", "ExecStopPost"];

/// A container by what commands may call it.
#[derive(Clone, Copy, Debug)]
pub struct Called<'a> {
    pub name: &'a str,
    /// 64 hex digits.
    pub id: &'a str,
}

/// The unit, and which of its commands names the container; `None` where none does, or systemd cannot be asked.
pub async fn unit_of(bus: &Bus, container: Called<'_>) -> Option<(String, &'static str)> {
    let units = match bus.running_services().await {
        Ok(units) => units,
        Err(error) => {
            tracing::debug!(
                container = container.name,
                %error,
                "cannot list the units that may run container {}: {error}",
                container.name,
            );
            return None;
        }
    };
    for (unit, path) in units {
        match command_of(bus, &path, container).await {
            Ok(Some(command)) => return Some((unit, command)),
            Ok(None) => {}
            // It has gone meanwhile, for example.
            Err(error) => tracing::debug!(unit, %error, "cannot read the command of unit {unit}: {error}"),
        }
    }
    None
}

async fn command_of(
    bus: &Bus,
    unit: &OwnedObjectPath,
    container: Called<'_>,
) -> Result<Option<&'static str>, BusError> {
    // Where its commands have ended, such as a oneshot's `docker run --detach`, nothing happens when the container stops.
    if bus.main_pid(unit).await? == 0 {
        return Ok(None);
    }
    for kind in COMMANDS {
        if bus.commands(unit, kind).await?.iter().any(|argv| container.is_named_by(argv)) {
            return Ok(Some(kind));
        }
    }
    Ok(None)
}

impl Called<'_> {
    /// Does the command make, start, stop or remove this container? Other words, such as `logs` and `exec`, leave it alone.
    fn is_named_by(&self, argv: &[String]) -> bool {
        // A shell's script is one argument.
        let between = |c: char| c.is_whitespace() || "'\"`;&|()".contains(c);
        let words: Vec<&str> =
            argv.iter().flat_map(|word| word.split(between)).filter(|word| !word.is_empty()).collect();
        let is_client = |word: &&str| word.rsplit('/').next().is_some_and(|name| CLIENTS.contains(&name));
        let Some(client) = words.iter().position(is_client) else { return false };
        let rest = &words[client + 1..];
        let is_made = |word: &&str| matches!(*word, "run" | "create");
        let is_used = |word: &&str| matches!(*word, "start" | "restart" | "stop" | "kill" | "rm");
        let Some(verb) = rest.iter().position(|word| is_made(word) || is_used(word)) else { return false };
        let options = &rest[verb + 1..];
        let after = |option: &str| {
            let value = |(at, word): (usize, &&str)| match word.strip_prefix(option)? {
                "" => options.get(at + 1).map(|value| (*value).to_owned()),
                value => value.strip_prefix('=').map(str::to_owned),
            };
            options.iter().enumerate().find_map(value)
        };
        let by_file = || after("--cidfile").and_then(|path| std::fs::read_to_string(path).ok());
        let is_it = |word: &str| word == self.name || (word.len() >= 12 && self.id.starts_with(word));
        let is_named = match is_made(&rest[verb]) {
            true => after("--name").is_some_and(|name| name == self.name),
            false => options.iter().any(|word| is_it(word)),
        };
        is_named || by_file().is_some_and(|id| id.trim() == self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_runs_the_container_that_its_commands_make_start_stop_or_remove() {
        let id = "4f1c2d3e4f5061728394a5b6c7d8e9f00112233445566778899aabbccddeeff0";
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ctr-id").display().to_string();
        std::fs::write(&file, format!("{id}\n")).unwrap();
        let container = Called { name: "web", id };
        for (line, is_named) in [
            ("/usr/bin/docker rm --force web", true),
            ("/usr/bin/docker --host unix:///run/d.sock stop -t 10 web", true),
            ("docker run --rm --name web nginx", true),
            ("podman run --name=web nginx", true),
            ("/usr/bin/nerdctl kill 4f1c2d3e4f50", true),
            ("/bin/sh -c docker kill web; docker rm web || true", true),
            ("/usr/bin/env podman container rm web", true),
            (&format!("podman rm -f --ignore --cidfile={file}"), true),
            (&format!("podman run --cidfile {file} nginx"), true),
            ("podman rm --cidfile /nowhere", false),
            ("docker run --name other nginx web", false),
            ("docker rm web-2", false),
            ("docker rm 4f1c", false),
            ("docker logs -f web", false),
            ("docker exec web reload", false),
            ("/usr/bin/web start", false),
            ("rm web", false),
        ] {
            let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(container.is_named_by(&argv), is_named, "{line}");
        }
        let script = ["/bin/sh", "-c", "docker stop 'web'"].map(str::to_owned);
        assert!(container.is_named_by(&script));
    }
}
