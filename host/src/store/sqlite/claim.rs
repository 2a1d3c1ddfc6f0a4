//! Who holds which task: claims, their renewal, their return, and what happens when a holder is lost.
//!
//! A task whose holder is lost goes back to the queue, to be resumed in the same attempt, in the very transaction in
//! which a claimer notices. So there is one way to get a task, and it is one statement.
//!
//! The statements that every claim runs name their index: left to itself, SQLite sorts the whole queue for each. And a
//! limit that is a bare parameter would make it plan the statement anew whenever a value is bound.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;

use super::row::{self, get, task_columns};
use super::settle::{self, Fall};
use super::writer::Tx;
use crate::clock::Timestamp;
use crate::store::{Claim, ClaimRequest, ClaimToken, Renewal, Result, StoreError, TypeFilter, holder};
use crate::task::{Failure, FailureClass, Holder, Status, TaskId};

/// What an SQL `WHERE` needs to know that a token holds a task: `?`, `?` are the task and the token.
macro_rules! held_by {
    () => {
        "id = ? AND claim_token = ? AND status = 'In Progress' AND delegated IS NULL"
    };
}
pub(super) use held_by;

/// What a task loses when nobody holds it any more.
macro_rules! no_holder {
    () => {
        "lease_until = NULL, heartbeat_at = NULL, holder_machine = NULL, holder_boot = NULL, holder_pid = NULL, \
         holder_started = NULL"
    };
}
pub(super) use no_holder;

/// Whether the type is suitable: `?1` is `any`, `only` or `except`, `?2` the types as a JSON array.
macro_rules! suitable {
    () => {
        "(?1 = 'any' OR (task_type IN (SELECT value FROM json_each(?2))) = (?1 = 'only'))"
    };
}

/// A type filter as the two parameters of `suitable!`.
struct Suitable {
    mode: &'static str,
    types: String,
}

impl Suitable {
    fn of(filter: &TypeFilter) -> Result<Self> {
        Ok(match filter {
            TypeFilter::Any => Self { mode: "any", types: "[]".into() },
            TypeFilter::Only(types) => Self { mode: "only", types: row::text(types)? },
            TypeFilter::Except(types) => Self { mode: "except", types: row::text(types)? },
        })
    }
}

/// Claims ready tasks. The rows, in no order, are for [`granted`].
pub(super) async fn claim(tx: &mut Tx, ask: ClaimRequest) -> Result<Vec<SqliteRow>> {
    let limit = i64::try_from(ask.limit).unwrap_or(i64::MAX);
    let suitable = Suitable::of(&ask.types)?;
    if tx.looked_for.as_ref().is_none_or(|(me, types)| *me != ask.holder || *types != ask.types) {
        requeue_lost(tx, &ask.holder, &suitable).await?;
        tx.looked_for = Some((ask.holder.clone(), ask.types));
    }
    let query = sqlx::query(concat!(
        "UPDATE tasks SET status = 'In Progress', attempts = attempts + (1 - resume), start_mark = progress_mark, \
         claim_token = lower(hex(randomblob(16))), lease_until = ?3, heartbeat_at = ?4, holder_machine = ?5, \
         holder_boot = ?6, holder_pid = ?7, holder_started = ?8, error = NULL, \
         started_at = iif(resume, started_at, ?4), route = iif(resume, route, NULL), \
         progress = iif(resume, progress, NULL) \
         WHERE id IN (SELECT id FROM tasks INDEXED BY tasks_ready WHERE status = 'Queued' AND ready = 1 AND ",
        suitable!(),
        " ORDER BY priority DESC, created_at, id LIMIT ?9 + 0) RETURNING claim_token, resume, ",
        task_columns!()
    ));
    let query = query
        .bind(suitable.mode)
        .bind(suitable.types)
        .bind(tx.now.plus(ask.lease).0)
        .bind(tx.now.0)
        .bind(ask.holder.machine)
        .bind(ask.holder.boot)
        .bind(ask.holder.pid)
        .bind(ask.holder.started.cast_signed())
        .bind(limit);
    tx.change_returning(query).await
}

