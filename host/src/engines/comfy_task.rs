//! A task that brings its own workflow: its params become a request to ComfyUI.
//!
//! ```json
//! {
//!   "workflow": {…} or JSON text,            API format
//!   "video_url": "https://…",                a file for a node; likewise `image_url`, `audio_url`, `mask_url`
//!   "video_node_id": "1",                    the node that gets it
//!   "video_input_field": "video",            and the input; absent: the input that nodes of the kind have
//!   "allow_partial": false,                  outputs that the server refuses are left out, the rest runs
//!   "temp_nodes": ["7"]                      nodes whose preview files are wanted as results
//! }
//! ```
//!
//! A file is an address (http, https), an artifact (`{"$artifact": "sha256:…"}`) or, for the `*_url` params, also a path below
//! the operator's input folders. Inside the workflow every input that is an address as a whole, or an artifact, becomes a file;
//! not so inputs called `url` or `…_url`: their nodes want the address itself.
//!
//! [`read`] finds the files; who calls it fetches them and gives them to [`ComfyTask::into_request`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Request, WorkflowTerms};
use crate::task::{Failure, FileRef};
use crate::templates::graph::{self, EXPORT, token};

/// Kinds of files that params bring along, and the inputs that nodes of the kind have: the first one that the node has in the
/// workflow is taken, else the first.
const FILES: [(&str, &[&str]); 4] =
    [("video", &["video", "file"]), ("image", &["image"]), ("audio", &["audio", "file"]), ("mask", &["mask", "image"])];

/// A workflow whose files are still to be fetched.
#[derive(Debug, PartialEq)]
pub struct ComfyTask {
    workflow: Map<String, Value>,
    terms: WorkflowTerms,
    files: Vec<Wanted>,
}

/// A place in the workflow that takes a file.
#[derive(Debug, PartialEq)]
struct Wanted {
    /// JSON pointer into the workflow.
    place: String,
    /// Address, path or digest.
    source: String,
}

/// Reads the params of a task: an object, or JSON text of one.
///
/// Codes: `workflow_missing`, `workflow_not_json`, `bad_workflow` (not in API format), `unknown_node`, `node_id_missing`,
/// `node_without_inputs`, `invalid_params`.
pub fn read(params: &Value) -> Result<ComfyTask, Failure> {
    let parsed;
    let params = match params {
        Value::String(text) => {
            parsed = json_text("the params of this task", text, "invalid_params")?;
            &parsed
        }
        given => given,
    };
    let Some(params) = params.as_object() else {
        return Err(Failure::invalid(
            "invalid_params",
            "the params of a task are a JSON object, or the JSON text of one",
        ));
    };
    let mut task = ComfyTask { workflow: workflow(params)?, terms: terms(params)?, files: Vec::new() };
    if let Some(unknown) = task.terms.temp_nodes.iter().find(|id| !task.workflow.contains_key(*id)) {
        return Err(unknown_node("temp_nodes", unknown, &task.workflow));
    }
    for (kind, fields) in FILES {
        task.place_file(params, kind, fields)?;
    }
    task.collect_files();
    Ok(task)
}

impl ComfyTask {
    /// What is to be fetched, each source once: addresses, paths, `sha256:…`.
    pub fn sources(&self) -> BTreeSet<&str> {
        self.files.iter().map(|file| file.source.as_str()).collect()
    }

    /// The request, once every source is an artifact. Code `input_missing` when one is not among the files.
    pub fn into_request(mut self, files: &BTreeMap<String, FileRef>) -> Result<Request, Failure> {
        let mut workflow = Value::Object(self.workflow);
        for Wanted { place, source } in &self.files {
            let Some(file) = files.get(source) else {
                return Err(Failure::internal("input_missing", format!("the file at `{place}` was not fetched")));
            };
            if let Some(value) = workflow.pointer_mut(place) {
                *value = json!(file);
            }
        }
        self.workflow = match workflow {
            Value::Object(workflow) => workflow,
            _ => Map::new(),
        };
        Ok(Request::Workflow { workflow: self.workflow, terms: self.terms })
    }

