//! Who closed on a service, and which of its processes hold what it leaks: as the evidence of an incident had it, in brief.

use serde::{Deserialize, Serialize};

/// Peers, and processes, that are named.
const NAMED: usize = 3;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blame {
    pub closed_by: TopFew,
    pub held_by: TopFew,
}

/// The few that have most, in words, with how many sockets each; and how many others there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopFew {
    pub most: Vec<(String, usize)>,
    pub others: usize,
}

impl TopFew {
    /// Of these, the largest first; `others` more are not among them.
    pub fn of(all: impl IntoIterator<Item = (String, usize)>, others: usize) -> Self {
        let mut most: Vec<(String, usize)> = all.into_iter().collect();
        let beyond = most.len().saturating_sub(NAMED);
        most.truncate(NAMED);
        Self { most, others: others + beyond }
    }

    /// `10.0.0.2:6379 (redis-session) 250, 10.0.0.3:6379 38, and 4 others`, after `head`; nothing of nobody.
    fn line(&self, head: &str, other: &str) -> Option<String> {
        let named = self.most.iter().map(|(who, count)| format!("{who} {count}"));
        let others = match self.others {
            0 => None,
            1 => Some(format!("and 1 other {other}")),
            more => Some(format!("and {more} other {other}{}", if other.ends_with('s') { "es" } else { "s" })),
        };
        let all: Vec<String> = named.chain(others).collect();
        (!self.most.is_empty()).then(|| format!("{head}: {}", all.join(", ")))
    }
}

impl Blame {
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let lines =
            [self.closed_by.line("sockets in CLOSE_WAIT, closed by", "peer"), self.held_by.line("held by", "process")];
        lines.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_with_most_are_named_and_the_others_counted() {
        let peers = [("10.0.0.2:6379 (redis-session)", 250), ("10.0.0.3:6379", 38)];
        let processes = (0..96).map(|nth| (format!("php-fpm (pid {nth})"), 3));
        let blame = Blame {
            closed_by: TopFew::of(peers.map(|(peer, count)| (peer.to_owned(), count)), 1),
            held_by: TopFew::of(processes, 0),
        };
        let lines: Vec<String> = blame.lines().collect();
        assert_eq!(
            lines,
            [
                "sockets in CLOSE_WAIT, closed by: 10.0.0.2:6379 (redis-session) 250, 10.0.0.3:6379 38, and 1 other peer",
                "held by: php-fpm (pid 0) 3, php-fpm (pid 1) 3, php-fpm (pid 2) 3, and 93 other processes",
            ]
        );
        assert_eq!(Blame::default().lines().count(), 0);
    }
}
