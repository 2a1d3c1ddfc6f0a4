//! A task without a plugin: its files become artifacts, its params a request, and one engine job serves it.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::engines::{self, JobKey, JobResult, NewJob, Report};
use crate::router;
use crate::store::progress::ProgressWriter;
use crate::task::{EngineKind, Failure, FailureClass, Output, Route, Task};
use crate::tasklog::TaskLog;
use crate::worker::Worker;
use crate::worker::claims::Held;

/// Number of a direct task's one job. Handlers count their calls from 1: a task that goes on by another route never meets
/// a job of the other kind under its key.
const SEQ: u64 = 0;

/// Serves the task with one engine job. Dropped half-way, it leaves a job that `Engines::cancel_task` stops.
pub async fn run(worker: &Worker, task: &Task, route: &Route, log: &TaskLog, held: &Held) -> Result<Output, Failure> {
    let engines = &worker.services.engines;
    let key = JobKey { task: task.id, attempt: task.attempts, seq: SEQ };
    // A job that was finished before a crash is the answer, whatever its inputs have become since.
    let JobResult { outputs, seconds } = match engines.wait(key, None).await {
        Err(failure) if failure.code == engines::LOST => {
            let engine = submit(worker, task, route, log, held, key).await?;
            tokio::select! {
                biased;
                ended = engines.wait(key, None) => ended.map_err(quarantined)?,
                // Without its engine the task has nothing to wait for here; it goes back as it came.
                suspension = engines.suspended(engine) => {
                    return Err(Failure::unavailable(engines::SUSPENDED, suspension.reason));
                }
            }
        }
        ended => ended.map_err(quarantined)?,
    };
    let mut outputs = outputs.into_iter();
    let Some(file) = outputs.next() else {
        return Err(Failure::new(FailureClass::Engine, "no_output", "the engine reported success but left no file"));
    };
    let facts = json!({ "engine_seconds": seconds }).as_object().cloned().unwrap_or_default();
    Ok(Output::File { file, extra: outputs.collect(), facts })
}

async fn submit(
    worker: &Worker,
    task: &Task,
    route: &Route,
    log: &TaskLog,
    held: &Held,
    key: JobKey,
) -> Result<EngineKind, Failure> {
    let mut task = task.clone();
    // Checked before any file is fetched: what is wrong with the params shows at once.
    engines::direct::request(route, &task).map_err(|failure| explain(worker, route, failure))?;
    resolve_files(worker, &mut task).await?;
    let request = engines::direct::request(route, &task).map_err(|failure| explain(worker, route, failure))?;

    let engines = &worker.services.engines;
    let engine = request.engine();
    let job = NewJob {
        key,
        request,
        label: None,
        priority: task.priority,
        created_at: task.created_at,
        report: reporter(worker, &task, log, held),
        log: Arc::new({
            let log = log.clone();
            move |level, line| log.write("engine", level, line)
        }),
    };
    let submitted = match engines.submit(job.clone()).await {
        // What an earlier start asked for under this key was never finished, and the params lead to something else by now.
        Err(failure) if failure.code == engines::KEY_REUSED => {
            engines.discard(key).await?;
            engines.submit(job).await
        }
        submitted => submitted,
    };
    submitted.map(|_| engine)
}

/// A job that its engine died under, as often as may be, sets the task aside: nobody else should try it unseen.
fn quarantined(failure: Failure) -> Failure {
    match failure.code.as_str() {
        "engine_crashed" if !failure.retry => Failure { class: FailureClass::Quarantined, ..failure },
        _ => failure,
    }
}

/// A prompt that is missing because a handler was retired is a story of its own.
fn explain(worker: &Worker, route: &Route, failure: Failure) -> Failure {
    if failure.code == "prompt_required" { router::prompt_required(route, &worker.plugins.offers()) } else { failure }
}

/// Text under a key that names files becomes `{"$artifact": …}`.
async fn resolve_files(worker: &Worker, task: &mut Task) -> Result<(), Failure> {
    for key in engines::direct::FILE_KEYS {
        match task.params.get_mut(*key) {
            Some(Value::String(source)) if !source.is_empty() => {
                let file = worker.services.intake.resolve(source).await?;
                task.params.insert((*key).to_string(), json!(file));
            }
            Some(Value::Array(list)) => {
                for entry in list {
                    if let Value::String(source) = entry {
                        *entry = json!(worker.services.intake.resolve(source).await?);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the job does becomes the task's progress, and each new sentence a line of its log.
fn reporter(worker: &Worker, task: &Task, log: &TaskLog, held: &Held) -> Report {
    let services = &worker.services;
    let progress = ProgressWriter::new(services.store.clone(), services.clock.clone(), task.id, held.token);
    let log = log.clone();
    Arc::new(progress.of_job(move |message| log.write("engine", "info", message)))
}
