//! `enginehouse run`: the worker in the foreground. SIGTERM or Ctrl-C drains, a second one gives running tasks back at
//! once.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Global;
use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::worker::{self, Stop, Summary, Worker};

#[derive(clap::Args)]
pub struct Args {
    /// Leave when no task is ready and none runs
    #[arg(long)]
    once: bool,
    /// Drain after so many seconds
    #[arg(long, value_name = "SECONDS")]
    drain_after: Option<u64>,
}

pub async fn run(global: &Global, args: &Args) -> Done {
    let house = House::open(global)?;
    log_to_stderr();
    let _lock = house.take_worker_lock().await?;
    let worker = house.worker().await?;
    let stop = Stop { when_idle: args.once, ..Stop::default() };
    listen(stop.clone())?;
    if let Some(seconds) = args.drain_after {
        let drain = stop.drain.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            drain.cancel();
        });
    }
    tracing::info!(
        home = %house.home.folder().display(),
        plugins = worker.plugins.snapshot().serving.len(),
        templates = worker.templates.listing().serving.len(),
        mode = ?house.config.routing.mode,
        "working; stop with Ctrl-C"
    );
    let summary = work(worker, stop).await;
    tracing::info!(settled = summary.settled, given_back = summary.given_back, "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Runs a worker and follows its folders of plugins and templates meanwhile.
pub async fn work(worker: Arc<Worker>, stop: Stop) -> Summary {
    let watching = CancellationToken::new();
    let watcher = tokio::spawn(worker.plugins.clone().watch(watching.clone()));
    let other = tokio::spawn(worker.templates.clone().watch(watching.clone()));
    let summary = worker::run(worker, stop).await;
    watching.cancel();
    // Nothing of a watcher's end matters to the summary.
    watcher.await.ok();
    other.await.ok();
    summary
}

fn listen(stop: Stop) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.drain.is_cancelled() {
                tracing::warn!("second signal: running tasks are given back at once");
                stop.now.cancel();
            } else {
                tracing::info!("draining: nothing more is claimed, running tasks may finish");
                stop.drain.cancel();
            }
        }
    });
    Ok(())
}

/// Logs to stderr: for people on a terminal, JSON otherwise. `RUST_LOG` chooses what.
pub fn log_to_stderr() {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second call, as in tests, changes nothing.
    if std::io::stderr().is_terminal() {
        builder.try_init().ok();
    } else {
        builder.json().try_init().ok();
    }
}
