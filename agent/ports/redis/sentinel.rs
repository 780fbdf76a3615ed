//! The master by the word of most sentinels, asked anew for each connection. One sentinel is not enough: those that are cut
//! off from the others go on naming the master that the others have replaced. Nor is the server's own word: a master
//! that comes back after it was replaced says `role:master` for some 10 s, answers OK, and all of that is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::connect::{Door, Mode};
use super::words::{self, Miss, Next};
use crate::model::RedisAddress;

/// For one sentinel; they are asked side by side.
const SENTINEL_DEADLINE: Duration = Duration::from_secs(1);

pub(super) struct Sentinels {
    pub sentinels: Vec<RedisAddress>,
    /// The name that they know the master by.
    pub master: String,
    pub door: Door,
}

/// What one sentinel says.
enum Word {
    Names(RedisAddress),
    /// No answer, which may come.
    Silent(String),
    /// An answer that needs a person.
    Wrong(String),
}

impl Sentinels {
    /// The address that more than half of the sentinels name. [`Next::Again`] where they do not, for now; the words tell who
    /// said what.
    pub async fn master(self: &Arc<Self>) -> Result<RedisAddress, Miss> {
        let half = self.sentinels.len() / 2;
        let mut asked = JoinSet::new();
        for (nth, _) in self.sentinels.iter().enumerate() {
            let all = Arc::clone(self);
            asked.spawn(async move { (nth, all.word(nth).await) });
        }
        let mut said = BTreeMap::new();
        let mut named: BTreeMap<RedisAddress, usize> = BTreeMap::new();
        while let Some(word) = asked.join_next().await {
            let Ok((nth, word)) = word else { continue };
            if let Word::Names(address) = &word {
                let count = named.entry(address.clone()).or_default();
                *count += 1;
                if *count > half {
                    return Ok(address.clone());
                }
            }
            said.insert(nth, word);
        }
        let wrong = said.values().filter(|word| matches!(word, Word::Wrong(_))).count();
        let next = if self.sentinels.len() - wrong > half { Next::Again } else { Next::Person };
        let all: Vec<String> =
            said.iter().map(|(nth, word)| format!("{} {}", self.sentinels[*nth], word.says())).collect();
        let words = format!(
            "Redis: fewer than {} of {} sentinels name the same master for `{}`: {}",
            half + 1,
            self.sentinels.len(),
            self.master,
            all.join("; ")
        );
        Err(Miss { next, words })
    }

    async fn word(&self, nth: usize) -> Word {
        let at = &self.sentinels[nth];
        match tokio::time::timeout(SENTINEL_DEADLINE, self.ask(at)).await {
            Ok(Ok(word)) => word,
            Ok(Err(Miss { next: Next::Person | Next::Login | Next::Distrusted, words })) => Word::Wrong(words),
            Ok(Err(Miss { words, .. })) => Word::Silent(words),
            Err(_) => Word::Silent(format!("no answer within {} s", SENTINEL_DEADLINE.as_secs())),
        }
    }

    async fn ask(&self, at: &RedisAddress) -> Result<Word, Miss> {
        let (mut connection, server) = self.door.open(at).await?;
        if server.mode != Mode::Sentinel {
            return Ok(Word::Wrong("the server is a Redis, not a sentinel: name it by `url`".into()));
        }
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let told = |error: redis::RedisError| words::of(&error, at);
        let named: Option<(String, u16)> = question.query_async(&mut connection).await.map_err(told)?;
        Ok(match named {
            Some((host, port)) => Word::Names(RedisAddress::Tcp { host, port }),
            None => Word::Wrong("the sentinel has no master of that name".into()),
        })
    }
}

impl Word {
    fn says(&self) -> String {
        match self {
            Self::Names(address) => format!("names {address}"),
            Self::Silent(why) | Self::Wrong(why) => format!("gives no answer ({why})"),
        }
    }
}
