//! One job on its engine: run to its end, stopped when it must be, and its end made durable.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::task::{JoinError, JoinHandle};

use super::{Lane, Waiting, blocking, cancelled, seconds};
use crate::artifacts::Take;
use crate::clock::Timestamp;
use crate::engines::fatal::{self, Advice, Tally};
use crate::engines::folder::Ended;
use crate::engines::suspended::Suspension;
use crate::engines::{Job, JobKey, JobResult, NewJob, Produced, SUSPENDED};
use crate::task::{Failure, FailureClass, FileRef};

/// What ended a run.
enum Stop {
    /// The engine, of its own accord.
    Itself(Result<Result<Vec<Produced>, Failure>, JoinError>),
    Cancelled,
    JobLimit,
}

impl Lane {
    /// Runs a job to its end and makes that end durable.
    pub(super) async fn run(self: &Arc<Self>, waiting: &Waiting, since: Timestamp) -> Ended {
        let folder = self.folder(waiting.job.key);
        let beginning = folder.clone();
        let output = blocking(move || beginning.begin()).await?;
        let produced = self.run_engine(waiting, output.clone()).await;
        let mut files = Vec::new();
        let ended = match produced {
            Ok(produced) => self
                .keep(&output, produced, &mut files)
                .await
                .map(|outputs| JobResult { outputs, seconds: self.options.clock.now().since(since).as_secs_f64() }),
            Err(failure) => Err(self.judged(waiting, failure).await),
        };
        if ended.is_ok() {
            self.tally().succeeded();
        }
        blocking(move || folder.conclude(&ended, &files).and(ended)).await
    }

    /// What a failure means for the lane: an engine that does not start is suspended, a broken machine pauses everything,
    /// and the job waits meanwhile.
    async fn judged(self: &Arc<Self>, waiting: &Waiting, failure: Failure) -> Failure {
        let engine = &waiting.engine;
        if failure.code == SUSPENDED {
            let otherwise = || Suspension { reason: failure.message.clone(), until: None };
            self.suspend(engine.kind(), engine.suspension().unwrap_or_else(otherwise));
            return failure;
        }
        let Some(category) = fatal::category(&failure) else { return failure };
        let advice = self.tally().failed(category);
        engine.restart(category.words()).await;
        if advice == Advice::Restart {
            return failure;
        }
        let reason = format!(
            "Engine jobs are paused, because {}: {} Mend the machine, then start this host again.",
            category.words(),
            failure.message
        );
        for engine in self.engines() {
            self.suspend(engine.kind(), Suspension { reason: reason.clone(), until: None });
        }
        Failure::unavailable(SUSPENDED, reason).retryable()
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the engine work until it ends, is cancelled, or has used up the host's limit.
    async fn run_engine(&self, waiting: &Waiting, folder: PathBuf) -> Result<Vec<Produced>, Failure> {
        let Waiting { job: NewJob { key, request, label, report, log, .. }, engine, cancel, again, .. } = waiting;
        let (key, again, engine) = (*key, *again, engine.clone());
        let (request, label, report, log) = (request.clone(), label.clone(), report.clone(), log.clone());
        if cancel.is_cancelled() {
            return Err(cancelled(key));
        }
        report(None, "started".into());
        let title = engine.title();
        // The engine's own token: running into the limit stops the engine, but does not make the job a cancelled one.
        let stop = cancel.child_token();
        let (artifacts, told) = (self.options.artifacts.clone(), stop.clone());
        let preview = self.folder(key).preview();
        let mut run = tokio::spawn(async move {
            let artifacts = &artifacts;
            let label = label.as_deref();
            engine
                .run(Job {
                    key,
                    label,
                    request: &request,
                    folder,
                    preview,
                    again,
                    artifacts,
                    report,
                    log,
                    cancel: told,
                })
                .await
        });
        let ended = tokio::select! {
            ended = &mut run => Stop::Itself(ended),
            () = cancel.cancelled() => Stop::Cancelled,
            () = tokio::time::sleep(self.options.job_limit) => Stop::JobLimit,
        };
        match ended {
            Stop::Itself(ended) => match joined(ended, key, &title) {
                Err(_) if cancel.is_cancelled() => Err(cancelled(key)),
                ended => ended,
            },
            // A job that was done before it could be stopped is done.
            Stop::Cancelled => match self.stopped(run, key, &title).await {
                Some(Ok(produced)) => Ok(produced),
                _ => Err(cancelled(key)),
            },
            Stop::JobLimit => {
                stop.cancel();
                match self.stopped(run, key, &title).await {
                    Some(Ok(produced)) => Ok(produced),
                    _ if cancel.is_cancelled() => Err(cancelled(key)),
                    _ => Err(Failure::new(
                        FailureClass::Engine,
                        "engine_timeout",
                        format!(
                            "Engine job {key} on {title} was stopped: it had run for {}, the longest this host lets a job \
                             run (engines.job_limit_seconds).",
                            seconds(self.options.job_limit)
                        ),
                    )),
                }
            }
        }
    }

    /// What a run ends with that was told to stop; none: it did not listen and was dropped.
    async fn stopped(
        &self,
        mut run: JoinHandle<Result<Vec<Produced>, Failure>>,
        key: JobKey,
        title: &str,
    ) -> Option<Result<Vec<Produced>, Failure>> {
        // Engines stop promptly, or kill their process after a grace of their own; this holds when they do not.
        let grace = self.options.cancel_grace;
        match tokio::time::timeout(grace, &mut run).await {
            Ok(ended) => Some(joined(ended, key, title)),
            Err(_) => {
                tracing::warn!(
                    job = %key,
                    engine = title,
                    "an engine told to stop did not within {} (engines.cancel_grace_seconds); its run is dropped",
                    seconds(grace)
                );
                run.abort();
                None
            }
        }
    }

    /// Moves what the engine produced into the artifacts. `files` gets where it lies then.
    async fn keep(
        &self,
        folder: &Path,
        produced: Vec<Produced>,
        files: &mut Vec<PathBuf>,
    ) -> Result<Vec<FileRef>, Failure> {
        if produced.is_empty() {
            return Err(Failure::new(
                FailureClass::Engine,
                "no_output",
                "The engine reported success but left no file. Its log says more.",
            ));
        }
        let mut outputs = Vec::with_capacity(produced.len());
        for file in produced {
            if !file.path.starts_with(folder) || file.path.components().any(|part| part == Component::ParentDir) {
                return Err(Failure::internal(
                    "foreign_output",
                    format!("An engine returned {}, which is not in the folder of its job.", file.path.display()),
                ));
            }
            let kept = self.options.artifacts.import_file(&file.path, &file.name, Take::Move).await?;
            files.push(self.options.artifacts.path(kept.artifact)?);
            outputs.push(kept);
        }
        Ok(outputs)
    }
}

/// What a run ended with; a panic is a failure of the job alone.
fn joined(
    ended: Result<Result<Vec<Produced>, Failure>, JoinError>,
    key: JobKey,
    title: &str,
) -> Result<Vec<Produced>, Failure> {
    ended.unwrap_or_else(|e| {
        let words = match e.try_into_panic() {
            Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(words), _) => (*words).to_string(),
                (_, Some(words)) => words.clone(),
                _ => "no words".to_string(),
            },
            Err(e) => e.to_string(),
        };
        Err(Failure::internal(
            "engine_panicked",
            format!(
                "Engine job {key} on {title} hit a defect in the host and was ended: {words}. Please report it; other \
                 jobs go on."
            ),
        ))
    })
}
