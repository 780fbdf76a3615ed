//! A wiring over a host's file that a test has written.

use std::path::Path;
use std::sync::Arc;

use super::{Host, Wiring};
use crate::clock::SystemClock;
use crate::config;

/// With a policy for this service that nothing breaches, and its runbook.
pub fn wire(dir: &Path, agent: &str, service: &str, steps: &str) -> Wiring {
    let policy = format!("policy: p\nservices: [{service}]\nwhen: close_wait > 1000000\nfor: 1m\nrunbook: r\n");
    let runbook = format!("runbook: r\nsteps: [{steps}]\n");
    for (folder, file, text) in [("policies", "p.yaml", policy), ("runbooks", "r.yaml", runbook)] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
        std::fs::write(dir.join(folder).join(file), text).unwrap();
    }
    std::fs::write(dir.join("agent.yaml"), agent).unwrap();
    let config = config::load(dir).unwrap_or_else(|wrong| panic!("{wrong}"));
    let host = Host { name: "bj1-03".into(), clock: Arc::new(SystemClock), on_message: Arc::new(|_| {}) };
    Wiring::new(config, host, None).unwrap()
}
