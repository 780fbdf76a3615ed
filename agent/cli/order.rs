//! What people tell the agent to do: who says so, why, and the way to the running agent.

use std::path::Path;

use super::{Failure, Outcome, render};
use crate::daemon::control;
use crate::store::Person;
use crate::view::request::{Reply, Request, Signed};

/// The person behind sudo, where there is one; else the user's name.
pub fn who() -> String {
    sudo_user().unwrap_or_else(|| {
        let uid = nix::unistd::getuid();
        nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
    })
}

fn sudo_user() -> Option<String> {
    std::env::var("SUDO_USER").ok().filter(|user| !user.is_empty())
}

pub fn person(why: Option<String>) -> Person {
    Person { who: who(), why }
}

/// One line: it is shown among others' words.
pub fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("whoever finds it later wants to know why".into()),
        text if text.contains(char::is_control) => Err("a reason is one line, without control characters".into()),
        text => Ok(text.into()),
    }
}

/// Asks the agent of this state directory; `None` where none runs.
pub async fn call(state: &Path, request: Request, why: Option<String>) -> Result<Option<Reply>, Failure> {
    let signed = Signed { request, who: sudo_user(), why };
    control::call(state, &signed).await.map_err(|error| Failure::Unreachable(error.to_string()))
}

/// Has the running agent do it, and says what it answered.
pub async fn give(state: &Path, request: Request, why: Option<String>, json: bool) -> Outcome {
    match call(state, request, why).await? {
        Some(reply) => say(reply, json),
        None => Err(Failure::Unreachable(format!("no agent runs on {}; start it with `unwait run`", state.display()))),
    }
}

pub fn say(reply: Reply, json: bool) -> Outcome {
    if json {
        render::json(&reply);
    } else if reply.ok {
        println!("{}", reply.text);
    }
    match reply.ok {
        true => Ok(()),
        false => Err(Failure::Wrong(if json { String::new() } else { reply.text })),
    }
}
