//! A network namespace inside a lab, as `ip netns` makes it, and units that leak in it.
//!
//! A veth pair leads out of it: its near end is gone as soon as the namespace is, so that one which somebody still
//! holds is seen to live on.

use std::time::Duration;

use super::Lab;
use super::deadline::wait_until_seen;

const LEAKS_WITHIN: Duration = Duration::from_secs(10);
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// How many sockets a unit leaks.
#[derive(Clone, Copy)]
pub struct Leak {
    pub inbound: usize,
    pub outbound: usize,
}

/// The namespace.
pub struct Room<'lab> {
    lab: &'lab Lab,
    name: &'static str,
}

impl<'lab> Room<'lab> {
    pub fn add(lab: &'lab Lab, name: &'static str) -> Self {
        lab.run(&["ip", "netns", "add", name]);
        lab.run(&["ip", "-n", name, "link", "set", "lo", "up"]);
        lab.run(&["ip", "link", "add", name, "type", "veth", "peer", "name", "out", "netns", name]);
        Self { lab, name }
    }

    /// Starts a unit that leaks inside it, and returns when it has leaked all.
    pub fn start_leaky(&self, unit: &str, port: u16, leak: Leak) {
        start(self.lab, unit, port, leak, &format!("NetworkNamespacePath=/run/netns/{}\n", self.name));
    }

    /// What `ss -tan` prints inside it.
    pub fn ss(&self) -> String {
        self.lab.stdout(&["ip", "netns", "exec", self.name, "ss", "-tan"])
    }

    /// Takes its name and mount away; it lives on as long as somebody is in it, or holds it.
    pub fn delete(&self) {
        self.lab.run(&["ip", "netns", "delete", self.name]);
    }

    pub fn lives(&self) -> bool {
        self.lab.stdout(&["ip", "-brief", "link"]).lines().any(|line| line.starts_with(&format!("{}@", self.name)))
    }

    pub fn wait_until_gone(&self) {
        wait_until_seen(&format!("the end of the namespace {}", self.name), GONE_WITHIN, || match self.lives() {
            true => Err("its veth is still there"),
            false => Ok(()),
        });
    }
}

/// Starts a unit that leaks in the lab's own network.
pub fn start_leaky_at_home(lab: &Lab, unit: &str, port: u16, leak: Leak) {
    start(lab, unit, port, leak, "");
}

fn start(lab: &Lab, unit: &str, port: u16, leak: Leak, namespace: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/leaky.php");
    let Leak { inbound, outbound } = leak;
    lab.add_unit(unit, &format!("[Service]\nExecStart=/usr/bin/php {script} {port} {inbound} {outbound}\n{namespace}"));
    lab.start_unit(unit);
    let told = format!("leaks {}", inbound + outbound);
    wait_until_seen(&format!("{unit} to leak"), LEAKS_WITHIN, || match lab.journal(unit) {
        journal if journal.contains(&told) => Ok(()),
        journal => Err(journal),
    });
}
