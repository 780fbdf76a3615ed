//! Screens as they are drawn, whole; and no key, size or datum breaks one. `UNWAIT_GOLDEN=write` writes the files anew.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Size;
use ratatui::style::Color;

use super::draw::draw;
use super::rows::{SortBy, bars, chosen};
use super::state::{Key, TopEvent, TopLook, TopState};
use super::text::{harmless, put};
use crate::cli::render::width;
use crate::model::{Readings, Reason, ServiceName, Signal};
use crate::store::Pause;
use crate::view::services::{HostLimit, PolicyStands, ServiceRow, ServicesNow, SocketNow, SocketsOfService};
use crate::view::sockets::SocketsRow;
use crate::view::status::{HeldNow, Status};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn name(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

fn service(called: &str, signals: &[(Signal, f64)], counts: &[u64], reason: Reason) -> ServiceRow {
    let mut readings = Readings::default();
    signals.iter().for_each(|(signal, value)| readings.set(*signal, *value));
    let policies = vec![PolicyStands { policy: "close-wait-leak".into(), reason: Some(reason) }];
    let over = Duration::from_secs(15 * counts.len().saturating_sub(1) as u64);
    ServiceRow { service: name(called), signals: readings, counts: counts.into(), over, policies }
}

fn services() -> ServicesNow {
    let aged = Signal::CloseWaitAged(Duration::from_secs(300));
    let growth = Signal::CloseWaitGrowth(Duration::from_secs(600));
    let order = [
        (Signal::CloseWait, 288.0),
        (aged, 250.0),
        (growth, 12.5),
        (Signal::FdRatio, 0.412),
        (Signal::FdClosed, 3.0),
        (Signal::FdExhaustedIn, 5_400.0),
        (Signal::HostCloseWait, 1_204.0),
    ];
    let web = [(Signal::CloseWait, 900.0), (aged, 3.0), (Signal::FdRatio, 0.9), (Signal::FdExhaustedIn, 604_800.0)];
    let climb: Vec<u64> = (0..96).map(|look| look * 3).collect();
    let listed = vec![
        service("rpc-order.service", &order, &climb, Reason::TooFewHealthy),
        service("rpc-web-with-a-long-name.service", &web, &[900; 20], Reason::Quiet),
        service("container:pay_1", &[(Signal::CloseWait, 16.0)], &[0, 8, 16], Reason::NotForLong),
    ];
    ServicesNow {
        at: Some(at(-3)),
        host: "bj1-03".into(),
        host_close_wait: Some(1_204),
        host_limit: Some(HostLimit { policy: "host-close-wait".into(), above: 1_000.0 }),
        modes: [("auto".to_owned(), 1), ("dry-run".to_owned(), 3)].into(),
        unattributed: [("not_a_service".to_owned(), 12)].into(),
        ..ServicesNow::default()
    }
    .list(listed)
}

fn status() -> Status {
    let agent = serde_json::json!({
        "pid": 7, "version": "0.1.0", "observe_only": false, "policies": 4, "interval": "15s", "last_snapshot": null,
        "last_failure": null, "host.close_wait": 1204, "passed_over_at_most": 0, "looks_every": "15s", "cautions": [],
        "of_no_service": null, "not_seen": [], "held": [],
    });
    let mut agent: crate::view::status::AgentNow = serde_json::from_value(agent).unwrap();
    agent.held.push(HeldNow {
        policy: "close-wait-leak".into(),
        service: name("rpc-order.service"),
        reason: Reason::TooFewHealthy,
        detail: String::new(),
        until: None,
    });
    let pause = Pause { who: "ann".into(), why: "release 41".into(), since: at(-60), until: Some(at(3_600)) };
    Status { agent: Some(agent), paused: Some(pause), ..Status::default() }
}

fn seen() -> TopLook {
    let notes = vec!["NOT SEEN: 2 network namespaces may not be entered".into()];
    TopLook { services: services(), status: Some(status()), by_agent: true, every: Duration::from_secs(15), notes }
}

fn sockets() -> SocketsOfService {
    let one = |peer: &str, inbound, age: u64, at_least, holders: &[&str]| SocketNow {
        local: "10.0.0.1:7801".parse().unwrap(),
        peer: peer.parse().unwrap(),
        inbound,
        age: Some(Duration::from_secs(age)),
        at_least,
        unread: 1,
        unsent: 0,
        holders: holders.iter().map(ToString::to_string).collect(),
    };
    let row = |what: &str, sockets, oldest| SocketsRow {
        what: what.into(),
        sockets,
        oldest: Some(Duration::from_secs(oldest)),
        unread: 0,
    };
    SocketsOfService {
        at: at(-1),
        service: name("rpc-order.service"),
        sockets: vec![
            one("10.0.0.9:6379", false, 7_265, true, &["pid 7 (php-fpm)", "pid 8 (php-fpm)"]),
            one("10.0.0.5:51000", true, 61, false, &[]),
        ],
        of: 288,
        peers: vec![row("10.0.0.9:6379", 287, 7_265), row("clients at 10.0.0.5", 1, 61)],
        processes: vec![row("pid 7 (php-fpm)", 144, 7_265), row("pid 8 (\\u{1b}[31m)", 144, 61)],
        names: [("10.0.0.9:6379".to_owned(), "redis-session".to_owned())].into(),
        not_seen: Vec::new(),
    }
}

fn state(width: u16, height: u16) -> TopState {
    TopState::new(Size { width, height }, at(0), false).after(TopEvent::Seen(Box::new(seen())))
}

fn press(state: TopState, keys: &str) -> TopState {
    keys.chars().fold(state, |state, c| {
        let key = match c {
            '\n' => Key::Enter,
            '\u{1b}' => Key::Escape,
            '<' => Key::Left,
            '>' => Key::Right,
            '\t' => Key::Tab,
            c => Key::Char(c),
        };
        state.after(TopEvent::Key(key))
    })
}

fn drawn(state: &TopState) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(state.size.width, state.size.height)).unwrap();
    terminal.draw(|frame| draw(state, frame.buffer_mut())).unwrap();
    terminal.backend().buffer().clone()
}

