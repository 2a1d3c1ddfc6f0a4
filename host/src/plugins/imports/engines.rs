//! `engines`: jobs for the two engines.

use std::sync::Arc;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::contract::enginehouse::plugin::engines::{self, Finished};
use super::contract::to_guest;
use super::{Capability, Live, Shared, Start, json_or_text, object, text_option};
use crate::engines::{JobKey, JobResult, NewJob, Request, WorkflowTerms};
use crate::plugins::journal::{CallKey, Effect, Interrupt};
use crate::router;
use crate::task::{EngineKind, Failure};

/// What `wait-any` found, for the record.
#[derive(Serialize, Deserialize)]
struct Ended {
    index: u32,
    outcome: Result<String, Failure>,
}

impl engines::Host for Start {
    async fn submit_generation(&mut self, settings: String, options: String) -> Result<String, Interrupt> {
        let arguments = json!({ "settings": json_or_text(&settings), "options": json_or_text(&options) });
        self.submit("engines.submit-generation", arguments, move || {
            let mut options = object(&options, "`options`")?;
            let label = text_option(&options, "label")?;
            let model_overrides = match options.remove("model_overrides") {
                None | Some(Value::Null) => Map::new(),
                Some(Value::Object(overrides)) => overrides,
                Some(_) => {
                    return Err(Failure::invalid(
                        "invalid_json",
                        "The option `model_overrides` must be a JSON object.",
                    ));
                }
            };
            Ok((Request::Generation { settings: object(&settings, "`settings`")?, model_overrides }, label))
        })
        .await
    }

    async fn submit_workflow(&mut self, workflow: String, options: String) -> Result<String, Interrupt> {
        let arguments = json!({ "workflow": json_or_text(&workflow), "options": json_or_text(&options) });
        self.submit("engines.submit-workflow", arguments, move || {
            let options = object(&options, "`options`")?;
            let label = text_option(&options, "label")?;
            let terms = WorkflowTerms {
                allow_partial: read_option(&options, "allow_partial", "true or false")?,
                temp_nodes: read_option(&options, "temp_nodes", "a list of node ids")?,
                ..WorkflowTerms::default()
            };
            Ok((Request::Workflow { workflow: object(&workflow, "`workflow`")?, terms }, label))
        })
        .await
    }

    async fn wait(&mut self, job: String, limit_seconds: Option<u32>) -> Result<String, Interrupt> {
        let arguments = json!({ "job": job, "limit_seconds": limit_seconds });
        self.know(std::slice::from_ref(&job)).await?;
        let name = job.clone();
        let wait = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let limit = limit_seconds.map(|seconds| Duration::from_secs(seconds.into()));
            Ok(answer(reach.services.engines.wait(own_job(&reach, &name)?, limit).await?))
        };
        let result = self.call(Some(Capability::Engines), "engines.wait", &arguments, Effect::Repeatable, wait).await;
        // After `engine_timeout` the job goes on.
        if !matches!(&result, Err(Interrupt::Failed(failure)) if failure.code == "engine_timeout") {
            self.ended(&job);
        }
        result
    }

    async fn wait_any(&mut self, jobs: Vec<String>) -> Result<Finished, Interrupt> {
        let arguments = json!({ "jobs": jobs });
        self.know(&jobs).await?;
        let names = jobs.clone();
        let wait = async move |reach: Shared, _| -> Result<Ended, Interrupt> {
            if names.is_empty() {
                return Err(Failure::invalid("no_jobs", "`wait-any` was given an empty list of jobs.").into());
            }
            let keys = names.iter().map(|name| own_job(&reach, name)).collect::<Result<Vec<_>, _>>()?;
            let index = reach.services.engines.wait_any(&keys).await?;
            let key = keys.get(index).copied().ok_or_else(|| {
                Failure::internal("engine_lost_task", format!("The engines named job {index} of {}.", keys.len()))
            })?;
            let outcome = reach.services.engines.wait(key, None).await.map(answer);
            Ok(Ended { index: u32::try_from(index).unwrap_or(u32::MAX), outcome })
        };
        let ended: Ended =
            self.call(Some(Capability::Engines), "engines.wait-any", &arguments, Effect::Repeatable, wait).await?;
        if let Some(job) = jobs.get(ended.index as usize) {
            self.ended(job);
        }
        Ok(Finished { index: ended.index, outcome: ended.outcome.map_err(to_guest) })
    }

    async fn cancel(&mut self, job: String) -> Result<(), Interrupt> {
        let arguments = json!({ "job": job });
        let name = job.clone();
        let cancel = async move |reach: Shared, _| -> Result<(), Interrupt> {
            Ok(reach.services.engines.cancel(own_job(&reach, &name)?).await?)
        };
        // Not submitted again first: a job that was cut off is cancelled already.
        self.ended(&job);
        self.call(Some(Capability::Engines), "engines.cancel", &arguments, Effect::Keyed, cancel).await
    }

    async fn model_info(&mut self, model: String) -> Result<String, Interrupt> {
        let arguments = json!({ "model": model });
        let ask = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let info = reach.services.engines.model_info(&model).await?;
            Ok(json!(info).to_string())
        };
        self.call(Some(Capability::Engines), "engines.model-info", &arguments, Effect::Repeatable, ask).await
    }
}

