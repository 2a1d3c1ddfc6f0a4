//! A task's way through the house: claim → route → run → settle.
//!
//! Handlers (plugins) run in a pool of their own and hold no GPU; tasks that are routed straight to an engine are claimed
//! only while the lane has room for them. Everything a task leaves behind is written with its claim token, so a worker
//! that lost a claim can change nothing.
//!
//! - `claims.rs`: the claims this process holds: renewing, noticing their end.
//! - `direct.rs`: a task without a plugin becomes one engine job.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Stopwatch;
use crate::config::{Config, Mode};
use crate::engines;
use crate::plugins::{Plugins, Run, Services};
use crate::router::{self, Offers};
use crate::store::{AfterFailure, Claim, ClaimRequest, StoreError, TaskFilter, TypeFilter};
use crate::task::{EngineKind, Failure, Handler, Holder, Outcome, Output, Route, Status, Task, TaskId};
use crate::tasklog::{self, TaskLog};
use crate::templates::Templates;

mod claims;
mod direct;

pub use claims::End;
use claims::{Claims, Held};

/// Most tasks taken by one claim.
const CLAIM_BATCH: usize = 16;

/// How often expired leases are looked for when nothing else wakes the worker.
const JANITOR_TICK: Duration = Duration::from_secs(5);

/// After the second signal: what giving back may take.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// Pause after the store failed, before it is asked again.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Takes tasks and brings each to its end.
pub struct Worker {
    pub services: Services,
    pub plugins: Arc<Plugins>,
    pub templates: Arc<Templates>,
    pub config: Arc<Config>,
    pub holder: Holder,
    /// Folder of the task logs.
    pub logs: PathBuf,
    /// Told where the time of each attempt went; for the bench.
    pub timings: Option<mpsc::UnboundedSender<Timing>>,
}

/// Where the time of one attempt went.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The claim that granted it, shared by all tasks of the batch.
    pub claim: Duration,
    /// Writing the route down; beside the run, not before it.
    pub route: Duration,
    /// The handler or the engine job.
    pub run: Duration,
    /// Writing down how it ended.
    pub settle: Duration,
}

/// How a worker is told to stop.
#[derive(Clone, Default)]
pub struct Stop {
    /// Claim nothing more; finish what runs, for at most `worker.drain_seconds`, then give it back.
    pub drain: CancellationToken,
    /// Give back at once.
    pub now: CancellationToken,
    /// Leave as soon as nothing is ready and nothing runs.
    pub when_idle: bool,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub settled: u64,
    pub given_back: u64,
}

struct State {
    worker: Arc<Worker>,
    claims: Claims,
    tasks: TaskTracker,
    /// A place became free.
    room: Notify,
}

/// Works until told to stop.
pub async fn run(worker: Arc<Worker>, stop: Stop) -> Summary {
    let limits = &worker.config.worker;
    let (lease, stop_grace) =
        (Duration::from_secs(limits.lease_seconds), Duration::from_secs(limits.stop_grace_seconds));
    let state = Arc::new(State {
        claims: Claims::new(worker.services.store.clone(), worker.services.clock.clone(), lease, stop_grace),
        worker,
        tasks: TaskTracker::new(),
        room: Notify::new(),
    });
    let keeper = tokio::spawn({
        let (state, every) = (state.clone(), Duration::from_secs(state.worker.config.worker.renew_seconds));
        async move { state.claims.keep(every).await }
    });

    state.worker.clone().collect().await;
    state.worker.services.engines.warm_up();
    let mut changes = state.worker.services.store.changes();
    loop {
        if stop.drain.is_cancelled() || stop.now.is_cancelled() {
            break;
        }
        changes.mark_unchanged();
        // Looked at before claiming: what ends in between may have made others ready.
        let nothing_ran = state.claims.count() == 0;
        let taken = match state.take_what_fits().await {
            Ok(taken) => taken,
            Err(e) => {
                tracing::error!(error = %e, "tasks could not be claimed; trying again in {} s", STORE_PAUSE.as_secs());
                tokio::time::sleep(STORE_PAUSE).await;
                continue;
            }
        };
        if taken > 0 {
            continue;
        }
        // What settled while we claimed may have made others ready: then there is a change to look at first.
        if stop.when_idle && nothing_ran && !changes.has_changed().unwrap_or(false) {
            break;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = state.room.notified() => {}
            () = tokio::time::sleep(JANITOR_TICK) => {}
            () = stop.drain.cancelled() => {}
            () = stop.now.cancelled() => {}
        }
    }

    state.tasks.close();
    let grace = Duration::from_secs(state.worker.config.worker.drain_seconds);
    tokio::select! {
        () = state.tasks.wait() => {}
        () = tokio::time::sleep(grace) => tracing::warn!(
            tasks = state.claims.count(), "still running after {} s: they are given back", grace.as_secs()),
        () = stop.now.cancelled() => {}
    }
    state.claims.end_all(End::Drained);
    tokio::select! {
        () = state.tasks.wait() => {}
        // Stopped work gives itself back within moments; what does not is taken over once this process is gone.
        () = async { stop.now.cancelled().await; tokio::time::sleep(LAST_GRACE).await } => {}
    }
    keeper.abort();
    tokio::select! {
        () = state.worker.services.engines.stop() => {}
        // Their guards end them with this process.
        () = stop.now.cancelled() => {}
    }
    tokio::task::spawn_blocking(tasklog::flush).await.ok();
    state.claims.summary()
}

