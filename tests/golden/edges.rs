//! The edges of a case, which are scripted: the engine, the network, the models that help, the tasks that exist already.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use enginehouse::artifacts::Artifacts;
use enginehouse::artifacts::download::{Downloaded, Fetch};
use enginehouse::assist::Assist;
use enginehouse::assist::request::{CaptionMode, CaptionRequest, GuidanceRequest, Treatment};
use enginehouse::engines::{Engine, Job, LOST, ModelInfo, Produced, Request};
use enginehouse::store::{
    AfterFailure, ChildDependency, ChildLimits, Claim, ClaimRequest, ClaimToken, Counts, JournalEntry, NewChild,
    NewTask, Renewal, Result as StoreResult, SharedStore, Store, StoreError, TaskFilter,
};
use enginehouse::task::{
    Delegation, EngineKind, Failure, FailureClass, FileRef, Output, Progress, Route, Status, Task, TaskId,
};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use url::Url;

use crate::files::Film;

/// The colour of the stand-in's guidance.
const GUIDANCE: [u8; 3] = [200, 40, 40];

/// Rate of what the engine makes, where a case does not say.
const ENGINE_FPS: f64 = 16.0;

/// Makes grey ramps of the length that is asked for, or fails as the case says.
pub struct Ramp {
    /// `environment.engine`.
    pub script: Value,
    /// The request as it came, once it came.
    pub asked: Mutex<Vec<(TaskId, Request)>>,
    pub made: Mutex<Option<Value>>,
}

#[async_trait]
impl Engine for Ramp {
    fn kind(&self) -> EngineKind {
        EngineKind::Wan2gp
    }

    fn title(&self) -> String {
        "grey ramps".into()
    }

    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure> {
        self.asked.lock().unwrap().push((job.key.task, job.request.clone()));
        match self.script["status"].as_str().unwrap_or("completed") {
            "failed" => {
                let said = self.script["error"].as_str().unwrap_or("it failed");
                return Err(Failure::new(FailureClass::Engine, "generation_failed", said));
            }
            "lost" => return Err(Failure::new(FailureClass::Engine, LOST, "the engine does not know the job")),
            "busy" => {
                job.cancel.cancelled().await;
                return Err(Failure::cancelled("it was still busy"));
            }
            _ => {}
        }
        let Request::Generation { settings, .. } = job.request else {
            return Err(Failure::internal("no_generation", "the recordings know generations alone"));
        };
        let film = self.film(settings, job.artifacts).await.map_err(|e| Failure::internal("golden", e.to_string()))?;
        let path = job.folder.join("ramp.mp4");
        film.write(&path).await.map_err(|e| Failure::internal("golden", e.to_string()))?;
        *self.made.lock().unwrap() =
            Some(json!({"frames": film.colours.len(), "fps": film.fps, "width": film.width, "height": film.height}));
        Ok(vec![Produced { path, name: "ramp.mp4".into() }])
    }

    async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure> {
        Ok(ModelInfo { known: true, vace: model.contains("vace"), family: None, defaults: Map::new() })
    }
}

impl Ramp {
    async fn film(&self, settings: &Map<String, Value>, artifacts: &Artifacts) -> anyhow::Result<Film> {
        let text = settings.get("resolution").and_then(Value::as_str).unwrap_or_default();
        let (width, height) = text.split_once('x').ok_or_else(|| anyhow::anyhow!("no resolution: {text}"))?;
        let number = |name: &str| settings.get(name).and_then(Value::as_u64).unwrap_or_default();
        let mut frames = number("video_length");
        if let Some(source) = settings.get("video_source") {
            let file = artifacts.path(source["$artifact"].as_str().unwrap_or_default().parse()?)?;
            let before = enginehouse_tests::numbered::media().probe(&file).await?.frames;
            frames = before + frames - number("sliding_window_overlap");
        }
        let frames = self.script["frames"].as_u64().unwrap_or(frames);
        let fps = self.script["fps"].as_f64().unwrap_or(ENGINE_FPS);
        Ok(Film::ramp((width.parse()?, height.parse()?), fps, frames, &self.script))
    }
}

