//! What people tell the agent to do: written down before it is carried out, answered, and told to others.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::{EventKind, IncidentId, Message, ServiceName};
use crate::store::{AuditRow, OrderVerb, Store};
use crate::view::request::Reply;
use crate::wiring::Wiring;

/// An order that is not written down yet: that may wait for the disk, and the loop does not.
#[derive(Debug)]
pub struct OrderToBegin {
    pub row: AuditRow,
    /// Who waits for an answer.
    pub reply: Option<oneshot::Sender<Reply>>,
}

impl OrderToBegin {
    /// See [`Order::begin`].
    pub fn begin(self, store: &Arc<Store>) -> Order {
        Order::begin(store, self.row, self.reply)
    }
}

/// An order that is being carried out.
#[derive(Debug)]
pub struct Order {
    store: Arc<Store>,
    /// `None`: the disk did not take the row yet.
    id: Option<i64>,
    row: AuditRow,
    reply: Option<oneshot::Sender<Reply>>,
}

impl Order {
    /// Writes the order down. A disk that does not take it is no reason to refuse: what is done to a service that is out
    /// of traffic must be possible without one.
    pub fn begin(store: &Arc<Store>, row: AuditRow, reply: Option<oneshot::Sender<Reply>>) -> Self {
        let id = store.audit(&row).ok();
        Self { store: Arc::clone(store), id, row, reply }
    }

    /// Who gave it, and why where they said so.
    pub fn giver(&self) -> String {
        let AuditRow { who, why, .. } = &self.row;
        why.as_ref().map_or_else(|| who.clone(), |why| format!("{who}: {why}"))
    }

    pub fn of(mut self, service: &str) -> Self {
        self.row.service = Some(service.into());
        self
    }

    pub fn about(mut self, incident: Option<IncidentId>) -> Self {
        self.row.incident = incident;
        self
    }

    /// Notes what came of it, and answers who waits.
    pub fn answer(mut self, reply: Reply) {
        self.note(&reply);
        if let Some(waits) = self.reply.take() {
            // Whoever asked may have gone away; the answer is in the audit all the same.
            let _ = waits.send(reply);
        }
    }

    /// Notes what came of it, by the answer's first line.
    pub fn note(&mut self, reply: &Reply) {
        (self.row.done, self.row.detail) = (Some(reply.ok), reply.text.lines().next().unwrap_or_default().into());
        let noted = match self.id {
            Some(id) => self.store.audit_answer(id, &self.row),
            None => self.store.audit(&self.row).map(drop),
        };
        if let Err(error) = noted {
            let AuditRow { who, verb, detail, .. } = &self.row;
            tracing::error!(
                %error,
                who,
                %verb,
                detail,
                "cannot store in the audit what became of `{verb}` by {who} ({detail}): {error}; the agent retries as long as it runs",
            );
            self.store.keep_order(self.id, self.row.clone());
        }
    }
}

/// Answers what a former agent was asked and did not answer. A disk that does not take it keeps nobody from starting.
pub fn answer_left(store: &Store) {
    if let Err(error) = store.audit_left() {
        tracing::warn!(
            %error,
            "cannot store in the audit that the agent before this one left commands of persons without an answer: {error}; \
             the next start of the agent tries again",
        );
    }
}

/// Tells of what people did, also where no agent ran then, or the disk did not take it; each once.
pub fn tell(wiring: &Wiring, store: &Store) {
    tell_beside(wiring, store, None);
}

/// The same, where what came of a reload has just been told by a message of that event: who heard that knows.
pub fn tell_beside(wiring: &Wiring, store: &Store, told_of_reload: Option<EventKind>) {
    store.write_kept_orders();
    for row in store.tell_kept_orders() {
        let message = message(wiring, &row);
        (wiring.host.on_message)(&message);
        store.tell(&wiring.audience, &[message]);
    }
    let untold = match store.audit_untold() {
        Ok(untold) => untold,
        Err(error) => {
            return tracing::error!(%error, "the audit cannot be read, so nobody is told of its newest rows: {error}");
        }
    };
    for (id, row) in untold {
        let message = message(wiring, &row);
        let less = told_of_reload.filter(|_| row.verb == OrderVerb::Reload).map(|event| wiring.audience.without(event));
        match store.audit_told(id, less.as_ref().unwrap_or(&wiring.audience), &message) {
            Ok(true) => (wiring.host.on_message)(&message),
            Ok(false) => {}
            // Again at the next tick.
            Err(_) => return,
        }
    }
}

fn message(wiring: &Wiring, row: &AuditRow) -> Message {
    let host = &wiring.host.name;
    let (who, verb) = (&row.who, row.verb);
    let of = row.service.as_deref().unwrap_or("unwait");
    let title = match row.done {
        Some(true) => format!("{of} on {host}: {} by {who}", past(verb)),
        _ if row.is_unanswered() => format!("{of} on {host}: `{verb}` by {who}, and nobody knows what came of it"),
        _ => format!("{of} on {host}: `{verb}` by {who} was refused"),
    };
    let why = row.why.as_ref().map(|why| format!("why: {why}"));
    Message {
        labels: wiring.labels(),
        service: row.service.as_deref().and_then(|service| ServiceName::parse(service).ok()),
        incident: row.incident.clone(),
        settled: row.done == Some(true) && matches!(verb, OrderVerb::Resolve | OrderVerb::Approve | OrderVerb::Deny),
        lines: [row.detail.clone()].into_iter().chain(why).collect(),
        ..Message::new(EventKind::Operator, host, row.at, title)
    }
}

fn past(verb: OrderVerb) -> &'static str {
    match verb {
        OrderVerb::Pause => "paused",
        OrderVerb::Resume => "resumed",
        OrderVerb::Silence => "silenced",
        OrderVerb::EndSilence => "silence ended",
        OrderVerb::Approve => "plan approved",
        OrderVerb::Deny => "plan denied",
        OrderVerb::Resolve => "resolved",
        OrderVerb::Act => "plan started",
        OrderVerb::Rearm => "policy re-armed",
        OrderVerb::ReleaseSlot => "fleet slot given back",
        OrderVerb::Reload => "configuration reloaded",
    }
}
