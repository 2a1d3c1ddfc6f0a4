//! What was observed against what is recorded: JSON against JSON, member by member. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::case::{Case, step};
use crate::colours;
use crate::members::{self, Treatment};
use crate::same::{Same, file_name, shape};

/// How a case came out.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Each with its place, what is recorded and what was observed.
    pub differences: Vec<String>,
    /// Members that were compared.
    pub compared: BTreeSet<String>,
    /// Members and parts that were not, with the reason.
    pub not_compared: BTreeMap<String, String>,
}

/// Stands in children for the details of the travel, which are recorded once.
const DETAILS: &str = "$ORCHESTRATOR_DETAILS";

/// Why an output is not compared.
const FREE: &str = "no child left an output: the text is free";

/// Names of parameters that say the same to the old worker's own engine adapter alone.
const ADAPTERS_OWN: [&str; 3] = ["model_name", "lora_names", "lora_multipliers"];

/// Compares a case with what was observed of it.
pub fn compare(case: &Case, observed: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    let Some(expected) = case.expected.as_object() else {
        verdict.differences.push("`expected` is no object".into());
        return verdict;
    };
    for (member, want) in expected {
        let pointer = format!("/{}", step(member));
        if case.leaves_open(&pointer) {
            verdict.not_compared.insert(member.clone(), format!("left open by the record: {}", case.why));
            continue;
        }
        match members::treatment(member) {
            None => verdict.differences.push(format!("{pointer}: nobody knows how to compare this member")),
            Some(Treatment::NotCompared(reason)) => {
                verdict.not_compared.insert(member.clone(), reason.into());
            }
            Some(Treatment::Compared) => {
                let mut same = Same::new(case);
                match compare_member(&mut same, case, member, want, observed) {
                    Compared::Yes => {
                        verdict.compared.insert(member.clone());
                    }
                    Compared::No(reason) => {
                        verdict.not_compared.insert(member.clone(), reason.into());
                    }
                }
                verdict.differences.append(&mut same.differences);
                verdict.not_compared.append(&mut same.left_out);
            }
        }
    }
    unexpected(case, observed, &mut verdict);
    verdict
}

/// What is not recorded did not happen.
fn unexpected(case: &Case, observed: &Value, verdict: &mut Verdict) {
    for member in ["children", "engine_request", "deleted_tasks", "error_kind"] {
        let pointer = format!("/{member}");
        let got = &observed[member];
        let nothing = got.is_null() || got.as_array().is_some_and(Vec::is_empty);
        let recorded =
            case.expected.get(member).is_some() || case.leaves_open(&pointer) || case.leaves_open("/outcome");
        if !nothing && !recorded {
            verdict.differences.push(format!("{pointer}: nothing is recorded, observed {got}"));
        }
    }
}

