//! A document as Markdown (CommonMark with GitHub's tables).

use std::fmt::Write;

use super::document::{Document, Section, Table};

/// The whole document.
pub fn of(document: &Document) -> String {
    let mut out = format!("# {}\n", text(&document.title));
    paragraphs(&mut out, &document.lines);
    for Section { title, lines, facts, tables } in &document.sections {
        let _ = write!(out, "\n## {}\n", text(title));
        paragraphs(&mut out, lines);
        if !facts.is_empty() {
            out.push('\n');
        }
        for (name, value) in facts {
            let _ = writeln!(out, "- {name}: {}", text(value));
        }
        tables.iter().for_each(|one| table(&mut out, one));
    }
    out
}

fn paragraphs(out: &mut String, lines: &[String]) {
    for line in lines {
        let _ = write!(out, "\n{}\n", text(line));
    }
}

fn table(out: &mut String, table: &Table) {
    let Table { title, headings, rows, left_out } = table;
    let _ = write!(out, "\n### {title}\n\n");
    let named: Vec<&str> = headings.iter().map(|heading| heading.trim_start_matches('>')).collect();
    let _ = writeln!(out, "| {} |", named.join(" | "));
    let rules: Vec<&str> =
        headings.iter().map(|heading| if heading.starts_with('>') { "--:" } else { "---" }).collect();
    let _ = writeln!(out, "| {} |", rules.join(" | "));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| text(cell)).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    if *left_out > 0 {
        let _ = write!(out, "\nand {left_out} more\n");
    }
}

/// What others have written means nothing to Markdown. Our own words stand between backticks at the most.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
