//! Exit codes, the same for every command.

use std::process::ExitCode;

/// A task failed, or the command could not do what it was asked.
pub const FAILURE: u8 = 1;
/// The command line makes no sense (clap uses the same number).
pub const USAGE: u8 = 2;
/// Something that is needed is not there: no running worker, no ffmpeg.
pub const UNAVAILABLE: u8 = 69;
/// The settings are wrong.
pub const CONFIG: u8 = 78;
/// Interrupted by the user, or the task was cancelled.
pub const INTERRUPTED: u8 = 130;

/// An error of a command: what people read, and the code.
#[derive(Debug)]
pub struct Stop {
    pub code: u8,
    pub error: anyhow::Error,
}

impl Stop {
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self { code: FAILURE, error: error.into() }
    }
}

/// What a command returns.
pub type Done = Result<ExitCode, Stop>;

/// Prints the chain of an error, the outermost first.
pub fn report(stop: &Stop) -> ExitCode {
    eprintln!("error: {}", stop.error);
    for cause in stop.error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    ExitCode::from(stop.code)
}