fn text(state: &TopState) -> String {
    let buffer = drawn(state);
    let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..buffer.area.height).map(|y| line(y) + "\n").collect()
}

fn is_golden(name: &str, state: &TopState) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("agent/cli/top/golden").join(name);
    let text = text(state);
    if std::env::var_os("UNWAIT_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} is not as it was; UNWAIT_GOLDEN=write writes it anew. It is now:\n{text}");
}

#[test]
fn each_screen_is_drawn_as_it_was_at_the_width_of_a_desk_and_of_a_phone() {
    let opened = |state: TopState| {
        let of = sockets();
        press(state, "j\n").after(TopEvent::Sockets(of.service.clone(), Ok(Box::new(of))))
    };
    for (size, columns, rows) in [("wide", 140, 16), ("narrow", 40, 16)] {
        let golden = |screen: &str, state: TopState| is_golden(&format!("{screen}-{size}.txt"), &state);
        golden("table", state(columns, rows));
        golden("filter", press(state(columns, rows), "/ORDER"));
        golden("sockets", opened(state(columns, rows)));
        golden("peers", press(opened(state(columns, rows)), "2"));
        golden("keys", press(state(columns, rows), "?"));
        let past = press(state(columns, rows), "<");
        let then = past.wanted().past.unwrap();
        golden("past", past.after(TopEvent::Past(then, Ok(Box::new(services())))));
    }
}

#[test]
fn the_choice_stays_at_its_service_while_others_come_and_go() {
    let chosen = press(state(120, 20), "j");
    assert_eq!(chosen.cursor.service, Some(name("rpc-order.service")));
    let mut fewer = seen();
    fewer.services.services.retain(|service| service.service.as_str() != "rpc-web-with-a-long-name.service");
    let fewer = chosen.after(TopEvent::Seen(Box::new(fewer)));
    assert_eq!((fewer.cursor.row, fewer.cursor.service.clone()), (0, Some(name("rpc-order.service"))));
    // A filter under which it is not shown chooses another.
    let other = press(fewer, "/pay");
    assert_eq!(other.cursor.service, Some(name("container:pay_1")));
    assert_eq!(press(other, "\u{1b}").rows().len(), 2);
}

