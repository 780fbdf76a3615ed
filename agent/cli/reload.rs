//! `unwait reload`: the running agent loads its configuration anew, whole or not at all. What `systemctl reload` calls.

use clap::Args;

use super::{ConfigArguments, Outcome, open, order};
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn reload(arguments: Arguments) -> Outcome {
    let Arguments { why, place } = arguments;
    order::give(&open::state(&place)?, Request::Reload, why, place.json).await
}
