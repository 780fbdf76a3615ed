//! The fleet's slots, as the agent read them last.

use maud::{Markup, html};

use super::frame::{Page, live, scrolled};
use super::plot;
use crate::serve::desk::Desk;
use crate::view::slots::{FleetSlots, HeldSlot};

/// Slots that are listed.
const SLOTS: usize = 200;

pub fn page(desk: &Desk) -> Page<'static> {
    let body = html! {
        h1 { "Slots of the fleet" }
        p { "A host that works on a service holds a slot of it; the others wait. See also " code { "unwait slot" } "." }
        (live("live-slots", table(&desk.slots())))
        h2 { "A holder that is gone for good" }
        p {
            "Look at the host and at its registration first; then give its slot back: "
            code.command { "unwait slot release HOST --service NAME" }
        }
    };
    Page { title: "Slots".into(), belongs_to: "/slots", body }
}

pub fn table(FleetSlots { read, unread, shown }: &FleetSlots) -> Markup {
    html! {
        @match (read, unread) {
            (_, Some(why)) => p { "Not known: " (why) },
            (None, None) => p { "Not read yet." },
            (Some(read), None) => p.soft { "Read at " (plot::time(*read)) ", once a minute." },
        }
        @for one in &shown.unreadable { p.warn { (one.service) ": " (one.error) } }
        @if !shown.slots.is_empty() {
            (scrolled("Slots", html! {
                table {
                    caption.unseen { "Slots that are held or waited for" }
                    thead { tr {
                        th scope="col" { "Service" } th scope="col" { "Holder" } th scope="col" { "Phase" }
                        th scope="col" { "Since" } th scope="col" { "Incident" }
                    } }
                    tbody {
                        @for slot in shown.slots.iter().take(SLOTS) {
                            tr {
                                th scope="row" { (slot.service) } td { (slot.holder) } td { (phase(slot)) }
                                td.t { (plot::time(slot.since)) } td { (slot.incident) }
                            }
                        }
                    }
                }
            }))
            @if shown.slots.len() > SLOTS { p { "and " (shown.slots.len() - SLOTS) " more" } }
        } @else if read.is_some() && unread.is_none() && shown.unreadable.is_empty() {
            p { "No slot is held." }
        }
    }
}

fn phase(slot: &HeldSlot) -> Markup {
    html! {
        @match slot.until {
            _ if slot.ended => "waited, and lost it",
            Some(until) => { (slot.phase) " until " (plot::time(until)) },
            None => (slot.phase),
        }
    }
}
