//! The agent under test: its program, its configuration in `/etc/unwait`, and what its verbs say.
//!
//! Configurations are what is shipped, with single words edited: an edit whose words are not there any more is a
//! panic, so the stories run with what people install.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use super::deadline::wait_until_seen;
use super::{Lab, Spawned, Webhook};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_unwait");
pub const UNIT: &str = "unwait.service";
pub const STATE: &str = "/var/lib/unwait";
/// Of the webhook's signature: base64, as Standard Webhooks say.
pub const WEBHOOK_KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const ETC: &str = "/etc/unwait";
const CREDENTIALS: &str = "/etc/unwait/credentials";

macro_rules! shipped {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path))
    };
}

/// Policy, runbook and host's file by which `rpc-order.service` is acted on, as `Etc` names them.
pub const HOST: &str = "agent.yaml";
pub const POLICY: &str = "policies/close-wait-leak.yaml";
pub const RUNBOOK: &str = "runbooks/isolate-restart-recover.yaml";

/// A configuration directory, before it is written.
#[derive(Clone)]
pub struct Etc {
    files: BTreeMap<String, String>,
}

impl Etc {
    /// Everything that is shipped, word by word.
    pub fn shipped() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = BTreeMap::from([(HOST.to_owned(), shipped!("deploy/etc-unwait/agent.yaml").to_owned())]);
        for folder in ["policies", "runbooks"] {
            let entries = fs::read_dir(root.join(folder)).expect("the checkout is there");
            for path in entries.map(|entry| entry.expect("the checkout is there").path()) {
                if path.extension().is_some_and(|extension| extension == "yaml") {
                    let name = path.strip_prefix(root).expect("it lies below").display().to_string();
                    files.insert(name, fs::read_to_string(&path).expect("the checkout is there"));
                }
            }
        }
        Self { files }
    }

    /// How many files lie in `policies` or `runbooks`.
    pub fn count(&self, folder: &str) -> usize {
        self.files.keys().filter(|name| name.starts_with(folder)).count()
    }

    /// Takes a file away.
    ///
    /// # Panics
    /// When there is none.
    fn without(mut self, file: &str) -> Self {
        self.files.remove(file).unwrap_or_else(|| panic!("no file {file}"));
        self
    }

    /// What is shipped, with waits that a test can wait for, and somebody who is told: `close-wait-leak` acts on
    /// `rpc-*.service` once it has leaked for some four seconds.
    pub fn of_the_story() -> Self {
        Self::shipped()
            // Two policies would act on the same leak.
            .without("policies/close-wait-climb.yaml")
            .edit(HOST, "interval: 15s", "interval: 1s\ncpu_budget: 100%\nrestart_grace: 0s")
            // The machine's own disk may be nearly full.
            .edit(HOST, "min_free: 5%", "min_free: 1MiB")
            .edit(HOST, "#notify:\n", "notify:\n")
            .edit(HOST, "#  - to: { generic:", "  - to: { generic:")
            .edit(
                HOST,
                "#    events: [start, end, stuck]",
                "    events: [breach, held, start, step, end, stuck, recovered]",
            )
            .cut(POLICY, "tests:\n")
            .edit(POLICY, r#"services: ["*"]"#, r#"services: ["rpc-*.service"]"#)
            .edit(POLICY, "aged(5m)", "aged(2s)")
            .edit(POLICY, "aged(1m)", "aged(1s)")
            .edit(POLICY, "for: 2m", "for: 2s")
            .edit(POLICY, "mode: dry-run", "mode: auto")
            .edit(RUNBOOK, "settle: 5s", "settle: 1s")
            .edit(RUNBOOK, "interval: 2s", "interval: 500ms")
            // Longer than the two seconds after which Redis closes on who is idle, and than the ten within which a
            // socket that has sent something counts as still sending; restart and health check take some of them.
            .edit(
                RUNBOOK,
                "soak: 2m, expect: [close_wait.aged(1m) < 20]",
                "soak: 8s, expect: [close_wait.aged(1s) < 20]",
            )
    }

    /// Replaces every `from`.
    ///
    /// # Panics
    /// When there is none.
    pub fn edit(mut self, file: &str, from: &str, to: &str) -> Self {
        let text = self.files.get_mut(file).unwrap_or_else(|| panic!("no file {file}"));
        assert!(text.contains(from), "{file} does not say {from:?}:\n{text}");
        *text = text.replace(from, to);
        self
    }

    /// Drops everything from the first `from` on.
    pub fn cut(mut self, file: &str, from: &str) -> Self {
        let text = self.files.get_mut(file).unwrap_or_else(|| panic!("no file {file}"));
        let at = text.find(from).unwrap_or_else(|| panic!("{file} does not say {from:?}:\n{text}"));
        text.truncate(at);
        self
    }

    /// Puts a file there, instead of the one of that name.
    pub fn with(mut self, file: &str, text: &str) -> Self {
        self.files.insert(file.to_owned(), text.to_owned());
        self
    }

    /// Writes all of it to the lab's `/etc/unwait`, as root's own, in place of what lies there.
    pub fn write(&self, lab: &Lab) {
        let etc = lab.inside(ETC);
        for part in ["policies", "runbooks"] {
            let part = etc.join(part);
            if part.exists() {
                fs::remove_dir_all(&part).expect("the lab's /etc is writable");
            }
            fs::create_dir_all(&part).expect("the lab's /etc is writable");
        }
        for (name, text) in &self.files {
            fs::write(etc.join(name), text).expect("the lab's /etc is writable");
        }
        // A checkout, and who runs the tests, may have any umask.
        lab.run(&["chown", "--recursive", "root:root", ETC]);
        lab.run(&["chmod", "--recursive", "go-w", ETC]);
    }
}

