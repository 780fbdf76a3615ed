//! Silences and windows: what a person, and the policy, say about the hours of action.

use super::scenery::scenery;
use super::*;
use crate::decide::guards::Guard;
use crate::model::window::{Days, Hours, WindowAction};
use crate::model::{Reason, ServiceName, Window};
use crate::store::Person;

pub fn always(action: WindowAction) -> Window {
    Window { days: Days::ALL, hours: Hours::ALL, tz: "UTC".into(), action }
}

#[test]
fn a_silence_holds_its_service_to_its_last_moment_and_no_other() {
    let scenery = scenery();
    scenery.silence(Some("other.service"), seconds(600));
    scenery.allows();
    scenery.silence(Some("rpc-order.service"), seconds(60));
    let refusal = scenery.refuses(Guard::Silence, Reason::Silenced);
    assert_eq!(refusal.until, Some(scenery.now() + seconds(60)));
    assert!(refusal.detail.contains("ann") && refusal.detail.contains("migration"), "{refusal}");
    scenery.clock.advance(seconds(60) - Duration::from_millis(1));
    scenery.refuses(Guard::Silence, Reason::Silenced);
    scenery.clock.advance(Duration::from_millis(1));
    scenery.allows();
}

#[test]
fn of_two_silences_the_longer_holds_and_either_can_be_ended() {
    let mut scenery = scenery();
    let service = ServiceName::parse("rpc-order.service").unwrap();
    scenery.silence(Some(service.as_str()), seconds(60));
    scenery.silence(None, seconds(120));
    assert_eq!(
        scenery.refuses(Guard::Silence, Reason::Silenced).until,
        Some(scenery.now() + seconds(120)),
        "the host's is the longer"
    );
    // Just before its change a saga that is under way hears of it, and so does a runbook that only looks.
    scenery.own_saga = true;
    scenery.refuses(Guard::Silence, Reason::Silenced);
    scenery.own_saga = false;
    assert!(scenery.store.end_silence(None, &Person::default(), scenery.now()).unwrap());
    assert!(!scenery.store.end_silence(None, &Person::default(), scenery.now()).unwrap());
    scenery.refuses(Guard::Silence, Reason::Silenced);
    scenery.plan.steps.truncate(1);
    scenery.refuses(Guard::Silence, Reason::Silenced);
    assert!(scenery.store.end_silence(Some(&service), &Person::default(), scenery.now()).unwrap());
    scenery.allows();
}

#[test]
fn windows_defer_to_the_exact_moment_and_say_which() {
    let mut scenery = scenery();
    // It is Sunday, 18:44:29 UTC.
    let window = |days: &str, hours: &str, tz: &str, action| Window {
        days: Days::parse(days).unwrap(),
        hours: Hours::parse(hours).unwrap(),
        tz: tz.into(),
        action,
    };
    let deny = |hours: &str, tz: &str| window("sun", hours, tz, WindowAction::Deny);
    for (windows, refused) in [
        (vec![deny("09:00-18:44", "UTC")], None),
        (vec![deny("18:00-20:00", "UTC")], Some((Reason::DenyWindow, Some("2026-11-22T20:00:00Z"), "18:00-20:00 UTC"))),
        // In Shanghai it is Monday already; in New York 13:44.
        (vec![deny("00:00-24:00", "Asia/Shanghai")], None),
        (
            vec![deny("13:00-14:00", "America/New_York")],
            Some((Reason::DenyWindow, Some("2026-11-22T19:00:00Z"), "America/New_York")),
        ),
        (
            vec![window("mon", "03:00-05:00", "UTC", WindowAction::Allow)],
            Some((Reason::OutsideWindows, Some("2026-11-23T03:00:00Z"), "mon 03:00-05:00 UTC")),
        ),
        (vec![always(WindowAction::Deny)], Some((Reason::DenyWindow, None, "the windows together allow no moment"))),
    ] {
        scenery.plan.guards.windows = windows;
        let Some((reason, until, says)) = refused else {
            scenery.allows();
            continue;
        };
        let refusal = scenery.refuses(Guard::Windows, reason);
        assert_eq!(refusal.until, until.map(|until| until.parse().unwrap()));
        assert!(refusal.detail.contains(says), "{refusal}");
    }
    // Evidence may be kept at any hour.
    scenery.plan.steps.truncate(1);
    scenery.allows();
}

#[test]
fn a_zone_that_is_gone_by_now_refuses() {
    let mut scenery = scenery();
    scenery.plan.guards.windows = vec![Window { tz: "Mars/Olympus".into(), ..always(WindowAction::Allow) }];
    let refusal = scenery.refuses(Guard::Windows, Reason::GuardFailed);
    assert!(refusal.detail.contains("Mars/Olympus"), "{refusal}");
}
