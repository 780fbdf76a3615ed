//! What is on the screen, as a pure function of what has happened: `TopState` and `TopEvent` in, `TopState` out.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use ratatui::layout::Size;

use super::rows::{self, SortBy};
use super::{head, opened};
use crate::model::ServiceName;
use crate::view::services::{ServiceRow, ServicesNow, SocketsOfService};
use crate::view::status::Status;

/// One step back into the past, and a long one. The finest that is recorded is a minute.
const STEP: Duration = Duration::from_secs(60);
const LONG_STEP: Duration = Duration::from_secs(3_600);
/// Older than that nothing is recorded.
const REACH: Duration = Duration::from_secs(31 * 86_400);
/// Characters that a filter may have.
const FILTER: usize = 64;

/// All that is shown.
#[derive(Clone, Debug)]
pub struct TopState {
    pub size: Size,
    pub now: Timestamp,
    pub colours: bool,
    /// The last look, and why there was none since.
    pub live: Option<TopLook>,
    pub failed: Option<String>,
    /// The moment of the past that is shown instead.
    pub past: Option<Past>,
    pub sort: SortBy,
    pub filter: String,
    /// What is typed goes into the filter.
    pub typing: bool,
    pub help: bool,
    pub cursor: Cursor,
    pub open: Option<OpenService>,
    /// Counts how often a person asked for a new look.
    pub asked: u64,
    pub is_over: bool,
}

/// One look.
#[derive(Clone, Debug)]
pub struct TopLook {
    pub services: ServicesNow,
    /// What the agent, or else its store, says besides.
    pub status: Option<Status>,
    /// The agent's own look; else one of this command.
    pub by_agent: bool,
    /// From one look to the next.
    pub every: Duration,
    /// What a person should know of it, one line each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Past {
    pub at: Timestamp,
    /// `None`: still being read.
    pub seen: Option<Result<ServicesNow, String>>,
}

/// The line that is chosen: it stays at its service while others come and go.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    pub service: Option<ServiceName>,
    pub row: usize,
    /// The first line that is shown.
    pub first: usize,
}

/// One service, looked at closely.
#[derive(Clone, Debug)]
pub struct OpenService {
    pub service: ServiceName,
    pub tab: Tab,
    pub first: usize,
    pub seen: Option<SocketsOfService>,
    pub failed: Option<String>,
    /// What the registries called its peers.
    pub names: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Sockets,
    Peers,
    Processes,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum TopEvent {
    Key(Key),
    Resized(Size),
    /// Once a second.
    Now(Timestamp),
    Seen(Box<TopLook>),
    NotSeen(String),
    Past(Timestamp, Result<Box<ServicesNow>, String>),
    Sockets(ServiceName, Result<Box<SocketsOfService>, String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Enter,
    Escape,
    Backspace,
    Tab,
    BackTab,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    /// Ctrl-C.
    Interrupt,
}

/// What is to be looked at for this state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LooksWanted {
    /// `None`: what is so now.
    pub past: Option<Timestamp>,
    pub sockets_of: Option<ServiceName>,
    pub asked: u64,
}

impl Tab {
    pub const ALL: [Self; 3] = [Self::Sockets, Self::Peers, Self::Processes];

    fn other(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|tab| *tab == self).unwrap_or_default();
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

impl TopState {
    pub fn new(size: Size, now: Timestamp, colours: bool) -> Self {
        Self {
            size,
            now,
            colours,
            live: None,
            failed: None,
            past: None,
            sort: SortBy::default(),
            filter: String::new(),
            typing: false,
            help: false,
            cursor: Cursor::default(),
            open: None,
            asked: 0,
            is_over: false,
        }
    }

    pub fn after(mut self, event: TopEvent) -> Self {
        match event {
            TopEvent::Key(key) => self.press(key),
            TopEvent::Resized(size) => self.size = size,
            TopEvent::Now(now) => self.now = now,
            TopEvent::Seen(seen) => (self.live, self.failed) = (Some(*seen), None),
            TopEvent::NotSeen(why) => self.failed = Some(why),
            // The answer to an earlier key may come late.
            TopEvent::Past(at, seen) => {
                if let Some(past) = self.past.as_mut().filter(|past| past.at == at) {
                    past.seen = Some(seen.map(|seen| *seen));
                }
            }
            TopEvent::Sockets(service, seen) => {
                if let Some(open) = self.open.as_mut().filter(|open| open.service == service) {
                    match seen {
                        Ok(seen) => {
                            open.names.extend(seen.names.clone());
                            (open.seen, open.failed) = (Some(*seen), None);
                        }
                        Err(why) => open.failed = Some(why),
                    }
                }
            }
        }
        self.settle();
        self
    }

    pub fn wanted(&self) -> LooksWanted {
        let past = self.past.as_ref().map(|past| past.at);
        let open = self.open.as_ref().filter(|_| past.is_none());
        LooksWanted { past, sockets_of: open.map(|open| open.service.clone()), asked: self.asked }
    }

    /// The services as they are shown now: of the past, or of the last look.
    pub fn services(&self) -> Option<&ServicesNow> {
        match &self.past {
            Some(past) => past.seen.as_ref().and_then(|seen| seen.as_ref().ok()),
            None => self.live.as_ref().map(|seen| &seen.services),
        }
    }

    /// What is said of them besides; nothing of it is recorded.
    pub fn status(&self) -> Option<&Status> {
        self.live.as_ref().filter(|_| self.past.is_none()).and_then(|seen| seen.status.as_ref())
    }

