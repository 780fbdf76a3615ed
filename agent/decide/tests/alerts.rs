//! While chosen alerts fire, or nobody knows whether they do.

use super::scenery::scenery;
use crate::decide::guards::Guard;
use crate::model::Reason;
use crate::model::alerts::{AlertSelector, FiringAlert};

#[test]
fn alerts_that_fire_refuse_and_so_does_an_answer_that_is_missing() {
    let mut scenery = scenery();
    let alerts = scenery.alerts.clone();
    let alert = |name: &str| FiringAlert([("alertname".into(), name.into()), ("team".into(), "web".into())].into());
    *alerts.0.lock().unwrap() = Ok(vec![alert("Down")]);
    scenery.allows();
    scenery.plan.guards.alerts = vec![AlertSelector::parse(r#"team="web""#).unwrap()];
    let refusal = scenery.refuses(Guard::Alerts, Reason::AlertsFiring);
    assert_eq!(refusal.detail, "firing: Down (team=web)");
    *alerts.0.lock().unwrap() = Ok(["E", "D", "C", "B", "A"].map(alert).into());
    let refusal = scenery.refuses(Guard::Alerts, Reason::AlertsFiring);
    assert_eq!(refusal.detail, "firing: A (team=web), B (team=web), C (team=web) and 2 more");
    *alerts.0.lock().unwrap() = Err("prometheus: GET query: no answer".into());
    scenery.refuses(Guard::Alerts, Reason::GuardFailed);
    *alerts.0.lock().unwrap() = Ok(vec![]);
    scenery.allows();
    scenery.own_saga = true;
    *alerts.0.lock().unwrap() = Ok(vec![alert("Down")]);
    scenery.refuses(Guard::Alerts, Reason::AlertsFiring);
    scenery.gate.ports.alerts = None;
    scenery.refuses(Guard::Alerts, Reason::GuardFailed);
}
