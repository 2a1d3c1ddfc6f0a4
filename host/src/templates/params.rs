//! The params of a template's tasks: their schema, what it fills in, and which of them are files.

use std::collections::BTreeSet;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::graph::{Problem, token};
use crate::nearest::nearest;
use crate::schemas;
use crate::task::Failure;

/// What marks a file in the schema: `"format": "enginehouse-file"`.
pub const FILE_FORMAT: &str = "enginehouse-file";

/// Keywords behind which properties may stand that are not found by following `properties`.
const OPEN_KEYWORDS: [&str; 9] = [
    "$ref",
    "$dynamicRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "dependentSchemas",
    "patternProperties",
    "additionalProperties",
];

/// A params schema, ready for use.
pub(super) struct Params {
    pub schema: Value,
    validator: Validator,
    /// JSON pointers of the params that are files.
    pub files: BTreeSet<String>,
}

/// Whether a schema has a param.
pub(super) enum Known {
    Yes,
    /// It could: parts of the schema say more than its properties do.
    Perhaps,
    /// The one that was meant, if one is like it.
    No(Option<String>),
}

impl Params {
    /// Pointers of problems are those within the schema.
    pub fn read(schema: &Value) -> Result<Self, Problem> {
        if schema.get("type").is_none_or(|t| t != "object") {
            return Err(Problem::new("/type", "params are an object: the schema begins with \"type\": \"object\""));
        }
        let validator = schemas::compile(schema).map_err(|unusable| Problem::new(unusable.pointer, unusable.what))?;
        let mut files = BTreeSet::new();
        collect_files(schema, "", "", &mut files)?;
        if files.len() != marks(schema) {
            let what = format!(
                "\"format\": \"{FILE_FORMAT}\" marks a property, here or in a nested object: a file behind another keyword \
                 (`items`, `anyOf`, …) is not fetched"
            );
            return Err(Problem::new("", what));
        }
        Ok(Self { schema: schema.clone(), validator, files })
    }

    /// Names of the params at the top.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str())
    }

    pub fn knows(&self, pointer: &str) -> Known {
        let mut schema = &self.schema;
        for part in pointer.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let properties = schema.get("properties").and_then(Value::as_object);
            if let Some(found) = properties.and_then(|properties| properties.get(&part)) {
                schema = found;
                continue;
            }
            let list = part.parse::<usize>().is_ok() && (schema.get("items").or(schema.get("prefixItems"))).is_some();
            let open = |key: &&str| schema.get(*key).is_some_and(|value| *value != Value::Bool(false));
            if list || schema.is_boolean() || OPEN_KEYWORDS.iter().any(open) {
                return Known::Perhaps;
            }
            let names = properties.into_iter().flatten().map(|(name, _)| name.as_str());
            return Known::No(nearest(&part, names).map(String::from));
        }
        Known::Yes
    }

    /// The params of a task with the schema's defaults, checked. Files are not looked at: their values stay as they are.
    /// `engine` is for the router and no param of the template, unless its schema says so.
    pub fn complete(&self, task_type: &str, params: &Map<String, Value>) -> Result<Value, Failure> {
        let mut params = params.clone();
        if !self.names().any(|name| name == "engine") {
            params.remove("engine");
        }
        let mut complete = Value::Object(params);
        fill_in(&self.schema, &mut complete);
        // The schema says that a file is text, and an artifact is an object: what stands for it is put in its place.
        let mut checked = complete.clone();
        for pointer in &self.files {
            let Some(value) = checked.pointer_mut(pointer) else { continue };
            match value {
                Value::Null => {}
                Value::String(source) if !source.is_empty() => {}
                Value::Object(file) if file.get("$artifact").is_some_and(Value::is_string) => *value = json!("file"),
                _ => {
                    return Err(refused(
                        task_type,
                        &format!(
                            "`{pointer}`: a file is an address (http, https), a path below the input folders, or \
                             {{\"$artifact\": \"sha256:…\"}}"
                        ),
                    ));
                }
            }
        }
        match schemas::errors(&self.validator, &checked) {
            None => Ok(complete),
            Some(errors) => Err(refused(task_type, &errors)),
        }
    }
}

fn refused(task_type: &str, errors: &str) -> Failure {
    let message = format!("the params of this `{task_type}` task do not fit the schema of its template: {errors}");
    Failure::invalid("invalid_params", message)
}

fn collect_files(schema: &Value, at: &str, param: &str, files: &mut BTreeSet<String>) -> Result<(), Problem> {
    if schema.get("format").is_some_and(|format| format == FILE_FORMAT) {
        if schema.get("type").is_some_and(|t| t != "string") {
            return Err(Problem::new(format!("{at}/type"), "a file is a \"string\" (an artifact is accepted as well)"));
        }
        files.insert(param.to_string());
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let name = token(name);
        collect_files(property, &format!("{at}/properties/{name}"), &format!("{param}/{name}"), files)?;
    }
    Ok(())
}

