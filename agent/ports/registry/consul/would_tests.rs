//! What a dry run says would be sent to Consul is what is sent.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::super::stub;
use super::*;
use crate::model::IncidentId;

#[tokio::test]
async fn the_call_that_is_told_is_the_call_that_is_made() {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&writes);
    let address = stub::serve(move |request| {
        let reason = seen
            .lock()
            .unwrap()
            .last()
            .and_then(|(_, reason): &(String, String)| (!reason.is_empty()).then(|| reason.clone()));
        let check = json!({ "CheckID": "_service_maintenance:a-1", "Notes": reason, "ServiceID": "a-1" });
        let checks = if reason.is_some() { vec![check.clone()] } else { vec![] };
        let entry = json!([{ "Node": { "Node": "n" }, "Service": { "ID": "a-1" }, "Checks": checks }]);
        let answer = match (request.method.as_str(), request.path.as_str()) {
            ("PUT", path) => {
                let call = format!("PUT {path}?enable={}", request.parameter("enable"));
                seen.lock().unwrap().push((call, request.parameter("reason").to_owned()));
                return (200, String::new());
            }
            (_, "/v1/agent/service/a-1") => json!({ "ID": "a-1", "Service": "a" }),
            (_, "/v1/agent/self") => json!({ "Config": { "NodeName": "n" } }),
            (_, "/v1/agent/checks") if reason.is_some() => json!({ "_service_maintenance:a-1": check }),
            (_, "/v1/agent/checks") => json!({}),
            (_, _) if request.parameter("passing") == "1" && reason.is_some() => json!([]),
            (_, _) => entry,
        };
        (200, answer.to_string())
    })
    .await;
    let consul = Consul::new("consul", format!("http://{address}").as_str(), None, "h").unwrap();
    let marker = Marker { incident: IncidentId("i".into()), host: "h".into() };
    let told = |calls: Vec<String>| {
        let url = reqwest::Url::parse(calls[0].strip_prefix("PUT ").unwrap()).unwrap();
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let reason = query.get("reason").cloned().unwrap_or_default();
        (format!("PUT {}?enable={}", url.path(), query["enable"]), reason)
    };

    let drain = told(consul.would(TrafficChange::Drain, "a-1", &marker).await.unwrap());
    let restore = told(consul.would(TrafficChange::Restore, "a-1", &marker).await.unwrap());
    assert!(writes.lock().unwrap().is_empty());
    consul.drain("a-1", &marker).await.unwrap();
    consul.restore("a-1", &marker, &Value::Null).await.unwrap();
    assert_eq!(drain.1, marker.to_string());
    assert_eq!(*writes.lock().unwrap(), [drain, restore]);
}
