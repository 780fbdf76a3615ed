//! The only exit point.

use std::process::ExitCode;

fn main() -> ExitCode {
    unwait::cli::main()
}
