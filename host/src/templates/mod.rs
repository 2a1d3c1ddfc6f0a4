//! Task types without code: a ComfyUI workflow in API format with a header that says which params go where and which
//! outputs come back. One file per type, `templates/comfyui/TYPE.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

/// What kind of file an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    Video,
    /// Animated ones too.
    Image,
    Audio,
    Text,
    #[serde(rename = "3d")]
    Model,
    /// Anything else.
    File,
}

impl OutputKind {
    /// The kind of a file by its name's extension; by its `format` (`video/h264-mp4`) when the extension says nothing.
    pub fn of(name: &str, format: Option<&str>) -> Self {
        let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "mp4" | "webm" | "mov" | "mkv" | "avi" | "m4v" => Self::Video,
            "png" | "jpg" | "jpeg" | "webp" | "gif" | "bmp" | "tif" | "tiff" | "avif" | "exr" => Self::Image,
            "flac" | "mp3" | "wav" | "ogg" | "opus" | "m4a" | "aac" => Self::Audio,
            "txt" | "json" | "csv" | "md" | "srt" => Self::Text,
            "glb" | "gltf" | "obj" | "stl" | "ply" | "fbx" | "usdz" => Self::Model,
            _ => match format.and_then(|format| format.split('/').next()) {
                Some("video") => Self::Video,
                Some("image") => Self::Image,
                Some("audio") => Self::Audio,
                _ => Self::File,
            },
        }
    }

    /// The spelling in headers and facts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Text => "text",
            Self::Model => "3d",
            Self::File => "file",
        }
    }
}

/// An output that a workflow promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeclaredOutput {
    pub name: String,
    /// Id of the node that saves it.
    pub node: String,
    pub kind: OutputKind,
    /// Pixels; none: not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// Frames of a video, files of a batch of pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// Frames a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Where neither a number nor a param says it, size, length and rate are those of this input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<Digest>,
}

/// A workflow that is ready to be asked for, and what is known about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filled {
    pub workflow: Map<String, Value>,
    /// Which param an input came from: `NODE/INPUT` → JSON pointer into the params. For messages.
    pub sources: BTreeMap<String, String>,
    /// The main one first.
    pub outputs: Vec<DeclaredOutput>,
}
