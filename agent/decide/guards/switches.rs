//! What stops the whole agent, or a service, by a word: its own trust in itself, a pause, a silence, the warm-up.

use super::{Answer, Gate, Question, Verdict, deny, text, whole_seconds};
use crate::model::{Reason, Trigger, duration};
use crate::store::Health;

impl Gate {
    pub(super) fn trust(&self) -> Answer {
        Ok(match self.store.health() {
            Health::Sound => Verdict::Allow,
            Health::Failing => deny(Reason::ObserveOnly, Reason::ObserveOnly.says()),
            hangs @ Health::Hanging(_) => deny(Reason::ObserveOnly, hangs.says().unwrap_or_default()),
        })
    }

    /// A policy is in dry-run then; this is for people, and for what a former agent began.
    pub(super) fn mode_at_most(&self, question: &Question<'_>) -> Answer {
        Ok(match &self.mode_at_most {
            Some(ceiling) if !ceiling.mode.acts() && !question.plan.dry_run => deny(
                Reason::ModeAtMost,
                format!(
                    "{ceiling} lets nobody act on this host; `unwait act {} --dry-run` is possible",
                    question.plan.target.service
                ),
            ),
            _ => Verdict::Allow,
        })
    }

    pub(super) fn paused(&self) -> Answer {
        let Some(pause) = self.store.paused(self.clock.now()).map_err(text)? else { return Ok(Verdict::Allow) };
        let detail = format!("paused by {} since {}: {}", pause.who, pause.since, pause.why);
        Ok(match pause.until {
            Some(until) => Verdict::Defer { until, reason: Reason::Paused, detail },
            None => Verdict::Deny { reason: Reason::Paused, detail },
        })
    }

    pub(super) fn warm_up(&self, question: &Question<'_>) -> Answer {
        let watched = self.clock.monotonic().saturating_sub(self.started);
        let left = self.warm_up.saturating_sub(watched);
        // A plan that a person started does not wait for the agent to have watched.
        if left.is_zero() || question.own_saga || question.plan.trigger != Trigger::Breach {
            return Ok(Verdict::Allow);
        }
        let detail = format!("the agent started {} ago", duration::format(whole_seconds(watched)));
        Ok(Verdict::Defer { until: self.clock.now() + left, reason: Reason::WarmUp, detail })
    }

    pub(super) fn silence(&self, question: &Question<'_>) -> Answer {
        let silences = self.store.silences(self.clock.now()).map_err(text)?;
        let ours = silences.into_iter().filter(|silence| silence.concerns(&question.plan.target.service));
        let Some(longest) = ours.max_by_key(|silence| silence.until) else { return Ok(Verdict::Allow) };
        let what = longest.service.as_deref().unwrap_or("the host");
        let lasts = if longest.until_clear { " until its condition is over" } else { "" };
        let detail = format!("{what} was silenced by {} at {}{lasts}: {}", longest.who, longest.since, longest.why);
        Ok(Verdict::Defer { until: longest.until, reason: Reason::Silenced, detail })
    }
}
