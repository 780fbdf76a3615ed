//! `unwait demo`: being built.

use super::Outcome;
use clap::Args;

#[derive(Debug, Args)]
pub struct Arguments {}

#[derive(Debug, Args)]
pub struct ServiceArguments {}

pub async fn demo(_arguments: Arguments) -> Outcome {
    Ok(())
}

pub fn service(_arguments: ServiceArguments) -> Outcome {
    Ok(())
}
