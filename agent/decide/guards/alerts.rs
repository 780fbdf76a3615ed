//! Alerts that others watch: while one fires that the policy names, it holds.

use super::{Answer, Gate, Question, Verdict, deny};
use crate::model::Reason;

/// Alerts that are named; of further ones, how many.
const NAMED: usize = 3;

impl Gate {
    pub(super) async fn alerts(&self, question: &Question<'_>) -> Answer {
        let selectors = &question.plan.guards.alerts;
        if selectors.is_empty() {
            return Ok(Verdict::Allow);
        }
        let Some(alerts) = &self.ports.alerts else { return Err("agent.yaml has no `prometheus`".into()) };
        let mut firing = alerts.firing(selectors).await?;
        if firing.is_empty() {
            return Ok(Verdict::Allow);
        }
        firing.sort_unstable();
        let named: Vec<String> = firing.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match firing.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Ok(deny(Reason::AlertsFiring, format!("firing: {}{more}", named.join(", "))))
    }
}