impl State {
    /// Claims as much as there is room for. Returns how many tasks were started.
    async fn take_what_fits(self: &Arc<Self>) -> Result<usize, StoreError> {
        let config = &self.worker.config;
        self.claims.renew_if_overdue(Duration::from_secs(config.worker.renew_seconds)).await;
        let refused: BTreeSet<String> = config.routing.refuse.iter().cloned().collect();
        let suspended = self.worker.services.engines.suspensions();
        let served: BTreeSet<String> = match config.routing.mode {
            Mode::Hybrid => self.worker.plugins.offers().plugins.keys().cloned().collect(),
            Mode::Simple => BTreeSet::new(),
        };
        let handlers = TypeFilter::Only(served.difference(&refused).cloned().collect());
        // Types that go straight to an engine which takes no jobs stay in the queue.
        let comfyui: BTreeSet<String> = self.worker.comfyui_types().difference(&served).cloned().collect();
        let comfyui_suspended = suspended.contains_key(&EngineKind::Comfyui);
        let direct = match (suspended.contains_key(&EngineKind::Wan2gp), comfyui_suspended) {
            (false, false) => TypeFilter::Except(served.union(&refused).cloned().collect()),
            (false, true) => TypeFilter::Except(served.union(&refused).chain(&comfyui).cloned().collect()),
            (true, false) => TypeFilter::Only(comfyui.difference(&refused).cloned().collect()),
            (true, true) => TypeFilter::Only(BTreeSet::new()),
        };

        let pool_room = config.worker.max_live_instances.saturating_sub(self.claims.handlers()).min(CLAIM_BATCH);
        let mut taken = if served.is_empty() { 0 } else { self.take(handlers, pool_room).await? };
        let lane_room = config.worker.direct_tasks.saturating_sub(self.claims.direct()).min(CLAIM_BATCH);
        taken += self.take(direct, lane_room).await?;
        Ok(taken)
    }

    async fn take(self: &Arc<Self>, types: TypeFilter, limit: usize) -> Result<usize, StoreError> {
        if limit == 0 {
            return Ok(0);
        }
        let lease = Duration::from_secs(self.worker.config.worker.lease_seconds);
        let ask = ClaimRequest { holder: self.worker.holder.clone(), lease, types, limit };
        let watch = Stopwatch::start();
        let claims = self.worker.services.store.claim(ask).await?;
        let claimed = watch.elapsed();
        let taken = claims.len();
        for claim in claims {
            let route = self.worker.route(&claim);
            let held = self.claims.add(&claim, matches!(route.handler, Handler::Plugin { .. }));
            let state = self.clone();
            self.tasks.spawn(async move {
                let (id, worker) = (claim.task.id, state.worker.clone());
                let serving = tokio::spawn({
                    let held = held.clone();
                    async move { worker.serve(claim, route, &held, claimed).await }
                });
                // A defect of ours in one attempt must neither take the others with it nor hold its claim for ever.
                if let Err(broken) = serving.await {
                    state.worker.broke_off(id, &held, &broken).await;
                }
                state.claims.remove(&held);
                state.room.notify_one();
            });
        }
        Ok(taken)
    }
}

impl Worker {
    /// Task types that ComfyUI serves where no plugin does.
    fn comfyui_types(&self) -> BTreeSet<String> {
        let offers = self.offers();
        self.config.routing.comfy_task_types.iter().chain(offers.comfyui_templates.keys()).cloned().collect()
    }

    /// Where a claimed task goes. One that goes on in its attempt stays with the plugin version it began on.
    fn route(&self, claim: &Claim) -> Route {
        let task = &claim.task;
        let hybrid = self.config.routing.mode == Mode::Hybrid;
        match &task.route {
            Some(route) if claim.resumed && hybrid && matches!(route.handler, Handler::Plugin { .. }) => route.clone(),
            _ => router::route(&task.task_type, &task.params, &self.offers(), &self.config.routing),
        }
    }

