//! Folders that people drop files into: what lies there, when a file has been quiet for long enough to be read, and what
//! wakes those who follow such a folder.
//!
//! A file counts once it has been quiet, the same in every respect for a while, because a copy in progress looks like a
//! file too. The same holds for a file that is missing: many deploy by deleting and copying. Events of the operating system
//! only say *look*; what is to be done follows from comparing the folder with what was taken up last, so a lost or doubled
//! event changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::clock::Timestamp;

/// How often a folder is looked at when nothing says that it changed (network file systems give no events).
pub const RESCAN: Duration = Duration::from_secs(2);

/// Looks, evenly spread over the quiet time, that must find a file the same. More looks notice sooner that it is quiet.
const LOOKS: u32 = 3;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    /// Bytes.
    pub size: u64,
    modified: (i64, i64),
    /// A file, and no folder or device.
    pub regular: bool,
}

impl Stamp {
    fn of(m: &Metadata) -> Self {
        Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.len(),
            modified: (m.mtime(), m.mtime_nsec()),
            regular: m.is_file(),
        }
    }

    /// When the content last changed, by the file system's clock.
    pub fn modified(&self) -> Timestamp {
        Timestamp(self.modified.0.saturating_mul(1000).saturating_add(self.modified.1 / 1_000_000))
    }
}

/// The pause between two looks, when a file counts as quiet after `quiet`.
pub fn pause(quiet: Duration) -> Duration {
    (quiet / LOOKS).max(Duration::from_millis(5))
}

/// The files of a folder by name, those that `ours` takes. Links are followed: a file may stand in the folder as a link to
/// where it is made. A folder that cannot be read is an error, not an empty folder.
pub fn list(folder: &Path, ours: impl Fn(&str) -> bool) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !ours(&name) {
            continue;
        }
        match fs::metadata(entry.path()) {
            Ok(metadata) => {
                files.insert(name, Stamp::of(&metadata));
            }
            // Gone since the folder was read, or a link that leads nowhere: not there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(files)
}

/// The state of one file.
pub fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|m| Stamp::of(&m))
}

/// What reading a file gave.
pub enum Content {
    Bytes(Vec<u8>),
    Unreadable(io::Error),
    /// It changed while it was read, or before: it is not quiet after all.
    Unsteady,
}

/// Reads a file once, as it was when it had the stamp.
pub fn read(path: &Path, stamp: Stamp) -> Content {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Content::Unsteady,
        _ => Content::Unreadable(e),
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return unreadable(e),
    };
    let steady = |file: &File| file.metadata().is_ok_and(|m| Stamp::of(&m) == stamp);
    if !steady(&file) {
        return Content::Unsteady;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    if let Err(e) = (&mut file).take(stamp.size.saturating_add(1)).read_to_end(&mut bytes) {
        return unreadable(e);
    }
    if !steady(&file) || bytes.len() as u64 != stamp.size {
        return Content::Unsteady;
    }
    Content::Bytes(bytes)
}

/// Changes that are not quiet yet: by file, the state last seen (none: missing) and how many looks found it so.
#[derive(Default)]
pub struct Settling(BTreeMap<String, (Option<Stamp>, u32)>);

impl Settling {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One look at what differs from what was taken up. Gives those that are quiet now, by file name; the others are
    /// remembered for the next look.
    pub fn look(&mut self, changed: BTreeMap<String, Option<Stamp>>) -> Vec<(String, Option<Stamp>)> {
        let mut quiet = Vec::new();
        let before = std::mem::take(&mut self.0);
        for (file, state) in changed {
            let looks = match before.get(&file) {
                Some((old, looks)) if *old == state => looks + 1,
                _ => 0,
            };
            if looks >= LOOKS {
                quiet.push((file, state));
            } else {
                self.0.insert(file, (state, looks));
            }
        }
        quiet
    }

    /// The states that wait.
    pub fn states(&self) -> impl Iterator<Item = (&str, Option<Stamp>)> {
        self.0.iter().map(|(file, (state, _))| (file.as_str(), *state))
    }
}

/// The operating system's events for the folder as it is now: one that was deleted and made anew is another folder.
#[derive(Default)]
pub struct FolderEvents {
    /// Told at every change.
    pub wake: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    inode: Option<u64>,
}

impl FolderEvents {
    /// Call it before every look: it begins, and begins anew where the folder is another one. `called` names the folder in
    /// a warning: `plugins folder`.
    pub fn follow(&mut self, folder: &Path, called: &str) {
        let inode = std::fs::metadata(folder).ok().map(|m| m.ino());
        if inode.is_none() || inode == self.inode {
            return;
        }
        self.inode = inode;
        let wake = self.wake.clone();
        let started = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, |event| is_change(&event.kind)) {
                wake.notify_one();
            }
        })
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::NonRecursive).map(|()| watcher));
        match started {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(e) => {
                self.watcher = None;
                tracing::warn!(
                    folder = %folder.display(), error = %e,
                    "the system gives no events for the {called}: changes are noticed within {} s", RESCAN.as_secs()
                );
            }
        }
    }
}

/// Reading is no change; the watcher itself reads.
fn is_change(kind: &EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_up_only_after_looks_that_find_nothing_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        let mut settling = Settling::default();
        let mut look = |state: Option<Stamp>| settling.look(BTreeMap::from([("a.wasm".to_string(), state)])).len();
        fs::write(&path, "a").unwrap();
        let first = stamp(&path);
        fs::write(&path, "ab").unwrap();
        let second = stamp(&path);
        assert_eq!([look(first), look(first), look(first), look(second)], [0, 0, 0, 0]);
        assert_eq!([look(second), look(second), look(None), look(second)], [0, 0, 0, 0]);
        assert_eq!([look(second), look(second), look(second)], [0, 0, 1]);
        assert_eq!([look(None), look(None), look(None), look(None)], [0, 0, 0, 1]);
        assert!(settling.look(BTreeMap::new()).is_empty() && settling.is_empty());
    }
}
