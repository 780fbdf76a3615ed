//! ZooKeeper's words of four letters, spoken without a session: its version, and why it gives none.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Api, ApiError, Stream, within};
use crate::ports::said;

/// Of the answer to a word of four letters.
const MAX_WORD_BYTES: u64 = 4096;

/// For the reason of what is known already.
const WHY_DEADLINE: Duration = Duration::from_millis(500);

impl Api {
    /// What the first server that answers says of its version: its word `srvr`, which it answers where its `4lw.commands.whitelist`
    /// has that (so by default).
    pub async fn version(&self) -> Result<Option<String>, ApiError> {
        let each = self.deadline / self.ensemble.servers.len().max(1) as u32;
        let mut failed = ApiError::Refused("no server is named".into());
        for server in &self.ensemble.servers {
            match within(each, self.srvr(server)).await {
                Ok(says) => return Ok(version(&says)),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Of a server that took our connection and closed it at our first word. One whose ensemble has no quorum says why by its
    /// word `srvr` (3.8.0, 3.9.5).
    pub(super) async fn no_session(&self, server: &str, why: String) -> ApiError {
        let detail = match within(WHY_DEADLINE, self.srvr(server)).await {
            Ok(says) if says.contains("not currently serving requests") => format!(
                "ZooKeeper: no session: \"{}\": the server has just started, or reaches too few servers of its \
                 ensemble; start the others",
                said::first_line(&says, [])
            ),
            _ if self.ensemble.tls.is_none() => {
                format!("{why} (closed at the first request, as a port with TLS does)")
            }
            _ => why,
        };
        ApiError::Unreachable(detail)
    }

    async fn srvr(&self, server: &str) -> Result<String, ApiError> {
        let mut stream = Stream::connect(server, self.ensemble.tls.as_ref()).await?;
        stream.bytes.write_all(b"srvr").await.map_err(|error| stream.broken(error))?;
        stream.bytes.flush().await.map_err(|error| stream.broken(error))?;
        let mut says = Vec::new();
        // The version stands in the first line.
        let read = (&mut stream.bytes).take(MAX_WORD_BYTES).read_to_end(&mut says).await;
        // TLS may end without a word.
        match read {
            Err(error) if says.is_empty() => Err(stream.broken(error)),
            _ => Ok(String::from_utf8_lossy(&says).into_owned()),
        }
    }
}

/// `Zookeeper version: 3.9.5-…, built on …`
fn version(says: &str) -> Option<String> {
    let version = says.lines().next()?.strip_prefix("Zookeeper version: ")?;
    let number = version.split(['-', ',']).next().filter(|number| number.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(format!("ZooKeeper {}", number.chars().take(20).collect::<String>()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_version_is_told_or_not() {
        let says = "Zookeeper version: 3.9.5-2026, built on 2026-01-01 12:00 UTC\nLatency min/avg/max: 0/0/0\n";
        assert_eq!(super::version(says).as_deref(), Some("ZooKeeper 3.9.5"));
        for says in ["", "srvr is not executed because it is not in the whitelist.\n", "Zookeeper version: unknown"] {
            assert_eq!(super::version(says), None, "{says}");
        }
    }
}
