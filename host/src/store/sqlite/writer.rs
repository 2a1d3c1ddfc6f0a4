//! The one writer of this process: operations queue up, and those that are waiting together share one transaction and
//! one sync of the disk. A refused one undoes only itself; nobody gets an answer before the commit.
//!
//! Every statement is a message to SQLite's thread and back, so statements are what costs. Operations that may be refused
//! after they wrote run inside a savepoint ([`Writer::run`]); those that cannot do without ([`Writer::run_bare`]).

use futures::FutureExt;
use futures::future::BoxFuture;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Connection, Sqlite, SqliteConnection};
use tokio::sync::{mpsc, oneshot, watch};

use super::SqliteSettings;
use crate::clock::{Clock, Timestamp};
use crate::store::{Result, StoreError, TypeFilter};
use crate::task::Holder;

/// A statement with its parameters.
pub(super) type Statement = Query<'static, Sqlite, SqliteArguments>;

/// What an operation works with: the open transaction.
pub(super) struct Tx {
    connection: SqliteConnection,
    /// The moment at which the operation happens.
    pub now: Timestamp,
    /// Consecutive deaths after which a task is set aside; 0: never.
    pub quarantine_after_deaths: u32,
    /// Whose lost tasks this transaction has already looked for: a second claim in it need not look again.
    pub looked_for: Option<(Holder, TypeFilter)>,
    /// Something was written since the last commit.
    changed: bool,
    /// Something was written by the present operation.
    dirty: bool,
}

impl Tx {
    /// Runs a statement that writes; how many rows it wrote.
    pub async fn change(&mut self, statement: Statement) -> Result<u64> {
        let rows = statement.execute(&mut self.connection).await?.rows_affected();
        self.wrote(rows > 0);
        Ok(rows)
    }

    /// Runs a statement that writes and returns what it wrote.
    pub async fn change_returning(&mut self, statement: Statement) -> Result<Vec<SqliteRow>> {
        let rows = statement.fetch_all(&mut self.connection).await?;
        self.wrote(!rows.is_empty());
        Ok(rows)
    }

    pub async fn rows(&mut self, statement: Statement) -> Result<Vec<SqliteRow>> {
        Ok(statement.fetch_all(&mut self.connection).await?)
    }

    pub async fn row(&mut self, statement: Statement) -> Result<Option<SqliteRow>> {
        Ok(statement.fetch_optional(&mut self.connection).await?)
    }

    fn wrote(&mut self, something: bool) {
        self.changed |= something;
        self.dirty |= something;
    }

    async fn control(&mut self, sql: &'static str) -> Result<()> {
        sqlx::query(sql).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// Where operations are handed in.
pub(super) struct Writer {
    queue: mpsc::UnboundedSender<Box<dyn Job>>,
}

impl Writer {
    /// Starts the writer on a connection, in a thread of its own: it answers at once, however busy the runtime is. It ends, and closes the connection, when the `Writer` is dropped and what was
    /// handed in is done.
    pub fn start(
        connection: SqliteConnection,
        clock: Clock,
        settings: &SqliteSettings,
        changes: watch::Sender<u64>,
    ) -> Result<Self> {
        let (queue, jobs) = mpsc::unbounded_channel();
        let tx = Tx {
            connection,
            now: clock.now(),
            quarantine_after_deaths: settings.quarantine_after_deaths,
            looked_for: None,
            changed: false,
            dirty: false,
        };
        let work = write(tx, jobs, clock, settings.group_limit.max(1), changes);
        std::thread::Builder::new()
            .name("task-store".into())
            .spawn(|| futures::executor::block_on(work))
            .map_err(|error| StoreError::Backend(format!("cannot start its writer: {error}")))?;
        Ok(Self { queue })
    }

    /// Runs an operation. The answer comes after the commit; an error undoes all that the operation wrote.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        self.hand_in(work, true).await
    }

    /// Runs an operation that is refused, if at all, before it writes anything. Only a broken store can stop it halfway,
    /// and then the whole transaction is undone.
    pub async fn run_bare<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        self.hand_in(work, false).await
    }

