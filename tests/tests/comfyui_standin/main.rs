//! The stand-in ComfyUI server does what the recorded one did: each recording is asked again, request for request, and
//! every answer and message compared.
//!
//! Not compared anywhere: times, memory, versions, tracebacks, texts of exceptions and descriptions, tags of files,
//! letters of chance in temporary names, lengths of pictures that were encoded anew, how many steps were told, and
//! orders that come from sets. What else is not compared is said at the recording.

mod compare;
mod driver;
mod faults;
mod heard;
mod http;
mod nodes;
mod program;
mod uploads;

use serde_json::{Value, json};

use driver::{play, recording};

/// Members that are not compared in one recording: its name, the member, why.
const NOT_COMPARED: [(&str, &str, &str); 1] = [(
    "output_kinds",
    "preview_output",
    "the first output is that of the branch that ran first, and the order of branches is chance",
)];

async fn holds(name: &str) {
    let mut recording = recording(name);
    for (_, member, _) in NOT_COMPARED.iter().filter(|(of, ..)| *of == name) {
        blank(&mut recording, member);
    }
    let differences = play(&recording).await;
    assert!(differences.is_empty(), "{name}: {} differences\n{}", differences.len(), differences.join("\n"));
}

/// Puts what every value is equal to in place of a member, wherever it stands.
fn blank(value: &mut Value, member: &str) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if name == member {
                    *value = json!("<anything>");
                } else {
                    blank(value, member);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| blank(value, member)),
        _ => {}
    }
}

macro_rules! recordings {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                holds(stringify!($name)).await;
            }
        )*

        #[test]
        fn every_recording_is_asked_again() {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data/comfyui");
            let mut there: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_string()))
                .filter(|name| name != "expected")
                .collect();
            there.sort();
            let mut asked = vec![$(stringify!($name)),*];
            asked.sort_unstable();
            assert_eq!(there, asked);
        }
    };
}

recordings! {
    cached_output_file_deleted
    cached_run
    core_nodes_run
    duplicate_prompt_id
    execution_error
    execution_error_oom
    interrupt_deaf_node
    interrupt_running
    no_client_id
    ok_run
    ok_run_preview_metadata
    origin_checks
    output_kinds
    partial_and_extra_data
    queue_control
    reconnect_mid_run
    server_killed_and_restarted
    sigint_mid_run
    subgraph_expansion
    system_stats
    upload_and_view
    upload_raw_names
    validation_errors
}

/// Plays a recording in which the first event that `alter` accepts is altered.
async fn altered(name: &str, alter: impl Fn(&mut Value) -> bool) -> Vec<String> {
    let mut recording = recording(name);
    let events = recording["events"].as_array_mut().unwrap();
    assert!(events.iter_mut().any(&alter), "{name} holds nothing to alter");
    play(&recording).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_answer_is_noticed() {
    let status = |event: &mut Value| {
        event.get("http_response").is_some() && {
            event["http_response"]["status"] = json!(201);
            true
        }
    };
    assert!(!altered("cached_run", status).await.is_empty());
    let record = |event: &mut Value| {
        let Some(answer) = event.get_mut("http_response") else { return false };
        let Some(record) = answer["json"].as_object_mut().and_then(|records| records.values_mut().next()) else {
            return false;
        };
        record.is_object() && record["status"]["completed"] == true && {
            record["outputs"]["3"]["images"][0]["filename"] = json!("other_00001_.png");
            true
        }
    };
    assert!(!altered("cached_run", record).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_message_is_noticed() {
    let file = |event: &mut Value| {
        event["ws_text"]["type"] == "executed" && {
            event["ws_text"]["data"]["output"]["images"][0]["filename"] = json!("other_00001_.png");
            true
        }
    };
    assert!(!altered("cached_run", file).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_another_order_and_messages_too_many_are_noticed() {
    let mut swapped = recording("cached_run");
    let events = swapped["events"].as_array_mut().unwrap();
    let at = |events: &[Value], kind: &str| events.iter().position(|event| event["ws_text"]["type"] == kind).unwrap();
    let (start, cached) = (at(events, "execution_start"), at(events, "execution_cached"));
    events.swap(start, cached);
    assert!(!play(&swapped).await.is_empty());

    let mut shorter = recording("cached_run");
    let events = shorter["events"].as_array_mut().unwrap();
    let cached = at(events, "execution_cached");
    events.remove(cached);
    assert!(!play(&shorter).await.is_empty());
}
