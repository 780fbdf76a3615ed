//! What is shipped: the example, the policies and the runbooks load together, and the policies' tests say the truth.

use std::time::Duration;

use super::*;
use crate::model::Expected;
use crate::model::Mode;
use crate::model::Truth;

pub(super) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The repository's policies and runbooks beside this host's file, as deploy/README.md says to copy them.
pub(super) fn installed(agent: &str) -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tree = Tree::empty();
    tree.write("agent.yaml", agent);
    for folder in ["policies", "runbooks"] {
        for entry in root.join(folder).read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                tree.write(&format!("{folder}/{}", path.file_name().unwrap().display()), &read(&path));
            }
        }
    }
    tree
}

fn example() -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/etc-unwait/agent.yaml"))
}

#[test]
fn the_example_loads_with_the_shipped_policies_and_runbooks() {
    let config = installed(&example()).config();
    let names: Vec<&str> = config.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["close-wait-climb", "close-wait-leak", "fd-exhaustion", "host-close-wait"]);
    assert!(config.policies.iter().all(|policy| policy.mode == Mode::DryRun), "shipped policies only watch");
    assert!(config.policies.iter().all(|policy| config.tests.contains_key(&policy.name)), "each has tests");
    let runbooks: Vec<&str> = config.runbooks.keys().map(String::as_str).collect();
    let shipped = ["close-sockets", "evidence-only", "isolate-and-call", "isolate-restart-recover", "recycle-workers"];
    assert_eq!(runbooks, [&shipped[..], &["reload", "restart-in-place"]].concat());
    let rungs: Vec<&str> = config.policies[0].rungs().map(|runbook| runbook.name.as_str()).collect();
    assert_eq!(rungs, ["recycle-workers", "isolate-restart-recover", "isolate-and-call"]);
    let order = config.target_for(&name("rpc-order.service"));
    for policy in &config.policies {
        assert_eq!(config.lacks(policy, &order), Vec::<String>::new(), "{}", policy.name);
    }
}

#[test]
fn the_lines_that_the_example_holds_in_comments_load_too() {
    let shown: String = example()
        .lines()
        .map(|line| {
            let indent = line.len() - line.trim_start().len();
            match line[indent..].strip_prefix('#') {
                // `#key` and `#  - item` are keys in waiting; `# A sentence` is prose.
                Some(rest) if !rest.starts_with(' ') || rest.starts_with("  ") => {
                    format!("{}{rest}\n", &line[..indent])
                }
                _ => format!("{line}\n"),
            }
        })
        .collect();
    let config = installed(&shown).config();
    assert_eq!(config.host.notify.len(), 2);
    assert!(matches!(&config.host.registries["consul"], RegistryConfig::Consul { token_file: Some(_), .. }));
}

#[test]
fn the_shipped_policies_tests_hold() {
    let config = installed(&example()).config();
    for policy in &config.policies {
        for test in &config.tests[&policy.name] {
            let (breach, clear) = play(policy, test);
            assert_eq!(breach, test.expect.breach_at, "{}: {}: breach", policy.name, test.name);
            match test.expect.clear_at {
                Expected::Unsaid => {}
                Expected::Never => assert_eq!(clear, None, "{}: {}: clear", policy.name, test.name),
                Expected::At(at) => assert_eq!(clear, Some(at), "{}: {}: clear", policy.name, test.name),
            }
        }
    }
}

/// When the policy first breaches over the test's samples, and when that breach is over: the plainest reading of
/// `for` and `clear`, to hold the shipped files against.
fn play(policy: &Policy, test: &PolicyTest) -> (Option<Duration>, Option<Duration>) {
    let (mut since, mut breach) = (None, None);
    for (at, readings) in test.samples() {
        let holds = policy.when.truth(&readings) == Truth::True;
        if breach.is_some() {
            let over = policy.clear.as_ref().map_or(!holds, |clear| clear.truth(&readings) == Truth::True);
            if over {
                return (breach, Some(at));
            }
        } else if holds {
            let begun = *since.get_or_insert(at);
            if at - begun >= policy.hold {
                breach = Some(at);
            }
        } else {
            since = None;
        }
    }
    (breach, None)
}

#[test]
fn each_example_of_the_page_on_connections_loads() {
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/CONNECTIONS.md"));
    let examples: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 7, "{}", examples.len());
    for example in examples {
        Tree::with(&[("agent.yaml", example)]).load().unwrap_or_else(|wrong| panic!("{example}\n{wrong}"));
    }
}
