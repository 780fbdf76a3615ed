//! What the service itself, and the configuration of it, say: lacking, latched, protected, unstable, out of traffic.

use std::time::Duration;

use super::{Answer, Gate, Question, Verdict, deny, text, whole_seconds};
use crate::model::{IncidentId, Marker, Reason, Trigger, duration};
use crate::ports::registry::Traffic;
use crate::ports::restarter::RunState;

/// A service that is silent for so long can be asked.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

pub(super) fn actionable(question: &Question<'_>) -> Answer {
    Ok(match question.lacks {
        [] => Verdict::Allow,
        lacks => deny(Reason::NotActionable, lacks.join("; ")),
    })
}

/// A person who starts a plan has looked.
pub(super) fn rungs(question: &Question<'_>) -> Answer {
    Ok(match question.rungs_spent {
        Some(until) if question.plan.trigger == Trigger::Breach => {
            let detail = question.plan.rung.clone().unwrap_or_default();
            Verdict::Defer { until, reason: Reason::RungsSpent, detail }
        }
        _ => Verdict::Allow,
    })
}

pub(super) fn protected(question: &Question<'_>) -> Answer {
    Ok(match question.protected {
        Some(why) if !question.named_in_full => {
            deny(Reason::Protected, format!("{why}; a policy must name the service in full"))
        }
        _ => Verdict::Allow,
    })
}

impl Gate {
    pub(super) fn latch(&self, question: &Question<'_>) -> Answer {
        Ok(match self.store.latch(&question.plan.target.service).map_err(text)? {
            None => Verdict::Allow,
            Some(latch) => deny(
                Reason::Latched,
                format!(
                    "incident {} ended stuck ({}); look at it with `unwait show`, decide with `unwait resolve {}`",
                    latch.incident, latch.reason, latch.service
                ),
            ),
        })
    }

    pub(super) async fn stable(&self, question: &Question<'_>) -> Answer {
        let Some(restart) = &question.plan.target.restart else { return Ok(Verdict::Allow) };
        let restarter = self.ports.restarter(restart);
        let now = restarter.observe(restart).await.map_err(text)?;
        match now.state {
            RunState::Active => {}
            RunState::Changing => {
                return Ok(deny(Reason::Unstable, "the service is starting, stopping, or has a job under way"));
            }
            RunState::Frozen => return Ok(deny(Reason::Frozen, Reason::Frozen.says())),
            state => return Ok(deny(Reason::NotActive, format!("the service is {state}"))),
        }
        if !question.own_saga {
            let up_for = now.up_for.ok_or("the time of the service's start is unknown")?;
            if up_for < question.grace {
                let detail = format!("the service was started {} ago", duration::format(whole_seconds(up_for)));
                let until = self.clock.now() + (question.grace - up_for);
                return Ok(Verdict::Defer { until, reason: Reason::RecentlyRestarted, detail });
            }
        }
        if let Some(planned) = &question.plan.incarnation
            && now.incarnation.as_ref() != Some(planned)
        {
            return Ok(deny(Reason::IncarnationChanged, "another process runs than the one that was measured"));
        }
        Ok(Verdict::Allow)
    }

    pub(super) async fn starts_again(&self, question: &Question<'_>) -> Answer {
        let Some(restart) = question.plan.target.restart.as_ref().filter(|_| question.plan.restarts()) else {
            return Ok(Verdict::Allow);
        };
        let why = self.ports.restarter(restart).would_not_start(restart).await.map_err(text)?;
        Ok(why.map_or(Verdict::Allow, |why| deny(Reason::WouldNotStart, why)))
    }

    pub(super) async fn out_of_traffic(&self, question: &Question<'_>) -> Answer {
        let own = Marker { incident: question.plan.incident.clone(), host: self.host.clone() };
        for binding in &question.plan.target.bindings {
            let registry = self.registry(&binding.registry)?;
            let registration = registry.observe(&binding.id).await.map_err(text)?;
            let place = format!("{}/{}", binding.registry, binding.id);
            match registration.traffic {
                Traffic::Passing => {}
                Traffic::DrainedBy(marker) if question.own_saga && marker == own => {}
                // No other hand: this host's own incident, which the guard of one saga a service speaks of.
                Traffic::DrainedBy(marker) if marker.host == self.host && self.is_open(&marker.incident)? => {}
                Traffic::DrainedBy(marker) => {
                    let detail = format!("{place} is drained by incident {} of {}", marker.incident, marker.host);
                    return Ok(deny(Reason::OutOfTraffic, detail));
                }
                Traffic::Isolated { reason } => {
                    return Ok(deny(Reason::OutOfTraffic, format!("{place} was taken out: {reason}")));
                }
                // Nobody's hand: its leak may be why. Whether the others are well is asked by the guards of the fleet.
                Traffic::Failing => {}
            }
        }
        Ok(Verdict::Allow)
    }

    /// A certificate that is not believed, a name without an address, a missing program: after the restart nobody could say that
    /// the service is healthy, and it would stay drained.
    pub(super) async fn probe(&self, question: &Question<'_>) -> Answer {
        let Some(health) = &question.plan.target.health else { return Ok(Verdict::Allow) };
        Ok(match self.ports.probe.can_be_asked(health, PROBE_DEADLINE).await {
            Ok(()) => Verdict::Allow,
            Err(failure) => deny(Reason::ProbeUnusable, failure.to_string()),
        })
    }

    pub(super) async fn held_here(&self, question: &Question<'_>) -> Answer {
        Ok(match self.possession.elsewhere(question.plan, question.own_saga).await? {
            None => Verdict::Allow,
            Some(who) => deny(Reason::HeldElsewhere, who),
        })
    }

    fn is_open(&self, incident: &IncidentId) -> Result<bool, String> {
        Ok(self.store.incident(incident).map_err(text)?.is_some_and(|row| row.ended.is_none()))
    }
}
