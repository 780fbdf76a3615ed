use std::sync::Arc;

use super::*;
use crate::clock::SystemClock;
use crate::trust;

#[tokio::test]
async fn an_id_that_its_registry_does_not_know_is_found_once_the_registry_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("registry.json");
    trust::write_secret(
        &registry,
        r#"{"instances": [{"id": "a-1", "name": "a", "address": "127.0.0.1:7801", "healthy": true}]}"#,
    );
    let host_file = format!(
        "registries: {{ file: {{ path: {} }} }}\nservices:\n  \
         - {{ service: a.service, register: [{{ registry: file, id: a-1 }}] }}\n  \
         - {{ service: b.service, register: [{{ registry: file, id: b-1 }}] }}\n",
        registry.display()
    );
    std::fs::write(dir.path().join("agent.yaml"), host_file).unwrap();
    let found = async |ask| {
        let host = Host { name: "bj1-03".into(), clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) };
        let checked = check(dir.path(), ask, host, None).await.unwrap();
        assert!(checked.ok, "{}", checked.errors);
        let of_kind = |finding: &Finding| finding.finding == FindingKind::NotRegistered;
        checked.findings.into_iter().filter(of_kind).collect::<Vec<_>>()
    };
    assert_eq!(found(false).await, []);
    let asked = found(true).await;
    let expected = Finding::new(FindingKind::NotRegistered, "b.service", "file: no instance `b-1` is registered there");
    assert_eq!(asked, [expected]);
}