/// Puts a secret where `deploy/README.md` says.
pub fn write_credential(lab: &Lab, name: &str, secret: &str) {
    let credentials = lab.inside(CREDENTIALS);
    fs::create_dir_all(&credentials).expect("the lab's /etc is writable");
    let path = credentials.join(name);
    fs::write(&path, secret).expect("the lab's /etc is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
}

/// The two secrets of the webhook that [`Etc::of_the_story`] tells.
pub fn write_webhook(lab: &Lab, webhook: &Webhook<'_>) {
    write_credential(lab, "webhook", &format!("{}\n", webhook.url("/unwait")));
    write_credential(lab, "webhook-key", WEBHOOK_KEY);
}

/// What a verb said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// # Panics
    /// When standard output is not one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Both streams.
    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }
}

fn argv<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let credentials = const { "CREDENTIALS_DIRECTORY=/etc/unwait/credentials" };
    [&["env", credentials, PROGRAM], arguments].concat()
}

/// Runs a verb in the lab, by hand as root.
pub fn unwait(lab: &Lab, arguments: &[&str]) -> Said {
    said(lab, &argv(arguments))
}

/// The same, for a verb that is to end by itself; it is ended where it does not.
pub fn unwait_within(lab: &Lab, deadline: Duration, arguments: &[&str]) -> Said {
    let seconds = deadline.as_secs().to_string();
    said(lab, &[&["timeout", "--verbose", seconds.as_str()], argv(arguments).as_slice()].concat())
}

/// The same as a user without rights.
pub fn unwait_as_nobody(lab: &Lab, arguments: &[&str]) -> Said {
    // Where the build lies, nobody else may be allowed to look.
    let copy = "/run/unwait-for-all";
    fs::copy(PROGRAM, lab.inside(copy)).expect("the lab's /run is writable");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", copy];
    said(lab, &[&nobody, arguments].concat())
}

/// The same as root without these capabilities, as setpriv(1) names them: `-sys_admin,-sys_ptrace`.
pub fn unwait_without(lab: &Lab, capabilities: &str, arguments: &[&str]) -> Said {
    said(lab, &[&["setpriv", "--bounding-set", capabilities, "--"], argv(arguments).as_slice()].concat())
}

fn said(lab: &Lab, argv: &[&str]) -> Said {
    let output = lab.command(argv).output().unwrap_or_else(|error| panic!("{argv:?}: {error}"));
    Said::of(&output)
}

/// `unwait run` in the background of the lab. It has begun to listen when this returns.
pub fn run(lab: &Lab) -> Spawned {
    let agent = lab.spawn(&argv(&["run", "--log", "json"]));
    wait_until_seen("the agent to answer", Duration::from_secs(10), || {
        answers(lab).map_err(|seen| format!("{seen}\n{}", agent.output()))
    });
    agent
}

/// `unwait.service` as it is shipped, but for where its program lies and that it has its secrets. It has begun to
/// listen when this returns.
pub fn start_unit(lab: &Lab) {
    start_unit_with(lab, "");
}

