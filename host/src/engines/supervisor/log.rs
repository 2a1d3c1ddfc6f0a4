//! What an engine printed: the last lines in memory, all of them in `NAME.log` until the file is full and moved to
//! `NAME.log.1`, each one to whoever listens. The engine never waits for any of it: its output is taken as fast as it comes,
//! and what the disk is too slow for is missing in the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::broadcast;

use super::Limits;
use super::lines::Lines;
use crate::clock::{Clock, Timestamp};

/// Lines that may wait for the disk; what comes on top is missing in the file.
const LONGEST_QUEUE: usize = 16 * 1024;

/// Lines that a listener may be behind.
const BEHIND: usize = 1024;

/// Bytes taken at once.
const CHUNK: usize = 16 * 1024;

/// One line, cleaned of colours and control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLine {
    /// When it was complete.
    pub at: Timestamp,
    pub text: String,
}

/// The log of one engine. Cheap to clone.
#[derive(Clone)]
pub(super) struct EngineLog {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    kept: Mutex<Kept>,
    listeners: broadcast::Sender<EngineLine>,
    /// None: nothing can be written.
    file: Option<SyncSender<String>>,
}

struct Kept {
    lines: VecDeque<EngineLine>,
    bytes: usize,
    most: usize,
    /// The line that is not finished yet.
    open: Lines,
    /// The last line of the present process.
    last: Option<String>,
}

/// The log file of an engine.
pub fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// The last lines of an engine's log file, each with its time; what was moved aside counts. No file: no lines.
pub fn read_log(folder: &Path, name: &str, lines: usize) -> io::Result<Vec<String>> {
    let path = log_path(folder, name);
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_string).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    let mut found: Vec<String> = read(&path)?;
    if found.len() < lines {
        let mut older: Vec<String> = read(&aside(&path))?;
        older.append(&mut found);
        found = older;
    }
    Ok(found.split_off(found.len().saturating_sub(lines)))
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

impl EngineLog {
    /// Goes on with the file that is there. A file that cannot be written is reported, and done without.
    pub fn open(folder: &Path, name: &str, clock: Clock, limits: &Limits) -> Self {
        let path = log_path(folder, name);
        let file = write_in_background(folder, &path, limits.log_file_bytes)
            .inspect_err(|e| tracing::warn!(path = %path.display(), error = %e, "the output of an engine is not kept"))
            .ok();
        let kept = Kept {
            lines: VecDeque::new(),
            bytes: 0,
            most: limits.memory_log_bytes,
            open: Lines::default(),
            last: None,
        };
        let inner = Inner { clock, kept: Mutex::new(kept), listeners: broadcast::Sender::new(BEHIND), file };
        Self { inner: Arc::new(inner) }
    }

    /// A process begins. The host's own words stand in the file alone.
    pub fn begin(&self, words: &str) {
        self.kept().last = None;
        self.note(words);
    }

    /// The host's own words, for the file alone.
    pub fn note(&self, words: &str) {
        self.write(self.inner.clock.now(), &format!("[enginehouse] {words}"));
    }

