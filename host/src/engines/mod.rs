//! The two engines and who holds the GPU.
//!
//! A *job* is one request to an engine. Its key is `task/attempt/seq`; it owns a folder, and it is *finished* once
//! `result.json` stands there (fsynced, then renamed): a finished job is never run again, whoever asks. Jobs queue in a
//! *lane*, one lane per GPU, one job at a time.
//!
//! - `lane.rs`: the queue in front of a GPU: order, cancellation, waiting.
//! - `folder.rs`: the job's folder and its durable result.
//! - `suspended.rs`: engines that take no jobs for a while; `fatal.rs`: failures that tell of a broken machine.
//! - `direct.rs`: a task that goes straight to Wan2GP becomes a request.
//! - `comfy_task.rs`: so does a task that brings its own workflow.
//! - `comfyui/`: ComfyUI, started by the host or by an operator.
//! - `animatic/`: the engine that needs no GPU and no weights.
//! - `supervisor/`: the child processes that engines run in.
//!
//! An `Engines` needs a Tokio runtime when a job is submitted. It keeps how each job ended until `cancel_task` forgets the
//! task: call that when a task has ended, however it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::clock::{Clock, Timestamp};
use crate::task::{EngineKind, Failure, FileRef, TaskId};
use crate::templates::DeclaredOutput;

pub mod animatic;
pub mod comfy_task;
pub mod comfyui;
pub mod direct;
mod fatal;
mod folder;
mod lane;
pub mod supervisor;
mod suspended;

use lane::Lane;
pub use suspended::Suspension;

/// Code of the failure that a job is answered with which the engines do not know (any more).
pub const LOST: &str = "engine_lost_task";

/// Code of the failure that a key is answered with which stands for another request.
pub const KEY_REUSED: &str = "effect_key_reused";

/// Code of the failure with which an engine says that it takes no jobs for a while: the job goes back into the queue.
pub const SUSPENDED: &str = "engine_suspended";

/// Names a job for ever: the call of an attempt that submitted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobKey {
    pub task: TaskId,
    pub attempt: u32,
    pub seq: u64,
}

impl fmt::Display for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.task, self.attempt, self.seq)
    }
}

/// What an engine is asked for. Files stand in it as `{"$artifact": "sha256:…"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Wan2GP: settings under their established names.
    Generation { settings: Map<String, Value>, model_overrides: Map<String, Value> },
    /// ComfyUI: a workflow in API format.
    Workflow {
        workflow: Map<String, Value>,
        #[serde(default, skip_serializing_if = "WorkflowTerms::are_plain")]
        terms: WorkflowTerms,
    },
}

/// What is agreed about a workflow beside its graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkflowTerms {
    /// Outputs that the server refuses are left out, the rest runs. Otherwise one refused output refuses the whole.
    pub allow_partial: bool,
    /// Nodes whose preview files are wanted as results.
    pub temp_nodes: BTreeSet<String>,
    /// Which param an input came from: `NODE/INPUT` → JSON pointer into the params. For messages.
    pub sources: BTreeMap<String, String>,
    /// What the workflow promises, the main one first. Empty: whatever it leaves is the result.
    pub outputs: Vec<DeclaredOutput>,
}

impl WorkflowTerms {
    /// Nothing is agreed.
    pub fn are_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl Request {
    pub fn engine(&self) -> EngineKind {
        match self {
            Request::Generation { .. } => EngineKind::Wan2gp,
            Request::Workflow { .. } => EngineKind::Comfyui,
        }
    }
}

/// Called with (fraction, words) as the job proceeds. Must not block.
pub type Report = Arc<dyn Fn(Option<f32>, String) + Send + Sync>;

/// Called with (level, line) for what the engine itself prints while the job runs. Must not block.
pub type Log = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// A job to submit.
#[derive(Clone)]
pub struct NewJob {
    pub key: JobKey,
    pub request: Request,
    /// Names the job in progress reports.
    pub label: Option<String>,
    /// Of its task: higher goes first.
    pub priority: i64,
    /// Of its task: older goes first.
    pub created_at: Timestamp,
    pub report: Report,
    pub log: Log,
}

/// What a finished job left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The main output first.
    pub outputs: Vec<FileRef>,
    pub seconds: f64,
}

/// What is known about a model of Wan2GP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    pub known: bool,
    pub vace: bool,
    pub family: Option<String>,
    pub defaults: Map<String, Value>,
}

/// One job as an engine sees it.
pub struct Job<'a> {
    pub key: JobKey,
    /// What its owner calls it: `segment 2`.
    pub label: Option<&'a str>,
    pub request: &'a Request,
    /// Empty, on the same file system as the artifacts; what the engine leaves here is what it may return.
    pub folder: PathBuf,
    /// Where the newest preview picture goes (JPEG, replaced as a whole). Its folder stands.
    pub preview: PathBuf,
    /// An earlier life of the job, or of this host, may have handed it to the engine.
    pub again: bool,
    pub artifacts: &'a Artifacts,
    pub report: Report,
    pub log: Log,
    pub cancel: CancellationToken,
}

/// A file that an engine produced, in the job's folder.
#[derive(Clone, Debug)]
pub struct Produced {
    pub path: PathBuf,
    pub name: String,
}

