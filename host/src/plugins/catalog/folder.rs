//! The plugins folder as a set of files, and what of it can be no plugin whatever is in it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::validate;
use crate::folders::{self, Stamp};

/// The plugin files of a folder by name. Hidden files, and such as copying programs write aside, have other endings.
/// `.cwasm` files are listed to be refused by name, because somebody expects something of them.
pub(super) fn list(folder: &Path) -> io::Result<BTreeMap<String, Stamp>> {
    folders::list(folder, |name| {
        let plugin = Path::new(name).extension().is_some_and(|e| e == "wasm" || e == "cwasm");
        plugin && !name.starts_with('.')
    })
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
    match folders::read(path, stamp) {
        folders::Content::Bytes(bytes) => Content::Bytes(bytes),
        folders::Content::Unsteady => Content::Unsteady,
        folders::Content::Unreadable(e) => {
            Content::Unfit(format!("cannot be read ({e}): the host's user must be allowed to read it"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::folders::stamp;

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
}
