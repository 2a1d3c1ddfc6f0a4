//! Files by content. A file that enters the house is hashed, kept once under its digest and never changed; people find
//! results again under `outputs/TYPE/ID_name` (hard links).
//!
//! - `local.rs`: the folder store.
//! - `download.rs`: files behind URLs: size limits, private networks refused, cut-off files detected.
//! - `sniff.rs`: what kind of file some bytes are.
//! - `names.rs`: file names that are safe everywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use url::Url;

use crate::digest::Digest;
use crate::task::{Failure, FileRef};
use local::{Folders, Taken};

pub mod download;
mod local;
pub mod names;
pub mod sniff;

/// Most bytes that one [`Artifacts::read`] gives.
pub const READ_BYTES: u32 = 1 << 20;

/// How a file is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The original stays as it is.
    Copy,
    /// The file is ours already: it is moved.
    Move,
}

/// The content-addressed store of a home: `data/artifacts/sha256/ab/abcd…`, results linked under `outputs/`. Cheap to
/// clone. What goes wrong with the disk is `artifact_store_failed`.
#[derive(Clone)]
pub struct Artifacts {
    inner: Arc<Folders>,
}

impl Artifacts {
    /// Opens the store of a home, making its folders.
    pub fn open(data: &Path, outputs: &Path) -> Result<Self, Failure> {
        Ok(Self { inner: Arc::new(Folders::open(data, outputs)?) })
    }

    /// Takes a file in. `name` is what people know it by; its extension is kept, the media type comes from the content.
    /// Codes: `input_not_found`, `not_a_file`.
    pub async fn import_file(&self, path: &Path, name: &str, take: Take) -> Result<FileRef, Failure> {
        let (path, name) = (path.to_path_buf(), name.to_string());
        self.blocking(move |folders| folders.import_file(&path, &name, take)).await.map(file_ref)
    }

    /// Takes a few bytes in.
    pub async fn import_bytes(&self, bytes: Vec<u8>, name: &str) -> Result<FileRef, Failure> {
        let name = name.to_string();
        self.blocking(move |folders| folders.import_bytes(&bytes, &name)).await.map(file_ref)
    }

    /// Where the file of a digest lies. Code `artifact_not_found`.
    pub fn path(&self, digest: Digest) -> Result<PathBuf, Failure> {
        let path = self.inner.place(digest);
        if path.is_file() { Ok(path) } else { Err(local::not_found(digest)) }
    }

    /// Size of a file in bytes. Code `artifact_not_found`.
    pub fn bytes(&self, digest: Digest) -> Result<u64, Failure> {
        std::fs::metadata(self.inner.place(digest)).map(|found| found.len()).map_err(|_| local::not_found(digest))
    }

    /// Up to `length` bytes from `offset`; fewer at the end. More than [`READ_BYTES`] at once is refused (`too_large`).
    pub async fn read(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        if length > READ_BYTES {
            return Err(Failure::denied(
                "too_large",
                format!("One read gives at most {READ_BYTES} bytes, {length} were asked for: read in pieces."),
            ));
        }
        self.blocking(move |folders| folders.read(digest, offset, length)).await
    }

    /// Makes a file findable for people: `outputs/FOLDER/STEM_name`, the name sanitised, never over another file (`_1`,
    /// `_2` …). Published again, a file has the same path. A name that begins with the stem does not get it twice.
    pub async fn publish(&self, file: &FileRef, folder: &str, stem: &str) -> Result<PathBuf, Failure> {
        let name = names::sanitised(&file.name);
        let name = if stem.is_empty() || name.starts_with(stem) { name } else { format!("{stem}_{name}") };
        let (digest, folder) = (file.artifact, folder.to_string());
        self.blocking(move |folders| folders.publish(digest, &folder, &name)).await
    }

    /// A folder for work in progress, on the file system of the store, so that what is made in it can be moved in. It goes
    /// away with its handle.
    pub fn scratch(&self) -> Result<TempDir, Failure> {
        self.inner.scratch()
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folders) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let folders = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&folders)).await.unwrap_or_else(|e| {
            Err(Failure::internal("artifact_store_failed", format!("The artifact store broke off its work: {e}.")))
        })
    }
}

/// The address of a local file: `file:///…`.
pub fn uri(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    Url::from_file_path(&path).map_or_else(|()| format!("file://{}", path.display()), String::from)
}

