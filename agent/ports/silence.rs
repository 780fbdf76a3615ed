//! Who does not answer is asked one question at a time, ever more seldom up to a bound, and its silence is shared: the others
//! are told at once for how long it has lasted.
//!
//! Guards, duties and explanations share it ([`sharing`]). A saga asks for itself, always: what it has to undo waits for nobody
//! else's question. What becomes of its questions is noted all the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::duration;

/// A question that has had no answer for so long was met by silence. One that fails sooner was refused, and costs nobody a wait.
pub const SILENT_AFTER: Duration = Duration::from_secs(1);
/// From a question that was not answered to the next: doubled each time up to the longest, by which a party that answers again
/// is heard late at the most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

tokio::task_local! {
    /// For how long one call to a port is waited for, where somebody waits for the work as a whole.
    static PATIENCE: Option<Duration>;
}

/// Work that can wait: of a party that is silent it hears at once for how long. `patience`: no call to a port takes longer,
/// whatever its own deadline.
pub async fn sharing<T>(patience: Option<Duration>, work: impl Future<Output = T>) -> T {
    PATIENCE.scope(patience, work).await
}

/// The shorter one of this deadline and of the patience with which the work at hand is done.
pub(super) fn patient(deadline: Duration) -> Duration {
    let patience = PATIENCE.try_with(|patience| *patience).ok().flatten();
    patience.map_or(deadline, |patience| deadline.min(patience))
}

/// Of each party, by its name.
#[derive(Debug, Default)]
pub(super) struct Silences(Mutex<BTreeMap<String, Heard>>);

/// What was heard of one party.
#[derive(Debug, Default)]
struct Heard {
    /// The last answer.
    answered: Option<Instant>,
    silent: Option<Silent>,
}

/// Who has not answered lately.
#[derive(Debug)]
struct Silent {
    /// Since the first question that had no answer.
    since: Instant,
    /// A question is under way.
    asked: bool,
    /// None is asked before.
    next: Instant,
    pause: Duration,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    silences: &'a Silences,
    party: String,
    began: Instant,
    /// It is the one question that a silent party is asked.
    is_the_one: bool,
    answered: bool,
}

impl Silences {
    /// # Errors
    /// Where the work at hand shares the silence and nobody is to be asked now: for how long, in words.
    pub fn ask(&self, party: &str) -> Result<Asked<'_>, String> {
        let now = Instant::now();
        let mut all = self.all();
        let mut is_the_one = false;
        if let Some(silent) = all.get_mut(party).and_then(|heard| heard.silent.as_mut()) {
            if !silent.asked && now >= silent.next {
                silent.asked = true;
                is_the_one = true;
            } else if PATIENCE.try_with(|_| ()).is_ok() {
                let lasts = Duration::from_secs((now - silent.since).as_secs());
                return Err(format!("has not answered for {}", duration::format(lasts)));
            }
        }
        Ok(Asked { silences: self, party: party.into(), began: now, is_the_one, answered: false })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked<'_> {
    /// It has come back, `failed` where nobody was reached. Whoever is refused at once has met no silence.
    pub fn back(mut self, failed: bool) {
        self.answered = !failed || self.began.elapsed() < SILENT_AFTER;
    }
}

/// One that was given up meanwhile is as one that was not answered.
impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut all = self.silences.all();
        let heard = all.entry(self.party.clone()).or_default();
        if self.answered {
            *heard = Heard { answered: Some(now), silent: None };
        } else if self.is_the_one {
            if let Some(silent) = &mut heard.silent {
                silent.asked = false;
                silent.pause = (silent.pause * 2).min(LONGEST_PAUSE);
                silent.next = now + silent.pause;
            }
        } else if now - self.began >= SILENT_AFTER && heard.answered.is_none_or(|answered| answered < self.began) {
            // One slow question of a party that answers others is no silence.
            let begins = || Silent { since: self.began, asked: false, next: now + FIRST_PAUSE, pause: FIRST_PAUSE };
            let silent = heard.silent.get_or_insert_with(begins);
            silent.since = silent.since.min(self.began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_at_a_time_is_asked_of_who_is_silent_and_the_others_hear_for_how_long() {
        let silences = Silences::default();
        let ask = async |party| sharing(None, async { silences.ask(party) }).await;
        // Asked together, before anybody knows.
        let together = [ask("consul").await.unwrap(), ask("consul").await.unwrap()];
        after(5.0).await;
        together.into_iter().for_each(|asked| asked.back(true));
        assert_eq!(ask("consul").await.unwrap_err(), "has not answered for 5s");
        assert!(ask("etcd").await.is_ok(), "another party is not silent");
        // A saga asks for itself.
        assert!(silences.ask("consul").is_ok());

        after(0.6).await;
        let one = ask("consul").await.unwrap();
        after(5.0).await;
        assert_eq!(ask("consul").await.unwrap_err(), "has not answered for 10s");
        // Given up by who asked it.
        drop(one);
        after(0.9).await;
        assert!(ask("consul").await.is_err(), "asked ever more seldom");
        after(0.2).await;
        ask("consul").await.unwrap().back(false);
        let both = [ask("consul").await, ask("consul").await];
        assert!(both.iter().all(Result::is_ok), "one answer ends it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_at_once_or_answers_late_or_answers_others_is_not_silent() {
        let silences = Silences::default();
        let ask = async || sharing(None, async { silences.ask("consul") }).await;
        ask().await.unwrap().back(true);
        assert!(ask().await.is_ok());
        let late = ask().await.unwrap();
        after(3.0).await;
        late.back(false);
        assert!(ask().await.is_ok());

        let never = ask().await.unwrap();
        after(3.0).await;
        ask().await.unwrap().back(false);
        after(3.0).await;
        never.back(true);
        assert!(ask().await.is_ok(), "others were answered meanwhile");
    }
}
