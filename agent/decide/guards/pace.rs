//! How often, and how many at once: the cooldown, the budgets, the sagas that are under way, the jitter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use jiff::Timestamp;

use super::{Answer, Gate, Guard, Question, Verdict, deny, text, whole_seconds};
use crate::model::moment::after;
use crate::model::{Reason, ServiceName, Trigger, duration};

/// An incident that ended before it changed anything is tried again after this part of the cooldown: 5m of 30m.
const RETRY_SHARE: u32 = 6;

impl Gate {
    pub(super) fn cooldown(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        if question.own_saga {
            return Ok(Verdict::Allow);
        }
        let now = self.clock.now();
        let last = self.store.last_ended(&plan.target.service, plan.dry_run, now).map_err(text)?;
        let cooldown = plan.limits.cooldown;
        let holds = [
            (last.with_effect, cooldown, "the last incident ended"),
            // What ended before it changed anything is tried again sooner, but not at every tick: people are told
            // of each.
            (last.without, cooldown / RETRY_SHARE, "the last incident ended before it changed anything,"),
        ];
        let longest = holds
            .into_iter()
            .filter_map(|(ended, hold, what)| ended.map(|ended| (after(ended, hold), ended, what)))
            .max_by_key(|(until, ..)| *until);
        Ok(match longest {
            Some((until, ended, what)) if now < until => {
                Verdict::Defer { until, reason: Reason::Cooldown, detail: format!("{what} at {ended}") }
            }
            _ => Verdict::Allow,
        })
    }

    pub(super) fn budgets(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let now = self.clock.now();
        let limits = plan.limits;
        let under_way = self.may_yet_change(question)?;
        for (scope, budget, reason) in [
            (Some(&plan.target.service), limits.per_service, Reason::ServiceBudget),
            (None, limits.per_host, Reason::HostBudget),
        ] {
            let mut began =
                self.store.changes_since(scope, plan.dry_run, now, budget.per, &plan.incident).map_err(text)?;
            let open = under_way.iter().filter(|(service, _)| scope.is_none_or(|scope| scope == service));
            began.extend(open.map(|(_, began)| *began));
            began.sort_unstable();
            if began.len() as u64 >= u64::from(budget.incidents) {
                let detail =
                    format!("{} incidents have begun or are under way, and the budget is {budget}", began.len());
                // One leaves the window when the oldest that counts is as old as the window is long; one that is under
                // way may be older, and leaves when it ends.
                let leaves = began.len() - budget.incidents.min(began.len() as u32) as usize;
                let until = began.get(leaves).map(|oldest| after(*oldest, budget.per)).filter(|until| *until > now);
                return Ok(match until {
                    Some(until) => Verdict::Defer { until, reason, detail },
                    None => Verdict::Deny { reason, detail },
                });
            }
        }
        Ok(Verdict::Allow)
    }

    /// The incidents under way that have changed nothing yet, but may at any moment: their place in the budget is taken
    /// from their beginning. Otherwise two that are asked together, just before their first change, would both pass.
    ///
    /// One that began after the asker's own does not count: where both are limited by each other, the first goes on.
    fn may_yet_change(&self, question: &Question<'_>) -> Result<Vec<(ServiceName, Timestamp)>, String> {
        let asker = &question.plan.incident;
        let own = self.store.incident(asker).map_err(text)?.map(|row| (row.began, row.incident));
        let mut found = Vec::new();
        for plan in self.store.open_plans().map_err(text)? {
            if plan.incident == *asker || plan.dry_run != question.plan.dry_run || !plan.changes_anything() {
                continue;
            }
            let Some(row) = self.store.incident(&plan.incident).map_err(text)? else { continue };
            let earlier = own.as_ref().is_none_or(|own| (row.began, &row.incident) < (own.0, &own.1));
            if !row.changed && earlier {
                found.push((plan.target.service, row.began));
            }
        }
        Ok(found)
    }

    pub(super) fn jitter(&self, question: &Question<'_>) -> Answer {
        let Some(breached) = question.breached.filter(|_| !question.own_saga) else { return Ok(Verdict::Allow) };
        let delay = delay(&self.host, &question.plan.target.service, breached, question.jitter);
        let left = (breached + delay).saturating_sub(self.clock.monotonic());
        if left.is_zero() {
            return Ok(Verdict::Allow);
        }
        let (ours, most) = (duration::format(whole_seconds(delay)), duration::format(question.jitter));
        let detail = format!(
            "this host waits {ours} (of at most {most}) after a breach, so that hosts do not act at the same time"
        );
        Ok(Verdict::Defer { until: self.clock.now() + left, reason: Reason::Jitter, detail })
    }

    /// A person who starts a plan has looked.
    pub(super) fn calm(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let Some(calm) = plan.guards.calm.filter(|_| plan.trigger == Trigger::Breach) else {
            return Ok(Verdict::Allow);
        };
        let now = self.clock.now();
        let Some((guard, last)) = self.store.unrest(&plan.policy, &plan.target.service, now).map_err(text)? else {
            return Ok(Verdict::Allow);
        };
        let until = after(last, calm);
        if now >= until {
            return Ok(Verdict::Allow);
        }
        let left = duration::format(whole_seconds(until.duration_since(now).unsigned_abs()));
        let calm = duration::format(calm);
        let detail = format!("{guard} refused last at {last:.0}; held until it has been calm for {calm}: {left} left");
        Ok(Verdict::Defer { until, reason: Reason::NotCalm, detail })
    }

    /// One that could not be asked has refused too. What cannot be noted is seen again at the next look, and holds until then.
    pub(super) fn note_unrest(&self, guard: Guard, question: &Question<'_>) {
        let plan = question.plan;
        if matches!(guard, Guard::CommonCause | Guard::MinHealthy) && plan.guards.calm.is_some() {
            let noted = self.store.note_unrest(&plan.policy, &plan.target.service, guard.into(), self.clock.now());
            if let Err(error) = noted {
                let service = &plan.target.service;
                tracing::warn!(%error, %service, %guard, "cannot note that {guard} refused for {service}: {error}");
            }
        }
    }

    pub(super) fn one_saga(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let open = self.store.open_plans().map_err(text)?;
        let others: Vec<_> = open.iter().filter(|open| open.incident != plan.incident).collect();
        if let Some(same) = others.iter().find(|open| open.target.service == plan.target.service) {
            return Ok(deny(Reason::SagaRunning, format!("incident {} is under way on the service", same.incident)));
        }
        let real = others.iter().filter(|open| !open.dry_run).count();
        if !question.own_saga && !plan.dry_run && real >= self.max_parallel {
            let detail = format!("{real} of at most {} incidents are under way on this host", self.max_parallel);
            return Ok(deny(Reason::SagaRunning, detail));
        }
        Ok(Verdict::Allow)
    }
}

/// This host's share of the jitter for one breach: the same at every tick, another on another host. Below `jitter`.
fn delay(host: &str, service: &ServiceName, breached: Duration, jitter: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    (host, service, breached).hash(&mut hasher);
    match u64::try_from(jitter.as_millis()) {
        Ok(millis @ 1..) => Duration::from_millis(hasher.finish() % millis),
        _ => Duration::ZERO,
    }
}