    /// What the folders of the home offer now.
    fn offers(&self) -> Offers {
        self.plugins.offers().with_templates(self.templates.offers())
    }

    /// Removes bytes of plugins that are neither in service nor needed by a task in progress.
    async fn collect(self: Arc<Self>) {
        let filter = TaskFilter { status: Some(Status::InProgress), ..TaskFilter::default() };
        let Ok(running) = self.services.store.list(filter).await else { return };
        let wanted = running
            .iter()
            .filter_map(|task| match &task.route.as_ref()?.handler {
                Handler::Plugin { digest, .. } => Some(*digest),
                _ => None,
            })
            .collect();
        let collected = tokio::task::spawn_blocking(move || self.plugins.collect(&wanted)).await;
        if let Ok(files @ 1..) = collected {
            tracing::info!(files, "removed bytes of plugin versions that nothing needs any more");
        }
    }

    /// One attempt, from route to settlement.
    async fn serve(self: Arc<Self>, claim: Claim, route: Route, held: &Held, claimed: Duration) {
        let task = claim.task;
        let watch = Stopwatch::start();
        let log = TaskLog::new(&self.logs, task.id, task.attempts, self.services.clock.clone());
        let store = &self.services.store;
        let went_on = if claim.resumed { ", going on" } else { "" };
        log.write("host", "info", &format!("attempt {}{went_on}: {}", task.attempts, route.reason));

        // The route is written down while the handler begins: whatever it does that must survive a crash is handed to the
        // store after this, and a lost claim shows at its first write just as well.
        let noted = async {
            if task.route.as_ref() != Some(&route)
                && let Err(e) = store.set_route(task.id, claim.token, route.clone()).await
            {
                tracing::warn!(task = %task.id, error = %e, "the route of an attempt was not written down");
            }
            watch.elapsed()
        };
        let served = async {
            let result = tokio::select! {
                result = self.execute(&task, &route, &log, held) => result,
                // Handlers and jobs stop by themselves when their token fires; this bounds how long that may take.
                () = held.overdue() => Err(Failure::cancelled(
                    "its work did not stop within `worker.stop_grace_seconds` and was left to itself",
                )),
            };
            let ran = watch.elapsed();
            self.settle(&task, &route, &log, held, result).await;
            ran
        };
        let (routed, ran) = futures::future::join(noted, served).await;
        if let Some(timings) = &self.timings {
            let settle = watch.elapsed().saturating_sub(ran);
            // Nobody listens any more: the bench is over.
            timings.send(Timing { claim: claimed, route: routed, run: ran, settle }).ok();
        }
    }

    async fn execute(&self, task: &Task, route: &Route, log: &TaskLog, held: &Held) -> Result<Outcome, Failure> {
        match &route.handler {
            Handler::Plugin { digest, .. } => {
                let plugin = self.plugins.get(*digest).await?;
                let run = Run {
                    task: task.clone(),
                    token: held.token,
                    log: log.clone(),
                    cancel: held.cancel.clone(),
                    waiting: held.waiting.clone(),
                };
                self.plugins.handle(&plugin, &self.services, run).await
            }
            Handler::Comfyui { .. } | Handler::Wan2gp { .. } => tokio::select! {
                done = direct::run(self, task, route, log, held) => done.map(Outcome::Done),
                () = held.cancel.cancelled() => Err(Failure::cancelled("the task was stopped")),
            },
            Handler::Refused => Err(Failure::denied("refused", route.reason.clone())),
        }
    }

