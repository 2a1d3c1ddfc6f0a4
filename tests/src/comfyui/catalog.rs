//! The node classes there are, described as `/object_info` describes them. The list is `catalog.json`; what they do is
//! in [`super::nodes`].

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub(super) struct Catalog {
    classes: Map<String, Value>,
    parsed: std::collections::HashMap<String, Class>,
}

/// One class.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Class {
    module: String,
    category: String,
    /// Described in the newer of the two styles, which has a few more members.
    #[serde(default)]
    v3: bool,
    #[serde(default)]
    pub output_node: bool,
    #[serde(default)]
    essentials: Option<String>,
    /// Whether the class is handed the graph, to save it with its files.
    #[serde(default)]
    hidden: bool,
    /// Name to `[type or choices, settings?]`.
    #[serde(default)]
    pub required: Map<String, Value>,
    #[serde(default)]
    pub optional: Map<String, Value>,
    /// `[type, name]` each.
    pub outputs: Vec<(String, String)>,
}

impl Catalog {
    /// # Panics
    /// When `catalog.json` is not what it should be.
    pub(super) fn load() -> Self {
        let classes: Map<String, Value> =
            serde_json::from_str(include_str!("catalog.json")).expect("catalog.json holds an object");
        let parsed = classes
            .iter()
            .map(|(name, class)| {
                let class = serde_json::from_value(class.clone());
                (name.clone(), class.unwrap_or_else(|error| panic!("class {name} of catalog.json: {error}")))
            })
            .collect();
        Self { classes, parsed }
    }

    pub(super) fn class(&self, name: &str) -> Option<&Class> {
        self.parsed.get(name)
    }

    /// `{}` for a class that is not there.
    pub(super) fn described(&self, name: &str, input_folder: &Path) -> Value {
        let mut described = Map::new();
        if let Some(class) = self.class(name) {
            described.insert(name.to_string(), class.described(name, input_folder));
        }
        Value::Object(described)
    }

    pub(super) fn described_all(&self, input_folder: &Path) -> Value {
        let all = self
            .classes
            .keys()
            .filter_map(|name| self.class(name).map(|class| (name.clone(), class.described(name, input_folder))));
        Value::Object(all.collect())
    }
}

impl Class {
    fn described(&self, name: &str, input_folder: &Path) -> Value {
        let mut input = Map::new();
        let mut order = Map::new();
        let mut group = |name: &str, inputs: &Map<String, Value>| {
            order.insert(name.to_string(), inputs.keys().cloned().collect());
            let listed = inputs.iter().map(|(name, input)| (name.clone(), with_files(input, input_folder)));
            input.insert(name.to_string(), Value::Object(listed.collect()));
        };
        group("required", &self.required);
        if !self.optional.is_empty() {
            group("optional", &self.optional);
        }
        if self.hidden {
            let hidden = |kind: &str| if self.v3 { json!([kind]) } else { json!(kind) };
            let hidden = [("prompt", hidden("PROMPT")), ("extra_pnginfo", hidden("EXTRA_PNGINFO"))];
            group("hidden", &hidden.into_iter().map(|(name, kind)| (name.to_string(), kind)).collect());
        }
        let mut described = json!({
            "input": input,
            "input_order": order,
            "is_input_list": false,
            "output": self.outputs.iter().map(|(kind, _)| kind).collect::<Vec<_>>(),
            "output_is_list": vec![false; self.outputs.len()],
            "output_name": self.outputs.iter().map(|(_, name)| name).collect::<Vec<_>>(),
            "name": name,
            "display_name": name,
            "description": "",
            "python_module": self.module,
            "category": self.category,
            "output_node": self.output_node,
            "has_intermediate_output": false,
            "search_aliases": [],
        });
        if self.v3 {
            described["output_tooltips"] = vec![Value::Null; self.outputs.len()].into();
            for (member, value) in [
                ("dev_only", json!(false)),
                ("api_node", json!(false)),
                ("deprecated", json!(false)),
                ("experimental", json!(false)),
            ] {
                described[member] = value;
            }
            for member in ["output_matchtypes", "price_badge"] {
                described[member] = Value::Null;
            }
        }
        if self.v3 || self.essentials.is_some() {
            described["essentials_category"] = json!(self.essentials);
        }
        described
    }
}

/// An input that takes uploaded files lists what lies in the input folder now.
fn with_files(input: &Value, folder: &Path) -> Value {
    let settings = &input[1];
    if settings["image_upload"] != true && settings["video_upload"] != true {
        return input.clone();
    }
    let files: Vec<Value> = super::files::names(folder).into_iter().map(Value::from).collect();
    let mut listed = input.clone();
    if settings.get("options").is_some() {
        listed[1]["options"] = files.into();
    } else {
        listed[0] = files.into();
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_names_its_inputs_and_lists_the_files_of_today() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b.png"), b"").unwrap();
        std::fs::write(folder.path().join("a.mp4"), b"").unwrap();
        let catalog = Catalog::load();
        let all = catalog.described_all(folder.path());
        assert_eq!(all["LoadImage"]["input"]["required"]["image"][0], json!(["a.mp4", "b.png"]));
        assert_eq!(all["LoadVideo"]["input"]["required"]["file"][1]["options"], json!(["a.mp4", "b.png"]));
        for (name, class) in all.as_object().unwrap() {
            assert_eq!(class["name"], json!(name));
            assert!(class["input"]["required"].is_object(), "{name}");
        }
        assert_eq!(catalog.described("NoSuchClass", folder.path()), json!({}));
    }
}
