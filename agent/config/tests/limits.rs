//! What the interval of the host's file leaves no policy to ask for, and what a socket's path leaves of the state directory's.

use super::*;

#[test]
fn a_window_that_the_interval_leaves_unknown_for_ever_is_refused() {
    let policy = |when: &str| POLICY.replace("close_wait > 5", when);
    let growth = "`close_wait.growth(59s)` would never be known: a window holds at least four intervals, which are 1m at \
                  the `interval: 15s` of agent.yaml";
    let forecast =
        "`fd.exhausted_in` would never be known at the `interval: 1m1s` of agent.yaml: it needs one of 1m at most";
    for (interval, when, clear, wrong) in [
        ("15s", "close_wait.growth(1m) > 5", "close_wait < 1", vec![]),
        ("15s", "close_wait.growth(59s) > 5", "close_wait < 1", vec![format!("policies/p.yaml:3:7 {growth}")]),
        (
            "15s",
            "{ any: [close_wait > 1, { all: [close_wait.growth(59s) > 5] }] }",
            "close_wait.growth(59s) < 1",
            vec![format!("policies/p.yaml:3:39 {growth}"), format!("policies/p.yaml:6:8 {growth}")],
        ),
        ("1m", "fd.exhausted_in < 30m", "close_wait < 1", vec![]),
        ("61s", "fd.exhausted_in < 30m", "close_wait < 1", vec![format!("policies/p.yaml:3:7 {forecast}")]),
    ] {
        let policy = format!("{}clear: {clear}\n", policy(when));
        let tree = Tree::with(&[("agent.yaml", &format!("interval: {interval}\n")), ("policies/p.yaml", &policy)]);
        match wrong.is_empty() {
            true => _ = tree.config(),
            false => assert_eq!(tree.wrong(), wrong, "{when}"),
        }
    }
}

#[test]
fn a_state_directory_has_room_for_a_sockets_path() {
    let host = |length: usize| format!("state: /{}\n", "s".repeat(length - 1));
    Tree::with(&[("agent.yaml", &host(94))]).config();
    assert_eq!(
        Tree::with(&[("agent.yaml", &host(95))]).wrong(),
        [
            "agent.yaml:1:8 the path has 95 bytes, and at most 94 are allowed: the control socket lies in this directory, \
          and a socket's path is limited"
        ]
    );
}
