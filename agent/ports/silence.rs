//! Who does not answer is asked one question at a time, ever more seldom up to a bound, and its silence is shared: the others
//! are told at once for how long it has lasted.
//!
//! Guards, duties and explanations share it ([`sharing`]). A saga asks for itself, always: what it has to undo waits for nobody
//! else's question. What becomes of its questions is noted all the same.

use std::collections::{BTreeMap, BTreeSet};
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
/// Whoever has little patience waits for a party so many times as long as it takes to answer at other times, and for this at least.
const TIMES_ITS_USUAL: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

tokio::task_local! {
    static PATIENCE: Patience;
}

/// With which work asks that somebody waits for as a whole.
struct Patience {
    /// For one question; none: the question's own deadline.
    at_most: Option<Duration>,
    /// The parties that had no answer by then: the work asks them nothing more.
    lost_with: Mutex<BTreeSet<String>>,
}

/// Work that can wait: of a party that is silent it hears at once for how long. `patience`: no question to a port takes longer,
/// whatever its own deadline; of a party that has answered before it takes four times as long as its answers do, 50 ms at
/// least, and a party that had no answer by then is asked no second one.
pub async fn sharing<T>(patience: Option<Duration>, work: impl Future<Output = T>) -> T {
    PATIENCE.scope(Patience { at_most: patience, lost_with: Mutex::default() }, work).await
}

/// The shorter one of this deadline and of the patience with which the work at hand is done.
pub(super) fn patient(deadline: Duration) -> Duration {
    let at_most = PATIENCE.try_with(|patience| patience.at_most).ok().flatten();
    at_most.map_or(deadline, |at_most| deadline.min(at_most))
}

/// Of each party, by its name.
#[derive(Debug, Default)]
pub(super) struct Silences(Mutex<BTreeMap<String, Heard>>);

/// What was heard of one party.
#[derive(Debug, Default)]
struct Heard {
    /// The last answer.
    answered: Option<Instant>,
    /// How long its slower answers took of late.
    usual: Option<Duration>,
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
    usual: Option<Duration>,
    end: End,
}

/// What became of a question.
#[derive(Clone, Copy, Debug)]
enum End {
    Unanswered,
    /// Whoever is refused at once has met no silence.
    Refused,
    Answered,
}

impl Silences {
    /// # Errors
    /// Where the work at hand shares the silence and nobody is to be asked now: for how long, in words.
    pub fn ask(&self, party: &str) -> Result<Asked<'_>, String> {
        let now = Instant::now();
        let mut all = self.all();
        let heard = all.entry(party.into()).or_default();
        if let Some(waited) = lost_patience(party, heard.usual) {
            return Err(format!("has not answered within {}", duration::format(waited)));
        }
        let mut is_the_one = false;
        if let Some(silent) = &mut heard.silent {
            if !silent.asked && now >= silent.next {
                silent.asked = true;
                is_the_one = true;
            } else if PATIENCE.try_with(|_| ()).is_ok() {
                let lasts = Duration::from_secs((now - silent.since).as_secs());
                return Err(format!("has not answered for {}", duration::format(lasts)));
            }
        }
        let usual = heard.usual;
        Ok(Asked { silences: self, party: party.into(), began: now, is_the_one, usual, end: End::Unanswered })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For how long the work at hand waits for a party whose answers take so long.
fn patience_for(usual: Option<Duration>) -> Option<Duration> {
    let at_most = PATIENCE.try_with(|patience| patience.at_most).ok().flatten()?;
    Some(usual.map_or(at_most, |usual| at_most.min(LEAST_PATIENCE.max(usual * TIMES_ITS_USUAL))))
}

/// For how long the work at hand has waited for this party in vain.
fn lost_patience(party: &str, usual: Option<Duration>) -> Option<Duration> {
    let lost = |patience: &Patience| patience.lost_with.lock().unwrap_or_else(PoisonError::into_inner).contains(party);
    if PATIENCE.try_with(lost).unwrap_or(false) { patience_for(usual) } else { None }
}

impl Asked<'_> {
    /// The answer, by the deadline, or by the work's patience where that is shorter; `late` makes an error of none, and
    /// `is_silence` tells an error by which nobody was reached.
    pub async fn answer<T, E>(
        mut self,
        deadline: Duration,
        call: impl Future<Output = Result<T, E>> + Send,
        is_silence: impl FnOnce(&E) -> bool + Send,
        late: impl FnOnce(String) -> E + Send,
    ) -> Result<T, E> {
        let patience = patience_for(self.usual).filter(|patience| *patience < deadline);
        let within = patience.unwrap_or(deadline);
        let Ok(answer) = tokio::time::timeout(within, call).await else {
            if patience.is_some() {
                let lose = |work: &Patience| {
                    work.lost_with.lock().unwrap_or_else(PoisonError::into_inner).insert(self.party.clone())
                };
                let _ = PATIENCE.try_with(lose);
            }
            return Err(late(format!("no answer within {}", duration::format(within))));
        };
        self.end = match &answer {
            Err(error) if is_silence(error) => match self.began.elapsed() < SILENT_AFTER {
                true => End::Refused,
                false => End::Unanswered,
            },
            _ => End::Answered,
        };
        answer
    }
}

