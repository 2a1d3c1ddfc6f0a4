//! How handlers end, well and not.

use enginehouse::task::{FailureClass, Outcome, Output};
use enginehouse_tests::handlers::{House, text};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_told_with_its_message_its_place_and_its_backtrace() {
    let house = House::new().await;
    let failure = house.run(json!({"do": "panic"})).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "trap"));
    assert!(failure.message.contains("The plugin offender panicked in `offender::pick_clip`"), "{}", failure.message);
    assert!(failure.message.contains("too few clips: 0 of 2"), "{}", failure.message);
    assert!(!failure.message.contains('\n'), "one line: {}", failure.message);
    let detail = failure.detail.unwrap();
    assert!(detail.contains("offender.wasm!offender::pick_clip\n"), "symbols without hashes: {detail}");
    assert!(detail.contains("pick_clip") && detail.contains("panicked at"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_traps_say_in_words_what_happened() {
    let house = House::new().await;
    for (offence, words) in
        [("abort", "must never be reached"), ("recurse", "stack overflowed"), ("exit", "exit status")]
    {
        let failure = house.run(json!({ "do": offence })).await.unwrap_err();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "trap"), "{failure:?}");
        assert!(failure.message.contains(words), "{offence}: {}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_keeps_what_the_plugin_said_and_gets_a_proper_code() {
    let house = House::new().await;
    let failure = house.run(json!({"do": "fail", "code": "Too Few Clips"})).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::InvalidInput, "too_few_clips"));
    assert_eq!(failure.message, "as I was told");
    assert!(failure.retry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_checked_named_safely_and_typed_by_its_content() {
    let house = House::new().await;
    let picture =
        house.services.artifacts.import_bytes(b"\x89PNG\r\n\x1a\n and so on".to_vec(), "x.png").await.unwrap();
    let other = house.services.artifacts.import_bytes(b"text".to_vec(), "y.txt").await.unwrap();
    let facts = json!({"frames": 1, "extra": [{"$artifact": other.artifact, "name": "../y.txt"}]});
    let params = json!({"do": "product", "artifact": picture.artifact, "name": "../../a b.png", "facts": facts});
    let Ok(Outcome::Done(Output::File { file, extra, facts })) = house.run(params).await else { panic!("no file") };
    assert_eq!((file.artifact, file.media_type.as_str()), (picture.artifact, "image/png"));
    assert!(!file.name.contains(['/', ' ']) && file.name.ends_with(".png"), "{}", file.name);
    assert_eq!((extra.len(), extra[0].artifact, extra[0].name.as_str()), (1, other.artifact, "y.txt"));
    assert_eq!(serde_json::Value::Object(facts), json!({"frames": 1}));

    let nothing = enginehouse::digest::Digest::of(b"nobody has this");
    let failure = house.run(json!({"do": "product", "artifact": nothing, "facts": {}})).await.unwrap_err();
    assert_eq!(failure.code, "artifact_not_found");
    let failure = house.run(json!({"do": "product", "artifact": "x", "facts": {}})).await.unwrap_err();
    assert_eq!(failure.code, "invalid_artifact");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delegation_says_whose_output_counts_and_its_facts_must_be_an_object() {
    let house = House::new().await;
    let Ok(Outcome::Delegated(delegation)) = house.run(json!({"do": "delegate", "facts": "{\"n\": 2}"})).await else {
        panic!("not delegated")
    };
    assert_eq!(delegation.output_from.as_deref(), Some("last"));
    assert_eq!(delegation.facts["n"], 2);
    let failure = house.run(json!({"do": "delegate", "facts": "[]"})).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "invalid_outcome"));
}

/// An object of so many levels.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!({ "in": inner }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_leaves_behind_can_always_be_read_back() {
    let house = House::new().await;
    let store = &house.services.store;
    let file = house.services.artifacts.import_bytes(b"text".to_vec(), "y.txt").await.unwrap().artifact;
    let product = |facts: Value| json!({"do": "product", "artifact": file, "facts": facts});
    let delegate = |facts: Value| json!({"do": "delegate", "facts": facts.to_string()});
    for params in [product(nested(65)), delegate(nested(65)), delegate(nested(200))] {
        let failure = house.run(params).await.unwrap_err();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "invalid_outcome"));
        assert!(failure.message.contains("levels deep"), "{failure}");
    }

    let held = house.task(product(nested(64))).await;
    let Ok(Outcome::Done(output)) = house.start(&held, CancellationToken::new()).await else { panic!("no output") };
    store.complete(held.task.id, held.token, output.clone()).await.unwrap();
    assert_eq!(store.get(held.task.id).await.unwrap().output, Some(output));

    let calls = json!([
        ["tasks.create", 1, nested(65)],
        ["tasks.create", 1, {}, nested(65)],
        ["tasks.create", 1, nested(64), nested(64)],
    ]);
    let held = house.task(json!({"do": "script", "calls": calls})).await;
    let seen = text(house.start(&held, CancellationToken::new()).await);
    for refused in [&seen[0]["err"], &seen[1]["err"]] {
        let told = (&refused["class"], &refused["code"]);
        assert_eq!(told, (&json!("FailureClass::InvalidInput"), &json!("child_creation_failed")), "{seen}");
    }
    let child = seen[2]["ok"][0].as_str().unwrap().parse().unwrap();
    assert_eq!(Value::Object(store.get(child).await.unwrap().params), nested(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_cannot_speak_in_the_name_of_the_host() {
    let house = House::new().await;
    let failure = house.run(json!({"do": "fail", "code": "store_failed"})).await.unwrap_err();
    assert_eq!(failure.code, "plugin_store_failed");
}
