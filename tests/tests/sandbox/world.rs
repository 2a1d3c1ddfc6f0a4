//! The standard library's world: there, empty, and the same in every replay.

use enginehouse::plugins::sandbox::Sandbox;
use enginehouse_tests::guests;
use enginehouse_tests::handlers::{House, sandbox, text};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What `world` of the offender must have found.
fn empty(seen: &Value) {
    assert_eq!(seen["environment"], json!([]));
    assert_eq!(seen["arguments"], json!([]));
    assert_eq!(seen["standard_input"], json!({"Ok": 0}), "closed");
    for got in ["write", "connect", "listen", "udp", "name"] {
        assert!(seen[got]["Err"].is_string(), "{got}: {seen}");
    }
    for got in ["read", "list"] {
        for result in seen[got].as_array().expect("several were tried") {
            assert!(result["Err"].is_string(), "{got}: {seen}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_finds_no_environment_no_files_and_no_sockets() {
    // Something listens: what cannot be reached is there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let house = House::new().await;
    empty(&house.seen(json!({"do": "world"})).await);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nobody called");
    assert!(!std::path::Path::new("/tmp/offence").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn describe_gets_nothing() {
    let (sandbox, loaded) = sandbox();
    let manifest = sandbox.describe(loaded).await.expect("it describes itself");
    assert_eq!(manifest, sandbox.describe(loaded).await.unwrap(), "the same text each time");
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    empty(&manifest["seen"]["world"]);
    let calls = manifest["seen"]["calls"].as_object().unwrap();
    assert_eq!(calls.len(), 24);
    for (function, code) in calls {
        assert_eq!(code, "not_granted", "{function}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_describe_that_breaks_off_is_reported_in_one_sentence() {
    let (sandbox, _) = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(guests::component("offender")).unwrap();
    for (how, words) in [
        ("describe:panics", "panicked in `offender::pick_clip`: too few clips: 0 of 2"),
        ("describe:loops ", "computed for 1.0 seconds"),
        ("describe:hogs  ", "it may have 64 MB"),
    ] {
        let (component, artifact) = (folder.path().join("altered.wasm"), folder.path().join("altered.cwasm"));
        std::fs::write(&component, guests::patched(bytes.clone(), "describe:normal", how)).unwrap();
        Sandbox::compile_file(&component, &artifact).unwrap();
        let failure = sandbox.describe(&sandbox.load(&artifact).unwrap()).await.unwrap_err();
        assert_eq!(failure.code, "describe_failed", "{failure:?}");
        assert!(failure.message.contains(words) && !failure.message.contains('\n'), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_stands_still_and_sleeping_moves_it_without_taking_time() {
    let house = House::new().await;
    let before = std::time::Instant::now();
    let held = house.task(json!({"do": "clock"})).await;
    let began = held.task.started_at.unwrap().0;
    house.clock.advance(std::time::Duration::from_secs(500));
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen["wall"], began, "the time at which the attempt began, however late the handler starts");
    assert_eq!(seen["slept"], 3_600_000);
    assert!((7_200_000..7_210_000).contains(&seen["later"].as_i64().unwrap()), "{seen}");
    assert!(before.elapsed() < std::time::Duration::from_secs(60), "two hours of sleep take no time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_result_moves_the_clock_to_its_time() {
    let house = House::new().await;
    let held = house.task(json!({"do": "script", "calls": [["settings.get"], ["clock"]]})).await;
    house.clock.advance(std::time::Duration::from_secs(5));
    let now = house.clock.now().0;
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen[1]["wall"], now);
    house.clock.advance(std::time::Duration::from_secs(5));
    let again = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen, again, "answered by the journal, at the time of the first run");
}

#[tokio::test(flavor = "multi_thread")]
async fn randomness_is_the_same_for_the_same_attempt_and_another_for_the_next() {
    let house = House::new().await;
    let mut held = house.task(json!({"do": "random"})).await;
    let first = text(house.start(&held, CancellationToken::new()).await);
    let again = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(first, again);
    held.task.attempts = 2;
    let next = text(house.start(&held, CancellationToken::new()).await);
    assert_ne!(first, next);
    assert_ne!(first, house.seen(json!({"do": "random"})).await, "another task");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_prints_and_logs_stands_in_its_tasks_log() {
    let house = House::new().await;
    let held = house.task(json!({"do": "say"})).await;
    house.start(&held, CancellationToken::new()).await.unwrap();
    let log = house.log(held.task.id);
    let lines: Vec<_> = log.iter().map(|l| (l.source.as_str(), l.level.as_str(), l.message.as_str())).collect();
    assert_eq!(
        lines,
        [
            ("stdout", "info", "to standard output"),
            ("plugin", "warn", "to the log"),
            ("stderr", "error", "to standard error, without an end"),
        ]
    );
}
