//! Tables and JSON, for every verb.

use serde::Serialize;

/// One JSON value on standard output.
pub fn json(value: &impl Serialize) {
    println!("{}", serde_json::to_string_pretty(value).expect("what verbs print is plain data"));
}

/// A table on standard output.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    print!("{}", aligned(headings, rows));
}

/// Columns that a terminal gives it: two to a wide character.
pub fn width(text: &str) -> usize {
    ratatui::text::Span::raw(text).width()
}

/// Columns aligned by their widest cell; numbers (`>` before a heading) to the right.
pub fn aligned(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let right: Vec<bool> = headings.iter().map(|heading| heading.starts_with('>')).collect();
    let headings: Vec<String> = headings.iter().map(|heading| heading.trim_start_matches('>').to_string()).collect();
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            rows.iter().chain([&headings]).map(|row| row.get(column).map_or(0, |cell| width(cell))).max().unwrap_or(0)
        })
        .collect();
    for row in std::iter::once(&headings).chain(rows) {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
            let (before, after) = if right[column] { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time as people read it, to the second, in UTC as the log has it.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}
