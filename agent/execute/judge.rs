//! What a saga that has done every step came to: a statement about the very sockets that were leaked just before its pivot,
//! and about the policy's condition. Both have to be known.

use std::time::Duration;

use serde_json::Value;

use super::saga::{Event, Helped, LEAKED, Saga};
use super::world::World;
use crate::model::leaked::why_they_stay;
use crate::model::{Leaked, Plan, Remaining, Step, Truth};

const LOOK_EVERY: Duration = Duration::from_secs(2);
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

/// How many holders are named.
const MOST_NAMED: usize = 5;

/// Notes beside the pre-image which sockets are leaked now. Where that cannot be seen, why: the end will say so.
pub async fn note_leaked(plan: &Plan, preimage: &mut Value, world: &World) {
    let leaked = match world.measure.leaked(plan, plan.when.least_age()).await {
        Ok(leaked) => serde_json::to_value(leaked).unwrap_or_else(|error| Value::String(error.to_string())),
        Err(why) => Value::String(why),
    };
    if let Value::Null | Value::Object(_) = preimage {
        preimage[LEAKED] = leaked;
    }
}

pub async fn judged(saga: &Saga, world: &World) -> Event {
    let plan = saga.plan();
    let remaining = match saga.leaked() {
        Ok(leaked) => settled(plan, &leaked, world).await,
        Err(why) => Err(format!("the incident has no list of its leaked sockets: {why}")),
    };
    let (helped, detail) = helped(plan, remaining, world.measure.is_over(plan).await);
    Event::Judged { helped, detail }
}

/// What says that the breach is not over.
fn condition(plan: &Plan) -> &'static str {
    match plan.clear {
        Some(_) => "`clear` does not hold",
        None => "condition is not over",
    }
}

/// What a reload or a command has set off goes on for a moment: what stands is looked at again until it is gone.
async fn settled(plan: &Plan, leaked: &Leaked, world: &World) -> Result<Remaining, String> {
    let is_at_once = plan.pivot().is_some_and(|step| matches!(plan.steps[step].step, Step::Restart { .. }));
    let until = world.pace.elapsed() + if is_at_once { Duration::ZERO } else { SETTLES_WITHIN };
    loop {
        let found = world.measure.remaining(plan, leaked).await?;
        if found.left == 0 || world.pace.elapsed() >= until {
            return Ok(found);
        }
        world.pace.wait(LOOK_EVERY).await;
    }
}

