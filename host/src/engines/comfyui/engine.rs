//! ComfyUI as an engine of the lane: a job becomes a prompt, tried again where that can help.
//!
//! | what happened | what is done |
//! |---|---|
//! | the server died, or forgot the prompt | submitted again under the same id, until the deaths allowed are used up |
//! | interrupted by others, output lost, input missing | once more, as a prompt of its own |
//! | GPU fault; silence; memory, when other jobs ran before | the server is restarted, then once more |
//! | told to stop and deaf | an owned server is killed |
//! | does not start | the engine is suspended, the job waits |

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{Client, Collected, Prompt, Run, Times, prompt_id};
use super::http::Address;
use super::problems::{Code, PromptFailure};
use super::server::{Live, Server, ServerOptions};
use super::{graph, main_output, prepare};
use crate::clock::Clock;
use crate::engines::supervisor::{NotRunning, Supervisor, SupervisorOptions};
use crate::engines::{
    Engine, EngineKind, Job, JobKey, ModelInfo, Produced, Request, SUSPENDED, Suspension, WorkflowTerms,
};
use crate::task::{Failure, FailureClass};
use crate::templates::check_against;

/// Pauses between two questions whether an operator's server answers; after the last one the engine is suspended.
const PAUSES_SECONDS: [u64; 4] = [1, 2, 4, 8];
/// How long an operator's server that does not answer is left alone.
const SUSPENDED_FOR: Duration = Duration::from_secs(30);

/// ComfyUI.
pub struct ComfyUi {
    place: Place,
    clock: Clock,
    /// Deaths of the server under one job after which the job is given up; 0: it may be tried again for ever, by attempts.
    deaths: u32,
    suspension: Mutex<Option<Suspension>>,
    /// Prompts of jobs that have not been concluded.
    prompts: Mutex<HashMap<JobKey, Vec<Uuid>>>,
}

enum Place {
    Owned {
        supervisor: Arc<Supervisor<Server>>,
        eager: bool,
    },
    /// Run by an operator.
    Elsewhere(Box<Elsewhere>),
}

struct Elsewhere {
    address: Address,
    times: Times,
    live: Mutex<Option<Arc<Live>>>,
    /// It did when it was asked last.
    answers: AtomicBool,
}

impl ComfyUi {
    /// A server that the host starts and owns. `eager`: before the first job needs it.
    pub fn owned(server: ServerOptions, supervisor: SupervisorOptions, eager: bool, deaths: u32) -> Self {
        let clock = supervisor.clock.clone();
        Self::new(Place::Owned { supervisor: Supervisor::new(Server::new(server), supervisor), eager }, clock, deaths)
    }

    /// A server that an operator runs.
    pub fn elsewhere(address: Address, times: Times, clock: Clock, deaths: u32) -> Self {
        let elsewhere = Elsewhere { address, times, live: Mutex::new(None), answers: AtomicBool::new(false) };
        Self::new(Place::Elsewhere(Box::new(elsewhere)), clock, deaths)
    }

    fn new(place: Place, clock: Clock, deaths: u32) -> Self {
        Self { place, clock, deaths, suspension: Mutex::new(None), prompts: Mutex::new(HashMap::new()) }
    }

    fn is_owned(&self) -> bool {
        matches!(self.place, Place::Owned { .. })
    }

