//! Counts of sockets in CLOSE_WAIT inside the lab, as a person would count them: by `ss`.

use super::Lab;

/// All of the lab's sockets in CLOSE_WAIT.
pub fn close_wait_count(lab: &Lab) -> usize {
    close_wait_lines(lab).len()
}

/// Those in CLOSE_WAIT whose socket belongs to the cgroup of `unit`.
pub fn close_wait_of(lab: &Lab, unit: &str) -> usize {
    let cgroup = format!("cgroup:/system.slice/{unit}");
    close_wait_lines(lab).iter().filter(|line| line.split_whitespace().any(|word| word == cgroup)).count()
}

fn close_wait_lines(lab: &Lab) -> Vec<String> {
    let listing = lab.stdout(&["ss", "--tcp", "--all", "--numeric", "--no-header", "--cgroup", "state", "close-wait"]);
    listing.lines().map(str::to_owned).collect()
}
