//! JSON Schemas (draft 2020-12) that come with plugins and templates: compiled without fetching anything, and their errors in
//! a few words.

use jsonschema::{ValidationError, Validator};
use serde_json::Value;

/// Errors that are told at once: enough to repair a task in one go, few enough to read.
const ERRORS_TOLD: usize = 3;

/// Longest text about one error; the value at fault stands in it and may be of any length.
const LONGEST_ERROR: usize = 240;

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// JSON pointer into the schema.
    pub pointer: String,
    pub what: String,
}

/// Makes a schema ready for use. A schema is whole in itself: the host fetches nothing because somebody's file says so.
pub fn compile(schema: &Value) -> Result<Validator, Unusable> {
    if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
        return Err(Unusable { pointer: error.instance_path().as_str().to_string(), what: brief(&error) });
    }
    jsonschema::draft202012::options().offline().build(schema).map_err(|error| Unusable {
        pointer: String::new(),
        what: format!("not a usable JSON Schema (draft 2020-12, no references to other documents): {error}"),
    })
}

/// What is wrong with a value, the first three errors with their places; none: it fits.
pub fn errors(validator: &Validator, value: &Value) -> Option<String> {
    let errors: Vec<_> = validator
        .iter_errors(value)
        .take(ERRORS_TOLD)
        .map(|error| format!("{}: {}", place(error.instance_path().as_str()), brief(&error)))
        .collect();
    if errors.is_empty() { None } else { Some(errors.join("; ")) }
}

/// A JSON pointer for people: the empty one points at the whole document.
pub fn place(pointer: &str) -> String {
    if pointer.is_empty() { "the top".into() } else { format!("`{pointer}`") }
}

/// The error in a few words: without the value at fault when that is long.
pub fn brief(error: &ValidationError<'_>) -> String {
    let mut text = error.to_string();
    if text.len() > LONGEST_ERROR {
        text = error.masked().to_string();
    }
    match text.char_indices().nth(LONGEST_ERROR) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_are_told_with_their_places_and_a_long_value_does_not_fill_the_sentence() {
        let schema = json!({"properties": {"n": {"type": "integer"}}, "required": ["prompt"]});
        let validator = compile(&schema).unwrap();
        assert_eq!(errors(&validator, &json!({"n": 1, "prompt": ""})), None);
        let told = errors(&validator, &json!({"n": "x".repeat(10_000)})).unwrap();
        assert!(told.contains("`/n`: ") && told.contains("the top: \"prompt\" is a required property"), "{told}");
        assert!(told.len() < 500, "{told}");
    }

    #[test]
    fn a_schema_that_is_none_is_refused_with_its_place() {
        assert_eq!(compile(&json!({"properties": {"n": {"type": "text"}}})).unwrap_err().pointer, "/properties/n/type");
        let foreign = compile(&json!({"$ref": "https://example.com/schema.json"})).unwrap_err();
        assert!(foreign.what.contains("no references to other documents"), "{}", foreign.what);
    }
}
