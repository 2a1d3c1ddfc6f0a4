//! Child tasks, and looks at others. Capability: `tasks`.
//!
//! Readable are the task's own children, its parent, its parent's other children, what it depends on, and any task whose
//! id stands in its params or in those of its parent.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::bindings::enginehouse::plugin::tasks;
use crate::failure::Failure;

use super::artifacts::File;
use super::read;

/// A child to create.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewChild {
    /// Names the child within its parent: creating the same key again gives the child that exists.
    pub key: String,
    pub task_type: String,
    pub params: Map<String, Value>,
    /// All of them must be complete before it starts.
    pub depends_on: Vec<Dependency>,
    /// None: the parent's.
    pub project_id: Option<String>,
    /// None: the parent's.
    pub priority: Option<i64>,
}

/// What a child waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// A child earlier in the same batch, by its position.
    Sibling(usize),
    /// A task that exists, by its id.
    Task(String),
}

/// A task as other tasks see it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct TaskInfo {
    pub id: String,
    /// The name its parent gave it.
    pub key: Option<String>,
    pub task_type: String,
    /// `Queued`, `In Progress`, `Complete`, `Failed` or `Cancelled`. Ask with [`TaskInfo::is_complete`] and
    /// [`TaskInfo::has_failed`], which take rows imported from elsewhere in their own spelling as well.
    pub status: String,
    pub params: Map<String, Value>,
    pub output: Option<Output>,
    pub error: Option<ErrorInfo>,
    pub depends_on: Vec<String>,
    /// RFC 3339 text.
    pub created_at: String,
}

/// What a task has made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Output {
    File(File),
    Text {
        text: String,
    },
    /// Of a kind this version does not know.
    Other(Value),
}

/// Why a task failed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ErrorInfo {
    pub class: String,
    pub code: String,
    pub message: String,
}

impl TaskInfo {
    /// It ended well.
    pub fn is_complete(&self) -> bool {
        ["complete", "completed", "done"].iter().any(|word| self.status.trim().eq_ignore_ascii_case(word))
    }

    /// It failed or was cancelled.
    pub fn has_failed(&self) -> bool {
        ["failed", "cancelled", "canceled", "error"].iter().any(|word| self.status.trim().eq_ignore_ascii_case(word))
    }

    /// The file it made, if it made one.
    pub fn file(&self) -> Option<&File> {
        match &self.output {
            Some(Output::File(file)) => Some(file),
            _ => None,
        }
    }
}

/// Creates children, all of them or none, and returns their ids in the order given. Code `child_creation_failed` when
/// the batch is refused.
pub fn create(children: &[NewChild]) -> Result<Vec<String>, Failure> {
    let children: Vec<tasks::NewChild> = children.iter().map(NewChild::write).collect();
    tasks::create(&children)
}

/// The children of a task (this one or its parent), oldest first.
pub fn children(of: &str) -> Result<Vec<TaskInfo>, Failure> {
    read("tasks.children", &tasks::children(of)?)
}

/// One task. Code `task_not_found` when there is none or it is not readable.
pub fn get(id: &str) -> Result<TaskInfo, Failure> {
    read("tasks.get", &tasks::get(id)?)
}

/// Waits until all the tasks have ended, well or not, and returns them in the order given. Not for tasks that are readable
/// only because their id was given: depend on those.
pub fn wait(ids: &[String]) -> Result<Vec<TaskInfo>, Failure> {
    read("tasks.wait", &tasks::wait(ids)?)
}

/// Cancels a child and its children. Not an error when it has ended already.
pub fn cancel(id: &str) -> Result<(), Failure> {
    tasks::cancel(id)
}

/// Removes a child that has not started, as if it had never been.
pub fn remove(id: &str) -> Result<(), Failure> {
    tasks::remove(id)
}

impl NewChild {
    fn write(&self) -> tasks::NewChild {
        let mut options = Map::new();
        if let Some(project_id) = &self.project_id {
            options.insert("project_id".into(), json!(project_id));
        }
        if let Some(priority) = self.priority {
            options.insert("priority".into(), json!(priority));
        }
        tasks::NewChild {
            key: self.key.clone(),
            task_type: self.task_type.clone(),
            params: Value::Object(self.params.clone()).to_string(),
            depends_on: self.depends_on.iter().map(Dependency::write).collect(),
            options: Value::Object(options).to_string(),
        }
    }
}

impl Dependency {
    fn write(&self) -> tasks::Dependency {
        match self {
            // A position past u32 is refused by the host like any other that the batch does not have.
            Dependency::Sibling(position) => tasks::Dependency::Sibling(u32::try_from(*position).unwrap_or(u32::MAX)),
            Dependency::Task(id) => tasks::Dependency::Task(id.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_read_as_the_contract_writes_it() {
        let text = r#"[{"id": "a", "key": "segment-000", "task_type": "travel_segment", "status": "Complete",
            "params": {"segment_index": 0}, "output": {"$artifact": "sha256:0", "name": "a.mp4", "media_type": "video/mp4"},
            "error": null, "depends_on": [], "created_at": "2026-01-01T00:00:00Z"},
            {"id": "b", "task_type": "x", "status": "cancelled", "output": {"text": "hi"},
             "error": {"class": "engine", "code": "c", "message": "m"}}]"#;
        let tasks: Vec<TaskInfo> = read("tasks.children", text).unwrap();
        assert!(tasks[0].is_complete() && !tasks[0].has_failed());
        assert_eq!(tasks[0].file().unwrap().artifact, "sha256:0");
        assert!(tasks[1].has_failed() && !tasks[1].is_complete());
        assert_eq!(tasks[1].output, Some(Output::Text { text: "hi".into() }));
        assert_eq!(tasks[1].error.as_ref().unwrap().message, "m");
    }

    #[test]
    fn a_child_says_only_what_differs_from_its_parent() {
        let child = NewChild { key: "k".into(), task_type: "t".into(), ..NewChild::default() };
        assert_eq!(child.write().options, "{}");
        let child = NewChild { project_id: Some("p".into()), depends_on: vec![Dependency::Sibling(0)], ..child };
        assert_eq!(child.write().options, r#"{"project_id":"p"}"#);
        assert_eq!(child.write().params, "{}");
    }
}
