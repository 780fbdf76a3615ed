//! A service whose health is asked by https, with a certificate that nobody believes: it is not drained, and people hear why.
//! Once its CA is named it is remedied like any other.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::lab::Lab;
use crate::lab::deadline::wait_until;
use crate::lab::quick::{ENDS_WITHIN, Quick, SOON};

#[test]
fn a_probe_that_cannot_be_asked_is_found_before_the_drain() {
    let lab = Lab::start();
    let stage = Quick::set(&lab);
    let path = |file: &str| lab.dir().join(file).display().to_string();
    let (certificate, key) = (path("health.pem"), path("health.key"));
    // Made as a careful person makes one for a single server.
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=rpc-order", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate])
        .output();
    let made = made.unwrap_or_else(|error| panic!("openssl: {error}: `tests/run` installs it"));
    assert!(made.status.success(), "{made:?}");
    let serving =
        ["/usr/bin/openssl", "s_server", "-accept", "127.0.0.1:7443", "-www", "-cert", &certificate, "-key", &key];
    let _health = lab.spawn(&serving);
    let https = "health: { http: \"https://127.0.0.1:7443/\" }";
    stage.edit("agent.yaml", "health: { exec:", &format!("{https} # {{"));
    let agent = stage.run(None);

    let held = stage.wait_until_told("that it is held", ENDS_WITHIN, |told| told["event"] == "held");
    assert_eq!(held["reason"], "probe_unusable", "{held:#}");
    let says = held["lines"].to_string();
    assert!(says.contains("`CN=rpc-order` is self-signed, and not in the system's CA store"), "{held:#}");
    assert!(stage.is_in_traffic() && stage.starts() == 1 && stage.incidents().is_empty());

    let believed = format!("health: {{ http: \"https://127.0.0.1:7443/\", tls: {{ ca_file: {certificate} }} }}");
    stage.edit("agent.yaml", https, &believed);
    agent.signal(Signal::SIGHUP);
    wait_until("the new configuration to be in force", SOON, || {
        agent.output().contains("a new configuration is in force").then_some(())
    });
    let end = stage.wait_for_first_end(ENDS_WITHIN);
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()), "{end:#}");
    assert_eq!(stage.starts(), 2);
}
