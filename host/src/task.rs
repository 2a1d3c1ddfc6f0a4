//! What a task is: plain data, no I/O. Every room above speaks in these words.

use std::fmt;
use std::str::FromStr;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::digest::Digest;

/// Id of a task (UUID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(pub Uuid);

impl TaskId {
    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.hyphenated(), f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = uuid::Error;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(s).map(Self)
    }
}

/// Where a task stands. The last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    Queued,
    #[serde(rename = "In Progress")]
    InProgress,
    Complete,
    Failed,
    Cancelled,
}

impl Status {
    /// Every status, in the order of a task's life.
    pub const ALL: [Status; 5] =
        [Status::Queued, Status::InProgress, Status::Complete, Status::Failed, Status::Cancelled];

    /// The spelling on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Queued => "Queued",
            Status::InProgress => "In Progress",
            Status::Complete => "Complete",
            Status::Failed => "Failed",
            Status::Cancelled => "Cancelled",
        }
    }

    /// Nothing changes it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Status::Complete | Status::Failed | Status::Cancelled)
    }

    /// Whether the status table allows the change. `tasks retry` is not a transition: it opens a new attempt.
    pub fn may_become(self, next: Status) -> bool {
        use Status::*;
        matches!(
            (self, next),
            (Queued, InProgress | Failed | Cancelled) | (InProgress, Complete | Failed | Cancelled | Queued)
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let plain = |t: &str| t.to_ascii_lowercase().replace([' ', '-', '_'], "");
        Status::ALL
            .into_iter()
            .find(|status| plain(status.as_str()) == plain(s))
            .ok_or_else(|| format!("`{s}` is no status: expected Queued, In Progress, Complete, Failed or Cancelled"))
    }
}

/// Whether a task type may be called so: a file name, a column and a key of the settings may be made of it.
pub fn is_type_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// What kind of failure it is. Closed: what is finer goes into [`Failure::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The task's params or files are wrong; trying again changes nothing.
    InvalidInput,
    /// The engine refused or broke the job.
    Engine,
    /// The GPU, or the machine, had too little memory.
    OutOfMemory,
    /// Something the task builds on failed: a child, a predecessor, a remote service.
    Dependency,
    /// A capability was not granted, or a limit was hit.
    Denied,
    /// This host cannot do it: not configured, not installed, not built yet.
    Unavailable,
    /// The task was cancelled.
    Cancelled,
    /// A defect in the plugin or the host.
    Internal,
    /// The task killed its host repeatedly and is set aside. Given by the store alone; plugins cannot say it.
    Quarantined,
}

impl FailureClass {
    /// The spelling on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::InvalidInput => "invalid-input",
            FailureClass::Engine => "engine",
            FailureClass::OutOfMemory => "out-of-memory",
            FailureClass::Dependency => "dependency",
            FailureClass::Denied => "denied",
            FailureClass::Unavailable => "unavailable",
            FailureClass::Cancelled => "cancelled",
            FailureClass::Internal => "internal",
            FailureClass::Quarantined => "quarantined",
        }
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something did not work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub class: FailureClass,
    /// Stable and machine-readable, snake_case: `too_few_clips`.
    pub code: String,
    /// For people: what was attempted, on what, why it failed, what to do.
    pub message: String,
    /// Whether a new attempt may succeed without anybody changing anything.
    #[serde(default)]
    pub retry: bool,
    /// Evidence that does not belong in a sentence: a backtrace, the end of a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Failure {
    /// A failure that a new attempt would only repeat.
    pub fn new(class: FailureClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), message: message.into(), retry: false, detail: None }
    }

    /// The params or files are wrong.
    pub fn invalid(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::InvalidInput, code, message)
    }

    /// Not granted, or over a limit.
    pub fn denied(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Denied, code, message)
    }

    /// This host cannot do it.
    pub fn unavailable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Unavailable, code, message)
    }

    /// A defect of ours or of the plugin.
    pub fn internal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Internal, code, message)
    }

    /// The task was cancelled.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(FailureClass::Cancelled, "cancelled", message)
    }

    /// The same failure, worth a new attempt.
    pub fn retryable(mut self) -> Self {
        self.retry = true;
        self
    }

    /// The same failure with evidence.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// A file that a task produced: a digest and the name people know it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    #[serde(rename = "$artifact")]
    pub artifact: Digest,
    pub name: String,
    pub media_type: String,
}

/// What a task ended well with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// A file is the result; `extra` are further ones, in the handler's order.
    File {
        #[serde(flatten)]
        file: FileRef,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        extra: Vec<FileRef>,
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        facts: Map<String, Value>,
    },
    /// Text is the result.
    Text { text: String },
    /// The work was done by children, and none of them gives the output: only facts remain.
    Facts { facts: Map<String, Value> },
}

/// Children of the task will finish it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delegation {
    /// Key of the child whose output becomes the task's output; none: the task ends with `facts` alone.
    pub output_from: Option<String>,
    pub facts: Map<String, Value>,
}

/// How a handler ended well.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Done(Output),
    Delegated(Delegation),
}

/// One of the two engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    Comfyui,
    Wan2gp,
}

