//! What a restart came to, by the sockets themselves: wherever they were held, the end says what became of each of them.

use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, POLICY};
use crate::lab::deadline::wait_until_seen;
use crate::lab::{Lab, Webhook};

const SOON: Duration = Duration::from_secs(60);
const HOLDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/holds.py");
const LEAKED: usize = 30;
const RUNBOOK: &str =
    "runbook: restart-in-place\ndescription: Only that.\nsteps:\n  - restart: {}\n  - verify: { soak: 1s }\n";

/// Acts within seconds on whatever leaks, once each.
fn write(lab: &Lab, webhook: &Webhook<'_>) {
    agent::write_webhook(lab, webhook);
    let policy = "policy: close-wait-leak\ndescription: Restarts.\nservices: [\"leak-*.service\"]\nwhen: close_wait > 20\nfor: 1s\n\
         mode: auto\nrunbook: restart-in-place\nlimits: { cooldown: 30m, per_service: 1 per 6h, per_host: 20 per 6h }\n";
    let host = "interval: 1s\ncpu_budget: 100%\nrestart_grace: 0s\nmax_parallel: 4\nevidence: { min_free: 1MiB }\nnotify:\n  - to: \
         { generic: { url_file: ${CREDENTIALS_DIRECTORY}/webhook, key_file: ${CREDENTIALS_DIRECTORY}/webhook-key } }\n";
    Etc::shipped().with(HOST, host).with(POLICY, policy).with("runbooks/restart-in-place.yaml", RUNBOOK).write(lab);
}

#[test]
fn the_end_says_of_each_leaked_socket_whether_it_is_gone_and_who_holds_what_is_left() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    lab.start_unit("dbus.service");
    let unit = |port: u16, place: &str, more: &str| {
        format!("[Service]\nNotifyAccess=all\n{more}ExecStart=/usr/bin/python3 {HOLDS} {port} {LEAKED} {place}\n")
    };
    let units = [
        ("leak-here.service", unit(7501, "here", "")),
        ("leak-stored.service", unit(7502, "fdstore", "FileDescriptorStoreMax=100\n")),
        ("leak-shared.service", unit(7503, "shared", "")),
        ("leak-helper.service", unit(7504, "helper", "")),
        ("leak-ring.service", unit(7505, "ring", "LimitMEMLOCK=infinity\n")),
        ("leak-thread.service", unit(7506, "thread", "")),
        ("leak-apart.service", unit(7507, "here", "PrivateNetwork=yes\n")),
    ];
    for (name, text) in &units {
        lab.add_unit(name, text);
    }
    write(&lab, &webhook);
    units.iter().for_each(|(name, _)| lab.start_unit(name));
    let lifetime = |unit: &str| lab.show(unit, "InvocationID");
    let helper = lifetime("leak-helper.service");
    agent::start_unit(&lab);

    let restarted = ["here", "stored", "shared", "ring", "thread", "apart"].map(|name| format!("leak-{name}.service"));
    let restarted: Vec<&str> = restarted.iter().map(String::as_str).collect();
    let ends = agent::wait_for_ends(&lab, &restarted, SOON, ["reason", "detail"]);
    let says = |name: &str, reason: &str, words: &[&str]| {
        let (ended, detail) = &ends[&format!("leak-{name}.service")];
        assert_eq!(ended, reason, "{name}: {detail}\n{}", lab.journal(agent::UNIT));
        words.iter().for_each(|words| assert!(detail.contains(words), "{name}: {words} in {detail}"));
    };
    // What leaks anew in the next lifetime is no remedy's success, though all that was leaked before is gone.
    for again in ["here", "ring", "thread", "apart"] {
        says(again, "not_helped", &["30 of 30 leaked sockets are gone", "the policy's condition is not over yet"]);
    }
    says("stored", "not_helped", &["30 of 30 leaked sockets remain", "30 held by pid 1 (systemd", "(fd store)"]);
    says("shared", "not_helped", &["30 of 30 leaked sockets remain", "(sleep, ", "helper-7503.scope)"]);

    // Nothing is restarted that would not free them.
    let held = wait_until_seen("the breach to be held", SOON, || {
        let held = agent::held_by(&lab, "leak-helper.service", "close-wait-leak");
        let held: Vec<String> = held.iter().map(Value::to_string).collect();
        let elsewhere = held.iter().find(|held| held.contains("held_elsewhere")).cloned();
        elsewhere.ok_or_else(|| format!("{held:#?}\n{}", lab.journal(agent::UNIT)))
    });
    assert!(held.contains("30 of the service's 30 sockets") && held.contains("helper-7504.scope"), "{held}");
    assert_eq!(lifetime("leak-helper.service"), helper);
}