/// How often the mark stands anywhere in a schema.
fn marks(schema: &Value) -> usize {
    match schema {
        Value::Object(members) => {
            let here = usize::from(members.get("format").is_some_and(|format| format == FILE_FORMAT));
            here + members.values().map(marks).sum::<usize>()
        }
        Value::Array(items) => items.iter().map(marks).sum(),
        _ => 0,
    }
}

/// Puts the defaults of absent properties in, from the outside to the inside.
fn fill_in(schema: &Value, value: &mut Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let Some(members) = value.as_object_mut() else { return };
    for (name, property) in properties {
        if !members.contains_key(name)
            && let Some(default) = property.get("default")
        {
            members.insert(name.clone(), default.clone());
        }
        if let Some(member) = members.get_mut(name) {
            fill_in(property, member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(schema: Value) -> Params {
        Params::read(&schema).unwrap()
    }

    fn complete(params: &Params, value: Value) -> Result<Value, Failure> {
        params.complete("t", value.as_object().unwrap())
    }

    #[test]
    fn defaults_are_put_in_at_every_depth_and_keep_their_type() {
        let params = params(json!({"type": "object", "properties": {
            "fps": {"type": "number", "default": 24},
            "more": {"type": "object", "default": {}, "properties": {"tile": {"type": "boolean", "default": true}}},
            "size": {"type": "object", "properties": {"width": {"default": 64}}}
        }}));
        assert_eq!(complete(&params, json!({})).unwrap(), json!({"fps": 24, "more": {"tile": true}}));
        let got = complete(&params, json!({"fps": 12.5, "size": {}, "more": {"tile": false}})).unwrap();
        assert_eq!(got, json!({"fps": 12.5, "size": {"width": 64}, "more": {"tile": false}}));
    }

    #[test]
    fn a_file_is_text_or_an_artifact_and_nothing_else() {
        let file = json!({"type": "string", "format": FILE_FORMAT});
        let params = params(json!({
            "type": "object", "required": ["image"], "properties": {"image": file, "mask": file}
        }));
        assert_eq!(params.files.iter().map(String::as_str).collect::<Vec<_>>(), ["/image", "/mask"]);
        for good in [json!("https://example.com/a.png"), json!("a.png"), json!({"$artifact": "sha256:00", "name": "a"})]
        {
            let value = json!({ "image": good });
            assert_eq!(complete(&params, value.clone()).unwrap(), value);
        }
        for bad in [json!(3), json!(""), json!({}), json!(["a.png"])] {
            let failure = complete(&params, json!({ "image": bad })).unwrap_err();
            assert_eq!(failure.code, "invalid_params");
            assert!(failure.message.contains("`/image`: a file is an address"), "{}", failure.message);
        }
        assert!(complete(&params, json!({})).unwrap_err().message.contains("\"image\" is a required property"));
    }

    #[test]
    fn errors_name_the_param_and_what_would_be_right() {
        let params = params(json!({"type": "object", "additionalProperties": false, "properties": {
            "width": {"type": "integer", "maximum": 16384}, "method": {"enum": ["area", "lanczos"]}
        }}));
        let failure = complete(&params, json!({"width": 99999, "method": "best"})).unwrap_err();
        let expected =
            ["`/width`: 99999 is greater than the maximum of 16384", "`/method`: ", "\"area\"", "\"lanczos\""];
        assert!(expected.iter().all(|part| failure.message.contains(part)), "{}", failure.message);
        assert!(complete(&params, json!({"widht": 3})).unwrap_err().message.contains("widht"));
        // The router's own param is none of the template's.
        assert_eq!(complete(&params, json!({"engine": "comfyui"})).unwrap(), json!({}));
    }

    #[test]
    fn a_schema_that_cannot_be_followed_is_refused() {
        let file = json!({"format": FILE_FORMAT});
        for (schema, pointer, word) in [
            (json!({"properties": {}}), "/type", "object"),
            (json!({"type": "object", "properties": {"a": {"type": "text"}}}), "/properties/a/type", ""),
            (json!({"type": "object", "properties": {"a": {"items": file}}}), "", "items"),
            (
                json!({"type": "object", "properties": {"a": {"type": "object", "format": FILE_FORMAT}}}),
                "/properties/a/type",
                "string",
            ),
        ] {
            let problem = Params::read(&schema).err().unwrap();
            assert_eq!(problem.pointer, pointer, "{schema}");
            assert!(problem.what.contains(word), "{problem}");
        }
    }
}
