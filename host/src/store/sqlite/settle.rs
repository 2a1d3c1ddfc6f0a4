//! How tasks end, and what their end means for others: the parent above, the children below, the dependents beside.
//! Everything that ends badly ends in [`fell`], whoever caused it.

use std::collections::VecDeque;

use sqlx::sqlite::SqliteRow;

use super::claim::{self, held_by, no_holder};
use super::refused;
use super::row::{self, get};
use super::writer::Tx;
use crate::store::{AfterFailure, ClaimToken, Result, StoreError};
use crate::task::{Delegation, Failure, FailureClass, Output, Status, TaskId};

/// Makes a queued task ready once nothing that it waits for is incomplete.
pub(super) const READY_IF_ALL_COMPLETE: &str = "UPDATE tasks SET ready = 1 WHERE id = ? AND NOT EXISTS (\
     SELECT 1 FROM task_deps JOIN tasks AS other ON other.id = depends_on \
     WHERE task_id = tasks.id AND other.status <> 'Complete')";

/// The same for everything that waits for one task.
const READY_IF_THIS_WAS_LAST: &str = "UPDATE tasks SET ready = 1 \
     WHERE id IN (SELECT task_id FROM task_deps WHERE depends_on = ?) AND status = 'Queued' AND NOT EXISTS (\
     SELECT 1 FROM task_deps JOIN tasks AS other ON other.id = depends_on \
     WHERE task_id = tasks.id AND other.status <> 'Complete')";

/// Completes a task that the token holds; the same once more is a success.
pub(super) async fn complete(tx: &mut Tx, task: TaskId, token: ClaimToken, output: Output, text: String) -> Result<()> {
    let query = sqlx::query(concat!(
        "UPDATE tasks SET status = 'Complete', output = ?1, error = NULL, finished_at = ?2, ",
        no_holder!(),
        " WHERE id = ?3 AND claim_token = ?4 AND status = 'In Progress' AND delegated IS NULL \
         RETURNING parent_id, EXISTS (SELECT 1 FROM task_deps WHERE depends_on = tasks.id) AS awaited"
    ));
    let query = query.bind(text).bind(tx.now.0).bind(task.to_string()).bind(row::token(token));
    match tx.change_returning(query).await?.first() {
        Some(done) => completed(tx, task, done).await,
        None => {
            let query =
                sqlx::query("SELECT output FROM tasks WHERE id = ? AND claim_token = ? AND status = 'Complete'");
            let before = tx.row(query.bind(task.to_string()).bind(row::token(token))).await?;
            match before {
                Some(before) if row::json_if_any::<Output>(&before, "output")?.as_ref() == Some(&output) => Ok(()),
                _ => Err(claim::lost(tx, task, token).await?),
            }
        }
    }
}

/// Hands a task to its children. The same once more is a success.
pub(super) async fn delegate(tx: &mut Tx, task: TaskId, token: ClaimToken, delegation: Delegation) -> Result<()> {
    let text = row::text(&delegation)?;
    let query = sqlx::query(concat!("UPDATE tasks SET delegated = ?, ", no_holder!(), " WHERE ", held_by!()));
    if tx.change(query.bind(text).bind(task.to_string()).bind(row::token(token))).await? == 0 {
        let query = sqlx::query(
            "SELECT delegated FROM tasks WHERE id = ? AND claim_token = ? AND status IN ('In Progress', 'Complete')",
        );
        let before = tx.row(query.bind(task.to_string()).bind(row::token(token))).await?;
        return match before {
            Some(before) if row::json_if_any(&before, "delegated")?.as_ref() == Some(&delegation) => Ok(()),
            _ => Err(claim::lost(tx, task, token).await?),
        };
    }
    if let Some(key) = &delegation.output_from {
        let query = sqlx::query("SELECT 1 FROM tasks WHERE parent_id = ? AND child_key = ?");
        if tx.row(query.bind(task.to_string()).bind(key.clone())).await?.is_none() {
            return Err(refused(
                "unknown_child",
                format!(
                    "task {task} wants the output of its child `{key}`, but has no child of that key: create it before \
                     delegating, or name another one"
                ),
            ));
        }
    }
    settle_upwards(tx, task).await
}

/// The attempt failed: another one, or the end.
pub(super) async fn fail(
    tx: &mut Tx,
    task: TaskId,
    token: ClaimToken,
    failure: Failure,
    max_attempts: u32,
) -> Result<AfterFailure> {
    let attempt = claim::held(tx, task, token).await?;
    if !failure.retry || attempt >= max_attempts {
        fell(tx, Fall { task, status: Status::Failed, failure, by: None }).await?;
        return Ok(AfterFailure::Failed);
    }
    let query = sqlx::query(concat!(
        "UPDATE tasks SET status = 'Queued', resume = 0, error = ?, claim_token = NULL, ",
        no_holder!(),
        " WHERE ",
        held_by!()
    ));
    tx.change(query.bind(row::text(&failure)?).bind(task.to_string()).bind(row::token(token))).await?;
    Ok(AfterFailure::Requeued { next_attempt: attempt.saturating_add(1) })
}