/// A row that was claimed and cannot be read: nobody can work on it.
pub(super) struct Unreadable {
    /// As it stands in the row.
    pub id: String,
    pub why: StoreError,
}

/// Claims out of the rows of [`claim`], first things first, and what cannot be read of them, for [`set_aside`].
pub(super) fn granted(rows: &[SqliteRow]) -> (Vec<Claim>, Vec<Unreadable>) {
    let one = |row: &SqliteRow| {
        Ok(Claim { task: row::task(row)?, token: token(row)?, resumed: get::<i64>(row, "resume")? != 0 })
    };
    let (mut claims, mut unreadable) = (Vec::new(), Vec::new());
    for row in rows {
        match one(row) {
            Ok(claim) => claims.push(claim),
            Err(why) => unreadable.push(Unreadable { id: row::raw_id(row), why }),
        }
    }
    claims.sort_by_key(|claim| (std::cmp::Reverse(claim.task.priority), claim.task.created_at, claim.task.id));
    (claims, unreadable)
}

/// Fails a task whose row cannot be read, so that it is not claimed for ever and what hangs on it does not wait for ever.
pub(super) async fn set_aside(tx: &mut Tx, broken: Unreadable) -> Result<()> {
    let failure = Failure::internal(
        "unreadable_task",
        format!(
            "the record of the task is damaged ({}): submit it again, and see whether the disk of the task store is sound",
            broken.why
        ),
    );
    if let Ok(task) = broken.id.parse() {
        return settle::fell(tx, Fall { task, status: Status::Failed, failure, by: None }).await;
    }
    // Not even its id is one: nothing can hang on it.
    let query = sqlx::query(concat!(
        "UPDATE tasks SET status = 'Failed', error = ?, finished_at = ?, ",
        no_holder!(),
        " WHERE id = ? AND status IN ('Queued', 'In Progress')"
    ));
    tx.change(query.bind(row::text(&failure)?).bind(tx.now.0).bind(broken.id)).await?;
    Ok(())
}

fn token(row: &SqliteRow) -> Result<ClaimToken> {
    row::parsed(row, "claim_token").map(ClaimToken)
}

/// Sends tasks back to the queue whose lease has run out or whose holder is dead. A death is charged, and may be the
/// last one that the task is allowed.
async fn requeue_lost(tx: &mut Tx, me: &Holder, suitable: &Suitable) -> Result<()> {
    // Nearly always one row, and it says that all is well.
    let query = sqlx::query(
        "SELECT holder_machine, holder_boot, holder_pid, holder_started, min(lease_until) AS first_end FROM tasks \
         INDEXED BY tasks_held WHERE status = 'In Progress' AND delegated IS NULL \
         GROUP BY holder_machine, holder_boot, holder_pid, holder_started",
    );
    for holding in tx.rows(query).await? {
        let Some(holder) = row::holder(&holding)? else { continue };
        let gone = holder::is_gone(&holder, me);
        if gone || get::<i64>(&holding, "first_end")? <= tx.now.0 {
            requeue_from(tx, &holder, gone, suitable).await?;
        }
    }
    Ok(())
}

