//! What a policy says of its guards.

use std::time::Duration;

use super::diagnostics::expect;
use super::*;
use crate::model::policy::VetoCommand;

#[test]
fn calm_and_veto_are_read_with_their_defaults() {
    let guards = |guards: &str| {
        let config = Tree::with(&[("policies/p.yaml", &format!("{POLICY}guards: {guards}\n"))]).config();
        config.policies[0].guards.clone()
    };
    assert_eq!((guards("{}").calm, guards("{}").veto), (None, None));
    assert_eq!(guards("{ calm: 10m }").calm, Some(Duration::from_secs(600)));
    let argv = vec!["/usr/local/bin/may-act".into(), "trade".into()];
    let veto = VetoCommand { argv, deadline: Duration::from_secs(10) };
    assert_eq!(guards("{ veto: { exec: [/usr/local/bin/may-act, trade] } }").veto, Some(veto));
}

#[test]
fn guards_that_cannot_be_used_are_refused_with_their_place() {
    for (guards, says) in [
        (
            "{ calm: 10s, veto: { exec: [may-act], deadline: 2m } }",
            vec![
                "6:17 `calm` must be from 1m to 1d, found 10s",
                "6:37 expected the full path of a program, such as /usr/local/bin/may-act",
                "6:57 `deadline` must be from 1s to 1m, found 2m",
            ],
        ),
        ("{ veto: {} }", vec!["6:17 `exec` is missing: add `exec: [/usr/local/bin/may-act]`"]),
    ] {
        expect("policies/p.yaml", &format!("{POLICY}guards: {guards}\n"), &says);
    }
}
