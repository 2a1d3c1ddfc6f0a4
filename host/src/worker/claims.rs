//! The claims this process holds: renewed while they are held; when the store says that a task has ended elsewhere, or
//! that the claim is another's, its work is stopped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::store::{Claim, ClaimToken, Renewal, SharedStore};
use crate::task::{Status, TaskId};
use crate::worker::Summary;

/// How soon after a change of the store the held tasks are looked at: what a cancellation waits at most.
const NOTICE: Duration = Duration::from_millis(200);

/// Why the work on a held task was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Cancelled, or failed by a cascade.
    Ended(Status),
    /// Another claim holds it.
    Lost,
    /// This worker stops; the task goes back.
    Drained,
}

/// One claim.
#[derive(Clone)]
pub struct Held {
    pub task: TaskId,
    pub token: ClaimToken,
    /// Fires when the work must stop.
    pub cancel: CancellationToken,
    /// Its handler waits for other tasks, and needs no room in the pool meanwhile: they need it.
    pub waiting: Arc<AtomicBool>,
    /// This process has claimed the task again: what runs for it now is the newer claim's.
    superseded: Arc<AtomicBool>,
    handler: bool,
    stop_grace: Duration,
    end: Arc<OnceLock<End>>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    settled: AtomicU64,
    given_back: AtomicU64,
}

/// All claims of this process.
pub struct Claims {
    store: SharedStore,
    lease: Duration,
    stop_grace: Duration,
    clock: Clock,
    /// When the claims were last renewed.
    renewed: AtomicI64,
    held: Mutex<HashMap<TaskId, Held>>,
    tally: Arc<Tally>,
}

impl Held {
    /// Why the work was stopped, if it was.
    pub fn end(&self) -> Option<End> {
        self.end.get().copied()
    }

    /// Counts the end: settled, or not by us.
    pub fn note(&self, settled: Option<()>) {
        let counter = if settled.is_some() { &self.tally.settled } else { &self.tally.given_back };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when the work was told to stop and did not within `worker.stop_grace_seconds`.
    pub async fn overdue(&self) {
        self.cancel.cancelled().await;
        tokio::time::sleep(self.stop_grace).await;
    }

    /// Whether engine jobs of the task are this claim's, to be stopped with it.
    pub fn owns_jobs(&self) -> bool {
        !self.superseded.load(Ordering::SeqCst)
    }

    fn stop(&self, why: End) {
        if self.end.set(why).is_ok() {
            self.cancel.cancel();
        }
    }
}

impl Claims {
    /// `stop_grace`: how long stopped work may take before it is left to itself.
    pub fn new(store: SharedStore, clock: Clock, lease: Duration, stop_grace: Duration) -> Self {
        let renewed = AtomicI64::new(clock.now().0);
        Self { store, lease, stop_grace, clock, renewed, held: Mutex::default(), tally: Arc::default() }
    }

    pub fn add(&self, claim: &Claim, handler: bool) -> Held {
        let held = Held {
            task: claim.task.id,
            token: claim.token,
            cancel: CancellationToken::new(),
            waiting: Arc::default(),
            superseded: Arc::default(),
            handler,
            stop_grace: self.stop_grace,
            end: Arc::default(),
            tally: self.tally.clone(),
        };
        // The store gave the task out again (its lease ran out while this machine slept, say): the older work stops.
        if let Some(older) = self.lock().insert(held.task, held.clone()) {
            older.superseded.store(true, Ordering::SeqCst);
            older.stop(End::Lost);
        }
        held
    }

    pub fn remove(&self, held: &Held) {
        let mut all = self.lock();
        // The task may have been claimed again meanwhile.
        if all.get(&held.task).is_some_and(|h| h.token == held.token) {
            all.remove(&held.task);
        }
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Claims that plugins serve, those left out whose handler waits for other tasks.
    pub fn handlers(&self) -> usize {
        self.lock().values().filter(|h| h.handler && !h.waiting.load(Ordering::SeqCst)).count()
    }

    /// Claims that an engine serves directly.
    pub fn direct(&self) -> usize {
        self.lock().values().filter(|h| !h.handler).count()
    }

    pub fn end_all(&self, why: End) {
        self.lock().values().for_each(|h| h.stop(why));
    }

    pub fn summary(&self) -> Summary {
        Summary {
            settled: self.tally.settled.load(Ordering::Relaxed),
            given_back: self.tally.given_back.load(Ordering::Relaxed),
        }
    }

    /// Renews the claims if the clock says that it is overdue: timers stand still while a machine sleeps, leases do not, and
    /// a worker must not take its own tasks for a dead one's.
    pub async fn renew_if_overdue(&self, every: Duration) {
        let last = Timestamp(self.renewed.load(Ordering::SeqCst));
        if self.clock.now().since(last) > every + every {
            self.renew().await;
        }
    }

    /// Renews every claim each `every`, and looks soon after each change of the store whether a held task has ended.
    pub async fn keep(&self, every: Duration) {
        let mut changes = self.store.changes();
        let mut renew = tokio::time::interval(every);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = renew.tick() => self.renew().await,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.look().await;
                    // One look for a burst of changes; those during the pause cause the next one.
                    tokio::time::sleep(NOTICE).await;
                }
            }
        }
    }

    async fn renew(&self) {
        self.renewed.store(self.clock.now().0, Ordering::SeqCst);
        let held = self.snapshot();
        if held.is_empty() {
            return;
        }
        let asked = held.iter().map(|h| (h.task, h.token)).collect();
        match self.store.renew(asked, self.lease).await {
            Ok(answers) => {
                for (held, answer) in held.iter().zip(answers) {
                    match answer {
                        Renewal::Held => {}
                        Renewal::Ended(status) => held.stop(End::Ended(status)),
                        Renewal::Lost => held.stop(End::Lost),
                    }
                }
            }
            Err(e) => tracing::error!(error = %e, "leases could not be renewed"),
        }
    }

    async fn look(&self) {
        let held = self.snapshot();
        let ids: Vec<TaskId> = held.iter().map(|h| h.task).collect();
        if ids.is_empty() {
            return;
        }
        let Ok(statuses) = self.store.statuses(&ids).await else { return };
        for (held, status) in held.iter().zip(statuses) {
            match status {
                // Complete is our own doing; a claim that was lost shows at the next renewal.
                Some(status @ (Status::Failed | Status::Cancelled)) => held.stop(End::Ended(status)),
                None => held.stop(End::Lost),
                Some(_) => {}
            }
        }
    }

    fn snapshot(&self) -> Vec<Held> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
