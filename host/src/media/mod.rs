//! Pictures and videos. ffmpeg and ffprobe run behind this interface and nowhere else.
//!
//! - `probe.rs`: what a file is: frames counted, size as displayed, rate.
//! - `frames.rs`: raw frames in and out of ffmpeg, for those that compute on pixels.
//! - `timeline.rs`: the JSON of `render`, parsed and checked.
//! - `render.rs`: a timeline becomes one file.
//! - `intake.rs`: files of users become artifacts: pictures upright, broken files refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::task::Failure;

pub mod frames;
pub mod intake;

/// ffmpeg, ffprobe and the limits they run under. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Media {
    tools: Tools,
}

/// Where the programs are and what they may use.
#[derive(Clone, Debug)]
pub struct Tools {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
    /// Wall-clock seconds one run may take.
    pub seconds: u64,
    /// Width times height of one frame.
    pub pixels: u64,
    /// Frames of one source or one result.
    pub frames: u64,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Video,
    Picture,
    Audio,
}

/// The facts of a file. Frames are counted, not estimated; sizes are as displayed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub kind: Kind,
    pub frames: u64,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
    pub seconds: f64,
    pub has_audio: bool,
    pub has_alpha: bool,
}

/// A rendered file and its facts.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub path: PathBuf,
    pub name: String,
    pub kind: Kind,
    pub frames: u64,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
}

impl Media {
    pub fn new(tools: Tools) -> Self {
        Self { tools }
    }

    /// Code `unreadable_media` when it is no picture, video or sound, or is cut off; `ffmpeg_missing` with the command
    /// that installs it.
    pub async fn probe(&self, path: &Path) -> Result<Probe, Failure> {
        let _ = (path, &self.tools);
        todo!()
    }

    /// Renders a timeline (the JSON of `media.render` in `wit/media.wit`) into a file in `folder`. `source` gives the file
    /// of a digest.
    pub async fn render(
        &self,
        timeline: &Value,
        source: &(dyn Fn(Digest) -> Result<PathBuf, Failure> + Send + Sync),
        folder: &Path,
    ) -> Result<Rendered, Failure> {
        let _ = (timeline, source, folder);
        todo!()
    }
}
