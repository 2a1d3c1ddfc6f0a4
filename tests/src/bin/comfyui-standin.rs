//! A stand-in for a ComfyUI server as a program: `comfyui-standin PATH/main.py [the flags of the real one]`. A host runs
//! it by naming it as the Python of its ComfyUI. What it does is told in `enginehouse_tests::comfyui`.
//!
//! Exit codes: 0 after SIGINT, 1 when the port is taken or a folder cannot be made, 2 for arguments it does not know.

use std::path::Path;
use std::process::{Command, ExitCode};

use enginehouse_tests::comfyui::{Faults, Grandchildren, Options, Parsed, Standin, take_one};

/// The first argument of a process that this program starts as its own child.
const GRANDCHILD: &str = "--be-a-grandchild";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(script) = arguments.next() else {
        eprintln!("usage: comfyui-standin PATH/main.py [--listen IP] [--port N] ...");
        return ExitCode::from(2);
    };
    let rest: Vec<String> = arguments.collect();
    if script == GRANDCHILD {
        if rest.iter().any(|argument| argument == "own-session") {
            let _ = rustix::process::setsid();
        }
        loop {
            std::thread::park();
        }
    }
    let mut options = match Options::parse(Path::new(&script), &rest) {
        Parsed::Run(options) => options,
        Parsed::Usage(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let beside = Path::new(&script).parent().unwrap_or(Path::new("."));
    match ordered(&beside.join("standin.json")) {
        Ok(faults) => options.faults = faults,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    }
    options.counts = Some(beside.join("standin.counts.json"));
    let counts = options.counts.as_deref();
    for line in 0..options.faults.noise_lines {
        eprintln!("\u{1b}[32m[INFO]\u{1b}[0m noise {line}");
    }
    if let Some(exit) = &options.faults.exit_at_start
        && take_one(counts, "exit_at_start", exit.times)
    {
        eprintln!("\u{1b}[31m[ERROR]\u{1b}[0m ordered to end with code {}", exit.code);
        return ExitCode::from(exit.code);
    }
    let clash = take_one(counts, "port_in_use", options.faults.port_in_use_times);
    serve(*options, clash)
}

/// The faults that a file orders; none without one.
fn ordered(file: &Path) -> Result<Faults, String> {
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| format!("reading {}: {error}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Faults::default()),
        Err(error) => Err(format!("reading {}: {error}", file.display())),
    }
}

fn serve(options: Options, clash: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("starting: {error}");
            return ExitCode::FAILURE;
        }
    };
    let port = options.port;
    let grandchildren = spawn(&options.faults.grandchildren);
    runtime.block_on(async {
        let mut interrupt = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()) {
            Ok(interrupt) => interrupt,
            Err(error) => {
                eprintln!("listening for SIGINT: {error}");
                return ExitCode::FAILURE;
            }
        };
        let started = async {
            if clash {
                return Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
            }
            Standin::start(options).await
        };
        let standin = tokio::select! {
            started = started => started,
            _ = interrupt.recv() => return ExitCode::SUCCESS,
        };
        let standin = match standin {
            Ok(standin) => standin,
            Err(error) => {
                eprintln!("\u{1b}[31m[ERROR]\u{1b}[0m port {port}: {error}");
                return ExitCode::FAILURE;
            }
        };
        standin.note_grandchildren(grandchildren);
        eprintln!("\u{1b}[32m[INFO]\u{1b}[0m To see the GUI go to: {}", standin.url());
        interrupt.recv().await;
        eprintln!("\u{1b}[32m[INFO]\u{1b}[0m Stopped server");
        standin.stop();
        ExitCode::SUCCESS
    })
}

/// Starts the processes that outlive this one unless somebody ends them. Gives their ids.
fn spawn(wanted: &Grandchildren) -> Vec<u32> {
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let kinds = std::iter::repeat_n("plain", wanted.plain as usize)
        .chain(std::iter::repeat_n("own-session", wanted.own_session as usize));
    kinds
        .filter_map(|kind| match Command::new(&program).args([GRANDCHILD, kind]).spawn() {
            Ok(child) => Some(child.id()),
            Err(error) => {
                eprintln!("starting a grandchild: {error}");
                None
            }
        })
        .collect()
}
