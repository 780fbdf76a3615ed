//! The terminal itself: taken, and given back as it was, whichever way the command ends.

use std::io::{self, Stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::Size;

use super::draw::draw;
use super::state::TopState;

/// The terminal is ours now.
static TAKEN: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    pub fn take() -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panicked| {
            give_back();
            before(panicked);
        }));
        take()?;
        // From here on it is given back when this ends.
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        terminal.map(Self).inspect_err(|_| give_back())
    }

    pub fn size(&self) -> io::Result<Size> {
        self.0.size()
    }

    /// Nothing, once a panic has given the terminal back.
    pub fn draw(&mut self, state: &TopState) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.0.draw(|frame| draw(state, frame.buffer_mut())).map(drop)
    }

    /// What is on it is not what was drawn. (`Terminal::clear` would ask the terminal for its cursor, and wait for an answer
    /// that the thread of the keys reads.)
    pub fn redraw(&mut self) -> io::Result<()> {
        let size = self.0.size()?;
        self.0.resize(size.into())
    }

    /// Stops, as a shell's job: its own screen is there until somebody says `fg`.
    pub fn stop(&mut self) -> io::Result<()> {
        give_back();
        let stops = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SIGSTOP would stop a command too that no shell can wake; where that is so, the kernel leaves SIGTSTP aside.
        // SAFETY: SIG_DFL installs no handler, and the one that was there is put back.
        let hears = unsafe { sigaction(Signal::SIGTSTP, &stops) }?;
        let stopped = raise(Signal::SIGTSTP);
        // SAFETY: it was installed before.
        unsafe { sigaction(Signal::SIGTSTP, &hears) }?;
        stopped?;
        self.go_on()
    }

    /// After SIGCONT: a shell may have set the terminal meanwhile.
    pub fn go_on(&mut self) -> io::Result<()> {
        give_back();
        take()?;
        self.redraw()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    TAKEN.store(true, Ordering::SeqCst);
    enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Once. Where the terminal is gone, nothing can be given back, and nobody misses it.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}
