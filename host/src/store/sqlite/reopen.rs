//! A second chance for what ended badly. A failure took others along, so a retry brings them back: the whole family
//! below the task, the delegated parents above it, and those that only failed because they waited for one of these.

use std::collections::{BTreeSet, VecDeque};

use sqlx::sqlite::SqliteRow;

use super::row::{self, get};
use super::settle::{self, Fall};
use super::writer::Tx;
use super::{create, refused};
use crate::store::{Result, StoreError};
use crate::task::{Status, TaskId};

/// Reopens a failed or cancelled task and what fell with it.
pub(super) async fn retry(tx: &mut Tx, task: TaskId) -> Result<SqliteRow> {
    let standing = Standing::of(tx, task).await?;
    if !standing.ended_badly() {
        return Err(refused(
            "not_retryable",
            format!("task {task} is {}: only a failed or cancelled task can be retried", standing.status),
        ));
    }
    let top = topmost(tx, task, standing).await?;
    let family = reopen_family(tx, top).await?;
    for member in &family {
        if let Some(cause) = settle::failed_dependency(tx, *member).await? {
            return Err(refused(
                "dependency_failed",
                format!(
                    "task {member} waits for task {}, which is {}: retry that one first",
                    cause.named(),
                    cause.status
                ),
            ));
        }
    }
    reopen_dependents(tx, family).await?;
    create::read(tx, task).await
}

/// How a task stands and why.
struct Standing {
    status: Status,
    delegated: bool,
    parent: Option<TaskId>,
    felled_by: Option<TaskId>,
}

impl Standing {
    async fn of(tx: &mut Tx, task: TaskId) -> Result<Self> {
        let query = sqlx::query(
            "SELECT status, delegated IS NOT NULL AS delegated, parent_id, felled_by FROM tasks WHERE id = ?",
        );
        let row = tx.row(query.bind(task.to_string())).await?.ok_or(StoreError::NotFound(task))?;
        Ok(Self {
            status: row::status(&row)?,
            delegated: get(&row, "delegated")?,
            parent: row::id_if_any(&row, "parent_id")?,
            felled_by: row::id_if_any(&row, "felled_by")?,
        })
    }

    fn ended_badly(&self) -> bool {
        matches!(self.status, Status::Failed | Status::Cancelled)
    }
}

/// The highest task above that has to be reopened for this one to make sense: parents that had left everything to their
/// children. A parent that worked itself would start anew and needs its own retry.
async fn topmost(tx: &mut Tx, task: TaskId, mut standing: Standing) -> Result<TaskId> {
    let mut top = task;
    while let Some(parent) = standing.parent {
        standing = Standing::of(tx, parent).await?;
        if !standing.ended_badly() {
            break;
        }
        if !standing.delegated {
            return Err(refused(
                "parent_ended",
                format!(
                    "task {task} cannot be retried alone, as its parent {parent} is {}: retry {parent}, which brings its \
                     children back",
                    standing.status
                ),
            ));
        }
        top = parent;
    }
    Ok(top)
}

/// Reopens a task and everything below it that ended badly: delegated ones wait for their children again, the others
/// are queued for a new attempt. Children that are complete stay so.
async fn reopen_family(tx: &mut Tx, top: TaskId) -> Result<BTreeSet<TaskId>> {
    let query = sqlx::query(
        "WITH RECURSIVE family (member) AS (SELECT ? UNION SELECT tasks.id FROM tasks JOIN family ON parent_id = member \
         WHERE status IN ('Failed', 'Cancelled')) \
         UPDATE tasks SET status = iif(delegated IS NULL, 'Queued', 'In Progress'), resume = 0, deaths = 0, \
         death_notes = NULL, claim_token = NULL, progress = NULL, output = NULL, error = NULL, felled_by = NULL, \
         finished_at = NULL, ready = NOT EXISTS (SELECT 1 FROM task_deps JOIN tasks AS other ON other.id = depends_on \
         WHERE task_id = tasks.id AND other.status <> 'Complete') \
         WHERE id IN (SELECT member FROM family) RETURNING id, delegated IS NOT NULL AS delegated",
    );
    let reopened = tx.change_returning(query.bind(top.to_string())).await?;
    let mut family = BTreeSet::new();
    for member in &reopened {
        family.insert(row::id(member, "id")?);
    }
    // One whose children are all complete after all has nothing to wait for.
    for member in reopened {
        if get(&member, "delegated")? {
            settle::settle_upwards(tx, row::id(&member, "id")?).await?;
        }
    }
    Ok(family)
}

/// Reopens those that failed only because they waited for a reopened task; and so on.
async fn reopen_dependents(tx: &mut Tx, reopened: BTreeSet<TaskId>) -> Result<()> {
    let mut causes = VecDeque::from_iter(reopened);
    while let Some(cause) = causes.pop_front() {
        let query = sqlx::query(
            "SELECT task_id FROM task_deps JOIN tasks ON id = task_id \
             WHERE depends_on = ?1 AND status = 'Failed' AND felled_by IS NOT NULL \
             AND felled_by IN (SELECT depends_on FROM task_deps WHERE task_id = tasks.id)",
        );
        for dependent in tx.rows(query.bind(cause.to_string())).await? {
            let dependent = row::id(&dependent, "task_id")?;
            let blocked = settle::failed_dependency(tx, dependent).await?.is_some();
            let Some(top) = fallen_above(tx, dependent).await?.filter(|_| !blocked) else { continue };
            let family = reopen_family(tx, top).await?;
            for member in &family {
                if let Some(cause) = settle::failed_dependency(tx, *member).await? {
                    settle::fell(tx, Fall::dependency(*member, &cause)).await?;
                }
            }
            causes.extend(family);
        }
    }
    Ok(())
}

/// The highest task that fell because of this one, through parents alone. None: the parent ended for another reason,
/// and this task stays down with it.
async fn fallen_above(tx: &mut Tx, task: TaskId) -> Result<Option<TaskId>> {
    let mut top = task;
    let mut standing = Standing::of(tx, task).await?;
    while let Some(parent) = standing.parent {
        standing = Standing::of(tx, parent).await?;
        if !standing.ended_badly() {
            break;
        }
        if !standing.delegated || standing.felled_by != Some(top) {
            return Ok(None);
        }
        top = parent;
    }
    Ok(Some(top))
}