/// An engine. It runs one job at a time; the lane sees to that.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    fn kind(&self) -> EngineKind;

    /// What runs behind it, for people: `animatic`, `WanGP 12.60 at …`.
    fn title(&self) -> String;

    /// Runs a job to its end; the main output first. Cancelled: `Failure::cancelled`, promptly.
    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure>;

    /// What is known about a model.
    async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure>;

    /// Starts what it needs before the first job asks for it, if it is told to by its settings.
    async fn warm_up(&self) {}

    /// The job's end is durable: whatever the engine keeps about it may go.
    async fn concluded(&self, _job: JobKey) {}

    /// Nobody asks for the job any more: if the engine still works on it, it must not.
    async fn forget(&self, _job: JobKey) {}

    /// Why it takes no jobs, after it said so ([`SUSPENDED`]).
    fn suspension(&self) -> Option<Suspension> {
        None
    }

    /// Gives its memory back, as far as it can without being stopped.
    async fn release(&self) -> Result<(), Failure> {
        Ok(())
    }

    /// Its process is ended at once; the next job starts it anew.
    async fn restart(&self, _why: &str) {}

    /// Stops in good order. No job runs any more.
    async fn stop(&self) {}
}

/// What `Engines` needs.
pub struct EngineOptions {
    /// Folder of the jobs: `data/jobs`.
    pub jobs: PathBuf,
    pub artifacts: Artifacts,
    pub clock: Clock,
    /// Absent: `unavailable`, with these words.
    pub comfyui: Result<Arc<dyn Engine>, String>,
    pub wan2gp: Result<Arc<dyn Engine>, String>,
    /// Longest running time of a job when the caller names none.
    pub job_limit: Duration,
    /// How long an engine may take to stop a job before it is left: its run is dropped and the next job begins.
    pub cancel_grace: Duration,
}

/// What the lane does at one moment, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaneStatus {
    pub running: Option<RunningJob>,
    /// Jobs that wait.
    pub queued: usize,
}

/// The job that holds the GPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunningJob {
    pub key: JobKey,
    pub label: Option<String>,
    pub engine: EngineKind,
    pub since: Timestamp,
}

/// The engines of a host, behind their lane.
pub struct Engines {
    lane: Arc<Lane>,
}

impl Engines {
    pub fn new(options: EngineOptions) -> Arc<Self> {
        Arc::new(Self { lane: Arc::new(Lane::new(options)) })
    }

    /// Queues a job. The same key and request again is the same job: running, finished, or taken from its durable result.
    /// The same key with another request is refused (`effect_key_reused`, internal); an engine that is not there answers
    /// `engine_unavailable`. A job that was cancelled, or broken off by the host, runs again when it is submitted again.
    pub async fn submit(&self, job: NewJob) -> Result<JobKey, Failure> {
        self.lane.submit(job).await
    }

    /// Waits for a job's end, for at most `limit` of its running time (queueing does not count; none: the host's limit).
    /// `engine_timeout` (the job goes on), `engine_lost_task`, or what the engine said. A job that is not known here but
    /// left a durable result is finished; any other unknown job is lost: submit it again first.
    pub async fn wait(&self, job: JobKey, limit: Option<Duration>) -> Result<JobResult, Failure> {
        self.lane.wait(job, limit).await
    }

    /// Position of the first job of the list that has ended; a job that nobody knows counts as ended (`wait` says how).
    /// `no_jobs` for an empty list.
    pub async fn wait_any(&self, jobs: &[JobKey]) -> Result<usize, Failure> {
        self.lane.wait_any(jobs).await
    }

    /// Stops a job, queued or running, and returns when it has stopped. The engine is told at once, also when this call
    /// is dropped half-way. Nothing to do when the job has ended.
    pub async fn cancel(&self, job: JobKey) -> Result<(), Failure> {
        self.lane.cancel(job).await;
        Ok(())
    }

    /// Stops a job and forgets it with its result: its key is free for another request.
    pub async fn discard(&self, job: JobKey) -> Result<(), Failure> {
        self.lane.discard(job).await
    }

    /// Stops every job of a task and forgets them. Durable results stay.
    pub async fn cancel_task(&self, task: TaskId) {
        self.lane.cancel_task(task).await;
    }

    /// What is known about a model of Wan2GP.
    pub async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure> {
        self.lane.engine(EngineKind::Wan2gp)?.model_info(model).await
    }

    /// Starts engines that are to be started early. Returns at once.
    pub fn warm_up(&self) {
        for engine in self.lane.engines() {
            let engine = engine.clone();
            tokio::spawn(async move { engine.warm_up().await });
        }
    }

    /// Engines that take no jobs now, and why.
    pub fn suspensions(&self) -> BTreeMap<EngineKind, Suspension> {
        self.lane.suspensions().all()
    }

    /// Returns when an engine takes no jobs.
    pub async fn suspended(&self, engine: EngineKind) -> Suspension {
        self.lane.suspensions().suspended(engine).await
    }

    /// Stops the engines in good order. Call it when no job runs any more.
    pub async fn stop(&self) {
        futures::future::join_all(self.lane.engines().map(|engine| engine.stop())).await;
    }

    /// How many jobs wait or run: the worker claims direct tasks while this is small.
    pub fn load(&self) -> usize {
        let status = self.lane.status();
        status.queued + usize::from(status.running.is_some())
    }

    /// What the lane does now.
    pub fn status(&self) -> LaneStatus {
        self.lane.status()
    }
}
