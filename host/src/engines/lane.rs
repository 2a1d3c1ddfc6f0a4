//! The queue in front of a GPU: one job at a time, whichever engine it is for.
//!
//! The lane's state stands behind one short lock; every job has a watched [`Phase`] that waiters follow. A Tokio task
//! works the queue off and ends when it is empty, so an idle lane costs nothing. Each run has a Tokio task of its own: an
//! engine that panics loses its job, not the lane, and one that does not stop when told is dropped (`lane/run.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::select_all;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::fatal::Tally;
use super::folder::{Ended, JobFolder, is_verdict};
use super::suspended::{Suspension, Suspensions};
use super::{Engine, EngineOptions, JobKey, JobResult, LOST, LaneStatus, NewJob, Report, RunningJob, SUSPENDED};
use crate::clock::Timestamp;
use crate::schedule::{self, Candidate};
use crate::task::{EngineKind, Failure, FailureClass, TaskId};

/// So many waiting jobs are told their exact place whenever it changes; those further back hear of it once.
const TOLD_PLACES: usize = 32;

pub(super) struct Lane {
    options: EngineOptions,
    state: Mutex<State>,
    suspensions: Suspensions,
    fatal: Mutex<Tally>,
    /// One submission at a time, so that two of one key cannot both find nothing.
    submitting: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobKey, Entry>,
    /// In the order of submission.
    queue: Vec<Waiting>,
    running: Option<RunningJob>,
    /// A Tokio task works the queue off.
    working: bool,
}

/// What is remembered of a job until its task is forgotten.
struct Entry {
    phase: watch::Sender<Phase>,
    cancel: CancellationToken,
}

#[derive(Clone, Debug)]
enum Phase {
    Queued,
    Running(Timestamp),
    Ended(Ended),
}

impl Phase {
    fn ended(&self) -> bool {
        matches!(self, Phase::Ended(_))
    }

    /// Submitting the job again changes nothing: it is under way, or ended for good.
    fn stands(&self) -> bool {
        match self {
            Phase::Queued | Phase::Running(_) | Phase::Ended(Ok(_)) => true,
            Phase::Ended(Err(failure)) => is_verdict(failure),
        }
    }
}

impl Entry {
    fn new(phase: Phase, cancel: CancellationToken) -> Self {
        Self { phase: watch::Sender::new(phase), cancel }
    }
}

impl State {
    fn end(&mut self, key: JobKey, ended: Ended) {
        if let Some(entry) = self.jobs.get(&key) {
            entry.phase.send_replace(Phase::Ended(ended));
        }
    }
}

struct Waiting {
    job: NewJob,
    engine: Arc<dyn Engine>,
    cancel: CancellationToken,
    /// An earlier life of the job, or of this host, may have handed it to the engine.
    again: bool,
    /// The place its owner was told last.
    told: Option<usize>,
}

impl Waiting {
    fn candidate(&self) -> Candidate {
        Candidate { priority: self.job.priority, created_at: self.job.created_at }
    }
}

impl Lane {
    pub fn new(options: EngineOptions) -> Self {
        Self {
            options,
            state: Mutex::new(State::default()),
            suspensions: Suspensions::none(),
            fatal: Mutex::new(Tally::default()),
            submitting: tokio::sync::Mutex::new(()),
        }
    }

    pub fn suspensions(&self) -> &Suspensions {
        &self.suspensions
    }

    /// Every engine that is there.
    pub fn engines(&self) -> impl Iterator<Item = &Arc<dyn Engine>> {
        [&self.options.comfyui, &self.options.wan2gp].into_iter().filter_map(|engine| engine.as_ref().ok())
    }

    pub fn engine(&self, kind: EngineKind) -> Result<&Arc<dyn Engine>, Failure> {
        let engine = match kind {
            EngineKind::Comfyui => &self.options.comfyui,
            EngineKind::Wan2gp => &self.options.wan2gp,
        };
        engine.as_ref().map_err(|why| Failure::unavailable("engine_unavailable", why.clone()))
    }

    pub async fn submit(self: &Arc<Self>, job: NewJob) -> Result<JobKey, Failure> {
        let _one_at_a_time = self.submitting.lock().await;
        let key = job.key;
        let folder = self.folder(key);
        let (standing, request) = (folder.clone(), job.request.clone());
        let finished = blocking(move || {
            standing.check(&request)?;
            standing.result()
        })
        .await?;
        if self.state().jobs.get(&key).is_some_and(|entry| entry.phase.borrow().stands()) {
            return Ok(key);
        }
        if let Some(ended) = finished {
            self.state().jobs.insert(key, Entry::new(Phase::Ended(ended), CancellationToken::new()));
            return Ok(key);
        }
        let engine = self.engine(job.request.engine())?.clone();
        let request = job.request.clone();
        let again = blocking(move || folder.record(&request)).await?;

        let cancel = CancellationToken::new();
        {
            let mut state = self.state();
            state.jobs.insert(key, Entry::new(Phase::Queued, cancel.clone()));
            state.queue.push(Waiting { job: labelled(job), engine, cancel, again, told: None });
        }
        self.start_work();
        self.tell_places();
        Ok(key)
    }

