//! Tasks go in, outcomes come out: between the contract's words and the house's.

use serde_json::{Map, Value, json};

use crate::artifacts::Artifacts;
use crate::plugins::imports::artifacts::{extra, file_ref};
use crate::plugins::imports::contract::enginehouse::plugin::types;
use crate::plugins::imports::nested_enough;
use crate::task::{Delegation, Failure, Outcome, Output, Task};

/// A task as its handler sees it.
pub(super) fn task(task: &Task) -> types::Task {
    let context = json!({
        "project_id": task.project_id,
        "parent": task.parent,
        "dependencies": task.depends_on,
        "priority": task.priority,
        "created_at": task.created_at,
    });
    types::Task {
        id: task.id.to_string(),
        task_type: task.task_type.clone(),
        params: Value::Object(task.params.clone()).to_string(),
        attempt: task.attempts,
        context: context.to_string(),
    }
}

/// How a handler ended well, its files checked: a product must be in the house. Codes: `invalid_outcome`,
/// `invalid_artifact`, `artifact_not_found`.
pub(super) async fn outcome(outcome: types::Outcome, artifacts: &Artifacts) -> Result<Outcome, Failure> {
    match outcome {
        types::Outcome::Text(text) => Ok(Outcome::Done(Output::Text { text })),
        types::Outcome::Delegated(delegation) => {
            Ok(Outcome::Delegated(Delegation { output_from: delegation.output_from, facts: facts(&delegation.facts)? }))
        }
        types::Outcome::Product(product) => {
            let mut facts = facts(&product.facts)?;
            let extra = match facts.shift_remove("extra") {
                Some(list) => extra(artifacts, &list).await?,
                None => Vec::new(),
            };
            let file = file_ref(artifacts, &product.artifact, &product.name).await?;
            Ok(Outcome::Done(Output::File { file, extra, facts }))
        }
    }
}

fn facts(text: &str) -> Result<Map<String, Value>, Failure> {
    let broken =
        |why: String| Failure::internal("invalid_outcome", format!("The handler's facts are no JSON object: {why}."));
    nested_enough(text)
        .map_err(|why| Failure::internal("invalid_outcome", format!("The handler's facts cannot be kept: {why}.")))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(facts)) => Ok(facts),
        Ok(other) => Err(broken(format!("`{}`", other.to_string().chars().take(80).collect::<String>()))),
        Err(e) => Err(broken(e.to_string())),
    }
}