async fn requeue_from(tx: &mut Tx, holder: &Holder, gone: bool, suitable: &Suitable) -> Result<()> {
    let query = sqlx::query(concat!(
        "SELECT id, attempts, deaths, death_notes, progress_mark > start_mark AS progressed, EXISTS (SELECT 1 FROM tasks \
         AS child WHERE child.parent_id = tasks.id AND child.status IN ('Queued', 'In Progress')) AS waits \
         FROM tasks INDEXED BY tasks_held WHERE status = 'In Progress' AND delegated IS NULL AND ",
        suitable!(),
        " AND holder_machine = ?3 AND holder_boot = ?4 AND holder_pid = ?5 AND holder_started = ?6 \
         AND (?7 OR lease_until <= ?8) ORDER BY priority DESC, created_at, id"
    ));
    let query = query
        .bind(suitable.mode)
        .bind(suitable.types.clone())
        .bind(holder.machine.clone())
        .bind(holder.boot.clone())
        .bind(holder.pid)
        .bind(holder.started.cast_signed())
        .bind(gone)
        .bind(tx.now.0);
    for lost in tx.rows(query).await? {
        let task = row::id(&lost, "id")?;
        // A task with open children is taken to have waited for them, and those that wait are never charged.
        if gone && !get::<bool>(&lost, "progressed")? && !get::<bool>(&lost, "waits")? {
            let deaths = Deaths::one_more(&lost, holder, tx.now)?;
            deaths.charge(tx, task).await?;
            if tx.quarantine_after_deaths > 0 && deaths.count >= tx.quarantine_after_deaths {
                let failure = deaths.failure(tx, task).await?;
                settle::fell(tx, Fall { task, status: Status::Failed, failure, by: None }).await?;
                continue;
            }
        }
        let query = sqlx::query(concat!(
            "UPDATE tasks SET status = 'Queued', resume = 1, claim_token = NULL, ",
            no_holder!(),
            " WHERE id = ?"
        ));
        tx.change(query.bind(task.to_string())).await?;
    }
    Ok(())
}

/// Consecutive deaths of a task's holders without a new result in between.
struct Deaths {
    count: u32,
    attempt: u32,
    /// One sentence each.
    notes: Vec<String>,
}

impl Deaths {
    fn one_more(lost: &SqliteRow, holder: &Holder, now: Timestamp) -> Result<Self> {
        // For people alone: damaged ones must not keep the task, and with it every claim, from going on.
        let mut notes: Vec<String> = row::json_if_any(lost, "death_notes").ok().flatten().unwrap_or_default();
        let attempt = get(lost, "attempts")?;
        notes
            .push(format!("process {} on {} was found gone at {now} in attempt {attempt}", holder.pid, holder.machine));
        Ok(Self { count: get::<u32>(lost, "deaths")?.saturating_add(1), attempt, notes })
    }

    async fn charge(&self, tx: &mut Tx, task: TaskId) -> Result<()> {
        let query = sqlx::query("UPDATE tasks SET deaths = ?, death_notes = ? WHERE id = ?");
        tx.change(query.bind(self.count).bind(row::text(&self.notes)?).bind(task.to_string())).await?;
        Ok(())
    }

    async fn failure(&self, tx: &mut Tx, task: TaskId) -> Result<Failure> {
        let query = sqlx::query(
            "SELECT seq, function, state FROM journal WHERE task_id = ? AND attempt = ? ORDER BY seq DESC LIMIT 1",
        );
        let last = match tx.row(query.bind(task.to_string()).bind(self.attempt)).await? {
            Some(call) => format!(
                "Its last recorded call was number {}, {} ({}).",
                get::<i64>(&call, "seq")?,
                get::<&str>(&call, "function")?,
                get::<&str>(&call, "state")?
            ),
            None => "It had recorded no call.".to_owned(),
        };
        let message = format!(
            "the task is set aside: its host died {} times in a row while it ran, without a new result in between ({}). \
             {last} `enginehouse tasks retry {task}` releases it.",
            self.count,
            self.notes.join("; ")
        );
        Ok(Failure::new(FailureClass::Quarantined, "quarantined", message))
    }
}

