//! A house for one handler: a real store, real artifacts, the real lane in front of an engine that writes small files, and
//! the `offender` guest in the real sandbox.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use enginehouse::artifacts::Artifacts;
use enginehouse::artifacts::download::Downloader;
use enginehouse::assist::Unassisted;
use enginehouse::clock::{Clock, Timestamp};
use enginehouse::config::{Grant, MediaConfig, PluginLimits};
use enginehouse::engines::{Engine, EngineOptions, Engines, Job, JobKey, ModelInfo, Produced};
use enginehouse::media::intake::Intake;
use enginehouse::media::{Media, Tools};
use enginehouse::net::NetPolicy;
use enginehouse::plugins::sandbox::{Loaded, Permits, Sandbox};
use enginehouse::plugins::{Run, Services};
use enginehouse::store::sqlite::{SqliteSettings, SqliteStore};
use enginehouse::store::{
    ChildLimits, ClaimRequest, ClaimToken, JournalEntry, NewChild, NewTask, SharedStore, TypeFilter, holder,
};
use enginehouse::task::{EngineKind, Failure, Outcome, Output, Task, TaskId};
use enginehouse::tasklog::{self, LogLine, TaskLog};
use serde_json::{Map, Value};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::guests;

/// How long a claim of this house lasts.
const LEASE: Duration = Duration::from_secs(60);

/// The sandbox of this process and the offender in it.
///
/// # Panics
/// When the guest cannot be built, compiled or loaded.
pub fn sandbox() -> &'static (Arc<Sandbox>, Loaded) {
    static SANDBOX: OnceLock<(Arc<Sandbox>, Loaded)> = OnceLock::new();
    SANDBOX.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let artifact = folder.path().join("offender.cwasm");
        Sandbox::compile_file(&guests::component("offender"), &artifact).expect("the offender compiles");
        let sandbox = Sandbox::new().expect("the sandbox starts");
        let loaded = sandbox.load(&artifact).expect("the offender loads");
        (sandbox, loaded)
    })
}

/// Writes the prompt of each request into a file, and counts the jobs it brought to their end. A prompt `hold` never ends,
/// `hold once` not when it is run for the first time.
#[derive(Default)]
pub struct Scribe {
    pub begun: Mutex<HashMap<JobKey, u32>>,
    pub completed: Mutex<HashMap<JobKey, u32>>,
}

impl Scribe {
    /// Runs of all jobs, ended or not.
    ///
    /// # Panics
    /// When a run panicked.
    pub fn runs(&self) -> u32 {
        self.begun.lock().expect("nothing panicked").values().sum()
    }
}

#[async_trait]
impl Engine for Scribe {
    fn kind(&self) -> EngineKind {
        EngineKind::Wan2gp
    }

    fn title(&self) -> String {
        "scribe".into()
    }

    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure> {
        let text = serde_json::to_string(job.request).unwrap_or_default();
        (job.report)(Some(0.5), "writing line 1 of 2".into());
        (job.report)(Some(1.0), "writing line 2 of 2".into());
        let run = {
            let mut begun = self.begun.lock().expect("nothing panicked");
            let run = begun.entry(job.key).or_default();
            *run += 1;
            *run
        };
        if text.contains("\"hold\"") || (text.contains("\"hold once\"") && run == 1) {
            job.cancel.cancelled().await;
            return Err(Failure::cancelled("held until it was cancelled"));
        }
        let path = job.folder.join("text.txt");
        std::fs::write(&path, text).map_err(|e| Failure::internal("scribe_failed", e.to_string()))?;
        *self.completed.lock().expect("nothing panicked").entry(job.key).or_default() += 1;
        Ok(vec![Produced { path, name: "text.txt".into() }])
    }

    async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure> {
        Ok(ModelInfo { known: true, vace: model.contains("vace"), family: None, defaults: Map::new() })
    }
}

/// See the module.
pub struct House {
    pub folder: TempDir,
    pub clock: Clock,
    pub scribe: Arc<Scribe>,
    pub services: Services,
    pub permits: Permits,
    /// Whether the start that runs waits for other tasks.
    pub waiting: Arc<AtomicBool>,
}

/// A task that is claimed.
#[derive(Clone)]
pub struct Held {
    pub task: Task,
    pub token: ClaimToken,
}

