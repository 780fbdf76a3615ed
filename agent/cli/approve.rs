//! `unwait approve ID HASH` and `unwait deny ID`: a person's word on a plan. The running agent takes it, and knows by the
//! socket who gave it.

use clap::Args;

use super::{ConfigArguments, Outcome, open, order};
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct ApproveArguments {
    /// As the message and `status` name it.
    id: String,
    /// The plan's hash, as the message, `status` and `plan` show it, or its first 8 digits or more: which plan you approve.
    hash: Option<String>,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

#[derive(Debug, Args)]
pub struct DenyArguments {
    /// As the message and `status` name it.
    id: String,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn approve(arguments: ApproveArguments) -> Outcome {
    let ApproveArguments { id, hash, why, place } = arguments;
    order::give(&open::state(&place)?, Request::Approve { id, hash }, why, place.json).await
}

pub async fn deny(arguments: DenyArguments) -> Outcome {
    let DenyArguments { id, why, place } = arguments;
    order::give(&open::state(&place)?, Request::Deny { id }, why, place.json).await
}
