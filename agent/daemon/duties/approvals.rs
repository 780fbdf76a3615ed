//! `mode: approve`: people are asked about a plan, and say their word over the control socket.

use super::orders::Order;
use crate::model::changes::changes;
use crate::model::plan::short_hash;
use crate::model::{EventKind, Message, Mode, Plan, Policy, Reason, ServiceName, duration};
use crate::store::{Approval, ApprovalState, Decided, Store, StoreError, Word};
use crate::view::request::Reply;
use crate::wiring::Wiring;

/// Asks people about a plan that nothing but their word is missing to. Where that cannot be written, the next look tries
/// again.
pub fn ask(wiring: &Wiring, store: &Store, policy: &Policy, plan: &Plan, why: Vec<String>) {
    let now = wiring.host.clock.now();
    let hash = plan.hash();
    let approval = Approval {
        id: id(&hash, now),
        policy: plan.policy.clone(),
        service: plan.target.service.to_string(),
        runbook: plan.runbook.clone(),
        hash,
        created: now,
        expires: now + policy.limits.approval_expires,
        state: ApprovalState::Pending,
        who: None,
        why: None,
        decided: None,
    };
    let matters = plan.matters();
    let asked = since_last(store, &approval, plan).and_then(|changed| {
        let message = message(wiring, plan, &approval, policy, why, changed);
        Ok((store.ask_approval(&approval, &matters, &wiring.audience, &message)?, message))
    });
    match asked {
        Ok((true, message)) => (wiring.host.on_message)(&message),
        Ok((false, _)) => {}
        Err(error) => {
            tracing::error!(
                %error,
                service = approval.service,
                "cannot store the request for approval of {} on {}: {error}; asking again at the next breach",
                approval.runbook,
                approval.service,
            )
        }
    }
}

/// What is another in this plan than in the one that people were asked about last, and that never began.
fn since_last(store: &Store, now: &Approval, plan: &Plan) -> Result<Vec<String>, StoreError> {
    let last = store.approval(&plan.policy, &plan.target.service, now.created)?;
    let stands = |last: &Approval| matches!(last.state, ApprovalState::Pending | ApprovalState::Approved);
    let Some(last) = last.filter(|last| stands(last) && last.hash != now.hash) else { return Ok(Vec::new()) };
    let mut lines =
        vec![format!("asked anew: the plan changed since {} was asked ({})", last.id, short_hash(&last.hash))];
    if let Some(was) = store.asked_plan(&last.id)? {
        lines.extend(changes(&was, &plan.matters()).into_iter().map(|change| format!("  {change}")));
    }
    Ok(lines)
}

/// Eight hex digits that a person can type.
fn id(hash: &str, now: jiff::Timestamp) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{hash} {}", now.as_nanosecond()));
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn message(
    wiring: &Wiring,
    plan: &Plan,
    approval: &Approval,
    policy: &Policy,
    why: Vec<String>,
    changed: Vec<String>,
) -> Message {
    let service = &plan.target.service;
    let steps: Vec<&str> = plan.steps.iter().map(|planned| planned.step.name()).collect();
    let mut lines = why;
    lines.extend(changed);
    lines.extend(plan.rung.clone());
    lines.push(format!("steps: {}", steps.join(", ")));
    lines.push(format!("look:   unwait plan {service} --policy {}", plan.policy));
    let (id, hash) = (&approval.id, short_hash(&approval.hash));
    lines.push(format!("decide: unwait approve {id} {hash}   (or: unwait deny {id} --why TEXT)"));
    lines.push(format!(
        "It expires in {}, at {}; it is for the plan {hash} alone, and for once.",
        duration::format(policy.limits.approval_expires),
        approval.expires
    ));
    Message {
        labels: wiring.labels(),
        service: Some(service.clone()),
        policy: Some(plan.policy.clone()),
        reason: Some(Reason::AwaitingApproval),
        lines,
        ..Message::new(
            EventKind::Approval,
            &wiring.host.name,
            approval.created,
            format!("{service} on {}: may {} begin? ({})", wiring.host.name, plan.runbook, approval.id),
        )
    }
}

/// What no policy asks for any more, once the configuration is another one, is not to be decided either.
pub fn withdraw(wiring: &Wiring, store: &Store) {
    let withdrawn = store.open_approvals(wiring.host.clock.now()).and_then(|open| {
        let stale = open.iter().filter(|approval| !is_asked_for(wiring, approval));
        stale.map(|approval| &approval.id).try_for_each(|id| {
            tracing::info!(id, "approval {id} is withdrawn: no policy asks for it since the configuration changed");
            store.withdraw_approval(id)
        })
    });
    if let Err(error) = withdrawn {
        tracing::error!(
            %error,
            "cannot withdraw approvals that no policy asks for since the configuration changed: {error}; `unwait \
             status` still shows them",
        );
    }
}

fn is_asked_for(wiring: &Wiring, approval: &Approval) -> bool {
    let Ok(service) = ServiceName::parse(&approval.service) else { return false };
    let mut policies = wiring.config.selecting(&service).into_iter();
    policies.any(|policy| policy.name == approval.policy && policy.mode == Mode::Approve)
}

/// A person's word. What was approved begins at the next look, if the plan is the same then and no guard is against it.
pub fn decide(store: &Store, id: &str, word: &Word<'_>, order: Order) {
    match store.decide_approval(id, word) {
        Ok(Decided::Yes(approval)) => {
            let Approval { runbook, service, .. } = &approval;
            let said = match word.approved {
                true => format!(
                    "{runbook} of {service} is approved. It begins at the next look, unless the plan has changed by then \
                     or a guard holds it"
                ),
                false => format!("{runbook} of {service} is denied for as long as a cooldown"),
            };
            order.of(service).answer(Reply::done(said));
        }
        Ok(Decided::TooLate(approval)) => {
            let service = approval.service.clone();
            order.of(&service).answer(Reply::refused(too_late(id, approval, word.at)));
        }
        Ok(Decided::PlanNotNamed(approval)) => {
            let Approval { service, policy, hash, .. } = &approval;
            let hash = short_hash(hash);
            let read = match word.hash {
                Some(read) => format!("{id} is about the plan {hash}, not {read}"),
                None => format!("{id} was not approved: the command does not name the plan that you have read"),
            };
            let said = format!(
                "{read}; read it by `unwait plan {service} --policy {policy}`, then: unwait approve {id} {hash}"
            );
            order.of(service).answer(Reply::refused(said));
        }
        Ok(Decided::Unknown) => order.answer(Reply::refused(format!("no approval `{id}`; `unwait status` shows them"))),
        Err(error) => order.answer(Reply::refused(error.to_string())),
    }
}

fn too_late(id: &str, approval: Approval, now: jiff::Timestamp) -> String {
    match approval.state {
        ApprovalState::Pending => format!("{id} expired at {}", approval.expires),
        ApprovalState::Approved if now >= approval.expires => {
            let who = approval.who.unwrap_or_default();
            format!("{id} was approved by {who}, could not begin, and expired at {}", approval.expires)
        }
        ApprovalState::Replaced => format!(
            "the request {id} is closed: another plan has taken its place, and nothing was decided; `unwait status` shows the open requests"
        ),
        state => format!("{id} is {state} already; `unwait status` shows what is to be decided"),
    }
}
