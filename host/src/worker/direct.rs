//! A task without a plugin: its files become artifacts, its params a request, and one engine job serves it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::engines::{self, JobKey, JobResult, NewJob, Report, Request, WorkflowTerms, comfy_task};
use crate::router;
use crate::store::progress::ProgressWriter;
use crate::task::{EngineKind, Failure, FailureClass, Handler, Output, Route, Task};
use crate::tasklog::TaskLog;
use crate::templates::Filled;
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
    let request = match &route.handler {
        Handler::Wan2gp { .. } => generation(worker, task, route).await?,
        Handler::Comfyui { name: Some(file) } => from_template(worker, task, file).await?,
        Handler::Comfyui { name: None } => own_workflow(worker, task).await?,
        Handler::Plugin { .. } | Handler::Refused => {
            let message = format!("A task of type {} is routed to no engine: {}", task.task_type, route.reason);
            return Err(Failure::internal("not_direct", message));
        }
    };
    let engines = &worker.services.engines;
    let engine = request.engine();
    let job = NewJob {
        key,
        request,
        label: None,
        priority: task.priority,
        created_at: task.created_at,
        report: reporter(worker, task, log, held),
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

/// A request to Wan2GP. What is wrong with the params shows before any file is fetched.
async fn generation(worker: &Worker, task: &Task, route: &Route) -> Result<Request, Failure> {
    // A prompt that is missing because a handler was retired is a story of its own.
    let explained = |failure: Failure| {
        if failure.code == "prompt_required" { router::prompt_required(route, &worker.offers()) } else { failure }
    };
    let mut task = task.clone();
    engines::direct::generation(&task).map_err(explained)?;
    for key in engines::direct::FILE_KEYS {
        match task.params.get_mut(*key) {
            Some(value @ Value::String(_)) => resolve(worker, value).await?,
            Some(Value::Array(list)) => {
                for entry in list.iter_mut().filter(|entry| entry.is_string()) {
                    resolve(worker, entry).await?;
                }
            }
            _ => {}
        }
    }
    engines::direct::generation(&task).map_err(explained)
}

/// A template filled with the task's params.
async fn from_template(worker: &Worker, task: &Task, file: &str) -> Result<Request, Failure> {
    let Some(template) = worker.templates.get(file) else {
        let message = format!("The template {file} was deleted just when a task of its type was taken up.");
        return Err(Failure::unavailable("template_gone", message).retryable());
    };
    let mut params = template.complete(&task.params)?;
    for pointer in template.files() {
        if let Some(value) = params.pointer_mut(pointer) {
            resolve(worker, value).await.map_err(|failure| about(&format!("`{pointer}`"), failure))?;
        }
    }
    let Filled { workflow, sources, outputs } = template.fill(&params)?;
    Ok(Request::Workflow { workflow, terms: WorkflowTerms { sources, outputs, ..WorkflowTerms::default() } })
}

/// The workflow that the task brings along.
async fn own_workflow(worker: &Worker, task: &Task) -> Result<Request, Failure> {
    let wanted = comfy_task::read(&Value::Object(task.params.clone()))?;
    let mut files = BTreeMap::new();
    for source in wanted.sources() {
        files.insert(source.to_string(), worker.services.intake.resolve(source).await?);
    }
    wanted.into_request(&files)
}

/// Text that names a file, or an artifact that is known by its digest alone, becomes a file with its name.
async fn resolve(worker: &Worker, value: &mut Value) -> Result<(), Failure> {
    let source = match &*value {
        Value::String(source) if !source.is_empty() => source.clone(),
        Value::Object(file) if !file.contains_key("name") => match file.get("$artifact").and_then(Value::as_str) {
            Some(digest) => digest.to_string(),
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    *value = json!(worker.services.intake.resolve(&source).await?);
    Ok(())
}

fn about(param: &str, mut failure: Failure) -> Failure {
    failure.message = format!("The file of the param {param} cannot be used: {}", failure.message);
    failure
}

/// What the job does becomes the task's progress, and each new sentence a line of its log.
fn reporter(worker: &Worker, task: &Task, log: &TaskLog, held: &Held) -> Report {
    let services = &worker.services;
    let progress = ProgressWriter::new(services.store.clone(), services.clock.clone(), task.id, held.token);
    let log = log.clone();
    Arc::new(progress.of_job(move |message| log.write("engine", "info", message)))
}