enum Compared {
    Yes,
    No(&'static str),
}

fn compare_member(same: &mut Same, case: &Case, member: &str, want: &Value, observed: &Value) -> Compared {
    let pointer = format!("/{}", step(member));
    let got = &observed[member];
    match member {
        "message_kind" if case.expected["outcome"] == "failed" => {
            // It repeats the kind of the failure, or says that the old worker had no message of its own.
            if want != "exception" {
                same.json(&pointer, want, &observed["error_kind"]);
            } else if observed["error_kind"].as_str().is_none_or(str::is_empty) {
                same.differ(&pointer, &json!("the kind of a failure"), &observed["error_kind"]);
            }
        }
        "message_facts" => message_facts(same, case, want, observed),
        "error_contains" => error_contains(same, &pointer, want, &observed["error_text"]),
        "output_location" => {
            output_location(same, case, &pointer, want, got);
            if same.left_out.contains_key("output_location") {
                return Compared::No(FREE);
            }
        }
        "children" => children(same, case, want, got),
        "orchestrator_details_in_children" => {
            if !case.expected["children"].to_string().contains(DETAILS) {
                return Compared::No("no child of the case refers to the details");
            }
            for (i, child) in items(&observed["children"]).iter().enumerate() {
                // Children without details are told by `children`.
                if let Some(details) = child.pointer("/params/orchestrator_details") {
                    same.json_as(&pointer, &format!("/children/{i}/params/orchestrator_details"), want, details);
                }
            }
        }
        "deleted_tasks" => {
            let names = |list: &Value| items(list).iter().map(|id| id.to_string()).collect::<BTreeSet<_>>();
            if names(want) != names(got) {
                same.differ(&pointer, want, got);
            }
        }
        "media_calls" => {
            if let Some(reason) = not_to_be_called(case, want) {
                return Compared::No(reason);
            }
            media_calls(same, want, got);
        }
        "engine_request" => engine_request(same, want, got),
        "engine_request_artifacts" => artifacts(same, want, got),
        "wan2gp_parameters" => wan2gp(same, want, &observed["engine_request"]),
        "engine_model_patch" => model_patch(same, want, observed),
        "completion" => completion(same, case, want, observed),
        "downloads" => {
            // Those of the model hub are LoRAs, which the engine fetches.
            let addresses: Vec<&Value> =
                items(want).iter().filter(|address| address.as_str().is_some_and(|a| a.starts_with("http"))).collect();
            if addresses.is_empty() {
                return Compared::No("the engine fetches its own LoRAs; no engine runs here");
            }
            for address in addresses {
                if !items(got).contains(address) {
                    same.differ(&pointer, address, got);
                }
            }
        }
        _ => same.json(&pointer, want, got),
    }
    Compared::Yes
}

fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

fn error_contains(same: &mut Same, pointer: &str, want: &Value, got: &Value) {
    let parts = match want {
        Value::Array(parts) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    for part in parts {
        let said = part.as_str().zip(got.as_str()).is_some_and(|(part, text)| text.contains(part));
        if !said {
            same.differ(pointer, part, got);
        }
    }
}

/// Where no child left anything, the text is a free placeholder.
fn output_location(same: &mut Same, case: &Case, pointer: &str, want: &Value, got: &Value) {
    let rows = items(&case.environment["task_rows"]);
    let nothing = rows.iter().all(|row| row["output_location"].as_str().unwrap_or_default().is_empty());
    if nothing && !rows.is_empty() {
        if got.as_str().is_none_or(|text| text.trim().is_empty()) {
            same.differ(pointer, &json!("some text"), got);
        }
        same.left_out.insert(shape(pointer), FREE.into());
        return;
    }
    same.json(pointer, want, got);
}

/// The numbers of a note. A failure tells them in its words alone.
fn message_facts(same: &mut Same, case: &Case, want: &Value, observed: &Value) {
    let none = Map::new();
    let duplicates = ["duplicate_segments_removed", "duplicate_stitch_removed"]
        .iter()
        .any(|name| want[name] != 0 && !want[name].is_null());
    for (name, want) in want.as_object().unwrap_or(&none) {
        let pointer = format!("/message_facts/{}", step(name));
        if duplicates && name.ends_with("_total") {
            same.left_out.insert(shape(&pointer), "the old worker counted before it removed duplicates".into());
        } else if case.expected["outcome"] != "failed" {
            same.json(&pointer, want, &observed["message_facts"][name]);
        } else if *want == 0 {
            same.left_out.insert(shape(&pointer), "a failure does not tell what there was none of".into());
        } else {
            let (text, wanted) = (observed["error_text"].as_str().unwrap_or_default(), want.to_string());
            if !text.split(|c: char| !c.is_ascii_digit()).any(|number| number == wanted) {
                same.differ(&pointer, want, &observed["error_text"]);
            }
        }
    }
}

fn children(same: &mut Same, case: &Case, want: &Value, got: &Value) {
    if !want.is_array() {
        same.differ("/children", want, got);
    }
    let (wanted, found) = (items(want), items(got));
    if wanted.len() != found.len() {
        same.differ("/children", &json!(wanted.len()), &json!(found.len()));
    }
    for (i, (want, got)) in wanted.iter().zip(found).enumerate() {
        let (Some(want), Some(got)) = (want.as_object(), got.as_object()) else {
            same.differ(&format!("/children/{i}"), want, got);
            continue;
        };
        let (mut want, mut got) = (want.clone(), got.clone());
        // Compared as a member of its own.
        if let Some(params) = want.get_mut("params").and_then(Value::as_object_mut)
            && params.get("orchestrator_details").is_some_and(|details| details == DETAILS)
            && case.expected.get("orchestrator_details_in_children").is_some()
            && let Some(details) = got.get_mut("params").and_then(|params| params.get_mut("orchestrator_details"))
            && details.is_object()
        {
            params.remove("orchestrator_details");
            if let Some(params) = got.get_mut("params").and_then(Value::as_object_mut) {
                params.remove("orchestrator_details");
            }
        }
        same.json(&format!("/children/{i}"), &Value::Object(want), &Value::Object(got));
    }
}

fn engine_request(same: &mut Same, want: &Value, got: &Value) {
    for name in ["id", "model", "prompt"] {
        same.json(&format!("/engine_request/{name}"), &want[name], &got[name]);
    }
    let mut own = got["parameters"].as_object().cloned().unwrap_or_default();
    // The model is named once in a request of this host.
    own.entry("model_name").or_insert_with(|| got["model"].clone());
    parameters(same, "/engine_request/parameters", &want["parameters"], own);
}

/// What reaches Wan2GP in the end: the request without what its adapter keeps to itself.
fn wan2gp(same: &mut Same, want: &Value, request: &Value) {
    let mut own = request["parameters"].as_object().cloned().unwrap_or_default();
    own.retain(|name, value| !ADAPTERS_OWN.contains(&name.as_str()) && !value.is_null());
    for name in ["model", "prompt"] {
        own.insert(name.into(), request[name].clone());
    }
    own.entry("activated_loras").or_insert_with(|| json!([]));
    own.entry("loras_multipliers").or_insert_with(|| json!(""));
    parameters(same, "/wan2gp_parameters", want, own);
}

/// Parameters of a request: absent and null are the same; files are compared by content, elsewhere; LoRAs by file name.
fn parameters(same: &mut Same, pointer: &str, want: &Value, mut own: Map<String, Value>) {
    let empty = Map::new();
    let want = want.as_object().unwrap_or(&empty);
    own.retain(|name, value| !value.is_null() && members::left_out(&format!("{pointer}/{name}")).is_none());
    for (name, want) in want {
        let pointer = format!("{pointer}/{}", step(name));
        let got = own.remove(name).unwrap_or(Value::Null);
        if want.is_null() && got.is_null() {
            continue;
        }
        if name == "activated_loras" && want.is_array() && got.is_array() {
            let names = |list: &Value| items(list).iter().map(|lora| json!(file_name(lora))).collect::<Value>();
            same.json(&pointer, &names(want), &names(&got));
        } else {
            same.json(&pointer, want, &got);
        }
    }
    for (name, got) in own {
        same.differ(&format!("{pointer}/{}", step(&name)), &json!("nothing"), &got);
    }
}

fn artifacts(same: &mut Same, want: &Value, got: &Value) {
    let empty = Map::new();
    for (name, want) in want.as_object().unwrap_or(&empty) {
        let pointer = format!("/engine_request_artifacts/{}", step(name));
        // `refs[0]` is the first file of a list.
        let got = match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            Some((list, at)) => at.parse().ok().and_then(|at: usize| got[list].get(at)).unwrap_or(&Value::Null),
            None => &got[name],
        };
        for (fact, want) in want.as_object().unwrap_or(&empty) {
            let pointer = format!("{pointer}/{fact}");
            match fact.as_str() {
                "rgb" => colours::one(same, &pointer, want, &got["colors"][0]),
                "frame_colors_rle" => colours::runs(same, &pointer, want, &got["colors"]),
                "luma_first" => colours::grey(same, &pointer, want, items(&got["luma"]).first()),
                "luma_last" => colours::grey(same, &pointer, want, items(&got["luma"]).last()),
                _ => same.json(&pointer, want, &got[fact]),
            }
        }
    }
}

fn model_patch(same: &mut Same, want: &Value, observed: &Value) {
    same.json("/engine_model_patch/model", &want["model"], &observed["engine_request"]["model"]);
    let patch = &observed["engine_model_patch"];
    let empty = Map::new();
    for (name, value) in want["settings_set"].as_object().unwrap_or(&empty) {
        same.json(&format!("/engine_model_patch/settings_set/{}", step(name)), value, &patch[name]);
    }
    let svi = patch["svi2pro"].as_bool().unwrap_or(false);
    same.json("/engine_model_patch/svi2pro", &want["svi2pro"], &json!(svi));
}

fn completion(same: &mut Same, case: &Case, want: &Value, observed: &Value) {
    let got = &observed["completion"];
    let empty = Map::new();
    for (name, want) in want.as_object().unwrap_or(&empty) {
        let pointer = format!("/completion/{}", step(name));
        if case.leaves_open(&pointer) {
            same.open(&pointer);
            continue;
        }
        match name.as_str() {
            "output_location" => output_location(same, case, &pointer, want, &observed["output_location"]),
            "frame_luma" => colours::greys(same, &pointer, want, &got["frame_luma"]),
            "filename" => {
                let extension =
                    |name: &Value| name.as_str().and_then(|name| name.rsplit_once('.')).map(|(_, e)| e.to_string());
                if extension(want) != extension(&got["filename"]) {
                    same.differ(&pointer, want, &got["filename"]);
                }
                same.json(&pointer, want, &got["filename"]);
            }
            "thumbnail_filename" | "upload" => same.json(&pointer, want, &Value::Null),
            _ => same.json(&pointer, want, &got[name]),
        }
    }
}

/// Why nobody is asked for help in a case where the old worker asked.
fn not_to_be_called(case: &Case, calls: &Value) -> Option<&'static str> {
    for call in items(calls) {
        let pictures = items(&call["images"]).iter().chain(items(&call["pairs"]).iter().flat_map(items));
        let behind = |address: &Value| address.as_str().is_some_and(|address| address.starts_with("http"));
        let there = |address: &Value| address.as_str().is_some_and(|a| case.environment["http"].get(a).is_some());
        if pictures.into_iter().any(|address| behind(address) && !there(address)) {
            return Some("the pictures of the call are not to be had in the case: nothing is asked without them");
        }
    }
    // Judged by what is asked of the task, not by what is recorded of it: that may be altered.
    if case.params.values().any(ends_before_it_begins) {
        return Some("a place that ends before it begins is refused before anybody is asked");
    }
    None
}