/// Renews leases and says of each claim what became of it, in the order given.
pub(super) async fn renew(tx: &mut Tx, held: Vec<(TaskId, ClaimToken)>, lease: Duration) -> Result<Vec<Renewal>> {
    let pairs: Vec<(String, String)> =
        held.iter().map(|(task, token)| (task.to_string(), row::token(*token))).collect();
    let pairs = row::text(&pairs)?;
    let query = sqlx::query(
        "UPDATE tasks SET lease_until = ?1, heartbeat_at = ?2 FROM json_each(?3) AS pair \
         WHERE tasks.id = pair.value ->> 0 AND claim_token = pair.value ->> 1 AND status = 'In Progress' \
         AND delegated IS NULL",
    );
    let renewed = tx.change(query.bind(tx.now.plus(lease).0).bind(tx.now.0).bind(pairs.clone())).await?;
    if usize::try_from(renewed).is_ok_and(|renewed| renewed == held.len()) {
        return Ok(vec![Renewal::Held; held.len()]);
    }
    let query = sqlx::query(
        "SELECT DISTINCT tasks.id, claim_token, status, delegated IS NOT NULL AS delegated FROM json_each(?) AS pair \
         JOIN tasks ON tasks.id = pair.value ->> 0 AND claim_token = pair.value ->> 1",
    );
    let mut known = HashMap::new();
    for found in tx.rows(query.bind(pairs)).await? {
        let renewal = match row::status(&found)? {
            status if status.is_final() => Renewal::Ended(status),
            Status::InProgress if !get::<bool>(&found, "delegated")? => Renewal::Held,
            _ => Renewal::Lost,
        };
        known.insert((row::id(&found, "id")?, token(&found)?), renewal);
    }
    Ok(held.iter().map(|claim| known.get(claim).copied().unwrap_or(Renewal::Lost)).collect())
}

/// Gives a task back in the same attempt.
pub(super) async fn release(tx: &mut Tx, task: TaskId, token: ClaimToken) -> Result<()> {
    let query = sqlx::query(concat!(
        "UPDATE tasks SET status = 'Queued', resume = 1, claim_token = NULL, ",
        no_holder!(),
        " WHERE ",
        held_by!()
    ));
    if tx.change(query.bind(task.to_string()).bind(row::token(token))).await? == 0 {
        return Err(lost(tx, task, token).await?);
    }
    Ok(())
}

/// Notes the route of the attempt, given as JSON.
pub(super) async fn set_route(tx: &mut Tx, task: TaskId, token: ClaimToken, route: String) -> Result<()> {
    note(tx, concat!("UPDATE tasks SET route = ? WHERE ", held_by!()), route, task, token).await
}

/// Notes what the task is doing, given as JSON.
pub(super) async fn set_progress(tx: &mut Tx, task: TaskId, token: ClaimToken, progress: String) -> Result<()> {
    note(tx, concat!("UPDATE tasks SET progress = ? WHERE ", held_by!()), progress, task, token).await
}

async fn note(tx: &mut Tx, sql: &'static str, value: String, task: TaskId, token: ClaimToken) -> Result<()> {
    if tx.change(sqlx::query(sql).bind(value).bind(task.to_string()).bind(row::token(token))).await? == 0 {
        return Err(lost(tx, task, token).await?);
    }
    Ok(())
}

/// Refuses unless the token holds the task; the attempt that runs.
pub(super) async fn held(tx: &mut Tx, task: TaskId, token: ClaimToken) -> Result<u32> {
    let query = sqlx::query(concat!("SELECT attempts FROM tasks WHERE ", held_by!()));
    match tx.row(query.bind(task.to_string()).bind(row::token(token))).await? {
        Some(found) => get(&found, "attempts"),
        None => Err(lost(tx, task, token).await?),
    }
}

/// Why the token does not hold the task.
pub(super) async fn lost(tx: &mut Tx, task: TaskId, token: ClaimToken) -> Result<StoreError> {
    let query = sqlx::query("SELECT status, claim_token, delegated IS NOT NULL AS delegated FROM tasks WHERE id = ?");
    let Some(found) = tx.row(query.bind(task.to_string())).await? else { return Ok(StoreError::NotFound(task)) };
    let status = row::status(&found)?;
    let reason = match get::<Option<&str>>(&found, "claim_token")? {
        Some(other) if other != row::token(token) => "another claim holds it, or held it last".to_owned(),
        _ if status.is_final() => format!("it is {status} already"),
        _ if get(&found, "delegated")? => "it was handed to its children".to_owned(),
        _ => format!("it went back to the queue and is {status}"),
    };
    Ok(StoreError::LostClaim { task, reason })
}
