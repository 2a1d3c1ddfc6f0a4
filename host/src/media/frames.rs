//! Raw frames in and out of ffmpeg, for those that compute on pixels: the renderer and the animatic engine.

use std::path::Path;

use crate::media::Media;
use crate::task::Failure;

/// Layout of a raw frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Packed, 3 bytes a pixel.
    Rgb24,
    /// Planar, chroma halved in both directions: even sizes alone.
    Yuv420p,
    /// Planar, full chroma: any size.
    Yuv444p,
}

/// How a source meets a target size of another shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    #[default]
    Stretch,
    Crop,
    Letterbox,
}

/// One frame. `data` has exactly the bytes that format and size need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

/// Decodes a picture or video into frames of one size and format, in display order, every one exactly once.
pub struct FrameReader {}

impl FrameReader {
    /// Starts decoding. Pictures give one frame.
    pub async fn open(
        media: &Media,
        path: &Path,
        width: u32,
        height: u32,
        format: PixelFormat,
        fit: Fit,
    ) -> Result<Self, Failure> {
        let _ = (media, path, width, height, format, fit);
        todo!()
    }

    /// The next frame; none after the last. A file that breaks off in the middle is `unreadable_media`.
    pub async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        todo!()
    }
}

/// What a video file is encoded as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoSpec {
    pub width: u32,
    pub height: u32,
    pub fps: f64,
    /// Of the frames that are written.
    pub format: PixelFormat,
    /// H.264 quality; smaller is better.
    pub crf: u32,
    pub lossless: bool,
}

/// Encodes frames into an mp4 (H.264; yuv420p, or yuv444p where a side is odd).
pub struct FrameWriter {}

impl FrameWriter {
    pub async fn create(media: &Media, path: &Path, spec: VideoSpec) -> Result<Self, Failure> {
        let _ = (media, path, spec);
        todo!()
    }

    pub async fn write(&mut self, frame: &Frame) -> Result<(), Failure> {
        let _ = frame;
        todo!()
    }

    /// Ends the file; it is complete when this returns.
    pub async fn finish(self) -> Result<(), Failure> {
        todo!()
    }
}
