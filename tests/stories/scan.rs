//! `unwait scan` and what it says where things are not as they should be. Without the lab: it changes nothing.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::resource::{Resource, setrlimit};
use serde_json::Value;

const LEAKED: usize = 3;

/// Connections that their peer has closed.
fn leak() -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = |_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        // The end of file has come.
        std::io::copy(&mut &client, &mut std::io::sink()).unwrap();
        client
    };
    (0..LEAKED).map(one).collect()
}

fn unwait(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unwait"));
    command.args(arguments).arg("--config").arg(config);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_broken_configuration_is_left_aside_and_said_to_be_in_one_line() {
    let _held = leak();
    let config = tempfile::tempdir().unwrap();
    let mistyped = unwait(&["scan"], &config.path().join("none")).output().unwrap();
    let said = text(&mistyped.stderr);
    assert_eq!((mistyped.status.code(), said.lines().count()), (Some(0), 1), "{said}");
    assert!(said.contains("/none: does not exist: create it with agent.yaml"), "{said}");
    std::fs::write(config.path().join("agent.yaml"), "interval: 15s\nintervall: 1s\n").unwrap();
    let broken = unwait(&["scan"], config.path()).output().unwrap();
    let said = text(&broken.stderr);
    assert_eq!((broken.status.code(), said.lines().count()), (Some(0), 1), "{said}");
    assert!(said.contains("agent.yaml:2:1: unknown key `intervall`") && said.contains("`unwait check`"), "{said}");
}

#[test]
fn where_nothing_can_be_written_every_verb_says_so_and_exits_with_3() {
    let config = tempfile::tempdir().unwrap();
    std::fs::write(config.path().join("agent.yaml"), "interval: 15s\n").unwrap();
    for arguments in [&["scan"][..], &["scan", "--json"], &["check"], &["check", "--json"], &["test"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let Output { status, stderr, .. } = unwait(arguments, config.path()).stdout(full).output().unwrap();
        let said = text(&stderr);
        assert!(said.contains("standard output: No space left") && !said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(status.code(), Some(3), "{arguments:?}: {said}");
    }
}

/// A look that lacks descriptors is whole, or says that it is not: never a low count.
#[test]
fn out_of_descriptors_a_look_is_whole_or_an_error() {
    let _held = leak();
    let config = tempfile::tempdir().unwrap();
    let (mut whole, mut failed) = (0, 0);
    // With fewer, the runtime itself does not start.
    for descriptors in 8..24 {
        let mut command = unwait(&["scan", "--json"], &config.path().join("none"));
        // SAFETY: between fork and exec, setrlimit(2) alone is called.
        unsafe { command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?)) };
        let Output { status, stdout, stderr } = command.output().unwrap();
        match status.code() {
            Some(0) => {
                let said: Value = serde_json::from_slice(&stdout).unwrap();
                assert_eq!(said["complete"], true, "{descriptors} descriptors: {said:#}");
                assert!(said["host.close_wait"].as_u64().unwrap() >= LEAKED as u64, "{descriptors}: {said:#}");
                whole += 1;
            }
            code => {
                assert_eq!(code, Some(3), "{descriptors} descriptors: {}", text(&stderr));
                failed += 1;
            }
        }
    }
    assert!(whole > 0 && failed > 0, "{whole} whole, {failed} failed");
}

#[test]
fn sockets_are_counted_by_who_closed_and_by_who_holds_them() {
    let held = leak();
    let none = Path::new("/none");
    let rows = |arguments: &[&str]| {
        let Output { status, stdout, stderr } = unwait(arguments, none).output().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}: {}", text(&stderr));
        serde_json::from_slice::<Value>(&stdout).unwrap()["rows"].as_array().cloned().expect("rows")
    };
    let of = |rows: &[Value], what: &str| rows.iter().find(|row| row["what"] == what).map(|row| row["sockets"].clone());
    let server = held[0].peer_addr().unwrap();
    let pid = std::process::id();

    let by_peer = rows(&["scan", "--by", "peer", "--json"]);
    assert_eq!(of(&by_peer, &server.to_string()), Some(LEAKED.into()), "{by_peer:#?}");
    assert_eq!(of(&rows(&["scan", "--peers", "--json"]), &server.to_string()), Some(LEAKED.into()));
    assert_eq!(of(&rows(&["scan", "--by", "port", "--json"]), &format!("to {}", server.port())), Some(LEAKED.into()));
    let by_process = rows(&["scan", "--by", "process", "--json"]);
    let own = by_process
        .iter()
        .find(|row| row["what"].as_str().is_some_and(|what| what.starts_with(&format!("pid {pid} ("))));
    assert_eq!(own.map(|row| &row["sockets"]), Some(&LEAKED.into()), "{by_process:#?}");
    let table = unwait(&["scan", "--by", "user"], none).output().unwrap();
    assert!(text(&table.stdout).starts_with("USER "), "{}", text(&table.stdout));
    assert_eq!(unwait(&["scan", "--by", "colour"], none).output().unwrap().status.code(), Some(2));
}