/// The network: files of the case behind addresses, and nothing else.
pub struct Web {
    pub addresses: Vec<Address>,
    /// What was asked for, as the recording writes it.
    pub asked: Mutex<Vec<String>>,
}

/// A file behind an address.
pub struct Address {
    pub recorded: String,
    pub url: Url,
    pub file: PathBuf,
}

#[async_trait]
impl Fetch for Web {
    async fn fetch(&self, url: &Url, folder: &Path) -> Result<Downloaded, Failure> {
        let found = self.addresses.iter().find(|address| address.url == *url);
        self.asked.lock().unwrap().push(found.map_or_else(|| url.to_string(), |address| address.recorded.clone()));
        let failed = |why: &str| {
            let mut shown = url.clone();
            shown.set_query(None);
            let message = format!("The file {shown} could not be downloaded: {why}.");
            Failure::new(FailureClass::Dependency, "download_failed", message)
        };
        let from = &found.ok_or_else(|| failed("there is nothing"))?.file;
        let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = folder.join("download");
        std::fs::copy(from, &path).map_err(|e| failed(&e.to_string()))?;
        Ok(Downloaded { path, name, length_known: true })
    }
}

/// The models that help.
pub struct Helper {
    /// Prompts are refused.
    pub mute: bool,
    pub artifacts: Artifacts,
    pub calls: Mutex<Vec<Value>>,
}

#[async_trait]
impl Assist for Helper {
    async fn caption(&self, request: CaptionRequest) -> Result<String, Failure> {
        let (mode, mark) = match request.mode {
            CaptionMode::Transition => ("transition", "VLM"),
            CaptionMode::Single => ("single", "VLM1"),
        };
        self.calls.lock().unwrap().push(json!({
            "call": "caption",
            "mode": mode,
            "images": request.images.len(),
            "prompt": request.prompt,
            "frames": request.frames,
            "fps": request.fps,
        }));
        if self.mute {
            return Err(Failure::new(FailureClass::Engine, "caption_failed", "the model fell over"));
        }
        Ok(format!("{mark}<{}>", request.prompt))
    }

    async fn guidance(&self, request: GuidanceRequest) -> Result<FileRef, Failure> {
        let videos: Vec<Value> = request
            .videos
            .iter()
            .map(|video| {
                json!({
                    "start_frame": video.start_frame,
                    "end_frame": video.end_frame,
                    "treatment": if video.treatment == Treatment::Adjust { "adjust" } else { "clip" },
                    "source_start_frame": video.source_start_frame,
                    "source_end_frame": video.source_end_frame,
                })
            })
            .collect();
        self.calls.lock().unwrap().push(json!({
            "call": "guidance",
            "preprocessing": request.preprocessing.as_str(),
            "strength": request.strength,
            "canny_intensity": request.canny_intensity,
            "depth_contrast": request.depth_contrast,
            "width": request.width,
            "height": request.height,
            "fps": request.fps,
            "frames": request.frames,
            "videos": videos,
        }));
        let scratch = self.artifacts.scratch()?;
        let path = scratch.path().join("guidance.mp4");
        let film = Film::solid((request.width, request.height), request.fps, request.frames, GUIDANCE);
        film.write(&path).await.map_err(|e| Failure::internal("golden", e.to_string()))?;
        self.artifacts.import_file(&path, "guidance.mp4", enginehouse::artifacts::Take::Move).await
    }
}

/// A real store, in front of which stand the tasks that a case says exist already.
pub struct Rows {
    pub inner: SharedStore,
    /// In their order: oldest first.
    pub rows: Vec<Task>,
    /// Largest batch of children that is taken.
    pub batch: Option<usize>,
    pub removed: Mutex<Vec<TaskId>>,
    /// Children created, with what they wait for, in the order of creation.
    pub created: Mutex<Vec<(TaskId, Vec<TaskId>)>>,
}

impl Rows {
    fn row(&self, id: TaskId) -> Option<&Task> {
        let removed = self.removed.lock().unwrap().contains(&id);
        self.rows.iter().find(|row| row.id == id && !removed)
    }
}

