//! Reading params: the first of several objects that says something, and failures that name the field.
//!
//! Task params come in layers: a segment's own, those of the segment task, those of the whole travel. [`Fields`] looks
//! through them in order. A field that is `null` counts as absent and the next layer is asked; explicit zeros, empty
//! texts and `false` are answers. Where a zero or an empty text means nothing (a number of frames, the name of a model),
//! [`Fields::truthy`] and the `required_…` functions pass over those as well.

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::rules::kinds;

/// Several objects that may hold a field; the first goes first.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    layers: Vec<&'a Map<String, Value>>,
}

impl<'a> Fields<'a> {
    pub fn new(layers: impl IntoIterator<Item = &'a Map<String, Value>>) -> Self {
        Self { layers: layers.into_iter().collect() }
    }

    /// The first value that is not null.
    pub fn given(&self, key: &str) -> Option<&'a Value> {
        self.layers.iter().filter_map(|layer| layer.get(key)).find(|value| !value.is_null())
    }

    /// The first value that [says something](is_truthy).
    pub fn truthy(&self, key: &str) -> Option<&'a Value> {
        self.layers.iter().filter_map(|layer| layer.get(key)).find(|value| is_truthy(value))
    }

    /// The first layer that has the key at all decides, also with `false` or `null`.
    pub fn present(&self, key: &str) -> Option<&'a Value> {
        self.layers.iter().find_map(|layer| layer.get(key))
    }

    /// Each of these is the first value that is not null, or a failure `invalid_field` if it has another type.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Failure> {
        self.given(key).map(|value| text(key, value)).transpose()
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>, Failure> {
        self.given(key).map(|value| integer(key, value)).transpose()
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.given(key).map(|value| number(key, value)).transpose()
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Failure> {
        self.given(key).map(|value| boolean(key, value)).transpose()
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, Failure> {
        self.given(key).map(|value| list(key, value)).transpose()
    }

    pub fn object(&self, key: &str) -> Result<Option<&'a Map<String, Value>>, Failure> {
        self.given(key).map(|value| object(key, value)).transpose()
    }

    /// A list of texts; entries that are null read as "".
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, Failure> {
        let Some(entries) = self.list(key)? else { return Ok(None) };
        let read = |(position, value): (usize, &'a Value)| match value {
            Value::Null => Ok(""),
            value => text(&format!("{key}[{position}]"), value),
        };
        entries.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A list of integers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Failure> {
        let Some(entries) = self.list(key)? else { return Ok(None) };
        let read = |(position, value)| integer(&format!("{key}[{position}]"), value);
        entries.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
    }

    /// A value that must be there: not null. Failure `missing_required_field`.
    pub fn required(&self, key: &str) -> Result<&'a Value, Failure> {
        self.given(key).ok_or_else(|| missing(key))
    }

    /// A text that must be there and say something.
    pub fn required_text(&self, key: &str) -> Result<&'a str, Failure> {
        text(key, self.truthy(key).ok_or_else(|| missing(key))?)
    }

    /// An integer that must be there; zero is an answer.
    pub fn required_integer(&self, key: &str) -> Result<i64, Failure> {
        integer(key, self.required(key)?)
    }
}

/// Whether a value says something: not null, 0, "", `[]` or `{}`. Booleans do, both of them.
pub fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(entries) => !entries.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// A text, or a failure `invalid_field` that names the field.
pub fn text<'a>(field: &str, value: &'a Value) -> Result<&'a str, Failure> {
    value.as_str().ok_or_else(|| invalid(field, value, "a text"))
}

/// An integer (`81` or `81.0`), or a failure `invalid_field`.
pub fn integer(field: &str, value: &Value) -> Result<i64, Failure> {
    // Beyond 2^53 a float no longer says which integer is meant.
    let whole =
        |number: f64| (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole)).ok_or_else(|| invalid(field, value, "an integer"))
}

/// A number, or a failure `invalid_field`.
pub fn number(field: &str, value: &Value) -> Result<f64, Failure> {
    value.as_f64().ok_or_else(|| invalid(field, value, "a number"))
}

