//! The embedded store: one SQLite file in WAL mode. One writer with grouped commits ([`writer`]), pooled readers
//! ([`read`]), the journal in the same file. Several processes may have the file open: SQLite lets one write at a time,
//! and nothing is remembered between two operations.
//!
//! | file | story |
//! |---|---|
//! | `schema.rs` | the file, its tables and version |
//! | `writer.rs` | operations queue up and are committed in groups |
//! | `create.rs` | submitting, children |
//! | `claim.rs` | claims, leases, lost holders, deaths |
//! | `settle.rs` | how tasks end and whom they take along |
//! | `reopen.rs` | retry |
//! | `journal.rs` | recorded calls |
//! | `read.rs` | looking |
//! | `row.rs` | rows to plain data |

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{ConnectOptions, Row, SqliteConnection, SqlitePool};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use self::writer::Writer;
use super::{
    AfterFailure, ChildLimits, Claim, ClaimRequest, ClaimToken, Counts, JournalEntry, NewChild, NewTask, Renewal,
    Result, Store, StoreError, TaskFilter,
};
use crate::clock::Clock;
use crate::task::{Delegation, Failure, Output, Progress, Route, Status, Task, TaskId};

mod claim;
mod create;
mod journal;
mod read;
mod reopen;
mod row;
mod schema;
mod settle;
mod writer;

/// How an SQLite store behaves.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// Consecutive deaths of its holders, without a new result in between, after which a task is set aside; 0: never.
    pub quarantine_after_deaths: u32,
    /// How long an operation waits for another process that is writing; at most some 24 days, which is as far as SQLite
    /// counts. `store.busy_timeout_seconds`.
    pub busy_timeout_ms: u64,
    /// Connections that only read. `store.readers`.
    pub readers: u32,
    /// Operations that may share one commit.
    pub group_limit: usize,
    /// How often to look whether another process has written.
    pub poll_ms: u64,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self { quarantine_after_deaths: 2, busy_timeout_ms: 10_000, readers: 4, group_limit: 256, poll_ms: 50 }
    }
}

impl SqliteSettings {
    /// What a connection takes as its time-out: milliseconds in 31 bits.
    fn busy_timeout(&self) -> Duration {
        Duration::from_millis(self.busy_timeout_ms.min(i32::MAX.unsigned_abs().into()))
    }
}

/// A store in an SQLite file.
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    changes: watch::Receiver<u64>,
    watcher: AbortHandle,
}

