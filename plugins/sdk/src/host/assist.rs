//! Help from models that are neither of the engines. Capability: `assist`.
//!
//! Either call may answer `unavailable` (code `assist_not_configured`): have a way to go on without.

use serde::Serialize;
use serde_json::Value;

use crate::bindings::enginehouse::plugin::assist;
use crate::failure::Failure;

use super::artifacts::File;
use super::{read, write};

/// What a prompt is to be written from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaptionRequest {
    /// References to the pictures: two for a transition, one otherwise.
    pub images: Vec<Value>,
    /// What the user wrote.
    pub prompt: String,
    pub mode: CaptionMode,
    /// Length of the video that the prompt is for.
    pub frames: i64,
    pub fps: f64,
}

/// Whether a prompt describes a way between two pictures or what happens in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptionMode {
    Transition,
    Single,
}

/// What a guidance video is to be made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuidanceRequest {
    /// `flow`, `canny`, `depth` or `none`.
    pub preprocessing: String,
    pub strength: f64,
    pub canny_intensity: f64,
    pub depth_contrast: f64,
    pub width: u32,
    pub height: u32,
    pub fps: f64,
    /// Length of the result.
    pub frames: i64,
    pub videos: Vec<GuidanceSource>,
}

/// One source of a guidance video and its place in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuidanceSource {
    /// Reference to the video.
    pub video: Value,
    pub start_frame: i64,
    /// Exclusive.
    pub end_frame: i64,
    /// `adjust` (its speed is changed to fit) or `clip` (it is cut or repeated).
    pub treatment: String,
    pub source_start_frame: i64,
    /// Exclusive. None: its end.
    pub source_end_frame: Option<i64>,
}

/// A prompt written from pictures.
pub fn caption(request: &CaptionRequest) -> Result<String, Failure> {
    assist::caption(&write("assist.caption", request)?)
}

/// A guidance video made from other videos.
pub fn guidance(request: &GuidanceRequest) -> Result<File, Failure> {
    read("assist.guidance", &assist::guidance(&write("assist.guidance", request)?)?)
}
