//! The gentler steps in runbooks: where they may stand, what they may say, and what is said otherwise.

use super::diagnostics::expect;
use super::*;

#[test]
fn a_wrong_gentler_runbook_says_all_of_it() {
    for (steps, says) in [
        ("[reload, reload]", vec!["2:17 `reload` is listed a second time: a runbook has one at most"]),
        (
            "[close_sockets, snapshot]",
            vec!["2:24 evidence is taken before the first change: move `snapshot` before `close_sockets`"],
        ),
        (
            "[recycle_workers]",
            vec!["2:9 the service's health afterwards would be unknown: add a `health_check` behind this step"],
        ),
        (
            "[restart, drain, restore]",
            vec![
                "2:25 an unhealthy service could be put into traffic: between `restart` and `restore`, add a `health_check`",
            ],
        ),
        (
            "[drain, reload, restore]",
            vec![
                "2:24 an unhealthy service could be put into traffic: between `reload` and `restore`, add a `health_check`",
            ],
        ),
        (
            "[drain, recycle_workers, restore]",
            vec![
                "2:33 an unhealthy service could be put into traffic: between `recycle_workers` and `restore`, add a `health_check`",
            ],
        ),
        (
            "[reload, {pause: {for: 30m}}, restart]",
            vec![
                "2:38 `reload` cannot be undone, and guards are not checked after it, so `restart` must not follow: \
                 write a runbook for each, and list both under `escalate` of the policy",
            ],
        ),
        (
            "[{run: {argv: [/bin/true]}}, {run: {argv: [/bin/true]}}, close_sockets]",
            vec![
                "2:65 a `run` with `effect: pivot` (the default of `effect`) cannot be undone, and guards are not \
                 checked after it, so `close_sockets` must not follow: write a runbook for each, and list both under \
                 `escalate` of the policy",
            ],
        ),
        (
            "[{verify: {soak: 5m, expect: [close_wait < 9, close_wait.growth(10m) < 1, close_wait.growth(5m) < 1]}}]",
            vec![
                "2:54 close_wait.growth(10m) needs 10m of looks after the restart, and the soak of 5m ends earlier: \
                 set `soak: 10m`, or expect another signal",
            ],
        ),
        (
            "[drain, call, verify]",
            vec!["2:22 no step runs after a `call`, which hands over to a person: `call` comes last"],
        ),
        (
            "[drain, restore, call]",
            vec![
                "2:25 `call` must not follow `restore`, since the service is back in traffic: only verify, run, notify \
                 and pause may",
            ],
        ),
        (
            "[{recycle_workers: {floor: 0%, signal: KILL, wait: 5s, kill_after: 5s}}, pause]",
            vec![
                "2:35 expected a count of workers such as 4, or a percentage such as 50%, above 0, found `0%`",
                "2:47 `KILL` is no signal that can be sent: the signals here are `TERM`, `QUIT`, `INT`, `HUP`, `USR1`, \
                 `USR2`",
                "2:75 `kill_after` must be shorter than `wait`, or the step ends before it",
                "2:81 `for` is missing: add `for: 30s`",
            ],
        ),
        (
            "[{close_sockets: {at_most: 0}}, {drain: {}}, {wait_drained: {idle_for: 0s}}, health_check, restore]",
            vec![
                "2:35 `at_most` must be from 1 to 1000000, found 0",
                "2:79 `idle_for` must be from 1s to 1h, found 0s",
            ],
        ),
    ] {
        expect("runbooks/r.yaml", &format!("runbook: r\nsteps: {steps}\n"), &says);
    }
}

#[test]
fn a_rung_that_calls_a_person_needs_no_verify_and_comes_last() {
    let call = "runbook: call\nsteps: [drain, call]\n";
    let restart = "runbook: restart\nsteps: [restart, {verify: {expect: [close_wait < 1]}}]\n";
    let policy = "policy: p\nservices: [a.service]\nwhen: close_wait > 1\nfor: 1m\nescalate: [FIRST, SECOND]\n";
    let written = |first: &str, second: &str| {
        let policy = policy.replace("FIRST", first).replace("SECOND", second);
        let files = [("runbooks/c.yaml", call), ("runbooks/r.yaml", restart), ("policies/p.yaml", policy.as_str())];
        Tree::with(&files)
    };
    written("restart", "call").config();
    assert_eq!(
        written("call", "restart").wrong(),
        ["policies/p.yaml:5:12 this runbook calls a person and no further one follows: list it last"]
    );
}
