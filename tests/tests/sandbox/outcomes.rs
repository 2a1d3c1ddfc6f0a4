//! How handlers end, well and not.

use enginehouse::task::{FailureClass, Outcome, Output};
use enginehouse_tests::handlers::House;
use serde_json::json;

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
