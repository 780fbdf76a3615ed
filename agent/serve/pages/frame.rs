//! What is around every page: its head, the way to the other pages, and where a script puts what is new.

use maud::{DOCTYPE, Markup, html};

use super::super::assets;
use crate::report::html::cleaned;

/// A page of the status server.
pub struct Page<'a> {
    /// Before the host's name, in the browser's tab.
    pub title: String,
    /// Which of the pages above all it belongs to, by its address.
    pub belongs_to: &'a str,
    pub body: Markup,
}

const PAGES: [(&str, &str); 3] = [("/", "Services"), ("/incidents", "Incidents"), ("/slots", "Slots")];

/// The whole document.
pub fn framed(host: &str, Page { title, belongs_to, body }: Page<'_>) -> String {
    let assets = assets::names();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · " (host) " · unwait" }
                link rel="stylesheet" href=(assets.style);
                link rel="icon" type="image/svg+xml" href=(assets.icon);
                script src=(assets.script) defer {}
            }
            "\n"
            body {
                a.skip href="#main" { "Skip to the content" }
                header.bar {
                    nav aria-label="Pages" {
                        @for (address, name) in PAGES {
                            a href=(address) aria-current=[(address == belongs_to).then_some("page")] { (name) }
                        }
                    }
                    // What the script says: the last answer is long ago. The only place that a screen reader is told of by itself.
                    p #said role="status" {}
                }
                "\n"
                main #main tabindex="-1" { (body) }
                "\n"
                footer {
                    p.soft { "Read-only. The same as JSON: " a href="/api/v1/status" { "/api/v1" } ". By hand: " code { "unwait status" } "." }
                }
            }
        }
        "\n"
    };
    cleaned(page)
}

/// A part of the page that the script replaces by what the server says then.
pub fn live(id: &str, body: Markup) -> Markup {
    html! { div id=(id) data-live { (body) } }
}

/// A table that scrolls by itself on a phone, and that the keyboard reaches.
pub fn scrolled(label: &str, table: Markup) -> Markup {
    html! { div.wide role="region" aria-label=(label) tabindex="0" { (table) } }
}

/// Each on a line of its own, to be selected by a click.
pub fn commands(commands: &[String]) -> Markup {
    html! {
        @if !commands.is_empty() {
            ul.commands aria-label="Commands" { @for command in commands { li { code { (command) } } } }
        }
    }
}
