//! Traffic is the last word on a drain: a registry may show it, and clients go on coming all the same.
//!
//! What decides is *new connections*: those that came before the drain, and those that still come once every client should
//! have followed. Checks and probes go on while a service is drained, so what counts is what fell away. Bytes on connections
//! that were open before are said and do not decide, since pools and streams stay by design; where clients are known to
//! leave, they do.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::clients;
use crate::execute::world::{Arrivals, Talk, World};
use crate::model::{Plan, duration};

/// Below so many a second before the drain it is too quiet to tell anything.
const ENOUGH_PER_SECOND: f64 = 5.0;
/// Of old connections, where clients are known to leave them.
const ENOUGH_BYTES_PER_SECOND: f64 = 1024.0;
/// Where more than this share goes on, the drain does not work.
const STILL_BUSY: f64 = 0.5;
/// Before the drain, where nothing was counted for longer.
const BEFORE: Duration = Duration::from_secs(5);
/// After it, once all clients should have followed.
const AFTER: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const PEERS_SHOWN: usize = 3;

/// What came in some time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    over: Duration,
    /// Counted by the kernel.
    exact: Option<Arrivals>,
    /// Connections that were there at one look and not at the one before: a lower bound.
    seen: u64,
    bytes: u64,
    peers: BTreeMap<IpAddr, Came>,
}

/// What was seen of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Came {
    connections: u64,
    bytes: u64,
}

/// New connections a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    per_second: f64,
    exact: bool,
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_least = if self.exact { "" } else { "at least " };
        write!(f, "{at_least}{:.1} new connections/s", self.per_second)
    }
}

impl Sample {
    fn rate(&self) -> Rate {
        match self.exact {
            Some(Arrivals { count, over }) => Rate { per_second: per_second(count, over), exact: true },
            None => Rate { per_second: per_second(self.seen, self.over), exact: false },
        }
    }

    fn bytes_per_second(&self) -> f64 {
        per_second(self.bytes, self.over)
    }

    /// The peers of whom there was most, with how much that was.
    fn busiest(&self, of: fn(&Came) -> u64, says: impl Fn(u64) -> String) -> String {
        let mut peers: Vec<_> =
            self.peers.iter().map(|(peer, came)| (peer, of(came))).filter(|(_, n)| *n > 0).collect();
        peers.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let shown: Vec<String> =
            peers.into_iter().take(PEERS_SHOWN).map(|(peer, n)| format!("{peer} ({})", says(n))).collect();
        match shown.is_empty() {
            true => "no peer is known, since the connections are too short to be seen".into(),
            false => format!("busiest peers: {}", shown.join(", ")),
        }
    }
}

fn per_second(count: u64, over: Duration) -> f64 {
    if over.is_zero() { 0.0 } else { count as f64 / over.as_secs_f64() }
}

/// The traffic before a drain.
#[derive(Debug)]
pub struct Before {
    sample: Result<Sample, String>,
}

impl Default for Before {
    /// Where another agent drained it.
    fn default() -> Self {
        Self { sample: Err("nobody counted before it was drained".into()) }
    }
}

/// How it fell.
#[derive(Debug, Default, PartialEq)]
pub struct Fell {
    /// Why the drain does not work, where it does not.
    pub ineffective: Option<String>,
    pub says: Option<String>,
    /// What the incident's end is to say besides.
    pub note: Option<String>,
}

impl Before {
    /// The connections that came from when the condition first held until now; and what goes over those that stand.
    pub async fn measured(plan: &Plan, world: &World) -> Self {
        let counted = world.measure.arrivals(plan).await;
        if world.measure.talks(plan).await.is_ok_and(|talks| talks.is_empty()) {
            match counted {
                // Looks see nothing of those that come and go between them.
                Err(why) => return Self { sample: Err(why) },
                Ok(none @ Arrivals { count: 0, over }) if over >= BEFORE => {
                    return Self { sample: Ok(Sample { exact: Some(none), ..Sample::default() }) };
                }
                Ok(_) => {}
            }
        }
        let mut sample = sample(plan, world, BEFORE).await;
        // What came in a breach that was held for an hour of quiet is more than its mean.
        if let (Ok(sample), Ok(since_it_held)) = (&mut sample, world.measure.arrivals(plan).await)
            && since_it_held.over >= BEFORE
            && per_second(since_it_held.count, since_it_held.over) > sample.rate().per_second
        {
            sample.exact = Some(since_it_held);
        }
        Self { sample }
    }

