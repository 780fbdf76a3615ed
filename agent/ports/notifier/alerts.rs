//! Messages as alerts, for destinations that keep one open until it is said to be over.

use crate::model::{EventKind, Message, Outcome};

/// What a message does to an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert<'a> {
    pub of: Subject<'a>,
    pub change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Opens,
    /// The agent is at work on it.
    Takes,
    Ends,
}

/// Two messages of one subject are about the same alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A policy is breached on a service.
    Breach { service: &'a str, policy: &'a str },
    /// An incident asks for a person.
    Incident { id: &'a str, service: &'a str },
    /// The agent itself, or the whole host.
    Host,
    /// `unwait notify test`.
    Test,
}

impl<'a> Alert<'a> {
    /// `None` where a message changes no alert: somebody asked for the event, and there is nothing to open or to end.
    pub fn of(message: &'a Message) -> Option<Self> {
        let service = message.service.as_ref().map_or("", |service| service.as_str());
        let breach = || match message.policy.as_deref() {
            Some(policy) if !service.is_empty() => Subject::Breach { service, policy },
            _ => Subject::Host,
        };
        let incident = || match &message.incident {
            Some(id) => Subject::Incident { id: &id.0, service },
            None => breach(),
        };
        let (of, change) = match message.event {
            EventKind::Breach | EventKind::Held => (breach(), Change::Opens),
            EventKind::Recovered => (breach(), Change::Ends),
            EventKind::Test => (Subject::Test, Change::Opens),
            EventKind::Operator if message.settled => (incident(), Change::Ends),
            EventKind::Review | EventKind::Operator => return None,
            // A dry run takes nothing in hand, and leaves nobody anything to do.
            _ if message.dry_run => return None,
            EventKind::Start | EventKind::Step => (breach(), Change::Takes),
            EventKind::Approval | EventKind::Stuck => (incident(), Change::Opens),
            EventKind::End if message.outcome == Some(Outcome::Stuck) => (incident(), Change::Opens),
            EventKind::End => (incident(), Change::Ends),
        };
        Some(Self { of, change })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::message;
    use super::*;

    #[test]
    fn a_message_opens_or_ends_the_alert_of_its_incident_or_of_its_breach() {
        let breach = Subject::Breach { service: "rpc-order.service", policy: "close-wait-leak" };
        let incident = Subject::Incident { id: "20261122T184329Z-rpc-order-1f3a", service: "rpc-order.service" };
        for (event, outcome, expected) in [
            (EventKind::Breach, None, Some((breach, Change::Opens))),
            (EventKind::Held, None, Some((breach, Change::Opens))),
            (EventKind::Start, None, Some((breach, Change::Takes))),
            (EventKind::Step, None, Some((breach, Change::Takes))),
            (EventKind::Recovered, None, Some((breach, Change::Ends))),
            (EventKind::Approval, None, Some((incident, Change::Opens))),
            (EventKind::Stuck, Some(Outcome::Stuck), Some((incident, Change::Opens))),
            (EventKind::End, Some(Outcome::Stuck), Some((incident, Change::Opens))),
            (EventKind::End, Some(Outcome::Completed), Some((incident, Change::Ends))),
            (EventKind::End, Some(Outcome::Unwound), Some((incident, Change::Ends))),
            (EventKind::Operator, None, None),
            (EventKind::Review, None, None),
            (EventKind::Test, None, Some((Subject::Test, Change::Opens))),
        ] {
            let message = Message { event, outcome, ..message() };
            let found = Alert::of(&message).map(|alert| (alert.of, alert.change));
            assert_eq!(found, expected, "{event}");
        }
        let settled = Message { event: EventKind::Operator, settled: true, ..message() };
        assert_eq!(Alert::of(&settled), Some(Alert { of: incident, change: Change::Ends }));
        for event in [EventKind::Start, EventKind::End, EventKind::Stuck] {
            assert_eq!(Alert::of(&Message { event, dry_run: true, ..message() }), None, "{event}");
        }
        let of_the_host = Message { event: EventKind::Stuck, service: None, policy: None, incident: None, ..message() };
        assert_eq!(Alert::of(&of_the_host), Some(Alert { of: Subject::Host, change: Change::Opens }));
    }
}
