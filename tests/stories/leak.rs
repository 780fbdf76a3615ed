//! The story itself: a service leaks, and is seen, drained, restarted, and put back, or not; told either way.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::lab::agent::{self, Etc, POLICY, RUNBOOK, kept, unwait};
use crate::lab::deadline::{holds_for, wait_until, wait_until_seen};
use crate::lab::http::Request;
use crate::lab::stage::{ALL, NAME, OTHERS, OWN, REDIS_NAME, REDIS_PORT};
use crate::lab::{Behaviour, Lab, Stage, service};

const SOON: Duration = Duration::from_secs(30);
/// From the start of the agent to the end of the incident: some four seconds until the breach, and the saga.
const WHOLE: Duration = Duration::from_secs(50);

#[test]
fn a_leaking_service_is_drained_restarted_and_restored() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    Etc::of_the_story().write(&lab);
    stage.service.wait_for_leak();
    says_what_is_so_before(&lab);
    let before = stage.service.invocation_id();
    let leaked = close_wait_rows(&lab.stdout(&["ss", "-tan"]));

    agent::start_unit(&lab);

    stage.wait_for_passing(&OTHERS, SOON);
    assert_eq!(stage.service.invocation_id(), before, "out of traffic before it is restarted");
    let incident = agent::history(&lab)[0].clone();
    let id = incident["incident"].as_str().expect("an id").to_owned();
    let host = lab.stdout(&["hostname"]);
    assert_eq!(stage.consul.maintenance(OWN), Some(format!("unwait: drained incident={id} host={host}")));
    let slot = stage.slots().remove(0);
    assert_eq!((&slot["holder"], &slot["incident"]), (&host.into(), &id.as_str().into()));
    assert!(["changing", "drained"].contains(&slot["phase"].as_str().expect("a word")), "{slot:#}");
    assert_eq!(unwait(&lab, &["status", "--json"]).json()["open"][0]["service"], service::UNIT);

    wait_until("a new lifetime", Duration::from_secs(20), || (stage.service.invocation_id() != before).then_some(()));
    stage.wait_for_passing(&ALL, Duration::from_secs(20));
    assert!(stage.service.answers(), "in traffic, so it answers");
    assert_eq!(stage.consul.maintenance(OWN), None);

    let ended = agent::wait_for_end(&lab, WHOLE);
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"completed".into(), &"recovered".into()), "{ended:#}");
    assert_eq!(agent::history(&lab).len(), 1);
    assert_eq!(stage.service.close_wait(), 0);
    assert_eq!(stage.consul.passing(NAME), ALL);
    wait_until_seen("the slot to be given back", SOON, || match stage.slots() {
        slots if slots.is_empty() => Ok(()),
        slots => Err(format!("{slots:?}")),
    });
    is_in_the_evidence(&lab, &ended, &leaked);
    is_told(&stage, &id);
    says_what_was_after(&lab, &ended);
}

fn says_what_is_so_before(lab: &Lab) {
    let scan = unwait(lab, &["scan", "--json"]);
    assert_eq!(scan.code, 0, "{scan:?}");
    let scan = scan.json();
    let first = &scan["services"][0];
    assert_eq!(first["service"], service::UNIT, "{scan:#}");
    assert_eq!(first["close_wait.outbound"], service::LEAKED);
    for key in ["at", "host", "unattributed"] {
        assert!(scan.get(key).is_some(), "no {key} in {scan:#}");
    }
    assert_eq!(scan["unattributed"], 0, "{scan:#}");
    let table = unwait(lab, &["scan"]);
    assert!(table.out.contains(service::UNIT) && table.out.contains("288"), "{table:?}");

    let plan = unwait(lab, &["plan", service::UNIT, "--json"]);
    assert_eq!(plan.code, 0, "nothing blocks it: {plan:?}");
    let plan = plan.json();
    let steps: Vec<&str> = plan["plan"]["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|planned| {
            planned["step"].as_object().and_then(|step| step.keys().next()).expect("a step has a name").as_str()
        })
        .collect();
    assert_eq!(
        steps,
        ["snapshot", "drain", "wait_drained", "restart", "health_check", "restore", "verify"],
        "{plan:#}"
    );
    assert_eq!(plan["blocked_by"], Value::Array(Vec::new()));

    let explained = unwait(lab, &["explain", service::UNIT, "--json"]).json();
    assert_eq!(explained["one_look"], true, "no agent runs yet");
    assert_eq!(explained["signals"]["close_wait.outbound"], service::LEAKED, "{explained:#}");

    let status = unwait(lab, &["status"]);
    assert_eq!(status.code, 3, "no agent runs yet: {status:?}");
}

