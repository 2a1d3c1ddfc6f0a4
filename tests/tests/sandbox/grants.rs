//! Capabilities: asked for and granted, or not there.

use std::sync::atomic::Ordering;

use enginehouse_tests::handlers::{House, child_of, eventually, text};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn without_grants_every_call_is_denied_but_settings() {
    let mut house = House::new().await;
    house.permits.capabilities.clear();
    let seen = house.seen(json!({"do": "all_calls"})).await;
    let calls = seen.as_object().unwrap();
    assert_eq!(calls.len(), 24);
    for (function, code) in calls {
        let expected = if function == "settings.get" { "ok" } else { "not_granted" };
        assert_eq!(code, expected, "{function}");
    }
    assert!(house.scribe.completed.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_says_whether_the_manifest_or_the_operator_has_to_change() {
    let mut house = House::new().await;
    house.permits.capabilities.clear();
    let ask = json!({"do": "script", "calls": [["tasks.get", "x"]]});
    let operator = house.seen(ask.clone()).await[0]["err"].clone();
    house.permits.wanted.clear();
    let manifest = house.seen(ask).await[0]["err"].clone();
    for (failure, words) in
        [(&operator, "the operator did not grant it"), (&manifest, "its manifest does not ask for it")]
    {
        assert_eq!(
            (failure["class"].as_str(), failure["code"].as_str()),
            (Some("FailureClass::Denied"), Some("not_granted"))
        );
        let message = failure["message"].as_str().unwrap();
        assert!(message.contains(words) && message.contains("`tasks`") && message.contains("offender"), "{message}");
    }
    assert!(operator["message"].as_str().unwrap().contains("[plugins.grants.offender]"), "{operator}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_what_the_operator_set() {
    let mut house = House::new().await;
    house.permits.settings = json!({"style": "plain"}).as_object().unwrap().clone();
    let seen = house.seen(json!({"do": "script", "calls": [["settings.get"]]})).await;
    assert_eq!(seen[0]["ok"], json!({"style": "plain"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_names_its_engine_never_runs_on_the_other_one() {
    let house = House::new().await;
    let calls = json!([["engines.submit-generation", {"prompt": "x"}], ["engines.submit-workflow", {}]]);
    let seen = house.seen(json!({"do": "script", "engine": "comfyui", "calls": calls})).await;
    assert_eq!(seen[0]["err"]["code"], "engine_mismatch");
    assert_eq!(seen[1]["err"]["class"], "FailureClass::Unavailable", "asked, but this house has none: {seen}");
    assert!(house.scribe.completed.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_report_and_belong_to_their_task() {
    let house = House::new().await;
    let held = house.task(json!({"do": "script", "calls": []})).await;
    let id = held.task.id;
    let mut held = held;
    held.task.params["calls"] = json!([
        ["engines.submit-generation", {"prompt": "x"}],
        ["engines.wait", format!("{id}/1/1")],
        ["engines.wait", format!("{}/1/1", enginehouse::task::TaskId::random())],
        ["engines.wait", "nonsense"],
    ]);
    let seen = text(house.start(&held, CancellationToken::new()).await);
    assert_eq!(seen[0]["ok"], format!("{id}/1/1"));
    assert_eq!(seen[1]["ok"]["outputs"][0]["name"], "text.txt");
    assert_eq!(seen[2]["err"]["code"], "unknown_job");
    assert_eq!(seen[3]["err"]["code"], "unknown_job");
    let log = house.log(id);
    let steps: Vec<_> = log.iter().filter(|line| line.source == "engine").map(|line| line.message.as_str()).collect();
    assert_eq!(steps, ["one: started", "one: writing line 1 of 2"], "one line for each kind of step");
}

#[tokio::test(flavor = "multi_thread")]
async fn relatives_can_be_looked_at_others_only_where_their_id_was_given_and_children_alone_changed() {
    let house = House::new().await;
    let stranger = house.task(json!({"do": "nothing", "secret": 1})).await.task.id;
    let id = stranger.to_string();
    let (head, tail) = id.split_at(20);
    let mut held = house.task(json!({"do": "script", "calls": []})).await;
    held.task.params["calls"] = json!([
        ["tasks.create", 2],
        ["tasks.children", held.task.id],
        ["tasks.get", head, tail],
        ["artifacts.resolve", format!("task:{head}"), tail],
    ]);
    let seen = text(house.start(&held, CancellationToken::new()).await);
    let children = seen[1]["ok"].as_array().unwrap();
    assert_eq!(children.len(), 2);
    assert_eq!(children[0]["key"], "child 0");
    assert_eq!((&children[0]["status"], &children[0]["output"]), (&json!("Queued"), &Value::Null));
    for denied in &seen.as_array().unwrap()[2..] {
        assert_eq!(denied["err"]["code"], "task_not_found", "{denied}");
    }

    let looks = json!([["tasks.get", head, tail], ["artifacts.resolve", format!("task:{head}"), tail]]);
    let given = house.seen(json!({"do": "script", "of": [{"task": id}], "calls": looks})).await;
    let parent = house.task(json!({"do": "nothing", "of": format!("task:{id}")})).await;
    let child = child_of(&house, &parent, "child", json!({"do": "script", "calls": looks})).await;
    let held = house.claim(child).await;
    let to_parent = text(house.start(&held, CancellationToken::new()).await);
    for seen in [given, to_parent] {
        assert_eq!(seen[0]["ok"]["params"]["secret"], 1, "{seen}");
        assert_eq!(seen[1]["err"]["code"], "task_not_complete", "{seen}");
    }
    let more = json!([["tasks.wait", id], ["tasks.children", id], ["tasks.cancel", id], ["tasks.remove", id]]);
    let seen = house.seen(json!({"do": "script", "calls": more})).await;
    for denied in seen.as_array().unwrap() {
        assert_eq!(denied["err"]["code"], "task_not_found", "{denied}");
    }
    let stranger = house.services.store.get(stranger).await.unwrap();
    assert!(!stranger.status.is_final(), "nobody touched it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_waits_for_its_children_and_gets_their_results() {
    let house = House::new().await;
    let parent = house.task(json!({"do": "script", "calls": [["tasks.create", 1], ["tasks.wait", "?"]]})).await;
    let child = child_of(&house, &parent, "child 0", json!({"do": "nothing", "key": "child 0"})).await;
    let mut waiting = parent.clone();
    waiting.task.params["calls"][1][1] = json!(child);
    let finish = async {
        eventually(|| house.waiting.load(Ordering::Acquire)).await;
        let held = house.claim(child).await;
        assert!(house.waiting.load(Ordering::Acquire), "a child that runs has not ended");
        let output = enginehouse::task::Output::Text { text: "done".into() };
        house.services.store.complete(child, held.token, output).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(house.start(&waiting, CancellationToken::new()), finish);
    let seen = text(outcome);
    assert_eq!(seen[0]["ok"], json!([child]), "the key is known: the same child");
    assert_eq!(
        (&seen[1]["ok"][0]["status"], &seen[1]["ok"][0]["output"]),
        (&json!("Complete"), &json!({"text": "done"}))
    );
    assert!(!house.waiting.load(Ordering::Acquire), "it waits no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_with_the_start_and_with_a_child_that_is_taken_away() {
    let house = House::new().await;
    let held = house.task(json!({"do": "script", "calls": [["tasks.wait", "?"]]})).await;
    let child = child_of(&house, &held, "child", json!({"do": "nothing"})).await;
    let mut waiting = held.clone();
    waiting.task.params["calls"][0][1] = json!(child);

    let cancel = CancellationToken::new();
    let stop = async {
        eventually(|| house.waiting.load(Ordering::Acquire)).await;
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(house.start(&waiting, cancel.clone()), stop);
    assert_eq!(outcome.unwrap_err().code, "cancelled");
    assert!(!house.waiting.load(Ordering::Acquire), "stopped, it waits for nothing");

    let remove = async {
        eventually(|| house.waiting.load(Ordering::Acquire)).await;
        house.services.store.remove_child(held.task.id, held.token, child).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(house.start(&waiting, CancellationToken::new()), remove);
    assert_eq!(text(outcome)[0]["err"]["code"], "task_not_found");
    assert!(!house.waiting.load(Ordering::Acquire));
}
