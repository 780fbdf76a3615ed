//! Hooks that are commands: an argv each, never a shell's line.
//!
//! `isolate` and `restore` are run apart from the agent, as a `run` step is; `observe` and `count` are its children. Of an
//! instance one change runs at a time: what a former one left running, where the one who waited is gone, is ended first. A
//! command ends with 0 where it did what it was asked, with 77 (`EX_NOPERM`) where a person must look, and with anything
//! else where it is worth being asked again. `observe` says as the last line of its output
//! `{"traffic": "passing"}`, or `failing`, `drained`, `isolated`, `absent`; with `"marker"` where the backend keeps it,
//! and `"name"`. `count` says `{"healthy": 3, "registered": 4}`: the others that are healthy, and all.
//!
//! What a command says besides is shown to nobody: it may hold anything. `{"error": "…"}` as the last line is.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Counted, Failure, Hooks, Seen, Words};
use crate::command::{self, Captured, Ended};
use crate::model::ExecHook;

/// `EX_NOPERM` of sysexits.h.
const REFUSES: i32 = 77;
/// An answer is one line.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Of an `error` that is shown.
const MOST_WORDS: usize = 200;

#[derive(Debug)]
pub struct ExecHooks(pub ExecHook);

impl ExecHooks {
    fn argv(argv: &[String], words: &Words) -> Vec<String> {
        argv.iter().map(|word| words.fill(word, str::to_owned)).collect()
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.0.files.iter().map(|(name, path)| (name.clone(), path.to_string_lossy().into_owned())).collect()
    }

    async fn change(&self, hook: &str, argv: &[String], words: &Words) -> Result<(), Failure> {
        let argv = Self::argv(argv, words);
        // It would do its part after this one, and nobody would be told.
        let ended = command::end(&words.change).await;
        ended.map_err(|why| Failure::Passing(format!("`{hook}`: the change before it runs still: {why}")))?;
        let ran = command::apart_as(&words.change, &argv, &self.environment(), self.0.deadline, OUTPUT_BYTES).await;
        told(hook, &ran).map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, hook: &str, argv: &[String], words: &Words) -> Result<T, Failure> {
        let argv = Self::argv(argv, words);
        let ran = command::capture(&argv, &self.environment(), self.0.deadline, OUTPUT_BYTES).await;
        let line = told(hook, &ran)?;
        serde_json::from_str(line)
            .map_err(|error| Failure::Refused(format!("`{hook}`: its last line is no answer: {error}")))
    }
}

/// The last line of a command that did what it was asked.
fn told<'a>(hook: &str, ran: &'a Captured) -> Result<&'a str, Failure> {
    let last = ran.output.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    if ran.ended.is_success() {
        return Ok(last);
    }
    let why = serde_json::from_str::<Value>(last).ok().and_then(|said| Some(said["error"].as_str()?.to_owned()));
    let why = why.map(|why| format!(": {}", why.chars().take(MOST_WORDS).collect::<String>())).unwrap_or_default();
    let detail = format!("`{hook}`: {}{why}", ran.ended);
    Err(match ran.ended {
        Ended::Exited(REFUSES) | Ended::NotStarted(_) => Failure::Refused(detail),
        _ => Failure::Passing(detail),
    })
}

#[async_trait]
impl Hooks for ExecHooks {
    async fn isolate(&self, words: &Words) -> Result<(), Failure> {
        self.change("isolate", &self.0.isolate, words).await
    }

    async fn restore(&self, words: &Words) -> Result<(), Failure> {
        self.change("restore", &self.0.restore, words).await
    }

    async fn observe(&self, words: &Words) -> Result<Option<Seen>, Failure> {
        let answer: Value = self.ask("observe", &self.0.observe, words).await?;
        if answer["traffic"] == "absent" {
            return Ok(None);
        }
        serde_json::from_value(answer)
            .map(Some)
            .map_err(|error| Failure::Refused(format!("`observe`: its last line is no answer: {error}")))
    }

    fn counts(&self) -> bool {
        self.0.count.is_some()
    }

    async fn count(&self, words: &Words) -> Result<Counted, Failure> {
        let argv = self.0.count.as_deref().unwrap_or_default();
        self.ask("count", argv, words).await
    }

    /// The next one ends it first.
    fn may_arrive_late(&self) -> bool {
        false
    }

    fn deadline(&self) -> Duration {
        self.0.deadline
    }
}
