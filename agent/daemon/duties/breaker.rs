//! The breaker: a policy whose action did not help a service twice, or of whose actions nobody saw three times in a row
//! whether they helped, only says what it would do for it, until a person
//! re-arms it.

use crate::decide::escalation::{BREAKER_MEMORY, breaks};
use crate::model::{EventKind, IncidentId, Message, Policy, Reason, ServiceName, duration};
use crate::store::{Breaker, Store, StoreError};
use crate::wiring::Wiring;

/// The breaker that is open, or that is to be.
pub fn standing(
    wiring: &Wiring,
    store: &Store,
    policy: &Policy,
    service: &ServiceName,
) -> Result<Option<Breaker>, StoreError> {
    if let Some(open) = store.breaker(&policy.name, service)? {
        return Ok(Some(open));
    }
    let now = wiring.host.clock.now();
    let attempts = store.attempts(&policy.name, service, now, BREAKER_MEMORY)?;
    Ok(breaks(policy, &attempts).map(|attempt| Breaker {
        policy: policy.name.clone(),
        service: service.to_string(),
        runbook: attempt.runbook.clone(),
        incident: attempt.incident.clone(),
        since: now,
    }))
}

/// Is the breaker open? One that is to be is opened, and told. Asked after each incident, and before each decision: an
/// agent that died in between forgets nothing.
pub fn is_open(wiring: &Wiring, store: &Store, policy: &Policy, service: &ServiceName) -> bool {
    let breaker = match standing(wiring, store, policy, service) {
        Ok(Some(breaker)) => breaker,
        Ok(None) => return false,
        Err(error) => {
            tracing::error!(
                %error,
                %service,
                "cannot read how earlier actions on {service} ended: {error}; policy {} does not act on it until they \
                 can be read",
                policy.name,
            );
            return true;
        }
    };
    let message = message(wiring, &breaker, why(store, &breaker), service);
    match store.open_breaker(&breaker, &wiring.audience, &message) {
        Ok(true) => (wiring.host.on_message)(&message),
        Ok(false) => {}
        Err(error) => tracing::error!(
            %error,
            %service,
            "cannot store the circuit breaker of {service} and policy {}: {error}; it counts as open, and the policy \
             does not act on the service",
            policy.name,
        ),
    }
    true
}

/// What its last incident says of the runbook.
pub fn why(store: &Store, breaker: &Breaker) -> &'static str {
    let last = store.incident(&IncidentId(breaker.incident.clone())).ok().flatten();
    match last.and_then(|row| row.reason) {
        Some(reason) if reason.is(Reason::Unverified) => "was not seen to help, three times in a row",
        _ => "did not help",
    }
}

fn message(wiring: &Wiring, breaker: &Breaker, why: &str, service: &ServiceName) -> Message {
    let reason = Reason::BreakerOpen;
    let Breaker { policy, runbook, incident, .. } = breaker;
    Message {
        labels: wiring.labels(),
        service: Some(service.clone()),
        policy: Some(policy.clone()),
        reason: Some(reason),
        lines: vec![
            format!("The runbook {runbook} {why}, and had no success in {}.", duration::format(BREAKER_MEMORY)),
            format!(
                "Until a person re-arms the policy {policy} for {service}, unwait only tells what it would do (dry-run)."
            ),
            format!("look:   unwait show {incident}"),
            format!("re-arm: unwait rearm {policy} --service {service}"),
        ],
        ..Message::new(
            EventKind::Stuck,
            &wiring.host.name,
            wiring.host.clock.now(),
            format!("{service} on {}: {policy} goes back to dry-run", wiring.host.name),
        )
    }
}
