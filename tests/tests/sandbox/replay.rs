//! Kill the host at any call: the attempt goes on where it was, ends as it would have, and does nothing twice.

use std::collections::BTreeMap;

use enginehouse::config::HttpRule;
use enginehouse::plugins::Services;
use enginehouse::store::{CallState, TaskFilter};
use enginehouse::task::{FailureClass, Outcome, Output};
use enginehouse_tests::dying_store::{Dies, DyingStore};
use enginehouse_tests::handlers::{Held, House, eventually, text};
use enginehouse_tests::web::Web;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// A house whose handler does a day's work: settings, children, engine jobs, a request, files.
async fn at_work(web: &Web) -> (House, Held) {
    let mut house = House::new().await;
    house.permits.grant.addresses = vec![web.address.to_string()];
    house.permits.grant.http =
        vec![HttpRule { host: "127.0.0.1".into(), methods: vec!["POST".into()], path: String::new() }];
    house.permits.settings = json!({"style": "plain", "weight": 0.1}).as_object().unwrap().clone();
    let mut held = house.task(json!({"do": "work", "url": web.url("/effect"), "id": ""})).await;
    held.task.params["id"] = json!(held.task.id);
    (house, held)
}

fn web() -> Web {
    Web::start(|asked| (200, Vec::new(), asked.body.clone()))
}

/// What the handler returned, without what is different in another task by right: ids and what follows from them.
fn facts(outcome: Outcome) -> Value {
    let Outcome::Done(Output::File { facts, .. }) = outcome else { panic!("no file: {outcome:?}") };
    Value::Object(facts)
}

