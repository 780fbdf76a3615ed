//! The screen, drawn into a buffer: head, table or opened service or keys, foot. Pure.

use ratatui::buffer::Buffer;
use ratatui::style::{Modifier, Style};

use super::rows::{self, SortBy, aged, bars, stands};
use super::state::TopState;
use super::text::{Emphasis, put, put_right};
use super::{head, opened};
use crate::model::Signal;
use crate::view::services::ServiceRow;

/// Smaller than that nothing can be read.
const LEAST: (u16, u16) = (30, 6);

const KEYS: [(&str, &str); 15] = [
    ("q, Ctrl-C", "leave; Ctrl-Z stops"),
    ("arrows, j k", "choose a service"),
    ("PgUp PgDn Home End", "further"),
    ("Enter", "its sockets, peers and processes"),
    ("1 2 3, Tab", "sockets, peers, processes"),
    ("Esc", "back; clears the filter"),
    ("/", "filter by name"),
    ("c a g", "sort by count, by age, by growth a minute"),
    ("f d e", "by descriptors: ratio, closed sockets, forecast"),
    ("s", "sort by the next one"),
    ("Left Right", "a minute back, forth"),
    ("[ ]", "an hour back, forth"),
    ("l, End", "back to now"),
    ("r", "look now"),
    ("~ >=", "~ reckoned from the bars; >= at least"),
];

pub fn draw(state: &TopState, buffer: &mut Buffer) {
    let area = *buffer.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let said = format!("needs {} x {}", LEAST.0, LEAST.1);
        return put(buffer, (area.x, area.y), area.width.into(), &said, Style::new());
    }
    let mut y = area.y;
    for (tone, line) in head::lines(state) {
        put(buffer, (area.x, y), area.width.into(), &line, tone.style(state.colours));
        y += 1;
    }
    let body = Body { state, x: area.x, y, width: area.width.into(), height: state.body() };
    match &state.open {
        _ if state.help => body.keys(buffer),
        Some(open) => opened::draw(&body, open, buffer),
        None => body.table(buffer),
    }
    put(buffer, (area.x, area.bottom() - 1), area.width.into(), &foot(state), Emphasis::Dim.style(state.colours));
}

/// Where head and foot leave room.
pub struct Body<'a> {
    pub state: &'a TopState,
    pub x: u16,
    pub y: u16,
    pub width: usize,
    pub height: usize,
}

/// How a service is told in one column.
type Cell<'a> = dyn Fn(&ServiceRow) -> (Emphasis, String) + 'a;

struct Column<'a> {
    heading: String,
    width: usize,
    right: bool,
    cell: Box<Cell<'a>>,
}