#[async_trait]
impl Store for Rows {
    async fn create_children(
        &self,
        parent: TaskId,
        token: ClaimToken,
        batch: Vec<NewChild>,
        limits: ChildLimits,
    ) -> StoreResult<Vec<TaskId>> {
        if self.batch.is_some_and(|most| batch.len() > most) {
            return Err(StoreError::Refused { code: "queue_failed", message: "the queue answered 500".into() });
        }
        // The store itself does not know the tasks of the case.
        let mut waits = Vec::new();
        let mut known = Vec::new();
        for mut child in batch {
            waits.push(child.depends_on.clone());
            child.depends_on.retain(|on| !matches!(on, ChildDependency::Task(id) if self.row(*id).is_some()));
            known.push(child);
        }
        let ids = self.inner.create_children(parent, token, known, limits).await?;
        let mut created = self.created.lock().unwrap();
        for (id, waits) in ids.iter().zip(waits) {
            let waits = waits.into_iter().filter_map(|on| match on {
                ChildDependency::Task(id) => Some(id),
                ChildDependency::Sibling(at) => ids.get(at).copied(),
            });
            created.push((*id, waits.collect()));
        }
        Ok(ids)
    }

    async fn remove_child(&self, parent: TaskId, token: ClaimToken, child: TaskId) -> StoreResult<()> {
        match self.row(child) {
            None => self.inner.remove_child(parent, token, child).await,
            Some(row) if row.status != Status::Queued => {
                Err(StoreError::Refused { code: "child_started", message: "the child has started".into() })
            }
            Some(_) => {
                self.removed.lock().unwrap().push(child);
                Ok(())
            }
        }
    }

    async fn get(&self, task: TaskId) -> StoreResult<Task> {
        match self.row(task) {
            Some(row) => Ok(row.clone()),
            None => self.inner.get(task).await,
        }
    }

    async fn list(&self, filter: TaskFilter) -> StoreResult<Vec<Task>> {
        let of = filter.children_of;
        let own = self.rows.iter().filter(|row| row.parent == of && self.row(row.id).is_some()).cloned();
        let mut found: Vec<Task> = own.collect();
        found.extend(self.inner.list(filter).await?);
        Ok(found)
    }

    async fn submit(&self, new: NewTask) -> StoreResult<Task> {
        self.inner.submit(new).await
    }

    async fn claim(&self, ask: ClaimRequest) -> StoreResult<Vec<Claim>> {
        self.inner.claim(ask).await
    }

    async fn renew(&self, held: Vec<(TaskId, ClaimToken)>, lease: Duration) -> StoreResult<Vec<Renewal>> {
        self.inner.renew(held, lease).await
    }

    async fn set_route(&self, task: TaskId, token: ClaimToken, route: Route) -> StoreResult<()> {
        self.inner.set_route(task, token, route).await
    }

    async fn set_progress(&self, task: TaskId, token: ClaimToken, progress: Progress) -> StoreResult<()> {
        self.inner.set_progress(task, token, progress).await
    }

    async fn complete(&self, task: TaskId, token: ClaimToken, output: Output) -> StoreResult<()> {
        self.inner.complete(task, token, output).await
    }

    async fn delegate(&self, task: TaskId, token: ClaimToken, delegation: Delegation) -> StoreResult<()> {
        self.inner.delegate(task, token, delegation).await
    }

    async fn fail(&self, task: TaskId, token: ClaimToken, failure: Failure, most: u32) -> StoreResult<AfterFailure> {
        self.inner.fail(task, token, failure, most).await
    }

    async fn release(&self, task: TaskId, token: ClaimToken) -> StoreResult<()> {
        self.inner.release(task, token).await
    }

    async fn cancel(&self, task: TaskId, why: String) -> StoreResult<bool> {
        self.inner.cancel(task, why).await
    }

    async fn retry(&self, task: TaskId) -> StoreResult<Task> {
        self.inner.retry(task).await
    }

    async fn counts(&self) -> StoreResult<Counts> {
        self.inner.counts().await
    }

    async fn journal_write(&self, task: TaskId, token: ClaimToken, entry: JournalEntry) -> StoreResult<()> {
        self.inner.journal_write(task, token, entry).await
    }

    async fn journal(&self, task: TaskId, attempt: u32) -> StoreResult<Vec<JournalEntry>> {
        self.inner.journal(task, attempt).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }
}
