//! Words in cells: harmless, cut by the width that a terminal gives them, in a tone that needs no colour.

use ratatui::buffer::Buffer;
use ratatui::style::{Color, Modifier, Style};

use crate::cli::render::width;

/// How something is said. Colour is never all that tells: the words say it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emphasis {
    #[default]
    Plain,
    Dim,
    Bold,
    Warn,
    Bad,
}

impl Emphasis {
    pub fn style(self, colours: bool) -> Style {
        let colour = |style: Style, colour| if colours { style.fg(colour) } else { style };
        match self {
            Self::Plain => Style::new(),
            Self::Dim => Style::new().add_modifier(Modifier::DIM),
            Self::Bold => Style::new().add_modifier(Modifier::BOLD),
            Self::Warn => colour(Style::new().add_modifier(Modifier::BOLD), Color::Yellow),
            Self::Bad => colour(Style::new().add_modifier(Modifier::BOLD), Color::Red),
        }
    }
}

/// What others wrote, with what would steer a terminal, or turn the direction of writing, shown instead of obeyed.
pub fn harmless(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

/// Writes it within `columns`; one that is longer ends in `…`.
pub fn put(buffer: &mut Buffer, (x, y): (u16, u16), columns: usize, text: &str, style: Style) {
    let area = *buffer.area();
    if x >= area.right() || y >= area.bottom() || columns == 0 {
        return;
    }
    let columns = columns.min(usize::from(area.right() - x));
    let text = harmless(text);
    if width(&text) <= columns {
        buffer.set_stringn(x, y, &text, columns, style);
    } else {
        let (behind, _) = buffer.set_stringn(x, y, &text, columns - 1, style);
        buffer.set_stringn(behind, y, "…", 1, style);
    }
}

/// The same, to the right: for numbers.
pub fn put_right(buffer: &mut Buffer, (x, y): (u16, u16), columns: usize, text: &str, style: Style) {
    let before = columns.saturating_sub(width(text));
    put(buffer, (x.saturating_add(before as u16), y), columns - before, text, style);
}
