//! An owner's word on this very plan.

use serde_json::json;

use super::{Answer, Gate, Question, Verdict, deny};
use crate::model::Reason;

/// Of the question. A key that is added later changes nothing for who reads the others.
const VERSION: u32 = 1;

impl Gate {
    /// Asked in dry-run too: it is a question, and what it says belongs to what would have been done. The plan says `dry_run`.
    pub(super) async fn veto(&self, question: &Question<'_>) -> Answer {
        let plan = question.plan;
        let Some(command) = &plan.guards.veto else { return Ok(Verdict::Allow) };
        let asked = json!({
            "version": VERSION,
            "host": self.host,
            "hash": plan.hash(),
            "under_way": question.own_saga,
            "plan": plan,
        });
        let no = self.ports.vetoes.ask(command, &asked.to_string()).await?;
        Ok(no.map_or(Verdict::Allow, |why| deny(Reason::Vetoed, why)))
    }
}
