//! The log of a task: lines of its handler, its engine jobs and the worker, kept as JSON lines in
//! `data/logs/ab/TASK.jsonl`. Bounded, never in the way: a line that cannot be written is dropped and counted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::task::TaskId;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub attempt: u32,
    /// `host`, `plugin`, `stdout`, `stderr` or `engine`.
    pub source: String,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub message: String,
}

/// Longest message kept; the rest is cut and marked.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// Where one attempt's lines go. Cheap to clone. The file is made with the first line.
#[derive(Clone)]
pub struct TaskLog {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    attempt: u32,
    clock: Clock,
    file: Mutex<Option<std::fs::File>>,
}

/// The file of a task's log.
pub fn path(logs: &Path, task: TaskId) -> PathBuf {
    let id = task.to_string();
    logs.join(id.chars().take(2).collect::<String>()).join(format!("{id}.jsonl"))
}

/// Every line of a task's log; a task without a log has none.
pub fn read(logs: &Path, task: TaskId) -> std::io::Result<Vec<LogLine>> {
    match std::fs::read_to_string(path(logs, task)) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

impl TaskLog {
    pub fn new(logs: &Path, task: TaskId, attempt: u32, clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { path: path(logs, task), attempt, clock, file: Mutex::new(None) }) }
    }

    /// Writes one line. Never fails: a log must not break a task.
    pub fn write(&self, source: &str, level: &str, message: &str) {
        let mut message = message.to_string();
        if message.len() > LONGEST_MESSAGE {
            let end = (0..=LONGEST_MESSAGE).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push_str(" … (cut)");
        }
        let line = LogLine {
            at: self.inner.clock.now(),
            attempt: self.inner.attempt,
            source: source.to_string(),
            level: level.to_string(),
            message,
        };
        let Ok(mut text) = serde_json::to_string(&line) else { return };
        text.push('\n');
        let Ok(mut file) = self.inner.file.lock() else { return };
        if file.is_none() {
            *file = open(&self.inner.path);
        }
        if let Some(file) = file.as_mut()
            && let Err(e) = file.write_all(text.as_bytes())
        {
            tracing::debug!(path = %self.inner.path.display(), error = %e, "a line of a task log was dropped");
        }
    }
}

fn open(path: &Path) -> Option<std::fs::File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).ok()?;
    }
    std::fs::OpenOptions::new().create(true).append(true).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_in_order_and_long_ones_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let task = TaskId::random();
        assert_eq!(read(folder.path(), task).unwrap(), []);
        let log = TaskLog::new(folder.path(), task, 2, Clock::manual(Timestamp(0)));
        log.write("plugin", "info", "first");
        log.write("stderr", "error", &"ä".repeat(LONGEST_MESSAGE));
        let lines = read(folder.path(), task).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].message.as_str(), lines[0].attempt), ("first", 2));
        assert!(lines[1].message.ends_with("… (cut)") && lines[1].message.len() < LONGEST_MESSAGE + 20);
    }
}
