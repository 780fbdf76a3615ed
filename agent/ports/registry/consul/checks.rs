//! What Consul's own checks of a service tell.

use std::collections::BTreeMap;

use serde_json::Value;

/// Where the service's health is asked by HTTP. A check's definition is in no answer of Consul's; what it says of its last
/// try is (agent/checks/check.go, CheckHTTP): `HTTP GET http://127.0.0.1:8080/health: 200 OK Output: …`.
pub fn health_url(checks: &BTreeMap<String, Value>, id: &str) -> Option<String> {
    checks.values().filter(|check| check["ServiceID"] == id).find_map(|check| {
        let (url, _) = check["Output"].as_str()?.strip_prefix("HTTP GET ")?.split_once(": ")?;
        Some(url.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_url_of_a_check_is_read_from_what_consul_says_of_its_last_try() {
        let url = Some("http://10.0.0.1:7801/health");
        for (output, of, expected) in [
            ("HTTP GET http://10.0.0.1:7801/health: 200 OK Output: fine: yes", "rpc-order-1", url),
            ("HTTP GET http://10.0.0.1:7801/health: 503 Service Unavailable Output: ", "rpc-order-1", url),
            ("HTTP GET http://10.0.0.1:7801/health: 200 OK Output: ", "another", None),
            ("TCP connect 10.0.0.1:7801: Success", "rpc-order-1", None),
            ("", "rpc-order-1", None),
        ] {
            let check = json!({ "CheckID": "service:rpc-order-1", "ServiceID": of, "Output": output });
            let checks = BTreeMap::from([("service:rpc-order-1".to_owned(), check)]);
            assert_eq!(health_url(&checks, "rpc-order-1").as_deref(), expected, "{output}");
        }
    }
}
