//! `unwait silence SERVICE` and `unwait silence --host`: no action for a while. Written to the store itself, as a pause
//! is: a word of a person must be heard by an agent that does not answer, and must outlive a reboot.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, order, pause, render};
use crate::clock::{Clock, SystemClock};
use crate::model::{ServiceName, duration};
use crate::store::Silence;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["service", "host"]))]
pub struct Arguments {
    /// NAME.service, container:NAME, program:NAME or process:NAME.
    service: Option<String>,
    /// Every service of this host.
    #[arg(long)]
    host: bool,
    /// For how long, such as 2h; at most 30d. A silence that lasts longer already is not shortened.
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting, allow_hyphen_values = true, required_unless_present = "end")]
    lasting: Option<Duration>,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason, required_unless_present = "end")]
    why: Option<String>,
    /// End the silence now.
    #[arg(long, conflicts_with = "lasting")]
    end: bool,
    #[command(flatten)]
    place: ConfigArguments,
}

const LONGEST: Duration = Duration::from_secs(30 * 86_400);

fn lasting(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("a silence lasts for some time; `--end` ends one".into()),
        lasting if lasting > LONGEST => Err(format!("a silence lasts {} at most", duration::format(LONGEST))),
        lasting => Ok(lasting),
    }
}

pub fn silence(arguments: Arguments) -> Outcome {
    let service = arguments.service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    let what = service.as_ref().map_or("this host", ServiceName::as_str);
    let unreachable = |error: crate::store::StoreError| Failure::Unreachable(error.to_string());
    let store = pause::opened(&arguments.place)?;
    let now = SystemClock.now();
    let (Some(lasting), Some(why)) = (arguments.lasting, arguments.why.clone()) else {
        let by = order::person(arguments.why);
        let was = store.end_silence(service.as_ref(), &by, now).map_err(unreachable)?;
        match (arguments.place.json, was) {
            (true, was) => render::json(&json!({ "was_silenced": was })),
            (_, true) => println!("The silence of {what} is over."),
            (_, false) => println!("There was no silence of {what}."),
        }
        return Ok(());
    };
    let until = now.checked_add(lasting).map_err(|error| Failure::Usage(error.to_string()))?;
    let service = service.as_ref().map(ToString::to_string);
    let silence = Silence { service, who: order::who(), why, since: now, until };
    match (arguments.place.json, store.silence(&silence).map_err(unreachable)?) {
        (true, stands) => render::json(&stands.unwrap_or(silence)),
        (_, Some(Silence { who, why, until, .. })) => {
            let until = render::time(until);
            println!("No action on {what} until {until} already, by {who}: {why}. That is no sooner, and stands.");
        }
        (_, None) => println!("No action on {what} until {}.", render::time(until)),
    }
    Ok(())
}
