//! The commands that the status page has ready: each is one of ours, and asks for what it says.

use clap::Parser;
use jiff::Timestamp;
use serde_json::json;

use super::Cli;
use crate::model::Reason;
use crate::view::status::Status;
use crate::view::wants::{command_for, word};

/// A name as systemd escapes it.
const SERVICE: &str = "a\\x2db@1.service";

/// One of everything that can want a person.
fn status() -> Status {
    let at = Timestamp::from_second(1_800_000_000).unwrap();
    let approval = |id: &str, state: &str| {
        json!({
            "id": id, "policy": "leak", "service": SERVICE, "runbook": "r", "hash": "h", "created": at, "expires": at,
            "state": state, "who": "ada", "why": null, "decided": null,
        })
    };
    let status = json!({
        "agent": null, "store_unread": "the disk hangs",
        "paused": {"who": "ada", "why": "w", "since": at, "until": null},
        "silences": [
            {"service": SERVICE, "who": "ada", "why": "w", "since": at, "until": at},
            {"service": null, "who": "ada", "why": "w", "since": at, "until": at},
        ],
        "approvals": [approval("a1", "pending"), approval("a2", "approved")],
        "breakers": [{"policy": "leak", "service": SERVICE, "runbook": "r", "incident": "i1", "since": at}],
        "latches": [
            {"service": SERVICE, "incident": "i2", "reason": "unhealthy", "detail": "d", "since": at, "orphan": null},
        ],
        "open": [{
            "incident": "i3", "service": SERVICE, "policy": "leak", "runbook": "r", "step": "drain", "dry_run": false,
            "waits_for": "consul",
        }],
        "unreturned_slots": [{"incident": "i4", "service": "the shop", "error": "e", "since": at}],
        "undelivered": [{"destination": "slack", "title": "t", "attempts": 3, "error": "500"}],
    });
    serde_json::from_value(status).unwrap()
}

/// As a shell splits what needs no more than quotes.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (place, part) in command.split('\'').enumerate() {
        match place % 2 {
            1 => words.last_mut().unwrap().push_str(part),
            _ => {
                let mut parts = part.split(' ');
                words.last_mut().unwrap().push_str(parts.next().unwrap());
                words.extend(parts.map(String::from));
            }
        }
    }
    words
}

#[test]
fn what_wants_a_person_is_listed_by_urgency_with_commands_that_are_ours() {
    let wants = status().wants();
    let listed: Vec<(&str, bool, String)> =
        wants.iter().map(|want| (want.what, want.is_urgent, want.commands.join("; "))).collect();
    let expected = [
        ("state unreadable", true, "dmesg --level err,warn"),
        ("stuck", true, r"unwait resolve 'a\x2db@1.service' --restore; unwait resolve 'a\x2db@1.service' --leave"),
        ("to be approved", true, r"unwait plan 'a\x2db@1.service' --policy leak; unwait approve a1; unwait deny a1"),
        ("breaker open", true, r"unwait rearm leak --service 'a\x2db@1.service'"),
        ("incident waits", true, "unwait show i3"),
        ("slot not given back", true, "unwait slot --service 'the shop'"),
        ("undelivered", true, "unwait notify test"),
        ("approved, begins soon", false, "unwait deny a2"),
        ("paused", false, "unwait resume"),
        ("silenced", false, r"unwait silence 'a\x2db@1.service' --end"),
        ("silenced", false, "unwait silence --host --end"),
    ];
    assert_eq!(listed, expected.map(|(what, urgent, commands)| (what, urgent, commands.to_owned())));
    use Reason::{BreakerOpen, DryRun, Latched, NeedsApproval, Paused, TooFewHealthy};
    let reasons = [BreakerOpen, DryRun, Latched, NeedsApproval, Paused, TooFewHealthy];
    let of_reasons = reasons.into_iter().map(|reason| command_for(reason, SERVICE, "leak"));
    let all = wants.into_iter().flat_map(|want| want.commands).chain(of_reasons);
    for command in all.filter(|command| command.starts_with("unwait ")) {
        let parsed = Cli::try_parse_from(words(&command));
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}

#[test]
fn a_word_is_one_word_to_a_shell() {
    for (text, is) in [("rpc-order.service", "rpc-order.service"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'")]
    {
        assert_eq!(word(text), is);
    }
}
