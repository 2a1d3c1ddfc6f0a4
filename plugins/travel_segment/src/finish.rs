//! What is done to the generated video before it is handed over. Pure.

use enginehouse_sdk::host::media::Adjust;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::svi;

use crate::values::Segment;

/// What is to be done; nothing for most segments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Finish {
    /// Only the last so many frames are kept.
    pub keep_last: Option<u64>,
    pub adjust: Adjust,
}

impl Finish {
    /// The look of a segment.
    pub fn look(segment: &Segment) -> Self {
        let adjust = Adjust {
            saturation: segment.saturation,
            // Beyond twice as bright everything is white.
            brightness: segment.brightness.map(|brightness| brightness.clamp(-1.0, 1.0)),
            ..Adjust::default()
        };
        Self { keep_last: None, adjust }
    }

    /// With the beginning cut off that an SVI segment repeats from its predecessor: the engine returned `frames`, the
    /// prefix video among them. The overlap stays, for the stitch to fade over.
    pub fn trimmed(self, segment: &Segment, frames: u64) -> Self {
        let keep = segment.frames + svi::OVERLAP.unsigned_abs();
        Self { keep_last: (frames > keep).then_some(keep), ..self }
    }

    /// Nothing is to be done: the engine's own file is the product.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The timeline of the finished video, at the size and rate of the generated one.
    pub fn timeline(&self, artifact: &str, name: String) -> Timeline {
        let mut clip = Clip::video(artifact);
        if let Some(frames) = self.keep_last {
            clip = clip.last(frames);
        }
        if self.adjust != Adjust::default() {
            clip = clip.adjust(self.adjust);
        }
        Timeline::video(name).clip(clip)
    }
}
