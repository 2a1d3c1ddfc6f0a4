//! A workflow held against what a server has (`/object_info`: node class → description), before it is queued: an error that
//! names the param is worth more than one that names a node.
//!
//! It answers where it is sure. Whatever it does not understand (inputs of custom types, lists that depend on other inputs,
//! lists that are empty or filled by uploads) is left to the server, which has the last word.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::graph;
use crate::nearest::nearest;
use crate::task::Failure;

/// Endings of files that hold models.
const MODEL_ENDINGS: [&str; 9] = [".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".pkl"];

/// Choices that are told at most.
const CHOICES_TOLD: usize = 12;

/// Longest value that is repeated in a message, in characters.
const VALUE_TOLD: usize = 80;

/// Holds a workflow against a server. `sources`: [`super::Filled::sources`].
///
/// Codes: `node_missing` (class unavailable) when the server lacks a node class; `model_missing` (unavailable) when it lacks a
/// model file; else `invalid_params` when the value at fault came from a param, and `bad_workflow` when it stands in the
/// workflow itself. The message names the node, the input and the param. Nodes are looked at in the order of their ids;
/// missing classes are told first, all of them.
pub fn check_against(
    workflow: &Map<String, Value>,
    sources: &BTreeMap<String, String>,
    object_info: &Map<String, Value>,
) -> Result<(), Failure> {
    let ids = graph::ids(workflow);
    let missing: Vec<String> = ids
        .iter()
        .filter_map(|id| Some((*id, graph::class_of(workflow, id)?)))
        .filter(|(_, class)| !object_info.contains_key(*class))
        .map(|(id, class)| format!("{class} (node {id})"))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::unavailable(
            "node_missing",
            format!(
                "the ComfyUI server has no node of class {}: install the custom nodes that bring it, or take a server that \
                 has them",
                missing.join(", ")
            ),
        ));
    }
    for id in ids {
        let Some(node) = workflow.get(id) else { continue };
        let Some(class) = graph::class(node) else { continue };
        let Some(inputs) = object_info.get(class).and_then(|info| info.get("input")) else { continue };
        let place = Place { id, class, sources };
        for (section, required) in [("required", true), ("optional", false)] {
            for (name, described) in inputs.get(section).and_then(Value::as_object).into_iter().flatten() {
                let Some(wanted) = Wanted::read(described) else { continue };
                match graph::input(workflow, id, name) {
                    Some(value) => check_value(&place, name, value, &wanted)?,
                    None if required && wanted.is_model_file() => {
                        let what = format!("is missing: the node needs it ({})", wanted.kind);
                        return Err(place.wrong(name, &what));
                    }
                    None => {}
                }
            }
        }
    }
    Ok(())
}

/// A node, for messages.
struct Place<'a> {
    id: &'a str,
    class: &'a str,
    sources: &'a BTreeMap<String, String>,
}

impl Place<'_> {
    /// `node 3 (ImageScale), input width, from the param /width`
    fn of(&self, input: &str) -> String {
        let param = self.source(input).map_or(String::new(), |param| format!(", from the param {param}"));
        format!("node {} ({}), input {input}{param}", self.id, self.class)
    }

    fn source(&self, input: &str) -> Option<&String> {
        self.sources.get(&format!("{}/{input}", self.id))
    }

    fn wrong(&self, input: &str, what: &str) -> Failure {
        let code = if self.source(input).is_some() { "invalid_params" } else { "bad_workflow" };
        let separator = if what.starts_with("is ") { " " } else { ": " };
        Failure::invalid(code, format!("{}{separator}{what}", self.of(input)))
    }
}

/// What a node says of one of its inputs.
struct Wanted<'a> {
    /// `INT`, `IMAGE`, …; `COMBO` for a choice in either spelling.
    kind: &'a str,
    choices: Option<&'a Vec<Value>>,
    options: Option<&'a Map<String, Value>>,
}

impl<'a> Wanted<'a> {
    /// `["INT", {"min": 0}]`, `["COMBO", {"options": […]}]`, `[["a", "b"], {…}]`. None: something else.
    fn read(described: &'a Value) -> Option<Self> {
        let described = described.as_array()?;
        let options = described.get(1).and_then(Value::as_object);
        match described.first()? {
            Value::String(kind) => {
                let choices = if kind == "COMBO" { options.and_then(|o| o.get("options")?.as_array()) } else { None };
                Some(Self { kind, choices, options })
            }
            Value::Array(choices) => Some(Self { kind: "COMBO", choices: Some(choices), options }),
            _ => None,
        }
    }