fn says_what_was_after(lab: &Lab, ended: &Value) {
    let status = unwait(lab, &["status", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    let status = status.json();
    assert_eq!((&status["open"], &status["latches"]), (&Value::Array(Vec::new()), &Value::Array(Vec::new())));
    assert_eq!(status["agent"]["observe_only"], false);

    let explained = unwait(lab, &["explain", service::UNIT, "--json"]).json();
    assert_eq!(explained["one_look"], false);
    let reasons: Vec<Value> =
        agent::held_by(lab, service::UNIT, "close-wait-leak").iter().map(|held| held["reason"].clone()).collect();
    assert_eq!(reasons, ["cooldown"], "{explained:#}");
    let plan = unwait(lab, &["plan", service::UNIT]);
    assert_eq!(plan.code, 1, "the cooldown blocks it: {plan:?}");

    let id = ended["incident"].as_str().expect("an id");
    let history = unwait(lab, &["history", service::UNIT]);
    assert!(history.out.contains(id) && history.out.contains("recovered"), "{history:?}");
    let shown = unwait(lab, &["show", id]);
    for word in
        ["snapshot", "drain", "wait_drained", "restart", "health_check", "restore", "verify", "completed, recovered"]
    {
        assert!(shown.out.contains(word), "no {word} in {shown:?}");
    }
}

fn is_in_the_evidence(lab: &Lab, ended: &Value, leaked: &BTreeSet<String>) {
    let dir = ended["evidence"].as_str().expect("the evidence has a place");
    let read = |name: &str| {
        std::fs::read_to_string(kept(lab, &format!("{dir}/{name}"))).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let manifest: Value = serde_json::from_str(&read("manifest.json")).expect("JSON");
    assert_eq!(manifest["service"], service::UNIT);
    let files = manifest["files"].as_array().expect("files");
    assert!(files.len() >= 6, "{manifest:#}");
    for file in files {
        let bytes = std::fs::read(kept(lab, &format!("{dir}/{}", file["name"].as_str().expect("a name"))))
            .expect("it is there");
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((&file["sha256"], &file["bytes"]), (&hash.into(), &bytes.len().into()));
    }

    let peers: Value = serde_json::from_str(&read("peers.json")).expect("JSON");
    let top = &peers["peers"][0];
    assert_eq!(top["peer"], format!("127.0.0.1:{REDIS_PORT}"), "{peers:#}");
    assert_eq!((&top["direction"], &top["count"]), (&"outbound".into(), &service::LEAKED.into()));
    assert_eq!(top["names"], serde_json::json!([REDIS_NAME]));

    let holders: Vec<Value> = json_lines(&read("processes.jsonl"));
    assert!(!holders.is_empty());
    for holder in &holders {
        let command = holder["command_line"].to_string();
        assert!(command.contains("php") && command.contains("rpc-order.php"), "{holder:#}");
        assert_eq!(holder["leaked"], 3, "{holder:#}");
        assert!(holder["threads"][0]["wchan"].is_string(), "{holder:#}");
    }
    let sockets = json_lines(&read("sockets.jsonl"));
    assert_eq!(sockets.iter().filter(|socket| socket["direction"] == "outbound").count(), service::LEAKED);

    let table = read("sockets.txt");
    let heading: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(heading.join(" "), "State Recv-Q Send-Q Local Address:Port Peer Address:Port Process");
    assert_eq!(&close_wait_rows(&table), leaked, "as ss printed it");
    assert!(read("summary.txt").contains(REDIS_NAME));
    assert!(read("signals.jsonl").contains("close_wait"));
    assert!(read("journal.txt").contains("listens on port 7801, 96 workers"));
}

/// The connections to Redis in CLOSE_WAIT, as `ss -tan` prints them.
fn close_wait_rows(table: &str) -> BTreeSet<String> {
    let peer = format!(":{REDIS_PORT}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first() == Some(&"CLOSE-WAIT") && words.get(4).is_some_and(|to| to.ends_with(&peer)))
        .map(|words| words.join(" "))
        .collect()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn is_told(stage: &Stage<'_>, incident: &str) {
    stage.webhook.wait_for("the end", SOON, |request| request.json()["event"] == "end");
    let requests = stage.webhook.requests();
    for request in &requests {
        assert!(is_signed(request), "{request:?}");
    }
    let messages: Vec<Value> = requests.iter().map(Request::json).collect();
    let events: Vec<&str> = messages.iter().map(|message| message["event"].as_str().expect("an event")).collect();
    let place = |event: &str| {
        events.iter().position(|found| *found == event).unwrap_or_else(|| panic!("no {event}: {events:?}"))
    };
    assert!(place("breach") < place("start") && place("start") < place("end"), "{events:?}");
    for wrong in ["stuck", "held"] {
        assert!(!events.contains(&wrong), "{messages:#?}");
    }
    let (start, end) = (&messages[place("start")], &messages[place("end")]);
    assert_eq!((&start["incident"], &start["service"]), (&incident.into(), &service::UNIT.into()));
    assert!(start["lines"].to_string().contains("close_wait.aged(2s) > 200: now 288"), "why: {start:#}");
    assert_eq!((&end["outcome"], &end["reason"]), (&"completed".into(), &"recovered".into()));
    assert!(end["labels"].to_string().contains("dc=bj1"));
}

/// As Standard Webhooks say.
fn is_signed(request: &Request) -> bool {
    let (Some(id), Some(timestamp), Some(signature)) =
        (request.header("webhook-id"), request.header("webhook-timestamp"), request.header("webhook-signature"))
    else {
        return false;
    };
    let key = STANDARD.decode(agent::WEBHOOK_KEY).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
    mac.update(format!("{id}.{timestamp}.{}", request.body).as_bytes());
    signature == format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_service_that_leaks_again_at_once_ends_not_helped_in_traffic() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakAlways);
    Etc::of_the_story().write(&lab);
    let before = stage.service.invocation_id();
    let _agent = agent::run(&lab);

    let ended = agent::wait_for_end(&lab, WHOLE);

    assert_eq!((&ended["outcome"], &ended["reason"]), (&"completed".into(), &"not_helped".into()), "{ended:#}");
    let after = stage.service.invocation_id();
    assert_ne!(after, before);
    assert_eq!(unwait(&lab, &["status", "--json"]).json()["latches"], Value::Array(Vec::new()));
    let end = stage.webhook.wait_for("the end", SOON, |request| request.json()["event"] == "end");
    assert_eq!(end.json()["reason"], "not_helped");

    let held = agent::wait_for_held(&lab, "cooldown");
    assert!(held["until"].is_string(), "{held:#}");
    holds_for("in traffic and not restarted again", Duration::from_secs(3), || {
        match (stage.consul.passing(NAME), stage.service.invocation_id()) {
            (passing, lifetime) if passing == ALL && lifetime == after => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    stage.webhook.wait_for("held", SOON, |request| request.json()["reason"] == "cooldown");
    assert_eq!(agent::history(&lab).len(), 1);
}

#[test]
fn a_service_that_never_becomes_healthy_stays_drained_latched_and_told() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakThenSick);
    Etc::of_the_story().edit(RUNBOOK, "timeout: 2m, successes", "timeout: 4s, successes").write(&lab);
    let _agent = agent::run(&lab);

    let ended = agent::wait_for_end(&lab, WHOLE);

    assert_eq!((&ended["outcome"], &ended["reason"]), (&"stuck".into(), &"unhealthy".into()), "{ended:#}");
    let id = ended["incident"].as_str().expect("an id").to_owned();
    let is_drained_and_ours = || {
        assert_eq!(stage.consul.passing(NAME), OTHERS);
        assert!(stage.consul.maintenance(OWN).is_some_and(|reason| reason.contains(&id)));
        assert_eq!(stage.slots()[0]["incident"], id.as_str(), "a stuck host keeps its slot");
        let status = unwait(&lab, &["status", "--json"]);
        assert_eq!(status.code, 1, "{status:?}");
        let latch = status.json()["latches"][0].clone();
        assert_eq!((&latch["service"], &latch["incident"]), (&service::UNIT.into(), &id.as_str().into()));
    };
    is_drained_and_ours();
    let stuck = stage.webhook.wait_for("that a person is needed", SOON, |request| request.json()["event"] == "stuck");
    let told = stuck.json()["lines"].to_string();
    assert!(told.contains("OUT OF TRAFFIC") && told.contains("unwait resolve rpc-order.service --restore"), "{told}");

    let undecided = unwait(&lab, &["resolve", service::UNIT]);
    assert_eq!(undecided.code, 1, "{undecided:?}");
    assert!(undecided.err.contains("--restore") && undecided.err.contains("--leave"), "{undecided:?}");
    is_drained_and_ours();
    let unhealthy = unwait(&lab, &["resolve", service::UNIT, "--restore"]);
    assert_eq!(unhealthy.code, 1, "{unhealthy:?}");
    assert!(unhealthy.err.contains("not healthy"), "{unhealthy:?}");
    is_drained_and_ours();

    stage.service.behave(Behaviour::Sound);
    lab.restart_unit(service::UNIT);
    stage.service.wait_for_pong();
    let restored = unwait(&lab, &["resolve", service::UNIT, "--restore"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    stage.wait_for_passing(&ALL, SOON);
    assert_eq!(stage.consul.maintenance(OWN), None);
    assert_eq!(unwait(&lab, &["status", "--json"]).json()["latches"], Value::Array(Vec::new()));
    assert!(stage.slots().is_empty(), "{:?}", stage.slots());
    let again = unwait(&lab, &["resolve", service::UNIT, "--restore"]);
    assert!(again.code == 1 && again.err.contains("not latched"), "{again:?}");
}

#[test]
fn dry_run_changes_nothing() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    Etc::of_the_story().edit(POLICY, "mode: auto", "mode: dry-run").write(&lab);
    stage.service.wait_for_leak();
    stage.wait_for_passing(&ALL, SOON);
    let (before, files_before) = (stage.picture(), files(&lab));
    let _agent = agent::run(&lab);

    let ended = agent::wait_for_end(&lab, WHOLE);

    stage.picture().assert_as(&before);
    assert_eq!(files(&lab), files_before);
    assert_eq!(stage.service.close_wait(), service::LEAKED);
    assert_eq!((&ended["dry_run"], &ended["outcome"]), (&true.into(), &"completed".into()), "{ended:#}");
    let shown = unwait(&lab, &["show", ended["incident"].as_str().expect("an id")]);
    assert!(shown.out.contains("dry-run: nothing was changed"), "{shown:?}");
    for word in ["drain", "restart", "restore", "verify"] {
        assert!(shown.out.contains(word), "no {word} in {shown:?}");
    }
    let end = stage.webhook.wait_for("the end", SOON, |request| request.json()["event"] == "end").json();
    assert_eq!(end["dry_run"], true);
    assert!(end["title"].as_str().is_some_and(|title| title.contains("dry-run: every step would be taken")), "{end:#}");
    let start = stage.webhook.wait_for("the start", SOON, |request| request.json()["event"] == "start").json();
    assert!(start["title"].as_str().is_some_and(|title| title.contains("would begin")), "{start:#}");
}

/// Every file that the agent could write, but for its own state: its name, size, owner and times of change. What
/// others write all the time (Consul's log, the journal, what systemd notes of itself) is left out.
fn files(lab: &Lab) -> String {
    let dir = lab.dir().to_str().expect("UTF-8");
    let others =
        [format!("{dir}/consul-data"), format!("{dir}/spawned-*"), agent::STATE.into(), "/var/log/journal".into()];
    // -xdev: the machine's own directories that are shown in the lab's /tmp are read-only there.
    let mut argv = vec!["find", "/etc", "/var", "/tmp", "/run/systemd/system", "/dev", dir, "-xdev", "("];
    for (index, other) in others.iter().enumerate() {
        argv.extend(if index == 0 { &["-path"][..] } else { &["-o", "-path"][..] });
        argv.push(other);
    }
    argv.extend([")", "-prune", "-o", "!", "-type", "d", "-printf", "%p %s %u %m %T@ %C@\\n"]);
    lab.stdout(&argv)
}