impl House {
    /// Everything granted that needs no rule.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let clock = Clock::manual(Timestamp(1_750_000_000_000));
        let file = folder.path().join("store.sqlite");
        let store = SqliteStore::open(&file, clock.clone(), SqliteSettings::default()).await;
        let store: SharedStore = store.expect("the store opens");
        let artifacts = Artifacts::open(&folder.path().join("data"), &folder.path().join("outputs"));
        let artifacts = artifacts.expect("the artifact store opens");
        let media = Media::new(Tools::from(&MediaConfig::default()));
        let policy = NetPolicy::default();
        let downloader = Arc::new(Downloader { policy, bytes: 1 << 20, timeout: Duration::from_secs(20) });
        let roots: Vec<PathBuf> = vec![folder.path().join("inputs")];
        let intake = Intake { artifacts: artifacts.clone(), downloader, media: media.clone(), roots };
        let scribe = Arc::new(Scribe::default());
        let engines = engines(&folder, &artifacts, &clock, &scribe);
        let all = ["engines", "tasks", "artifacts", "media", "assist", "http", "secrets"].map(String::from);
        let permits = Permits {
            plugin: "offender".into(),
            version: "1.0.0".into(),
            wanted: all.clone().into(),
            capabilities: all.into(),
            grant: Grant::default(),
            settings: Map::new(),
            limits: PluginLimits::default(),
        };
        let services =
            Services { store, engines, assist: Arc::new(Unassisted), artifacts, media, intake, clock: clock.clone() };
        Self { folder, clock, scribe, services, permits, waiting: Arc::default() }
    }

    /// A task with these params, claimed.
    pub async fn task(&self, params: Value) -> Held {
        let Value::Object(params) = params else { panic!("params are an object") };
        let new = NewTask { task_type: "offender".into(), params, ..NewTask::default() };
        let task = self.services.store.submit(new).await.expect("the task is taken");
        self.claim(task.id).await
    }

    /// Claims a task: a new one, or one whose host has died.
    pub async fn claim(&self, task: TaskId) -> Held {
        let ask = ClaimRequest { holder: holder::this_process(), lease: LEASE, types: TypeFilter::Any, limit: 1000 };
        let claims = self.services.store.claim(ask).await.expect("the store answers");
        let claim = claims.into_iter().find(|claim| claim.task.id == task).expect("the task can be claimed");
        Held { task: claim.task, token: claim.token }
    }

    /// One start of the offender.
    pub async fn start(&self, held: &Held, cancel: CancellationToken) -> Result<Outcome, Failure> {
        self.start_on(&self.services, held, cancel).await
    }

    /// The same with other services.
    pub async fn start_on(
        &self,
        services: &Services,
        held: &Held,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        let (sandbox, loaded) = sandbox();
        let Held { task, token } = held.clone();
        let log = TaskLog::new(&self.logs(), task.id, task.attempts, self.clock.clone());
        let run = Run { task, token, log, cancel, waiting: self.waiting.clone() };
        sandbox.handle(loaded, self.permits.clone(), services, run).await
    }

    /// A task with these params, to its end.
    pub async fn run(&self, params: Value) -> Result<Outcome, Failure> {
        let held = self.task(params).await;
        self.start(&held, CancellationToken::new()).await
    }

    /// The JSON that the offender returned.
    ///
    /// # Panics
    /// When it failed, or returned something else.
    pub async fn seen(&self, params: Value) -> Value {
        text(self.run(params).await)
    }

    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    pub fn log(&self, task: TaskId) -> Vec<LogLine> {
        tasklog::read(&self.logs(), task).expect("the log is readable")
    }

    pub async fn journal(&self, held: &Held) -> Vec<JournalEntry> {
        self.services.store.journal(held.task.id, held.task.attempts).await.expect("the journal is readable")
    }

    /// The host dies and another one starts: the engines' memory is gone, their finished jobs are not, and the claim runs
    /// out.
    pub async fn restart(&mut self, task: TaskId) -> Held {
        // A job that has begun comes to its end first, so that "finished" has one meaning in every run.
        eventually(|| self.services.engines.load() == 0).await;
        self.services.engines = engines(&self.folder, &self.services.artifacts, &self.clock, &self.scribe);
        self.clock.advance(LEASE + Duration::from_secs(1));
        self.claim(task).await
    }
}

/// Creates a child of a task that is held.
///
/// # Panics
/// When the store refuses it.
pub async fn child_of(house: &House, parent: &Held, key: &str, params: Value) -> TaskId {
    let Value::Object(params) = params else { panic!("params are an object") };
    let child = NewChild {
        key: key.into(),
        task_type: "offender".into(),
        params,
        depends_on: Vec::new(),
        project_id: None,
        priority: None,
    };
    let limits = ChildLimits { children: 10, depth: 3 };
    let created = house.services.store.create_children(parent.task.id, parent.token, vec![child], limits).await;
    created.expect("the child is taken")[0]
}

/// Waits until something is so.
///
/// # Panics
/// When it is not within 30 seconds.
pub async fn eventually(so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("what the test waits for comes true");
}

fn engines(folder: &TempDir, artifacts: &Artifacts, clock: &Clock, scribe: &Arc<Scribe>) -> Arc<Engines> {
    Engines::new(EngineOptions {
        jobs: folder.path().join("jobs"),
        artifacts: artifacts.clone(),
        clock: clock.clone(),
        comfyui: Err("this house has no ComfyUI".into()),
        wan2gp: Ok(scribe.clone()),
        job_limit: Duration::from_secs(60),
        cancel_grace: Duration::from_secs(60),
    })
}

/// The JSON text that a handler returned.
///
/// # Panics
/// When it did not.
pub fn text(outcome: Result<Outcome, Failure>) -> Value {
    match outcome {
        Ok(Outcome::Done(Output::Text { text })) => serde_json::from_str(&text).expect("the offender returns JSON"),
        other => panic!("no text: {other:?}"),
    }
}