/// One that was given up meanwhile is as one that was not answered.
impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now - self.began;
        let mut all = self.silences.all();
        let heard = all.entry(self.party.clone()).or_default();
        match self.end {
            End::Answered => {
                let fading = heard.usual.map_or(Duration::ZERO, |usual| usual * 3 / 4);
                *heard = Heard { answered: Some(now), usual: Some(took.max(fading)), silent: None };
            }
            End::Refused => {
                heard.answered = Some(now);
                heard.silent = None;
            }
            End::Unanswered if self.is_the_one => {
                if let Some(silent) = &mut heard.silent {
                    silent.asked = false;
                    silent.pause = (silent.pause * 2).min(LONGEST_PAUSE);
                    silent.next = now + silent.pause;
                }
            }
            // One slow question of a party that answers others is no silence.
            End::Unanswered if took >= SILENT_AFTER && heard.answered.is_none_or(|answered| answered < self.began) => {
                let begins = || Silent { since: self.began, asked: false, next: now + FIRST_PAUSE, pause: FIRST_PAUSE };
                let silent = heard.silent.get_or_insert_with(begins);
                silent.since = silent.since.min(self.began);
            }
            End::Unanswered => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    async fn after(seconds: f64) {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// What a party says after so long.
    async fn says(asked: Asked<'_>, seconds: f64, answer: Result<(), &'static str>) -> Result<(), String> {
        let call = async {
            after(seconds).await;
            answer.map_err(String::from)
        };
        asked.answer(LONG, call, |error| error == "nobody there", |late| late).await
    }

    const NOBODY: Result<(), &str> = Err("nobody there");

    #[tokio::test(start_paused = true)]
    async fn one_question_at_a_time_is_asked_of_who_is_silent_and_the_others_hear_for_how_long() {
        let silences = Silences::default();
        let ask = async |party| sharing(None, async { silences.ask(party) }).await;
        // Asked together, before anybody knows.
        let [one, other] = [ask("consul").await.unwrap(), ask("consul").await.unwrap()];
        let _ = tokio::join!(says(one, 5.0, NOBODY), says(other, 5.0, NOBODY));
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
        says(ask("consul").await.unwrap(), 0.0, Ok(())).await.unwrap();
        let both = [ask("consul").await, ask("consul").await];
        assert!(both.iter().all(Result::is_ok), "one answer ends it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_refuses_at_once_or_answers_late_or_answers_others_is_not_silent() {
        let silences = Silences::default();
        let ask = async || sharing(None, async { silences.ask("consul") }).await;
        says(ask().await.unwrap(), 0.0, NOBODY).await.unwrap_err();
        says(ask().await.unwrap(), 3.0, Err("it is somebody else's")).await.unwrap_err();
        says(ask().await.unwrap(), 3.0, Ok(())).await.unwrap();

        let never = says(ask().await.unwrap(), 6.0, NOBODY);
        let meanwhile = async {
            after(3.0).await;
            says(ask().await.unwrap(), 0.0, Ok(())).await
        };
        let _ = tokio::join!(never, meanwhile);
        assert!(ask().await.is_ok(), "others were answered meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_cannot_wait_waits_by_what_is_usual_and_asks_a_party_once() {
        let silences = Silences::default();
        let hurried = async |seconds| {
            sharing(Some(SILENT_AFTER), async {
                let began = Instant::now();
                let first = says(silences.ask("consul").unwrap(), seconds, Ok(())).await;
                (first, began.elapsed(), silences.ask("consul").map(drop))
            })
            .await
        };
        let (first, took, second) = hurried(60.0).await;
        assert_eq!(
            (first.unwrap_err().as_str(), took),
            ("no answer within 1s", SILENT_AFTER),
            "nothing is known of it"
        );
        assert_eq!(second.unwrap_err(), "has not answered within 1s");

        after(1.0).await;
        says(silences.ask("consul").unwrap(), 0.02, Ok(())).await.unwrap();
        let (first, took, second) = hurried(60.0).await;
        assert_eq!((first.unwrap_err().as_str(), took), ("no answer within 80ms", Duration::from_millis(80)));
        assert_eq!(second.unwrap_err(), "has not answered within 80ms");
        let (first, ..) = hurried(0.07).await;
        first.expect("it is only slow, and no other work has lost patience with it");
        let is_asked = sharing(None, async { silences.ask("consul").map(drop) }).await;
        is_asked.expect("who can wait has met no silence");
    }
}