    /// An absent input is an error for kinds that are known; those that the engine makes up by itself (`COMFY_…`) have inputs
    /// of other names.
    /// Whether a text names the file of a model.
    pub fn is_model_file(&self) -> bool {
        !self.kind.starts_with("COMFY_") && self.kind != "*"
    }

    fn option(&self, name: &str) -> Option<&'a Value> {
        self.options?.get(name)
    }

    /// What is chosen from comes from elsewhere: uploaded files, a remote list.
    fn is_open(&self) -> bool {
        self.options.is_some_and(|options| {
            options.iter().any(|(name, value)| {
                (name.ends_with("_upload") || name == "upload" || name == "remote") && *value != Value::Bool(false)
            })
        })
    }
}

fn check_value(place: &Place<'_>, input: &str, value: &Value, wanted: &Wanted<'_>) -> Result<(), Failure> {
    // Links and files are the server's to judge.
    if value.is_array() || value.is_object() {
        return Ok(());
    }
    match wanted.kind {
        "INT" | "FLOAT" => check_number(place, input, value, wanted),
        "COMBO" => check_choice(place, input, value, wanted),
        _ => Ok(()),
    }
}

fn check_number(place: &Place<'_>, input: &str, value: &Value, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        // The engine makes numbers of them.
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        let kind = if wanted.kind == "INT" { "a whole number" } else { "a number" };
        return Err(place.wrong(input, &format!("{} is not {kind}", told(value))));
    };
    let bound = |name: &str| Some((wanted.option(name)?.as_f64()?, wanted.option(name)?));
    if let Some((most, said)) = bound("max")
        && number > most
    {
        return Err(place.wrong(input, &format!("{} is above the most the node takes, {said}", told(value))));
    }
    if let Some((least, said)) = bound("min")
        && number < least
    {
        return Err(place.wrong(input, &format!("{} is below the least the node takes, {said}", told(value))));
    }
    Ok(())
}

fn check_choice(place: &Place<'_>, input: &str, value: &Value, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let Some(choices) = wanted.choices.filter(|choices| !choices.is_empty()) else { return Ok(()) };
    if wanted.is_open() || choices.contains(value) {
        return Ok(());
    }
    let texts: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
    if texts.len() != choices.len() {
        return Ok(());
    }
    let asked = value.as_str().unwrap_or_default();
    let meant =
        nearest(asked, texts.iter().copied()).map_or(String::new(), |meant| format!(" (did you mean `{meant}`?)"));
    if is_model_file(asked) || texts.iter().any(|text| is_model_file(text)) {
        return Err(Failure::unavailable(
            "model_missing",
            format!(
                "{}: the server has no model {}{meant}; put the file into its models folder, or choose one that it has",
                place.of(input),
                told(value)
            ),
        ));
    }
    let more = texts.len().saturating_sub(CHOICES_TOLD);
    let mut said = texts.into_iter().take(CHOICES_TOLD).collect::<Vec<_>>().join(", ");
    if more > 0 {
        said.push_str(&format!(" and {more} more"));
    }
    Err(place.wrong(input, &format!("{} is none of its choices{meant}: {said}", told(value))))
}