    pub async fn discard(&self, key: JobKey) -> Result<(), Failure> {
        self.cancel(key).await;
        self.state().jobs.remove(&key);
        for engine in self.engines() {
            engine.forget(key).await;
        }
        let folder = self.folder(key);
        blocking(move || folder.discard()).await
    }

    pub async fn wait(&self, key: JobKey, limit: Option<Duration>) -> Result<JobResult, Failure> {
        let Some(mut phase) = self.watch(key) else { return self.wait_unknown(key).await };
        let begun = phase.wait_for(|phase| !matches!(phase, Phase::Queued)).await.map(|phase| phase.clone());
        let begun = begun.unwrap_or_else(|_| Phase::Ended(Err(lost(key))));
        let (since, limit) = match (begun, limit) {
            (Phase::Ended(ended), _) => return ended,
            (Phase::Running(since), Some(limit)) => (since, limit),
            _ => return end_of(&mut phase, key).await,
        };
        let left = limit.saturating_sub(self.options.clock.now().since(since));
        tokio::time::timeout(left, end_of(&mut phase, key)).await.unwrap_or_else(|_| {
            Err(Failure::new(
                FailureClass::Engine,
                "engine_timeout",
                format!(
                    "Engine job {key} has run for {} without an end. It goes on running; cancel it, or wait longer.",
                    seconds(limit)
                ),
            ))
        })
    }

