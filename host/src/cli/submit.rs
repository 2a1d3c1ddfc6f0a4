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
use crate::task::{Task, TaskId};
use crate::worker;

/// How long `--wait` looks for a worker before it says that there is none.
const WORKER_GRACE: Duration = Duration::from_secs(1);

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
        if !worker_is_there(&house).await {
            return Err(Stop::new(
                exit::UNAVAILABLE,
                anyhow!(
                    "task {} is queued, but no worker runs in {}; start `enginehouse run`, or submit with --run",
                    task.id,
                    house.home.folder().display()
                ),
            ));
        }
        watch::until_ended(&store, task.id).await?
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
        println!("{}", view::result_line(&artifacts, &task).await?);
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

/// Works in this process until the task has ended, beside or instead of a running worker.
pub async fn work_off(house: &House, store: &SharedStore, id: TaskId) -> Result<Task, Stop> {
    let Ok(_lock) = house.take_worker_lock() else {
        return watch::until_ended(store, id).await;
    };
    let stop = worker::Stop::default();
    let working = tokio::spawn(run_command::work(house.worker().await?, stop.clone()));
    let ended = watch::until_ended(store, id).await;
    stop.drain.cancel();
    working.await.context("the worker broke off")?;
    ended
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
