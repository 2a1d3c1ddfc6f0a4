//! A job's workflow becomes a prompt: its files are brought to the server, and what it saves goes to a folder of the job's
//! own, so that neither a neighbour's file nor an earlier result can be taken for its own.

use std::collections::BTreeMap;

use serde_json::Value;

use super::client::Client;
use super::graph::Graph;
use super::problems::{Code, PromptFailure};
use crate::artifacts::{Artifacts, names};
use crate::digest::Digest;
use crate::task::FileRef;

/// Below the server's input and output folders.
const FOLDER: &str = "enginehouse";

/// The input that says where a node saves.
const PREFIX: &str = "filename_prefix";

/// The folder of a prompt, below the server's own.
pub(super) fn folder(prompt: &uuid::Uuid) -> String {
    format!("{FOLDER}/{prompt}")
}

/// Puts every prefix below the prompt's folder. One that points elsewhere stays, and the server refuses it.
pub(super) fn own_prefixes(graph: &mut Graph, folder: &str) {
    for node in graph.values_mut() {
        let Some(Value::String(prefix)) = node.get_mut("inputs").and_then(|inputs| inputs.get_mut(PREFIX)) else {
            continue;
        };
        let elsewhere = prefix.starts_with(['/', '\\']) || prefix.split(['/', '\\']).any(|part| part == "..");
        if !elsewhere {
            *prefix = format!("{folder}/{prefix}");
        }
    }
}

/// Brings every artifact of the graph to the server and puts the name in its place that nodes find it under.
pub(super) async fn bring_files(
    graph: &mut Graph,
    client: &Client,
    artifacts: &Artifacts,
    folder: &str,
) -> Result<(), PromptFailure> {
    let mut wanted = BTreeMap::new();
    for node in graph.values() {
        find(node, &mut wanted);
    }
    let mut brought = BTreeMap::new();
    for (digest, file) in wanted {
        let missing = |failure: crate::task::Failure| PromptFailure::new(Code::InputMissing, failure.message);
        let path = artifacts.path(digest).map_err(missing)?;
        // Two files of one name stay two, and nodes still see what kind of file it is.
        let name = format!("{}_{}", digest.short(), names::sanitised(&file.name));
        brought.insert(digest, client.bring(&path, &name, folder).await?);
    }
    for node in graph.values_mut() {
        replace(node, &brought);
    }
    Ok(())
}

/// A file reference, if the value is one.
fn file(value: &Value) -> Option<FileRef> {
    let digest: Digest = value.get("$artifact")?.as_str()?.parse().ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(String::from);
    Some(FileRef {
        artifact: digest,
        name: text("name").unwrap_or_else(|| "file".into()),
        media_type: text("media_type").unwrap_or_default(),
    })
}

fn find(value: &Value, wanted: &mut BTreeMap<Digest, FileRef>) {
    if let Some(file) = file(value) {
        wanted.entry(file.artifact).or_insert(file);
        return;
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| find(item, wanted)),
        Value::Object(members) => members.values().for_each(|member| find(member, wanted)),
        _ => {}
    }
}

fn replace(value: &mut Value, brought: &BTreeMap<Digest, String>) {
    if let Some(name) = file(value).and_then(|file| brought.get(&file.artifact)) {
        *value = Value::String(name.clone());
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, brought)),
        Value::Object(members) => members.values_mut().for_each(|member| replace(member, brought)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_saved_goes_below_the_prompts_folder_unless_it_points_elsewhere() {
        let mut graph = json!({
            "1": {"class_type": "S", "inputs": {"filename_prefix": "a/b"}},
            "2": {"class_type": "S", "inputs": {"filename_prefix": ["3", 0]}},
            "3": {"class_type": "S", "inputs": {"filename_prefix": "../x"}},
            "4": {"class_type": "S"},
        });
        own_prefixes(graph.as_object_mut().unwrap(), "enginehouse/p");
        assert_eq!(graph["1"]["inputs"]["filename_prefix"], "enginehouse/p/a/b");
        assert_eq!(graph["2"]["inputs"]["filename_prefix"], json!(["3", 0]));
        assert_eq!(graph["3"]["inputs"]["filename_prefix"], "../x");
    }

    #[test]
    fn files_are_found_and_replaced_however_deep_they_lie() {
        let digest = Digest::of(b"x");
        let mut node = json!({"inputs": {"image": {"$artifact": digest, "name": "c.png"}, "list": {"__value__": [{"$artifact": digest}]}}});
        let mut wanted = BTreeMap::new();
        find(&node, &mut wanted);
        assert_eq!(wanted.keys().collect::<Vec<_>>(), [&digest]);
        replace(&mut node, &BTreeMap::from([(digest, "p/c.png".to_string())]));
        assert_eq!(node, json!({"inputs": {"image": "p/c.png", "list": {"__value__": ["p/c.png"]}}}));
    }
}
