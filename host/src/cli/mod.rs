//! The commands, one file each.

use std::process::ExitCode;

/// Runs a command line.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
