//! The edges do what the recordings' description says of `environment`, also where no recording at hand needs it: others may.
//! The cases here are made up; what must come of them follows from the description alone.

use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::house::Shared;
use crate::observe::observe;

/// Levels of 255 that a grey may be off after encoding.
const TOLERANCE: f64 = 8.0;

const MODEL: &str = "wan_2_2_i2v_lightning_baseline_2_2_2";

async fn seen(task_type: &str, task_id: &str, params: Value, environment: Value) -> Value {
    let case = Case {
        name: format!("scripted/{task_type}"),
        task_type: task_type.into(),
        task_id: task_id.into(),
        params: object(params),
        environment,
        expected: Value::Null,
        not_compared: Vec::new(),
        why: String::new(),
    };
    observe(&case, Shared::get()).await.expect("the case runs")
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// Puts `more` over the members of `base`.
fn with(mut base: Value, more: Value) -> Value {
    base.as_object_mut().expect("an object").extend(object(more));
    base
}

/// The details of a travel of `segments` short segments through pictures, without overlaps.
fn details(segments: usize) -> Value {
    let pictures: Vec<String> = (0..=segments).map(|i| format!("$INPUT_DIR/{i}.png")).collect();
    let prompts: Vec<String> = (0..segments).map(|i| format!("prompt {i}")).collect();
    json!({
        "run_id": "run",
        "num_new_segments_to_generate": segments,
        "base_prompts_expanded": prompts,
        "negative_prompts_expanded": vec![""; segments],
        "segment_frames_expanded": vec![9; segments],
        "frame_overlap_expanded": vec![0; segments - 1],
        "parsed_resolution_wh": "96x48",
        "model_name": MODEL,
        "model_type": "i2v",
        "fps_helpers": 16,
        "input_image_paths_resolved": pictures,
        "main_output_dir_for_run": "$OUTPUT_DIR/run",
        "chain_segments": false,
    })
}

/// The only segment of a travel.
fn segment(more: Value) -> Value {
    let own = json!({
        "orchestrator_task_id_ref": "above",
        "orchestrator_run_id": "run",
        "segment_index": 0,
        "is_first_segment": true,
        "is_last_segment": true,
        "base_prompt": "prompt 0",
        "segment_frames_target": 9,
        "parsed_resolution_wh": "96x48",
        "model_name": MODEL,
        "orchestrator_details": details(1),
    });
    with(own, more)
}

/// Pictures under these names, one green, the others red.
fn pictures(names: &[&str]) -> Value {
    let picture = |name: &&str| {
        let rgb = if name.contains("green") { [30, 200, 30] } else { [200, 30, 30] };
        ((*name).to_string(), json!({"kind": "image", "width": 64, "height": 48, "rgb": rgb}))
    };
    Value::Object(names.iter().map(picture).collect())
}

fn travel(environment: Value) -> Value {
    with(json!({"files": pictures(&["0.png", "1.png", "2.png"])}), environment)
}

#[track_caller]
fn assert_greys(completion: &Value, wanted: &[f64]) {
    let found: Vec<f64> = serde_json::from_value(completion["frame_luma"].clone()).expect("greys");
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= TOLERANCE), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_makes_a_ramp_as_long_as_asked_for() {
    let seen = seen("travel_segment", "t", segment(json!({})), travel(json!({}))).await;
    assert_eq!(seen["outcome"], "complete", "{seen}");
    let completion = &seen["completion"];
    let size = (&completion["frames"], &completion["fps"], &completion["width"], &completion["height"]);
    assert_eq!(size, (&json!(9), &json!(16.0), &json!(96), &json!(48)));
    assert_greys(completion, &std::array::from_fn::<_, 9, _>(|i| 40.0 + i as f64));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_makes_what_the_case_says() {
    let engine = json!({"frames": 5, "fps": 12, "luma_start": 100, "luma_step": 20});
    let seen = seen("travel_segment", "t", segment(json!({})), travel(json!({"engine": engine}))).await;
    assert_eq!(seen["outcome"], "complete", "{seen}");
    assert_eq!((&seen["completion"]["frames"], &seen["completion"]["fps"]), (&json!(5), &json!(12.0)));
    assert_greys(&seen["completion"], &[100.0, 120.0, 140.0, 160.0, 180.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_fails_loses_its_job_or_is_busy_for_ever() {
    for (engine, kind, said) in [
        (json!({"status": "failed", "error": "the card melted"}), "engine_failed", "the card melted"),
        (json!({"status": "lost"}), "engine_lost_task", ""),
        (json!({"status": "busy"}), "engine_timeout", ""),
    ] {
        let seen = seen("travel_segment", "t", segment(json!({})), travel(json!({"engine": engine}))).await;
        assert_eq!((&seen["outcome"], &seen["error_kind"]), (&json!("failed"), &json!(kind)), "{seen}");
        assert!(seen["error_text"].as_str().is_some_and(|text| text.contains(said)), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_leads_to_its_file_and_any_other_nowhere() {
    let address = "https://cdn.example/a picture.png?token=secret";
    let params = segment(json!({"individual_segment_params": {"start_image_url": address}}));
    let files = pictures(&["0.png", "green.png"]);
    let listed = json!({"files": files, "http": {address: "$INPUT_DIR/green.png"}});
    let found = seen("travel_segment", "t", params.clone(), listed).await;
    assert_eq!(found["outcome"], "complete", "{found}");
    assert_eq!(found["downloads"][0], address);
    let colour = &found["engine_request_artifacts"]["image_start"]["colors"][0];
    assert!(colour[1].as_f64() > Some(180.0) && colour[0].as_f64() < Some(50.0), "{colour}");

    let other = json!({"files": files, "http": {"https://cdn.example/another.png": "$INPUT_DIR/green.png"}});
    let lost = seen("travel_segment", "t", params, other).await;
    assert_eq!((&lost["outcome"], &lost["error_kind"]), (&json!("failed"), &json!("input_download_failed")), "{lost}");
    let text = lost["error_text"].as_str().expect("a text");
    assert!(text.contains("https://cdn.example/a%20picture.png") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_more_children_than_the_queue_takes_is_refused_whole() {
    let params = json!({"orchestrator_details": details(2)});
    let few = seen("travel_orchestrator", "t", params.clone(), json!({"create_task_fails_after": 1})).await;
    assert_eq!((&few["outcome"], &few["error_kind"]), (&json!("failed"), &json!("child_creation_failed")), "{few}");
    assert!(few.get("children").is_none(), "{few}");

    let enough = seen("travel_orchestrator", "t", params, json!({"create_task_fails_after": 2})).await;
    assert_eq!((&enough["outcome"], &enough["message_kind"]), (&json!("in_progress"), &json!("enqueued")), "{enough}");
    assert_eq!(enough["children"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_exist_have_any_id_and_any_spelling_of_a_status() {
    for (status, outcome, kind) in [
        ("done", "complete", "all_children_complete"),
        ("COMPLETE", "complete", "all_children_complete"),
        ("error", "failed", "children_failed"),
        ("Canceled", "failed", "children_failed"),
        ("in_progress", "in_progress", "waiting_for_children"),
        ("Paused", "in_progress", "waiting_for_children"),
    ] {
        let row = json!({
            "id": "s0",
            "task_type": "travel_segment",
            "status": status,
            "params": {"orchestrator_task_id_ref": "t", "segment_index": 0},
            "output_location": "$OUTPUT_DIR/made.mp4",
        });
        let params = json!({"orchestrator_details": details(1)});
        let seen = seen("travel_orchestrator", "t", params, json!({"task_rows": [row]})).await;
        assert_eq!(seen["outcome"], outcome, "{status}: {seen}");
        let member = if outcome == "failed" { "error_kind" } else { "message_kind" };
        assert_eq!(seen[member], kind, "{status}: {seen}");
        if outcome == "complete" {
            assert_eq!(seen["output_location"], "$OUTPUT_DIR/made.mp4");
        }
        assert!(seen.get("children").is_none(), "{status}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_reads_its_details_from_the_task_above_it() {
    let mut params = segment(json!({}));
    params.as_object_mut().unwrap().remove("orchestrator_details");
    let above = json!({
        "id": "above",
        "task_type": "travel_orchestrator",
        "status": "In Progress",
        "params": {"orchestrator_details": details(1)},
        "output_location": null,
    });
    let seen = seen("travel_segment", "t", params, travel(json!({"task_rows": [above]}))).await;
    assert_eq!(seen["outcome"], "complete", "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ours_is_given_back_as_the_recording_writes_it() {
    let mut details = with(details(2), json!({"model_type": "vace", "chain_segments": true}));
    details.as_object_mut().unwrap().remove("run_id");
    let seen = seen("travel_orchestrator", "short", json!({"orchestrator_details": details}), json!({})).await;
    let children = seen["children"].as_array().expect("children");
    let ids: Vec<&str> = children.iter().filter_map(|child| child["id"].as_str()).collect();
    assert_eq!(ids, ["$TASK_1", "$TASK_2", "$TASK_3"]);
    let waits: Vec<&Value> = children.iter().map(|child| &child["depends_on"]).collect();
    assert_eq!(waits, [&Value::Null, &json!("$TASK_1"), &json!("$TASK_2")]);
    let stitch = &children[2]["params"];
    assert_eq!(
        (&stitch["orchestrator_task_id_ref"], &stitch["orchestrator_run_id"]),
        (&json!("short"), &json!("short"))
    );
    assert_eq!(stitch["final_stitched_output_path"], "$OUTPUT_DIR/run/travel_final_stitched_short.mp4");
}

#[tokio::test(flavor = "multi_thread")]
async fn captions_come_back_as_the_stand_in_writes_them_or_not_at_all() {
    let params = json!({"orchestrator_details": with(details(1), json!({"enhance_prompt": true}))});
    for (fails, prompt) in [(false, "VLM<prompt 0>"), (true, "prompt 0")] {
        let environment = travel(json!({"vlm": {"fail": fails}}));
        let seen = seen("travel_orchestrator", "t", params.clone(), environment).await;
        assert_eq!(seen["children"][0]["params"]["base_prompt"], prompt, "{seen}");
    }
}
