//! Between rows and plain data.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use crate::clock::Timestamp;
use crate::store::{ClaimToken, Result, StoreError};
use crate::task::{Failure, Holder, Status, Task, TaskId};

/// The columns that [`task`] reads, for the places where SQL wants a list.
macro_rules! task_columns {
    () => {
        "tasks.id, task_type, params, status, project_id, priority, parent_id, child_key, depth, delegated, output, error, \
         attempts, deaths, route, progress, holder_machine, holder_boot, holder_pid, holder_started, lease_until, \
         created_at, started_at, finished_at, \
         (SELECT json_group_array(depends_on ORDER BY position) FROM task_deps WHERE task_id = tasks.id) AS depends_on"
    };
}
pub(super) use task_columns;

/// A value of a row by its column's name.
pub(super) fn get<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, column: &str) -> Result<T> {
    row.try_get(column).map_err(StoreError::from)
}

/// A whole task.
pub(super) fn task(row: &SqliteRow) -> Result<Task> {
    Ok(Task {
        id: parsed(row, "id")?,
        task_type: get(row, "task_type")?,
        params: json(row, "params")?,
        status: parsed(row, "status")?,
        project_id: get(row, "project_id")?,
        priority: get(row, "priority")?,
        parent: parsed_if_any(row, "parent_id")?,
        child_key: get(row, "child_key")?,
        depth: get(row, "depth")?,
        depends_on: json(row, "depends_on")?,
        delegated: json_if_any(row, "delegated")?,
        output: json_if_any(row, "output")?,
        error: json_if_any(row, "error")?,
        attempts: get(row, "attempts")?,
        deaths: get(row, "deaths")?,
        route: json_if_any(row, "route")?,
        progress: json_if_any(row, "progress")?,
        holder: holder(row)?,
        lease_until: get::<Option<i64>>(row, "lease_until")?.map(Timestamp),
        created_at: Timestamp(get(row, "created_at")?),
        started_at: get::<Option<i64>>(row, "started_at")?.map(Timestamp),
        finished_at: get::<Option<i64>>(row, "finished_at")?.map(Timestamp),
    })
}

/// Who holds the task of the row.
pub(super) fn holder(row: &SqliteRow) -> Result<Option<Holder>> {
    let Some(machine) = get::<Option<String>>(row, "holder_machine")? else { return Ok(None) };
    Ok(Some(Holder {
        machine,
        boot: get(row, "holder_boot")?,
        pid: get(row, "holder_pid")?,
        // SQLite has no unsigned numbers: the bits are what counts.
        started: get::<i64>(row, "holder_started")?.cast_unsigned(),
    }))
}

pub(super) fn status(row: &SqliteRow) -> Result<Status> {
    parsed(row, "status")
}

/// The status of a row that may be that of no task.
pub(super) fn status_if_any(row: &SqliteRow) -> Result<Option<Status>> {
    parsed_if_any(row, "status")
}

/// The id of a task's row as it stands there, for the case that it cannot be read; empty when it is not even text.
pub(super) fn raw_id(row: &SqliteRow) -> String {
    get(row, "id").unwrap_or_default()
}

pub(super) fn id(row: &SqliteRow, column: &str) -> Result<TaskId> {
    parsed(row, column)
}

pub(super) fn id_if_any(row: &SqliteRow, column: &str) -> Result<Option<TaskId>> {
    parsed_if_any(row, column)
}

pub(super) fn failure(row: &SqliteRow) -> Result<Option<Failure>> {
    json_if_any(row, "error")
}

/// A token as it is kept.
pub(super) fn token(token: ClaimToken) -> String {
    token.0.simple().to_string()
}

/// A value as JSON text.
pub(super) fn text(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| StoreError::Backend(format!("cannot write a value as JSON: {error}")))
}

/// A column of JSON text that may be empty.
pub(super) fn json_if_any<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<Option<T>> {
    let Some(text) = get::<Option<&str>>(row, column)? else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| unreadable(column, text, &error))
}

/// A column of JSON text.
pub(super) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T> {
    let text = get::<&str>(row, column)?;
    serde_json::from_str(text).map_err(|error| unreadable(column, text, &error))
}

pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(row: &SqliteRow, column: &str) -> Result<T> {
    let text = get::<&str>(row, column)?;
    text.parse().map_err(|error| unreadable(column, text, &error))
}

fn parsed_if_any<T: std::str::FromStr<Err: std::fmt::Display>>(row: &SqliteRow, column: &str) -> Result<Option<T>> {
    let Some(text) = get::<Option<&str>>(row, column)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error| unreadable(column, text, &error))
}

fn unreadable(column: &str, text: &str, error: &impl std::fmt::Display) -> StoreError {
    let start: String = text.chars().take(80).collect();
    StoreError::Backend(format!("column {column} holds `{start}`, which cannot be read: {error}"))
}