impl Start {
    /// Both submissions. `read` makes a request and its label of the arguments.
    async fn submit(
        &mut self,
        function: &'static str,
        arguments: Value,
        read: impl Fn() -> Result<(Request, Option<String>), Failure> + Send + Sync,
    ) -> Result<String, Interrupt> {
        let mut live = false;
        let submit = async |reach: Shared, key: CallKey| -> Result<String, Interrupt> {
            let (request, label) = read()?;
            agrees_with_task(&reach, request.engine())?;
            let submitted = reach.services.engines.submit(new_job(&reach, key.into(), request, label)).await?;
            live = true;
            Ok(submitted.to_string())
        };
        let job: String = self.call(Some(Capability::Engines), function, &arguments, Effect::Keyed, submit).await?;
        if let Some(Live { reach, jobs, .. }) = &mut self.live
            && let Ok(key) = own_job(reach, &job)
            && let Ok((request, label)) = read()
        {
            jobs.submitted(new_job(reach, key, request, label), live);
        }
        Ok(job)
    }

    /// Makes sure that the engines know jobs of an earlier life of the attempt, when the next call goes to them.
    async fn know(&mut self, jobs: &[String]) -> Result<(), Interrupt> {
        let Some(live) = &mut self.live else { return Ok(()) };
        if live.calls.replaying().await? {
            return Ok(());
        }
        for job in jobs {
            if let Ok(key) = own_job(&live.reach, job) {
                live.jobs.make_known(key, &live.reach).await;
            }
        }
        Ok(())
    }

    fn ended(&mut self, job: &str) {
        if let Some(live) = &mut self.live
            && let Ok(key) = own_job(&live.reach, job)
        {
            live.jobs.ended(key);
        }
    }
}

/// An option that may be left out. Code `invalid_json`.
fn read_option<T: Default + serde::de::DeserializeOwned>(
    options: &Map<String, Value>,
    name: &str,
    expected: &str,
) -> Result<T, Failure> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|_| Failure::invalid("invalid_json", format!("The option `{name}` must be {expected}."))),
    }
}

impl From<CallKey> for JobKey {
    fn from(key: CallKey) -> Self {
        JobKey { task: key.task, attempt: key.attempt, seq: key.seq }
    }
}

fn new_job(reach: &Shared, key: JobKey, request: Request, label: Option<String>) -> NewJob {
    let (lines, said) = (reach.lines.clone(), reach.lines.clone());
    NewJob {
        key,
        request,
        label,
        priority: reach.task.priority,
        created_at: reach.task.created_at,
        report: Arc::new(reach.progress.of_job(move |message| lines.write("engine", "info", message))),
        log: Arc::new(move |level, line| said.write("engine", level, line)),
    }
}

/// A task that names its engine never runs on the other one. Code `engine_mismatch`.
fn agrees_with_task(reach: &Shared, asked: EngineKind) -> Result<(), Failure> {
    let named = router::named_engine(&reach.task.params).map_err(|why| Failure::invalid("unknown_engine", why))?;
    match named {
        Some(named) if named != asked => Err(Failure::denied(
            "engine_mismatch",
            format!(
                "The task names {named} as its engine (`engine`), and the plugin {} asked {asked} for a job: a task that \
                 names its engine never runs on the other one.",
                reach.permits.plugin
            ),
        )),
        _ => Ok(()),
    }
}

/// A job id that this task was given. Code `unknown_job`.
fn own_job(reach: &Shared, job: &str) -> Result<JobKey, Failure> {
    let parsed = || {
        let mut parts = job.split('/');
        let key = JobKey {
            task: parts.next()?.parse().ok()?,
            attempt: parts.next()?.parse().ok()?,
            seq: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && key.task == reach.task.id).then_some(key)
    };
    parsed().ok_or_else(|| {
        let job: String = job.chars().take(80).collect();
        Failure::invalid("unknown_job", format!("`{job}` is no job of this task."))
    })
}

fn answer(result: JobResult) -> String {
    json!({ "outputs": result.outputs, "seconds": result.seconds }).to_string()
}