/// Cancels a task and what hangs on it. False: it had ended.
pub(super) async fn cancel(tx: &mut Tx, task: TaskId, why: String) -> Result<bool> {
    let query = sqlx::query("SELECT status FROM tasks WHERE id = ?").bind(task.to_string());
    let found = tx.row(query).await?.ok_or(StoreError::NotFound(task))?;
    if row::status(&found)?.is_final() {
        return Ok(false);
    }
    fell(tx, Fall { task, status: Status::Cancelled, failure: Failure::cancelled(why), by: None }).await?;
    Ok(true)
}

/// One task that ends badly.
pub(super) struct Fall {
    pub task: TaskId,
    /// `Failed` or `Cancelled`.
    pub status: Status,
    pub failure: Failure,
    /// The task that took it along, if one did.
    pub by: Option<TaskId>,
}

impl Fall {
    /// It waited for a task that ended badly.
    pub fn dependency(task: TaskId, cause: &Cause) -> Self {
        let failure = Failure::new(
            FailureClass::Dependency,
            "dependency_failed",
            format!("it waited for task {}, which is {}: {}", cause.named(), cause.status, cause.message),
        );
        Self { task, status: Status::Failed, failure, by: Some(cause.task) }
    }

    /// Its parent ended badly.
    fn child(task: TaskId, cause: &Cause) -> Self {
        let message = format!("its parent, task {}, is {}: {}", cause.named(), cause.status, cause.message);
        let failure = match cause.status {
            Status::Cancelled => Failure::cancelled(message),
            _ => Failure::new(FailureClass::Dependency, "parent_failed", message),
        };
        Self { task, status: cause.status, failure, by: Some(cause.task) }
    }

    /// It had left its work to a child that ended badly.
    fn parent(task: TaskId, cause: &Cause) -> Self {
        let code = if cause.status == Status::Cancelled { "child_cancelled" } else { "child_failed" };
        let message = format!("its child, task {}, is {}: {}", cause.named(), cause.status, cause.message);
        Self {
            task,
            status: Status::Failed,
            failure: Failure::new(FailureClass::Dependency, code, message),
            by: Some(cause.task),
        }
    }
}

/// A task that ended badly, as the reason why others do.
pub(super) struct Cause {
    task: TaskId,
    task_type: String,
    pub status: Status,
    message: String,
}

impl Cause {
    fn read(row: &SqliteRow) -> Result<Self> {
        Ok(Self {
            task: row::id(row, "id")?,
            task_type: get(row, "task_type")?,
            status: row::status(row)?,
            message: row::failure(row)?.map(|failure| failure.message).unwrap_or_default(),
        })
    }

    /// Id and type.
    pub fn named(&self) -> String {
        format!("{} ({})", self.task, self.task_type)
    }
}

/// The one way in which tasks end badly. With the task go its children, then those that wait for it, then its parent if
/// that had left everything to its children; and so on from each of these.
pub(super) async fn fell(tx: &mut Tx, first: Fall) -> Result<()> {
    let mut falling = VecDeque::from([first]);
    while let Some(fall) = falling.pop_front() {
        let query = sqlx::query(concat!(
            "UPDATE tasks SET status = ?, error = ?, felled_by = ?, finished_at = ?, ",
            no_holder!(),
            " WHERE id = ? AND status IN ('Queued', 'In Progress') RETURNING id, task_type, status, error, parent_id"
        ));
        let query = query
            .bind(fall.status.as_str())
            .bind(row::text(&fall.failure)?)
            .bind(fall.by.map(|task| task.to_string()))
            .bind(tx.now.0)
            .bind(fall.task.to_string());
        // Whatever ended in the meantime stays as it is.
        let fallen = tx.change_returning(query).await?;
        let Some(fallen) = fallen.first() else { continue };
        let cause = Cause::read(fallen)?;

        let query = sqlx::query(
            "SELECT id FROM tasks WHERE parent_id = ? AND status IN ('Queued', 'In Progress') ORDER BY created_at, id",
        );
        for child in tx.rows(query.bind(fall.task.to_string())).await? {
            falling.push_back(Fall::child(row::id(&child, "id")?, &cause));
        }
        let query = sqlx::query("SELECT task_id FROM task_deps WHERE depends_on = ? ORDER BY task_id");
        for dependent in tx.rows(query.bind(fall.task.to_string())).await? {
            falling.push_back(Fall::dependency(row::id(&dependent, "task_id")?, &cause));
        }
        if let Some(parent) = row::id_if_any(fallen, "parent_id")?
            && is_delegated(tx, parent).await?
        {
            falling.push_back(Fall::parent(parent, &cause));
        }
    }
    Ok(())
}