impl Body<'_> {
    pub fn line(&self, at: usize) -> u16 {
        self.y + at as u16
    }

    fn keys(&self, buffer: &mut Buffer) {
        let keys = KEYS.iter().map(|(key, _)| key.len()).max().unwrap_or_default() + 2;
        for (at, (key, what)) in KEYS.iter().take(self.height).enumerate() {
            put(buffer, (self.x, self.line(at)), keys, key, Emphasis::Bold.style(self.state.colours));
            put(buffer, (self.x + keys as u16, self.line(at)), self.width - keys, what, Style::new());
        }
    }

    fn table(&self, buffer: &mut Buffer) {
        let state = self.state;
        let rows = state.rows();
        let columns = self.columns(&rows);
        let mut x = self.x;
        for column in &columns {
            let write = if column.right { put_right } else { put };
            write(buffer, (x, self.y), column.width, &column.heading, Emphasis::Bold.style(state.colours));
            x += column.width as u16 + 1;
        }
        if rows.is_empty() {
            let said = nothing(state);
            return put(buffer, (self.x, self.line(1)), self.width, &said, Style::new());
        }
        let shown = rows.iter().enumerate().skip(state.cursor.first).take(self.height.saturating_sub(1));
        for (line, (at, service)) in shown.enumerate() {
            let y = self.line(line + 1);
            let mut x = self.x;
            for column in &columns {
                let (tone, text) = (column.cell)(service);
                let write = if column.right { put_right } else { put };
                write(buffer, (x, y), column.width, &text, tone.style(state.colours));
                x += column.width as u16 + 1;
            }
            if at == state.cursor.row && y < buffer.area().bottom() {
                // The mark is there for who sees no reversed line.
                put(buffer, (self.x, y), 1, ">", Style::new());
                for x in self.x..self.x + self.width as u16 {
                    buffer[(x, y)].modifier.insert(Modifier::REVERSED);
                }
            }
        }
    }

    /// What fits, in the order in which a person would miss it; shown from the left in the order of the table.
    fn columns(&self, rows: &[&ServiceRow]) -> Vec<Column<'_>> {
        let state = self.state;
        let number = |by: SortBy| {
            let (_, _, heading) = SortBy::ALL.into_iter().find(|(one, ..)| *one == by).unwrap_or(SortBy::ALL[0]);
            let mut heading = heading.to_owned();
            if let (SortBy::Aged, Some(Signal::CloseWaitAged(age))) = (by, rows.iter().find_map(|row| aged(row))) {
                heading = format!("OVER {}", crate::model::duration::format(age));
            }
            if by == state.sort {
                heading.push('*');
            }
            let width = heading.len().max(8);
            Column { heading, width, right: true, cell: Box::new(move |row| (Emphasis::Plain, by.cell(row))) }
        };
        let status = state.status();
        let plot = |width| Column {
            heading: "LAST LOOKS".into(),
            width,
            right: false,
            cell: Box::new(move |row| (Emphasis::Plain, bars(&row.counts, width))),
        };
        let held = |width| Column {
            heading: "POLICY".into(),
            width,
            right: false,
            cell: Box::new(move |row| stands(row, status)),
        };
        // By how much each would be missed; the place in the table is the number.
        let mut wanted = vec![
            (1, number(SortBy::CloseWait)),
            (8, held(16)),
            (4, number(SortBy::Growth)),
            (2, plot(12)),
            (3, number(SortBy::Aged)),
            (7, number(SortBy::ExhaustedIn)),
            (5, number(SortBy::FdRatio)),
            (6, number(SortBy::FdClosed)),
        ];
        // Of the past, and where no agent runs, nothing is known of that.
        if rows.iter().all(|row| stands(row, status).1.is_empty()) {
            wanted.retain(|(place, _)| *place != 8);
        }
        // What it is sorted by is seen.
        if let Some(at) = wanted.iter().position(|(_, column)| column.heading.ends_with('*')) {
            let sorted = wanted.remove(at);
            wanted.insert(0, sorted);
        }
        const LEAST_NAME: usize = 14;
        let mut left = self.width.saturating_sub(LEAST_NAME);
        let mut columns: Vec<(i32, Column<'_>)> = Vec::new();
        for (place, column) in wanted {
            if column.width < left {
                left -= column.width + 1;
                columns.push((place, column));
            }
        }
        // What is left goes to the name, as far as it needs it, then to the words.
        let longest = rows.iter().map(|row| row.service.as_str().len() + 2).max().unwrap_or(LEAST_NAME);
        let name = (LEAST_NAME + left).min(longest.max(LEAST_NAME));
        left -= name - LEAST_NAME;
        columns.push((
            0,
            Column {
                heading: "  SERVICE".into(),
                width: name,
                right: false,
                cell: Box::new(|row| (Emphasis::Plain, format!("  {}", row.service))),
            },
        ));
        if let Some((_, words)) = columns.iter_mut().find(|(place, _)| *place == 8) {
            words.width += left;
        }
        columns.sort_by_key(|(place, _)| *place);
        columns.into_iter().map(|(_, column)| column).collect()
    }
}

fn nothing(state: &TopState) -> String {
    let all = state.services().map_or(0, |services| services.services.len());
    match (&state.past, state.services()) {
        (_, Some(_)) if all > 0 => format!("no name holds \"{}\"; Esc clears the filter", state.filter),
        (Some(_), Some(_)) => "no service held a socket in CLOSE_WAIT then".into(),
        (None, Some(_)) => "no service holds a socket in CLOSE_WAIT".into(),
        (_, None) => String::new(),
    }
}

fn foot(state: &TopState) -> String {
    if state.typing {
        return format!("/{}_   Enter: keep, Esc: clear", state.filter);
    }
    let keys = if state.open.is_some() { "Esc: back  1 2 3: tabs" } else { "Enter: open  /: filter  s: sort" };
    let services = state.services();
    let left_out = services.map_or(0, |services| services.left_out);
    let mut text = format!("?: keys  q: leave  {keys}");
    if !state.filter.is_empty() && state.open.is_none() {
        let all = services.map_or(0, |services| services.services.len());
        text = format!("\"{}\": {} of {all}  Esc: clear  {text}", state.filter, state.rows().len());
    }
    if left_out > 0 {
        text.push_str(&format!("  {left_out} services more: `unwait scan --json`"));
    }
    text
}

/// What holds a service: the words of the table, then a sentence for each policy.
pub fn says(service: &ServiceRow, state: &TopState) -> Vec<(Emphasis, String)> {
    let mut lines = Vec::new();
    let (tone, words) = rows::stands(service, state.status());
    if !words.is_empty() {
        lines.push((tone, words));
    }
    for stands in service.policies.iter().filter_map(|stands| Some((&stands.policy, stands.reason?))) {
        lines.push((Emphasis::Plain, format!("{}: {}", stands.0, stands.1.says())));
    }
    lines
}
