//! `unwait demo`: the whole story on this machine, in half a minute, without root and with nothing installed.
//!
//! Nothing in it is pretended. The real agent ([`crate::daemon::run`]) runs in this process, on a configuration that
//! [`stage`] writes; the leaking service and the peer that closes on it are processes with sockets of their own
//! ([`service`], started by [`cast`]); the registry is a file; the chat is a webhook ([`chat`]). This file watches,
//! and [`narrator`] says what is seen. Whatever happens, nothing of it runs on when the demo has ended; the evidence
//! is kept.

mod cast;
mod chat;
mod curtain;
mod interrupt;
mod narrator;
mod redis;
mod service;
mod stage;

use std::fs::OpenOptions;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Outcome;
use crate::clock::{Clock, SystemClock};
use crate::collect::Collector;
use crate::daemon::run;
use crate::daemon::service_manager::ServiceManager;
use crate::model::{EventKind, Message};
use crate::wiring;
use crate::wiring::Host;

pub use service::{ServiceArguments, service};

use cast::Cast;
use chat::Chat;
use curtain::{Curtain, Fell};
use interrupt::Interrupts;
use narrator::{Narrator, Tone};
use stage::{AsItIs, CONNECTIONS, Cues, PEER_IDLE, Stage, WORKERS};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Decide everything, change nothing, and say what would have been done.
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// All of it takes some 25 s; whatever takes longer has gone wrong.
const DEADLINE: Duration = Duration::from_secs(60);
/// For the agent to unwind what is under way and to deliver what it has told.
const STOP_WITHIN: Duration = Duration::from_secs(15);
const COUNT_EVERY: Duration = Duration::from_millis(250);

/// Plays the story, and says how it came out.
pub async fn demo(arguments: Arguments) -> Outcome {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let narrator = Narrator::new(arguments.json, Arc::clone(&clock));
    let curtain = match play(arguments.dry_run, &narrator, clock).await {
        Ok(curtain) => curtain,
        Err(error) => Curtain::never_rose(arguments.dry_run, error),
    };
    curtain.fall(&narrator)
}

async fn play(dry_run: bool, narrator: &Narrator, clock: Arc<dyn Clock>) -> Result<Curtain, String> {
    let mut interrupts = Interrupts::listen().map_err(|error| format!("signals: {error}"))?;
    let stage = Stage::set().map_err(|error| error.to_string())?;
    match perform(&stage, dry_run, narrator, clock, &mut interrupts).await {
        Ok(performed) => Ok(Curtain { dry_run, stage: Some(stage), ..performed }),
        Err(error) => {
            // The error says all that is in it.
            let _ = stage.strike();
            Err(error)
        }
    }
}

async fn perform(
    stage: &Stage,
    dry_run: bool,
    narrator: &Narrator,
    clock: Arc<dyn Clock>,
    interrupts: &mut Interrupts,
) -> Result<Curtain, String> {
    let of_a_file = |error: io::Error| format!("{}: {error}", stage.dir.display());
    let host = wiring::host_name().map_err(|error| error.to_string())?;
    log_to(stage).map_err(of_a_file)?;
    let chat = Chat::open().await.map_err(|error| format!("a port on 127.0.0.1: {error}"))?;
    let cast = Cast::start(stage).await?;
    let cues = Cues { peer: cast.peer_at, service: cast.service_at, chat: chat.at, dry_run };
    stage.furnish(&cues, &cast.service_argv).map_err(of_a_file)?;
    let before = stage.as_it_is().map_err(of_a_file)?;
    introduce(narrator, &cues, &before);

    let (end, fell) = watch_agent(stage, host, &cues, narrator, clock, interrupts).await;
    let after = stage.as_it_is();
    cast.end(stage).await;
    let before_and_after = Some((before, after.map_err(of_a_file)?));
    Ok(Curtain { dry_run, stage: None, end, fell, before_and_after, chat: chat.told() })
}

/// The agent's own log, beside the rest: the screen is for the story.
fn log_to(stage: &Stage) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(stage.path(stage::AGENT_LOG))?;
    // An error is that somebody logs already, which is as good.
    let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(file)).try_init();
    Ok(())
}