/// A dependency of the task that ended badly, if there is one.
pub(super) async fn failed_dependency(tx: &mut Tx, task: TaskId) -> Result<Option<Cause>> {
    let query = sqlx::query(
        "SELECT id, task_type, status, error FROM task_deps JOIN tasks ON id = depends_on \
         WHERE task_id = ? AND status IN ('Failed', 'Cancelled') ORDER BY position LIMIT 1",
    );
    tx.row(query.bind(task.to_string())).await?.map(|row| Cause::read(&row)).transpose()
}

/// A delegated task whose children have all ended, or one of them badly, ends too; and so on upwards.
pub(super) async fn settle_upwards(tx: &mut Tx, from: TaskId) -> Result<()> {
    let mut next = Some(from);
    while let Some(task) = next.take() {
        let query = sqlx::query(
            "SELECT delegated FROM tasks WHERE id = ? AND status = 'In Progress' AND delegated IS NOT NULL",
        );
        let Some(found) = tx.row(query.bind(task.to_string())).await? else { return Ok(()) };
        let delegation: Delegation = row::json(&found, "delegated")?;

        let query = sqlx::query(
            "SELECT id, task_type, status, error FROM tasks WHERE parent_id = ? AND status IN ('Failed', 'Cancelled') \
             ORDER BY finished_at, id LIMIT 1",
        );
        if let Some(bad) = tx.row(query.bind(task.to_string())).await? {
            return fell(tx, Fall::parent(task, &Cause::read(&bad)?)).await;
        }
        let query = sqlx::query("SELECT 1 FROM tasks WHERE parent_id = ? AND status <> 'Complete' LIMIT 1");
        if tx.row(query.bind(task.to_string())).await?.is_some() {
            return Ok(());
        }
        let output = output_of(tx, task, delegation).await?;
        let query = sqlx::query(
            "UPDATE tasks SET status = 'Complete', output = ?, error = NULL, finished_at = ? WHERE id = ? \
             RETURNING parent_id, EXISTS (SELECT 1 FROM task_deps WHERE depends_on = tasks.id) AS awaited",
        );
        let query = query.bind(row::text(&output)?).bind(tx.now.0).bind(task.to_string());
        if let Some(done) = tx.change_returning(query).await?.first() {
            ready_dependents(tx, task, done).await?;
            next = row::id_if_any(done, "parent_id")?;
        }
    }
    Ok(())
}

/// What hangs on a task that is complete now: `done` has `parent_id` and `awaited`.
async fn completed(tx: &mut Tx, task: TaskId, done: &SqliteRow) -> Result<()> {
    ready_dependents(tx, task, done).await?;
    match row::id_if_any(done, "parent_id")? {
        Some(parent) => settle_upwards(tx, parent).await,
        None => Ok(()),
    }
}

async fn ready_dependents(tx: &mut Tx, task: TaskId, done: &SqliteRow) -> Result<()> {
    if get(done, "awaited")? {
        tx.change(sqlx::query(READY_IF_THIS_WAS_LAST).bind(task.to_string())).await?;
    }
    Ok(())
}

/// What a delegated task ends with when all its children are complete.
async fn output_of(tx: &mut Tx, task: TaskId, delegation: Delegation) -> Result<Output> {
    let Delegation { output_from, facts } = delegation;
    let Some(key) = output_from else { return Ok(Output::Facts { facts }) };
    let query = sqlx::query("SELECT output FROM tasks WHERE parent_id = ? AND child_key = ?");
    let found = tx.row(query.bind(task.to_string()).bind(key)).await?;
    let output = found.map(|row| row::json_if_any(&row, "output")).transpose()?.flatten();
    Ok(match output {
        Some(Output::File { file, extra, facts: mut known }) => {
            known.extend(facts);
            Output::File { file, extra, facts: known }
        }
        Some(Output::Facts { facts: mut known }) => {
            known.extend(facts);
            Output::Facts { facts: known }
        }
        Some(text @ Output::Text { .. }) => text,
        None => Output::Facts { facts },
    })
}

async fn is_delegated(tx: &mut Tx, task: TaskId) -> Result<bool> {
    let query = sqlx::query("SELECT 1 FROM tasks WHERE id = ? AND status = 'In Progress' AND delegated IS NOT NULL");
    Ok(tx.row(query.bind(task.to_string())).await?.is_some())
}
