//! The log of a task: lines of its handler, its engine jobs and the worker, kept as JSON lines in
//! `data/logs/ab/TASK.jsonl`. Bounded and never in the way: one thread of the process writes all of them, so that a slow
//! disk delays no task, and a line that cannot be taken or written is dropped.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

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

/// Lines that may wait for the disk; what comes on top is dropped.
const LONGEST_QUEUE: usize = 16 * 1024;

/// Files that the writing thread keeps open.
const OPEN_FILES: usize = 64;

/// Where one attempt's lines go. Cheap to clone. The file is made with the first line.
#[derive(Clone)]
pub struct TaskLog {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    attempt: u32,
    clock: Clock,
}

enum Order {
    Write(PathBuf, String),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// The file of a task's log.
pub fn path(logs: &Path, task: TaskId) -> PathBuf {
    let id = task.to_string();
    logs.join(id.chars().take(2).collect::<String>()).join(format!("{id}.jsonl"))
}

/// Every line of a task's log; a task without a log has none. What another process wrote last may be on its way still.
pub fn read(logs: &Path, task: TaskId) -> std::io::Result<Vec<LogLine>> {
    flush();
    match std::fs::read_to_string(path(logs, task)) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

impl TaskLog {
    pub fn new(logs: &Path, task: TaskId, attempt: u32, clock: Clock) -> Self {
        Self { inner: Arc::new(Inner { path: path(logs, task), attempt, clock }) }
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
        if writer().try_send(Order::Write(self.inner.path.clone(), text)).is_err() {
            tracing::debug!(path = %self.inner.path.display(), "a line of a task log was dropped: the disk is too slow");
        }
    }
}

/// Returns when every line of this process so far is in its file.
pub fn flush() {
    let (done, written) = sync_channel(1);
    if writer().send(Order::Flush(done)).is_ok() {
        // An error means that the thread is gone, and with it whoever could still write.
        written.recv().ok();
    }
}

/// The way to the writing thread, which starts with the first line.
fn writer() -> &'static SyncSender<Order> {
    static WRITER: OnceLock<SyncSender<Order>> = OnceLock::new();
    WRITER.get_or_init(|| {
        let (orders, queue) = sync_channel(LONGEST_QUEUE);
        if let Err(e) = std::thread::Builder::new().name("task-logs".into()).spawn(move || write_all(&queue)) {
            tracing::error!(error = %e, "task logs are not written: no thread for them");
        }
        orders
    })
}

fn write_all(queue: &Receiver<Order>) {
    let mut files: HashMap<PathBuf, File> = HashMap::new();
    while let Ok(order) = queue.recv() {
        match order {
            Order::Write(path, text) => {
                if files.len() >= OPEN_FILES && !files.contains_key(&path) {
                    files.clear();
                }
                if let Err(e) = append(&mut files, &path, &text) {
                    tracing::debug!(path = %path.display(), error = %e, "a line of a task log was dropped");
                    files.remove(&path);
                }
            }
            Order::Flush(done) => {
                done.send(()).ok();
            }
        }
    }
}

fn append(files: &mut HashMap<PathBuf, File>, path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(file) = files.get_mut(path) {
        return file.write_all(text.as_bytes());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    file.write_all(text.as_bytes())?;
    files.insert(path.to_path_buf(), file);
    Ok(())
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
