//! `log`: lines in the task's log, counted against the plugin's limit together with what the guest prints.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Start;
use super::contract::enginehouse::plugin::log;
use crate::tasklog::TaskLog;

/// So much of the guest's standard error is kept as evidence for a trap.
const TAIL: usize = 4 * 1024;

/// Everything one start says: log lines, standard output and error. Past the limit the rest is dropped, and the log says
/// so once.
pub struct Lines {
    /// None: nobody listens (`describe`).
    log: Option<TaskLog>,
    /// Bytes that may be written.
    limit: u64,
    written: AtomicU64,
    full: AtomicBool,
    /// The journal still answers: these lines were written when the calls were made.
    quiet: AtomicBool,
    tail: Mutex<String>,
}

impl Lines {
    pub fn new(log: Option<TaskLog>, limit: u64) -> Self {
        Self {
            log,
            limit,
            written: AtomicU64::new(0),
            full: AtomicBool::new(false),
            quiet: AtomicBool::new(false),
            tail: Mutex::new(String::new()),
        }
    }

    /// Writes one line. `source` as in [`crate::tasklog::LogLine`].
    pub fn write(&self, source: &str, level: &str, message: &str) {
        let Some(log) = &self.log else { return };
        if self.quiet.load(Ordering::Relaxed) {
            return;
        }
        let bytes = message.len() as u64 + 1;
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.limit {
            log.write(source, level, message);
        } else if !self.full.swap(true, Ordering::Relaxed) {
            let limit = self.limit.div_ceil(1024);
            log.write(
                "host",
                "warn",
                &format!(
                    "The plugin wrote more than {limit} KiB: the rest is dropped. The limit is `plugins.limits.log_kb`."
                ),
            );
        }
    }

    /// Keeps the end of what the guest wrote to standard error.
    pub fn remember(&self, text: &str) {
        let Ok(mut tail) = self.tail.lock() else { return };
        tail.push_str(text);
        if tail.len() > TAIL {
            let from = (tail.len() - TAIL..tail.len()).find(|i| tail.is_char_boundary(*i)).unwrap_or(0);
            tail.drain(..from);
        }
    }

    /// The end of what the guest wrote to standard error.
    pub fn tail(&self) -> String {
        self.tail.lock().map(|tail| tail.clone()).unwrap_or_default()
    }

    /// Lines that were written in an earlier life of the attempt are not written again.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }
}

impl log::Host for Start {
    async fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let level = match level {
            log::Level::Debug => "debug",
            log::Level::Info => "info",
            log::Level::Warn => "warn",
            log::Level::Error => "error",
        };
        self.lines().write("plugin", level, &message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::task::TaskId;
    use crate::tasklog;

    #[test]
    fn past_the_limit_lines_are_dropped_and_the_log_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        let task = TaskId::random();
        let lines = Lines::new(Some(TaskLog::new(folder.path(), task, 1, Clock::manual(Timestamp(0)))), 20);
        for _ in 0..5 {
            lines.write("stdout", "info", "123456789");
        }
        let kept = tasklog::read(folder.path(), task).unwrap();
        assert_eq!(kept.iter().filter(|line| line.source == "stdout").count(), 2);
        let notes: Vec<_> = kept.iter().filter(|line| line.source == "host").collect();
        assert_eq!(notes.len(), 1);
        assert!(notes[0].message.contains("plugins.limits.log_kb"));
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let lines = Lines::new(None, 0);
        lines.remember(&"ä".repeat(TAIL));
        lines.remember("end");
        let tail = lines.tail();
        assert!(tail.len() <= TAIL && tail.ends_with("äend"));
    }
}