#[test]
fn the_table_is_sorted_by_each_signal_and_what_is_not_known_comes_last() {
    let all = services().services;
    // w: rpc-web, o: rpc-order, a: container:pay.
    let letter = |one: &&ServiceRow| one.service.as_str().chars().nth(4).unwrap();
    let order = |by| chosen(&all, by, "").iter().map(letter).collect::<String>();
    assert_eq!(SortBy::ALL.map(|(by, ..)| order(by)), ["woa", "owa", "aow", "woa", "owa", "owa"]);
}

#[test]
fn keys_lead_back_through_the_past_and_to_now() {
    let now = state(120, 20);
    assert_eq!(now.wanted().past, None);
    let back = press(now, "<<[");
    let minute = at(0).as_second() - at(0).as_second().rem_euclid(60);
    assert_eq!(back.wanted().past.map(|at| at.as_second()), Some(minute - 120 - 3_600));
    // A late answer to an earlier key is not taken for this moment's.
    let late = back.after(TopEvent::Past(at(-60), Ok(Box::new(services()))));
    assert!(late.services().is_none());
    let said = late.wanted().past.unwrap();
    let failed = late.after(TopEvent::Past(said, Err("nothing is recorded".into())));
    assert!(text(&failed).contains("nothing is recorded"), "{}", text(&failed));
    assert_eq!(press(failed.clone(), "]>>").wanted().past, None, "beyond the last minute lies the present");
    assert_eq!(press(failed.clone(), "l").wanted().past, None);
    assert_eq!(failed.after(TopEvent::Key(Key::End)).wanted().past, None);
}

#[test]
fn an_opened_service_is_looked_at_closely_until_it_is_left() {
    let opened = press(state(120, 20), "\n");
    assert_eq!(opened.wanted().sockets_of, Some(name("rpc-web-with-a-long-name.service")));
    let of_another = opened.after(TopEvent::Sockets(name("rpc-order.service"), Ok(Box::new(sockets()))));
    assert!(of_another.open.as_ref().is_some_and(|open| open.seen.is_none()));
    assert!(press(of_another.clone(), "?q").wanted().sockets_of.is_some(), "any key leaves the list of keys");
    assert_eq!(press(of_another, "\u{1b}").wanted().sockets_of, None);
}

#[test]
fn an_old_look_and_an_agent_that_hangs_are_said() {
    let hangs = state(100, 20).after(TopEvent::NotSeen("THE AGENT HANGS".into())).after(TopEvent::Now(at(90)));
    let said = text(&hangs);
    assert!(said.contains("LATE: last look 1m33s ago") && said.contains("THE AGENT HANGS"), "{said}");
    let again = text(&hangs.after(TopEvent::Seen(Box::new(seen()))));
    assert!(!again.contains("HANGS"), "{again}");
}

#[test]
fn names_of_others_steer_nothing_and_are_cut_by_their_width() {
    let hostile = "\u{1b}[2J\u{202e}evil\r\n\u{200b}";
    assert_eq!(harmless(hostile), "\\u{1b}[2J\\u{202e}evil\\u{d}\\u{a}\\u{200b}");
    let mut of = sockets();
    of.names = [("10.0.0.9:6379".to_owned(), hostile.to_owned())].into();
    of.processes[0].what = format!("pid 9 ({hostile}会话)");
    let opened = press(state(100, 20), "j\n").after(TopEvent::Sockets(of.service.clone(), Ok(Box::new(of))));
    for tab in ["1", "2", "3"] {
        let shown = text(&press(opened.clone(), tab));
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        assert!(!shown.contains(['\u{202e}', '\u{200b}']), "{shown:?}");
    }
    let mut buffer = Buffer::empty(ratatui::layout::Rect::new(0, 0, 6, 1));
    put(&mut buffer, (0, 0), 6, "会话缓存", ratatui::style::Style::new());
    let shown: String = (0..6).map(|x| buffer[(x, 0)].symbol()).filter(|symbol| *symbol != " ").collect();
    assert_eq!((shown.as_str(), width(&shown)), ("会话…", 5));
}

