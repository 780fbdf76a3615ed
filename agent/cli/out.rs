//! Standard output, of all verbs. What cannot be written there (a full disk, a reader that is gone) is an error with its exit
//! code, and no panic: `print!` and `println!` mean these here.

use std::fmt::Arguments;
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
    if FAILED.get().is_none()
        && let Err(error) = io::stdout().lock().write_fmt(text)
    {
        // Verbs write from one thread alone.
        _ = FAILED.set(error);
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
