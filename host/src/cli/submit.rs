//! `enginehouse submit TYPE`: puts a task into the queue, and waits for it if asked to.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Value, json};

use crate::cli::exit::{self, Done, Stop};
use crate::cli::house::House;
use crate::cli::{Global, run as run_command, view, watch};
use crate::store::{NewTask, SharedStore};
use crate::task::{EngineKind, Task, TaskId};
use crate::worker;

/// How long a worker may be missed before it counts as gone: one that is restarted is back by then.
const WORKER_GRACE: Duration = Duration::from_secs(1);

/// How often those who wait for a worker look whether it is still there.
const WORKER_LOOKS: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Args {
    /// Task type, such as `t2v` or `travel_orchestrator`
    task_type: String,
    /// File with the params, a JSON object; `-` reads stdin
    #[arg(short = 'f', long = "file", value_name = "PARAMS.json")]
    params: Option<PathBuf>,
    /// One param, such as `-p prompt="a quiet harbour"`; the value is JSON, or else text
    #[arg(short = 'p', long = "param", value_name = "KEY=VALUE")]
    param: Vec<String>,
    /// One file, such as `-i image_start=harbour.png`: imported first, the param names the import
    #[arg(short = 'i', long = "input", value_name = "KEY=PATH")]
    input: Vec<String>,
    /// Higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i64,
    /// Project that the task belongs to
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Tasks that must be complete first
    #[arg(long, value_name = "ID")]
    depends_on: Vec<TaskId>,
    /// The same key again gives the task that exists already
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    /// Wait for its end; the exit code is the task's result
    #[arg(long)]
    wait: bool,
    /// Work it off in this process, no running worker needed
    #[arg(long)]
    run: bool,
}

pub async fn run(global: &Global, args: Args) -> Done {
    let house = House::open(global)?;
    if (args.wait || args.run) && house.config.routing.refuse.contains(&args.task_type) {
        return Err(Stop::new(
            exit::UNAVAILABLE,
            anyhow!(
                "nothing was submitted: this host does not take `{}` (setting `routing.refuse`), so waiting for it would be \
                 in vain; take it off that list, or submit without --wait and --run for another host",
                args.task_type
            ),
        ));
    }
    let params = params(&house, &args).await?;
    let store = house.store().await?;
    let task = store
        .submit(NewTask {
            id: None,
            task_type: args.task_type,
            params,
            project_id: args.project,
            priority: args.priority,
            depends_on: args.depends_on,
            idempotency_key: args.idempotency_key,
        })
        .await?;
    let task = if args.run {
        work_off(&house, &store, task.id).await?
    } else if args.wait {
        until_ended_elsewhere(&house, &store, task.id).await?.ok_or_else(|| {
            Stop::new(
                exit::UNAVAILABLE,
                anyhow!(
                    "task {} is queued, but no worker runs in {}; start `enginehouse run`, or submit with --run",
                    task.id,
                    house.home.folder().display()
                ),
            )
        })?
    } else {
        if global.json {
            println!("{}", view::json(&store, &house.artifacts()?, &task).await?);
        } else {
            println!("{}", task.id);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let artifacts = house.artifacts()?;
    if global.json {
        println!("{}", view::json(&store, &artifacts, &task).await?);
    } else {
        println!("{}", view::result_line(&artifacts, &task).await);
    }
    Ok(ExitCode::from(view::exit_code(&task)))
}

async fn params(house: &House, args: &Args) -> Result<Map<String, Value>, Stop> {
    let usage = |e: anyhow::Error| Stop::new(exit::USAGE, e);
    let mut params = match &args.params {
        None => Map::new(),
        Some(path) => {
            let text = if path.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("cannot read the params from stdin")
                    .map_err(usage)?;
                text
            } else {
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the params from {}", path.display()))
                    .map_err(usage)?
            };
            match serde_json::from_str(&text) {
                Ok(Value::Object(map)) => map,
                Ok(_) => return Err(usage(anyhow!("{}: the params must be a JSON object", path.display()))),
                Err(e) => return Err(usage(anyhow!("{}: not valid JSON: {e}", path.display()))),
            }
        }
    };
    for pair in &args.param {
        let (key, value) = pair.split_once('=').ok_or_else(|| usage(anyhow!("`-p {pair}`: expected KEY=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_string()));
        params.insert(key.to_string(), value);
    }
    if !args.input.is_empty() {
        let intake = house.intake()?;
        for pair in &args.input {
            let (key, path) = pair.split_once('=').ok_or_else(|| usage(anyhow!("`-i {pair}`: expected KEY=PATH")))?;
            let file = intake.import(path.as_ref()).await?;
            params.insert(key.to_string(), json!(file.artifact));
        }
    }
    Ok(params)
}

/// Waits until the task has ended, and works in this process where no worker of this home does.
pub async fn work_off(house: &House, store: &SharedStore, id: TaskId) -> Result<Task, Stop> {
    let _lock = loop {
        match house.try_worker_lock().await? {
            Some(lock) => break lock,
            // Somebody works. When it goes before the task has ended, its place is free.
            None => {
                if let Some(task) = until_ended_elsewhere(house, store, id).await? {
                    return Ok(task);
                }
            }
        }
    };
    let stop = worker::Stop::default();
    let worker = house.worker().await?;
    let engines = worker.services.engines.clone();
    let working = tokio::spawn(run_command::work(worker, stop.clone()));
    let ended = tokio::select! {
        ended = watch::until_ended(store, id) => ended,
        // A worker would go on with other tasks meanwhile; here is nobody to wait for.
        suspension = async {
            tokio::select! {
                suspension = engines.suspended(EngineKind::Comfyui) => suspension,
                suspension = engines.suspended(EngineKind::Wan2gp) => suspension,
            }
        } => Err(Stop::new(exit::UNAVAILABLE, anyhow!("{}; task {id} stays in the queue", suspension.reason))),
    };
    stop.drain.cancel();
    working.await.context("the worker broke off")?;
    ended
}

/// Waits until the task has ended in the hands of this home's worker; none: there is no worker (any more).
async fn until_ended_elsewhere(house: &House, store: &SharedStore, id: TaskId) -> Result<Option<Task>, Stop> {
    let worker_gone = async {
        while worker_is_there(house).await {
            tokio::time::sleep(WORKER_LOOKS).await;
        }
    };
    tokio::select! {
        ended = watch::until_ended(store, id) => ended.map(Some),
        // The task may have been the last thing that it did.
        () = worker_gone => Ok(Some(store.get(id).await?).filter(|task| task.status.is_final())),
    }
}

async fn worker_is_there(house: &House) -> bool {
    tokio::time::timeout(WORKER_GRACE, async {
        while house.worker_pid().is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .is_ok()
}