fn introduce(narrator: &Narrator, cues: &Cues, before: &AsItIs) {
    narrator.say("unwait demo: a leaking service is found, taken out of traffic, restarted and put back.");
    narrator.say("Real processes and sockets on this machine, and the agent as it runs in production.\n");
    let idle = PEER_IDLE.as_secs();
    let peer = format!("demo-redis   {}, closes connections that are idle for {idle} s", cues.peer);
    let rest = [
        format!(
            "demo-rpc     {}, pid {}: {WORKERS} pre-forked workers, {CONNECTIONS} connections to",
            cues.service, before.pid
        ),
        "             demo-redis each, used once and never looked at again: that is its defect".into(),
        "the registry's file sends clients to demo-rpc-1 (this one), demo-rpc-2 and demo-rpc-3".into(),
    ];
    narrator.entry(Tone::Neutral, "setting", peer, &rest);
    let mode = if cues.dry_run { "dry-run: decide everything, change nothing" } else { "auto: act" };
    let policy = [
        "policy       more than 20 sockets in CLOSE_WAIT for 2 s or longer, seen for 3 s".into(),
        format!("mode         {mode}"),
    ];
    narrator.entry(Tone::Neutral, "agent", "looks at this host every second", &policy);
}

/// Runs the agent until its incident has ended, or something else ends the story. Returns the message of the end, and
/// what the curtain falls for.
async fn watch_agent(
    stage: &Stage,
    host: String,
    cues: &Cues,
    narrator: &Narrator,
    clock: Arc<dyn Clock>,
    interrupts: &mut Interrupts,
) -> (Option<Message>, Fell) {
    let (tell, mut told) = mpsc::unbounded_channel();
    // The receiver lives as long as the agent does.
    let on_message = Arc::new(move |message: &Message| drop(tell.send(message.clone())));
    let (stop, stopping) = watch::channel(false);
    let (_never_reload, reload) = mpsc::channel(1);
    let host = Host { name: host, clock: Arc::clone(&clock), on_message };
    let mut agent = Box::pin(run::run(&stage.dir, host, reload, stopping, ServiceManager::default()));
    let mut leak = match Leak::of(cues.peer, clock) {
        Ok(leak) => leak,
        Err(error) => return (None, Fell::Failed(error)),
    };

    let mut end = None;
    let mut counts = interval(COUNT_EVERY);
    counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = sleep(DEADLINE);
    tokio::pin!(deadline);
    let mut fell = loop {
        tokio::select! {
            ended = &mut agent => return (end, Fell::of_agent(ended)),
            Some(message) = told.recv() => {
                narrator.told(&message, &stage.in_traffic().unwrap_or_default());
                if message.event == EventKind::End {
                    end = Some(message);
                    break Fell::AtTheEnd;
                }
            }
            _ = counts.tick() => leak.look(narrator),
            signal = interrupts.next() => break Fell::Interrupted(signal),
            () = &mut deadline => break Fell::Failed(format!("the story has not ended within {} s", DEADLINE.as_secs())),
        }
    };

    if let Fell::Interrupted(signal) = &fell {
        narrator.entry(Tone::Bad, "stopping", format!("{signal}: the agent takes back what it can"), &[]);
    }
    // The agent holds the receiver until it has ended, which is looked at below.
    let _ = stop.send(true);
    match timeout(STOP_WITHIN, agent).await {
        Ok(ended) => fell = fell.unless(ended),
        Err(_) => fell = Fell::Failed(format!("the agent has not stopped within {} s", STOP_WITHIN.as_secs())),
    }
    while let Ok(message) = told.try_recv() {
        narrator.told(&message, &stage.in_traffic().unwrap_or_default());
        if message.event == EventKind::End {
            end = Some(message);
        }
    }
    (end, fell)
}

/// Counts what the peer has closed and the service holds, by the agent's own collector.
struct Leak {
    collector: Collector,
    clock: Arc<dyn Clock>,
    peer: SocketAddr,
    seen: usize,
    told: usize,
}

impl Leak {
    fn of(peer: SocketAddr, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let collector = Collector::new().map_err(|error| error.to_string())?;
        Ok(Self { collector, clock, peer, seen: 0, told: 0 })
    }

    /// Tells a count that has stood for two looks.
    fn look(&mut self, narrator: &Narrator) {
        // The agent says so where the kernel cannot be asked; the next look may succeed.
        let Ok(detail) = self.collector.detail(self.clock.as_ref()) else { return };
        let held = detail.sockets.iter().filter(|(_, socket)| socket.remote == self.peer).count();
        if held == self.seen && held != self.told {
            self.told = held;
            match held {
                0 => narrator.entry(Tone::Good, "sockets", "no socket in CLOSE_WAIT any more", &[]),
                _ => narrator.entry(
                    Tone::Bad,
                    "leak",
                    format!("demo-redis has closed, demo-rpc has not: {held} sockets in CLOSE_WAIT"),
                    &[
                        "the kernel waits for a close() that never comes; they do not go away by themselves".into(),
                        "(not judged yet: until 10 s after its last word, a service may still be sending on them)"
                            .into(),
                    ],
                ),
            }
        }
        self.seen = held;
    }
}
