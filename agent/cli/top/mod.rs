//! `unwait top`: the services by their signals, on a screen that goes on looking. It changes nothing.
//!
//! One loop takes what happens (a key, a look that has ended, a second that has passed) into the state, and draws it. Looks are
//! tasks beside it: no look keeps a key waiting.

mod draw;
mod head;
mod keys;
mod opened;
mod past;
mod rows;
mod screen;
mod source;
mod state;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ratatui::crossterm;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::{ConfigArguments, Failure, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::model::duration;
use keys::Meant;
use screen::Screen;
use source::LookSource;
use state::{TopEvent, TopState};

/// What the looks have to say waits for the screen, not more.
const WAITING: usize = 16;
const LEAST_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    place: ConfigArguments,
    /// How often to look where no agent answers; an agent's screen follows its own interval.
    #[arg(long, value_name = "INTERVAL", default_value = "2s")]
    interval: String,
}

pub async fn top(arguments: Arguments) -> Outcome {
    let every = match duration::parse(&arguments.interval) {
        Ok(every) if every >= LEAST_INTERVAL => every,
        Ok(_) => return Err(Failure::Usage(format!("--interval {}: at least 200ms", arguments.interval))),
        Err(error) => return Err(Failure::Usage(format!("--interval: {error}"))),
    };
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if arguments.place.json || is_dumb || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "`unwait top` needs a terminal that can move its cursor; `unwait scan --json` and `unwait status --json` \
             print what it would show"
                .into(),
        ));
    }
    show(LookSource::new(&arguments.place, every))
        .await
        .map_err(|error| Failure::Unreachable(format!("terminal: {error}")))
}

async fn show(source: LookSource) -> io::Result<()> {
    // Before the terminal is taken: what ends this gives it back.
    let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (mut interrupt, mut quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
    let mut stop = signal(SignalKind::from_raw(libc::SIGTSTP))?;
    let mut go_on = signal(SignalKind::from_raw(libc::SIGCONT))?;
    let mut screen = Screen::take()?;
    let colours = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let mut state = TopState::new(screen.size()?, SystemClock.now(), colours);
    let (want, wanted) = watch::channel(state.wanted());
    let (tell, mut seen) = mpsc::channel(WAITING);
    let source = Arc::new(source);
    let mut looks = JoinSet::new();
    looks.spawn(Arc::clone(&source).look_on(wanted.clone(), tell.clone()));
    looks.spawn(source.look_closely(wanted, tell));
    let mut keys = keyboard();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !state.is_over {
        let size = screen.size()?;
        if size != state.size {
            state = state.after(TopEvent::Resized(size));
        }
        screen.draw(&state)?;
        tokio::select! {
            sent = keys.recv() => {
                let mut sent = Some(sent.ok_or_else(gone)??);
                // Of a key that is held all are taken before the next drawing.
                while let Some(event) = sent.take() {
                    match keys::meant(event) {
                        Meant::Event(event) => state = state.after(event),
                        Meant::Stop => screen.stop()?,
                        Meant::Redraw => screen.redraw()?,
                        Meant::Nothing => {}
                    }
                    sent = keys.try_recv().ok().transpose()?;
                }
            }
            // They go on for as long as somebody listens: what has ended has panicked.
            Some(Err(defect)) = looks.join_next() => std::panic::resume_unwind(defect.into_panic()),
            Some(event) = seen.recv() => state = state.after(event),
            _ = second.tick() => state = state.after(TopEvent::Now(SystemClock.now())),
            _ = terminate.recv() => break,
            _ = hang_up.recv() => break,
            _ = interrupt.recv() => break,
            _ = quit.recv() => break,
            _ = stop.recv() => screen.stop()?,
            _ = go_on.recv() => screen.go_on()?,
        }
        let now = state.wanted();
        want.send_if_modified(|wanted| std::mem::replace(wanted, now.clone()) != now);
    }
    Ok(())
}

/// Keys are read on a thread of their own, which ends with the process: a terminal is waited for in no other way.
fn keyboard() -> mpsc::Receiver<io::Result<crossterm::event::Event>> {
    let (send, keys) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        loop {
            let read = crossterm::event::read();
            let failed = read.is_err();
            if send.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    keys
}

fn gone() -> io::Error {
    io::Error::other("it is gone")
}
