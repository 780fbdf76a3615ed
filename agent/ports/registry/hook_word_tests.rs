//! What a backend is like that keeps no marker, and hooks that fail, that are left half-way, or that give no answer.

use std::time::Duration;

use serde_json::Value;

use super::conformance::marker;
use super::hook::{ExecHooks, Hooked};
use super::hook_tests::{NEVER, OFTEN, exec, words};
use super::ledger_registry::Backend;
use super::*;
use crate::model::ExecHook;
use crate::ports::testing_consul::wait_for;

const US: &str = "rpc-order/here";

/// A backend that is one word in a file, and keeps nothing else.
struct Word {
    state: tempfile::TempDir,
}

impl Word {
    fn new() -> Self {
        let word = Self { state: tempfile::tempdir().unwrap() };
        word.write("passing");
        word
    }

    fn write(&self, word: &str) {
        std::fs::write(self.state.path().join("word"), word).unwrap();
    }

    fn read(&self) -> String {
        std::fs::read_to_string(self.state.path().join("word")).unwrap()
    }

    /// `ends` is what the command that isolates does at its end. (A shell, as nobody should: it is short.)
    fn registry(&self, ends: &str, hold_every: Duration) -> Hooked<ExecHooks> {
        let file = self.state.path().join("word").display().to_string();
        let sh = |script: String| words(&["/bin/sh", "-c", &script]);
        let hook = ExecHook {
            isolate: sh(format!("printf drained > {file}; {ends}")),
            restore: sh(format!("printf passing > {file}")),
            observe: sh(format!("echo some noise >&2; printf '{{\"traffic\":\"%s\"}}' $(cat {file})")),
            count: None,
            files: [("WHERE".to_owned(), self.state.path().join("secret"))].into(),
            deadline: Duration::from_secs(5),
            hold_every,
        };
        exec(hook, &self.state)
    }
}

#[tokio::test]
async fn a_backend_that_keeps_no_marker_is_drained_by_what_the_agent_noted() {
    let (word, nothing) = (Word::new(), Value::Null);
    let registry = word.registry("exit 0", NEVER);
    assert!(!registry.counts());
    assert!(matches!(registry.others(US).await, Err(RegistryError::Refused { .. })));
    word.write("drained");
    let theirs = registry.observe(US).await.unwrap().traffic;
    assert!(matches!(theirs, Traffic::Isolated { .. }), "nobody noted it: {theirs:?}");
    assert!(matches!(registry.drain(US, &marker("i")).await, Err(RegistryError::Refused { .. })));
    assert!(matches!(registry.restore(US, &marker("i"), &nothing).await, Ok(Restored::NotOurs(_))));
    word.write("passing");

    registry.drain(US, &marker("i")).await.unwrap();
    word.write("passing");
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::DrainedBy(marker("i")));
    assert!(registry.hold(US, &marker("i")).await.unwrap());
    assert_eq!(word.read(), "drained");
    // A later agent's adapter looks by itself.
    let later = word.registry("exit 0", OFTEN);
    later.markers().await.unwrap();
    word.write("passing");
    wait_for("it to be isolated again", async || word.read() == "drained").await;
    assert_eq!(later.restore(US, &marker("i"), &nothing).await.unwrap(), Restored::Done);
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
}

#[tokio::test]
async fn it_is_put_back_once_our_marker_is_gone_as_well() {
    let word = Word::new();
    let file = |name: &str| word.state.path().join(name).display().to_string();
    let (said, kept, leaves) = (file("word"), file("marker"), file("leaves"));
    let sh = |script: String| words(&["/bin/sh", "-c", &script, "sh", "{marker}"]);
    let hook = ExecHook {
        isolate: sh(format!("printf drained > {said}; printf '%s' \"$1\" > {kept}")),
        restore: sh(format!("printf passing > {said}; test -e {leaves} || : > {kept}")),
        observe: sh(format!("printf '{{\"traffic\":\"%s\",\"marker\":\"%s\"}}' $(cat {said}) \"$(cat {kept})\"")),
        count: None,
        files: [].into(),
        deadline: Duration::from_secs(1),
        hold_every: NEVER,
    };
    std::fs::write(&kept, "").unwrap();
    std::fs::write(&leaves, "").unwrap();
    let registry = exec(hook, &word.state);
    registry.drain(US, &marker("i")).await.unwrap();
    let error = registry.restore(US, &marker("i"), &Value::Null).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("marked as ours still"), "{error}");
    std::fs::remove_file(&leaves).unwrap();
    assert_eq!(registry.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "");
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_restore_does_not_take_the_service_out_again() {
    let word = Word::new();
    let registry = word.registry("exit 0", OFTEN);
    registry.drain(US, &marker("i")).await.unwrap();
    // What the ledger writes beside itself cannot be written.
    let full = word.state.path().join("drains.tmp");
    std::fs::create_dir(&full).unwrap();
    assert_eq!(registry.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
    assert!(registry.markers().await.unwrap().is_empty());
    tokio::time::sleep(10 * OFTEN).await;
    assert_eq!(word.read(), "passing");
    assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing);
    // No drain begins that is not noted.
    assert!(matches!(registry.drain(US, &marker("j")).await, Err(RegistryError::Refused { .. })));
    assert_eq!(word.read(), "passing");
    std::fs::remove_dir(full).unwrap();
    registry.drain(US, &marker("j")).await.unwrap();
}

