//! How long a socket has been in CLOSE_WAIT. Never overstated.
//!
//! The kernel keeps no such time. Two lower bounds exist, and the greater one is taken: since this agent first saw the
//! socket in CLOSE_WAIT, and since the last acknowledgement arrived (`tcpi_last_ack_recv`: the FIN came no
//! later than that, so it is exact until the application writes or a keepalive is answered).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::model::{Census, Socket};

/// Data that left within this time means that the socket is still being sent on.
const SENDING_WITHIN: Duration = Duration::from_secs(10);

/// The same socket at two ticks. The kernel's cookie where there is one; the /proc fallback has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Identity {
    Cookie(u64),
    Tuple(SocketAddr, SocketAddr, u64),
}

impl Identity {
    fn of(socket: &Socket) -> Self {
        match socket.cookie {
            0 => Self::Tuple(socket.local, socket.remote, socket.inode),
            cookie => Self::Cookie(cookie),
        }
    }
}

/// When each socket was first seen in CLOSE_WAIT.
#[derive(Debug, Default)]
pub struct Ages {
    first_seen: HashMap<Identity, Duration>,
}

impl Ages {
    /// Notes the sockets of a complete census, and forgets those that are gone.
    pub fn see(&mut self, census: &Census) {
        let owned = census.services.values().flat_map(|held| held.sockets.iter().map(|owned| &owned.socket));
        let all = owned.chain(census.unattributed.iter().map(|unattributed| &unattributed.socket));
        let mut seen = HashMap::with_capacity(self.first_seen.len());
        for socket in all {
            let identity = Identity::of(socket);
            let first = self.first_seen.get(&identity).copied().unwrap_or(census.monotonic);
            seen.insert(identity, first);
        }
        self.first_seen = seen;
    }

    /// At least how long the socket has been in CLOSE_WAIT at `now`, since boot.
    pub fn of(&self, socket: &Socket, now: Duration) -> Duration {
        let watched =
            self.first_seen.get(&Identity::of(socket)).map_or(Duration::ZERO, |first| now.saturating_sub(*first));
        watched.max(socket.last_ack_received.unwrap_or_default())
    }
}

/// Closed by the peer, while data still leaves: a proxy or a streamed answer, and no leak.
pub fn is_sending(socket: &Socket) -> bool {
    socket.send_q > 0 || socket.last_data_sent.is_some_and(|ago| ago < SENDING_WITHIN)
}