    /// Takes all that comes until the end.
    pub async fn drain(self, mut output: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; CHUNK];
        loop {
            match output.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(n) => self.take(chunk.get(..n).unwrap_or_default()),
            }
        }
        let line = self.kept().open.finish();
        line.into_iter().for_each(|text| self.add(text));
    }

    /// The last lines, the newest last; an unfinished one counts.
    pub fn tail(&self, lines: usize) -> Vec<EngineLine> {
        let kept = self.kept();
        let open = kept.open.unfinished().map(|text| EngineLine { at: self.inner.clock.now(), text });
        let mut tail: Vec<EngineLine> = open.into_iter().chain(kept.lines.iter().rev().cloned()).take(lines).collect();
        tail.reverse();
        tail
    }

    /// The last line of the present process.
    pub fn last(&self) -> Option<String> {
        let kept = self.kept();
        kept.open.unfinished().or_else(|| kept.last.clone())
    }

    pub fn lines(&self) -> broadcast::Receiver<EngineLine> {
        self.inner.listeners.subscribe()
    }

    fn take(&self, bytes: &[u8]) {
        let lines = self.kept().open.take(bytes);
        lines.into_iter().for_each(|text| self.add(text));
    }

    fn add(&self, text: String) {
        let line = EngineLine { at: self.inner.clock.now(), text };
        self.write(line.at, &line.text);
        {
            let mut kept = self.kept();
            kept.last = Some(line.text.clone());
            kept.bytes += line.text.len();
            kept.lines.push_back(line.clone());
            while kept.bytes > kept.most && kept.lines.len() > 1 {
                kept.bytes -= kept.lines.pop_front().map_or(0, |old| old.text.len());
            }
        }
        // Nobody listens: nobody misses it.
        self.inner.listeners.send(line).ok();
    }

    fn write(&self, at: Timestamp, text: &str) {
        if let Some(file) = &self.inner.file {
            // A disk that is too slow loses the line, not the engine's time.
            file.try_send(format!("{at} {text}\n")).ok();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread that writes the file; it ends with the last sender.
fn write_in_background(folder: &Path, path: &Path, most: u64) -> io::Result<SyncSender<String>> {
    std::fs::create_dir_all(folder)?;
    let file = Rotated::open(path, most)?;
    let (sender, queue) = sync_channel(LONGEST_QUEUE);
    std::thread::Builder::new().name("engine-log".into()).spawn(move || write_all(file, &queue))?;
    Ok(sender)
}

fn write_all(mut file: Rotated, queue: &Receiver<String>) {
    let mut broken = false;
    while let Ok(line) = queue.recv() {
        let written = file.write(&line);
        if let (Err(e), false) = (&written, broken) {
            tracing::warn!(path = %file.path.display(), error = %e, "the output of an engine cannot be kept");
        }
        broken = written.is_err();
    }
}

/// A file that is moved aside when it is full.
struct Rotated {
    path: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
}

impl Rotated {
    fn open(path: &Path, most: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.into(), file, bytes, most })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.bytes > 0 && self.bytes.saturating_add(length) > self.most {
            std::fs::rename(&self.path, aside(&self.path))?;
            *self = Self::open(&self.path, self.most)?;
        }
        self.file.write_all(line.as_bytes())?;
        self.bytes = self.bytes.saturating_add(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(folder: &Path, memory: usize, file: u64) -> EngineLog {
        let limits = Limits { memory_log_bytes: memory, log_file_bytes: file, ..Limits::default() };
        EngineLog::open(folder, "e", Clock::manual(Timestamp(0)), &limits)
    }

    fn texts(lines: Vec<EngineLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    /// What is in the file once so many lines are.
    fn written(folder: &Path, lines: usize) -> Vec<String> {
        loop {
            let found = read_log(folder, "e", usize::MAX).unwrap();
            if found.len() >= lines {
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn the_newest_lines_stay_in_memory_and_all_of_them_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 19, 1_000_000);
        let mut heard = log.lines();
        log.begin("started");
        let printed: String = (0..100).map(|n| format!("line {n:03}\n")).collect();
        log.clone().drain(format!("{printed}rest").as_bytes()).await;
        assert_eq!(texts(log.tail(10)), ["line 099", "rest"]);
        assert_eq!(texts(log.tail(1)), ["rest"]);
        assert_eq!(log.last().as_deref(), Some("rest"));
        assert_eq!(heard.recv().await.unwrap().text, "line 000");
        let written = written(folder.path(), 102);
        assert_eq!(written[0], "1970-01-01T00:00:00Z [enginehouse] started");
        assert_eq!(written[100], "1970-01-01T00:00:00Z line 099");
        log.begin("started again");
        assert_eq!(log.last(), None);
    }

    #[tokio::test]
    async fn an_unfinished_line_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 1000, 1000);
        log.take(b"one\n\r 10%\r 20%");
        assert_eq!(texts(log.tail(9)), ["one", " 20%"]);
        assert_eq!(log.last().as_deref(), Some(" 20%"));
    }

    #[tokio::test]
    async fn a_full_file_is_moved_aside_and_the_log_stays_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), 1000, 500);
        for n in 0..100 {
            log.take(format!("line {n:03}\n").as_bytes());
        }
        loop {
            if read_log(folder.path(), "e", 1).unwrap().first().is_some_and(|line| line.ends_with("line 099")) {
                break;
            }
            std::thread::yield_now();
        }
        let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("e.log") <= 500 && size("e.log.1") <= 500);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        // The last lines reach back into what was moved aside.
        let last = read_log(folder.path(), "e", 16).unwrap();
        assert_eq!(last.len(), 16);
        assert!(last[0].ends_with("line 084"), "{last:?}");
    }
}
