//! The SQLite store keeps what every store promises, and what only a file can break.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enginehouse::clock::{Clock, Timestamp};
use enginehouse::store::sqlite::{SqliteSettings, SqliteStore};
use enginehouse::store::{ClaimRequest, NewTask, SharedStore, Store, TaskFilter, TypeFilter, holder};
use enginehouse::task::{FailureClass, Status, TaskId};
use enginehouse_tests::store_conformance;
use enginehouse_tests::store_conformance::Fresh;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// An empty store in a folder of its own.
async fn sqlite(quarantine_after_deaths: u32) -> Fresh {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let path = folder.path().join("tasks.db");
    let clock = Clock::manual(Timestamp(1_750_000_000_000));
    let store = open(&path, &clock, quarantine_after_deaths).await;
    let another = {
        let clock = clock.clone();
        Box::new(move || {
            let (path, clock) = (path.clone(), clock.clone());
            let opening = async move { open(&path, &clock, quarantine_after_deaths).await };
            Box::pin(opening) as std::pin::Pin<Box<dyn Future<Output = SharedStore> + Send>>
        })
    };
    Fresh { store, clock, another, keep: Box::new(folder) }
}

async fn open(path: &Path, clock: &Clock, quarantine_after_deaths: u32) -> SharedStore {
    let settings = SqliteSettings { quarantine_after_deaths, ..SqliteSettings::default() };
    SqliteStore::open(path, clock.clone(), settings).await.unwrap()
}

store_conformance!(sqlite);

async fn why_not(path: &Path) -> String {
    match SqliteStore::open(path, Clock::system(), SqliteSettings::default()).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_a_store_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is a letter, not a database, and long enough not to be taken for an empty file")
        .unwrap();
    let missing = folder.path().join("no such folder").join("tasks.db");
    for path in [&text, &missing] {
        let why = why_not(path).await;
        assert!(why.contains(&path.display().to_string()) && why.lines().count() == 1, "{why}");
    }
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("this is a letter"));
}

#[tokio::test]
async fn several_may_open_a_new_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let path = path.clone();
        opening.spawn(async move {
            let store = SqliteStore::open(&path, Clock::system(), SqliteSettings::default()).await.unwrap();
            store.submit(NewTask { task_type: "work".into(), ..NewTask::default() }).await.unwrap();
        });
    }
    opening.join_all().await;
    let store = SqliteStore::open(&path, Clock::system(), SqliteSettings::default()).await.unwrap();
    assert_eq!(store.counts().await.unwrap().queued, 8);
}

/// Writes into the file of a store behind its back.
async fn damage(path: &Path, sql: &'static str, task: TaskId) {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(30));
    let mut connection = options.connect().await.unwrap();
    let changed = sqlx::query(sql).bind(task.to_string()).execute(&mut connection).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_damaged_record_hides_and_blocks_no_other_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let store = open(&path, &Clock::system(), 2).await;
    let submit = async |depends_on: Vec<TaskId>, priority| {
        let new = NewTask { task_type: "work".into(), depends_on, priority, ..NewTask::default() };
        store.submit(new).await.unwrap().id
    };
    let broken = submit(Vec::new(), 1).await;
    let behind = submit(vec![broken], 0).await;
    let sound = submit(Vec::new(), 0).await;
    damage(&path, "UPDATE tasks SET params = '{\"a\": ' WHERE id = ?", broken).await;

    let listed: Vec<TaskId> =
        store.list(TaskFilter::default()).await.unwrap().into_iter().map(|task| task.id).collect();
    assert!(listed.contains(&sound) && listed.contains(&behind) && !listed.contains(&broken), "{listed:?}");

    let ask = ClaimRequest {
        holder: holder::this_process(),
        lease: Duration::from_secs(60),
        types: TypeFilter::Any,
        limit: 8,
    };
    let claims = store.claim(ask.clone()).await.unwrap();
    assert_eq!(claims.iter().map(|claim| claim.task.id).collect::<Vec<_>>(), [sound]);
    let (ended, waited) = (store.statuses(&[broken]).await.unwrap(), store.get(behind).await.unwrap());
    assert_eq!(ended, [Some(Status::Failed)]);
    let why = waited.error.unwrap();
    assert_eq!((waited.status, why.code.as_str()), (Status::Failed, "dependency_failed"));
    assert!(why.message.contains("the record of the task is damaged"), "{why}");
    assert!(store.claim(ask).await.unwrap().is_empty());

    // Mended, it tells what it ended with.
    damage(&path, "UPDATE tasks SET params = '{}' WHERE id = ?", broken).await;
    let error = store.get(broken).await.unwrap().error.unwrap();
    assert_eq!((error.class, error.code.as_str()), (FailureClass::Internal, "unreadable_task"));
}
