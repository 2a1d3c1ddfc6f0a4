//! Files of users and of the network become artifacts: pictures are turned upright as their EXIF data says, broken and
//! cut-off files are refused before a task works with them.

use std::path::{Path, PathBuf};

use crate::artifacts::Artifacts;
use crate::artifacts::download::Downloader;
use crate::media::Media;
use crate::task::{Failure, FileRef};

/// The way in for files. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    pub artifacts: Artifacts,
    pub downloader: Downloader,
    pub media: Media,
    /// Local paths are accepted below these folders alone.
    pub roots: Vec<PathBuf>,
}

impl Intake {
    /// `http(s)://…`, `sha256:…`, or a path below one of the roots. Codes as `artifacts.resolve` in `wit/artifacts.wit`.
    pub async fn resolve(&self, source: &str) -> Result<FileRef, Failure> {
        let _ = source;
        todo!()
    }

    /// A file named by the operator on the command line: any path.
    pub async fn import(&self, path: &Path) -> Result<FileRef, Failure> {
        let _ = path;
        todo!()
    }
}
