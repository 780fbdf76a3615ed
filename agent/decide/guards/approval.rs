//! `mode: approve`: a person's word on this very plan.

use super::{Answer, Gate, Question, Verdict, deny, text};
use crate::model::Reason;
use crate::model::moment::after;
use crate::model::plan::short_hash;
use crate::store::ApprovalState;

impl Gate {
    /// Refuses by `needs_approval` where a person is to be asked, and by another reason while nobody is to be.
    pub(super) fn approval(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        if !question.needs_approval || question.own_saga {
            return Ok(Verdict::Allow);
        }
        let needs = |detail: String| Ok(deny(Reason::NeedsApproval, detail));
        let now = self.clock.now();
        let Some(last) = self.store.approval(&plan.policy, &plan.target.service, now).map_err(text)? else {
            return needs("nobody was asked yet".into());
        };
        let cooldown = plan.limits.cooldown;
        match last.state {
            ApprovalState::Denied => {
                let (at, who) = (last.decided.unwrap_or(last.created), last.who.unwrap_or_default());
                if now < after(at, cooldown) {
                    let why = last.why.map(|why| format!(": {why}")).unwrap_or_default();
                    let detail = format!("{who} denied {} at {at}{why}", last.id);
                    return Ok(Verdict::Defer { until: after(at, cooldown), reason: Reason::ApprovalDenied, detail });
                }
                needs(format!("{who} denied {} at {at}, which is long enough ago", last.id))
            }
            ApprovalState::Used | ApprovalState::Replaced => needs(format!("{} is used up", last.id)),
            ApprovalState::Pending | ApprovalState::Approved if last.hash != plan.hash() => {
                needs(format!("{} was requested for another plan", last.id))
            }
            ApprovalState::Pending | ApprovalState::Approved if now >= last.expires => {
                // Asked at once, people would be asked all night long.
                let until = after(last.expires, cooldown);
                if now < until {
                    let detail = match last.who {
                        Some(who) => {
                            format!("{who} approved {}; unused, it expired at {}", last.id, last.expires)
                        }
                        None => format!("{} expired at {}, and nobody had decided on it", last.id, last.expires),
                    };
                    return Ok(Verdict::Defer { until, reason: Reason::ApprovalExpired, detail });
                }
                needs(format!("{} expired at {}", last.id, last.expires))
            }
            ApprovalState::Pending => {
                let (id, hash) = (&last.id, short_hash(&last.hash));
                let detail = format!("decide: unwait approve {id} {hash}   (or: unwait deny {id})");
                Ok(Verdict::Defer { until: last.expires, reason: Reason::AwaitingApproval, detail })
            }
            ApprovalState::Approved => Ok(Verdict::Allow),
        }
    }
}
