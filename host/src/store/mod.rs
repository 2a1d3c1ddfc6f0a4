//! The task store: one interface, several implementations, one conformance suite (`tests/src/store_conformance.rs`).
//!
//! Rules every implementation keeps (they are what the suite checks):
//!
//! - One transaction per operation. Status changes are compare-and-set on the table of [`Status::may_become`].
//! - Every write by a worker carries its [`ClaimToken`]. A token that is not the row's is [`StoreError::LostClaim`] and
//!   nothing changes.
//! - Completing or failing a task settles what hangs on it in the same transaction: a delegated parent whose children
//!   have all ended, dependents that can never start, the siblings of a failed child of a delegated parent. All
//!   failures, cascades and cancellations go through one routine.
//! - Children are keyed by (parent, key); a batch is created whole or not at all; a final parent gets no children.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::task::{Delegation, Failure, Holder, Output, Progress, Route, Status, Task, TaskId};

pub mod holder;
pub mod progress;
pub mod sqlite;

/// A store that many rooms share.
pub type SharedStore = Arc<dyn Store>;

/// Proof of a claim: fresh per claim, so that whoever held the task before can change nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClaimToken(pub Uuid);

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another claim holds the task, or it has ended: what the old holder says no longer counts.
    #[error("the claim on task {task} was lost: {reason}")]
    LostClaim { task: TaskId, reason: String },
    #[error("there is no task {0}")]
    NotFound(TaskId),
    /// The status table forbids it.
    #[error("task {task} is {from} and cannot become {to}")]
    Transition { task: TaskId, from: Status, to: Status },
    /// What was asked for is against a rule of the store: an unknown dependency, a final parent, a reused key.
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    /// The store itself does not work.
    #[error("the task store failed: {0}")]
    Backend(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// A task to create.
#[derive(Clone, Debug, Default)]
pub struct NewTask {
    /// None: the store chooses.
    pub id: Option<TaskId>,
    pub task_type: String,
    pub params: Map<String, Value>,
    pub project_id: Option<String>,
    pub priority: i64,
    /// Tasks that exist already; an unknown one is refused.
    pub depends_on: Vec<TaskId>,
    /// The same key again gives the task that exists; with other params or type it is refused (`idempotency_mismatch`).
    pub idempotency_key: Option<String>,
}

/// A child to create.
#[derive(Clone, Debug)]
pub struct NewChild {
    pub key: String,
    pub task_type: String,
    pub params: Map<String, Value>,
    pub depends_on: Vec<ChildDependency>,
    /// None: the parent's.
    pub project_id: Option<String>,
    /// None: the parent's.
    pub priority: Option<i64>,
}

/// What a child waits for.
#[derive(Clone, Copy, Debug)]
pub enum ChildDependency {
    /// Position in the same batch.
    Sibling(usize),
    Task(TaskId),
}

/// Limits on the children of one task.
#[derive(Clone, Copy, Debug)]
pub struct ChildLimits {
    /// Children of one parent, all batches together.
    pub children: usize,
    /// How deep tasks may be nested below a submitted one.
    pub depth: u32,
}

/// Which task types a claimer can run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeFilter {
    Any,
    Only(BTreeSet<String>),
    Except(BTreeSet<String>),
}

/// A worker asks for work.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    pub holder: Holder,
    pub lease: Duration,
    pub types: TypeFilter,
    /// At most so many claims.
    pub limit: usize,
}

/// A granted claim. `task.attempts` is the number of the attempt that runs now.
#[derive(Clone, Debug)]
pub struct Claim {
    pub task: Task,
    pub token: ClaimToken,
    /// The task was begun before and goes on in the same attempt (crash, lost lease, drain).
    pub resumed: bool,
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Held,
    /// Cancelled or failed by a cascade meanwhile: stop the work, report nothing.
    Ended(Status),
    /// Another claim holds it: stop the work, report nothing.
    Lost,
}

/// What a failure report led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Queued again; the next attempt has this number.
    Requeued {
        next_attempt: u32,
    },
    Failed,
}

/// Which tasks to list. Newest first unless `children_of` is set, then oldest first.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    pub status: Option<Status>,
    pub task_type: Option<String>,
    pub children_of: Option<TaskId>,
    pub project_id: Option<String>,
    /// 0: no limit.
    pub limit: usize,
}

/// How far a recorded call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallState {
    /// An effect outside the store is about to happen.
    Intent,
    /// The result is known.
    Done,
}

/// One row of the journal: a host call that a handler made and what it returned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalEntry {
    pub attempt: u32,
    /// From 1, without gaps.
    pub seq: u64,
    /// Interface and function: `engines.submit-generation`.
    pub function: String,
    /// Digest of the arguments' canonical JSON.
    pub arguments_digest: Digest,
    /// The arguments themselves, bounded; for the first differing call and the timeline.
    pub arguments: Option<String>,
    pub state: CallState,
    /// The result as the guest got it, as JSON: `{"ok": …}` or `{"err": failure}`. None while only intended.
    pub result: Option<Value>,
    /// When the row got its present state.
    pub at: Timestamp,
}