/// `true` or `false`, or a failure `invalid_field`.
pub fn boolean(field: &str, value: &Value) -> Result<bool, Failure> {
    value.as_bool().ok_or_else(|| invalid(field, value, "true or false"))
}

/// A list, or a failure `invalid_field`.
pub fn list<'a>(field: &str, value: &'a Value) -> Result<&'a [Value], Failure> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| invalid(field, value, "a list"))
}

/// An object, or a failure `invalid_field`.
pub fn object<'a>(field: &str, value: &'a Value) -> Result<&'a Map<String, Value>, Failure> {
    value.as_object().ok_or_else(|| invalid(field, value, "an object"))
}

/// Failure `invalid_field`: the field, its value as given, what is allowed there.
pub fn invalid(field: &str, value: &Value, allowed: &str) -> Failure {
    const SHOWN: usize = 80;
    let mut shown = value.to_string();
    if shown.chars().count() > SHOWN {
        shown = shown.chars().take(SHOWN).chain(['…']).collect();
    }
    Failure::invalid(kinds::INVALID_FIELD, format!("the field `{field}` is {shown}: it must be {allowed}"))
}

/// Failure `missing_required_field`.
pub fn missing(field: &str) -> Failure {
    Failure::invalid(
        kinds::MISSING_REQUIRED_FIELD,
        format!("the required field `{field}` is missing or empty: submit the task again with it"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_first_layer_that_says_something_wins() {
        let (own, travel) = (map(json!({"seed": null, "name": ""})), map(json!({"seed": 7, "name": "wan"})));
        let fields = Fields::new([&own, &travel]);
        assert_eq!(fields.integer("seed").unwrap(), Some(7));
        assert_eq!(fields.text("name").unwrap(), Some(""));
        assert_eq!(fields.required_text("name").unwrap(), "wan");
        assert_eq!(fields.present("seed"), Some(&Value::Null));
        assert_eq!(fields.text("nothing").unwrap(), None);
    }

    #[test]
    fn an_explicit_zero_or_false_is_an_answer() {
        let (own, travel) = (map(json!({"guidance": 0, "svi": false})), map(json!({"guidance": 5, "svi": true})));
        let fields = Fields::new([&own, &travel]);
        assert_eq!(fields.number("guidance").unwrap(), Some(0.0));
        assert_eq!(fields.truthy("guidance"), Some(&json!(5)));
        assert_eq!(fields.boolean("svi").unwrap(), Some(false));
        assert_eq!(fields.truthy("svi"), Some(&json!(false)));
    }

    #[test]
    fn a_wrong_type_names_field_value_and_what_is_allowed() {
        let own = map(json!({"chain": "false", "frames": [81, "x"]}));
        let fields = Fields::new([&own]);
        let failure = fields.boolean("chain").unwrap_err();
        assert_eq!(failure.code, "invalid_field");
        assert_eq!(failure.message, "the field `chain` is \"false\": it must be true or false");
        assert!(fields.integers("frames").unwrap_err().message.contains("`frames[1]`"));
    }

    #[test]
    fn a_missing_field_is_named() {
        let own = map(json!({"model": null}));
        let failure = Fields::new([&own]).required("model").unwrap_err();
        assert_eq!(failure.code, "missing_required_field");
        assert!(failure.message.contains("`model`"));
    }

    #[test]
    fn numbers_count_by_value() {
        assert_eq!(integer("f", &json!(81.0)).unwrap(), 81);
        assert!(integer("f", &json!(81.5)).is_err());
        assert!(integer("f", &json!(1e300)).is_err());
        assert!(integer("f", &json!(true)).is_err());
    }

    proptest! {
        #[test]
        fn what_is_truthy_is_given(own in any::<Option<i64>>(), travel in any::<Option<i64>>()) {
            let (own, travel) = (map(json!({"n": own})), map(json!({"n": travel})));
            let fields = Fields::new([&own, &travel]);
            if let Some(found) = fields.truthy("n") {
                prop_assert!(is_truthy(found));
                prop_assert!(fields.given("n").is_some());
            }
        }
    }
}
