//! A task as programs and as people see it.

use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use crate::artifacts::{self, Artifacts};
use crate::cli::exit::{self, Stop};
use crate::store::{SharedStore, TaskFilter};
use crate::task::{Failure, FileRef, Output, Status, Task};

/// The stable JSON of a task, its children included.
pub async fn json(store: &SharedStore, artifacts: &Artifacts, task: &Task) -> Result<Value, Stop> {
    let mut children = Vec::new();
    for child in store.list(TaskFilter { children_of: Some(task.id), ..TaskFilter::default() }).await? {
        children.push(Box::pin(json(store, artifacts, &child)).await?);
    }
    let output = match &task.output {
        Some(output) => output_json(artifacts, task, output).await,
        None => Value::Null,
    };
    let error = task.error.as_ref().map(
        |e| json!({ "kind": e.class, "code": e.code, "message": e.message, "retry": e.retry, "detail": e.detail }),
    );
    Ok(json!({
        "id": task.id,
        "task_type": task.task_type,
        "status": task.status,
        "route": task.route,
        "output": output,
        "error": error,
        "attempts": task.attempts,
        "children": children,
        "key": task.child_key,
        "parent": task.parent,
        "depends_on": task.depends_on,
        "project_id": task.project_id,
        "priority": task.priority,
        "progress": task.progress,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "params": task.params,
    }))
}

async fn output_json(artifacts: &Artifacts, task: &Task, output: &Output) -> Value {
    match output {
        Output::File { file, extra, facts } => {
            let mut value = file_json(artifacts, task, file).await;
            let mut more = Vec::new();
            for file in extra {
                more.push(file_json(artifacts, task, file).await);
            }
            if let Value::Object(map) = &mut value {
                map.insert("extra".into(), more.into());
                map.insert("facts".into(), Value::Object(facts.clone()));
            }
            value
        }
        other => json!(other),
    }
}

/// `path` and `uri` are null when the file is gone or cannot be made findable: the rest is true all the same.
async fn file_json(artifacts: &Artifacts, task: &Task, file: &FileRef) -> Value {
    let path = published(artifacts, task, file).await.ok();
    json!({
        "kind": "file",
        "path": path,
        "uri": path.as_deref().map(artifacts::uri),
        "sha256": file.artifact.hex(),
        "media_type": file.media_type,
        "name": file.name,
    })
}

/// Where people find a result. The worker puts it there; what it could not put there, or somebody removed, is put there
/// now.
async fn published(artifacts: &Artifacts, task: &Task, file: &FileRef) -> Result<PathBuf, Failure> {
    artifacts.publish(file, &task.task_type, &task.id.to_string()).await
}

/// What a task's end means for the exit code of the command that waited for it.
pub fn exit_code(task: &Task) -> u8 {
    match task.status {
        Status::Complete => 0,
        Status::Cancelled => exit::INTERRUPTED,
        _ => exit::FAILURE,
    }
}

/// Where the result is, in one line for people.
pub async fn result_line(artifacts: &Artifacts, task: &Task) -> String {
    match (&task.status, &task.output, &task.error) {
        (_, _, Some(e)) => format!("{}: {} ({}): {}", task.status, e.code, e.class, e.message),
        (_, Some(Output::File { file, .. }), _) => match published(artifacts, task, file).await {
            Ok(path) => path.display().to_string(),
            Err(e) => format!(
                "{}: {}, which cannot be shown under outputs ({}): {}",
                task.status, file.name, e.code, e.message
            ),
        },
        (_, Some(Output::Text { text }), _) => text.clone(),
        (_, Some(Output::Facts { facts }), _) => Value::Object(facts.clone()).to_string(),
        (status, None, None) => status.to_string(),
    }
}

/// A table without lines, as wide as the terminal.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec());
    table
}