impl SqliteStore {
    /// Opens the file, and makes it if it is not there. Errors are [`StoreError::Backend`]: the file cannot be opened, is
    /// no task store, or was written by a newer version.
    pub async fn open(path: &Path, clock: Clock, settings: SqliteSettings) -> Result<Arc<Self>> {
        let writing = schema::open(path, &settings).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(settings.readers.max(1))
            // The file is local: a connection to it does not go stale.
            .test_before_acquire(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(schema::reading(path, &settings))
            .await?;
        let (sender, changes) = watch::channel(0);
        let watching = schema::reading(path, &settings).connect().await?;
        let poll = Duration::from_millis(settings.poll_ms.max(1));
        let watcher = tokio::spawn(watch_others(watching, poll, sender.clone())).abort_handle();
        let writer = Writer::start(writing, clock, &settings, sender)?;
        Ok(Arc::new(Self { writer, readers, changes, watcher }))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Notices what others commit: SQLite changes `data_version` of a connection whenever another one has written.
async fn watch_others(mut connection: SqliteConnection, poll: Duration, changes: watch::Sender<u64>) {
    let mut seen = None;
    loop {
        match data_version(&mut connection).await {
            Ok(version) if seen == Some(version) => {}
            Ok(version) => {
                // The first look only says where things stand.
                if seen.replace(version).is_some() {
                    changes.send_modify(|changes| *changes += 1);
                }
            }
            Err(error) => tracing::warn!("cannot see whether another process wrote to the task store: {error}"),
        }
        tokio::time::sleep(poll).await;
    }
}

async fn data_version(connection: &mut SqliteConnection) -> sqlx::Result<i64> {
    sqlx::query("PRAGMA data_version").fetch_one(connection).await?.try_get(0)
}

#[async_trait]
impl Store for SqliteStore {
    async fn submit(&self, new: NewTask) -> Result<Task> {
        let task = create::PreparedTask::new(new)?;
        let row = self.writer.run_bare(|tx| create::submit(tx, task).boxed()).await?;
        row::task(&row)
    }

    async fn create_children(
        &self,
        parent: TaskId,
        token: ClaimToken,
        batch: Vec<NewChild>,
        limits: ChildLimits,
    ) -> Result<Vec<TaskId>> {
        let batch = batch.into_iter().map(create::PreparedChild::new).collect::<Result<Vec<_>>>()?;
        self.writer.run(move |tx| create::create_children(tx, parent, token, batch, limits).boxed()).await
    }

    async fn remove_child(&self, parent: TaskId, token: ClaimToken, child: TaskId) -> Result<()> {
        self.writer.run(move |tx| create::remove_child(tx, parent, token, child).boxed()).await
    }

    async fn claim(&self, ask: ClaimRequest) -> Result<Vec<Claim>> {
        let rows = self.writer.run_bare(|tx| claim::claim(tx, ask).boxed()).await?;
        let (claims, unreadable) = claim::granted(&rows);
        for broken in unreadable {
            tracing::error!(task = broken.id, "a task fails because it cannot be read: {}", broken.why);
            let id = broken.id.clone();
            // What else was granted is the caller's in any case.
            if let Err(error) = self.writer.run(|tx| claim::set_aside(tx, broken).boxed()).await {
                tracing::error!(task = id, "a task that cannot be read stays claimed until its lease ends: {error}");
            }
        }
        Ok(claims)
    }

    async fn renew(&self, held: Vec<(TaskId, ClaimToken)>, lease: Duration) -> Result<Vec<Renewal>> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        self.writer.run_bare(move |tx| claim::renew(tx, held, lease).boxed()).await
    }

    async fn set_route(&self, task: TaskId, token: ClaimToken, route: Route) -> Result<()> {
        let route = row::text(&route)?;
        self.writer.run_bare(move |tx| claim::set_route(tx, task, token, route).boxed()).await
    }

    async fn set_progress(&self, task: TaskId, token: ClaimToken, progress: Progress) -> Result<()> {
        let progress = row::text(&progress)?;
        self.writer.run_bare(move |tx| claim::set_progress(tx, task, token, progress).boxed()).await
    }

    async fn complete(&self, task: TaskId, token: ClaimToken, output: Output) -> Result<()> {
        let text = row::text(&output)?;
        self.writer.run_bare(move |tx| settle::complete(tx, task, token, output, text).boxed()).await
    }

    async fn delegate(&self, task: TaskId, token: ClaimToken, delegation: Delegation) -> Result<()> {
        self.writer.run(move |tx| settle::delegate(tx, task, token, delegation).boxed()).await
    }

    async fn fail(&self, task: TaskId, token: ClaimToken, failure: Failure, max_attempts: u32) -> Result<AfterFailure> {
        self.writer.run_bare(move |tx| settle::fail(tx, task, token, failure, max_attempts).boxed()).await
    }

    async fn release(&self, task: TaskId, token: ClaimToken) -> Result<()> {
        self.writer.run_bare(move |tx| claim::release(tx, task, token).boxed()).await
    }

    async fn cancel(&self, task: TaskId, why: String) -> Result<bool> {
        self.writer.run_bare(move |tx| settle::cancel(tx, task, why).boxed()).await
    }

    async fn retry(&self, task: TaskId) -> Result<Task> {
        let row = self.writer.run(move |tx| reopen::retry(tx, task).boxed()).await?;
        row::task(&row)
    }

    async fn get(&self, task: TaskId) -> Result<Task> {
        read::get_task(&self.readers, task).await
    }

    async fn statuses(&self, tasks: &[TaskId]) -> Result<Vec<Option<Status>>> {
        read::statuses(&self.readers, tasks).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>> {
        read::list(&self.readers, filter).await
    }

    async fn counts(&self) -> Result<Counts> {
        read::counts(&self.readers).await
    }

    async fn journal_write(&self, task: TaskId, token: ClaimToken, entry: JournalEntry) -> Result<()> {
        let result = entry.result.as_ref().map(row::text).transpose()?;
        self.writer.run_bare(move |tx| journal::write(tx, task, token, entry, result).boxed()).await
    }

    async fn journal(&self, task: TaskId, attempt: u32) -> Result<Vec<JournalEntry>> {
        journal::read(&self.readers, task, attempt).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Backend(error.to_string())
    }
}

fn refused(code: &'static str, message: String) -> StoreError {
    StoreError::Refused { code, message }
}
