//! Whether the comparison would notice: the record is altered at one place after the other, and must then differ.

use serde_json::{Value, json};

use crate::case::{Case, step};
use crate::compare::{Verdict, compare};
use crate::members;

/// Most places of one member that are tried.
const PLACES: usize = 200;

/// Members of a case that passed in which some place could be altered without a difference. A place that is not compared,
/// and is listed so, does not count.
pub fn unnoticed(case: &Case, observed: &Value, verdict: &Verdict) -> Vec<String> {
    let mut found = Vec::new();
    for member in &verdict.compared {
        // Null is as good as absent.
        if let Some(object) =
            observed.as_object().filter(|object| object.get(member).is_some_and(|seen| !seen.is_null()))
        {
            let mut without = object.clone();
            without.remove(member);
            if compare(case, &Value::Object(without)).differences.is_empty() {
                found.push(format!("/{member} need not be there"));
            }
        }
        let mut places = Vec::new();
        leaves(&case.expected[member], &format!("/{}", step(member)), &mut places);
        places.retain(|place| !exempt(case, verdict, place));
        let every = places.len().div_ceil(PLACES).max(1);
        for place in places.iter().step_by(every) {
            let mut altered = case.clone();
            let Some(leaf) = altered.expected.pointer_mut(place) else { continue };
            *leaf = other(leaf);
            if compare(&altered, observed).differences.is_empty() {
                found.push(format!("{place} could be anything"));
            }
        }
    }
    found
}

fn leaves(value: &Value, pointer: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            members.iter().for_each(|(name, value)| leaves(value, &format!("{pointer}/{}", step(name)), found));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, value)| leaves(value, &format!("{pointer}/{i}"), found));
        }
        _ => found.push(pointer.to_string()),
    }
}

/// Listed as not compared: by the record, by the table, or by the comparison itself.
fn exempt(case: &Case, verdict: &Verdict, place: &str) -> bool {
    let shape = crate::same::shape(place);
    let listed = verdict
        .not_compared
        .keys()
        .any(|key| shape.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
    // Of these the comparison says itself that the engine fetches them.
    let of_the_hub = case.expected.pointer(place).and_then(Value::as_str).is_some_and(|text| text.starts_with("hf:"));
    listed || of_the_hub || case.leaves_open(place) || members::left_out(place).is_some()
}

fn other(leaf: &Value) -> Value {
    match leaf {
        // Beyond what colours may be off on either side.
        Value::Number(number) => json!(number.as_f64().unwrap_or_default() + 17.0),
        Value::String(text) => json!(format!("{text}~")),
        Value::Bool(is) => json!(!is),
        _ => json!("altered"),
    }
}
