//! `/api/v1` and the headers of every answer, over real sockets.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::fixture::{Set, bulletin, service, set};
use crate::execute::fakes;
use crate::model::Reading;
use crate::model::{IncidentId, Readings, Signal};
use crate::store::{Audience, Pause};
use crate::view::bulletin::Bulletin;
use crate::view::incident::{IncidentsShown, ToldIncident};
use crate::view::service::{ServiceShown, ServiceState, ServicesShown};
use crate::view::slots::FleetSlots;
use crate::view::status::Status;

impl Set {
    /// The status, the head and the body.
    pub fn get(&self, path: &str) -> (u16, String, String) {
        let answer = self.ask("GET", path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
        (head[9..12].parse().unwrap(), head.into(), body.into())
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, head, body) = self.get(path);
        assert!(head.contains("content-type: application/json\r\n"), "{path}: {head}");
        (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
    }

    /// Read back by its own type, and written again alike.
    fn shown<T: DeserializeOwned + serde::Serialize>(&self, path: &str) -> T {
        let (status, value) = self.json(path);
        assert_eq!(status, 200, "{path}: {value}");
        let shown: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{path}: {error}: {value}"));
        assert_eq!(serde_json::to_value(&shown).unwrap(), value, "{path}");
        shown
    }

    /// So many incidents, a minute apart, the last one now.
    pub fn begin_incidents(&self, count: u32) -> Vec<IncidentId> {
        let began = |n: u32| {
            let plan = fakes::plan(fakes::steps(fakes::Shape::IsolateRestartRecover, fakes::Fault::Nothing));
            let plan = crate::model::Plan { incident: IncidentId(format!("i-{n:04}")), ..plan };
            self.clock.advance(Duration::from_secs(60));
            let now = crate::clock::Clock::now(self.clock.as_ref());
            self.store.begin_incident(&plan, now, &Audience::default(), &[]).unwrap();
            plan.incident
        };
        (0..count).map(began).collect()
    }
}

#[test]
fn each_path_of_the_api_is_read_back_by_its_own_type() {
    let set = set();
    let ids = set.begin_incidents(51);
    let now = crate::clock::Clock::now(set.clock.as_ref());
    let pause = Pause { who: "ada".into(), why: "a release".into(), since: now, until: None };
    set.store.pause(&pause).unwrap();
    let status: Status = set.shown("/api/v1/status");
    assert_eq!((status.paused.unwrap().who.as_str(), status.open.len()), ("ada", 51));

    let services: ServicesShown = set.shown("/api/v1/services");
    let states: Vec<_> = services.services.iter().map(|one| (one.explanation.service.as_str(), one.state)).collect();
    assert_eq!(states, [("rpc-order.service", ServiceState::Held), ("a\\x2db.service", ServiceState::NoPolicy)]);
    assert_eq!(services.services[0].limits[0].policy, "leak");
    let found: ServicesShown = set.shown("/api/v1/services?q=RPC-&sort=name&page=9");
    assert_eq!((found.count, found.page, found.pages), (1, 1, 1));

    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, 288.0);
    set.store.record(
        now,
        Duration::from_secs(1_000),
        Reading::Known(300.0),
        [(&service("rpc-order.service"), &readings)].into_iter(),
    );
    let one: ServiceShown = set.shown("/api/v1/services/rpc-order.service?range=1h");
    let history = one.history.unwrap();
    let of = history.signals.iter().find(|signal| signal.signal == Signal::CloseWait).unwrap();
    assert_eq!((of.most.len(), of.most.last(), of.most.first()), (60, Some(&Some(288.0)), Some(&None)));
    assert_eq!(one.now.unwrap().state, ServiceState::Held);
    let escaped: ServiceShown = set.shown("/api/v1/services/a%5Cx2db.service");
    assert_eq!(escaped.now.unwrap().explanation.service.as_str(), "a\\x2db.service");

