//! Files by content. A file that enters the house is hashed, kept once under its digest and never changed; people find
//! results again under `outputs/TYPE/ID_name` (hard links).
//!
//! - `local.rs`: the folder store.
//! - `download.rs`: files behind URLs: size limits, private networks refused, cut-off files detected.
//! - `sniff.rs`: what kind of file some bytes are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::task::{Failure, FileRef};

pub mod download;

/// How a file is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// The original stays as it is.
    Copy,
    /// The file is ours already: it is moved.
    Move,
}

/// The content-addressed store of a home: `data/artifacts/sha256/ab/abcd…`, results linked under `outputs/`.
#[derive(Clone)]
pub struct Artifacts {
    inner: Arc<Folders>,
}

struct Folders {
    files: PathBuf,
    outputs: PathBuf,
}

impl Artifacts {
    /// Opens the store of a home, making its folders.
    pub fn open(data: &Path, outputs: &Path) -> Result<Self, Failure> {
        let _ = (data, outputs);
        todo!()
    }

    /// Takes a file in. `name` is what people know it by; its extension is kept, the media type comes from the content.
    pub async fn import_file(&self, path: &Path, name: &str, take: Take) -> Result<FileRef, Failure> {
        let _ = (path, name, take, &self.inner.files);
        todo!()
    }

    /// Takes a few bytes in.
    pub async fn import_bytes(&self, bytes: Vec<u8>, name: &str) -> Result<FileRef, Failure> {
        let _ = (bytes, name);
        todo!()
    }

    /// Where the file of a digest lies. Code `artifact_not_found`.
    pub fn path(&self, digest: Digest) -> Result<PathBuf, Failure> {
        let _ = digest;
        todo!()
    }

    /// Up to `length` bytes from `offset`.
    pub async fn read(&self, digest: Digest, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        let _ = (digest, offset, length);
        todo!()
    }

    /// Makes a file findable for people: `outputs/FOLDER/STEM_name`, the name sanitised, never over another file.
    pub async fn publish(&self, file: &FileRef, folder: &str, stem: &str) -> Result<PathBuf, Failure> {
        let _ = (file, folder, stem, &self.inner.outputs);
        todo!()
    }
}
