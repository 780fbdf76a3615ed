//! A whole review as Markdown and as HTML. The files beside are what is expected; `UNWAIT_GOLDEN=write` writes them anew.

use jiff::Timestamp;

use super::*;
use crate::model::Reason;
use crate::report::{html, markdown};
use crate::store::Recorded;
use crate::view::review::Acted;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn a_case() -> Case {
    Case {
        service: "rpc-web.service".into(),
        began: at(0),
        ended: Some(at(600)),
        worst: Some("close_wait.aged(5m) 288".into()),
        interrupted: false,
        acted: Some(Acted {
            incident: "20270115T080000Z-rpc-web-1f3a".into(),
            at: at(60),
            dry_run: true,
            runbook: Some("isolate-restart-recover".into()),
            outcome: Some("completed".into()),
            reason: Some(Recorded::Known(Reason::Recovered)),
        }),
        became: Some(Became::SocketsGone { of: 200, after: seconds(240) }),
        held: vec![a_hold()],
    }
}

fn a_hold() -> Held {
    let reason = Recorded::Known(Reason::Cooldown);
    Held { guard: "cooldown".into(), reason, breaches: 1, lasted: seconds(5_400), stands: false }
}

fn a_review() -> Review {
    let times = |service: &str, times| ServiceTimes { service: service.into(), times };
    let dry = PolicyReview {
        policy: "close-wait-leak".into(),
        mode: Some(Recorded::Known(Mode::DryRun)),
        since: Some(at(-86_400)),
        known_from: Some(at(-86_400)),
        in_a_line:
            "`auto` would have restarted rpc-web.service 3 times in 7d; 2 of these leaks went away by themselves \
                    within 4m; 1 stands."
                .into(),
        breaches: 4,
        would_act: vec![times("rpc-web.service", 3)],
        healed: Healed {
            by_itself: 2,
            median: Some(seconds(240)),
            longest: Some(seconds(240)),
            stands: 1,
            ..Healed::default()
        },
        would_fail: vec![WouldFail {
            service: "rpc-web.service".into(),
            outcome: "stuck".into(),
            reason: Recorded::Known(Reason::Unhealthy),
            times: 1,
            detail: "GET http://10.0.0.1/: <html>503 | busy</html>".into(),
            incident: "20270116T080000Z-rpc-web-77aa".into(),
        }],
        acted: Vec::new(),
        outcomes: Outcomes::default(),
        out_of_traffic: OutOfTraffic::default(),
        held: vec![a_hold()],
        by_hand: 1,
        cases: vec![
            a_case(),
            Case {
                ended: None,
                interrupted: true,
                became: Some(Became::Stands { remain: Some((150, 200)), since: seconds(7_260) }),
                held: Vec::new(),
                ..a_case()
            },
        ],
    };
    let real = PolicyReview {
        policy: "worker-leak".into(),
        mode: Some(Recorded::Known(Mode::Auto)),
        known_from: None,
        in_a_line: "It restarted rpc-order.service 2 times in 7d: 1 helped, 1 did not help.".into(),
        breaches: 2,
        would_act: Vec::new(),
        healed: Healed::default(),
        would_fail: Vec::new(),
        acted: vec![times("rpc-order.service", 2)],
        outcomes: Outcomes { helped: 1, not_helped: 1, ..Outcomes::default() },
        out_of_traffic: OutOfTraffic {
            times: 2,
            total: seconds(95),
            longest: seconds(50),
            left_out: vec!["rpc-order.service".into()],
        },
        held: Vec::new(),
        by_hand: 0,
        cases: Vec::new(),
        ..dry.clone()
    };
    Review {
        host: "bj1-03".into(),
        from: at(-2 * 86_400),
        to: at(86_400),
        known_from: Some(at(-86_400)),
        policies: vec![dry, real],
        at_once: Some(AtOnce {
            at: at(60),
            services: vec!["rpc-order.service".into(), "rpc-web.service".into()],
            each_up_to: Some(seconds(185)),
        }),
    }
}

fn is_golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("agent/report/golden").join(name);
    if std::env::var_os("UNWAIT_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} is not as it was; UNWAIT_GOLDEN=write writes it anew. It is now:\n{text}");
}

#[test]
fn a_review_is_written_as_markdown_and_as_html() {
    let document = document(&a_review(), 200);
    is_golden("review.md", &markdown::of(&document));
    is_golden("review.html", &html::of(&document));
}

#[test]
fn the_newest_breaches_are_listed_first_and_no_more_than_asked_for() {
    let document = document(&a_review(), 1);
    let cases = document.sections[0].tables.last().unwrap();
    assert_eq!((cases.rows.len(), cases.left_out), (1, 1));
    assert_eq!(cases.rows[0][2], "stands");
}
