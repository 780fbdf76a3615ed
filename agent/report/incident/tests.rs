use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::evidence::peers::Peers;
use crate::evidence::{Facts, Holders, Manifest, SocketLine};
use crate::execute::fakes;
use crate::model::{Direction, IncidentId, Readings, Sample, ServiceName, Signal};
use crate::view::incident::IncidentShown;

const INCIDENT: &str = "20261122T184329Z-rpc-order-1f3a";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_763_836_000 + second).unwrap()
}

fn socket(n: u32) -> SocketLine {
    SocketLine {
        local: format!("10.0.0.1:{}", 1024 + n % 60_000).parse().unwrap(),
        remote: format!("10.0.{}.{}:6379", n % 7, n % 200).parse().unwrap(),
        direction: Direction::Outbound,
        recv_q: 1,
        send_q: 0,
        inode: u64::from(n),
        cookie: u64::from(n),
        uid: 33,
        age_seconds: Some(u64::from(n % 3600)),
        age_is_at_least: n.is_multiple_of(9),
        idle_seconds: Some(f64::from(n % 900) / 10.0),
        pids: vec![n % 96],
    }
}

/// An incident with so many sockets, of hosts and commands that hold what a page must not take for its own.
fn material(sockets: u32, hostile: &str) -> Material {
    let plan = fakes::plan(fakes::steps(fakes::Shape::IsolateRestartRecover, fakes::Fault::Nothing));
    let incident = serde_json::json!({
        "incident": INCIDENT, "service": format!("rpc-order{hostile}.service"), "policy": "leak", "dry_run": false,
        "by_hand": hostile, "began": at(0), "ended": at(90), "changed": true, "outcome": "completed",
        "reason": "recovered", "detail": format!("{sockets} of {sockets} leaked sockets are gone{hostile}"), "evidence": "/e"
    });
    let journal = serde_json::json!([
        {"at": at(1), "event": {"event": "done", "step": 0, "detail": format!("kept{hostile}")}},
    ]);
    let shown = IncidentShown {
        incident: serde_json::from_value(incident).unwrap(),
        plan,
        journal: serde_json::from_value(journal).unwrap(),
        audit: Vec::new(),
    };
    let peers = serde_json::json!({"sockets": sockets, "not_listed": 0, "not_listed_sockets": 0, "peers":
        (0..1000).map(|n| serde_json::json!({"direction": "outbound", "peer": format!("10.0.0.{n}:6379"),
            "names": [format!("redis{hostile}")], "count": 3, "unread": 0, "oldest_seconds": 90, "since": null})).collect::<Vec<_>>()});
    let process = |pid| Facts {
        pid,
        leaked: 3,
        command_line: Some(vec![format!("php-fpm: pool www{hostile}"); 20]),
        ..Facts::default()
    };
    let sample = |second| {
        let mut readings = Readings::default();
        readings.set(Signal::CloseWait, f64::from(second as u32 % 400));
        readings.set(Signal::CloseWaitAged(Duration::from_secs(60)), 3.0);
        Sample::moment(at(second), readings)
    };
    Material {
        shown,
        host: Some(format!("web-1{hostile}")),
        evidence: Ok(Evidence {
            manifest: Manifest {
                format: 1,
                unwait: "0.1.0".into(),
                incident: IncidentId(INCIDENT.into()),
                service: ServiceName::parse("rpc-order.service").unwrap(),
                host: "web-1".into(),
                at: at(1),
                files: Vec::new(),
                missing: Vec::new(),
            },
            peers: serde_json::from_value::<Peers>(peers).unwrap(),
            sockets: (0..sockets).map(socket).collect(),
            processes: (0..32).map(process).collect(),
            ticks: vec![(at(-20), 390.0), (at(-10), 400.0)],
            holders: Holders { processes: (0..96).map(|pid| (pid, 104)).collect(), ..Holders::default() },
        }),
        samples: (-3600..3600).map(sample).collect(),
    }
}

#[test]
fn a_page_of_ten_thousand_sockets_is_small_and_fetches_nothing() {
    let page = super::page(&material(10_000, ""));
    assert!(page.len() < 150_000, "{} bytes", page.len());
    for fetches in ["<script", "src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!page.contains(fetches), "{fetches}");
    }
    for says in
        ["rpc-order.service on web-1", "10000 of 10000 leaked sockets are gone", "Processes that held them: 96", "<svg"]
    {
        assert!(page.contains(says), "{says}: {page}");
    }
}

#[test]
fn what_others_named_is_shown_and_never_becomes_part_of_the_page() {
    let page = super::page(&material(9, "</title><b onclick=\"x\">&"));
    assert!(!page.contains("<b onclick"), "{page}");
    assert!(page.contains("&lt;b onclick=&quot;x&quot;&gt;&amp;"), "{page}");
}

#[test]
fn an_incident_without_evidence_or_history_has_a_page_that_says_so() {
    let bare = Material { evidence: Err("no evidence was kept".into()), samples: Vec::new(), ..material(0, "") };
    let page = super::page(&bare);
    assert!(page.contains("Without evidence there is no diagnosis: no evidence was kept."), "{page}");
    assert!(page.contains("Nothing of this time is in the history."), "{page}");
    let empty = super::page(&material(0, ""));
    assert!(empty.contains("Nothing in the evidence speaks for one cause."), "{empty}");
}
