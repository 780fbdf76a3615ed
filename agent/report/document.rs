//! A document, whatever it is shown as.

use jiff::Timestamp;

/// What is handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub title: String,
    /// Below the title, a paragraph each.
    pub lines: Vec<String>,
    pub sections: Vec<Section>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub title: String,
    /// What matters most, a paragraph each.
    pub lines: Vec<String>,
    /// Each with its name.
    pub facts: Vec<(&'static str, String)>,
    pub tables: Vec<Table>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub title: &'static str,
    /// With `>` before it: numbers, to the right.
    pub headings: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// Rows that are not shown.
    pub left_out: usize,
}

impl Table {
    /// At most so many of the rows.
    pub fn cut(mut self, at_most: usize) -> Self {
        self.left_out += self.rows.len().saturating_sub(at_most);
        self.rows.truncate(at_most);
        self
    }
}

/// A time as documents show it.
pub fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%MZ").to_string()
}