/// Whether a place in a structure video, here or below, holds no frame.
fn ends_before_it_begins(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let number = |name: &str| members.get(name).and_then(Value::as_f64);
            number("start_frame").zip(number("end_frame")).is_some_and(|(start, end)| start >= end)
                || members.values().any(ends_before_it_begins)
        }
        Value::Array(items) => items.iter().any(ends_before_it_begins),
        _ => false,
    }
}

/// The calls of whoever helps, in the words of the recordings' stand-ins.
fn media_calls(same: &mut Same, want: &Value, got: &Value) {
    let mut calls = items(got).iter();
    for (i, want) in items(want).iter().enumerate() {
        let pointer = format!("/media_calls/{i}");
        match want["call"].as_str().unwrap_or_default() {
            "vlm_transition" | "vlm_single" => {
                for (k, prompt) in items(&want["base_prompts"]).iter().enumerate() {
                    let got = calls.next().unwrap_or(&Value::Null);
                    same.json(&format!("{pointer}/base_prompts/{k}"), prompt, &got["prompt"]);
                    same.json(&format!("{pointer}/num_frames/{k}"), &want["num_frames"][k], &got["frames"]);
                    same.json(&format!("{pointer}/fps"), &want["fps"], &got["fps"]);
                    let mode = if want["call"] == "vlm_single" { "single" } else { "transition" };
                    same.json(&format!("{pointer}/call"), &want["call"], &json!(format!("vlm_{}", text(&got["mode"]))));
                    let pictures = if mode == "single" { 1 } else { 2 };
                    if got["images"] != json!(pictures) {
                        same.differ(&pointer, &json!(format!("{pictures} pictures")), &got["images"]);
                    }
                }
            }
            "composite_guidance" => {
                guidance(same, &pointer, want, calls.next().unwrap_or(&Value::Null), "total_frames")
            }
            "structure_guidance" => {
                let got = calls.next().unwrap_or(&Value::Null);
                guidance(same, &pointer, want, got, "max_frames_needed");
                same.json(&format!("{pointer}/treatment"), &want["treatment"], &got["videos"][0]["treatment"]);
            }
            "trimmed_structure" => {
                let got = calls.next().unwrap_or(&Value::Null);
                let raw = json!({"structure_type": "raw"});
                same.json(&format!("{pointer}/call"), &raw["structure_type"], &json!(kind(got)));
                same.json(&format!("{pointer}/max_frames_needed"), &want["max_frames_needed"], &got["frames"]);
                same.json(&format!("{pointer}/resolution"), &want["resolution"], &json!([got["width"], got["height"]]));
                same.json(&format!("{pointer}/fps"), &want["fps"], &got["fps"]);
                same.json(&format!("{pointer}/treatment"), &want["treatment"], &got["videos"][0]["treatment"]);
            }
            other => same.differ(&pointer, &json!(other), &json!("a call that somebody knows")),
        }
    }
    if let Some(more) = calls.next() {
        same.differ("/media_calls", &json!("no more calls"), more);
    }
}

fn guidance(same: &mut Same, pointer: &str, want: &Value, got: &Value, length: &str) {
    for (name, got) in [
        (length, got["frames"].clone()),
        ("structure_type", json!(kind(got))),
        ("resolution", json!([got["width"], got["height"]])),
        ("fps", got["fps"].clone()),
        ("motion_strength", got["strength"].clone()),
        ("canny_intensity", got["canny_intensity"].clone()),
        ("depth_contrast", got["depth_contrast"].clone()),
    ] {
        same.json(&format!("{pointer}/{name}"), &want[name], &got);
    }
    for (k, want) in items(&want["configs"]).iter().enumerate() {
        same.json(&format!("{pointer}/configs/{k}"), want, &got["videos"][k]);
    }
}

/// The kind of a guidance in the recordings' words.
fn kind(call: &Value) -> String {
    match text(&call["preprocessing"]) {
        "none" => "raw".into(),
        other => other.into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
