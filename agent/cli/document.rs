//! A document of `report`, as a verb prints it: a table on a terminal, Markdown, or an HTML file.

use clap::ValueEnum;

use super::render;
use crate::report::document::{Document, Section, Table};
use crate::report::{html, markdown};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Markdown,
    Html,
}

pub fn print(document: &Document, format: Format) {
    match format {
        Format::Table => print!("{}", shown(document)),
        Format::Markdown => print!("{}", markdown::of(document)),
        Format::Html => print!("{}", html::of(document)),
    }
}

/// A document on a terminal.
fn shown(document: &Document) -> String {
    let mut out = format!("{}\n", document.title);
    document.lines.iter().for_each(|line| out.push_str(&format!("{line}\n")));
    for Section { title, lines, facts, tables } in &document.sections {
        out.push_str(&format!("\n{title}\n"));
        lines.iter().for_each(|line| out.push_str(&format!("  {line}\n")));
        let widest = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in facts {
            out.push_str(&format!("  {name:widest$}  {value}\n"));
        }
        for Table { title, headings, rows, left_out } in tables {
            out.push_str(&format!("\n  {title}\n"));
            render::aligned(headings, rows).lines().for_each(|line| out.push_str(&format!("    {line}\n")));
            if *left_out > 0 {
                out.push_str(&format!("    and {left_out} more\n"));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_shown_as_text() {
        let table = Table {
            title: "Held",
            headings: vec!["GUARD", ">FOR"],
            rows: vec![vec!["a".into(), "1m".into()]],
            left_out: 2,
        };
        let section = Section {
            title: "p".into(),
            lines: vec!["says".into()],
            facts: vec![("breaches", "3".into()), ("acted", "once".into())],
            tables: vec![table],
        };
        let document = Document { title: "t".into(), lines: vec!["l".into()], sections: vec![section] };
        let expected = "t\nl\n\np\n  says\n  breaches  3\n  acted     once\n\n  Held\n    GUARD  FOR\n    a       1m\n    and 2 more\n";
        assert_eq!(shown(&document), expected);
    }
}