    /// Puts the file of `KIND_url` into the node of `KIND_node_id`.
    fn place_file(&mut self, params: &Map<String, Value>, kind: &str, fields: &[&str]) -> Result<(), Failure> {
        let (url, node_id, field) = (format!("{kind}_url"), format!("{kind}_node_id"), format!("{kind}_input_field"));
        let Some(file) = given(params, &url) else { return Ok(()) };
        if artifact(file).is_none() && !file.is_string() {
            return Err(invalid(
                &url,
                "is an address, a path below the input folders, or {\"$artifact\": \"sha256:…\"}",
            ));
        }
        let Some(id) = given(params, &node_id) else {
            let message = format!("`{url}` brings a file, and no `{node_id}` says which node of the workflow gets it");
            return Err(Failure::invalid("node_id_missing", message));
        };
        let id = id_text(id).ok_or_else(|| invalid(&node_id, "is the id of a node of the workflow"))?;
        let field = match given(params, &field) {
            None => None,
            Some(Value::String(name)) => Some(name.as_str()),
            Some(_) => return Err(invalid(&field, "is the name of an input, as text")),
        };
        let Some(node) = self.workflow.get_mut(&id) else { return Err(unknown_node(&node_id, &id, &self.workflow)) };
        let class = graph::class(node).unwrap_or_default().to_string();
        let Some(Value::Object(inputs)) = node.get_mut("inputs") else {
            return Err(Failure::invalid(
                "node_without_inputs",
                format!(
                    "`{node_id}` names node {id} ({class}), which has no `inputs` in the workflow: it takes no file"
                ),
            ));
        };
        let usual = || fields.iter().find(|name| inputs.contains_key(**name)).or(fields.first()).copied();
        let Some(input) = field.or_else(usual) else { return Ok(()) };
        inputs.insert(input.to_string(), file.clone());
        self.terms.sources.insert(format!("{id}/{input}"), format!("/{url}"));
        if let Value::String(source) = file {
            let place = format!("/{}/inputs/{}", token(&id), token(input));
            self.files.push(Wanted { place, source: source.clone() });
        }
        Ok(())
    }

    /// Finds the addresses and artifacts that stand in the workflow itself.
    fn collect_files(&mut self) {
        let placed: BTreeSet<String> = self.files.iter().map(|file| file.place.clone()).collect();
        let mut found = Vec::new();
        for (id, node) in &self.workflow {
            for (name, value) in graph::inputs(node).into_iter().flatten() {
                let place = format!("/{}/inputs/{}", token(id), token(name));
                if !placed.contains(&place) {
                    files_in(name, value, &place, &mut found);
                }
            }
        }
        self.files.extend(found);
    }
}

/// The files in a value. `name`: what the value is called.
fn files_in(name: &str, value: &Value, place: &str, found: &mut Vec<Wanted>) {
    let mut want = |source: &str| found.push(Wanted { place: place.to_string(), source: source.to_string() });
    match value {
        Value::String(text) if is_address(text) && !wants_address(name) => want(text),
        Value::Object(members) => match artifact(value) {
            // With its name it is complete; without, what it is called is found out with its kind.
            Some(digest) if !members.contains_key("name") => want(digest),
            Some(_) => {}
            None => {
                for (name, value) in members {
                    files_in(name, value, &format!("{place}/{}", token(name)), found);
                }
            }
        },
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                files_in(name, value, &format!("{place}/{i}"), found);
            }
        }
        _ => {}
    }
}

fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    scheme.is_some_and(|(scheme, rest)| {
        matches!(scheme.as_str(), "http" | "https") && !rest.is_empty() && !text.contains(char::is_whitespace)
    })
}

fn wants_address(name: &str) -> bool {
    name.eq_ignore_ascii_case("url") || name.to_ascii_lowercase().ends_with("_url")
}

fn artifact(value: &Value) -> Option<&str> {
    value.get("$artifact")?.as_str()
}

fn workflow(params: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    let missing = || {
        let message = format!("the task needs a ComfyUI workflow in API format as the param `workflow`: {EXPORT}");
        Failure::invalid("workflow_missing", message)
    };
    let value = match params.get("workflow") {
        None | Some(Value::Null) => return Err(missing()),
        Some(Value::String(text)) if text.trim().is_empty() => return Err(missing()),
        Some(Value::Object(workflow)) if workflow.is_empty() => return Err(missing()),
        Some(Value::String(text)) => json_text("the param `workflow`", text, "workflow_not_json")?,
        Some(value) => value.clone(),
    };
    if value.as_object().is_some_and(Map::is_empty) {
        return Err(missing());
    }
    graph::in_api_format(&value).cloned().map_err(|problem| {
        Failure::invalid("bad_workflow", format!("the param `workflow` is no workflow in API format: {problem}"))
    })
}

fn json_text(what: &str, text: &str, code: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|e| Failure::invalid(code, format!("{what} is text that is not JSON ({e}): is it cut off?")))
}

