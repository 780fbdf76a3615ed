//! A new configuration keeps what it names as the former one did.

use super::testing::wire;
use super::*;
use crate::{config, trust};

#[test]
fn a_reload_keeps_the_adapters_whose_settings_are_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let host_file = |consul: &str| {
        let (registry, token) = (path("registry.json"), path("token"));
        format!(
            "registries: {{ file: {{ path: {} }}, consul: {{ url: \"{consul}\", token_file: {} }} }}\n",
            registry.display(),
            token.display()
        )
    };
    trust::write_secret(&path("registry.json"), r#"{"instances": []}"#);
    trust::write_secret(&path("token"), "one\n");
    let former = wire(dir.path(), &host_file("http://127.0.0.1:1"), "process:x", "snapshot");
    let again = |consul: &str| {
        std::fs::write(path("agent.yaml"), host_file(consul)).unwrap();
        let config = config::load(dir.path()).unwrap_or_else(|wrong| panic!("{wrong}"));
        let later = Wiring::new(config, former.host.clone(), Some(&former)).unwrap();
        let same = |(name, made): (&String, &Made)| {
            Arc::ptr_eq(&made.adapter, &former.made[name].adapter).then(|| name.clone())
        };
        later.made.iter().filter_map(same).collect::<Vec<String>>()
    };
    assert_eq!(again("http://127.0.0.1:1"), ["consul", "file"]);
    assert_eq!(again("http://127.0.0.1:2"), ["file"]);
    // Its file is read again by the adapter itself, once a server refuses what it said before.
    trust::write_secret(&path("token"), "two\n");
    assert_eq!(again("http://127.0.0.1:1"), ["consul", "file"]);
}

#[test]
fn a_clone_is_the_same_wiring_until_one_of_them_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registry.json");
    trust::write_secret(&file, r#"{"instances": []}"#);
    let host_file = format!("registries: {{ file: {{ path: {} }} }}\n", file.display());
    let one = wire(dir.path(), &host_file, "process:x", "snapshot");
    let mut other = one.clone();
    assert!(std::ptr::eq(&*one, &*other), "nothing was copied");
    other.ports.registries.clear();
    assert_eq!((one.ports.registries.len(), other.ports.registries.len()), (1, 0));
}
