//! Prometheus' own check of a metrics text, as `tests/run` unpacked it.

use std::io::Write;
use std::process::{Command, Stdio};

use super::installed::installed;

/// # Panics
/// When promtool finds anything at all against the text.
pub fn check(metrics: &str) {
    let mut promtool = Command::new(installed("prometheus").join("usr/bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is where tests/run puts it");
    promtool.stdin.take().expect("it is piped").write_all(metrics.as_bytes()).expect("promtool reads all of it");
    let output = promtool.wait_with_output().expect("promtool ends");
    let says = [output.stdout, output.stderr].concat();
    let says = String::from_utf8_lossy(&says);
    assert!(output.status.success() && says.is_empty(), "{}: {says}\n{metrics}", output.status);
}
