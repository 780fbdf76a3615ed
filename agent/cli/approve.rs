//! `unwait approve ID` and `unwait deny ID`: a person's word on a plan. The running agent takes it, and knows by the
//! socket who gave it.

use clap::Args;

use super::{ConfigArguments, Outcome, act, open};
use crate::view::request::Request;

#[derive(Debug, Args)]
pub struct ApproveArguments {
    /// As the message and `status` name it.
    id: String,
    #[command(flatten)]
    place: ConfigArguments,
}

#[derive(Debug, Args)]
pub struct DenyArguments {
    /// As the message and `status` name it.
    id: String,
    /// Why, for whoever finds it later.
    #[arg(long)]
    why: Option<String>,
    #[command(flatten)]
    place: ConfigArguments,
}

pub async fn approve(arguments: ApproveArguments) -> Outcome {
    let request = Request::Approve { id: arguments.id, who: String::new() };
    act::ask(&open::state(&arguments.place)?, &request, arguments.place.json).await
}

pub async fn deny(arguments: DenyArguments) -> Outcome {
    let request = Request::Deny { id: arguments.id, why: arguments.why, who: String::new() };
    act::ask(&open::state(&arguments.place)?, &request, arguments.place.json).await
}
