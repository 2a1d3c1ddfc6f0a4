//! Looking without touching: on connections of their own, which never wait for the writer.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqlitePool};

use super::row::{self, get, task_columns};
use crate::store::{Counts, Result, StoreError, TaskFilter};
use crate::task::{Status, Task, TaskId};

pub(super) async fn get_task(pool: &SqlitePool, task: TaskId) -> Result<Task> {
    let query = sqlx::query(concat!("SELECT ", task_columns!(), " FROM tasks WHERE id = ?")).bind(task.to_string());
    let found = query.fetch_optional(pool).await?.ok_or(StoreError::NotFound(task))?;
    row::task(&found)
}

pub(super) async fn list(pool: &SqlitePool, filter: TaskFilter) -> Result<Vec<Task>> {
    let mut query: QueryBuilder<Sqlite> =
        QueryBuilder::new(concat!("SELECT ", task_columns!(), " FROM tasks WHERE true"));
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(task_type) = filter.task_type {
        query.push(" AND task_type = ").push_bind(task_type);
    }
    if let Some(project) = filter.project_id {
        query.push(" AND project_id = ").push_bind(project);
    }
    if let Some(parent) = filter.children_of {
        query.push(" AND parent_id = ").push_bind(parent.to_string());
        query.push(" ORDER BY created_at, id");
    } else {
        query.push(" ORDER BY created_at DESC, id DESC");
    }
    if filter.limit > 0 {
        query.push(" LIMIT ").push_bind(i64::try_from(filter.limit).unwrap_or(i64::MAX));
    }
    let rows = query.build().fetch_all(pool).await?;
    Ok(rows.iter().filter_map(readable).collect())
}

/// The task of a row. One that cannot be read is left out: it must not hide all others.
fn readable(row: &SqliteRow) -> Option<Task> {
    row::task(row)
        .inspect_err(|error| tracing::error!(task = row::raw_id(row), "a task is left out of a list: {error}"))
        .ok()
}

/// Where tasks stand, in the order given; none for one that is not there.
pub(super) async fn statuses(pool: &SqlitePool, tasks: &[TaskId]) -> Result<Vec<Option<Status>>> {
    let query = sqlx::query(
        "SELECT status FROM json_each(?) AS wanted LEFT JOIN tasks ON tasks.id = wanted.value ORDER BY wanted.key",
    );
    let rows = query.bind(row::text(&tasks)?).fetch_all(pool).await?;
    rows.iter().map(row::status_if_any).collect()
}

pub(super) async fn counts(pool: &SqlitePool) -> Result<Counts> {
    let query = sqlx::query(
        "SELECT status, count(*) AS tasks, (SELECT count(*) FROM tasks INDEXED BY tasks_ready WHERE status = 'Queued' AND ready = 1) AS ready \
         FROM tasks GROUP BY status",
    );
    let mut counts = Counts::default();
    for found in query.fetch_all(pool).await? {
        let tasks = get(&found, "tasks")?;
        counts.ready = get(&found, "ready")?;
        match row::status(&found)? {
            Status::Queued => counts.queued = tasks,
            Status::InProgress => counts.in_progress = tasks,
            Status::Complete => counts.complete = tasks,
            Status::Failed => counts.failed = tasks,
            Status::Cancelled => counts.cancelled = tasks,
        }
    }
    Ok(counts)
}
