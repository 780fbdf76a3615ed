//! Sockets that are no service's, on a host whose policy counts them: people hear whose they are, and that nothing is done.

use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::{Lab, Webhook};

const SOON: Duration = Duration::from_secs(30);
const LEAKY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/leaky.php");

#[test]
fn what_nobody_owns_is_told_once_and_stands_in_status() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    agent::write_webhook(&lab, &webhook);
    let policy = "policy: close-wait-leak\nservices: [\"*\"]\nwhen:\n  all: [host.close_wait > 40, close_wait.host_share >= 0.9]\n\
                  for: 1s\nrunbook: evidence-only\n";
    let to = "{ url_file: ${CREDENTIALS_DIRECTORY}/webhook, key_file: ${CREDENTIALS_DIRECTORY}/webhook-key }";
    let host = format!(
        "interval: 1s\ncpu_budget: 100%\nevidence: {{ min_free: 1MiB }}\nnotify:\n  - to: {{ generic: {to} }}\n    \
         events: [held]\n"
    );
    Etc::shipped().with(HOST, &host).with(POLICY, policy).write(&lab);
    lab.add_unit("other.service", &format!("[Service]\nExecStart=/usr/bin/php {LEAKY} 7601 36 0\n"));
    lab.start_unit("other.service");
    let _agent = agent::run(&lab);
    // By hand, outside of all units; together a quarter.
    let _by_hand = lab.spawn(&["/usr/bin/php", LEAKY, "7602", "12", "0"]);

    let told = webhook.wait_for("that they are no service's", Duration::from_secs(90), |request| {
        request.body.contains("no service's")
    });
    let told: Value = serde_json::from_str(&told.body).expect("a message is JSON");
    assert_eq!(told["event"], "held", "{told:#}");
    let whose = "12 of the host's 48 sockets in CLOSE_WAIT belong to no service: 12 in the cgroup /commands. They \
                 count for close-wait-leak, but no runbook can free them: look at the processes there by hand";
    assert!(told["lines"].to_string().contains(whose), "{told:#}");
    wait_until_seen("status to say it", SOON, || {
        let said = unwait(&lab, &["status"]).all();
        if said.contains(&format!("NO OWNER: {whose}")) { Ok(()) } else { Err(said) }
    });
    let messages = webhook.requests().into_iter();
    let times = messages.filter(|request| request.body.contains("no service's")).count();
    assert_eq!(times, 1, "once a day");
}
