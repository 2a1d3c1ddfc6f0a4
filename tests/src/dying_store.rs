//! A store whose host dies at a chosen write to the journal: the call never returns, and the test drops the handler there,
//! as a crash would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use enginehouse::store::{
    AfterFailure, ChildLimits, Claim, ClaimRequest, ClaimToken, Counts, JournalEntry, NewChild, NewTask, Renewal,
    Result, SharedStore, Store, TaskFilter,
};
use enginehouse::task::{Delegation, Failure, Output, Progress, Route, Task, TaskId};
use tokio::sync::{Notify, watch};

/// Where it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dies {
    /// The write has not reached the disk.
    Before(u64),
    /// It has, and nobody is told.
    After(u64),
}

/// See the module.
pub struct DyingStore {
    inner: SharedStore,
    dies: Dies,
    writes: AtomicU64,
    died: Notify,
}

impl DyingStore {
    /// Writes are counted from 1.
    pub fn new(inner: SharedStore, dies: Dies) -> Arc<Self> {
        Arc::new(Self { inner, dies, writes: AtomicU64::new(0), died: Notify::new() })
    }

    /// Waits for the death.
    pub async fn died(&self) {
        self.died.notified().await;
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }
}

#[async_trait]
impl Store for DyingStore {
    async fn journal_write(&self, task: TaskId, token: ClaimToken, entry: JournalEntry) -> Result<()> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if self.dies == Dies::Before(number) {
            return self.die().await;
        }
        self.inner.journal_write(task, token, entry).await?;
        if self.dies == Dies::After(number) {
            return self.die().await;
        }
        Ok(())
    }

    async fn submit(&self, new: NewTask) -> Result<Task> {
        self.inner.submit(new).await
    }

    async fn create_children(
        &self,
        parent: TaskId,
        token: ClaimToken,
        batch: Vec<NewChild>,
        limits: ChildLimits,
    ) -> Result<Vec<TaskId>> {
        self.inner.create_children(parent, token, batch, limits).await
    }

    async fn remove_child(&self, parent: TaskId, token: ClaimToken, child: TaskId) -> Result<()> {
        self.inner.remove_child(parent, token, child).await
    }

    async fn claim(&self, ask: ClaimRequest) -> Result<Vec<Claim>> {
        self.inner.claim(ask).await
    }

    async fn renew(&self, held: Vec<(TaskId, ClaimToken)>, lease: Duration) -> Result<Vec<Renewal>> {
        self.inner.renew(held, lease).await
    }

    async fn set_route(&self, task: TaskId, token: ClaimToken, route: Route) -> Result<()> {
        self.inner.set_route(task, token, route).await
    }

    async fn set_progress(&self, task: TaskId, token: ClaimToken, progress: Progress) -> Result<()> {
        self.inner.set_progress(task, token, progress).await
    }

    async fn complete(&self, task: TaskId, token: ClaimToken, output: Output) -> Result<()> {
        self.inner.complete(task, token, output).await
    }

    async fn delegate(&self, task: TaskId, token: ClaimToken, delegation: Delegation) -> Result<()> {
        self.inner.delegate(task, token, delegation).await
    }

    async fn fail(&self, task: TaskId, token: ClaimToken, failure: Failure, max_attempts: u32) -> Result<AfterFailure> {
        self.inner.fail(task, token, failure, max_attempts).await
    }

    async fn release(&self, task: TaskId, token: ClaimToken) -> Result<()> {
        self.inner.release(task, token).await
    }

    async fn cancel(&self, task: TaskId, why: String) -> Result<bool> {
        self.inner.cancel(task, why).await
    }

    async fn retry(&self, task: TaskId) -> Result<Task> {
        self.inner.retry(task).await
    }

    async fn get(&self, task: TaskId) -> Result<Task> {
        self.inner.get(task).await
    }

    async fn list(&self, filter: TaskFilter) -> Result<Vec<Task>> {
        self.inner.list(filter).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.inner.counts().await
    }

    async fn journal(&self, task: TaskId, attempt: u32) -> Result<Vec<JournalEntry>> {
        self.inner.journal(task, attempt).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }
}
