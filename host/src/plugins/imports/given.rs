//! What was given to a task: texts that stand, as a whole, in its params or in those of its parent.
//!
//! An address can carry away what a handler knows, and an id opens what another task has made. So a handler may use the
//! ones that somebody gave it, and none that it puts together.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Shared, tasks};
use crate::plugins::journal::Interrupt;
use crate::store::StoreError;
use crate::task::{Task, TaskId};

/// Whether an address was given to the task of this start, letter for letter.
pub(super) async fn address(reach: &Shared, address: &str) -> Result<bool, Interrupt> {
    anywhere(reach, |text| text == address).await
}

/// Whether a task was given to the task of this start: its id, letter for letter, or `task:` and its id.
pub(super) async fn task(reach: &Shared, id: &str) -> Result<bool, Interrupt> {
    anywhere(reach, |text| id_in(text) == id).await
}

/// The ids of all tasks that were given to the task of this start.
pub(super) async fn ids(reach: &Shared) -> Result<BTreeSet<TaskId>, Interrupt> {
    let mut found = BTreeSet::new();
    anywhere(reach, |text| {
        found.extend(id_in(text).parse::<TaskId>().ok());
        false
    })
    .await?;
    Ok(found)
}

/// As `artifacts.resolve` names a task's output.
fn id_in(text: &str) -> &str {
    text.strip_prefix("task:").unwrap_or(text)
}

/// Whether a text that was given is one of those meant.
async fn anywhere(reach: &Shared, mut is_meant: impl FnMut(&str) -> bool) -> Result<bool, Interrupt> {
    if texts(&reach.task.params).into_iter().any(&mut is_meant) {
        return Ok(true);
    }
    Ok(parent(reach).await?.is_some_and(|parent| texts(&parent.params).into_iter().any(is_meant)))
}

async fn parent(reach: &Shared) -> Result<Option<Task>, Interrupt> {
    let Some(parent) = reach.task.parent else { return Ok(None) };
    match reach.services.store.get(parent).await {
        Ok(task) => Ok(Some(task)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(e) => Err(tasks::refused(e)),
    }
}

/// Every text among the values of some params, at any depth. Names of members are none.
fn texts(params: &Map<String, Value>) -> Vec<&str> {
    fn collect<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(members) => members.values().for_each(|member| collect(member, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut found = Vec::new();
    params.values().for_each(|value| collect(value, &mut found));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn params_hold_a_text_as_a_whole_value_and_at_any_depth() {
        let Value::Object(params) = json!({"a": [1, {"b": ["https://x.example/1?k=v"]}], "https://key.example": null})
        else {
            panic!("an object")
        };
        let held = texts(&params);
        assert!(held.contains(&"https://x.example/1?k=v"));
        for other in ["https://x.example/1", "https://x.example/1?k=v&d=2", "https://key.example", ""] {
            assert!(!held.contains(&other), "{other}");
        }
    }
}