/// Helped: all of them are gone, and the breach is known to be over.
fn helped(plan: &Plan, remaining: Result<Remaining, String>, over: Result<Truth, String>) -> (Helped, String) {
    let (gone, sockets) = match remaining {
        Err(why) => (Truth::Unknown, format!("the leaked sockets could not be looked up: {why}")),
        Ok(mut remaining) => {
            doubt_the_hidden(plan, &mut remaining);
            (gone(&remaining), became_of(plan, &remaining))
        }
    };
    let (over, condition) = match over {
        Ok(Truth::True) => (Truth::True, None),
        Ok(Truth::False) => (Truth::False, Some(format!("the policy's {} yet", condition(plan)))),
        Ok(Truth::Unknown) => {
            (Truth::Unknown, Some("the policy's condition is unknown: a signal cannot be measured".to_owned()))
        }
        Err(why) => (Truth::Unknown, Some(format!("the policy's condition could not be measured: {why}"))),
    };
    let helped = match (gone, over) {
        (Truth::False, _) | (_, Truth::False) => Helped::No,
        (Truth::True, Truth::True) => Helped::Yes,
        _ => Helped::Unknown,
    };
    (helped, [Some(sockets), condition].into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// Where the step closes connections itself, no table tells of what a hidden process may hold.
fn doubt_the_hidden(plan: &Plan, remaining: &mut Remaining) {
    let pivot = plan.pivot().map(|step| &plan.steps[step].step);
    if let (Some(Step::CloseSockets { .. } | Step::Run { .. }), 1..) = (pivot, remaining.hidden) {
        let hidden = remaining.hidden;
        remaining.unseen.get_or_insert_with(|| {
            format!("{hidden} processes could not be read (grant CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)")
        });
    }
}

fn gone(remaining: &Remaining) -> Truth {
    match remaining {
        Remaining { left: 1.., .. } => Truth::False,
        Remaining { unseen: Some(_), .. } => Truth::Unknown,
        _ => Truth::True,
    }
}

fn became_of(plan: &Plan, found: &Remaining) -> String {
    let Remaining { of, left, holders, unheld, unseen, .. } = found;
    let mut says = match (of, left, unseen) {
        (0, ..) => return "no leaked socket was left when the step began".into(),
        (_, 0, None) => return format!("{of} of {of} leaked sockets are gone"),
        (_, 0, Some(why)) => return format!("{of} leaked sockets could not be looked up again: {why}"),
        (_, _, None) => format!("{left} of {of} leaked sockets remain"),
        (_, _, Some(why)) => format!("at least {left} of {of} leaked sockets remain (not all was seen: {why})"),
    };
    let mut who: Vec<String> = holders.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if let Some(more @ 1..) = holders.len().checked_sub(MOST_NAMED) {
        who.push(format!("and {more} more processes"));
    }
    if *unheld > 0 {
        who.push(format!(
            "{unheld} held by no descriptor that can be seen (in an accept queue, or in flight over a unix socket, for example)"
        ));
    }
    says.push_str(": ");
    says.push_str(&who.join(", "));
    if let Some(why) = why_they_stay(plan.restarted(), holders) {
        says.push_str("; ");
        says.push_str(&why);
    }
    says
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::fakes::{Fault, Shape, plan, steps};
    use crate::model::Holder;

    fn holder(pid: u32, own: bool) -> Holder {
        Holder { pid, comm: "leak\ny".into(), cgroup: "/system.slice/leaky.service".into(), sockets: 60, own }
    }

    fn judged(remaining: Result<Remaining, String>, over: Result<Truth, String>) -> (Helped, String) {
        helped(&plan(steps(Shape::IsolateRestartRecover, Fault::Nothing)), remaining, over)
    }

    #[test]
    fn it_helped_only_where_all_are_gone_and_the_breach_is_over_and_both_are_known() {
        let gone = || Ok(Remaining { of: 60, ..Remaining::default() });
        let one = || Ok(Remaining { of: 60, left: 1, unheld: 1, ..Remaining::default() });
        let unseen = || Ok(Remaining { of: 60, unseen: Some("pid 7 is hidden".into()), ..Remaining::default() });
        let failed = || Err("the dump was interrupted".to_owned());
        for (remaining, over, expected) in [
            (gone(), Ok(Truth::True), Helped::Yes),
            (gone(), Ok(Truth::False), Helped::No),
            (gone(), Ok(Truth::Unknown), Helped::Unknown),
            (gone(), Err("late".into()), Helped::Unknown),
            (one(), Ok(Truth::True), Helped::No),
            (one(), Ok(Truth::Unknown), Helped::No),
            (unseen(), Ok(Truth::True), Helped::Unknown),
            (unseen(), Ok(Truth::False), Helped::No),
            (failed(), Ok(Truth::True), Helped::Unknown),
            (failed(), Ok(Truth::False), Helped::No),
        ] {
            let (judged, says) = judged(remaining.clone(), over.clone());
            assert_eq!(judged, expected, "{remaining:?} {over:?}: {says}");
        }
    }

    #[test]
    fn who_holds_what_is_left_is_said_with_what_frees_it() {
        let says = |holders: Vec<Holder>, unheld: usize| {
            judged(Ok(Remaining { of: 60, left: 60, holders, unheld, ..Remaining::default() }), Ok(Truth::True)).1
        };
        assert_eq!(
            judged(Ok(Remaining { of: 60, ..Remaining::default() }), Ok(Truth::True)).1,
            "60 of 60 leaked sockets are gone"
        );
        let systemd = says(vec![holder(1, false), holder(812, true)], 0);
        assert!(systemd.starts_with("60 of 60 leaked sockets remain: 60 held by pid 1 (leak\\ny, "), "{systemd}");
        assert!(systemd.contains("fd store") && systemd.contains("`systemctl stop rpc-order.service`"), "{systemd}");
        assert!(says(vec![holder(812, true)], 0).ends_with("or were handed them again"));
        assert!(says(vec![holder(813, false)], 0).ends_with("close them or end"));
        let many = says((2..12).map(|pid| holder(pid, false)).collect(), 0);
        assert!(many.contains("and 5 more processes"), "{many}");
        assert!(says(Vec::new(), 60).contains("60 held by no descriptor"));
    }
}
