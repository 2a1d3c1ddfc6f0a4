//! Task types without code: a ComfyUI workflow in API format with a header that says which params go where and which
//! outputs come back. One file per type, `templates/comfyui/TYPE.json`; docs/TEMPLATES.md is the contract with authors.
//!
//! - `read.rs`: a file becomes a template, or a sentence that says what is wrong with it and where.
//! - `params.rs`: the params of its tasks: schema, defaults, files.
//! - `fill.rs`: params become a workflow that can be queued.
//! - `check.rs`: a workflow held against what the server has.
//! - `graph.rs`: workflows in API format as graphs.
//! - `catalog.rs`: the folder: files come into service, are replaced and retired while the host runs.
//! - `shipped.rs`: the templates that come with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;
use crate::task::is_type_name;

mod catalog;
mod check;
mod fill;
pub mod graph;
mod params;
mod read;
pub mod shipped;

pub use catalog::{Listing, Rejected, Served, TemplateOptions, Templates};
pub use check::{check_against, is_model_file};
pub use params::FILE_FORMAT;

/// What kind of file an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    Video,
    /// Animated ones too.
    Image,
    Audio,
    Text,
    #[serde(rename = "3d")]
    Model,
    /// Anything else.
    File,
}

impl OutputKind {
    /// The kind of a file by its name's extension; by its `format` (`video/h264-mp4`) when the extension says nothing.
    pub fn of(name: &str, format: Option<&str>) -> Self {
        let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "mp4" | "webm" | "mov" | "mkv" | "avi" | "m4v" => Self::Video,
            "png" | "jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff" | "avif" | "exr" => Self::Image,
            "flac" | "mp3" | "wav" | "ogg" | "opus" | "m4a" | "aac" => Self::Audio,
            "txt" | "json" | "csv" | "md" | "srt" => Self::Text,
            "glb" | "gltf" | "obj" | "stl" | "ply" | "fbx" | "usdz" => Self::Model,
            _ => match format.and_then(|format| format.split('/').next()) {
                Some("video") => Self::Video,
                Some("image") => Self::Image,
                Some("audio") => Self::Audio,
                _ => Self::File,
            },
        }
    }

    /// The spelling in headers and facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Text => "text",
            Self::Model => "3d",
            Self::File => "file",
        }
    }
}

/// An output that a workflow promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeclaredOutput {
    pub name: String,
    /// Id of the node that saves it.
    pub node: String,
    pub kind: OutputKind,
    /// Pixels; none: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames of a video, files of a batch of pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Frames a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Where neither a number nor a param says it, size, length and rate are those of this input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<Digest>,
}

/// A workflow that is ready to be asked for, and what is known about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    pub workflow: Map<String, Value>,
    /// Which param an input came from: `NODE/INPUT` → JSON pointer into the params. For messages.
    pub sources: BTreeMap<String, String>,
    /// The main one first.
    pub outputs: Vec<DeclaredOutput>,
}

/// A template that can serve its type.
pub struct Template {
    pub task_type: String,
    /// Name of the file in the folder.
    pub file: String,
    pub digest: Digest,
    pub title: Option<String>,
    pub description: Option<String>,
    /// What the workflow and its models allow, in the author's words.
    pub licence: Option<String>,
    pub requires: Requires,
    /// What works and is probably not meant, one sentence each.
    pub warnings: Vec<String>,
    params: params::Params,
    inputs: Vec<Mapping>,
    outputs: Vec<Promise>,
    workflow: Map<String, Value>,
}

/// What a server must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requires {
    /// Node classes.
    pub nodes: BTreeSet<String>,
    pub models: Vec<RequiredModel>,
}

/// A model file that a workflow loads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequiredModel {
    /// Below the server's `models`.
    pub folder: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Where a param goes.
struct Mapping {
    /// JSON pointer into the params.
    param: String,
    node: String,
    input: String,
}

/// An output as the header declares it, before params are known.
struct Promise {
    name: String,
    node: String,
    kind: OutputKind,
    width: Option<Measure>,
    height: Option<Measure>,
    frames: Option<Measure>,
    fps: Option<Measure>,
    /// JSON pointer of a file param.
    like: Option<String>,
}

/// A size, length or rate.
enum Measure {
    Fixed(f64),
    /// JSON pointer of the param that gives it.
    Param(String),
}

