//! `enginehouse guard`: what the host starts between itself and an engine, so that no engine outlives it.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::engines::supervisor::guard;

#[derive(clap::Args)]
pub struct Args {
    /// Pid of the process that must be the parent: the host, or with --exec the guard
    #[arg(long, value_name = "PID")]
    parent: u32,
    /// Become the program instead of guarding it
    #[arg(long)]
    exec: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<OsString>,
}

pub fn run(args: &Args) -> ExitCode {
    if args.exec { guard::exec(args.parent, &args.command) } else { guard::run(args.parent, &args.command) }
}