/// Numbers for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub queued: u64,
    /// Queued whose dependencies are complete.
    pub ready: u64,
    pub in_progress: u64,
    pub complete: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// The interface.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Creates a task. Acknowledged means durable. One that would wait for a task that ended badly fails at once, as it
    /// would have a moment later. Refused: `unknown_dependency`, `duplicate_id`, `idempotency_mismatch`.
    async fn submit(&self, new: NewTask) -> Result<Task>;

    /// Creates children of a task that the token holds: all or none, in order. A key that exists already is left alone
    /// and its id returned. Of equally urgent children, those that come first in the batch are claimed first. Refused:
    /// `unknown_dependency`, `dependency_cycle` (a sibling that comes later, or a task above it), `parent_ended`,
    /// `too_many_children`, `nested_too_deep`, `duplicate_key` (twice in one batch).
    async fn create_children(
        &self,
        parent: TaskId,
        token: ClaimToken,
        batch: Vec<NewChild>,
        limits: ChildLimits,
    ) -> Result<Vec<TaskId>>;

    /// Removes a child of the token's task that has not started, as if it had never been. Refused: `not_a_child`,
    /// `child_started`, `child_awaited` (another task waits for it).
    async fn remove_child(&self, parent: TaskId, token: ClaimToken, child: TaskId) -> Result<()>;

    /// Claims ready tasks: Queued, dependencies complete, type suitable; or In Progress with a lease that has run out
    /// or a holder on this machine that is gone ([`holder::is_gone`]). Priority first, then oldest, then id.
    ///
    /// A task whose record is damaged is not granted: it fails with class internal and code `unreadable_task`.
    ///
    /// A task that lost its holder goes on in the same attempt. A death is charged when its holder is known to be dead
    /// (a lease that merely ran out proves nothing), it recorded no new result since that holder began, and it has no
    /// open children that it may have waited for. One death too many and it fails with class and code `quarantined`.
    async fn claim(&self, ask: ClaimRequest) -> Result<Vec<Claim>>;

    /// Renews leases; answers in the order given.
    async fn renew(&self, held: Vec<(TaskId, ClaimToken)>, lease: Duration) -> Result<Vec<Renewal>>;

    /// Notes which route the attempt takes.
    async fn set_route(&self, task: TaskId, token: ClaimToken, route: Route) -> Result<()>;

    /// Notes what the task is doing. Best effort: the last one wins.
    async fn set_progress(&self, task: TaskId, token: ClaimToken, progress: Progress) -> Result<()>;

    /// The task is complete. The same token and output again is a success again.
    async fn complete(&self, task: TaskId, token: ClaimToken, output: Output) -> Result<()>;

    /// The handler has handed the task to its children. When all of them have ended already, or one of them badly, it is
    /// settled at once; without any child it completes with its facts. Its output is that of the child `output_from`
    /// with the facts added (a text stays a text), or the facts alone. The same again is a success again. Refused:
    /// `unknown_child` (`output_from` names no child).
    async fn delegate(&self, task: TaskId, token: ClaimToken, delegation: Delegation) -> Result<()>;

    /// The attempt failed. Queued again when the failure is retryable and fewer than `max_attempts` were made.
    async fn fail(&self, task: TaskId, token: ClaimToken, failure: Failure, max_attempts: u32) -> Result<AfterFailure>;

    /// Gives the task back in the same attempt, nothing charged (drain, no room).
    async fn release(&self, task: TaskId, token: ClaimToken) -> Result<()>;

    /// Cancels a task and everything below it. False: it had ended already. As with a failure, those that wait for it
    /// fail with `dependency_failed`, and a parent that had delegated to it fails with `child_cancelled`.
    async fn cancel(&self, task: TaskId, why: String) -> Result<bool>;

    /// Opens a new attempt of a failed or cancelled task; deaths count from 0 again. What its end took along comes back:
    ///
    /// - Its failed and cancelled descendants are queued again, the complete ones stay complete, so that a handler that
    ///   creates its children by key finds them all. A task that was delegated is In Progress and delegated again, and
    ///   its children finish it; any other is queued.
    /// - When its parent had delegated to it and ended badly, the parent is retried, with all that stands below it.
    /// - Tasks that failed only because they waited for one of these are queued again.
    ///
    /// Refused: `not_retryable` (it has not ended badly), `parent_ended` (its parent ended badly and worked itself: retry
    /// the parent), `dependency_failed` (it waits for another task that ended badly: retry that one first).
    async fn retry(&self, task: TaskId) -> Result<Task>;

    async fn get(&self, task: TaskId) -> Result<Task>;

    /// Where several tasks stand, in the order given, as often as given; none for one that is gone.
    async fn statuses(&self, tasks: &[TaskId]) -> Result<Vec<Option<Status>>> {
        let mut found = Vec::with_capacity(tasks.len());
        for task in tasks {
            match self.get(*task).await {
                Ok(task) => found.push(Some(task.status)),
                Err(StoreError::NotFound(_)) => found.push(None),
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    /// Tasks whose record is damaged are left out, and logged.
    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>>;

    async fn counts(&self) -> Result<Counts>;

    /// Writes one row of the journal, or brings the row of the same (attempt, seq) from intent to done. Durable when
    /// it returns. The same row again is a success again. Refused: `effect_key_reused` (the number belongs to a call of
    /// another function or with other arguments), `call_already_done` (another result is on record), `other_attempt`.
    async fn journal_write(&self, task: TaskId, token: ClaimToken, entry: JournalEntry) -> Result<()>;

    /// The journal of one attempt in order.
    async fn journal(&self, task: TaskId, attempt: u32) -> Result<Vec<JournalEntry>>;

    /// Changes whenever something in the store may have changed, also by another process (then within 100 ms). For
    /// waiting without polling: mark it seen, look, then wait for a change.
    fn changes(&self) -> watch::Receiver<u64>;
}