impl EngineKind {
    /// The spelling on the wire and in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineKind::Comfyui => "comfyui",
            EngineKind::Wan2gp => "wan2gp",
        }
    }

    /// The name people know it by.
    pub fn title(self) -> &'static str {
        match self {
            EngineKind::Comfyui => "ComfyUI",
            EngineKind::Wan2gp => "Wan2GP",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

/// What serves a task. In JSON always `{"kind", "name", "version", "digest"}`, null where there is nothing to say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Handler {
    Plugin {
        name: String,
        version: String,
        digest: Digest,
    },
    /// `name`: the template that serves the type, if one does.
    Comfyui {
        name: Option<String>,
    },
    /// `name`: the preset that serves the type, if one does.
    Wan2gp {
        name: Option<String>,
    },
    /// Nothing here may serve it: the reason says why.
    Refused,
}

impl Serialize for Handler {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (name, version, digest) = match self {
            Handler::Plugin { name, version, digest } => (Some(name), Some(version), Some(digest)),
            Handler::Comfyui { name } | Handler::Wan2gp { name } => (name.as_ref(), None, None),
            Handler::Refused => (None, None, None),
        };
        let mut fields = s.serialize_struct("Handler", 4)?;
        fields.serialize_field("kind", self.kind())?;
        fields.serialize_field("name", &name)?;
        fields.serialize_field("version", &version)?;
        fields.serialize_field("digest", &digest)?;
        fields.end()
    }
}

impl Handler {
    /// `plugin`, `comfyui`, `wan2gp` or `refused`.
    pub fn kind(&self) -> &'static str {
        match self {
            Handler::Plugin { .. } => "plugin",
            Handler::Comfyui { .. } => "comfyui",
            Handler::Wan2gp { .. } => "wan2gp",
            Handler::Refused => "refused",
        }
    }
}

/// Which handler serves a task, why, and what would if that handler were gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub task_type: String,
    pub handler: Handler,
    /// In words, a whole sentence.
    pub reason: String,
    /// What would serve the type if the plugin were retired; absent when no plugin serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_retired: Option<Fallback>,
}

/// What would serve a type without its plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    #[serde(flatten)]
    pub handler: Handler,
    pub reason: String,
}

/// What a running task is doing, for people who wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1; absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f32>,
    pub message: String,
    pub at: Timestamp,
}

/// A row of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub task_type: String,
    pub params: Map<String, Value>,
    pub status: Status,
    #[serde(default)]
    pub project_id: Option<String>,
    /// Higher goes first.
    #[serde(default)]
    pub priority: i64,
    #[serde(default)]
    pub parent: Option<TaskId>,
    /// The name its parent gave it: one child per (parent, key).
    #[serde(default)]
    pub child_key: Option<String>,
    /// How many parents stand above it.
    #[serde(default)]
    pub depth: u32,
    /// All of them must be complete before it starts.
    #[serde(default)]
    pub depends_on: Vec<TaskId>,
    /// Children will finish it: shown as In Progress, held by nobody.
    #[serde(default)]
    pub delegated: Option<Delegation>,
    #[serde(default)]
    pub output: Option<Output>,
    #[serde(default)]
    pub error: Option<Failure>,
    /// Attempts begun. Going on after a crash is the same attempt.
    #[serde(default)]
    pub attempts: u32,
    /// Consecutive deaths of host or engine while it was executing, without a new result in between.
    #[serde(default)]
    pub deaths: u32,
    #[serde(default)]
    pub route: Option<Route>,
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Who holds it, while somebody does.
    #[serde(default)]
    pub holder: Option<Holder>,
    #[serde(default)]
    pub lease_until: Option<Timestamp>,
    pub created_at: Timestamp,
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

/// The process that holds a claim. On the same machine, a pid that is gone or started at another time is dead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Machine id and pid namespace: elsewhere a pid means nothing.
    pub machine: String,
    /// Boot id: after a reboot every pid of before is dead.
    pub boot: String,
    pub pid: u32,
    /// Start time of that process in clock ticks since boot.
    pub started: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_statuses_change_no_more() {
        for from in Status::ALL {
            for to in Status::ALL {
                if from.is_final() || to == from {
                    assert!(!from.may_become(to), "{from} -> {to}");
                }
            }
        }
        assert!(Status::InProgress.may_become(Status::Queued));
        assert!(!Status::Queued.may_become(Status::Complete));
    }

    #[test]
    fn a_status_reads_any_common_spelling() {
        for text in ["In Progress", "in-progress", "in_progress", "inprogress"] {
            assert_eq!(text.parse::<Status>().unwrap(), Status::InProgress);
        }
        assert!("done".parse::<Status>().is_err());
    }

    #[test]
    fn a_route_is_written_as_documented() {
        let route = Route {
            task_type: "travel_stitch".into(),
            handler: Handler::Plugin {
                name: "travel_stitch".into(),
                version: "1.0.0".into(),
                digest: Digest::of(b"x"),
            },
            reason: "because".into(),
            if_retired: Some(Fallback { handler: Handler::Wan2gp { name: None }, reason: "default".into() }),
        };
        let json = serde_json::to_value(&route).unwrap();
        assert_eq!(json["handler"]["kind"], "plugin");
        assert_eq!(json["if_retired"]["kind"], "wan2gp");
        assert_eq!(json["if_retired"]["version"], Value::Null);
        assert_eq!(
            serde_json::to_string(&Handler::Refused).unwrap(),
            r#"{"kind":"refused","name":null,"version":null,"digest":null}"#
        );
        assert_eq!(serde_json::from_value::<Route>(json).unwrap(), route);
    }
}