/// Whether a text names the file of a model.
pub fn is_model_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    MODEL_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// A value as a message repeats it.
fn told(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_TOLD) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server() -> Value {
        json!({
            "LoadImage": {"input": {"required": {"image": [["there.png"], {"image_upload": true}]}}},
            "LoadVideo": {"input": {"required": {"file": ["COMBO", {"options": [], "video_upload": true}]}}},
            "ImageScale": {"input": {
                "required": {
                    "image": ["IMAGE"],
                    "upscale_method": [["area", "lanczos"]],
                    "width": ["INT", {"default": 512, "min": 0, "max": 16384}],
                    "factor": ["FLOAT", {"min": 0.5}]
                },
                "optional": {"codec": ["COMBO", {"options": ["h264", "av1"]}]}
            }},
            "Loader": {"input": {"required": {"ckpt_name": [["sdxl_base.safetensors"], {}]}}},
            "EmptyLoader": {"input": {"required": {"ckpt_name": [[], {}]}}},
            "Sampler": {"input": {"required": {"sampler_name": ["COMBO", {"options": ["euler", "dpmpp_2m"]}]}}},
            "Odd": {"input": {"required": {
                "format": ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "auto"}]}],
                "numbers": [[1, 2, 3], {}],
                "anything": "?"
            }}},
            "Bare": {}
        })
    }

    fn check(workflow: &Value, sources: &[(&str, &str)]) -> Result<(), Failure> {
        let sources = sources.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        check_against(workflow.as_object().unwrap(), &sources, server().as_object().unwrap())
    }

    /// A scaling node with one input changed; null: left out.
    fn scale(input: &str, value: Value) -> Value {
        let mut inputs = json!({"image": ["1", 0], "upscale_method": "area", "width": 64, "factor": 1});
        if value.is_null() {
            inputs.as_object_mut().unwrap().remove(input);
        } else {
            inputs[input] = value;
        }
        json!({
            "1": {"class_type": "LoadImage", "inputs": {"image": {"$artifact": "sha256:00"}}},
            "3": {"class_type": "ImageScale", "inputs": inputs}
        })
    }

    #[test]
    fn what_fits_passes() {
        for (input, value) in [
            ("width", json!(0)),
            ("width", json!("12")),
            ("factor", json!(0.5)),
            ("codec", json!("av1")),
            ("width", json!(["1", 0])),
        ] {
            check(&scale(input, value.clone()), &[]).unwrap_or_else(|e| panic!("{input} {value}: {e}"));
        }
    }

    #[test]
    fn an_error_names_the_node_the_input_and_the_param() {
        let failure = check(&scale("width", json!(99999)), &[("3/width", "/width")]).unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.message.as_str()),
            (
                "invalid_params",
                "node 3 (ImageScale), input width, from the param /width: 99999 is above the most the node takes, 16384"
            )
        );
        for (input, value, said) in [
            ("width", json!(-1), "node 3 (ImageScale), input width: -1 is below the least the node takes, 0"),
            ("width", json!("wide"), "node 3 (ImageScale), input width: \"wide\" is not a whole number"),
            ("factor", json!(0.25), "node 3 (ImageScale), input factor: 0.25 is below the least the node takes, 0.5"),
            (
                "upscale_method",
                json!("lanczoz"),
                "node 3 (ImageScale), input upscale_method: \"lanczoz\" is none of its choices (did you mean `lanczos`?): \
                 area, lanczos",
            ),
            ("codec", json!("vp9"), "node 3 (ImageScale), input codec: \"vp9\" is none of its choices: h264, av1"),
            ("image", Value::Null, "node 3 (ImageScale), input image is missing: the node needs it (IMAGE)"),
        ] {
            let failure = check(&scale(input, value), &[]).unwrap_err();
            assert_eq!((failure.code.as_str(), failure.message.as_str()), ("bad_workflow", said));
        }
    }

    #[test]
    fn what_the_server_lacks_is_unavailable_and_no_mistake_of_the_task() {
        let node =
            |class: &str, input: &str, value: &str| json!({"5": {"class_type": class, "inputs": {input: value}}});
        let failure = check(&json!({"10": {"class_type": "Magic"}, "9": {"class_type": "Other"}}), &[]).unwrap_err();
        assert_eq!(failure.code, "node_missing");
        assert!(failure.message.contains("class Other (node 9), Magic (node 10)"), "{}", failure.message);

        let failure =
            check(&node("Loader", "ckpt_name", "sdxl_bas.safetensors"), &[("5/ckpt_name", "/model")]).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class.as_str()), ("model_missing", "unavailable"));
        for part in ["node 5 (Loader), input ckpt_name, from the param /model", "did you mean `sdxl_base.safetensors`?"]
        {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        // A choice that only ends in `_name` is no model.
        assert_eq!(check(&node("Sampler", "sampler_name", "x"), &[]).unwrap_err().code, "bad_workflow");
    }

    #[test]
    fn what_is_not_understood_is_left_to_the_server() {
        let passes = |workflow: Value| check(&workflow, &[]).unwrap_or_else(|e| panic!("{workflow}: {e}"));
        passes(json!({"1": {"class_type": "LoadImage", "inputs": {"image": "not_yet_uploaded.png"}}}));
        passes(json!({"1": {"class_type": "LoadVideo", "inputs": {"file": "not_yet_uploaded.mp4"}}}));
        passes(json!({"1": {"class_type": "EmptyLoader", "inputs": {"ckpt_name": "any.safetensors"}}}));
        passes(json!({"1": {"class_type": "Odd", "inputs": {"numbers": 4}}}));
        passes(json!({"1": {"class_type": "Bare", "inputs": {"any": 1}}}));
    }
}
