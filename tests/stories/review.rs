//! Before anybody says `auto`: a host that is held to dry-run says what it would have done, what healed by itself, and what was
//! held.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::lab::deadline::wait_until_seen;
use crate::lab::quick::{Quick, SOON};
use crate::lab::{Lab, service};

const HEALS: &str = "heals.service";
const COUNT: usize = 120;

const POLICY: &str = "\
policy: heals
services: [heals.service]
when: close_wait > 100
for: 1s
mode: auto
runbook: in-place
guards: { fleet_slots: none }
";
const RUNBOOK: &str = "\
runbook: in-place
steps:
  - restart: {}
  - verify: { soak: 1s, expect: [close_wait < 20] }
";

/// A service that will heal, with a policy of its own, beside the one that leaks until it is restarted; and a host that lets
/// nobody act.
fn stage(lab: &Lab) -> Quick<'_> {
    let stage = Quick::set(lab);
    stage.edit("agent.yaml", "interval: 1s", "mode_at_most: dry-run\ninterval: 1s");
    for (file, text) in [("policies/heals.yaml", POLICY), ("runbooks/in-place.yaml", RUNBOOK)] {
        let path = stage.etc().join(file);
        fs::write(&path, text).expect("the lab's directory is writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/heals.py");
    let start = format!("[Service]\nExecStart=/usr/bin/python3 {script} {} {COUNT}\n", lab.dir().display());
    lab.add_unit(HEALS, &start);
    lab.start_unit(HEALS);
    stage
}

fn policy(review: &Value, name: &str) -> Value {
    let policies = review["policies"].as_array().expect("a list of policies");
    policies.iter().find(|policy| policy["policy"] == name).cloned().unwrap_or_default()
}

/// Waits until the review of a policy is so.
fn wait_for(stage: &Quick<'_>, name: &str, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    wait_until_seen(what, SOON, || match policy(&stage.ask(&["review", "--since", "1h"]), name) {
        found if fits(&found) => Ok(found),
        other => Err(format!("{other:#}")),
    })
}

#[test]
fn a_dry_run_tells_what_healed_by_itself_and_what_a_guard_held() {
    let lab = Lab::start();
    let stage = stage(&lab);
    let agent = stage.run(None);
    wait_until_seen("the agent", SOON, || {
        let silence = ["silence", service::UNIT, "--for", "1h", "--why", "a migration"];
        let silenced = stage.unwait(&silence);
        if silenced.status.success() { Ok(()) } else { Err(format!("{silenced:?}")) }
    });

    // One would have been restarted, and heals.
    wait_for(&stage, "heals", "what it would have done", |policy| policy["would_act"][0]["service"] == HEALS);
    fs::write(lab.dir().join("heal"), "").expect("the lab's directory is writable");
    let healed = wait_for(&stage, "heals", "the leak to heal", |policy| policy["healed"]["by_itself"] == 1);
    let says = healed["in_a_line"].as_str().unwrap_or_default();
    assert!(
        says.starts_with("`auto` would have restarted heals.service once in 1h; this leak went away by itself within "),
        "{says}"
    );
    wait_for(&stage, "heals", "each of its sockets to be gone", |policy| {
        let became = &policy["cases"][0]["became"];
        became["became"] == "sockets_gone" && became["of"] == COUNT
    });

    // The other one is held.
    let held = wait_for(&stage, "leak", "what a guard held", |policy| {
        policy["held"].as_array().is_some_and(|held| held.iter().any(|held| held["guard"] == "silence"))
    });
    assert_eq!(held["acted"], serde_json::json!([]), "{held:#}");

    // A person may not act either, and everybody says why.
    let ceiling = "auto, held to dry-run by mode_at_most in agent.yaml:1";
    let said = |arguments: &[&str]| {
        let output = stage.unwait(arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    for verb in [&["explain", HEALS][..], &["plan", HEALS], &["status"], &["check"]] {
        let (_, text) = said(verb);
        assert!(text.contains(ceiling), "{verb:?}: {text}");
    }
    let (code, text) = said(&["act", HEALS]);
    assert!(code == Some(1) && text.contains("`mode_at_most: dry-run` in agent.yaml:1 lets nobody act"), "{text}");
    assert_eq!((stage.starts(), lab.show(HEALS, "NRestarts").as_str()), (1, "0"));

    // What was measured is there for other policies to be tried on.
    let replayed = stage.ask(&["replay", HEALS]);
    assert_eq!((&replayed[0]["policy"], &replayed[0]["not_recorded"]), (&"heals".into(), &serde_json::json!([])));

    // The same for people, also where no agent runs any more.
    drop(agent);
    let (code, table) = said(&["review", "--policy", "heals"]);
    assert!(code == Some(0) && table.contains("went away by itself") && table.contains(HEALS), "{table}");
    let (_, markdown) = said(&["review", "--format", "markdown"]);
    assert!(markdown.contains("## heals (dry-run since "), "{markdown}");
    let (_, html) = said(&["review", "--format", "html"]);
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains(HEALS) && !html.contains("<script"), "{html}");
    let (code, nobody) = said(&["review", "--policy", "nobody"]);
    assert!(code == Some(1) && nobody.contains("no policy `nobody` is in force"), "{nobody}");
}
