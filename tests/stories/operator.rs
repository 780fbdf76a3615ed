//! Who did what to the agent, on a real host: each order of a person leaves its row and is told; a configuration that is
//! rejected fails the reload; systemd sees whether the agent watches.

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, PROGRAM, RUNBOOK, Said, UNIT, unwait};
use crate::lab::deadline::wait_until_seen;
use crate::lab::{Lab, Webhook, service};

const SOON: Duration = Duration::from_secs(30);

fn write_story(lab: &Lab, webhook: &Webhook<'_>) -> Etc {
    agent::write_webhook(lab, webhook);
    let etc = Etc::of_the_story().edit(HOST, "stuck, recovered]", "stuck, recovered, operator]");
    etc.write(lab);
    etc
}

fn as_ann(lab: &Lab, arguments: &[&str]) -> Said {
    let argv =
        [&["env", "SUDO_USER=ann", "CREDENTIALS_DIRECTORY=/etc/unwait/credentials", PROGRAM], arguments].concat();
    Said::of(&lab.command(&argv).output().expect("env starts"))
}

fn wait_for_told(webhook: &Webhook<'_>, title: &str) -> Value {
    let is_told = |message: &Value| message["title"].as_str().is_some_and(|told| told.contains(title));
    webhook.wait_for(title, SOON, |request| is_told(&request.json())).json()
}

#[test]
fn what_people_do_is_told_and_listed_with_who_when_on_what_and_why() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    write_story(&lab, &webhook);
    let paused = as_ann(&lab, &["pause", "--why", "release 41"]);
    assert_eq!(paused.code, 0, "{paused:?}");

    let _agent = agent::run(&lab);

    // No agent ran then.
    let told = wait_for_told(&webhook, "paused by ann");
    assert_eq!(told["event"], "operator", "{told:#}");
    assert!(told.to_string().contains("why: release 41"), "{told:#}");
    let refused = as_ann(&lab, &["act", service::UNIT, "--why", "it leaks"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    wait_for_told(&webhook, "`act` by ann was refused");
    assert_eq!(unwait(&lab, &["resume"]).code, 0);
    let silenced = as_ann(&lab, &["silence", service::UNIT, "--for", "1h", "--why", "a test"]);
    assert_eq!(silenced.code, 0, "{silenced:?}");
    assert_eq!(as_ann(&lab, &["resolve", service::UNIT]).code, 1, "nothing is latched");
    wait_for_told(&webhook, "`resolve` by ann was refused");

    let rows = unwait(&lab, &["history", "--audit", "--json"]).json();
    let of = |row: &Value| {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        assert!(row["at"].is_string() && row["detail"].is_string(), "{row:#}");
        format!("{} {} {} {} {}", word("who"), word("verb"), word("service"), word("why"), row["done"])
    };
    let rows: Vec<String> = rows.as_array().expect("rows").iter().map(of).collect();
    let expected = [
        "ann resolve rpc-order.service - false",
        "ann silence rpc-order.service a test true",
        "root resume - - true",
        "ann act rpc-order.service it leaks false",
        "ann pause - release 41 true",
    ];
    assert_eq!(rows, expected);
    let text = unwait(&lab, &["history", service::UNIT, "--audit", "--limit", "2"]);
    assert!(text.out.contains("refused: ") && text.out.contains("no action until "), "{text:?}");
    assert!(!text.out.contains("release 41"), "two rows: {text:?}");
}

fn systemctl(lab: &Lab, verb: &str) -> Output {
    lab.command(&["systemctl", verb, UNIT]).output().expect("systemctl starts")
}

#[test]
fn a_rejected_configuration_fails_the_reload_is_told_and_shown_until_one_is_accepted() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    let etc = write_story(&lab, &webhook);
    agent::start_unit(&lab);
    let state = || (lab.show(UNIT, "ActiveState"), lab.show(UNIT, "SubState"), lab.show(UNIT, "NRestarts"));
    let running = ("active".to_owned(), "running".to_owned(), "0".to_owned());
    assert_eq!((lab.show(UNIT, "Type"), state()), ("notify".into(), running.clone()));
    let pid = lab.show(UNIT, "MainPID");

    etc.clone().edit(RUNBOOK, "settle: 1s", "settl: 1s").write(&lab);
    let reload = systemctl(&lab, "reload");

    assert!(!reload.status.success(), "{reload:?}\n{}", lab.journal(UNIT));
    let log = lab.journal(UNIT);
    assert!(log.contains("settl: 1s") && log.contains("`settle`"), "{log}");
    let status = unwait(&lab, &["status"]);
    assert_eq!(status.code, 1, "{status:?}");
    for words in
        ["CONFIGURATION REJECTED at 20", "isolate-restart-recover.yaml:6:", "the agent works with the one of 20"]
    {
        assert!(status.out.contains(words), "no {words:?} in {status:?}");
    }
    let told = wait_for_told(&webhook, "the new configuration is rejected");
    assert_eq!(told["event"], "stuck", "{told:#}");
    assert!(told.to_string().contains("asked for by root"), "{told:#}");
    assert_eq!((state(), lab.show(UNIT, "MainPID")), (running.clone(), pid.clone()));

    etc.edit(HOST, "interval: 1s", "interval: 2s").write(&lab);
    let reload = systemctl(&lab, "reload");

    assert!(reload.status.success(), "{reload:?}\n{}", lab.journal(UNIT));
    wait_for_told(&webhook, "the new configuration is accepted");
    // What an order leaves is told with the event, or before it.
    let twice = webhook.requests().into_iter().map(|request| request.json()).filter(|told| told["event"] == "operator");
    assert_eq!(twice.map(|told| told["title"].clone()).collect::<Vec<_>>(), Vec::<Value>::new(), "each is told once");
    let status = unwait(&lab, &["status", "--json"]);
    assert_eq!(status.code, 0, "{status:?}");
    assert_eq!(status.json()["agent"]["interval"], "2s", "it is in force once the reload is over");
    assert_eq!((state(), lab.show(UNIT, "MainPID")), (running, pid));
}

#[test]
fn an_agent_that_hangs_is_killed_by_systemd_and_started_again() {
    let lab = Lab::start();
    let webhook = Webhook::start(&lab);
    write_story(&lab, &webhook);
    agent::start_unit_with(&lab, "WatchdogSec=2s\n");
    assert_eq!(lab.show(UNIT, "WatchdogUSec"), "2s");
    let pid = lab.show(UNIT, "MainPID");

    lab.run(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", UNIT]);

    wait_until_seen("another agent", SOON, || {
        let (now, restarts) = (lab.show(UNIT, "MainPID"), lab.show(UNIT, "NRestarts"));
        let log = || lab.journal(UNIT);
        if restarts == "1" && now != pid && now != "0" { Ok(()) } else { Err(format!("{now} {restarts}\n{}", log())) }
    });
}
