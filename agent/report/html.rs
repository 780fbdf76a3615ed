//! HTML that stands alone: one file, nothing fetched, no scripts, light and dark, on paper and on a phone. Markup is made by
//! maud alone, which escapes every text, so nothing that others have written becomes markup.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Document, Section, Table};

/// How documents look.
pub const STYLE: &str = include_str!("page.css");

/// A whole page. Its own policy lets nothing be fetched and no script run, whatever stands in it.
pub fn page(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (title) }
                style { "\n" (PreEscaped(STYLE)) }
            }
            "\n"
            body { main { (body) } }
        }
        "\n"
    };
    cleaned(page)
}

/// The text of a whole page.
pub fn cleaned(page: Markup) -> String {
    page.into_string().chars().map(shown).collect()
}

/// Control characters, and those that turn the direction of what follows, are shown as such.
fn shown(c: char) -> char {
    match c {
        '\n' => '\n',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// The whole document.
pub fn of(document: &Document) -> String {
    let body = html! {
        h1 { (document.title) }
        @for line in &document.lines { p { (with_code(line)) } }
        @for part in &document.sections { (section(part)) }
    };
    page(&document.title, body)
}

/// What stands between two backticks is code.
fn with_code(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn section(part: &Section) -> Markup {
    let Section { title, lines, facts, tables } = part;
    html! {
        section {
            h2 { (title) }
            @for line in lines { p class="says" { (with_code(line)) } }
            @if !facts.is_empty() {
                dl { @for (name, value) in facts { dt { (name) } dd { (value) } } }
            }
            @for one in tables { (table(one)) }
        }
    }
}

/// A table below its heading.
pub fn table(table: &Table) -> Markup {
    let Table { title, headings, rows, left_out } = table;
    let class = |heading: &str| heading.starts_with('>').then_some("number");
    html! {
        h3 { (title) }
        // Wide tables scroll by themselves on a phone.
        div class="wide" role="region" tabindex="0" aria-label=(title) {
            table {
                thead { tr {
                    @for heading in headings { th scope="col" class=[class(heading)] { (heading.trim_start_matches('>')) } }
                } }
                tbody {
                    @for cells in rows {
                        tr { @for (cell, heading) in cells.iter().zip(headings) { td class=[class(heading)] { (cell) } } }
                    }
                }
            }
        }
        @if *left_out > 0 { p { "and " (left_out) " more" } }
    }
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
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;'").count(), 7);
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