fn file_ref(taken: Taken) -> FileRef {
    FileRef { artifact: taken.digest, name: taken.name, media_type: taken.media_type.to_string() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

    struct House {
        folder: TempDir,
        artifacts: Artifacts,
    }

    fn house() -> House {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(&folder.path().join("data"), &folder.path().join("outputs")).unwrap();
        House { folder, artifacts }
    }

    impl House {
        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        }

        fn kept(&self) -> usize {
            let count = |folder: PathBuf| fs::read_dir(folder).unwrap().count();
            let sha256 = self.folder.path().join("data/artifacts/sha256");
            fs::read_dir(sha256).unwrap().map(|sub| count(sub.unwrap().path())).sum()
        }

        fn leftovers(&self) -> usize {
            fs::read_dir(self.folder.path().join("data/artifacts/incoming")).unwrap().count()
        }
    }

    #[tokio::test]
    async fn a_file_is_kept_once_under_its_digest_and_cannot_be_written() {
        let house = house();
        let original = house.file("a b.png", PNG);
        let first = house.artifacts.import_file(&original, "a b.png", Take::Copy).await.unwrap();
        let second = house.artifacts.import_bytes(PNG.to_vec(), "other").await.unwrap();
        assert_eq!((first.artifact, second.artifact), (Digest::of(PNG), Digest::of(PNG)));
        assert_eq!((first.name.as_str(), second.name.as_str()), ("a_b.png", "other.png"));
        assert_eq!(first.media_type, "image/png");
        assert_eq!((house.kept(), house.leftovers()), (1, 0));
        let path = house.artifacts.path(first.artifact).unwrap();
        let hex = Digest::of(PNG).hex();
        assert!(path.ends_with(format!("data/artifacts/sha256/{}/{hex}", &hex[..2])), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        assert!(original.exists());
        assert_eq!(house.artifacts.bytes(first.artifact).unwrap(), PNG.len() as u64);
    }

    #[tokio::test]
    async fn a_moved_file_is_gone_from_where_it_was_whether_new_or_known() {
        let house = house();
        for name in ["one", "two"] {
            let path = house.file(name, b"{}");
            let inode = fs::metadata(&path).unwrap().ino();
            let file = house.artifacts.import_file(&path, "x.json", Take::Move).await.unwrap();
            assert_eq!(file.media_type, "application/json");
            assert!(!path.exists());
            if name == "one" {
                let kept = fs::metadata(house.artifacts.path(file.artifact).unwrap()).unwrap();
                assert_eq!(kept.ino(), inode, "renamed, not copied");
            }
        }
        assert_eq!(house.kept(), 1);
    }

    #[tokio::test]
    async fn moving_a_link_keeps_what_it_leads_to() {
        let house = house();
        let target = house.file("target", b"text");
        let link = house.folder.path().join("link");
        symlink(&target, &link).unwrap();
        let file = house.artifacts.import_file(&link, "link", Take::Move).await.unwrap();
        assert!(!link.exists() && target.exists());
        assert_eq!(house.artifacts.read(file.artifact, 0, 10).await.unwrap(), b"text");
        assert!(!fs::symlink_metadata(house.artifacts.path(file.artifact).unwrap()).unwrap().is_symlink());
    }

    #[tokio::test]
    async fn a_move_across_file_systems_becomes_a_copy() {
        let house = house();
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = elsewhere.path().join("far");
        fs::write(&path, b"far away").unwrap();
        let file = house.artifacts.import_file(&path, "far.txt", Take::Move).await.unwrap();
        assert!(!path.exists());
        assert_eq!(house.artifacts.read(file.artifact, 4, 100).await.unwrap(), b"away");
    }

    #[tokio::test]
    async fn a_damaged_file_is_replaced_by_the_next_import() {
        let house = house();
        let file = house.artifacts.import_bytes(b"whole".to_vec(), "a.txt").await.unwrap();
        let path = house.artifacts.path(file.artifact).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"who").unwrap();
        house.artifacts.import_bytes(b"whole".to_vec(), "a.txt").await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused() {
        let house = house();
        let artifacts = &house.artifacts;
        let import =
            |path: PathBuf| async move { artifacts.import_file(&path, "x", Take::Copy).await.unwrap_err().code };
        assert_eq!(import(house.folder.path().to_path_buf()).await, "not_a_file");
        assert_eq!(import("/dev/null".into()).await, "not_a_file");
        assert_eq!(import(house.folder.path().join("missing")).await, "input_not_found");
        let unknown = Digest::of(b"unknown");
        assert_eq!(house.artifacts.path(unknown).unwrap_err().code, "artifact_not_found");
        assert_eq!(house.artifacts.read(unknown, 0, 1).await.unwrap_err().code, "artifact_not_found");
    }

    #[tokio::test]
    async fn reading_is_bounded_and_ends_with_the_file() {
        let house = house();
        let file = house.artifacts.import_bytes(b"0123456789".to_vec(), "a.txt").await.unwrap();
        assert_eq!(house.artifacts.read(file.artifact, 8, READ_BYTES).await.unwrap(), b"89");
        assert_eq!(house.artifacts.read(file.artifact, 80, 1).await.unwrap(), b"");
        assert_eq!(house.artifacts.read(file.artifact, 0, READ_BYTES + 1).await.unwrap_err().code, "too_large");
    }

    #[tokio::test]
    async fn publishing_never_overwrites_and_twice_is_once() {
        let house = house();
        let one = house.artifacts.import_bytes(b"one".to_vec(), "a b.txt").await.unwrap();
        let two = house.artifacts.import_bytes(b"two".to_vec(), "a b.txt").await.unwrap();
        let three = house.artifacts.import_bytes(b"333".to_vec(), "a b.txt").await.unwrap();
        let mut paths = Vec::new();
        for file in [&one, &two, &three, &two, &one, &three] {
            let path = house.artifacts.publish(file, "travel stitch", "id").await.unwrap();
            paths.push(path.strip_prefix(house.folder.path().join("outputs")).unwrap().display().to_string());
        }
        let [a, b, c] = ["travel_stitch/id_a_b.txt", "travel_stitch/id_a_b_1.txt", "travel_stitch/id_a_b_2.txt"];
        assert_eq!(paths, [a, b, c, b, a, c]);
        let published = house.folder.path().join("outputs").join(b);
        assert_eq!(fs::read(&published).unwrap(), b"two");
        let kept = house.artifacts.path(two.artifact).unwrap();
        assert_eq!(fs::metadata(&published).unwrap().ino(), fs::metadata(kept).unwrap().ino(), "a hard link");
    }

    #[tokio::test]
    async fn a_name_that_begins_with_the_stem_gets_it_once_and_hostile_names_stay_inside() {
        let house = house();
        let mut file = house.artifacts.import_bytes(b"x".to_vec(), "x.txt").await.unwrap();
        file.name = "id_final.txt".into();
        assert!(house.artifacts.publish(&file, "t", "id").await.unwrap().ends_with("outputs/t/id_final.txt"));
        file.name = "../../../x.txt".into();
        assert!(house.artifacts.publish(&file, "../..", "id").await.unwrap().ends_with("outputs/file/id_x.txt"));
        assert!(house.artifacts.publish(&file, "", "").await.unwrap().ends_with("outputs/x.txt"));
    }

    #[tokio::test]
    async fn where_links_are_impossible_results_are_copied_once() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else { return };
        let artifacts = Artifacts::open(folder.path(), elsewhere.path()).unwrap();
        let file = artifacts.import_bytes(b"result".to_vec(), "a.txt").await.unwrap();
        let first = artifacts.publish(&file, "t", "id").await.unwrap();
        assert_eq!(artifacts.publish(&file, "t", "id").await.unwrap(), first);
        assert_eq!(fs::read(&first).unwrap(), b"result");
        assert_eq!(fs::read_dir(elsewhere.path().join("t")).unwrap().count(), 1);
    }

    #[test]
    fn work_folders_go_away_and_old_leftovers_are_swept() {
        let house = house();
        drop(house.artifacts.scratch().unwrap());
        let incoming = house.folder.path().join("data/artifacts/incoming");
        let (old, young) = (incoming.join("old"), incoming.join("young"));
        fs::write(&old, "x").unwrap();
        fs::write(&young, "x").unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        Artifacts::open(&house.folder.path().join("data"), &house.folder.path().join("outputs")).unwrap();
        assert!(!old.exists() && young.exists());
    }

    #[test]
    fn a_uri_escapes_what_must_be_escaped() {
        assert_eq!(uri(Path::new("/a b/ü#.png")), "file:///a%20b/%C3%BC%23.png");
    }
}
