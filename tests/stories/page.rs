//! The status page and `/api/v1` of the running unit, before and after an incident.

use std::time::Duration;

use serde_json::Value;

use crate::lab::agent::{self, Etc, HOST, POLICY, unwait, wait_for_held};
use crate::lab::deadline::wait_until_seen;
use crate::lab::net::loopback;
use crate::lab::{Behaviour, Lab, Stage, http, service};

const SOON: Duration = Duration::from_secs(20);
const WHOLE: Duration = Duration::from_secs(50);

fn get(lab: &Lab, path: &str) -> http::Answer {
    http::ask(lab.network(), loopback(9817), "GET", path, None, "")
        .unwrap_or_else(|error| panic!("GET {path}: {error}\n{}", lab.journal(agent::UNIT)))
}

fn json(lab: &Lab, path: &str) -> Value {
    let answer = get(lab, path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.body))
}

fn wait_for(lab: &Lab, path: &str, says: &str) -> String {
    wait_until_seen(says, SOON, || match get(lab, path) {
        answer if answer.body.contains(says) => Ok(answer.body),
        answer => Err(format!("{path}: {answer:?}")),
    })
}

fn etc(min_healthy: &str) -> Etc {
    Etc::of_the_story().edit(HOST, "evidence:", "http: {}\nevidence:").edit(POLICY, "min_healthy: 50%", min_healthy)
}

#[test]
fn a_leak_is_followed_on_the_page_from_its_breach_to_the_report() {
    let lab = Lab::start();
    let stage = Stage::set(&lab, Behaviour::LeakUntilRestarted);
    stage.service.wait_for_leak();
    etc("min_healthy: 3").write(&lab);
    agent::start_unit(&lab);
    wait_for_held(&lab, "too_few_healthy");

    let page = wait_for(&lab, "/", "<strong>too_few_healthy</strong>");
    let held = json(&lab, "/api/v1/status")["agent"]["held"][0].clone();
    assert_eq!(held["service"], service::UNIT, "{held:#}");
    for says in ["in breach, held", &format!("unwait explain {}", service::UNIT), "<svg class=\"plot-of\""] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let listed = json(&lab, "/api/v1/services")["services"][0].clone();
    assert_eq!((&listed["state"], &listed["explanation"]["service"]), (&"held".into(), &service::UNIT.into()));
    assert_eq!(listed["explanation"]["signals"]["close_wait"], service::LEAKED);
    let of_service = format!("/services/{}", service::UNIT);
    assert!(get(&lab, &of_service).body.contains("class=\"mark\""), "a plot with its limit");
    let history = json(&lab, &format!("/api/v1{of_service}?range=1h"))["history"].clone();
    let close_wait = history["signals"].as_array().expect("signals").iter().find(|one| one["signal"] == "close_wait");
    let most = close_wait.expect("close_wait")["most"].as_array().expect("values").iter().filter_map(Value::as_f64);
    assert_eq!(most.fold(0.0, f64::max), service::LEAKED as f64, "{history:#}");

    etc("min_healthy: 50%").write(&lab);
    assert_eq!(unwait(&lab, &["reload"]).code, 0);
    let ended = agent::wait_for_end(&lab, WHOLE);
    let id = ended["incident"].as_str().expect("an id");
    assert!(wait_for(&lab, "/", "Newest incidents").contains(&format!("href=\"/incidents/{id}\"")));
    let told = json(&lab, &format!("/api/v1/incidents/{id}"));
    assert_eq!((&told["incident"]["outcome"], &told["steps"][0]["step"]), (&"completed".into(), &"snapshot".into()));
    let report = get(&lab, &format!("/incidents/{id}")).body;
    for says in ["What was done", "Why it leaked", "Peers that closed them", "verify"] {
        assert!(report.contains(says), "{says}: {report}");
    }
    wait_for(&lab, "/slots", "once a minute");
    assert_eq!(get(&lab, "/").status, 200);
}