    /// A server that answers, started if need be. `SUSPENDED` when there is none for a while.
    async fn live(
        &self,
        say: &(dyn Fn(String) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<Arc<Live>, Failure> {
        match &self.place {
            Place::Owned { supervisor, .. } => {
                let running = supervisor.ensure(say, cancel).await.map_err(|why| match why {
                    NotRunning::Cancelled => cancelled(),
                    NotRunning::Unavailable { reason, until } => self.suspended(reason, Some(until)),
                })?;
                let live = running.ready.clone();
                if !live.watched.swap(true, Ordering::Relaxed) {
                    let gone = live.gone.clone();
                    tokio::spawn(async move {
                        running.gone().await;
                        gone.cancel();
                    });
                }
                Ok(live)
            }
            Place::Elsewhere(elsewhere) => {
                let Elsewhere { address, times, live, answers } = elsewhere.as_ref();
                let known = lock(live).clone();
                if let Some(live) = known.filter(|_| answers.load(Ordering::Relaxed)) {
                    return Ok(live);
                }
                let mut pauses = PAUSES_SECONDS.into_iter();
                loop {
                    let known = lock(live).clone();
                    let asked = match &known {
                        Some(live) => live.client.system().await.map(|_| live.clone()),
                        None => {
                            let client = Client::new(address, *times, None)?;
                            client.system().await.map(|system| Live::new(client, system))
                        }
                    };
                    let why = match asked {
                        Ok(found) => {
                            *lock(live) = Some(found.clone());
                            answers.store(true, Ordering::Relaxed);
                            return Ok(found);
                        }
                        Err(why) => why,
                    };
                    let Some(pause) = pauses.next() else {
                        let reason = format!(
                            "ComfyUI at {} (engines.comfyui.url) does not answer: {why}. Start it, or mend the address.",
                            crate::net::shown(&address.url)
                        );
                        let now = self.clock.now();
                        return Err(self.suspended(reason, Some(now.plus(SUSPENDED_FOR))));
                    };
                    say(format!("ComfyUI does not answer ({why}); next try in {pause} s"));
                    tokio::select! {
                        () = cancel.cancelled() => return Err(cancelled()),
                        () = tokio::time::sleep(Duration::from_secs(pause)) => {}
                    }
                }
            }
        }
    }

    /// The server that runs now, if one does.
    fn running(&self) -> Option<Arc<Live>> {
        match &self.place {
            Place::Owned { supervisor, .. } => supervisor.running().map(|running| running.ready.clone()),
            Place::Elsewhere(elsewhere) => lock(&elsewhere.live).clone(),
        }
    }

    fn suspended(&self, reason: String, until: Option<crate::clock::Timestamp>) -> Failure {
        *lock(&self.suspension) = Some(Suspension { reason: reason.clone(), until });
        Failure::unavailable(SUSPENDED, reason).retryable()
    }

    /// A template is held against what the server has before anything is queued: its author's mapping makes the better
    /// message. A server that does not say is the judge itself.
    async fn check(&self, live: &Live, workflow: &Map<String, Value>, terms: &WorkflowTerms) -> Result<(), Failure> {
        if terms.sources.is_empty() && terms.outputs.is_empty() {
            return Ok(());
        }
        match live.object_info(workflow).await {
            Ok(info) => check_against(workflow, &terms.sources, &info),
            Err(why) => {
                tracing::debug!(why, "ComfyUI did not describe its nodes");
                Ok(())
            }
        }
    }

    /// One try: the files brought, the prompt run.
    async fn attempt(
        &self,
        live: &Live,
        job: &Job<'_>,
        id: Uuid,
        seek: bool,
        (workflow, terms): (&Map<String, Value>, &WorkflowTerms),
    ) -> Result<Vec<Collected>, PromptFailure> {
        let folder = prepare::folder(&id);
        let mut graph = workflow.clone();
        prepare::bring_files(&mut graph, &live.client, job.artifacts, &folder).await?;
        prepare::own_prefixes(&mut graph, &folder);
        let prompt = Prompt { id, graph, terms: terms.clone(), seek };
        let run = Run {
            folder: &job.folder,
            preview: Some(&job.preview),
            report: &job.report,
            cancel: &job.cancel,
            gone: &live.gone,
        };
        let ended = live.client.run(&prompt, &run).await;
        // A prompt that is submitted again as it was may be answered from the cache, with the files that lie there.
        let again = matches!(&ended, Err(failure) if failure.code == Code::EngineCrashed);
        if let Some(folders) = live.client.folders.as_ref().filter(|_| !again) {
            for root in [&folders.input, &folders.output] {
                clear(&root.join(&folder)).await;
            }
        }
        ended
    }

    /// What the engine prints while the job runs goes into the task's log.
    fn overhear(&self, job: &Job<'_>) -> Option<tokio_util::task::AbortOnDropHandle<()>> {
        let Place::Owned { supervisor, .. } = &self.place else { return None };
        let (mut lines, log) = (supervisor.lines(), job.log.clone());
        let hearing = tokio::spawn(async move {
            loop {
                match lines.recv().await {
                    Ok(line) => log("debug", &line.text),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Some(tokio_util::task::AbortOnDropHandle::new(hearing))
    }

    fn note_prompt(&self, job: JobKey, id: Uuid) {
        let mut prompts = lock(&self.prompts);
        let known = prompts.entry(job).or_default();
        if !known.contains(&id) {
            known.push(id);
        }
    }
}

#[async_trait]
impl Engine for ComfyUi {
    fn kind(&self) -> EngineKind {
        EngineKind::Comfyui
    }

    fn title(&self) -> String {
        match self.running() {
            Some(live) => format!("ComfyUI {}", live.system.version),
            None => "ComfyUI".into(),
        }
    }

    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure> {
        let Request::Workflow { workflow, terms } = job.request else {
            return Err(Failure::internal("wrong_engine", "ComfyUI was given a request for Wan2GP."));
        };
        let _hearing = self.overhear(&job);
        let report = job.report.clone();
        let say = move |words: String| report(None, words);
        // An owned server remembers nothing of an earlier host.
        let mut seek = job.again;
        let mut second = false;
        let mut deaths = 0;
        loop {
            let live = self.live(&say, &job.cancel).await?;
            self.check(&live, workflow, terms).await?;
            let before = live.count();
            let key = if second { format!("{}#2", job.key) } else { job.key.to_string() };
            let id = prompt_id(&key);
            self.note_prompt(job.key, id);
            let failure = match self.attempt(&live, &job, id, seek, (workflow, terms)).await {
                Ok(collected) => return produced(collected, workflow, terms),
                Err(failure) => failure,
            };
            clear_inside(&job.folder).await;
            tracing::debug!(job = %job.key, prompt = %id, code = failure.code.as_str(), node = failure.node, "{}", failure.message);
            if failure.deaf && self.is_owned() {
                self.restart("a prompt did not stop when it was told to").await;
            }
            let first = !std::mem::replace(&mut second, true);
            match failure.code {
                Code::EngineCrashed => {
                    // The same prompt, not a further one: an operator's server may have it still.
                    second = !first;
                    deaths += 1;
                    seek = true;
                    if let Place::Elsewhere(elsewhere) = &self.place {
                        elsewhere.answers.store(false, Ordering::Relaxed);
                    }
                    if deaths < self.deaths.max(2) {
                        say("ComfyUI died; the job is submitted again".into());
                        continue;
                    }
                    let failure = failure.failure();
                    return Err(if self.deaths == 0 { failure.retryable() } else { died_under(&failure, deaths) });
                }
                Code::CudaFault if first && self.is_owned() => self.restart("a fault of the GPU").await,
                // With nothing else in memory the same job would fail the same way.
                Code::VramOom if first && before > 0 && self.is_owned() => {
                    self.restart("out of GPU memory while results of other jobs were held").await;
                }
                Code::InputMissing | Code::OutputLost | Code::Interrupted | Code::TimeoutInactive if first => {}
                _ => return Err(failure.failure()),
            }
            if job.cancel.is_cancelled() {
                return Err(cancelled());
            }
            seek = false;
            say(format!("{}; once more", failure.message));
        }
    }

    async fn model_info(&self, model: &str) -> Result<ModelInfo, Failure> {
        Err(Failure::internal("wrong_engine", format!("ComfyUI was asked about the Wan2GP model `{model}`.")))
    }

    async fn warm_up(&self) {
        if let Place::Owned { eager: true, .. } = &self.place
            && let Err(failure) = self.live(&|_| (), &CancellationToken::new()).await
        {
            tracing::error!("{}", failure.message);
        }
    }

    async fn concluded(&self, job: JobKey) {
        let prompts = lock(&self.prompts).remove(&job);
        let Some(live) = self.running() else { return };
        for id in prompts.into_iter().flatten() {
            live.client.forget(id).await;
        }
    }

    async fn forget(&self, job: JobKey) {
        lock(&self.prompts).remove(&job);
        // An owned server has nothing of an earlier host, and what this one gave it was cancelled.
        if self.is_owned() {
            return;
        }
        if let Ok(live) = self.live(&|_| (), &CancellationToken::new()).await {
            for key in [job.to_string(), format!("{job}#2")] {
                let id = prompt_id(&key);
                live.client.stop(&id.to_string()).await;
                live.client.forget(id).await;
            }
        }
    }

    fn suspension(&self) -> Option<Suspension> {
        lock(&self.suspension).clone()
    }

    async fn release(&self) -> Result<(), Failure> {
        let Some(live) = self.running() else { return Ok(()) };
        let freed = live.client.free(true, true).await;
        freed.map_err(|why| {
            Failure::new(FailureClass::Engine, "not_released", format!("ComfyUI kept its memory: {why}"))
        })
    }

    async fn restart(&self, why: &str) {
        if let Place::Owned { supervisor, .. } = &self.place {
            supervisor.restart(why).await;
        }
    }

    async fn stop(&self) {
        if let Place::Owned { supervisor, .. } = &self.place {
            supervisor.stop().await;
        }
    }
}

/// The job's files, the main one first: that of the first promised output, else the first video, picture, file.
fn produced(
    collected: Vec<Collected>,
    workflow: &Map<String, Value>,
    terms: &WorkflowTerms,
) -> Result<Vec<Produced>, Failure> {
    let mut left = collected;
    let mut produced: Vec<Collected> = Vec::with_capacity(left.len());
    for output in &terms.outputs {
        let (its, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|file| file.node == output.node);
        if its.is_empty() && !produced.iter().any(|file| file.node == output.node) {
            return Err(Failure::new(
                FailureClass::Engine,
                "no_output",
                format!(
                    "The workflow ran, but its output `{}` (node {}) left no file.",
                    output.name,
                    graph::described(workflow, &output.node)
                ),
            ));
        }
        produced.extend(its);
        left = others;
    }
    if produced.is_empty() && !left.is_empty() {
        let main = left.remove(main_output(left.iter().map(|file| file.kind)).min(left.len() - 1));
        produced.push(main);
    }
    produced.extend(left);
    Ok(produced.into_iter().map(|file| Produced { path: file.path, name: file.name }).collect())
}

/// A job that the server died under as often as may be.
fn died_under(failure: &Failure, deaths: u32) -> Failure {
    Failure {
        message: format!(
            "ComfyUI died {deaths} times while it ran this job, so it is not tried again: {} `enginehouse engines logs \
             comfyui` shows what it said.",
            failure.message
        ),
        ..failure.clone()
    }
}

async fn clear(folder: &Path) {
    match tokio::fs::remove_dir_all(folder).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(folder = %folder.display(), error = %e, "a job's folder in ComfyUI's was not removed");
        }
        _ => {}
    }
}

/// What a try fetched that failed afterwards.
async fn clear_inside(folder: &Path) {
    clear(folder).await;
    if let Err(e) = tokio::fs::create_dir_all(folder).await {
        tracing::debug!(folder = %folder.display(), error = %e, "a job's folder was not made again");
    }
}

fn cancelled() -> Failure {
    Failure::cancelled("The job was cancelled while it waited for ComfyUI.")
}

/// Nothing panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
