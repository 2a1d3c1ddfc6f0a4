//! The server's record of a prompt (`/history/ID`), which decides how the prompt ended, and the files it names.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::graph::{self, Graph};
use super::problems::{Code, PromptFailure, raised};
use crate::templates::OutputKind;

/// A file that a record names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: String,
    pub subfolder: String,
    /// `output` or `temp`.
    pub folder: String,
    pub kind: OutputKind,
    /// Id of the node that left it.
    pub node: String,
}

/// How a record says that its prompt ended.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Well; with these files, in order.
    Success(Vec<Item>),
    /// Somebody stopped it.
    Interrupted {
        node: Option<String>,
    },
    Failed(PromptFailure),
}

/// Reads a record. `temp`: nodes whose previews are wanted.
pub(super) fn read(record: &Value, graph: &Graph, temp: &BTreeSet<String>) -> Verdict {
    let status = record.get("status").filter(|status| status.is_object());
    let messages = status.and_then(|status| status.get("messages")).and_then(Value::as_array);
    let message = |kind: &str| {
        let found = messages.into_iter().flatten().rev().find(|m| m.get(0).and_then(Value::as_str) == Some(kind));
        found.and_then(|m| m.get(1))
    };
    // Old records have no status; what they left tells.
    let success = match status {
        Some(status) => status.get("status_str").and_then(Value::as_str) == Some("success"),
        None => true,
    };
    if success {
        return Verdict::Success(items(record, temp));
    }
    if let Some(data) = message("execution_interrupted") {
        let node = data.get("node_id").and_then(Value::as_str).map(String::from);
        return Verdict::Interrupted { node };
    }
    match message("execution_error") {
        Some(data) => Verdict::Failed(raised(data, graph)),
        None => Verdict::Failed(PromptFailure::new(
            Code::NodeFailed,
            "ComfyUI's record of the prompt says that it failed, but not why. Its log says more.",
        )),
    }
}

/// The files of a record: nodes by id, inside a node in the order of the record. Every list under any key is looked
/// through, because nodes are free in what they call their outputs; what is no file (texts, flags) is passed over.
fn items(record: &Value, temp: &BTreeSet<String>) -> Vec<Item> {
    let none = Map::new();
    let outputs = record.get("outputs").and_then(Value::as_object).unwrap_or(&none);
    let mut nodes: Vec<&String> = outputs.keys().collect();
    nodes.sort_by(|a, b| graph::by_id(a, b));
    let mut items: Vec<Item> = Vec::new();
    for node in nodes {
        let shown_as = record.pointer(&format!("/meta/{node}/display_node")).and_then(Value::as_str);
        let temp_wanted = temp.contains(node) || shown_as.is_some_and(|shown| temp.contains(shown));
        let lists = outputs.get(node).and_then(Value::as_object).into_iter().flat_map(Map::values);
        for entry in lists.filter_map(Value::as_array).flatten() {
            let Some(item) = item(entry, node) else { continue };
            let wanted = item.folder == "output" || item.folder == "temp" && temp_wanted;
            // The same file under two keys is one file.
            let known =
                items.iter().any(|i| (&i.name, &i.subfolder, &i.folder) == (&item.name, &item.subfolder, &item.folder));
            if wanted && !known {
                items.push(item);
            }
        }
    }
    items
}

fn item(entry: &Value, node: &str) -> Option<Item> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let name = text("filename").filter(|name| !name.is_empty())?;
    let subfolder = text("subfolder").unwrap_or_default();
    if !is_inside(name, subfolder) {
        tracing::warn!(
            node,
            name,
            subfolder,
            "a record of ComfyUI names a file outside its folders; it is passed over"
        );
        return None;
    }
    Some(Item {
        name: name.into(),
        subfolder: subfolder.into(),
        folder: text("type").unwrap_or("output").into(),
        kind: OutputKind::of(name, text("format")),
        node: node.into(),
    })
}

/// A name without folders, and a folder below the one it counts from.
fn is_inside(name: &str, subfolder: &str) -> bool {
    let parts = |path: &str| path.split(['/', '\\']).map(String::from).collect::<Vec<_>>();
    !name.contains(['/', '\\', '\0'])
        && name != ".."
        && !subfolder.starts_with(['/', '\\'])
        && !subfolder.contains(['\0', ':'])
        && parts(subfolder).iter().all(|part| part != "..")
}