#[tokio::test]
async fn a_hook_that_fails_half_way_is_undone_and_its_word_says_who_must_look() {
    for (ends, passing, says) in [
        ("exit 1", true, "exit status 1"),
        ("echo; echo no such pool >&2; echo more; exit 75", true, "exit status 75: no such pool"),
        ("cat $WHERE; exit 75", true, "exit status 75: (not shown"),
        ("exit 77", false, "exit status 77"),
        ("echo '{\"error\": \"no such pool\"}'; exit 77", false, "no such pool"),
        ("case \"$WHERE\" in */secret) exit 77 ;; esac; exit 1", false, "exit status 77"),
        ("sleep 60", true, "killed at its deadline"),
    ] {
        let word = Word::new();
        std::fs::write(word.state.path().join("secret"), "token=hush-hush\n").unwrap();
        let registry = word.registry(ends, NEVER);
        let error = registry.drain(US, &marker("i")).await.unwrap_err();
        assert_eq!(error.is_passing(), passing, "{ends}: {error}");
        assert!(error.to_string().contains(says) && !error.to_string().contains("hush"), "{ends}: {error}");
        assert_eq!(word.read(), "drained");
        assert_eq!(registry.markers().await.unwrap().len(), 1);
        assert_eq!(registry.restore(US, &marker("i"), &Value::Null).await.unwrap(), Restored::Done);
        assert_eq!(word.read(), "passing");
        assert!(registry.markers().await.unwrap().is_empty());
    }
}

/// Dropped where the agent is asked to end or the step's deadline passes; forgotten where it is killed, and nobody ends
/// the command.
#[tokio::test]
async fn a_hook_that_is_left_half_way_does_not_isolate_what_was_restored_meanwhile() {
    for forgotten in [false, true] {
        let word = Word::new();
        let begun = word.state.path().join("begun");
        // Here it is done at the end.
        let slow = word.registry(
            &format!(
                "printf passing > {0}/word; echo $$ > {0}/begun; sleep 1; printf drained > {0}/word",
                word.state.path().display()
            ),
            NEVER,
        );
        let ours = marker("i");
        // An agent that is killed takes its lock along, and not the hook that it has started.
        let mut drain = Box::pin(async {
            if !forgotten {
                return slow.drain(US, &ours).await;
            }
            slow.backend().ledger().begin(US, &ours).unwrap();
            slow.backend().take_out(US, &ours).await.map(drop)
        });
        let pid: i32 = tokio::select! {
            drained = &mut drain => panic!("it is slow: {drained:?}"),
            pid = async {
                loop {
                    match std::fs::read_to_string(&begun).unwrap_or_default().trim().parse() {
                        Ok(pid) => break pid,
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
            } => pid,
        };
        if forgotten {
            std::mem::forget(drain);
        } else {
            drop(drain);
        }
        let later = word.registry("exit 0", NEVER);
        assert_eq!(later.restore(US, &ours, &Value::Null).await.unwrap(), Restored::Done);
        let running = || std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|words| !words.is_empty());
        wait_for("the slow hook to be over", async || !running()).await;
        assert_eq!(word.read(), "passing", "forgotten: {forgotten}");
    }
}

/// The incident is over, the hook refuses no more, and nobody has a reason to isolate it.
#[tokio::test]
async fn an_isolation_that_was_refused_is_not_sent_again_once_its_incident_is_over() {
    for restores in [false, true] {
        let word = Word::new();
        let refuses = word.state.path().join("refuses");
        std::fs::write(&refuses, "").unwrap();
        let file = word.state.path().join("word");
        let ends = format!("test ! -e {0} || {{ printf passing > {1}; exit 1; }}", refuses.display(), file.display());
        let registry = word.registry(&ends, OFTEN);
        registry.drain(US, &marker("i")).await.unwrap_err();
        assert_eq!(word.read(), "passing");
        if restores {
            registry.restore(US, &marker("i"), &Value::Null).await.unwrap();
        }
        // The sweep asks for markers, and holds what it is told.
        assert!(registry.markers().await.unwrap().is_empty(), "restores: {restores}");
        assert!(!registry.hold(US, &marker("i")).await.unwrap());
        std::fs::remove_file(&refuses).unwrap();
        tokio::time::sleep(10 * OFTEN).await;
        assert_eq!(word.read(), "passing", "restores: {restores}");
        assert_eq!(registry.observe(US).await.unwrap().traffic, Traffic::Passing, "restores: {restores}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_refused() {
    for (wrong, says) in [
        ("", "no answer"),
        ("unknown", "unknown variant `unknown`"),
        ("passing\",\"more\":\"1", "unknown field `more`"),
        ("isolated", "gives no reason"),
    ] {
        let word = Word::new();
        word.write(wrong);
        let registry = word.registry("exit 0", NEVER);
        let error = registry.drain(US, &marker("i")).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }), "{wrong}: {error}");
        assert!(error.to_string().contains(says), "{wrong}: {error}");
        assert!(registry.markers().await.unwrap().is_empty(), "{wrong}");
    }
    let word = Word::new();
    word.write("absent");
    let gone = word.registry("exit 0", NEVER).observe(US).await.unwrap_err();
    assert!(matches!(gone, RegistryError::NotRegistered { .. }), "{gone}");
    let nobody = word.registry("exit 0", NEVER).observe("rpc-order").await.unwrap_err();
    assert!(matches!(nobody, RegistryError::Refused { .. }), "{nobody}");
}

#[tokio::test]
async fn of_a_python_traceback_the_exception_is_shown() {
    let word = Word::new();
    let trace = "printf 'Traceback (most recent call last):\\n  File \"x\", line 3\\nKeyError: 7\\n' >&2; exit 1";
    let failed = word.registry(trace, NEVER).drain(US, &marker("i")).await.unwrap_err();
    assert!(failed.to_string().ends_with("exit status 1: KeyError: 7"), "{failed}");
}