    /// The lines of the table, in order.
    pub fn rows(&self) -> Vec<&ServiceRow> {
        self.services().map(|services| rows::chosen(&services.services, self.sort, &self.filter)).unwrap_or_default()
    }

    /// Lines between the head and the foot.
    pub fn body(&self) -> usize {
        usize::from(self.size.height).saturating_sub(head::lines(self).len() + 1)
    }

    /// Services that fit below the table's headings.
    fn fit(&self) -> usize {
        self.body().saturating_sub(1).max(1)
    }

    fn press(&mut self, key: Key) {
        match key {
            Key::Interrupt => self.is_over = true,
            _ if self.help => self.help = false,
            _ if self.typing => self.typed(key),
            Key::Char('q') => self.is_over = true,
            Key::Char('?') => self.help = true,
            Key::Char('r') => self.asked += 1,
            Key::Left => self.scrub(STEP, true),
            Key::Right => self.scrub(STEP, false),
            Key::Char('[') => self.scrub(LONG_STEP, true),
            Key::Char(']') => self.scrub(LONG_STEP, false),
            Key::Char('l') => self.past = None,
            Key::End if self.past.is_some() => self.past = None,
            _ if self.open.is_some() => self.press_in_open(key),
            Key::Char('/') => self.typing = true,
            Key::Escape => self.filter.clear(),
            Key::Enter => self.open(),
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char(c) if SortBy::by_key(c).is_some() => self.sort = SortBy::by_key(c).unwrap_or_default(),
            key => self.go(key),
        }
    }

    fn typed(&mut self, key: Key) {
        match key {
            Key::Char(c) if self.filter.chars().count() < FILTER => self.filter.push(c),
            Key::Backspace => drop(self.filter.pop()),
            Key::Enter => self.typing = false,
            Key::Escape => {
                self.filter.clear();
                self.typing = false;
            }
            key @ (Key::Up | Key::Down | Key::PageUp | Key::PageDown) => self.go(key),
            _ => {}
        }
    }

    fn go(&mut self, key: Key) {
        let rows = self.rows().len();
        self.cursor.row = moved(self.cursor.row, key, self.fit(), rows.saturating_sub(1));
        self.cursor.service = self.rows().get(self.cursor.row).map(|row| row.service.clone());
    }

    fn open(&mut self) {
        let chosen = self.rows().get(self.cursor.row).map(|row| row.service.clone());
        self.open = chosen.map(|service| OpenService {
            service,
            tab: Tab::default(),
            first: 0,
            seen: None,
            failed: None,
            names: BTreeMap::new(),
        });
    }

    fn press_in_open(&mut self, key: Key) {
        let (fit, Some(open)) = (self.body(), self.open.as_mut()) else { return };
        let tab = match key {
            Key::Escape | Key::Backspace => {
                self.open = None;
                return;
            }
            Key::Char('1') => Tab::Sockets,
            Key::Char('2') => Tab::Peers,
            Key::Char('3') => Tab::Processes,
            Key::Tab => open.tab.other(1),
            Key::BackTab => open.tab.other(2),
            key => {
                open.first = moved(open.first, key, fit, usize::MAX);
                return;
            }
        };
        (open.tab, open.first) = (tab, 0);
    }

    /// Back into the recorded past, or forth; beyond its end lies the present.
    fn scrub(&mut self, by: Duration, back: bool) {
        let minute = |at: Timestamp| {
            let second = at.as_second();
            Timestamp::from_second(second - second.rem_euclid(60)).unwrap_or(at)
        };
        let at = match &self.past {
            Some(past) => past.at,
            None if back => minute(self.now),
            None => return,
        };
        let at = if back { at.checked_sub(by) } else { at.checked_add(by) }.unwrap_or(at);
        let oldest = self.now.checked_sub(REACH).map(minute).unwrap_or(at);
        self.past = (at < minute(self.now)).then_some(Past { at: at.max(oldest), seen: None });
    }

    /// What is chosen is a line that is there.
    fn settle(&mut self) {
        let names: Vec<ServiceName> = self.rows().into_iter().map(|row| row.service.clone()).collect();
        let fit = self.fit();
        let cursor = &mut self.cursor;
        // While nothing is there to be chosen from, such as a moment that is still being read, the choice stands.
        if !names.is_empty() {
            let still = cursor.service.as_ref().and_then(|chosen| names.iter().position(|name| name == chosen));
            cursor.row = still.unwrap_or(cursor.row.min(names.len() - 1));
            cursor.service = Some(names[cursor.row].clone());
            let lowest = (cursor.row + 1).saturating_sub(fit);
            cursor.first = cursor.first.clamp(lowest, cursor.row).min(names.len().saturating_sub(fit)).max(lowest);
        } else {
            (cursor.row, cursor.first) = (0, 0);
        }
        if let Some(open) = &self.open {
            let most = opened::rows(open).saturating_sub(opened::fit(self, open));
            if let Some(open) = self.open.as_mut() {
                open.first = open.first.min(most);
            }
        }
    }
}

/// A place in a list, after a key.
fn moved(at: usize, key: Key, page: usize, last: usize) -> usize {
    let page = page.max(1);
    match key {
        Key::Up | Key::Char('k') => at.saturating_sub(1),
        Key::Down | Key::Char('j') => at.saturating_add(1).min(last),
        Key::PageUp => at.saturating_sub(page),
        Key::PageDown => at.saturating_add(page).min(last),
        Key::Home => 0,
        Key::End => last,
        _ => at,
    }
}
