//! What a client concluded against what is expected of it, member by member.

use serde_json::{Map, Value, json};

use super::case::Expected;

/// Members of an entry that say how it is run.
const GIVEN: [&str; 3] = ["submit", "allow_partial", "act"];

/// Members of an entry that are compared.
const CONCLUDED: [&str; 8] = ["prompt_id", "outcome", "class", "node", "files", "main", "progress", "retry"];

/// Members of what the readiness poll yields.
const SYSTEM: [&str; 2] = ["version", "device_type"];

/// How a case came out.
pub struct Verdict {
    pub differences: Vec<String>,
    pub compared: Vec<&'static str>,
}

/// Compares every member that is there; one that is absent is not specified.
pub fn compare(expected: &Expected, observed: &Value) -> Verdict {
    let mut verdict = Verdict { differences: Vec::new(), compared: Vec::new() };
    let (members, known, given): (_, &[&'static str], &[&str]) = match expected {
        Expected::System(system) => (system, &SYSTEM, &[]),
        Expected::Prompt(entry) => (entry, &CONCLUDED, &GIVEN),
    };
    for (member, expected) in members {
        let Some(name) = known.iter().find(|name| *name == member) else {
            if !given.contains(&member.as_str()) {
                verdict.differences.push(format!("/{member}: nobody thought of this member"));
            }
            continue;
        };
        verdict.compared.push(name);
        let got = &observed[member];
        if got != expected {
            verdict.differences.push(format!("/{member}: expected {expected}, got {got}"));
        }
    }
    for fault in observed["faults"].as_array().into_iter().flatten() {
        verdict.differences.push(fault.as_str().unwrap_or_default().to_string());
    }
    verdict
}

/// Members of a case that passed which could be anything: altered, they must differ.
pub fn unnoticed(expected: &Expected, observed: &Value) -> Vec<String> {
    let members = match expected {
        Expected::System(members) | Expected::Prompt(members) => members,
    };
    let mut found = Vec::new();
    for (member, value) in members.iter().filter(|(member, _)| !GIVEN.contains(&member.as_str())) {
        for altered in alterations(value) {
            let mut members: Map<String, Value> = members.clone();
            members.insert(member.clone(), altered.clone());
            let changed = match expected {
                Expected::System(_) => Expected::System(members),
                Expected::Prompt(_) => Expected::Prompt(members),
            };
            if compare(&changed, observed).differences.is_empty() {
                found.push(format!("/{member} could be {altered}"));
            }
        }
    }
    found
}

/// The value with one leaf after the other altered.
fn alterations(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) if !items.is_empty() => (0..items.len())
            .flat_map(|at| alterations(&items[at]).into_iter().map(move |altered| (at, altered)))
            .map(|(at, altered)| {
                let mut items = items.clone();
                items[at] = altered;
                Value::Array(items)
            })
            .collect(),
        Value::Object(members) if !members.is_empty() => members
            .iter()
            .flat_map(|(name, value)| alterations(value).into_iter().map(move |altered| (name, altered)))
            .map(|(name, altered)| {
                let mut members = members.clone();
                members.insert(name.clone(), altered);
                Value::Object(members)
            })
            .collect(),
        Value::Bool(is) => vec![json!(!is)],
        Value::Number(number) => vec![json!(number.as_f64().unwrap_or_default() + 17.0)],
        Value::String(text) => vec![json!(format!("{text}~"))],
        _ => vec![json!("altered")],
    }
}

#[test]
fn a_member_that_nobody_thought_of_fails_its_case() {
    let entry = json!({"submit": 0, "outcome": "ok", "mood": "good"});
    let expected = Expected::Prompt(entry.as_object().expect("an object").clone());
    assert_eq!(compare(&expected, &json!({"outcome": "ok"})).differences.len(), 1);
}
