//! `unwait scan`: one look, a table; `--watch` goes on looking. Works without a configuration and without root, and
//! says what it could not see.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{CONFIG_DIR, ConfigArguments, Failure, Outcome, out, render, scan_by};
use crate::clock::{Clock, SystemClock};
use crate::model::census::Stray;
use crate::model::{Caution, Reading, Readings, ServiceName, Signal, duration};
use crate::sense::sensor::{Effort, Look, Sensor};
use crate::view::sockets::CountedBy;
use crate::{config, wiring};

/// Long enough to be a leak, and no connection that is just being closed.
pub(super) const AGED: Signal = Signal::CloseWaitAged(Duration::from_secs(300));
/// Known only when looks go on for as long.
pub(super) const GROWTH: Signal = Signal::CloseWaitGrowth(Duration::from_secs(60));

/// For the search for holders that no cgroup tells, in a single look.
const SEARCH_WITHIN: Duration = Duration::from_secs(2);

/// Places of sockets of no service that the table shows.
const MOST_STRAYS: usize = 10;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
    /// Look again and again, every so long, until Ctrl-C; shows growth as well.
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<String>,
    /// Count established connections too: on a host with many of them this takes twice as long, and more.
    #[arg(long)]
    established: bool,
    /// The host's sockets in CLOSE_WAIT by who closed, who holds them, which port is meant, or whose they are.
    #[arg(long, value_name = "peer|process|port|user", conflicts_with_all = ["watch", "established"])]
    by: Option<CountedBy>,
    /// The same as `--by peer`.
    #[arg(long, conflicts_with_all = ["by", "watch", "established"])]
    peers: bool,
}

pub async fn scan(arguments: Arguments) -> Outcome {
    let every = match &arguments.watch {
        None => None,
        Some(text) => match duration::parse(text) {
            Ok(every) if every >= Duration::from_millis(200) => Some(every),
            Ok(_) => return Err(Failure::Usage(format!("--watch {text}: at least 200ms"))),
            Err(error) => return Err(Failure::Usage(format!("--watch: {error}"))),
        },
    };
    // Services that only the configuration names are known where there is one.
    let config = match config::load(&arguments.place.config) {
        Ok(config) => Some(config),
        Err(diagnostics) => {
            // Without one where it would be by default there is nothing to say.
            let config = &arguments.place.config;
            let is_absent = config.join("agent.yaml").try_exists().is_ok_and(|there| !there);
            if !is_absent || config != Path::new(CONFIG_DIR) {
                eprintln!("{}", left_aside(config, &diagnostics));
            }
            None
        }
    };
    let matches = config.as_ref().map(wiring::matches).unwrap_or_default();
    let mut asked = vec![AGED, Signal::FdUsed, Signal::FdRatio, Signal::FdClosed];
    asked.extend(arguments.established.then_some(Signal::Established));
    if every.is_some() {
        asked.extend([GROWTH, Signal::FdExhaustedIn]);
    }
    let unreachable = |error: crate::collect::CollectError| Failure::Unreachable(error.to_string());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut sensor = Sensor::new(matches, asked.clone(), Arc::clone(&clock)).map_err(unreachable)?;
    if every.is_none() {
        sensor.search_within(SEARCH_WITHIN);
    }
    if let Some(by) = arguments.by.or(arguments.peers.then_some(CountedBy::Peer)) {
        return scan_by::scan(sensor, by, arguments.place.json).await;
    }
    loop {
        if let Some(config) = &config {
            sensor.told(wiring::supervised::told(config, &clock).await);
        }
        let look = match (sensor.look(Effort::Afresh), every) {
            (Ok(look), _) => look,
            (Err(error), None) => return Err(unreachable(error)),
            (Err(error), Some(every)) => {
                eprintln!("{error}");
                tokio::time::sleep(every).await;
                continue;
            }
        };
        let strays = sensor.strays(&look);
        let mut cautions = sensor.cautions();
        cautions.extend(sensor.behind_proxies());
        let text = match (arguments.place.json, every) {
            (true, None) => format!("{:#}\n", value(&look, &strays, &cautions)?),
            (true, Some(_)) => format!("{}\n", value(&look, &strays, &cautions)?),
            (false, None) => table(&look, &strays, &cautions, &asked),
            (false, Some(_)) if std::io::stdout().is_terminal() => {
                out::clear_screen();
                table(&look, &strays, &cautions, &asked)
            }
            (false, Some(_)) => format!("{}\n", table(&look, &strays, &cautions, &asked)),
        };
        print!("{text}");
        out::finish()?;
        match (every, &look.measurements.untrusted) {
            (Some(every), _) => tokio::time::sleep(every).await,
            (None, None) => return Ok(()),
            (None, Some(why)) => return Err(Failure::Unreachable(format!("the snapshot is partial: {why}"))),
        }
        sensor.discover();
    }
}

/// A broken configuration keeps nobody from looking; `check` shows all that is wrong with it.
fn left_aside(config: &Path, wrong: &config::Diagnostics) -> String {
    let first = wrong.iter().next().map(|first| first.to_string()).unwrap_or_default();
    let first = first.lines().next().unwrap_or_default();
    format!("the configuration in {} is left aside: {first}; see `unwait check`", config.display())
}

fn number(readings: &Readings, signal: Signal) -> f64 {
    match readings.get(signal) {
        Reading::Known(value) => value,
        Reading::Unknown => 0.0,
    }
}

/// It holds sockets in CLOSE_WAIT, or descriptors at what left it without its doing.
fn leaks(readings: &Readings) -> bool {
    number(readings, Signal::CloseWait) > 0.0 || number(readings, Signal::FdClosed) > 0.0
}

