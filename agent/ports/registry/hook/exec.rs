//! Hooks that are commands: an argv each, never a shell's line.
//!
//! `isolate` and `restore` are run apart from the agent, as a `run` step is; `observe` and `count` are its children. Of an
//! instance one change runs at a time: what a former one left running, where the one who waited is gone, is ended first. A
//! command ends with 0 where it did what it was asked, with 77 (`EX_NOPERM`) where a person must look, and with anything
//! else where it is worth being asked again. `observe` says as the last line of its output
//! `{"traffic": "passing"}`, or `failing`, `drained`, `isolated`, `absent`; with `"marker"` where the backend keeps it,
//! and `"name"`. `count` says `{"healthy": 3, "registered": 4}`: the others that are healthy, and all.
//!
//! Of one that fails, the `{"error": "…"}` of its last line is shown, and else the first line that it says, or the last of a
//! Python traceback: never one that repeats a word of its `files`.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::TrafficChange;
use super::{Counted, Failure, HookInstance, Hooks, Words};
use crate::command::{self, Captured, Ended};
use crate::model::ExecHook;
use crate::ports::said;

/// `EX_NOPERM` of sysexits.h.
const REFUSES: i32 = 77;
/// An answer is one line.
const OUTPUT_BYTES: usize = 16 * 1024;
/// How Python begins: the exception stands in the last line.
const TRACE: &str = "Traceback (most recent call last):";

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
        ended.map_err(|why| Failure::Passing(format!("`{hook}`: the previous change still runs: {why}")))?;
        let ran = command::detached_as(&words.change, &argv, &self.environment(), self.0.deadline, OUTPUT_BYTES).await;
        self.told(hook, &ran).map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, hook: &str, argv: &[String], words: &Words) -> Result<T, Failure> {
        let argv = Self::argv(argv, words);
        let ran = command::capture(&argv, &self.environment(), self.0.deadline, OUTPUT_BYTES).await;
        self.answer(hook, self.told(hook, &ran)?)
    }

    /// The last line of a command that did what it was asked.
    fn told<'a>(&self, hook: &str, ran: &'a Captured) -> Result<&'a str, Failure> {
        let last = ran.output.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        if ran.ended.is_success() {
            return Ok(last);
        }
        let error = serde_json::from_str::<Value>(last).ok().and_then(|said| Some(said["error"].as_str()?.to_owned()));
        let said = if ran.output.starts_with(TRACE) { last } else { &ran.output };
        let why = self.shown(error.as_deref().unwrap_or(said));
        let detail = format!("`{hook}`: {}{}", ran.ended, said::behind(&why));
        Err(match ran.ended {
            Ended::Exited(REFUSES) | Ended::NotStarted(_) => Failure::Refused(detail),
            _ => Failure::Passing(detail),
        })
    }

    fn answer<T: DeserializeOwned>(&self, hook: &str, line: &str) -> Result<T, Failure> {
        serde_json::from_str(line).map_err(|error| {
            let line = said::behind(&self.shown(line));
            Failure::Refused(format!("`{hook}`: the last line of its output is no answer ({error}){line}"))
        })
    }

    fn shown(&self, text: &str) -> String {
        let files: Vec<String> = self.0.files.values().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
        let words = files.iter().flat_map(|file| file.split(|c: char| c.is_whitespace() || "\"'=,".contains(c)));
        said::first_line(text, words)
    }
}

#[async_trait]
impl Hooks for ExecHooks {
    async fn isolate(&self, words: &Words, _seen: &HookInstance) -> Result<(), Failure> {
        self.change("isolate", &self.0.isolate, words).await
    }

    async fn restore(&self, words: &Words, _seen: &HookInstance) -> Result<(), Failure> {
        self.change("restore", &self.0.restore, words).await
    }

    /// An argument may be a secret.
    fn shown(&self, change: TrafficChange, _words: &Words) -> Result<String, Failure> {
        let (hook, argv) = match change {
            TrafficChange::Drain => ("isolate", &self.0.isolate),
            TrafficChange::Restore => ("restore", &self.0.restore),
        };
        let program = argv.first().map(String::as_str).unwrap_or_default();
        Ok(format!("run {program}, the hook `{hook}`"))
    }

    async fn observe(&self, words: &Words) -> Result<Option<HookInstance>, Failure> {
        let answer: Value = self.ask("observe", &self.0.observe, words).await?;
        match answer["traffic"] == "absent" {
            true => Ok(None),
            false => self.answer("observe", &answer.to_string()).map(Some),
        }
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
