//! `unwait review`: what each policy did and would have done, and what became of it.

use clap::{Args, ValueEnum};

use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use crate::report::document::{Document, Section, Table};
use crate::report::{html, markdown, review};
use crate::view::review::Review;
use crate::wiring;

#[derive(Debug, Args)]
pub struct Arguments {
    /// How far back, such as 24h or 14d.
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    since: String,
    /// Only this policy.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// `html` is one file that fetches nothing: `unwait review --format html > review.html`.
    #[arg(long, value_enum, default_value_t = Format::Table, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    place: ConfigArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Markdown,
    Html,
}

/// Breaches of each policy that are listed: what a screen holds, and what a document does.
const ON_A_SCREEN: usize = 20;
const IN_A_DOCUMENT: usize = 200;

pub async fn review(arguments: Arguments) -> Outcome {
    let Arguments { since, policy, format, place } = arguments;
    let since = duration::parse(&since).map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let host = wiring::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let state = open::state(&place)?;
    open::disk_answers(&state).await?;
    let store = open::store_to_read(&state)?;
    let review = Review::of(&store, &host, policy.as_deref(), since, SystemClock.now())
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    if let (Some(policy), []) = (&policy, review.policies.as_slice()) {
        return Err(Failure::Wrong(format!(
            "no policy `{policy}` is in force, and none of that name acted in that time; `unwait review` shows all"
        )));
    }
    match format {
        _ if place.json => render::json(&review),
        Format::Table => print!("{}", shown(&review::document(&review, ON_A_SCREEN))),
        Format::Markdown => print!("{}", markdown::of(&review::document(&review, IN_A_DOCUMENT))),
        Format::Html => print!("{}", html::of(&review::document(&review, IN_A_DOCUMENT))),
    }
    Ok(())
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
