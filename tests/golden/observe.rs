//! What a case did, written down in the shape of the recordings.

use anyhow::{Context as _, Result};
use enginehouse::engines::Request;
use enginehouse::task::{Failure, FileRef, Outcome, Output};
use enginehouse_tests::numbered;
use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::files;
use crate::house::{House, Shared};

/// Runs a case.
pub async fn observe(case: &Case, shared: &Shared) -> Result<Value> {
    if case.task_type == "extract_frame" {
        return frame(case, shared).await;
    }
    let mut house = House::new(case).await?;
    let ended = house.run(case, shared).await?;
    let mut seen = Map::new();
    outcome(&mut seen, case, &house, ended).await?;
    children(&mut seen, &mut house).await?;
    request(&mut seen, &house).await?;
    let removed = house.rows.removed.lock().unwrap().clone();
    seen.insert(
        "deleted_tasks".into(),
        removed.iter().map(|id| house.words.recorded(&json!(id.to_string()))).collect(),
    );
    seen.insert("media_calls".into(), json!(*house.helper.calls.lock().unwrap()));
    seen.insert("downloads".into(), json!(*house.web.asked.lock().unwrap()));
    seen.insert("simulated_engine_output".into(), house.engine.made.lock().unwrap().clone().into());
    Ok(Value::Object(seen))
}

async fn outcome(
    seen: &mut Map<String, Value>,
    case: &Case,
    house: &House,
    ended: std::result::Result<Outcome, Failure>,
) -> Result<()> {
    let facts = match ended {
        Err(failure) => {
            seen.insert("outcome".into(), json!("failed"));
            seen.insert("error_kind".into(), json!(failure.code));
            seen.insert("error_text".into(), json!(failure.message));
            return Ok(());
        }
        Ok(Outcome::Delegated(delegation)) => {
            // The store completes a task at once that is delegated to nobody.
            let anybody = !house.rows.created.lock().unwrap().is_empty()
                || house.rows.rows.iter().any(|row| row.parent == Some(house.task.id));
            seen.insert("outcome".into(), json!(if anybody { "in_progress" } else { "complete" }));
            delegation.facts
        }
        Ok(Outcome::Done(output)) => {
            seen.insert("outcome".into(), json!("complete"));
            match output {
                Output::Text { text } => {
                    seen.insert("output_location".into(), house.words.recorded(&json!(text)));
                    // A text has no facts; an orchestrator ends with one for one reason alone.
                    Map::from_iter([("message_kind".to_string(), json!("all_children_complete"))])
                }
                Output::File { file, extra, facts } => {
                    seen.insert("completion".into(), completion(house, &file, &extra).await?);
                    facts
                }
                Output::Facts { facts } => facts,
            }
        }
    };
    if case.task_type == "travel_orchestrator" {
        seen.insert("message_kind".into(), facts.get("message_kind").cloned().unwrap_or_default());
        // What is recorded are the numbers.
        let numbers = facts.into_iter().filter(|(_, value)| value.is_number());
        seen.insert("message_facts".into(), Value::Object(numbers.collect()));
    }
    Ok(())
}

async fn completion(house: &House, file: &FileRef, extra: &[FileRef]) -> Result<Value> {
    let path = house.artifacts.path(file.artifact)?;
    let mut facts = files::facts(&path).await.context("the product")?;
    let luma = facts["luma"].take();
    facts["frame_luma"] = luma;
    facts["filename"] = json!(file.name);
    facts["thumbnail"] = json!(extra.iter().any(|file| file.name.starts_with("thumb")));
    Ok(facts)
}

async fn children(seen: &mut Map<String, Value>, house: &mut House) -> Result<()> {
    let created = house.rows.created.lock().unwrap().clone();
    for (i, (id, _)) in created.iter().enumerate() {
        house.words.name(*id, format!("$TASK_{}", i + 1));
    }
    let mut children = Vec::new();
    for (id, waits) in &created {
        let child = house.rows.inner.get(*id).await?;
        let waits: Vec<Value> = waits.iter().map(|id| json!(id.to_string())).collect();
        let depends_on = match waits.as_slice() {
            [] => Value::Null,
            [one] => one.clone(),
            several => json!(several),
        };
        children.push(house.words.recorded(&json!({
            "id": id.to_string(),
            "task_type": child.task_type,
            "depends_on": depends_on,
            "project_id": child.project_id,
            "params": child.params,
        })));
    }
    if !children.is_empty() {
        seen.insert("children".into(), json!(children));
    }
    Ok(())
}

