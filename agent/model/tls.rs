//! The TLS settings of agent.yaml beside an address.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The CA that the server's certificate must come from, and our own certificate; as paths of PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// The authorities that may have issued the server's certificate, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, with what stands between it and its authority behind it. Never without `key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// The name that the server's certificate must be for, in place of the address' own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}