#[test]
fn without_colours_nothing_is_coloured_and_with_them_the_words_are_the_same() {
    let plain = state(140, 20);
    let coloured = TopState { colours: true, ..plain.clone() };
    let colours = |state: &TopState| drawn(state).content.iter().filter(|cell| cell.fg != Color::Reset).count();
    assert_eq!(colours(&plain), 0);
    assert!(colours(&coloured) > 0);
    assert_eq!(text(&plain), text(&coloured));
}

#[test]
fn bars_show_the_highest_of_each_few_and_the_newest_at_the_right() {
    assert_eq!(bars(&[0, 7], 4), "  ▁█");
    assert_eq!(bars(&[0, 0, 9, 0], 2), "▁█");
    assert_eq!(bars(&[], 3), "   ");
    assert_eq!(bars(&[0, 0], 2), "▁▁");
}

fn keys() -> impl Strategy<Value = TopEvent> {
    let named = [
        Key::Enter,
        Key::Escape,
        Key::Backspace,
        Key::Tab,
        Key::BackTab,
        Key::Up,
        Key::Down,
        Key::Left,
        Key::Right,
        Key::PageUp,
        Key::PageDown,
        Key::Home,
        Key::End,
    ];
    let letters = "/?sScagfde123jkl[]rx会".chars().map(Key::Char).collect::<Vec<_>>();
    prop::sample::select([named.to_vec(), letters].concat()).prop_map(TopEvent::Key)
}

fn data() -> impl Strategy<Value = TopEvent> {
    let listed = (0..60usize, 0..3usize).prop_map(|(count, from)| {
        let of = |at: usize| {
            let value = if at.is_multiple_of(3) { f64::NAN } else { at as f64 };
            service(&format!("s{}.service", at + from), &[(Signal::CloseWait, value)], &[at as u64; 3], Reason::Quiet)
        };
        let services = ServicesNow { at: Some(at(0)), ..ServicesNow::default() }.list((0..count).map(of).collect());
        TopEvent::Seen(Box::new(TopLook { services, ..seen() }))
    });
    let sockets = (0..3u8).prop_map(|at| match at {
        0 => TopEvent::NotSeen("\u{1b}[2J".repeat(40)),
        1 => TopEvent::Sockets(name("s1.service"), Ok(Box::new(sockets()))),
        _ => TopEvent::Sockets(name("s1.service"), Err("gone".into())),
    });
    let past = (0..3i64).prop_map(|back| {
        let minute = at(0).as_second() - at(0).as_second().rem_euclid(60) - back * 60;
        TopEvent::Past(Timestamp::from_second(minute).unwrap(), Ok(Box::new(services())))
    });
    prop_oneof![listed, sockets, past]
}

fn sizes() -> impl Strategy<Value = TopEvent> {
    (0..200u16, 0..60u16).prop_map(|(width, height)| TopEvent::Resized(Size { width, height }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_key_size_or_datum_breaks_the_screen_or_chooses_what_is_not_there(
        events in prop::collection::vec(prop_oneof![6 => keys(), 2 => data(), 1 => sizes()], 1..80)
    ) {
        let mut state = TopState::new(Size { width: 80, height: 24 }, at(0), true);
        for event in events {
            state = state.after(event);
            let rows = state.rows();
            match rows.get(state.cursor.row) {
                Some(row) => prop_assert_eq!(Some(&row.service), state.cursor.service.as_ref()),
                None => prop_assert!(rows.is_empty() && state.cursor.row == 0),
            }
            prop_assert!(state.cursor.first <= state.cursor.row);
            let mut buffer = Buffer::empty(ratatui::layout::Rect::new(0, 0, state.size.width, state.size.height));
            draw(&state, &mut buffer);
            // Between two looks at its size a terminal may have become smaller.
            draw(&state, &mut Buffer::empty(ratatui::layout::Rect::new(0, 0, 31, 7)));
        }
    }
}
