//! Every limit stops its guest, names itself and its setting, and is of class `denied`.

use std::time::{Duration, Instant};

use enginehouse::task::{Failure, FailureClass, Outcome};
use enginehouse_tests::handlers::{Held, House, eventually, sandbox, text};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Checks the failure of a limit.
fn over(outcome: Result<Outcome, Failure>, code: &str, setting: &str) -> Failure {
    let failure = outcome.expect_err("a limit was hit");
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Denied, code), "{failure:?}");
    assert!(failure.message.contains(setting), "{}", failure.message);
    assert!(!failure.retry);
    failure
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_loops_is_stopped_within_200_ms_of_its_deadline() {
    let mut house = House::new().await;
    house.permits.plugin = "looper".into();
    house.permits.limits.cpu_seconds = 0.3;
    let failure = over(house.run(json!({"do": "loop"})).await, "cpu_limit", "plugins.limits.cpu_seconds");
    assert!(failure.message.contains("0.3 seconds"), "{}", failure.message);
    assert!(failure.detail.unwrap_or_default().contains("endless"), "the backtrace says where it looped");
    let used = sandbox().0.usage()["looper"].cpu;
    assert!((Duration::from_millis(300)..Duration::from_millis(500)).contains(&used), "{used:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_loops_gives_way_to_others_on_the_same_thread() {
    let mut house = House::new().await;
    house.permits.limits.cpu_seconds = 0.5;
    let other = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let looping = house.run(json!({"do": "loop"}));
    tokio::pin!(looping);
    tokio::select! {
        biased;
        _ = &mut looping => panic!("the loop kept the thread to itself"),
        () = other => {}
    }
    over(looping.await, "cpu_limit", "plugins.limits.cpu_seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_does_not_count_as_computing() {
    let mut house = House::new().await;
    house.permits.limits.cpu_seconds = 0.2;
    house.permits.limits.wall_seconds = 1;
    let waiting = waits_for_ever(&house).await;
    over(house.start(&waiting, CancellationToken::new()).await, "wall_limit", "plugins.limits.wall_seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_allocates_without_end_is_stopped_at_its_memory_limit() {
    let mut house = House::new().await;
    house.permits.limits.memory_mb = 24;
    let failure = over(house.run(json!({"do": "allocate"})).await, "memory_limit", "plugins.limits.memory_mb");
    assert!(failure.message.contains("24 MB"), "{}", failure.message);
    assert_eq!(text(house.run(json!({"do": "allocate", "mb": 8})).await), 8, "the next task has a memory of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_uses_can_be_read() {
    let mut house = House::new().await;
    house.permits.plugin = "measured".into();
    assert_eq!(house.seen(json!({"do": "allocate", "mb": 20})).await, 20);
    house.seen(json!({"do": "nothing"})).await;
    let usage = sandbox().0.usage()["measured"];
    assert_eq!((usage.live, usage.live_bytes, usage.starts), (0, 0, 2));
    assert!((20 << 20..40 << 20).contains(&usage.peak_bytes), "{usage:?}");
    assert!(usage.cpu > Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_prints_without_end_fills_its_share_of_the_log_and_no_more() {
    let mut house = House::new().await;
    house.permits.limits.log_kb = 8;
    house.permits.limits.cpu_seconds = 0.2;
    let held = house.task(json!({"do": "print"})).await;
    over(house.start(&held, CancellationToken::new()).await, "cpu_limit", "plugins.limits.cpu_seconds");
    let log = house.log(held.task.id);
    let printed: usize = log.iter().filter(|line| line.source == "stdout").map(|line| line.message.len() + 1).sum();
    assert!((4 << 10..=8 << 10).contains(&printed), "{printed}");
    let notes: Vec<_> = log.iter().filter(|line| line.source == "host").collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].message.contains("plugins.limits.log_kb"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_does_not_stop_a_guest() {
    let mut house = House::new().await;
    house.permits.limits.log_kb = 1;
    assert_eq!(house.seen(json!({"do": "print", "lines": 100})).await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_calls_ends_at_the_limit_and_leaves_no_more_than_that_in_the_journal() {
    let mut house = House::new().await;
    house.permits.limits.calls = 30;
    let held = house.task(json!({"do": "call_flood"})).await;
    let failure = over(house.start(&held, CancellationToken::new()).await, "call_limit", "plugins.limits.calls");
    assert!(failure.message.contains("settings.get"), "{}", failure.message);
    assert_eq!(house.journal(&held).await.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_artifacts_and_requests_have_limits_that_the_guest_is_told_of() {
    let mut house = House::new().await;
    house.permits.limits.children = 3;
    house.permits.limits.artifact_mb = 1;
    let calls =
        json!([["tasks.create", 4], ["tasks.create", 3], ["artifacts.write", 900_000], ["artifacts.write", 900_000]]);
    let seen = house.seen(json!({"do": "script", "calls": calls})).await;
    assert_eq!(seen[0]["err"]["code"], "too_many_children");
    assert_eq!(seen[0]["err"]["class"], "FailureClass::Denied");
    assert!(seen[0]["err"]["message"].as_str().unwrap().contains("plugins.limits.children"), "{seen}");
    assert_eq!(seen[1]["ok"].as_array().unwrap().len(), 3);
    assert!(seen[2]["ok"].is_string());
    assert_eq!(seen[3]["err"]["code"], "artifact_limit");
    assert!(seen[3]["err"]["message"].as_str().unwrap().contains("plugins.limits.artifact_mb"), "{seen}");

    house.permits.limits.nesting = 0;
    let seen = house.seen(json!({"do": "script", "calls": [["tasks.create", 1]]})).await;
    assert_eq!(seen[0]["err"]["code"], "nested_too_deep");
    assert!(seen[0]["err"]["message"].as_str().unwrap().contains("plugins.limits.nesting"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_stops_its_guest_in_a_loop_and_in_a_wait() {
    let mut house = House::new().await;
    house.permits.plugin = "stopped".into();
    let looping = house.task(json!({"do": "loop"})).await;
    let waiting = waits_for_ever(&house).await;
    for held in [looping, waiting] {
        let cancel = CancellationToken::new();
        let waits = held.task.params["do"] == "script";
        let at_work = || match waits {
            true => house.services.engines.load() > 0,
            false => sandbox().0.usage().get("stopped").is_some_and(|usage| usage.live_bytes > 0),
        };
        let stop = async {
            eventually(at_work).await;
            cancel.cancel();
            Instant::now()
        };
        let (outcome, cancelled) = tokio::join!(house.start(&held, cancel.clone()), stop);
        let failure = outcome.expect_err("it was cancelled");
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Cancelled, "cancelled"));
        assert!(cancelled.elapsed() < Duration::from_secs(1), "{:?}", cancelled.elapsed());
        let unended = house.journal(&held).await.iter().filter(|call| call.function == "engines.wait").count();
        assert_eq!(unended, 0, "what being stopped looks like is no result");
    }
}

/// A task that waits for an engine job without end.
async fn waits_for_ever(house: &House) -> Held {
    let mut held = house.task(json!({"do": "script", "calls": []})).await;
    let job = format!("{}/1/1", held.task.id);
    held.task.params["calls"] = json!([["engines.submit-generation", {"prompt": "hold"}], ["engines.wait", job]]);
    held
}
