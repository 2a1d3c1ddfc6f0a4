//! The plugins folder as a set of files, and when one of them may be read: a file counts once it has been quiet, the
//! same in every respect for a while, because a copy in progress looks like a file too. The same holds for a file that
//! is missing: many deploy by deleting and copying.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::validate;
use crate::clock::Timestamp;

/// Looks, evenly spread over the quiet time, that must find a file the same. More looks notice sooner that it is quiet.
pub(super) const LOOKS: u32 = 3;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub size: u64,
    modified: (i64, i64),
    regular: bool,
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

/// The plugin files of a folder by name. Hidden files, and such as copying programs write aside, have other endings.
/// `.cwasm` files are listed to be refused by name, because somebody expects something of them.
pub(super) fn list(folder: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plugin = Path::new(&name).extension().is_some_and(|e| e == "wasm" || e == "cwasm");
        if !plugin || name.starts_with('.') {
            continue;
        }
        // Links are followed: a plugin may stand in the folder as a link to where it is built.
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
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|m| Stamp::of(&m))
}

/// What reading a file gave.
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// The rest of a sentence that begins with the file's name.
    Unfit(String),
    /// It changed while it was read, or before: it is not quiet after all.
    Unsteady,
}

/// Reads a file once, as it was when it had the stamp. One of more than `most_mb` is no plugin but a mistake (a model,
/// a video) that would only fill memory and disk.
pub(super) fn read(path: &Path, stamp: Stamp, most_mb: u64) -> Content {
    if !stamp.regular {
        return Content::Unfit("is no regular file: a plugin is one file".into());
    }
    if path.extension().is_some_and(|e| e == "cwasm") {
        return Content::Unfit(validate::COMPILED_ARTIFACT.into());
    }
    let size_mb = stamp.size.div_ceil(1024 * 1024);
    if size_mb > most_mb {
        return Content::Unfit(format!(
            "has {size_mb} MB, and a plugin has {most_mb} MB at most (`plugins.file_mb`): models and videos belong \
             elsewhere"
        ));
    }
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Content::Unsteady,
        _ => Content::Unfit(format!("cannot be read ({e}): the host's user must be allowed to read it")),
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
    if let Err(e) = Read::by_ref(&mut file).take(stamp.size.saturating_add(1)).read_to_end(&mut bytes) {
        return unreadable(e);
    }
    if !steady(&file) || bytes.len() as u64 != stamp.size {
        return Content::Unsteady;
    }
    Content::Bytes(bytes)
}

/// Changes that are not quiet yet: by file, the state last seen (none: missing) and how many looks found it so.
#[derive(Default)]
pub(super) struct Settling(BTreeMap<String, (Option<Stamp>, u32)>);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plugin_files_are_listed_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["b.wasm", "a.wasm", ".hidden.wasm", "c.wasm.tmp", "c.tmp", "notes.txt", "d.cwasm"] {
            fs::write(path(name), name).unwrap();
        }
        std::os::unix::fs::symlink(path("notes.txt"), path("link.wasm")).unwrap();
        std::os::unix::fs::symlink(path("nowhere"), path("dead.wasm")).unwrap();
        fs::create_dir(path("folder.wasm")).unwrap();
        let files = list(folder.path()).unwrap();
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(names, ["a.wasm", "b.wasm", "d.cwasm", "folder.wasm", "link.wasm"]);
        let read = |name: &str| match read(&path(name), files[name], 1) {
            Content::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            Content::Unfit(reason) => reason,
            Content::Unsteady => "unsteady".into(),
        };
        assert_eq!(read("a.wasm"), "a.wasm");
        assert_eq!(read("link.wasm"), "notes.txt");
        assert_eq!(read("folder.wasm"), "is no regular file: a plugin is one file");
        assert_eq!(read("d.cwasm"), validate::COMPILED_ARTIFACT);
        fs::write(path("a.wasm"), "longer than before").unwrap();
        assert_eq!(read("a.wasm"), "unsteady");
        fs::remove_file(path("b.wasm")).unwrap();
        assert_eq!(read("b.wasm"), "unsteady");
    }

    #[test]
    fn a_file_of_absurd_size_is_refused_unread() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wasm");
        let file = File::create(&path).unwrap();
        file.set_len(2 * 1024 * 1024).unwrap();
        assert!(matches!(read(&path, stamp(&path).unwrap(), 2), Content::Bytes(_)));
        file.set_len(2 * 1024 * 1024 + 1).unwrap();
        let Content::Unfit(reason) = read(&path, stamp(&path).unwrap(), 2) else { panic!("it was read") };
        assert_eq!(
            reason,
            "has 3 MB, and a plugin has 2 MB at most (`plugins.file_mb`): models and videos belong elsewhere"
        );
    }

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
