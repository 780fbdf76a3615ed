//! What is asked of the running agent over its control socket, and the answer: one JSON object a line each.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::EventKind;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum Request {
    Status,
    /// The services by their signals, as the last look at everything saw them.
    Services,
    /// One service's sockets in CLOSE_WAIT, looked at now.
    Sockets {
        service: String,
        /// The registries are asked what they call the peers.
        names: bool,
    },
    Explain {
        service: String,
    },
    Act {
        service: String,
        policy: Option<String>,
        dry_run: bool,
    },
    Resolve {
        service: String,
        how: How,
    },
    /// Who would be told.
    Route {
        service: String,
        event: EventKind,
        policy: Option<String>,
    },
    Approve {
        id: String,
        /// The first digits of the hash of the plan that the person has read.
        #[serde(default)]
        hash: Option<String>,
    },
    Deny {
        id: String,
    },
    Reload,
    Plan {
        service: String,
        policy: Option<String>,
    },
    /// The files of a directory, as a reload would read them.
    Check {
        directory: PathBuf,
        /// Each party is asked once.
        ask: bool,
    },
    /// What was measured and waits in memory is written.
    WriteSamples,
}

/// A request as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    #[serde(flatten)]
    pub request: Request,
    /// The person behind sudo. The agent believes it of root alone; of others it knows the peer's uid.
    #[serde(default)]
    pub who: Option<String>,
    /// Of an order: for whoever finds it later.
    #[serde(default)]
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// False: nothing was done, and `text` says why.
    pub ok: bool,
    pub text: String,
    /// The same for machines, where there is more to say than the text.
    pub detail: serde_json::Value,
}

impl Reply {
    pub fn done(text: impl Into<String>) -> Self {
        Self { ok: true, text: text.into(), detail: serde_json::Value::Null }
    }

    /// The same for machines alone.
    pub fn with(detail: &impl Serialize) -> Self {
        let detail = serde_json::to_value(detail).expect("what is shown is plain data");
        Self { ok: true, text: String::new(), detail }
    }

    /// What it carries for machines.
    ///
    /// # Errors
    /// In words, where an agent of another version has answered something else.
    pub fn carries<T: DeserializeOwned>(self) -> Result<T, String> {
        serde_json::from_value(self.detail).map_err(|error| {
            format!("the running agent's answer cannot be read, it may be of another version; restart it: {error}")
        })
    }

    pub fn refused(text: impl Into<String>) -> Self {
        Self { ok: false, text: text.into(), detail: serde_json::Value::Null }
    }
}

/// What a person decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Health check, put back, unlatch.
    Restore,
    /// Let go of the drain, unlatch, and leave traffic as it is.
    Leave,
    /// Unlatch, only where nothing is drained.
    Unsaid,
}
