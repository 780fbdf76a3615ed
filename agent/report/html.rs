//! HTML that stands alone: one file, nothing fetched, no scripts, light and dark, on paper and on a phone. Markup is made by
//! [`Html`] alone, which escapes every text, so nothing that others have written becomes markup.

use std::fmt::{Display, Write};

use super::document::{Document, Section, Table};

/// Markup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// A text, escaped.
    pub fn text(text: impl Display) -> Self {
        Self(escaped(&text.to_string()))
    }

    pub fn element(tag: &'static str, inside: impl IntoIterator<Item = Self>) -> Self {
        Self::classed(tag, "", inside)
    }

    /// An element of a class, which `STYLE` knows.
    pub fn classed(tag: &'static str, class: &'static str, inside: impl IntoIterator<Item = Self>) -> Self {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let mut out = format!("<{tag}{class}>");
        inside.into_iter().for_each(|one| out.push_str(&one.0));
        let _ = write!(out, "</{tag}>");
        Self(out)
    }

    /// An element that holds a text.
    pub fn of(tag: &'static str, text: impl Display) -> Self {
        Self::element(tag, [Self::text(text)])
    }

    /// A paragraph; what stands between two backticks is code.
    fn paragraph(class: &'static str, text: &str) -> Self {
        let parts = text.split('`').enumerate();
        let part =
            |(place, part): (usize, &str)| if place % 2 == 1 { Self::of("code", part) } else { Self::text(part) };
        Self::classed("p", class, parts.map(part))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Besides what HTML takes for markup: control characters, and those that turn the direction of what follows.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

const STYLE: &str = include_str!("page.css");

/// A whole page. Its own policy lets nothing be fetched and no script run, whatever stands in it.
pub fn page(title: &str, body: impl IntoIterator<Item = Html>) -> String {
    let title = Html::of("title", title);
    let body = Html::element("main", body);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         {}\n<style>\n{STYLE}</style></head>\n<body>{}</body></html>\n",
        title.as_str(),
        body.as_str()
    )
}

/// The whole document.
pub fn of(document: &Document) -> String {
    let mut body = vec![Html::of("h1", &document.title)];
    body.extend(document.lines.iter().map(|line| Html::paragraph("", line)));
    body.extend(document.sections.iter().map(section));
    page(&document.title, body)
}

fn section(section: &Section) -> Html {
    let Section { title, lines, facts, tables } = section;
    let mut inside = vec![Html::of("h2", title)];
    inside.extend(lines.iter().map(|line| Html::paragraph("says", line)));
    let fact = |(name, value): &(&'static str, String)| [Html::of("dt", name), Html::of("dd", value)];
    if !facts.is_empty() {
        inside.push(Html::element("dl", facts.iter().flat_map(fact)));
    }
    inside.extend(tables.iter().flat_map(table));
    Html::element("section", inside)
}

/// A table below its heading.
pub fn table(table: &Table) -> Vec<Html> {
    let Table { title, headings, rows, left_out } = table;
    let class = |heading: &&'static str| if heading.starts_with('>') { "number" } else { "" };
    let head = headings
        .iter()
        .map(|heading| Html::classed("th", class(heading), [Html::text(heading.trim_start_matches('>'))]));
    let row = |cells: &Vec<String>| {
        let cells = cells.iter().zip(headings);
        Html::element("tr", cells.map(|(cell, heading)| Html::classed("td", class(heading), [Html::text(cell)])))
    };
    let body = Html::element("tbody", rows.iter().map(row));
    let table = Html::element("table", [Html::element("thead", [Html::element("tr", head)]), body]);
    // Wide tables scroll by themselves on a phone.
    let mut all = vec![Html::of("h3", title), Html::classed("div", "wide", [table])];
    if *left_out > 0 {
        all.push(Html::of("p", format!("and {left_out} more")));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_is_text() {
        let evil = "</title><script>alert(\"1\")</script>&'\u{202e}\u{1b}[31m";
        let section = Section {
            title: evil.into(),
            lines: vec![evil.into()],
            facts: vec![("fact", evil.into())],
            tables: vec![Table { title: "t", headings: vec!["a"], rows: vec![vec![evil.into()]], left_out: 1 }],
        };
        let page = of(&Document { title: evil.into(), lines: vec![evil.into()], sections: vec![section] });
        assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{1b}'), "{page}");
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;").count(), 7);
        assert_eq!(page.matches("</title>").count(), 1);
    }

    #[test]
    fn nothing_is_fetched() {
        let page = of(&Document::default());
        for fetched in ["http:", "https:", "url(", "@import", "src=", "href=", "<link"] {
            assert!(!page.contains(fetched), "{fetched}: {page}");
        }
    }
}
