//! `mode_at_most`: the host's file holds all policies to a mode.

use super::*;
use crate::model::Mode;

const HOST: &str = "interval: 15s\n\nmode_at_most: dry-run\n";

#[test]
fn a_policy_that_asks_for_more_than_the_hosts_file_allows_is_held_to_it() {
    let policy = |name: &str, mode: &str| {
        let text = POLICY.replace("policy: p", &format!("policy: {name}"));
        format!("{text}mode: {mode}\n")
    };
    let files =
        ["observe", "dry-run", "approve", "auto"].map(|mode| (format!("policies/{mode}.yaml"), policy(mode, mode)));
    let mut files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    files.push(("agent.yaml", HOST));
    // Neither somebody who is told nor a fleet is needed where nothing acts.
    let config = Tree::with(&files).config();
    let modes = config.policies.iter().map(|policy| (policy.name.as_str(), policy.mode, policy.mode_says()));
    let held = |mode: &str| format!("{mode}, held to dry-run by mode_at_most in agent.yaml:3");
    assert_eq!(
        modes.collect::<Vec<_>>(),
        [
            ("approve", Mode::DryRun, held("approve")),
            ("auto", Mode::DryRun, held("auto")),
            ("dry-run", Mode::DryRun, "dry-run".into()),
            ("observe", Mode::Observe, "observe".into()),
            ("p", Mode::DryRun, "dry-run".into()),
        ]
    );
    assert_eq!(config.held_modes().map(|(policy, _)| policy).collect::<Vec<_>>(), ["approve", "auto"]);
}

#[test]
fn a_ceiling_above_what_the_policies_ask_for_changes_nothing_and_an_unknown_one_is_refused() {
    let config = Tree::with(&[("agent.yaml", "mode_at_most: auto\n")]).config();
    assert_eq!((config.policies[0].mode, config.held_modes().count()), (Mode::DryRun, 0));
    let wrong = Tree::with(&[("agent.yaml", "mode_at_most: dryrun\n")]).wrong();
    assert!(wrong.len() == 1 && wrong[0].starts_with("agent.yaml:1:15 "), "{wrong:?}");
}