    /// What became of it, now that all clients should have followed the drain.
    pub async fn fell(self, plan: &Plan, world: &World) -> Fell {
        let before = match self.sample {
            Ok(before) => before,
            Err(why) => {
                return Fell {
                    says: Some(format!("the service's traffic could not be counted: {why}")),
                    ..Fell::default()
                };
            }
        };
        let quiet = before.rate().per_second < ENOUGH_PER_SECOND;
        if quiet && before.bytes == 0 {
            return Fell {
                says: Some(format!("{}, too quiet to tell whether clients follow", before.rate())),
                ..Fell::default()
            };
        }
        match sample(plan, world, AFTER).await {
            Ok(after) => judge(&before, &after, clients::leave(plan, &world.ports)),
            Err(why) => {
                Fell { says: Some(format!("the service's traffic could not be counted: {why}")), ..Fell::default() }
            }
        }
    }
}

/// Looks every second for so long.
async fn sample(plan: &Plan, world: &World, length: Duration) -> Result<Sample, String> {
    let (began, first) = (world.pace.elapsed(), world.measure.arrivals(plan).await);
    let mut known = HashMap::new();
    let mut sample = Sample::default();
    sample.take(&mut known, world.measure.talks(plan).await?, true);
    while world.pace.elapsed() < began + length {
        world.pace.wait(LOOK_EVERY).await;
        sample.take(&mut known, world.measure.talks(plan).await?, false);
    }
    sample.over = world.pace.elapsed() - began;
    if let (Ok(first), Ok(last)) = (first, world.measure.arrivals(plan).await) {
        // Another count than the one that was begun with says nothing.
        sample.exact = last
            .count
            .checked_sub(first.count)
            .map(|count| Arrivals { count, over: last.over.saturating_sub(first.over) });
    }
    Ok(sample)
}

impl Sample {
    /// One look; of the first, nothing is new.
    fn take(&mut self, known: &mut HashMap<u64, u64>, talks: Vec<Talk>, is_first: bool) {
        for Talk { cookie, peer, bytes } in talks {
            let before = known.insert(cookie, bytes);
            if is_first {
                continue;
            }
            let bytes = bytes.saturating_sub(before.unwrap_or(0));
            let connections = u64::from(before.is_none());
            self.bytes += bytes;
            self.seen += connections;
            let came = self.peers.entry(peer).or_default();
            *came = Came { connections: came.connections + connections, bytes: came.bytes + bytes };
        }
    }
}

fn judge(before: &Sample, after: &Sample, clients_leave: bool) -> Fell {
    let (was, is) = (before.rate(), after.rate());
    let share_of_bytes = match before.bytes_per_second() {
        0.0 => 0.0,
        was => after.bytes_per_second() / was,
    };
    let counted = format!("counted for {}, once all clients should have followed", duration::format(whole(after.over)));
    let comparable = was.exact == is.exact;
    let ineffective = if comparable
        && was.per_second >= ENOUGH_PER_SECOND
        && is.per_second > was.per_second * STILL_BUSY
    {
        let busiest = after.busiest(|came| came.connections, |n| format!("{n} connections"));
        Some(format!(
            "the drain is ineffective, clients go on coming: {was} before the drain, {is} after it ({counted}); {busiest}"
        ))
    } else if clients_leave && before.bytes_per_second() >= ENOUGH_BYTES_PER_SECOND && share_of_bytes > STILL_BUSY {
        let kib = |bytes_per_second: f64| format!("{:.1} KiB/s", bytes_per_second / 1024.0);
        let (was, is) = (kib(before.bytes_per_second()), kib(after.bytes_per_second()));
        let busiest = after.busiest(|came| came.bytes, |bytes| kib(per_second(bytes, after.over)));
        Some(format!(
            "the drain is ineffective, open connections stay busy: {was} before the drain, {is} after it ({counted}); {busiest}"
        ))
    } else {
        None
    };
    let says = match (was.per_second < ENOUGH_PER_SECOND, comparable) {
        (true, _) => format!("{was}, too quiet to tell whether clients follow"),
        (false, true) => format!("{was} before the drain, {is} after it"),
        (false, false) => format!("{was}, and {is}, which cannot be compared"),
    };
    let note = (share_of_bytes > 0.005).then(|| {
        format!("the restart came at {:.0}% of the traffic before the drain", share_of_bytes.min(9.99) * 100.0)
    });
    Fell { ineffective, says: Some(says), note }
}

fn whole(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

#[cfg(test)]
#[path = "traffic_tests.rs"]
mod tests;