    let newest: IncidentsShown = set.shown("/api/v1/incidents");
    assert_eq!(newest.incidents[0].incident, ids[50].0);
    assert_eq!((newest.incidents.len(), newest.older.as_deref()), (50, Some(ids[1].0.as_str())));
    let older: IncidentsShown = set.shown(&format!("/api/v1/incidents?before={}", newest.older.unwrap()));
    assert_eq!(
        (older.incidents.len(), older.incidents[0].incident.as_str(), older.older),
        (1, ids[0].0.as_str(), None)
    );
    let told: ToldIncident = set.shown(&format!("/api/v1/incidents/{}", ids[3].0));
    assert_eq!(told.plan.incident, ids[3]);

    let slots: FleetSlots = set.shown("/api/v1/slots");
    assert!(slots.unread.unwrap().contains("names no `fleet`"));
}

#[test]
fn an_error_of_the_api_is_json_in_plain_words() {
    let set = set();
    for (path, status, says) in [
        ("/api/v1", 404, "/api/v1 has status, services"),
        ("/api/v2/status", 404, "no such page"),
        ("/api/v1/services/nobody.service", 404, "nothing is known of nobody.service"),
        ("/api/v1/services/x", 400, "expected NAME.service"),
        ("/api/v1/services/..%2F..%2Fetc", 400, "letters, digits"),
        ("/api/v1/incidents/none", 404, "no such incident"),
        ("/api/v1/incidents?service=x", 400, "expected NAME.service"),
    ] {
        let (found, value) = set.json(path);
        assert_eq!((found, &value["status"]), (status, &json!(status)), "{path}: {value}");
        assert!(value["error"].as_str().unwrap().contains(says), "{path}: {value}");
    }
    let post = set.ask("POST", "/api/v1/status");
    assert!(post.starts_with("HTTP/1.1 405 ") && post.ends_with("{\"status\":405,\"error\":\"GET and HEAD only\"}\n"));
    assert!(set.ask("HEAD", "/api/v1/status").ends_with("\r\n\r\n"));
}

#[test]
fn a_loop_that_has_said_nothing_yet_is_shown_as_such() {
    let set = set();
    set.bulletins.send_replace(Bulletin::default().into());
    let services: ServicesShown = set.shown("/api/v1/services");
    assert_eq!((services.count, services.looked), (0, None));
    set.bulletins.send_replace(bulletin().into());
    assert_eq!(set.shown::<ServicesShown>("/api/v1/services").count, 2);
}

#[test]
fn every_answer_forbids_what_a_browser_must_not_do_with_it() {
    let set = set();
    for path in ["/metrics", "/healthz", "/api/v1/status", "/api/v1/none", "/nowhere", "/%"] {
        let (_, head, _) = set.get(path);
        for line in [
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff\r\n",
            "x-frame-options: DENY\r\n",
            "referrer-policy: no-referrer\r\n",
            "cache-control: no-store\r\n",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(line), "{path}: {line}: {head}");
        }
        assert!(!head.contains("access-control-") && !head.contains("unsafe-inline"), "{path}: {head}");
    }
}

#[test]
fn who_calls_it_by_the_name_of_another_site_reads_nothing() {
    let set = set();
    let as_host = |path: &str, host: &str| set.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    for path in ["/api/v1/status", "/metrics", "/healthz", "/nowhere"] {
        for host in ["evil.example", "evil.example:9817", "127.0.0.1.evil.example", "10.1.2.3"] {
            let answer = as_host(path, host);
            assert!(answer.starts_with("HTTP/1.1 421 "), "{path} {host}: {answer}");
            assert!(!answer.contains("rpc-order"), "{path} {host}: {answer}");
        }
        for host in ["localhost", "web-1.example", "127.0.0.1:1", "[::1]"] {
            assert!(!as_host(path, host).starts_with("HTTP/1.1 421 "), "{path} {host}");
        }
    }
    let none = set.say("GET /api/v1/status HTTP/1.1\r\n\r\n");
    assert!(none.starts_with("HTTP/1.1 421 ") || none.starts_with("HTTP/1.1 400 "), "{none}");
}