    pub async fn wait_any(&self, keys: &[JobKey]) -> Result<usize, Failure> {
        if keys.is_empty() {
            return Err(Failure::invalid("no_jobs", "Asked to wait for any of no jobs: name at least one."));
        }
        let mut phases = Vec::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            match self.watch(*key) {
                Some(phase) if !phase.borrow().ended() => phases.push((index, phase)),
                _ => return Ok(index),
            }
        }
        let ends = phases.into_iter().map(|(index, mut phase)| {
            async move {
                let _ = phase.wait_for(Phase::ended).await;
                index
            }
            .boxed()
        });
        Ok(select_all(ends).await.0)
    }

    pub async fn cancel(&self, key: JobKey) {
        self.stop(key);
        if let Some(mut phase) = self.watch(key) {
            let _ = phase.wait_for(Phase::ended).await;
        }
    }

    pub async fn cancel_task(&self, task: TaskId) {
        let keys: Vec<JobKey> = self.state().jobs.keys().filter(|key| key.task == task).copied().collect();
        for key in &keys {
            self.stop(*key);
        }
        for key in keys {
            self.cancel(key).await;
            self.state().jobs.remove(&key);
        }
    }

    pub fn status(&self) -> LaneStatus {
        let state = self.state();
        LaneStatus { running: state.running.clone(), queued: state.queue.len() }
    }

    /// Takes a waiting job out of the queue, or tells the engine to stop a running one.
    fn stop(&self, key: JobKey) {
        {
            let mut state = self.state();
            let Some(entry) = state.jobs.get(&key) else { return };
            if entry.phase.borrow().ended() {
                return;
            }
            entry.cancel.cancel();
            let waiting = state.queue.len();
            state.queue.retain(|waiting| waiting.job.key != key);
            if state.queue.len() < waiting {
                state.end(key, Err(cancelled(key)));
            }
        }
        self.tell_places();
    }

    fn start_work(self: &Arc<Self>) {
        let mut state = self.state();
        if !state.working && !state.queue.is_empty() {
            state.working = true;
            tokio::spawn(self.clone().work());
        }
    }

    /// Works the queue off.
    async fn work(self: Arc<Self>) {
        while let Some((waiting, since)) = self.take_next() {
            self.tell_places();
            let (key, engine) = (waiting.job.key, waiting.engine.clone());
            let ended = self.run(&waiting, since).await;
            let put_back = matches!(&ended, Err(failure) if failure.code == SUSPENDED);
            let concluded = !put_back || waiting.cancel.is_cancelled();
            {
                let mut state = self.state();
                state.running = None;
                if concluded {
                    state.end(key, ended);
                } else {
                    if let Some(entry) = state.jobs.get(&key) {
                        entry.phase.send_replace(Phase::Queued);
                    }
                    if let Err(failure) = &ended {
                        (waiting.job.report)(None, format!("waiting: {}", failure.message));
                    }
                    state.queue.push(Waiting { again: true, told: None, ..waiting });
                }
            }
            if concluded {
                // Tidying up at a server that is slow to answer must not hold the next job.
                tokio::spawn(async move { engine.concluded(key).await });
            }
        }
    }

    /// Takes no more jobs for an engine until the suspension is over.
    fn suspend(self: &Arc<Self>, engine: EngineKind, suspension: Suspension) {
        let left = self.suspensions.left(&suspension, &self.options.clock);
        self.suspensions.suspend(engine, suspension.clone());
        if let Some(left) = left {
            let lane = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(left).await;
                lane.resume(engine, &suspension);
            });
        }
    }

    fn resume(self: &Arc<Self>, engine: EngineKind, suspension: &Suspension) {
        if self.suspensions.lift(engine, suspension) {
            self.start_work();
        }
    }

    fn take_next(&self) -> Option<(Waiting, Timestamp)> {
        let mut state = self.state();
        let suspended = self.suspensions.all();
        let (places, candidates): (Vec<usize>, Vec<Candidate>) = state
            .queue
            .iter()
            .enumerate()
            .filter(|(_, waiting)| !suspended.contains_key(&waiting.engine.kind()))
            .map(|(place, waiting)| (place, waiting.candidate()))
            .unzip();
        let choice = schedule::next(&candidates);
        let place = choice.as_ref().and_then(|choice| places.get(choice.index)).copied();
        let (Some(choice), Some(place)) = (choice, place) else {
            state.working = false;
            return None;
        };
        let waiting = state.queue.remove(place);
        let since = self.options.clock.now();
        let (key, engine) = (waiting.job.key, waiting.engine.kind());
        tracing::debug!(job = %key, reason = %choice.reason, "next engine job");
        state.running = Some(RunningJob { key, label: waiting.job.label.clone(), engine, since });
        if let Some(entry) = state.jobs.get(&key) {
            entry.phase.send_replace(Phase::Running(since));
        }
        Some((waiting, since))
    }

    /// A job of an earlier host: finished, or lost.
    async fn wait_unknown(&self, key: JobKey) -> Ended {
        let folder = self.folder(key);
        match blocking(move || folder.result()).await? {
            Some(ended) => ended,
            None => Err(lost(key)),
        }
    }

    /// Tells waiting jobs how many go before them, when that has changed.
    fn tell_places(&self) {
        let mut news: Vec<(Report, usize)> = Vec::new();
        {
            let mut state = self.state();
            let ahead = usize::from(state.running.is_some());
            let mut left: Vec<(usize, Candidate)> =
                state.queue.iter().enumerate().map(|(index, waiting)| (index, waiting.candidate())).collect();
            let mut place = ahead;
            while place < ahead + TOLD_PLACES {
                let candidates: Vec<Candidate> = left.iter().map(|(_, candidate)| candidate.clone()).collect();
                let Some(choice) = schedule::next(&candidates).filter(|choice| choice.index < left.len()) else {
                    break;
                };
                let (index, _) = left.remove(choice.index);
                if let Some(waiting) = state.queue.get_mut(index)
                    && waiting.told.replace(place) != Some(place)
                {
                    news.push((waiting.job.report.clone(), place));
                }
                place += 1;
            }
            for (index, _) in left {
                if let Some(waiting) = state.queue.get_mut(index)
                    && waiting.told.replace(place).is_none()
                {
                    news.push((waiting.job.report.clone(), place));
                }
            }
        }
        for (report, place) in news {
            match place {
                0 => {}
                1 => report(None, "queued behind 1 job".into()),
                _ if place >= TOLD_PLACES => report(None, format!("queued behind {TOLD_PLACES} jobs or more")),
                _ => report(None, format!("queued behind {place} jobs")),
            }
        }
    }

    fn watch(&self, key: JobKey) -> Option<watch::Receiver<Phase>> {
        self.state().jobs.get(&key).map(|entry| entry.phase.subscribe())
    }

    fn folder(&self, key: JobKey) -> JobFolder {
        JobFolder::new(&self.options.jobs, key)
    }

    /// Nothing panics while it holds the lock, and no state is left half-changed if something did.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job with its label in front of every report.
fn labelled(mut job: NewJob) -> NewJob {
    if let Some(label) = job.label.clone() {
        let report = job.report;
        job.report = Arc::new(move |fraction, words| report(fraction, format!("{label}: {words}")));
    }
    job
}

async fn end_of(phase: &mut watch::Receiver<Phase>, key: JobKey) -> Ended {
    match phase.wait_for(Phase::ended).await.as_deref() {
        Ok(Phase::Ended(ended)) => ended.clone(),
        _ => Err(lost(key)),
    }
}

/// Files are read and written where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    spawn_blocking(work).await.unwrap_or_else(|e| {
        Err(Failure::internal("job_folder", format!("Work on the folder of an engine job was broken off: {e}")))
    })
}

fn cancelled(key: JobKey) -> Failure {
    Failure::cancelled(format!("Engine job {key} was cancelled."))
}

fn lost(key: JobKey) -> Failure {
    Failure::new(
        FailureClass::Engine,
        LOST,
        format!("Engine job {key} is not known here: it was never submitted to this host, or did not survive it."),
    )
    .retryable()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

mod run;
#[cfg(test)]
mod tests;