/// The services that hold such sockets; first whose have been there for long, then whose are many.
fn ranked(look: &Look) -> Vec<(&ServiceName, &Readings)> {
    let mut services: Vec<_> = look.measurements.services().filter(|(_, readings)| leaks(readings)).collect();
    services.sort_by(|(a_name, a), (b_name, b)| {
        let by = |signal| number(b, signal).total_cmp(&number(a, signal));
        by(AGED)
            .then(by(Signal::CloseWait))
            .then(by(Signal::FdClosed))
            .then(by(Signal::FdRatio))
            .then(a_name.cmp(b_name))
    });
    services
}

fn value(look: &Look, strays: &[Stray], cautions: &[Caution]) -> Result<Value, Failure> {
    let host = wiring::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let services: Vec<Value> = ranked(look)
        .into_iter()
        .map(|(name, readings)| {
            let mut object = Map::new();
            object.insert("service".into(), json!(name));
            if let Ok(Value::Object(signals)) = serde_json::to_value(readings) {
                object.extend(signals.into_iter().filter(|(signal, _)| signal != "host.close_wait"));
            }
            Value::Object(object)
        })
        .collect();
    Ok(json!({
        "at": look.measurements.at,
        "host": host,
        "host.close_wait": look.host_close_wait,
        "services": services,
        "unattributed": look.unattributed.values().sum::<u64>(),
        "unattributed_reasons": reasons(look),
        "of_no_service": strays,
        "not_seen": not_seen(look, cautions),
        "cautions": mind(cautions),
        "source": look.source,
        "complete": look.measurements.untrusted.is_none(),
    }))
}

/// Why sockets have no owner, counted.
fn reasons(look: &Look) -> std::collections::BTreeMap<&'static str, u64> {
    look.unattributed.iter().map(|(why, count)| (why.into(), *count)).collect()
}

/// What could not be seen, and which capability would show it.
pub(super) fn not_seen(look: &Look, cautions: &[Caution]) -> Vec<String> {
    let blind = cautions.iter().filter(|caution| caution.is_blindness()).map(ToString::to_string);
    let mut spots: Vec<String> = look.blind_spots.iter().map(ToString::to_string).chain(blind).collect();
    if !nix::unistd::geteuid().is_root() {
        spots.push(
            "descriptors of other users' processes, since this is not root: CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH \
             show them"
                .into(),
        );
    }
    spots
}

/// What the counts do not say by themselves.
pub(super) fn mind(cautions: &[Caution]) -> Vec<String> {
    cautions.iter().filter(|caution| !caution.is_blindness()).map(ToString::to_string).collect()
}

fn table(look: &Look, strays: &[Stray], cautions: &[Caution], asked: &[Signal]) -> String {
    let columns = [
        (">CLOSE_WAIT", Signal::CloseWait),
        (">OVER 5m", AGED),
        (">OLDEST", Signal::CloseWaitOldest),
        (">GROWTH", GROWTH),
        (">INBOUND", Signal::CloseWaitInbound),
        (">OUTBOUND", Signal::CloseWaitOutbound),
        (">UNACCEPTED", Signal::CloseWaitUnaccepted),
        (">UNREAD", Signal::CloseWaitUnread),
        (">SENDING", Signal::CloseWaitSending),
        (">ESTABLISHED", Signal::Established),
        (">FDS", Signal::FdUsed),
        (">FD RATIO", Signal::FdRatio),
        (">CLOSED-SOCKET FDS", Signal::FdClosed),
        (">FDS LAST", Signal::FdExhaustedIn),
    ];
    let optional = [GROWTH, Signal::Established, Signal::FdExhaustedIn];
    let shown = columns.into_iter().filter(|(_, signal)| asked.contains(signal) || !optional.contains(signal));
    let (headings, signals): (Vec<&str>, Vec<Signal>) = shown.unzip();
    let headings: Vec<&str> = std::iter::once("SERVICE").chain(headings).collect();
    let rows: Vec<Vec<String>> = ranked(look)
        .into_iter()
        .map(|(name, readings)| {
            let cell = |signal: &Signal| match readings.get(*signal) {
                Reading::Unknown => "-".to_string(),
                Reading::Known(_) => readings.show(*signal),
            };
            std::iter::once(name.to_string()).chain(signals.iter().map(cell)).collect()
        })
        .collect();
    let mut text = match rows.is_empty() {
        true if look.measurements.untrusted.is_some() => String::new(),
        true => "No service holds a socket in CLOSE_WAIT.\n".to_string(),
        false => render::aligned(&headings, &rows),
    };
    if let Some(why) = &look.measurements.untrusted {
        let _ = writeln!(text, "This look is partial, and no count of it can be trusted: {why}");
    }
    let unattributed: u64 = look.unattributed.values().sum();
    if unattributed > 0 {
        let reasons: Vec<String> = reasons(look).iter().map(|(why, count)| format!("{count} {why}")).collect();
        let _ = writeln!(
            text,
            "\n{unattributed} of the host's {} have no owner: {}",
            look.host_close_wait,
            reasons.join(", ")
        );
    }
    for stray in strays.iter().take(MOST_STRAYS) {
        let _ = writeln!(text, "  {stray}");
    }
    if strays.len() > MOST_STRAYS {
        let _ = writeln!(text, "  and {} more; see --json", strays.len() - MOST_STRAYS);
    }
    for (heading, lines) in [("Mind", mind(cautions)), ("Not seen", not_seen(look, cautions))] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{heading}:");
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    text
}
