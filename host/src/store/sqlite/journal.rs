//! The journal: what a handler asked of its host, and what it was told.

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteRow;

use super::claim;
use super::refused;
use super::row::{self, get};
use super::writer::Tx;
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::store::{CallState, ClaimToken, JournalEntry, Result, StoreError};
use crate::task::TaskId;

/// Writes a call, or brings it from intent to done. A call that is done stays as it is.
pub(super) async fn write(
    tx: &mut Tx,
    task: TaskId,
    token: ClaimToken,
    entry: JournalEntry,
    result: Option<String>,
) -> Result<()> {
    let query = sqlx::query(
        "SELECT attempts, claim_token, status = 'In Progress' AND delegated IS NULL AS open, function, arguments_digest, \
         state, result FROM tasks LEFT JOIN journal ON task_id = id AND attempt = ?1 AND seq = ?2 WHERE id = ?3",
    );
    let seq = i64::try_from(entry.seq).unwrap_or(i64::MAX);
    let query = query.bind(entry.attempt).bind(seq).bind(task.to_string());
    let found = tx.row(query).await?.ok_or(StoreError::NotFound(task))?;
    let held = get::<Option<&str>>(&found, "claim_token")? == Some(row::token(token).as_str());
    if !held || !get::<bool>(&found, "open")? {
        return Err(claim::lost(tx, task, token).await?);
    }
    let running: u32 = get(&found, "attempts")?;
    if running != entry.attempt {
        return Err(refused(
            "other_attempt",
            format!(
                "task {task} runs attempt {running}: a call of attempt {} cannot be recorded any more",
                entry.attempt
            ),
        ));
    }
    let recorded = recorded(&found, task, &entry)?;
    if recorded == Some(CallState::Done) {
        let same = row::json_if_any(&found, "result")? == entry.result;
        return if entry.state == CallState::Intent || same {
            Ok(())
        } else {
            Err(refused(
                "call_already_done",
                format!(
                    "call {} of task {task} (attempt {}, {}) has another result on record, which stands",
                    entry.seq, entry.attempt, entry.function
                ),
            ))
        };
    }
    let query = sqlx::query(
        "INSERT INTO journal (task_id, attempt, seq, function, arguments_digest, arguments, state, result, at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET state = excluded.state, result = excluded.result, \
         at = excluded.at",
    );
    let query = query
        .bind(task.to_string())
        .bind(entry.attempt)
        .bind(seq)
        .bind(entry.function)
        .bind(entry.arguments_digest.to_string())
        .bind(entry.arguments)
        .bind(state_text(entry.state))
        .bind(result)
        .bind(entry.at.0);
    tx.change(query).await?;
    if entry.state == CallState::Done {
        // A new result: whatever killed its holders before, the task gets on.
        let query = sqlx::query(
            "UPDATE tasks SET progress_mark = progress_mark + 1, deaths = 0, death_notes = NULL WHERE id = ?",
        );
        tx.change(query.bind(task.to_string())).await?;
    }
    Ok(())
}

/// How far the call has come on record. Refused when the record is of another call.
fn recorded(found: &SqliteRow, task: TaskId, entry: &JournalEntry) -> Result<Option<CallState>> {
    let Some(state) = get::<Option<&str>>(found, "state")? else { return Ok(None) };
    let state = state_of(state)?;
    let digest: Digest = row::parsed(found, "arguments_digest")?;
    let function: &str = get(found, "function")?;
    if digest != entry.arguments_digest || function != entry.function {
        return Err(refused(
            "effect_key_reused",
            format!(
                "call {} of task {task} (attempt {}) is on record as {function} with arguments {}, and was now made as {} \
                 with arguments {}: a number is never used for two calls",
                entry.seq,
                entry.attempt,
                digest.short(),
                entry.function,
                entry.arguments_digest.short()
            ),
        ));
    }
    Ok(Some(state))
}

/// The journal of one attempt, in order.
pub(super) async fn read(pool: &SqlitePool, task: TaskId, attempt: u32) -> Result<Vec<JournalEntry>> {
    let query = sqlx::query(
        "SELECT attempt, seq, function, arguments_digest, arguments, state, result, at FROM journal \
         WHERE task_id = ? AND attempt = ? ORDER BY seq",
    );
    let rows = query.bind(task.to_string()).bind(attempt).fetch_all(pool).await?;
    rows.iter().map(entry).collect()
}

fn entry(row: &SqliteRow) -> Result<JournalEntry> {
    Ok(JournalEntry {
        attempt: get(row, "attempt")?,
        seq: get(row, "seq")?,
        function: get(row, "function")?,
        arguments_digest: row::parsed(row, "arguments_digest")?,
        arguments: get(row, "arguments")?,
        state: state_of(get(row, "state")?)?,
        result: row::json_if_any(row, "result")?,
        at: Timestamp(get(row, "at")?),
    })
}

fn state_text(state: CallState) -> &'static str {
    match state {
        CallState::Intent => "intent",
        CallState::Done => "done",
    }
}

fn state_of(text: &str) -> Result<CallState> {
    match text {
        "intent" => Ok(CallState::Intent),
        "done" => Ok(CallState::Done),
        other => Err(StoreError::Backend(format!("`{other}` is no state of a recorded call"))),
    }
}