    /// Writes down how the attempt ended.
    async fn settle(&self, task: &Task, route: &Route, log: &TaskLog, held: &Held, result: Result<Outcome, Failure>) {
        let store = &self.services.store;
        let (id, token) = (task.id, held.token);
        // What the handler left running would hold the GPU for nobody.
        if held.owns_jobs() {
            self.services.engines.cancel_task(id).await;
        }
        let written = match held.end() {
            Some(End::Ended(_) | End::Lost) => return held.note(None),
            Some(End::Drained) if result.is_err() => return self.give_back(task, log, held, "the worker stops").await,
            _ => match result {
                Ok(Outcome::Done(output)) => {
                    log.write("host", "info", &format!("complete: {}", in_words(&output)));
                    self.publish(task, &output).await;
                    store.complete(id, token, output).await
                }
                Ok(Outcome::Delegated(delegation)) => {
                    log.write("host", "info", "its children go on from here");
                    store.delegate(id, token, delegation).await
                }
                // Nor is it the task's doing that its engine takes no jobs.
                Err(failure) if failure.code == engines::SUSPENDED => {
                    tokio::time::sleep(STORE_PAUSE).await;
                    return self.give_back(task, log, held, &failure.message).await;
                }
                // Not the handler's doing: what it has recorded so far must not be lost with the attempt.
                Err(failure) if failure.code == "store_failed" => {
                    tokio::time::sleep(STORE_PAUSE).await;
                    return self.give_back(task, log, held, &failure.message).await;
                }
                Err(failure) => self.fail(task, log, held, failure).await,
            },
        };
        match written {
            Ok(()) => {
                held.note(Some(()));
                tracing::info!(task = %id, task_type = task.task_type, handler = route.handler.kind(), "settled");
                self.publish_parents(task).await;
            }
            // The handler ended in a way that the store does not take: a delegation to a child that is not there, say.
            Err(StoreError::Refused { code, message }) => {
                let failure = Failure::internal(code, format!("The task's end was refused: {message}"));
                match self.fail(task, log, held, failure).await {
                    Ok(()) => held.note(Some(())),
                    Err(e) => self.lost(task, held, &e),
                }
            }
            Err(e @ StoreError::Backend(_)) => {
                tokio::time::sleep(STORE_PAUSE).await;
                self.give_back(task, log, held, &e.to_string()).await;
            }
            Err(e) => self.lost(task, held, &e),
        }
    }

    /// The task goes back to the queue in the same attempt.
    async fn give_back(&self, task: &Task, log: &TaskLog, held: &Held, why: &str) {
        log.write("host", "info", &format!("given back: {why}"));
        match self.services.store.release(task.id, held.token).await {
            Ok(()) => held.note(None),
            Err(e) => self.lost(task, held, &e),
        }
    }

    async fn fail(&self, task: &Task, log: &TaskLog, held: &Held, failure: Failure) -> Result<(), StoreError> {
        log.write("host", "error", &format!("{} ({}): {}", failure.code, failure.class, failure.message));
        if let Some(detail) = &failure.detail {
            log.write("host", "error", detail);
        }
        let after = self.services.store.fail(task.id, held.token, failure, self.config.worker.max_attempts).await?;
        if let AfterFailure::Requeued { next_attempt } = after {
            log.write("host", "info", &format!("queued again for attempt {next_attempt}"));
        }
        Ok(())
    }

    /// Results appear under `outputs/TYPE/ID_name`, for people. The artifact itself is safe: a link that cannot be made
    /// costs nobody a task.
    async fn publish(&self, task: &Task, output: &Output) {
        let Output::File { file, extra, .. } = output else { return };
        for file in std::iter::once(file).chain(extra) {
            let linked = self.services.artifacts.publish(file, &task.task_type, &task.id.to_string()).await;
            if let Err(failure) = linked {
                tracing::warn!(task = %task.id, error = %failure, "the result is kept but has no link under outputs");
            }
        }
    }

    /// A task that was the last child may have completed its parents.
    async fn publish_parents(&self, task: &Task) {
        let mut above = task.parent;
        while let Some(id) = above {
            let Ok(parent) = self.services.store.get(id).await else { return };
            let Some(output) = &parent.output else { return };
            self.publish(&parent, output).await;
            above = parent.parent;
        }
    }

    /// The attempt ended in a panic: the task fails, the worker goes on.
    async fn broke_off(&self, task: TaskId, held: &Held, broken: &JoinError) {
        tracing::error!(%task, error = %broken, "the host broke off an attempt; this is a defect");
        if held.owns_jobs() {
            self.services.engines.cancel_task(task).await;
        }
        let failure =
            Failure::internal("host_defect", format!("The host broke off this attempt ({broken}); this is a defect."));
        if let Err(e) = self.services.store.fail(task, held.token, failure, self.config.worker.max_attempts).await {
            tracing::error!(%task, error = %e, "the end of a task could not be written");
        }
        held.note(None);
    }

    /// What this worker had to say no longer counts, or could not be written: the lease will free the task.
    fn lost(&self, task: &Task, held: &Held, error: &StoreError) {
        held.note(None);
        match error {
            StoreError::LostClaim { .. } => tracing::info!(task = %task.id, "{error}"),
            _ => tracing::error!(task = %task.id, error = %error, "the end of a task could not be written"),
        }
    }
}

fn in_words(output: &Output) -> String {
    match output {
        Output::File { file, extra, .. } if extra.is_empty() => file.name.clone(),
        Output::File { file, extra, .. } => format!("{} and {} more", file.name, extra.len()),
        Output::Text { .. } => "a text".into(),
        Output::Facts { .. } => "facts".into(),
    }
}
