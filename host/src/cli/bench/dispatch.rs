//! `enginehouse bench dispatch`: what the house adds to a call of a component.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::cli::{Global, init, plugin_build, run as run_command};
use crate::clock::Stopwatch;
use crate::home::Home;
use crate::plugins::sandbox::bare;
use crate::store::NewTask;
use crate::worker::{Stop, Timing};

#[derive(clap::Args)]
pub struct Args {
    /// Tasks to run
    #[arg(long, default_value_t = 5000)]
    tasks: usize,
    /// Tasks in flight
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Component that serves the type `noop` (default: plugins/dist/noop.wasm, built if it is not there)
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
}

/// Rounds before measuring: caches, the allocator and the store's pages warm up.
const WARM_UP: usize = 200;

pub async fn run(global: &Global, args: &Args) -> Done {
    let component = match &args.component {
        Some(file) => file.clone(),
        None => {
            let file = PathBuf::from("plugins/dist/noop.wasm");
            if !file.exists() {
                plugin_build::build(Path::new("."), &["noop".into()], None).await?;
            }
            file
        }
    };
    let bytes = std::fs::read(&component).with_context(|| format!("cannot read {}", component.display()))?;

    let bare_calls = bare::instantiate_and_call(&bytes, WARM_UP, args.tasks.min(5000)).await?;
    let bare = percentiles(bare_calls);

    let folder = tempfile::tempdir().context("cannot make a folder for the bench")?;
    let home = Home::new(folder.path().join("home"));
    init::make(&home, false)?;
    std::fs::write(home.plugins().join("noop.wasm"), &bytes).context("cannot write the plugin")?;
    let global = Global { set: vec![format!("worker.max_live_instances={}", args.in_flight)], ..global.clone() };
    let house = House::at(home, &global)?;
    measure(&house, WARM_UP).await?;
    let (timings, seconds) = measure(&house, args.tasks).await?;

    let of = |part: fn(&Timing) -> Duration| percentiles(timings.iter().map(part).collect());
    let host = of(|t| t.claim + t.run + t.settle);
    // Rounded: a tenth of a task a second is no figure.
    let tasks_per_s = (args.tasks as f64 / seconds.as_secs_f64()).round();
    let parts = json!({
        "claim": of(|t| t.claim), "route": of(|t| t.route), "run": of(|t| t.run), "settle": of(|t| t.settle),
    });
    eprintln!(
        "{} tasks, {} in flight, SQLite with a synchronous commit before each answer",
        args.tasks, args.in_flight
    );
    eprintln!("where the time of a task goes (p50 and p99 in microseconds): {parts}");
    println!("{}", json!({ "bare": bare, "host": host, "tasks_per_s": tasks_per_s }));
    Ok(ExitCode::SUCCESS)
}

/// Submits the tasks, then works them off.
async fn measure(house: &House, tasks: usize) -> anyhow::Result<(Vec<Timing>, Duration)> {
    let mut worker = house.worker().await.map_err(|stop| stop.error)?;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let inner = Arc::get_mut(&mut worker).ok_or_else(|| anyhow!("the worker is shared already"))?;
    inner.timings = Some(sender);
    let store = inner.services.store.clone();
    let params = Map::from_iter([("text".to_string(), Value::from("bench"))]);
    let submitting = (0..tasks)
        .map(|_| store.submit(NewTask { task_type: "noop".into(), params: params.clone(), ..NewTask::default() }));
    futures::future::try_join_all(submitting).await?;

    let watch = Stopwatch::start();
    let summary = run_command::work(worker, Stop { when_idle: true, ..Stop::default() }).await;
    let seconds = watch.elapsed();
    if summary.settled != tasks as u64 {
        return Err(anyhow!("{} of {tasks} tasks were settled", summary.settled));
    }
    let mut timings = Vec::with_capacity(tasks);
    while let Ok(timing) = receiver.try_recv() {
        timings.push(timing);
    }
    Ok((timings, seconds))
}

/// Median and 99th percentile in microseconds.
fn percentiles(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |q: f64| {
        // A position in the list: q is below 1.
        let index = (times.len() as f64 * q) as usize;
        times.get(index).map_or(0, Duration::as_micros)
    };
    json!({ "p50_us": u64::try_from(at(0.5)).unwrap_or(0), "p99_us": u64::try_from(at(0.99)).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_elements_of_the_list() {
        let times = (1..=100).map(Duration::from_micros).collect();
        assert_eq!(percentiles(times), json!({ "p50_us": 51, "p99_us": 100 }));
        assert_eq!(percentiles(Vec::new()), json!({ "p50_us": 0, "p99_us": 0 }));
    }
}
