//! The folder store. A file is written aside, fsynced, renamed to its digest and made read-only: whoever finds a file
//! under its digest finds all of it. Everything here blocks; [`super::Artifacts`] moves it off the runtime's threads.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::{Take, names, sniff};
use crate::clock::{Clock, Timestamp};
use crate::digest::Digest;
use crate::task::Failure;

/// What a crash left half written is swept away when the store is opened and the rest is so old.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);

/// Files of one name that may lie in one folder of the outputs.
const NAMESAKES: u32 = 10_000;

/// Where the files are.
pub(super) struct Folders {
    /// `artifacts/sha256`.
    files: PathBuf,
    /// On the same file system: what is not complete yet.
    incoming: PathBuf,
    outputs: PathBuf,
}

/// A file that was taken in.
pub(super) struct Taken {
    pub digest: Digest,
    pub name: String,
    pub media_type: &'static str,
}

impl Folders {
    pub fn open(data: &Path, outputs: &Path) -> Result<Self, Failure> {
        let artifacts = data.join("artifacts");
        let folders = Self {
            files: artifacts.join("sha256"),
            incoming: artifacts.join("incoming"),
            outputs: outputs.to_path_buf(),
        };
        for folder in [&folders.files, &folders.incoming, &folders.outputs] {
            fs::create_dir_all(folder).map_err(|e| failed("make the folder", folder, &e))?;
        }
        folders.sweep();
        Ok(folders)
    }

    /// A folder on the store's file system that goes away with its handle.
    pub fn scratch(&self) -> Result<TempDir, Failure> {
        tempfile::Builder::new()
            .prefix("work-")
            .tempdir_in(&self.incoming)
            .map_err(|e| failed("make a folder in", &self.incoming, &e))
    }

    pub fn import_file(&self, path: &Path, name: &str, take: Take) -> Result<Taken, Failure> {
        let unreadable = |e: &io::Error| {
            Failure::invalid("input_not_found", format!("The file {} could not be read: {e}.", path.display()))
        };
        let kind = fs::symlink_metadata(path).map_err(|e| unreadable(&e))?.file_type();
        if !fs::metadata(path).map_err(|e| unreadable(&e))?.is_file() {
            return Err(Failure::invalid("not_a_file", format!("{} is no file.", path.display())));
        }
        let mut source = File::open(path).map_err(|e| unreadable(&e))?;
        let head = head(&mut source).map_err(|e| unreadable(&e))?;
        // A link is not ours to rename: what it leads to would stay outside.
        if take == Take::Move && kind.is_file() {
            let digest = hash(&mut source).map_err(|e| unreadable(&e))?;
            if self.moved(path, &source, digest)? {
                return Ok(taken(digest, name, &head));
            }
        }
        let digest = self.copied(&mut source)?;
        if take == Take::Move {
            fs::remove_file(path).map_err(|e| failed("remove, now that it is kept,", path, &e))?;
        }
        Ok(taken(digest, name, &head))
    }

    pub fn import_bytes(&self, bytes: &[u8], name: &str) -> Result<Taken, Failure> {
        let digest = Digest::of(bytes);
        if !self.has(digest, bytes.len() as u64) {
            let mut aside = self.aside()?;
            aside.write_all(bytes).map_err(|e| failed("write", aside.path(), &e))?;
            self.settle(aside, digest)?;
        }
        Ok(taken(digest, name, bytes.get(..sniff::HEAD_BYTES).unwrap_or(bytes)))
    }

    /// Where a digest's file lies or would lie.
    pub fn place(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.files.join(hex.get(..2).unwrap_or_default()).join(hex)
    }