    async fn hand_in<T, F>(&self, work: F, guarded: bool) -> Result<T>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { work: Some(work), guarded, result: None, reply };
        self.queue.send(Box::new(call)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn stopped() -> StoreError {
    StoreError::Backend("its writer has stopped".into())
}

/// An operation in the queue, whatever it returns.
trait Job: Send {
    /// Nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
    /// It needs a savepoint.
    fn is_guarded(&self) -> bool;
    /// Runs it. None: all is well; otherwise why not.
    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, Option<String>>;
    /// Gives the answer, after the commit or instead of it.
    fn answer(self: Box<Self>, committed: std::result::Result<(), &str>);
}

struct Call<F, T> {
    work: Option<F>,
    guarded: bool,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Call<F, T>
where
    T: Send + 'static,
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T>> + Send + 'static,
{
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn is_guarded(&self) -> bool {
        self.guarded
    }

    fn run<'t>(&'t mut self, tx: &'t mut Tx) -> BoxFuture<'t, Option<String>> {
        async move {
            let work = self.work.take()?;
            let result = work(tx).await;
            let why = result.as_ref().err().map(ToString::to_string);
            self.result = Some(result);
            why
        }
        .boxed()
    }

    fn answer(self: Box<Self>, committed: std::result::Result<(), &str>) {
        let answer = match (self.result, committed) {
            // A refusal holds whatever became of the others.
            (Some(Err(refusal)), _) => Err(refusal),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(why)) => Err(StoreError::Backend(why.to_owned())),
            (None, Ok(())) => Err(stopped()),
        };
        // Whoever asked may have gone meanwhile.
        let _ = self.reply.send(answer);
    }
}

async fn write(
    mut tx: Tx,
    mut jobs: mpsc::UnboundedReceiver<Box<dyn Job>>,
    clock: Clock,
    group_limit: usize,
    changes: watch::Sender<u64>,
) {
    while let Some(first) = jobs.recv().await {
        let mut group = Vec::new();
        tx.changed = false;
        let committed = run_group(&mut tx, first, &mut jobs, &mut group, &clock, group_limit).await;
        if let Err(why) = &committed {
            // The transaction may be gone already; there is nothing else to undo then.
            let _ = tx.control("ROLLBACK").await;
            // Whoever waited behind the same obstacle need not run into it one after the other.
            while let Ok(job) = jobs.try_recv() {
                group.push(job);
            }
            tracing::error!("the task store could not write: {why}");
        } else if tx.changed {
            changes.send_modify(|version| *version += 1);
        }
        for job in group {
            job.answer(committed.as_ref().copied().map_err(String::as_str));
        }
    }
    let _ = tx.connection.close().await;
}

/// Runs `first` and what is waiting behind it in one transaction. On an error nothing was written.
async fn run_group(
    tx: &mut Tx,
    first: Box<dyn Job>,
    jobs: &mut mpsc::UnboundedReceiver<Box<dyn Job>>,
    group: &mut Vec<Box<dyn Job>>,
    clock: &Clock,
    group_limit: usize,
) -> std::result::Result<(), String> {
    tx.looked_for = None;
    tx.control("BEGIN IMMEDIATE").await.map_err(plain)?;
    let mut next = Some(first);
    while let Some(job) = next.take() {
        if !job.is_abandoned() {
            run_job(tx, job, group, clock).await?;
        }
        if group.len() < group_limit {
            next = jobs.try_recv().ok();
        }
    }
    tx.control("COMMIT").await.map_err(plain)
}

/// Runs one operation of a group. An error is the end of the transaction.
async fn run_job(
    tx: &mut Tx,
    job: Box<dyn Job>,
    group: &mut Vec<Box<dyn Job>>,
    clock: &Clock,
) -> std::result::Result<(), String> {
    let guarded = job.is_guarded();
    // It is put where it will be found if the transaction fails and everybody must be told.
    group.push(job);
    if guarded {
        tx.control("SAVEPOINT operation").await.map_err(plain)?;
    }
    tx.now = clock.now();
    tx.dirty = false;
    let Some(job) = group.last_mut() else { return Ok(()) };
    match (job.run(tx).await, guarded) {
        (None, true) => tx.control("RELEASE operation").await.map_err(plain),
        (Some(_), true) => tx.control("ROLLBACK TO operation; RELEASE operation").await.map_err(plain),
        (Some(why), false) if tx.dirty => Err(why),
        (_, false) => Ok(()),
    }
}

fn plain(error: StoreError) -> String {
    match error {
        StoreError::Backend(why) => why,
        other => other.to_string(),
    }
}
