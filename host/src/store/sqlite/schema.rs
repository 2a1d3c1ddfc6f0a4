//! The file: its tables, its version, and how a connection to it is opened.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use super::SqliteSettings;
use crate::store::{Result, StoreError};

/// Version of the tables below, kept in the file (`PRAGMA user_version`).
const VERSION: i64 = 1;

/// `ready`: every dependency is complete. `resume`: the next claim goes on with the present attempt instead of starting
/// one. `start_mark`: what `progress_mark` (journal results of all attempts) was when the present holder began.
/// `felled_by`: the task whose end took this one along. The token of a task that has ended or was delegated stays, so
/// that its holder can be told what became of it.
const TABLES: &str = "
CREATE TABLE tasks (
    id TEXT NOT NULL PRIMARY KEY,
    task_type TEXT NOT NULL,
    params TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('Queued', 'In Progress', 'Complete', 'Failed', 'Cancelled')),
    ready INTEGER NOT NULL,
    resume INTEGER NOT NULL DEFAULT 0,
    priority INTEGER NOT NULL,
    project_id TEXT,
    parent_id TEXT REFERENCES tasks (id),
    child_key TEXT,
    depth INTEGER NOT NULL,
    idempotency_key TEXT UNIQUE,
    attempts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    death_notes TEXT,
    progress_mark INTEGER NOT NULL DEFAULT 0,
    start_mark INTEGER NOT NULL DEFAULT 0,
    claim_token TEXT,
    lease_until INTEGER,
    heartbeat_at INTEGER,
    holder_machine TEXT,
    holder_boot TEXT,
    holder_pid INTEGER,
    holder_started INTEGER,
    route TEXT,
    progress TEXT,
    delegated TEXT,
    output TEXT,
    error TEXT,
    felled_by TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER
) STRICT;
CREATE INDEX tasks_ready ON tasks (priority DESC, created_at, id, task_type) WHERE status = 'Queued' AND ready = 1;
CREATE INDEX tasks_held ON tasks (holder_machine, holder_boot, holder_pid, holder_started, lease_until)
    WHERE status = 'In Progress' AND delegated IS NULL;
CREATE INDEX tasks_by_status ON tasks (status, created_at, id);
CREATE INDEX tasks_by_age ON tasks (created_at, id);
CREATE UNIQUE INDEX tasks_children ON tasks (parent_id, child_key) WHERE parent_id IS NOT NULL;

CREATE TABLE task_deps (
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    depends_on TEXT NOT NULL REFERENCES tasks (id),
    PRIMARY KEY (task_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX task_deps_awaited ON task_deps (depends_on, task_id);

CREATE TABLE journal (
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    function TEXT NOT NULL,
    arguments_digest TEXT NOT NULL,
    arguments TEXT,
    state TEXT NOT NULL CHECK (state IN ('intent', 'done')),
    result TEXT,
    at INTEGER NOT NULL,
    PRIMARY KEY (task_id, attempt, seq)
) STRICT, WITHOUT ROWID;
";

/// How a connection that writes is opened.
pub(super) fn writing(path: &Path, settings: &SqliteSettings) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // Acknowledged means durable: the log is synced with every commit.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(settings.busy_timeout())
        .disable_statement_logging()
}

/// How a connection that only reads is opened. The file must exist.
pub(super) fn reading(path: &Path, settings: &SqliteSettings) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(settings.busy_timeout())
        .disable_statement_logging()
}

/// Opens the writing connection and makes sure of the tables; a new file gets them. A file of a newer version is
/// refused, and so is one that belongs to another program.
pub(super) async fn open(path: &Path, settings: &SqliteSettings) -> Result<SqliteConnection> {
    let mut connection = connect(path, settings).await.map_err(|error| cannot(path, &error))?;
    // A second process may be making the same file at this moment: look and act under the write lock.
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.map_err(|error| cannot(path, &error))?;
    let made = establish(&mut connection, path).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = sqlx::query(end).execute(&mut connection).await.map_err(|error| cannot(path, &error));
    made.and(ended)?;
    Ok(connection)
}

/// The change to write-ahead logging takes a lock that SQLite does not wait for, so two processes that open a new file
/// together may get in each other's way: the later one tries again.
async fn connect(path: &Path, settings: &SqliteSettings) -> sqlx::Result<SqliteConnection> {
    const PAUSE_MS: u64 = 20;
    let mut waited_ms = 0;
    loop {
        match SqliteConnection::connect_with(&writing(path, settings)).await {
            Err(error) if is_busy(&error) && waited_ms < settings.busy_timeout_ms => {
                tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
                waited_ms += PAUSE_MS;
            }
            done => return done,
        }
    }
}

async fn establish(connection: &mut SqliteConnection, path: &Path) -> Result<()> {
    let version: i64 = sqlx::query("PRAGMA user_version").fetch_one(&mut *connection).await?.try_get(0)?;
    if version == VERSION {
        return Ok(());
    }
    if version > VERSION {
        return Err(StoreError::Backend(format!(
            "{} was written by a newer Enginehouse (schema version {version}; this one knows up to {VERSION}): run that \
             release, or choose another home folder",
            path.display()
        )));
    }
    let tables: i64 =
        sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?.try_get(0)?;
    if version != 0 || tables != 0 {
        return Err(StoreError::Backend(format!(
            "{} is a database, but not a task store of Enginehouse: choose another home folder",
            path.display()
        )));
    }
    sqlx::raw_sql(TABLES).execute(&mut *connection).await?;
    // A pragma takes no parameters.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {VERSION}"))).execute(&mut *connection).await?;
    Ok(())
}

fn cannot(path: &Path, error: &sqlx::Error) -> StoreError {
    StoreError::Backend(format!("cannot open {}: {error}", path.display()))
}

/// Somebody else holds a lock: SQLITE_BUSY (5) with any extension, or SQLITE_LOCKED (6).
fn is_busy(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .and_then(|code| code.parse::<i32>().ok())
        .is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn file_with(path: &Path, sql: &'static str) {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn why_not(path: &Path) -> String {
        open(path, &SqliteSettings::default()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_newer_file_is_refused_in_one_sentence_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.db");
        file_with(&path, "CREATE TABLE tasks (of_the_future TEXT); PRAGMA user_version = 7").await;
        let why = why_not(&path).await;
        let expected = format!(
            "the task store failed: {} was written by a newer Enginehouse (schema version 7; this one knows up to 1): run \
             that release, or choose another home folder",
            path.display()
        );
        assert_eq!(why, expected);
        file_with(&path, "INSERT INTO tasks (of_the_future) VALUES ('still here')").await;
    }

    #[tokio::test]
    async fn a_database_of_another_program_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photos.db");
        file_with(&path, "CREATE TABLE photos (name TEXT)").await;
        let why = why_not(&path).await;
        assert!(why.contains("photos.db is a database, but not a task store"), "{why}");
        file_with(&path, "INSERT INTO photos VALUES ('still here')").await;
    }

    #[tokio::test]
    async fn what_is_committed_is_synced_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut connection = open(&folder.path().join("tasks.db"), &SqliteSettings::default()).await.unwrap();
        for (pragma, expected) in [("synchronous", "2"), ("journal_mode", "wal"), ("foreign_keys", "1")] {
            let sql = sqlx::AssertSqlSafe(format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"));
            let found: String = sqlx::query(sql).fetch_one(&mut connection).await.unwrap().try_get(0).unwrap();
            assert_eq!(found, expected, "{pragma}");
        }
    }
}
