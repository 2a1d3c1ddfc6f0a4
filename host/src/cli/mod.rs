//! The commands, one file each. stdout is data, stderr is words; `--json` is stable.
//!
//! - `house.rs`: opens a home: settings, store, plugins, engines, wired together.
//! - `view.rs`: a task as JSON and as a table; `watch.rs`: waiting for one with progress bars.
//! - `exit.rs`: exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod compile_component;
mod config;
mod demo;
mod engines;
mod exit;
mod guard;
mod house;
mod init;
mod plugin;
mod plugin_build;
mod route;
mod run;
mod submit;
mod tasks;
mod templates;
mod view;
mod watch;

/// One worker binary that serves generation tasks with ComfyUI, Wan2GP and sandboxed plugins.
#[derive(Parser)]
#[command(name = "enginehouse", version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, clap::Args)]
pub struct Global {
    /// Folder of the worker: settings, plugins, tasks, results
    #[arg(long, global = true, env = "ENGINEHOUSE_HOME", value_name = "DIR", default_value = ".")]
    pub home: PathBuf,
    /// Answer in JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// Change one setting for this call, such as `--set worker.lease_seconds=30`
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Make a home: a commented settings file and the folders
    Init(init::Args),
    /// Work: claim tasks, run them, settle them, until stopped
    Run(run::Args),
    /// Show the whole thing on this machine: a travel video from pictures, without GPU
    Demo(demo::Args),
    /// Put a task into the queue
    Submit(submit::Args),
    /// Look at tasks and change their course
    #[command(subcommand)]
    Tasks(tasks::Command),
    /// Look at the processes that engines run in
    #[command(subcommand)]
    Engines(engines::Command),
    /// Say which handler serves a task type, and why
    Route(route::Args),
    /// Build plugins and see which are in service
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// See which templates are in service
    #[command(subcommand)]
    Templates(templates::Command),
    /// Show the settings in force
    Config(config::Args),
    /// Measure this machine
    #[command(subcommand)]
    Bench(bench::Command),
    /// Compile a component for this machine (the host starts this itself)
    #[command(hide = true)]
    CompileComponent(compile_component::Args),
    /// Keep an engine's processes from outliving the host (the host starts this itself)
    #[command(hide = true)]
    Guard(guard::Args),
}

/// Runs a command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // What the host starts itself: without a runtime, and a guard must be the only thread of its process.
    match &cli.command {
        Command::CompileComponent(args) => return compile_component::run(args),
        Command::Guard(args) => return guard::run(args),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return exit::report(&exit::Stop::from(anyhow::Error::new(e).context("the runtime did not start"))),
    };
    let done = runtime.block_on(async {
        let global = cli.global;
        match cli.command {
            Command::Init(args) => init::run(&global, &args),
            Command::Run(args) => run::run(&global, &args).await,
            Command::Demo(args) => demo::run(&global, &args).await,
            Command::Submit(args) => submit::run(&global, args).await,
            Command::Tasks(command) => tasks::run(&global, command).await,
            Command::Route(args) => route::run(&global, &args).await,
            Command::Plugin(command) => plugin::run(&global, command).await,
            Command::Templates(command) => templates::run(&global, command).await,
            Command::Config(args) => config::run(&global, &args),
            Command::Bench(command) => bench::run(&global, command).await,
            Command::Engines(command) => engines::run(&global, command).await,
            Command::CompileComponent(args) => Ok(compile_component::run(&args)),
            Command::Guard(args) => Ok(guard::run(&args)),
        }
    });
    // What still runs in the background (a blocked download, say) must not hold the process.
    runtime.shutdown_background();
    done.unwrap_or_else(|stop| exit::report(&stop))
}