impl Template {
    /// Reads a template. `file` is its name in the folder: the type it serves and `.json`. The error is one sentence for the
    /// author, with the file, the JSON pointer of the place and what would be right.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let task_type = file.strip_suffix(".json").unwrap_or(file);
        if !is_type_name(task_type) {
            return Err(format!(
                "`{file}` cannot serve a type: the file is called TYPE.json, and a type has 1 to 100 letters, digits, `_`, \
                 `-` or `.`, and begins with a letter or a digit"
            ));
        }
        read::read(file, task_type, bytes).map_err(|problem| format!("`{file}` is no template that works: {problem}"))
    }

    /// JSON Schema of the params.
    pub fn schema(&self) -> &Value {
        &self.params.schema
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A template that works.
    pub(super) fn sample() -> Value {
        json!({
            "enginehouse": {
                "template": 1,
                "params": {"type": "object", "required": ["image"], "properties": {
                    "image": {"type": "string", "format": FILE_FORMAT},
                    "width": {"type": "integer"},
                    "height": {"type": "integer"},
                    "strength": {"type": "number"}
                }},
                "inputs": [
                    {"param": "/image", "node": "1", "input": "image"},
                    {"param": "/width", "node": "2", "input": "width"},
                    {"param": "/height", "node": "2", "input": "height"},
                    {"param": "/strength", "node": "2", "input": "strength"}
                ],
                "outputs": [{"name": "picture", "node": "3", "kind": "image", "width": "/width", "like": "/image"}]
            },
            "workflow": {
                "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
                "2": {"class_type": "Scale", "inputs": {"image": ["1", 0], "width": 0, "height": 0, "strength": 1.0}},
                "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}
            }
        })
    }

    fn read(document: &Value) -> Result<Template, String> {
        Template::parse("sample.json", document.to_string().as_bytes())
    }

    /// The sample with one place changed.
    fn changed(pointer: &str, value: Value) -> Value {
        let mut document = sample();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Object(members) => {
                members.insert(name.to_string(), value);
            }
            Value::Array(items) => items[name.parse::<usize>().unwrap()] = value,
            _ => panic!("{pointer}"),
        }
        document
    }

    #[test]
    fn a_template_says_what_it_needs_even_where_the_header_does_not() {
        let template = read(&sample()).unwrap();
        assert_eq!(template.task_type, "sample");
        assert_eq!(
            template.requires.nodes.iter().map(String::as_str).collect::<Vec<_>>(),
            ["LoadImage", "SaveImage", "Scale"]
        );
        assert!(template.warnings.is_empty(), "{:?}", template.warnings);
    }

    #[test]
    fn each_mistake_is_told_with_the_file_its_place_and_what_would_be_right() {
        let inputs = "/enginehouse/inputs/1";
        let cases = [
            ("/enginehouse/template", json!(2), vec!["/enginehouse/template", "write 1"]),
            ("/enginehouse/licens", json!("x"), vec!["/enginehouse/licens", "did you mean `licence`"]),
            ("/extra", json!(1), vec!["/extra", "enginehouse, workflow"]),
            ("/enginehouse/params", json!({"type": "array"}), vec!["/enginehouse/params/type"]),
            ("/enginehouse/inputs/1/node", json!("7"), vec!["/inputs/1/node", "no node 7", "1, 2, 3"]),
            ("/enginehouse/inputs/1/input", json!("widht"), vec!["/inputs/1/input", "did you mean `width`", "Scale"]),
            ("/enginehouse/inputs/1/input", json!("image"), vec!["/inputs/1/input", "linked to node 1"]),
            ("/enginehouse/inputs/1/param", json!("width"), vec!["/inputs/1/param", "write \"/width\""]),
            ("/enginehouse/inputs/1/param", json!("/widht"), vec!["/inputs/1/param", "did you mean `width`"]),
            (inputs, json!({"param": "/width", "node": "2"}), vec!["/inputs/1/input", "missing"]),
            (inputs, json!({"param": "/width", "node": "2", "input": "height"}), vec!["/inputs/2/input", "two params"]),
            ("/enginehouse/outputs", json!([]), vec!["/enginehouse/outputs", "one output at least"]),
            ("/enginehouse/outputs/0/node", json!("9"), vec!["/outputs/0/node", "no node 9"]),
            ("/enginehouse/outputs/0/kind", json!("picture"), vec!["/outputs/0/kind", "image, video"]),
            ("/enginehouse/outputs/0/like", json!("/width"), vec!["/outputs/0/like", "enginehouse-file"]),
            ("/enginehouse/outputs/0/width", json!(-1), vec!["/outputs/0/width", "above 0"]),
            ("/enginehouse/requires", json!({"nodes": ["Scale"]}), vec!["/requires/nodes", "LoadImage, SaveImage"]),
            ("/workflow/2/inputs/image", json!(["8", 0]), vec!["/workflow/2/inputs/image", "linked to node 8"]),
            ("/workflow", json!({"nodes": [], "links": []}), vec!["/workflow", "Export (API)"]),
        ];
        for (pointer, value, parts) in cases {
            let said = read(&changed(pointer, value)).err().unwrap_or_else(|| panic!("{pointer} was taken"));
            assert!(said.starts_with("`sample.json` is no template that works: at `"), "{said}");
            assert!(parts.iter().all(|part| said.contains(part)), "{pointer}: {said}");
        }
    }

    #[test]
    fn a_file_that_is_something_else_is_told_what_it_is() {
        let say = |text: &str| Template::parse("a.json", text.as_bytes()).err().unwrap();
        assert!(say("{\"half\": ").contains("not JSON"));
        assert!(say(r#"{"nodes": [], "links": []}"#).contains("Export (API)"));
        assert!(say(r#"{"1": {"class_type": "X", "inputs": {}}}"#).contains("bare workflow"));
        assert!(say("[]").contains("the header is missing"));
        assert!(Template::parse("a b.json", b"{}").err().unwrap().contains("TYPE.json"));
    }

    #[test]
    fn what_is_probably_not_meant_is_a_warning() {
        let mut document = changed("/enginehouse/params/properties/unused", json!({"type": "string"}));
        document["enginehouse"]["requires"] = json!({"nodes": ["LoadImage", "SaveImage", "Scale", "Other"]});
        let warnings = read(&document).unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("`/unused` goes nowhere") && warnings[1].contains("Other"), "{warnings:?}");
    }
}
