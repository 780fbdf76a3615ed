//! `unwait review`: what each policy did and would have done, and what became of it.

use clap::Args;

use super::document::{self, Format};
use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use crate::report::review;
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

/// Breaches of each policy that are listed: what a screen holds, and what a document does.
const ON_A_SCREEN: usize = 20;
const IN_A_DOCUMENT: usize = 200;

pub async fn review(arguments: Arguments) -> Outcome {
    let Arguments { since, policy, format, place } = arguments;
    let since = duration::parse(&since).map_err(|error| Failure::Usage(format!("--since: {error}")))?;
    let host = wiring::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let state = open::state(&place)?;
    let store = open::store_to_read(&state).await?;
    let review = Review::of(&store, &host, policy.as_deref(), since, SystemClock.now())
        .map_err(|error| Failure::Unreachable(error.to_string()))?;
    if let (Some(policy), []) = (&policy, review.policies.as_slice()) {
        return Err(Failure::Wrong(format!(
            "no policy `{policy}` is in force, and none of that name acted in that time; `unwait review` shows all"
        )));
    }
    if place.json {
        render::json(&review);
        return Ok(());
    }
    let cases = if format == Format::Table { ON_A_SCREEN } else { IN_A_DOCUMENT };
    document::print(&review::document(&review, cases), format);
    Ok(())
}