async fn request(seen: &mut Map<String, Value>, house: &House) -> Result<()> {
    let asked = house.engine.asked.lock().unwrap().clone();
    let Some((task, Request::Generation { settings, model_overrides })) = asked.first() else { return Ok(()) };
    anyhow::ensure!(asked.len() == 1, "{} requests were made", asked.len());
    let mut parameters = settings.clone();
    let prompt = parameters.remove("prompt").unwrap_or_default();
    let model = parameters.remove("model").or_else(|| parameters.get("model_name").cloned()).unwrap_or_default();
    let mut artifacts = Map::new();
    for (name, value) in &parameters {
        if let Some(facts) = looked_at(house, value).await.with_context(|| name.clone())? {
            artifacts.insert(name.clone(), facts);
        }
    }
    let id = house.words.recorded(&json!(task.to_string()));
    let parameters = house.words.recorded(&Value::Object(parameters));
    seen.insert("engine_request".into(), json!({"id": id, "model": model, "prompt": prompt, "parameters": parameters}));
    seen.insert("engine_request_artifacts".into(), Value::Object(artifacts));
    seen.insert("engine_model_patch".into(), Value::Object(model_overrides.clone()));
    Ok(())
}

/// The facts of a file, or of each file of a list; none for anything else.
async fn looked_at(house: &House, value: &Value) -> Result<Option<Value>> {
    match value {
        Value::Array(items) if items.iter().any(|item| item.get("$artifact").is_some()) => {
            let mut all = Vec::new();
            for item in items {
                all.push(Box::pin(looked_at(house, item)).await?.unwrap_or_default());
            }
            Ok(Some(Value::Array(all)))
        }
        _ => match value.get("$artifact").and_then(Value::as_str) {
            None => Ok(None),
            Some(digest) => Ok(Some(files::facts(&house.artifacts.path(digest.parse()?)?).await?)),
        },
    }
}

/// `extract_frame`: a film whose frames carry their number is taken one frame of, and the number read back.
async fn frame(case: &Case, shared: &Shared) -> Result<Value> {
    const FILM: &str = "film";
    let readable = case.params.get("frame_readable").and_then(Value::as_bool).unwrap_or(true);
    anyhow::ensure!(readable, "a film whose frames cannot be read is not made here");
    let total = case.params.get("total_frames").and_then(Value::as_u64).context("a case has `total_frames`")?;
    anyhow::ensure!(total <= 256, "{total} frames cannot be told apart by their numbers");
    let mut prepared = case.clone();
    prepared.params = Map::from_iter([
        ("input_video_task_id".to_string(), json!(FILM)),
        ("frame_index".to_string(), case.params.get("frame_index").cloned().unwrap_or_default()),
    ]);
    prepared.environment = json!({"task_rows": [
        {"id": FILM, "task_type": "any", "status": "Complete", "params": {}, "output_location": "$INPUT_DIR/film.mp4"},
    ]});
    let house = House::new(&prepared).await?;
    let film = house.folder.path().join("input/film.mp4");
    numbered::video(&film, (64, 48), 16.0, 0..total).await?;
    Ok(match house.run(&prepared, shared).await? {
        Err(failure) if failure.code == "frame_outside_video" => json!({"success": false, "frame_read": null}),
        Err(failure) => anyhow::bail!("{}: {}", failure.code, failure.message),
        Ok(Outcome::Done(Output::File { file, .. })) => {
            let numbers = numbered::numbers(&house.artifacts.path(file.artifact)?).await?;
            json!({"success": true, "frame_read": numbers.first()})
        }
        Ok(other) => json!({"success": true, "frame_read": format!("{other:?}")}),
    })
}
