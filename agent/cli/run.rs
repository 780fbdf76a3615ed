//! `unwait run`: the agent itself.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

use super::{Failure, Outcome};
use crate::clock::SystemClock;
use crate::daemon::opening::RunError;
use crate::daemon::run;
use crate::daemon::service_manager::ServiceManager;
use crate::model::{EventKind, Message};
use crate::wiring;
use crate::wiring::Host;

#[derive(Debug, Args)]
pub struct Arguments {
    /// The directory that holds agent.yaml, policies/ and runbooks/.
    #[arg(long, value_name = "DIR", default_value = super::CONFIG_DIR)]
    config: PathBuf,
    /// How the log is written. Default: pretty on a terminal, journald under systemd, JSON elsewhere.
    #[arg(long, value_enum)]
    log: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Pretty,
    Json,
    Journald,
}

pub async fn run(arguments: Arguments) -> Outcome {
    log_to(arguments.log)?;
    let unreachable = |error: std::io::Error| Failure::Unreachable(format!("signals: {error}"));
    let (stop, stopping) = watch::channel(false);
    let (reload, reloading) = mpsc::channel(1);
    let mut terminate = signal(SignalKind::terminate()).map_err(unreachable)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unreachable)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(unreachable)?;
    let signals = tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => drop(stop.send(true)),
                _ = interrupt.recv() => drop(stop.send(true)),
                // One that waits already is enough.
                _ = hangup.recv() => drop(reload.try_send(())),
            }
        }
    });
    let name = wiring::host_name().map_err(|error| Failure::Unreachable(error.to_string()))?;
    let host = Host { name, clock: Arc::new(SystemClock), on_message: Arc::new(log) };
    let manager = ServiceManager::of_the_environment();
    let result = run::run(&arguments.config, host, reloading, stopping, manager).await;
    signals.abort();
    result.map_err(|error| match &error {
        RunError::Config(_) => Failure::Usage(error.to_string()),
        RunError::Wiring(wrong) if wrong.is_of_the_configuration() => Failure::Usage(format!("unwait: {wrong}")),
        _ => Failure::Unreachable(format!("unwait: {error}")),
    })
}

fn log_to(format: Option<LogFormat>) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("UNWAIT_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    // Set by systemd where standard error goes to the journal.
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let format = format.unwrap_or(match (std::io::stderr().is_terminal(), under_systemd) {
        (true, _) => LogFormat::Pretty,
        (_, true) => LogFormat::Journald,
        _ => LogFormat::Json,
    });
    let layer = match format {
        LogFormat::Pretty => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Journald => tracing_journald::layer()
            .map_err(|error| Failure::Unreachable(format!("journald: {error}; choose another with --log")))?
            .boxed(),
    };
    tracing_subscriber::registry().with(filter).with(layer).init();
    Ok(())
}

/// Every message stands in the log as well, with its reason code.
fn log(message: &Message) {
    let service = message.service.as_ref().map(tracing::field::display);
    let incident = message.incident.as_ref().map(tracing::field::display);
    let reason = message.reason.map(|reason| reason.as_str());
    let detail = message.lines.join("; ");
    let event: &'static str = message.event.into();
    let dry_run = message.dry_run;
    // `journalctl` shows the text alone, and no field.
    let text = match &*detail {
        "" => message.title.clone(),
        detail => format!("{}; {detail}", message.title),
    };
    match message.event {
        EventKind::Stuck => tracing::error!(event, service, incident, reason, dry_run, detail, "{text}"),
        EventKind::Breach | EventKind::Held | EventKind::Approval | EventKind::Start | EventKind::End => {
            tracing::warn!(event, service, incident, reason, dry_run, detail, "{text}")
        }
        _ => tracing::info!(event, service, incident, reason, dry_run, detail, "{text}"),
    }
}

/// What is logged unless `UNWAIT_LOG` says otherwise. What goes wrong in a library is said by the call that failed, once and in
/// our words.
const LOGGED: &str = "info,rustls=off,hyper=off,hyper_util=off,reqwest=off,redis=off";
