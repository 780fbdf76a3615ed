//! `unwait fleet`: every host's breaches, slots, locked services and version, from the fleet's store alone.

use clap::Args;

use super::document::{self, Format};
use super::{ConfigArguments, Failure, Outcome, open, render};
use crate::daemon::duties::slots;
use crate::report::fleet;

#[derive(Debug, Args)]
pub struct Arguments {
    /// `html` is one file that fetches nothing: `unwait fleet --format html > fleet.html`.
    #[arg(long, value_enum, default_value_t = Format::Table, conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn fleet(arguments: Arguments) -> Outcome {
    let Arguments { format, place } = arguments;
    let wiring = open::wiring(open::config(&place)?)?;
    let shown = slots::fleet(&wiring).await.map_err(super::slot::failed)?;
    match place.json {
        true => render::json(&shown),
        false => document::print(&fleet::document(&shown), format),
    }
    match shown.wants_a_person() {
        true => Err(Failure::Wrong(String::new())),
        false => Ok(()),
    }
}
