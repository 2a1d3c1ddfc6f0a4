//! From the params of a task to a workflow that can be queued.

use serde_json::{Map, Value, json};

use super::{DeclaredOutput, Filled, Measure, Promise, Template};
use crate::digest::Digest;
use crate::task::Failure;

impl Template {
    /// The params of a task with what the schema fills in, held against the schema. Files are not looked at. Code
    /// `invalid_params`; the message names each param by its JSON pointer.
    pub fn complete(&self, params: &Map<String, Value>) -> Result<Value, Failure> {
        self.params.complete(&self.task_type, params)
    }

    /// JSON pointers of the params that are files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.params.files.iter().map(String::as_str)
    }

    /// Puts complete params ([`Self::complete`]) into the workflow. Files must be artifacts (`{"$artifact": …}`) by now.
    ///
    /// A param that is absent or null leaves the workflow's own value where it is. A list is wrapped as the engine wants it,
    /// because a bare one is a link.
    pub fn fill(&self, params: &Value) -> Result<Filled, Failure> {
        for pointer in self.files() {
            if let Some(value) = given(params, pointer)
                && artifact(value).is_none()
            {
                return Err(Failure::invalid(
                    "invalid_params",
                    format!("`{pointer}`: the file of this `{}` task is no artifact: {value}", self.task_type),
                ));
            }
        }
        let mut filled = Filled { workflow: self.workflow.clone(), ..Filled::default() };
        for mapping in &self.inputs {
            let Some(value) = given(params, &mapping.param) else { continue };
            let inputs = filled.workflow.get_mut(&mapping.node).and_then(|node| node.get_mut("inputs"));
            let Some(Value::Object(inputs)) = inputs else { continue };
            let value = if value.is_array() { json!({ "__value__": value }) } else { value.clone() };
            inputs.insert(mapping.input.clone(), value);
            filled.sources.insert(format!("{}/{}", mapping.node, mapping.input), mapping.param.clone());
        }
        filled.outputs = self.outputs.iter().map(|output| output.declared(params)).collect();
        Ok(filled)
    }
}

impl Promise {
    /// Whether a measure, or the file that it is like, is this param or within it.
    pub(super) fn names(&self, pointer: &str) -> bool {
        let measures = [&self.width, &self.height, &self.frames, &self.fps].into_iter().flatten();
        let params = measures.filter_map(|measure| match measure {
            Measure::Param(param) => Some(param),
            Measure::Fixed(_) => None,
        });
        params.chain(&self.like).any(|param| param == pointer || param.starts_with(&format!("{pointer}/")))
    }

    fn declared(&self, params: &Value) -> DeclaredOutput {
        let number = |measure: &Option<Measure>| {
            let number = match measure.as_ref()? {
                Measure::Fixed(number) => *number,
                Measure::Param(pointer) => params.pointer(pointer)?.as_f64()?,
            };
            // 0 leaves it open, as sizes of nodes do.
            Some(number).filter(|number| *number > 0.0)
        };
        let side = |measure| number(measure).map(|side| side.min(f64::from(u32::MAX)) as u32);
        DeclaredOutput {
            name: self.name.clone(),
            node: self.node.clone(),
            kind: self.kind,
            width: side(&self.width),
            height: side(&self.height),
            frames: number(&self.frames).map(|frames| frames as u64),
            fps: number(&self.fps),
            like: self.like.as_ref().and_then(|pointer| artifact(params.pointer(pointer)?)),
        }
    }
}

fn given<'a>(params: &'a Value, pointer: &str) -> Option<&'a Value> {
    params.pointer(pointer).filter(|value| !value.is_null())
}

fn artifact(value: &Value) -> Option<Digest> {
    value.get("$artifact")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::tests::sample;
    use crate::templates::{OutputKind, Template};

    fn fill(document: &Value, params: Value) -> Filled {
        let template = Template::parse("sample.json", document.to_string().as_bytes()).unwrap();
        let complete = template.complete(params.as_object().unwrap()).unwrap();
        template.fill(&complete).unwrap()
    }

    #[test]
    fn values_keep_their_type_and_what_is_left_out_keeps_the_workflows_own() {
        let file = json!({"$artifact": Digest::of(b"x").to_string(), "name": "a.png", "media_type": "image/png"});
        let filled = fill(&sample(), json!({"image": file, "width": 640, "strength": 0.5}));
        assert_eq!(filled.workflow["1"]["inputs"]["image"], file);
        let scale = &filled.workflow["2"]["inputs"];
        assert_eq!((&scale["width"], &scale["height"], &scale["strength"]), (&json!(640), &json!(0), &json!(0.5)));
        assert_eq!(filled.sources["2/width"], "/width");
        assert!(!filled.sources.contains_key("2/height"), "nothing was given for it");

        let output = &filled.outputs[0];
        assert_eq!((output.kind, output.width, output.height), (OutputKind::Image, Some(640), None));
        assert_eq!(output.like, Some(Digest::of(b"x")));
    }

    #[test]
    fn a_list_is_no_link() {
        let mut document = sample();
        document["enginehouse"]["params"]["properties"]["strength"] = json!({"type": "array"});
        let filled = fill(&document, json!({"image": {"$artifact": Digest::of(b"x").to_string()}, "strength": [1, 2]}));
        assert_eq!(filled.workflow["2"]["inputs"]["strength"], json!({"__value__": [1, 2]}));
    }

    #[test]
    fn a_file_that_was_not_fetched_is_an_error_and_no_workflow() {
        let template = Template::parse("sample.json", sample().to_string().as_bytes()).unwrap();
        let failure = template.fill(&json!({"image": "https://example.com/a.png"})).unwrap_err();
        assert!(failure.message.contains("`/image`"), "{}", failure.message);
    }
}