    pub fn read(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        let path = self.place(digest);
        let mut bytes = Vec::new();
        let result = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.take(length.into()).read_to_end(&mut bytes)
        });
        match result {
            Ok(_) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(not_found(digest)),
            Err(e) => Err(failed("read", &path, &e)),
        }
    }

    pub fn publish(&self, digest: Digest, folder: &str, file_name: &str) -> Result<PathBuf, Failure> {
        let source = self.place(digest);
        let length = fs::metadata(&source).map_err(|_| not_found(digest))?.len();
        let folder = if folder.is_empty() { self.outputs.clone() } else { self.outputs.join(names::sanitised(folder)) };
        fs::create_dir_all(&folder).map_err(|e| failed("make the folder", &folder, &e))?;
        let (stem, extension) = names::split(file_name);
        let extension = extension.map_or(String::new(), |extension| format!(".{extension}"));
        for number in 0..NAMESAKES {
            let number = if number == 0 { String::new() } else { format!("_{number}") };
            let target = folder.join(format!("{stem}{number}{extension}"));
            let result = match fs::hard_link(&source, &target) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => copy_beside(&source, &target),
                linked => linked,
            };
            match result {
                Ok(()) => {
                    sync_folder(&folder)?;
                    return Ok(target);
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    if same(&source, &target, length, digest) {
                        return Ok(target);
                    }
                }
                Err(e) => return Err(failed("write", &target, &e)),
            }
        }
        Err(failed("find a free name for", &folder.join(file_name), &io::Error::other("too many files of that name")))
    }

    /// Renames a file to its digest; false when it lies on another file system.
    fn moved(&self, path: &Path, file: &File, digest: Digest) -> Result<bool, Failure> {
        let length = file.metadata().map_err(|e| failed("look at", path, &e))?.len();
        if self.has(digest, length) {
            fs::remove_file(path).map_err(|e| failed("remove, now that it is kept,", path, &e))?;
            return Ok(true);
        }
        file.set_permissions(Permissions::from_mode(0o444)).map_err(|e| failed("protect", path, &e))?;
        file.sync_all().map_err(|e| failed("write", path, &e))?;
        let target = self.target(digest)?;
        match fs::rename(path, &target) {
            Ok(()) => {
                self.sync(&target)?;
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => Ok(false),
            Err(e) => Err(failed("move", path, &e)),
        }
    }

    /// Copies a file in. What is hashed is the copy: the source may change meanwhile.
    fn copied(&self, source: &mut File) -> Result<Digest, Failure> {
        let mut aside = self.aside()?;
        let copy = |source: &mut File, aside: &mut NamedTempFile| -> io::Result<Digest> {
            if cloned(source, aside.as_file()) {
                return hash(aside.as_file_mut());
            }
            source.seek(SeekFrom::Start(0))?;
            hash_into(source, aside.as_file_mut())
        };
        let digest = copy(source, &mut aside).map_err(|e| failed("copy into", &self.incoming, &e))?;
        let length = aside.as_file().metadata().map_err(|e| failed("look at", aside.path(), &e))?.len();
        if !self.has(digest, length) {
            self.settle(aside, digest)?;
        }
        Ok(digest)
    }

    fn aside(&self) -> Result<NamedTempFile, Failure> {
        tempfile::Builder::new()
            .prefix("file-")
            .tempfile_in(&self.incoming)
            .map_err(|e| failed("make a file in", &self.incoming, &e))
    }

    fn settle(&self, aside: NamedTempFile, digest: Digest) -> Result<(), Failure> {
        let target = self.target(digest)?;
        let write = |e: &io::Error| failed("write", &target, e);
        aside.as_file().set_permissions(Permissions::from_mode(0o444)).map_err(|e| write(&e))?;
        aside.as_file().sync_all().map_err(|e| write(&e))?;
        aside.persist(&target).map_err(|e| write(&e.error))?;
        self.sync(&target)
    }

    /// Whether a digest's file is there. A file of another length was damaged from outside and is replaced.
    fn has(&self, digest: Digest, length: u64) -> bool {
        fs::metadata(self.place(digest)).is_ok_and(|found| found.is_file() && found.len() == length)
    }

    fn target(&self, digest: Digest) -> Result<PathBuf, Failure> {
        let target = self.place(digest);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(|e| failed("make the folder", folder, &e))?;
        }
        Ok(target)
    }

    /// Makes a rename durable, and the folder it went into.
    fn sync(&self, target: &Path) -> Result<(), Failure> {
        target.parent().map_or(Ok(()), sync_folder)?;
        sync_folder(&self.files)
    }

    /// Removes what a crash left; a file that cannot be removed is no reason not to start.
    fn sweep(&self) {
        let now = Clock::system().now();
        for entry in fs::read_dir(&self.incoming).into_iter().flatten().flatten() {
            let changed = entry.metadata().and_then(|found| found.modified()).ok();
            let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let changed = changed.and_then(|since| i64::try_from(since.as_millis()).ok());
            if changed.is_none_or(|changed| now.since(Timestamp(changed)) <= LEFTOVER) {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(e) = removed {
                tracing::warn!(path = %path.display(), error = %e, "a leftover could not be removed");
            }
        }
    }
}

pub(super) fn not_found(digest: Digest) -> Failure {
    Failure::invalid("artifact_not_found", format!("This host keeps no file with the digest {digest}."))
}

/// The first bytes of a file.
pub(super) fn head(file: &mut File) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(0))?;
    let mut head = Vec::with_capacity(sniff::HEAD_BYTES);
    file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn taken(digest: Digest, name: &str, head: &[u8]) -> Taken {
    let media_type = sniff::media_type(head, name);
    let mut name = names::sanitised(name);
    // Engines and people go by the extension: a file never stays without one that could have it.
    if let ((_, None), Some(extension)) = (names::split(&name), sniff::extension(media_type)) {
        name = format!("{name}.{extension}");
    }
    Taken { digest, name, media_type }
}

fn hash(file: &mut File) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    hash_into(file, &mut io::sink())
}

fn hash_into(from: &mut impl Read, to: &mut impl Write) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(Digest::finish(hasher)),
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes)?;
    }
}

/// Shares the bytes of two files where the file system can: no copy, no space.
#[cfg(target_os = "linux")]
fn cloned(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn cloned(_from: &File, _to: &File) -> bool {
    false
}

/// Where files cannot be linked: a copy, complete before it appears, never over another file.
fn copy_beside(source: &Path, target: &Path) -> io::Result<()> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let mut copy = tempfile::Builder::new().prefix(".copy-").tempfile_in(folder)?;
    io::copy(&mut File::open(source)?, copy.as_file_mut())?;
    copy.as_file().set_permissions(Permissions::from_mode(0o644))?;
    copy.as_file().sync_all()?;
    copy.persist_noclobber(target).map(drop).map_err(|e| e.error)
}

/// Whether a published file is the one of the store: the same file, or an equal copy.
fn same(source: &Path, target: &Path, length: u64, digest: Digest) -> bool {
    let (Ok(kept), Ok(found)) = (fs::metadata(source), fs::symlink_metadata(target)) else { return false };
    if !found.is_file() || found.len() != length {
        return false;
    }
    (kept.dev(), kept.ino()) == (found.dev(), found.ino())
        || File::open(target).and_then(|mut file| hash(&mut file)).is_ok_and(|found| found == digest)
}

fn sync_folder(folder: &Path) -> Result<(), Failure> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| failed("write the folder", folder, &e))
}

fn failed(attempt: &str, path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " Make room on this disk.",
        io::ErrorKind::PermissionDenied => " The user of this process needs the right to do so.",
        _ => "",
    };
    Failure::unavailable(
        "artifact_store_failed",
        format!("The artifact store could not {attempt} {}: {error}.{hint}", path.display()),
    )
}
