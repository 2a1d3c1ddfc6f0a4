//! The files of a request, frame by frame. Nothing holds more than a few frames at a time, however long a video is.

use std::path::PathBuf;
use std::sync::Arc;

use image::RgbImage;

use super::plan::Input;
use super::scene::BLACK_BELOW;
use crate::artifacts::Artifacts;
use crate::media::frames::{Fit, Frame, FrameReader, PixelFormat};
use crate::media::{Media, Probe};
use crate::task::Failure;

/// Opens the files that settings name, in the size of the result.
pub struct Files<'a> {
    pub media: &'a Media,
    pub artifacts: &'a Artifacts,
    pub width: u32,
    pub height: u32,
}

impl Files<'_> {
    pub async fn probe(&self, input: Input) -> Result<Probe, Failure> {
        self.media.probe(&self.path(input)?).await.map_err(|e| about(input, e))
    }

    /// Stretched to the size of the result, as the engine does it.
    pub async fn clip(&self, input: Input) -> Result<Clip, Failure> {
        self.open(input, self.width, self.height, Fit::Stretch).await
    }

    /// The first picture of a file.
    pub async fn picture(&self, input: Input) -> Result<Arc<RgbImage>, Failure> {
        let first = self.clip(input).await?.next().await?;
        first.ok_or_else(|| about(input, Failure::invalid("unreadable_media", "The file holds no picture.")))
    }

    /// The first picture of a file in its own shape, no larger than the result.
    pub async fn thumbnail(&self, input: Input) -> Result<RgbImage, Failure> {
        let probe = self.probe(input).await?;
        let by = (f64::from(self.width) / f64::from(probe.width.max(1)))
            .min(f64::from(self.height) / f64::from(probe.height.max(1)))
            .min(1.0);
        let side = |side: u32| ((f64::from(side) * by) as u32).max(1);
        let mut clip = self.open(input, side(probe.width), side(probe.height), Fit::Stretch).await?;
        let first = clip.next().await?;
        let first = first.ok_or_else(|| about(input, Failure::invalid("unreadable_media", "The file is empty.")))?;
        Ok(Arc::unwrap_or_clone(first))
    }

    /// For every frame of a mask: it keeps all of the guide.
    pub async fn kept(&self, mask: Input, inverted: bool) -> Result<Vec<bool>, Failure> {
        // Small is enough to see whether a mask is black all over: scaling down mixes every pixel in.
        let mut clip = self.open(mask, self.width.min(64), self.height.min(64), Fit::Stretch).await?;
        let mut kept = Vec::new();
        while let Some(frame) = clip.next().await? {
            kept.push(frame.as_raw().iter().all(|v| if inverted { 255 - *v } else { *v } < BLACK_BELOW));
        }
        Ok(kept)
    }

    async fn open(&self, input: Input, width: u32, height: u32, fit: Fit) -> Result<Clip, Failure> {
        let path = self.path(input)?;
        let reader = FrameReader::open(self.media, &path, width, height, PixelFormat::Rgb24, fit).await;
        Ok(Clip { reader: reader.map_err(|e| about(input, e))?, input })
    }

    fn path(&self, input: Input) -> Result<PathBuf, Failure> {
        self.artifacts.path(input.file).map_err(|e| about(input, e))
    }
}

/// A file being read.
pub struct Clip {
    reader: FrameReader,
    input: Input,
}

impl Clip {
    /// The next frame; none after the last.
    pub async fn next(&mut self) -> Result<Option<Arc<RgbImage>>, Failure> {
        let Some(Frame { width, height, data, .. }) = self.reader.next().await.map_err(|e| about(self.input, e))?
        else {
            return Ok(None);
        };
        RgbImage::from_raw(width, height, data)
            .map(|frame| Some(Arc::new(frame)))
            .ok_or_else(|| Failure::internal("short_frame", "A decoded frame has fewer bytes than its size needs."))
    }

    /// Leaves frames out.
    pub async fn skip(&mut self, frames: u64) -> Result<(), Failure> {
        for _ in 0..frames {
            if self.reader.next().await.map_err(|e| about(self.input, e))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// A second look at the guide that runs ahead to the next frame that is kept.
pub struct Ahead {
    clip: Clip,
    /// Position of the frame that comes next.
    at: u64,
    seen: Option<(u64, Arc<RgbImage>)>,
}

impl Ahead {
    pub fn new(clip: Clip) -> Self {
        Self { clip, at: 0, seen: None }
    }

    /// The frame at a position that never decreases; none when the guide is shorter.
    pub async fn frame(&mut self, position: u64) -> Result<Option<Arc<RgbImage>>, Failure> {
        if let Some((at, frame)) = &self.seen
            && *at == position
        {
            return Ok(Some(frame.clone()));
        }
        self.clip.skip(position.saturating_sub(self.at)).await?;
        self.at = position + 1;
        self.seen = self.clip.next().await?.map(|frame| (position, frame));
        Ok(self.seen.as_ref().map(|(_, frame)| frame.clone()))
    }
}

/// The failure with the setting that named the file.
fn about(input: Input, mut failure: Failure) -> Failure {
    failure.message = format!("The file of `{}` cannot be used: {}", input.key, failure.message);
    failure
}
