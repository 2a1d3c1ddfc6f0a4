//! `enginehouse compile-component IN OUT`: what the host starts as a child, so that the memory that compiling takes goes
//! back with the process; with the lowest claim on the processor, so that running work is not disturbed.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::plugins::sandbox::Sandbox;

#[derive(clap::Args)]
pub struct Args {
    component: PathBuf,
    artifact: PathBuf,
}

pub fn run(args: &Args) -> ExitCode {
    // Being refused a lower priority is no reason not to compile.
    let _ = rustix::process::nice(10);
    match Sandbox::compile_file(&args.component, &args.artifact) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::FAILURE
        }
    }
}
