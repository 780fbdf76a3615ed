//! `unwait silence SERVICE`, until a time or until its condition is over, and `unwait silence --host`: no action for a while. Written to the store itself, as a pause
//! is: a word of a person must be heard by an agent that does not answer, and must outlive a reboot.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{ConfigArguments, Failure, Outcome, open, order, render};
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
    #[arg(long = "for", value_name = "DURATION", value_parser = lasting, allow_hyphen_values = true,
        required_unless_present_any = ["end", "until_clear"])]
    lasting: Option<Duration>,
    /// Until no policy's condition holds for the service any more; at the latest after `--for`, or 7d.
    #[arg(long, conflicts_with_all = ["host", "end"])]
    until_clear: bool,
    /// Why, for whoever finds it later.
    #[arg(long, value_parser = order::reason, required_unless_present = "end")]
    why: Option<String>,
    /// End the silence now.
    #[arg(long, conflicts_with = "lasting")]
    end: bool,
    #[command(flatten)]
    place: ConfigArguments,
}

/// A condition that is never over silences nobody for ever.
const UNTIL_CLEAR_AT_MOST: Duration = Duration::from_secs(7 * 86_400);
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

fn lasting(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        Duration::ZERO => Err("a silence lasts for some time; `--end` ends one".into()),
        lasting if lasting > LONGEST => Err(format!("a silence lasts {} at most", duration::format(LONGEST))),
        lasting => Ok(lasting),
    }
}

pub async fn silence(arguments: Arguments) -> Outcome {
    let service = arguments.service.as_deref().map(ServiceName::parse).transpose().map_err(Failure::Usage)?;
    let what = service.as_ref().map_or("this host", ServiceName::as_str);
    let unreachable = |error: crate::store::StoreError| Failure::Unreachable(error.to_string());
    let store = open::store_or_new(&open::state(&arguments.place)?).await?;
    let now = SystemClock.now();
    let until_clear = arguments.until_clear;
    let lasting = arguments.lasting.or(until_clear.then_some(UNTIL_CLEAR_AT_MOST));
    let (Some(lasting), Some(why)) = (lasting, arguments.why.clone()) else {
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
    let silence = Silence { service, who: order::who(), why, since: now, until, until_clear };
    match (arguments.place.json, store.silence(&silence).map_err(unreachable)?) {
        (true, stands) => render::json(&stands.unwrap_or(silence)),
        (_, Some(Silence { who, why, until, .. })) => {
            let until = render::time(until);
            println!("No action on {what} until {until} already, by {who}: {why}. That is no sooner, and stands.");
        }
        (_, None) if until_clear => {
            println!("No action on {what} until its condition is over, at the latest until {}.", render::time(until));
        }
        (_, None) => println!("No action on {what} until {}.", render::time(until)),
    }
    Ok(())
}