/// Effects so far: completed runs by job, requests by idempotency key, children.
async fn effects(house: &House, web: &Web, held: &Held) -> (Vec<u32>, BTreeMap<String, usize>, Vec<Option<String>>) {
    let jobs = house.scribe.completed.lock().unwrap().values().copied().collect();
    let mut requests = BTreeMap::new();
    for asked in web.asked() {
        *requests.entry(asked.header("idempotency-key").unwrap_or_default().to_string()).or_default() += 1;
    }
    let filter = TaskFilter { children_of: Some(held.task.id), ..TaskFilter::default() };
    let children = house.services.store.list(filter).await.unwrap().into_iter().map(|child| child.child_key).collect();
    (jobs, requests, children)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_killed_at_any_write_goes_on_and_does_nothing_twice() {
    // The uncut run says how many writes there are and what is right.
    let server = web();
    let (house, held) = at_work(&server).await;
    let whole = facts(house.start(&held, CancellationToken::new()).await.expect("it ends well"));
    let calls = house.journal(&held).await;
    assert!(calls.iter().all(|call| call.state == CallState::Done));
    assert_eq!(calls.iter().map(|call| call.seq).collect::<Vec<_>>(), (1..=calls.len() as u64).collect::<Vec<_>>());
    let intents = calls.iter().filter(|c| ["engines.submit-generation", "http.send"].contains(&&*c.function)).count();
    assert_eq!(intents, 3);
    let writes = (calls.len() + intents) as u64;
    assert!(writes > 15, "{writes}");

    for dies in (1..=writes).flat_map(|n| [Dies::Before(n), Dies::After(n)]) {
        let server = web();
        let (mut house, held) = at_work(&server).await;
        let dying = DyingStore::new(house.services.store.clone(), dies);
        let services = Services { store: dying.clone(), ..house.services.clone() };
        tokio::select! {
            outcome = house.start_on(&services, &held, CancellationToken::new()) => panic!("{dies:?}: lived: {outcome:?}"),
            () = dying.died() => {}
        }
        drop(services);
        let before = house.journal(&held).await;
        let params = held.task.params.clone();
        let mut held = house.restart(held.task.id).await;
        held.task.params = params;
        assert_eq!(held.task.attempts, 1, "the same attempt");

        let outcome = house.start(&held, CancellationToken::new()).await;
        let outcome = facts(outcome.unwrap_or_else(|failure| panic!("{dies:?}: {failure:?}")));
        let after = house.journal(&held).await;
        let shape = |calls: &[enginehouse::store::JournalEntry]| {
            calls.iter().map(|c| (c.seq, c.function.clone())).collect::<Vec<_>>()
        };
        assert_eq!(shape(&after), shape(&calls), "{dies:?}");
        let done: Vec<_> = before.iter().filter(|call| call.state == CallState::Done).cloned().collect();
        assert_eq!(after[..done.len()], done, "{dies:?}: what was recorded stands");
        for fact in ["settings", "model", "status", "known", "read"] {
            assert_eq!(outcome[fact], whole[fact], "{dies:?}: {fact}");
        }

        let (jobs, requests, children) = effects(&house, &server, &held).await;
        assert_eq!(jobs, [1, 1], "{dies:?}: each job was brought to its end once");
        assert_eq!(requests.len(), 1, "{dies:?}: one request, however often it was sent: {requests:?}");
        assert_eq!(children, [Some("first".to_string())], "{dies:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_cut_off_is_submitted_again_once_and_its_waiter_gets_the_result() {
    let mut house = House::new().await;
    let mut held = house.task(json!({"do": "script", "calls": []})).await;
    let id = held.task.id;
    let calls = json!([
        ["engines.submit-generation", {"prompt": "hold once"}],
        ["engines.wait", format!("{id}/1/1")],
        ["engines.wait", format!("{id}/1/1")],
    ]);
    held.task.params["calls"] = calls.clone();
    tokio::select! {
        outcome = house.start(&held, CancellationToken::new()) => panic!("it did not wait: {outcome:?}"),
        () = eventually(|| house.scribe.runs() == 1) => {}
    }
    assert_eq!(house.journal(&held).await.len(), 1);
    house.services.engines.cancel_task(id).await;
    let mut held = house.restart(id).await;
    held.task.params["calls"] = calls;
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen[1]["ok"]["outputs"][0]["name"], "text.txt", "{seen}");
    assert_eq!(seen[1], seen[2], "asked twice, answered twice");
    assert_eq!(house.scribe.runs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_handler_is_answered_by_its_journal_alone() {
    let server = web();
    let (mut house, held) = at_work(&server).await;
    let first = house.start(&held, CancellationToken::new()).await.unwrap();
    let calls = house.journal(&held).await;
    let lines = house.log(held.task.id).len();
    let params = held.task.params.clone();
    let mut held = house.restart(held.task.id).await;
    held.task.params = params;
    // Nothing it did could be done now.
    house.permits.capabilities.clear();
    house.permits.settings.clear();
    let again = house.start(&held, CancellationToken::new()).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(house.journal(&held).await, calls);
    assert_eq!(house.log(held.task.id).len(), lines, "nothing is logged twice");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_must_not_be_repeated_is_not() {
    let server = web();
    let (mut house, _) = at_work(&server).await;
    let held =
        house.task(json!({"do": "script", "calls": [["http.send-once", "POST", server.url("/"), {}, "once"]]})).await;
    let dying = DyingStore::new(house.services.store.clone(), Dies::Before(2));
    let services = Services { store: dying.clone(), ..house.services.clone() };
    tokio::select! {
        outcome = house.start_on(&services, &held, CancellationToken::new()) => panic!("lived: {outcome:?}"),
        () = dying.died() => {}
    }
    let held = house.restart(held.task.id).await;
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen[0]["err"]["code"], "outcome_unknown");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_goes_another_way_is_told_where_and_gets_a_new_attempt() {
    let house = House::new().await;
    let mut held = house
        .task(json!({"do": "script", "calls": [["settings.get"], ["artifacts.write", 5], ["settings.get"]]}))
        .await;
    house.start(&held, CancellationToken::new()).await.unwrap();
    for (calls, number, words) in [
        (json!([["settings.get"], ["artifacts.write", 6], ["settings.get"]]), 2, "with other arguments"),
        (json!([["settings.get"], ["tasks.create", 1]]), 2, "now calls `tasks.create`"),
        (json!([["settings.get"]]), 2, "now returns instead"),
    ] {
        held.task.params["calls"] = calls;
        let failure = house.start(&held, CancellationToken::new()).await.unwrap_err();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "journal_diverged"));
        assert!(failure.retry, "a fresh attempt begins");
        assert!(failure.message.contains(&format!("Call {number} of attempt 1")), "{}", failure.message);
        assert!(failure.message.contains("recorded is `artifacts.write`"), "{}", failure.message);
        assert!(failure.message.contains(words), "{}", failure.message);
        assert!(failure.message.contains("offender 1.0.0"), "{}", failure.message);
    }
    held.task.params["calls"] = json!([["settings.get"], ["artifacts.write", 5], ["settings.get"], ["settings.get"]]);
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen.as_array().unwrap().len(), 4, "going on past the record is no divergence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_without_calls_leaves_no_record() {
    let house = House::new().await;
    let held = house.task(json!({"do": "random"})).await;
    house.start(&held, CancellationToken::new()).await.unwrap();
    assert!(house.journal(&held).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_becomes_an_artifact_and_comes_back_from_it() {
    let house = House::new().await;
    let file = house.services.artifacts.import_bytes(vec![9; 300_000], "large.bin").await.unwrap();
    let held = house.task(json!({"do": "script", "calls": [["artifacts.read", file.artifact]]})).await;
    for _ in 0..2 {
        let seen = text(house.start(&held, CancellationToken::new()).await);
        assert_eq!(seen[0]["ok"], 300_000);
    }
    let row = house.journal(&held).await[0].result.clone().unwrap();
    assert!(row["stored"].as_str().is_some_and(|digest| digest.starts_with("sha256:")), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_lost_its_claim_is_stopped_at_its_next_call() {
    let mut house = House::new().await;
    let old = house.task(json!({"do": "script", "calls": [["settings.get"], ["artifacts.write", 5]]})).await;
    let new = house.restart(old.task.id).await;
    let failure = house.start(&old, CancellationToken::new()).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Cancelled, "lost_claim"));
    assert!(house.journal(&old).await.is_empty(), "it changed nothing");
    house.start(&new, CancellationToken::new()).await.expect("the new holder goes on");
}