/// Which of the files is the main output: the first video, else the first picture, else the first.
pub fn main_output(kinds: impl IntoIterator<Item = OutputKind>) -> usize {
    let kinds: Vec<OutputKind> = kinds.into_iter().collect();
    let first = |wanted| kinds.iter().position(|kind| *kind == wanted);
    first(OutputKind::Video).or_else(|| first(OutputKind::Image)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(record: Value, temp: &[&str]) -> Vec<(String, String, OutputKind)> {
        let temp = temp.iter().map(|id| (*id).to_string()).collect();
        match read(&record, &Map::new(), &temp) {
            Verdict::Success(items) => items.into_iter().map(|i| (i.node, i.name, i.kind)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_key_is_looked_through_and_what_is_no_file_is_passed_over() {
        let record = json!({
            "status": {"status_str": "success", "completed": true, "messages": []},
            "outputs": {
                "10": {"images": [{"filename": "b.mp4", "subfolder": "m", "type": "output"}], "animated": [true]},
                "9": {
                    "text": ["words"],
                    "gifs": [{"filename": "v.weird", "subfolder": "", "type": "output", "format": "video/h264-mp4"}],
                    "files": [{"filename": "v.weird", "subfolder": "", "type": "output"}, {"filename": ""}, null, [1]],
                    "3d": [{"filename": "m.GLB", "subfolder": "", "type": "output"}],
                    "width": 12,
                },
                "2": {"images": [{"filename": "t.png", "subfolder": "", "type": "temp"}]},
            },
        });
        assert_eq!(
            files(record.clone(), &[]),
            [
                ("9".into(), "v.weird".into(), OutputKind::Video),
                ("9".into(), "m.GLB".into(), OutputKind::Model),
                ("10".into(), "b.mp4".into(), OutputKind::Video),
            ]
        );
        assert_eq!(files(record, &["2"])[0], ("2".into(), "t.png".into(), OutputKind::Image));
    }

    #[test]
    fn files_outside_the_servers_folders_are_passed_over() {
        for (name, subfolder) in [
            ("../a.png", ""),
            ("a.png", "../x"),
            ("a.png", "/etc"),
            ("a\\b.png", ""),
            ("a.png", "x/../../y"),
            ("..", ""),
        ] {
            let record = json!({
                "status": {"status_str": "success"},
                "outputs": {"1": {"images": [{"filename": name, "subfolder": subfolder, "type": "output"}]}},
            });
            assert_eq!(files(record, &[]), [], "{name} {subfolder}");
        }
    }

    #[test]
    fn the_last_message_tells_a_failure_from_an_interruption() {
        let record = |kind: &str, data: Value| {
            let messages = json!([["execution_start", {}], [kind, data]]);
            json!({"status": {"status_str": "error", "completed": false, "messages": messages}, "outputs": {}})
        };
        let read = |record: &Value| read(record, &Map::new(), &BTreeSet::new());
        assert!(matches!(
            read(&record("execution_interrupted", json!({"node_id": "2"}))),
            Verdict::Interrupted { node: Some(node) } if node == "2"
        ));
        let error = json!({"node_id": "4", "node_type": "K", "exception_type": "torch.OutOfMemoryError",
            "exception_message": "Allocation failed\n", "traceback": ["a\n", "b\n"]});
        let Verdict::Failed(failure) = read(&record("execution_error", error)) else { panic!("a failure") };
        assert_eq!((failure.code, failure.node.as_deref()), (Code::VramOom, Some("4")));
        assert!(failure.detail.unwrap().ends_with("a\nb\n"));
        assert!(matches!(read(&json!({"status": null, "outputs": {}})), Verdict::Success(items) if items.is_empty()));
    }

    #[test]
    fn the_first_video_is_the_main_output_else_the_first_picture_else_the_first_file() {
        use OutputKind::{Audio, File, Image, Video};
        assert_eq!(main_output([Image, Audio, Video, Video]), 2);
        assert_eq!(main_output([File, Audio, Image]), 2);
        assert_eq!(main_output([File, Audio]), 0);
    }
}