fn terms(params: &Map<String, Value>) -> Result<WorkflowTerms, Failure> {
    let allow_partial = match given(params, "allow_partial") {
        None => false,
        Some(Value::Bool(yes)) => *yes,
        Some(_) => return Err(invalid("allow_partial", "is true or false")),
    };
    let wrong = || invalid("temp_nodes", "is a list of node ids");
    let temp_nodes = match given(params, "temp_nodes") {
        None => BTreeSet::new(),
        Some(Value::Array(ids)) => ids.iter().map(|id| id_text(id).ok_or_else(wrong)).collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong()),
    };
    Ok(WorkflowTerms { allow_partial, temp_nodes, ..WorkflowTerms::default() })
}

/// Ids are text; many write them as numbers.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// A param that says something.
fn given<'a>(params: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    params.get(name).filter(|value| !value.is_null() && value.as_str() != Some(""))
}

fn invalid(name: &str, what: &str) -> Failure {
    Failure::invalid("invalid_params", format!("the param `{name}` {what}"))
}

fn unknown_node(param: &str, id: &str, workflow: &Map<String, Value>) -> Failure {
    let ids = graph::ids(workflow).join(", ");
    Failure::invalid(
        "unknown_node",
        format!("`{param}` names node {id}, which the workflow does not have; it has {ids}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn file(name: &str) -> FileRef {
        FileRef { artifact: Digest::of(name.as_bytes()), name: name.into(), media_type: "video/mp4".into() }
    }

    /// The request with every source fetched.
    fn request(params: Value) -> (Map<String, Value>, WorkflowTerms) {
        let task = read(&params).unwrap();
        let files = task.sources().into_iter().map(|source| (source.to_string(), file(source))).collect();
        match task.into_request(&files).unwrap() {
            Request::Workflow { workflow, terms } => (workflow, terms),
            Request::Generation { .. } => panic!("no workflow"),
        }
    }

    fn refused(params: Value) -> Failure {
        read(&params).unwrap_err()
    }

    fn graph() -> Value {
        json!({
            "1": {"class_type": "VHS_LoadVideo", "inputs": {"video": "placeholder.mp4"}},
            "2": {"class_type": "VHS_VideoCombine", "inputs": {"images": ["1", 0]}}
        })
    }

    #[test]
    fn params_and_workflow_may_be_json_text() {
        let expected = request(json!({"workflow": graph()}));
        assert_eq!(Value::Object(expected.0.clone()), graph());
        assert!(expected.1.are_plain());
        assert_eq!(request(json!({"workflow": graph().to_string()})), expected);
        assert_eq!(request(json!(json!({"workflow": graph().to_string()}).to_string())), expected);
    }

    #[test]
    fn what_is_no_workflow_is_refused_in_words_that_help() {
        for (params, code, word) in [
            (json!({}), "workflow_missing", "Export (API)"),
            (json!({"workflow": null}), "workflow_missing", ""),
            (json!({"workflow": {}}), "workflow_missing", ""),
            (json!({"workflow": ""}), "workflow_missing", ""),
            (json!({"workflow": "{}"}), "workflow_missing", ""),
            (json!({"workflow": "{\"1\": "}), "workflow_not_json", "cut off"),
            (json!({"workflow": {"nodes": [], "links": []}}), "bad_workflow", "Export (API)"),
            (json!({"workflow": "{\"nodes\": [], \"links\": []}"}), "bad_workflow", "Export (API)"),
            (json!({"workflow": {"1": {"inputs": {}}}}), "bad_workflow", "/1/class_type"),
            (json!("{half"), "invalid_params", "not JSON"),
            (json!([1]), "invalid_params", "JSON object"),
        ] {
            let failure = refused(params.clone());
            assert_eq!(failure.code, code, "{params}");
            assert!(failure.message.contains(word), "{}", failure.message);
        }
    }

    #[test]
    fn a_file_goes_to_the_node_and_the_input_that_the_params_name() {
        let url = "https://media.example.test/in.mp4";
        let (workflow, terms) = request(json!({"workflow": graph(), "video_url": url, "video_node_id": "1"}));
        assert_eq!(workflow["1"]["inputs"]["video"], json!(file(url)));
        assert_eq!(terms.sources, BTreeMap::from([("1/video".to_string(), "/video_url".to_string())]));

        let params = json!({"workflow": graph(), "video_url": url, "video_node_id": 1, "video_input_field": "clip"});
        let (workflow, _) = request(params);
        assert_eq!(workflow["1"]["inputs"]["clip"], json!(file(url)));
        assert_eq!(workflow["1"]["inputs"]["video"], "placeholder.mp4");

        let artifact = json!(file("a.mp4"));
        let params = json!({"workflow": graph(), "video_url": artifact, "video_node_id": "1"});
        assert!(read(&params).unwrap().sources().is_empty(), "it is a file already");
        assert_eq!(request(params).0["1"]["inputs"]["video"], artifact);
    }

    #[test]
    fn pictures_sound_and_masks_come_the_same_way_into_the_inputs_that_nodes_have() {
        let workflow = json!({
            "1": {"class_type": "LoadVideo", "inputs": {"file": "x.mp4"}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
            "3": {"class_type": "LoadAudio", "inputs": {"audio": "x.wav"}},
            "4": {"class_type": "LoadImageMask", "inputs": {"image": "m.png", "channel": "red"}}
        });
        let mut params = json!({ "workflow": workflow });
        for (kind, id) in [("video", "1"), ("image", "2"), ("audio", "3"), ("mask", "4")] {
            // A path below the input folders will do.
            params[format!("{kind}_url")] = json!(format!("{kind}.bin"));
            params[format!("{kind}_node_id")] = json!(id);
        }
        let (workflow, _) = request(params);
        assert_eq!(workflow["1"]["inputs"], json!({"file": file("video.bin")}));
        assert_eq!(workflow["2"]["inputs"], json!({"image": file("image.bin")}));
        assert_eq!(workflow["3"]["inputs"], json!({"audio": file("audio.bin")}));
        assert_eq!(workflow["4"]["inputs"], json!({"image": file("mask.bin"), "channel": "red"}));
    }

    #[test]
    fn a_file_that_no_node_can_take_is_refused() {
        let ask = |more: Value| {
            let mut params = json!({"workflow": {"1": {"class_type": "X"}}, "video_url": "https://example.test/a.mp4"});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            refused(params)
        };
        assert_eq!(ask(json!({"video_node_id": "77"})).code, "unknown_node");
        assert_eq!(ask(json!({"video_node_id": "1"})).code, "node_without_inputs");
        assert_eq!(ask(json!({})).code, "node_id_missing");
        assert_eq!(ask(json!({"video_node_id": ["1"]})).code, "invalid_params");
        assert_eq!(ask(json!({"video_url": 3, "video_node_id": "1"})).code, "invalid_params");
    }

    #[test]
    fn addresses_and_artifacts_anywhere_in_the_workflow_become_files() {
        let digest = Digest::of(b"x").to_string();
        let workflow = json!({
            "1": {"class_type": "A", "inputs": {
                "image": "https://example.test/a.png",
                "mask": {"$artifact": digest},
                "many": {"__value__": ["HTTP://example.test/b.png", "c.png"]},
                "known": file("k.png"),
                "url": "https://example.test/page",
                "image_url": "https://example.test/d.png",
                "text": "see https://example.test/e.png for more",
                "name": "C:/pictures/f.png",
                "link": ["2", 0]
            }},
            "2": {"class_type": "B", "inputs": {}}
        });
        let task = read(&json!({ "workflow": workflow })).unwrap();
        let expected: BTreeSet<&str> =
            ["https://example.test/a.png", "HTTP://example.test/b.png", digest.as_str()].into_iter().collect();
        assert_eq!(task.sources(), expected);
        let (got, _) = request(json!({ "workflow": workflow }));
        let inputs = &got["1"]["inputs"];
        assert_eq!(inputs["image"], json!(file("https://example.test/a.png")));
        assert_eq!(inputs["mask"], json!(file(&digest)));
        assert_eq!(inputs["many"]["__value__"][0], json!(file("HTTP://example.test/b.png")));
        for name in ["known", "url", "image_url", "text", "name", "link"] {
            assert_eq!(inputs[name], workflow["1"]["inputs"][name], "{name}");
        }
    }

    #[test]
    fn terms_come_from_the_params() {
        let (_, terms) = request(json!({"workflow": graph(), "allow_partial": true, "temp_nodes": ["2", 1]}));
        assert!(terms.allow_partial);
        assert_eq!(terms.temp_nodes, BTreeSet::from(["1".to_string(), "2".to_string()]));
        assert_eq!(refused(json!({"workflow": graph(), "temp_nodes": ["9"]})).code, "unknown_node");
        assert_eq!(refused(json!({"workflow": graph(), "temp_nodes": "2"})).code, "invalid_params");
        assert_eq!(refused(json!({"workflow": graph(), "allow_partial": "yes"})).code, "invalid_params");
    }

    #[test]
    fn a_file_that_was_not_fetched_ends_the_task_and_is_not_left_out() {
        let task = read(&json!({"workflow": graph(), "video_url": "a.mp4", "video_node_id": "1"})).unwrap();
        assert_eq!(task.into_request(&BTreeMap::new()).unwrap_err().code, "input_missing");
    }
}
