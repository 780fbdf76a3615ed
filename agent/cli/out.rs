//! Standard output, of all verbs. What cannot be written there (a full disk, a reader that is gone) is an error with its exit
//! code, and no panic: `print!` and `println!` mean these here.

use std::fmt::{self, Arguments, Write as _};
use std::io::{self, Write};
use std::sync::OnceLock;

use super::{Failure, Outcome};

/// The first write that failed; nothing is written after it.
static FAILED: OnceLock<io::Error> = OnceLock::new();

macro_rules! print {
    ($($words:tt)*) => { $crate::cli::out::write(format_args!($($words)*)) };
}

macro_rules! println {
    () => { $crate::cli::out::write(format_args!("\n")) };
    ($($words:tt)*) => { $crate::cli::out::write(format_args!("{}\n", format_args!($($words)*))) };
}

pub fn write(text: Arguments) {
    written(|out| {
        let mut harmless = Harmless { out, failed: None };
        match (harmless.write_fmt(text), harmless.failed) {
            (_, Some(error)) => Err(error),
            (outcome, None) => outcome.map_err(io::Error::other),
        }
    });
}

/// Home, and clears what is below: no flicker, and the shell's scrollback stays.
pub fn clear_screen() {
    written(|out| out.write_all(b"\x1b[H\x1b[J"));
}

fn written(write: impl FnOnce(&mut io::StdoutLock) -> io::Result<()>) {
    if FAILED.get().is_none()
        && let Err(error) = write(&mut io::stdout().lock())
    {
        // Verbs write from one thread alone.
        _ = FAILED.set(error);
    }
}

/// What others wrote (a process's name, a registry's word, a reason) moves no cursor and sets no colour on the terminal of who
/// reads it: its control characters are shown, as `\u{1b}`.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

struct Harmless<'a, 'b> {
    out: &'a mut io::StdoutLock<'b>,
    failed: Option<io::Error>,
}

impl fmt::Write for Harmless<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_all(harmless(text).as_bytes()).map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

/// Once a verb is through: what it had to say has arrived, or that is its failure.
pub fn finish() -> Outcome {
    let flushed = io::stdout().flush();
    match (FAILED.get(), flushed) {
        (None, Ok(())) => Ok(()),
        (Some(error), _) => Err(failure(error)),
        (None, Err(error)) => Err(failure(&error)),
    }
}

fn failure(error: &io::Error) -> Failure {
    Failure::Unreachable(format!("standard output: {error}"))
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn nothing_that_others_wrote_steers_the_terminal() {
        assert_eq!(harmless("\x1b[31mX\u{7}\r\u{9b}1m"), "\\u{1b}[31mX\\u{7}\\u{d}\\u{9b}1m");
        assert_eq!(harmless("a line\n\twith Füße, as it is\n"), "a line\n\twith Füße, as it is\n");
    }
}