/// The same, with these lines in its `[Service]`.
pub fn start_unit_with(lab: &Lab, lines: &str) {
    lab.add_unit(UNIT, shipped!("deploy/systemd/unwait.service"));
    let drop_in = lab.inside("/etc/systemd/system").join(format!("{UNIT}.d"));
    fs::create_dir_all(&drop_in).expect("the lab's /etc is writable");
    let text = format!(
        "[Service]\nExecStart=\nExecStart={PROGRAM} run --config {ETC}\n\
         ExecReload=\nExecReload={PROGRAM} reload --config {ETC}\n\
         LoadCredential=webhook:{CREDENTIALS}/webhook\nLoadCredential=webhook-key:{CREDENTIALS}/webhook-key\n{lines}"
    );
    fs::write(drop_in.join("lab.conf"), text).expect("the lab's /etc is writable");
    lab.run(&["systemctl", "daemon-reload"]);
    lab.run(&["systemctl", "start", "--no-block", UNIT]);
    wait_until_seen("the agent to answer", Duration::from_secs(10), || {
        answers(lab).map_err(|seen| format!("{seen}\n{}", lab.journal(UNIT)))
    });
}

fn answers(lab: &Lab) -> Result<(), String> {
    let status = unwait(lab, &["status", "--json"]);
    if status.code != 3 && status.json()["agent"]["last_snapshot"].is_string() {
        Ok(())
    } else {
        Err(format!("{status:?}"))
    }
}

/// The incidents so far, newest first.
pub fn history(lab: &Lab) -> Vec<Value> {
    let said = unwait(lab, &["history", "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.json().as_array().expect("a list of incidents").clone()
}

/// Waits for the newest incident to end, and returns its row.
pub fn wait_for_end(lab: &Lab, deadline: Duration) -> Value {
    wait_until_seen("the incident's end", deadline, || {
        let newest = history(lab).into_iter().next().ok_or("no incident")?;
        if newest["ended"].is_string() { Ok(newest) } else { Err(format!("{newest:#}\n{}", steps(lab, &newest))) }
    })
}

/// Waits until each of these services has an incident of `close-wait-leak` that has ended, and returns two words of each.
pub fn wait_for_ends(
    lab: &Lab,
    services: &[&str],
    deadline: Duration,
    [one, other]: [&str; 2],
) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    wait_until_seen(&format!("the incidents of {services:?} to end"), deadline, || {
        let incidents = history(lab);
        let ended = incidents.iter().filter(|row| row["ended"].is_string() && row["policy"] == "close-wait-leak");
        let ended: BTreeMap<String, (String, String)> =
            ended.map(|row| (text(&row["service"]), (text(&row[one]), text(&row[other])))).collect();
        match services.iter().all(|service| ended.contains_key(*service)) {
            true => Ok(ended),
            false => Err(format!("{incidents:#?}\n{}", lab.journal(UNIT))),
        }
    })
}

fn steps(lab: &Lab, incident: &Value) -> String {
    unwait(lab, &["show", incident["incident"].as_str().unwrap_or_default()]).all()
}

/// Waits until `status` says that something is held for this reason, and returns what it says.
pub fn wait_for_held(lab: &Lab, reason: &str) -> Value {
    wait_until_seen(&format!("a breach that is held: {reason}"), Duration::from_secs(20), || {
        let status = unwait(lab, &["status", "--json"]).json();
        let held = status["agent"]["held"].as_array().cloned().unwrap_or_default();
        held.into_iter().find(|held| held["reason"] == reason).ok_or_else(|| format!("{status:#}"))
    })
}

/// The refusals that `explain` gives for a service and a policy.
pub fn held_by(lab: &Lab, service: &str, policy: &str) -> Vec<Value> {
    let explained = unwait(lab, &["explain", service, "--json"]).json();
    let policies = explained["policies"].as_array().expect("a list of policies");
    let policy = policies.iter().find(|one| one["policy"] == policy).unwrap_or_else(|| panic!("{explained:#}"));
    policy["held_by"].as_array().expect("a list of refusals").clone()
}

/// What has ended is an hour older from now on, in the account of the agent with this state directory: no cooldown of it
/// lasts.
pub fn an_hour_passes(state: &Path) {
    const HOUR_MS: i64 = 3_600_000;
    let store = rusqlite::Connection::open(state.join("unwait.db")).expect("the agent made it");
    store.busy_timeout(Duration::from_secs(5)).expect("a timeout");
    let sql = "UPDATE incident SET began = began - ?1, ended = ended - ?1, began_line = began_line - ?1,
                                   ended_line = ended_line - ?1
               WHERE ended IS NOT NULL";
    store.execute(sql, [HOUR_MS]).expect("the agent lets others write");
}

/// A file in the agent's state directory, as the test finds it.
pub fn kept(lab: &Lab, path: &str) -> std::path::PathBuf {
    lab.inside(Path::new(path))
}
