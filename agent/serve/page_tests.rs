//! The status page, over real sockets: what stands on it, and what must be so of each page.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fixture::{Set, bulletin, explained, service, set};
use super::html_check::{check, elements};
use crate::clock::Clock;
use crate::decide::guards::{Guard, Refusal};
use crate::execute::fakes;
use crate::model::{IncidentId, Plan, Reading, Readings, Reason, ServiceName, Signal};
use crate::store::{Audience, Pause};
use crate::view::bulletin::Bulletin;
use crate::view::slots::{FleetSlots, HeldSlot, SlotPhase, SlotsShown};

const EVIL: &str = "\"><script>alert(1)</script><b onclick=\"x\">&";

impl Set {
    /// A page that is well-formed, can be reached and can be read.
    fn page(&self, path: &str) -> String {
        let (status, head, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {head}\n{body}");
        assert!(head.contains("content-type: text/html; charset=utf-8\r\n"), "{head}");
        check(&body);
        assert!(!body.contains("<script>") && !body.contains("<b onclick"), "{path}: {body}");
        body
    }

    fn measured(&self, service: &ServiceName, counts: &[f64]) {
        for count in counts {
            self.clock.advance(Duration::from_secs(60));
            let mut readings = Readings::default();
            readings.set(Signal::CloseWait, *count);
            readings.set(Signal::parse("close_wait.aged(1m)").unwrap(), *count);
            let (at, since) = (self.clock.now(), self.clock.monotonic());
            self.store.record(at, since, Reading::Known(*count), [(service, &readings)].into_iter());
        }
        let ticked = Some(self.clock.monotonic());
        self.bulletins.send_modify(|bulletin| *bulletin = Bulletin { ticked, ..(**bulletin).clone() }.into());
    }
}

/// The bulletin of the tests, with a guard that is against acting.
fn held() -> Bulletin {
    let mut bulletin = bulletin();
    bulletin.explained[1].policies[0].held_by = vec![Refusal {
        guard: Guard::MinHealthy,
        reason: Reason::TooFewHealthy,
        detail: format!("1 of 2 others is healthy {EVIL}"),
        until: None,
    }];
    bulletin.fleet_slots = Some(FleetSlots {
        read: bulletin.looked,
        unread: None,
        shown: SlotsShown {
            slots: vec![HeldSlot {
                service: format!("rpc-order{EVIL}"),
                holder: "web-2".into(),
                phase: SlotPhase::Drained,
                until: None,
                ended: false,
                since: bulletin.started.0,
                incident: "i-9".into(),
            }],
            unreadable: Vec::new(),
        },
    });
    bulletin
}

#[test]
fn the_first_page_says_what_needs_a_person_and_why_with_the_command() {
    let set = set();
    set.bulletins.send_replace(held().into());
    set.measured(&service("rpc-order.service"), &[0.0, 100.0, 288.0]);
    let now = set.clock.now();
    set.store.pause(&Pause { who: "ada".into(), why: EVIL.into(), since: now, until: None }).unwrap();
    let page = set.page("/");
    for says in [
        "<title>Services · web-1 · unwait</title>",
        "<h2 id=\"needs\">Needs a person: nothing</h2>",
        "<code>unwait resume</code>",
        "in breach, held",
        "leak: <strong>too_few_healthy</strong>, 1 of 2 others is healthy &quot;&gt;&lt;script&gt;",
        "<code>unwait explain rpc-order.service</code>",
        "close_wait.aged(1m) in the last 6h: from 0 to 288, last 288; &gt; 200 for 5m",
        "limit &gt; 200",
        "rpc-order&quot;&gt;&lt;script&gt;",
        "There are none.",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
    assert!(at("rpc-order.service</a>") < at("a\\x2db.service</a>"), "what needs a person comes first");
}

#[test]
fn what_is_stuck_stands_above_all_and_in_the_title() {
    let set = set();
    let plan = fakes::plan(fakes::steps(fakes::Shape::IsolateRestartRecover, fakes::Fault::Nothing));
    let plan = Plan { incident: IncidentId("i-1".into()), ..plan };
    set.store.begin_incident(&plan, set.clock.now(), &Audience::default(), &[]).unwrap();
    set.store.set_waits_for(&plan.incident, "the registry does not answer").unwrap();
    let page = set.page("/");
    for says in [
        "<title>(1) Services · web-1",
        "Needs a person (1)",
        "the registry does not answer",
        "<code>unwait show i-1</code>",
        "Under way (1)",
        "<a href=\"/incidents/i-1\">i-1</a>",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    // The loop hangs: nobody posts anything.
    set.clock.advance(Duration::from_secs(600));
    assert!(set.page("/").contains("the agent hangs"));
}

#[test]
fn each_service_and_each_incident_has_a_page() {
    let set = set();
    set.bulletins.send_replace(held().into());
    set.measured(&service("rpc-order.service"), &[100.0, 288.0]);
    set.begin_incidents(52);
    let page = set.page("/services/rpc-order.service?range=1h");
    for says in [
        "Policy leak",
        "too_few_healthy",
        "<a href=\"/services/rpc-order.service?range=1h\" aria-current=\"true\">1h</a>",
        "close_wait.aged(1m)",
        ", limit &gt; 200",
    ] {
        assert!(page.contains(says), "{says}: {page}");
    }
    assert!(set.page("/services/a%5Cx2db.service").contains("No policy selects it"));
    let list = set.page("/incidents");
    assert!(list.contains("href=\"/incidents/i-0051\"") && list.contains("?before=i-0002\""), "{list}");
    assert!(set.page("/incidents?before=i-0002").contains("href=\"/incidents/i-0000\""));
    assert!(set.page("/incidents/i-0003").contains("What was done"));
    assert!(set.page("/slots").contains("web-2"));
}

#[test]
fn what_there_is_not_is_said_in_plain_words() {
    let set = set();
    for (path, status, says) in [
        ("/nowhere", 404, "there is no such page"),
        ("/services/nobody.service", 404, "nothing is known of nobody.service"),
        ("/services/%3Cscript%3E", 400, "no service name"),
        ("/incidents/none", 404, "no such incident"),
        ("/page.0000000000000000.css", 404, "there is no such page"),
    ] {
        let (found, _, body) = set.get(path);
        assert_eq!(found, status, "{path}");
        check(&body);
        assert!(body.contains(says) && !body.contains("<script>"), "{path}: {body}");
    }
}

#[test]
fn the_state_of_the_page_is_in_its_address() {
    let set = set();
    let page = set.page("/?q=%3Cb%3E&sort=sockets&range=7d");
    assert!(page.contains("No service fits this filter."), "{page}");
    let all = elements(&page);
    let value = |id: &str| all.iter().find(|one| one.attributes.get("id").is_some_and(|own| own == id)).unwrap();
    assert_eq!(value("q").attributes["value"], "&lt;b&gt;");
    let chosen: Vec<&str> = all
        .iter()
        .filter(|one| one.attributes.contains_key("selected"))
        .map(|one| one.attributes["value"].as_str())
        .collect();
    assert_eq!(chosen, ["sockets", "7d"]);
    assert!(set.page("/?q=say").contains("rpc-order.service"), "by a policy's name");
    assert!(set.page("/?q=in+breach&page=99&sort=x&range=x").contains("rpc-order.service"));
}

#[test]
fn its_files_are_kept_by_their_hash_and_everything_else_by_nobody() {
    let set = set();
    let page = set.page("/");
    let all = elements(&page);
    let files = all.iter().filter_map(|one| match one.name.as_str() {
        "link" => one.attributes.get("href"),
        "script" => one.attributes.get("src"),
        _ => None,
    });
    let kinds: BTreeMap<String, String> = files
        .map(|file| {
            let (status, head, _) = set.get(file);
            assert_eq!(status, 200, "{file}");
            assert!(
                head.contains("cache-control: max-age=31536000, immutable") && !head.contains("no-store"),
                "{head}"
            );
            let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap();
            (file.rsplit_once('.').unwrap().1.into(), kind.into())
        })
        .collect();
    let expected =
        [("css", "text/css; charset=utf-8"), ("js", "text/javascript; charset=utf-8"), ("svg", "image/svg+xml")];
    assert_eq!(kinds, expected.map(|(file, kind)| (file.into(), kind.into())).into());
    assert!(set.get("/").1.contains("cache-control: no-store\r\n"));
}

#[test]
fn a_page_of_a_thousand_services_is_small_and_all_of_them_can_be_reached() {
    let set = set();
    let names: Vec<ServiceName> = (0..1000).map(|n| service(&format!("rpc-order-{n:04}.service"))).collect();
    let mut readings = Readings::default();
    readings.set(Signal::CloseWait, 288.0);
    readings.set(Signal::parse("close_wait.aged(1m)").unwrap(), 288.0);
    let one = |name: &ServiceName| explained(name, &readings, &[("leak", Some(Reason::TooFewHealthy))]);
    let explained = names.iter().map(one).collect();
    set.bulletins.send_replace(Bulletin { explained, ..held() }.into());
    for minute in 0..60u32 {
        set.clock.advance(Duration::from_secs(60));
        let mut readings = readings.clone();
        readings.set(Signal::parse("close_wait.aged(1m)").unwrap(), f64::from(minute * 7919 % 300));
        let all = names.iter().map(|name| (name, &readings));
        set.store.record(set.clock.now(), set.clock.monotonic(), Reading::Known(288_000.0), all);
    }
    let page = set.page("/?range=1h");
    assert!(page.len() < 300_000, "{} bytes", page.len());
    assert!(page.contains("1000 services, page 1 of 20") && page.contains("in the last 1h: from 0 to 29"), "{page}");
    let last = set.page("/?page=20");
    assert!(last.contains("rpc-order-0999.service") && !last.contains("rel=\"next\""));
}
