//! Where and when a layer is seen, and what its source must give. What is wrong with a layer is found here or before.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::canvas::FULL;
use super::{Content, Layer, Outlined, Placed, Stroke, Text};
use crate::media::frames::{Fit, PixelFormat};
use crate::media::pixels::Adjust;
use crate::media::plan::{self, Picks, Planned, Sources};
use crate::media::timeline::{ClipSource, invalid};
use crate::task::Failure;

/// Most layers that show a video in one frame: each is decoded by a process of its own.
const VIDEOS_AT_ONCE: u64 = 16;

/// Most layers of one frame: so long may drawing it take.
const LAYERS_AT_ONCE: u64 = 1000;

/// All pictures and videos that are shown in one frame have together at most this many times the pixels that one frame
/// may have: so much is in memory at once.
const FRAMES_AT_ONCE: u64 = 4;

/// A layer whose source is known.
#[derive(Debug)]
pub(in crate::media) struct PlannedLayer {
    /// First frame of the timeline that shows it, and the first behind that does not.
    pub begin: u64,
    pub end: u64,
    /// 1 to [`FULL`].
    pub opacity: u32,
    pub(super) drawing: Drawing,
}

/// What is drawn.
#[derive(Debug)]
pub(super) enum Drawing {
    Picture(Box<Picture>),
    Rectangle(Outlined),
    Ellipse(Outlined),
    Line(Stroke),
    Text(Text),
}

/// A video or a still in its place.
#[derive(Debug)]
pub(super) struct Picture {
    /// What is decoded, unadjusted where it is transparent.
    pub clip: Planned,
    /// Of the upper left corner.
    pub x: i64,
    pub y: i64,
    pub width: u32,
    pub height: u32,
    /// RGB, with alpha where the source has it.
    pub format: PixelFormat,
    /// What the decoder cannot do, since it does not see through the colours.
    pub adjust: Option<Adjust>,
    /// Stills of equal keys are equal; none: a video.
    pub key: Option<String>,
}

/// Plans the layers of a timeline of so many `frames` of this `size`. Layers that nobody could see are left out.
///
/// Codes `invalid_timeline`, `range_outside_source`, `media_too_large`, and those of looking at a source.
pub(in crate::media) async fn plan(
    sources: &mut Sources<'_>,
    layers: &[Layer],
    size: (u32, u32),
    frames: u64,
) -> Result<Vec<Arc<PlannedLayer>>, Failure> {
    let mut planned = Vec::with_capacity(layers.len());
    for (i, layer) in layers.iter().enumerate() {
        let pointer = format!("/layers/{i}");
        let left = frames.saturating_sub(layer.start);
        if left == 0 {
            let what = format!("is {}, but the timeline has {frames} frames, the first of them 0", layer.start);
            return Err(invalid(&format!("{pointer}/start"), &what));
        }
        if let Some(wanted) = layer.frames.filter(|wanted| wanted.get() > left) {
            let what = format!("is {wanted}, but {left} frames of the timeline are left from frame {} on", layer.start);
            return Err(invalid(&format!("{pointer}/frames"), &what));
        }
        let mut shown = layer.frames.map_or(left, NonZeroU64::get);
        let drawing = match &layer.content {
            Content::Source(placed) => {
                let picture = picture(sources, placed, &pointer).await?;
                if picture.key.is_none() {
                    if layer.frames.is_some() && shown > picture.clip.frames {
                        let what = format!(
                            "`{pointer}/frames` is {shown}, but the range of the source has {} frames",
                            picture.clip.frames
                        );
                        return Err(Failure::invalid("range_outside_source", what));
                    }
                    shown = shown.min(picture.clip.frames);
                }
                Drawing::Picture(Box::new(picture))
            }
            Content::Rectangle(shape) => Drawing::Rectangle(shape.clone()),
            Content::Ellipse(shape) => Drawing::Ellipse(shape.clone()),
            Content::Line(line) => Drawing::Line(line.clone()),
            Content::Text(text) => Drawing::Text(text.clone()),
        };
        let opacity = (f64::from(layer.opacity) * f64::from(FULL)).round() as u32;
        let seen = match &drawing {
            Drawing::Picture(picture) => picture.touches(size),
            _ => true,
        };
        if seen && opacity > 0 {
            let end = layer.start.saturating_add(shown);
            planned.push(Arc::new(PlannedLayer { begin: layer.start, end, opacity, drawing }));
        }
    }
    together(&planned, sources.media.tools.pixels)?;
    Ok(planned)
}

impl Picture {
    fn touches(&self, (width, height): (u32, u32)) -> bool {
        let inside = |at: i64, length: u32, end: u32| at < i64::from(end) && at.saturating_add(length.into()) > 0;
        inside(self.x, self.width, width) && inside(self.y, self.height, height)
    }
}

async fn picture(sources: &mut Sources<'_>, placed: &Placed, pointer: &str) -> Result<Picture, Failure> {
    let pointer = format!("{pointer}/source");
    let (artifact, range) = match &placed.clip.source {
        ClipSource::Video { artifact, range } => (*artifact, Some(range)),
        ClipSource::Still { artifact, .. } => (*artifact, None),
        ClipSource::Color { .. } => return Err(invalid(&pointer, "is a colour, expected a `video` or a `still`")),
    };
    let file = sources.get(artifact, &pointer).await?;
    let facts = file.source.facts;
    let own = (f64::from(facts.width.max(1)), f64::from(facts.height.max(1)));
    let side = |length: f64| length.round().clamp(1.0, f64::from(u32::MAX)) as u32;
    let (width, height) = match (placed.width, placed.height) {
        (Some(width), Some(height)) => (width, height),
        (Some(width), None) => (width, side(own.1 * f64::from(width) / own.0)),
        (None, Some(height)) => (side(own.0 * f64::from(height) / own.1), height),
        (None, None) => (facts.width, facts.height),
    };
    sources.media.fits(width.into(), height.into(), &format!("`{pointer}`"))?;
    // Bars would hide what lies below: the source takes less room instead.
    let (fit, (inner_width, inner_height)) = match placed.clip.fit {
        Fit::Letterbox => {
            let by = (f64::from(width) / own.0).min(f64::from(height) / own.1);
            (Fit::Stretch, (side(own.0 * by).min(width), side(own.1 * by).min(height)))
        }
        fit => (fit, (width, height)),
    };
    let (x, y) = (
        placed.x + i64::from(width.saturating_sub(inner_width) / 2),
        placed.y + i64::from(height.saturating_sub(inner_height) / 2),
    );
    let format = if facts.has_alpha { PixelFormat::Rgba } else { PixelFormat::Rgb24 };
    let adjust = placed.clip.adjust;
    let (decoded, later) = if facts.has_alpha { (None, adjust) } else { (adjust, None) };
    let (content, frames, key) = match range {
        Some(range) => {
            let picks = Picks::of(range, &facts, file.source.times.as_ref())
                .map_err(|why| Failure::invalid("range_outside_source", format!("`{pointer}` {why}")))?;
            {
                let count = picks.count;
                (plan::Content::Video { file, picks }, count, None)
            }
        }
        None => {
            let key = format!("{artifact} {inner_width}x{inner_height} {fit:?} {adjust:?}");
            (plan::Content::Still(file), 1, Some(key))
        }
    };
    let clip = Planned { content, frames, fit, adjust: decoded, fade: None };
    Ok(Picture { clip, x, y, width: inner_width, height: inner_height, format, adjust: later, key })
}

/// Whether what is shown at the same time is not too much.
fn together(layers: &[Arc<PlannedLayer>], most_pixels: u64) -> Result<(), Failure> {
    // What comes and what goes, by frame; what goes first.
    let mut changes = Vec::with_capacity(layers.len() * 2);
    for layer in layers {
        let (videos, pixels) = match &layer.drawing {
            Drawing::Picture(picture) => {
                (i128::from(picture.key.is_none()), i128::from(picture.width) * i128::from(picture.height))
            }
            _ => (0, 0),
        };
        changes.push((layer.begin, 1, videos, pixels));
        changes.push((layer.end, -1, -videos, -pixels));
    }
    changes.sort_unstable();
    let (mut count, mut videos, mut pixels) = (0_i128, 0, 0);
    for (frame, one, more_videos, more_pixels) in changes {
        count += one;
        videos += more_videos;
        pixels += more_pixels;
        let what = if count > i128::from(LAYERS_AT_ONCE) {
            format!(
                "frame {frame} has {count} layers, more than {LAYERS_AT_ONCE}: draw some of them into a picture first"
            )
        } else if videos > i128::from(VIDEOS_AT_ONCE) {
            format!(
                "the layers of frame {frame} show {videos} videos, more than {VIDEOS_AT_ONCE} at once: render some of \
                 them into one video first"
            )
        } else if pixels > i128::from(FRAMES_AT_ONCE.saturating_mul(most_pixels)) {
            format!(
                "the pictures and videos in the layers of frame {frame} have {:.1} megapixels together, more than \
                 {FRAMES_AT_ONCE} times what the setting `media.megapixels` allows for one frame",
                pixels as f64 / 1e6
            )
        } else {
            continue;
        };
        return Err(Failure::denied("media_too_large", what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_has_more_layers_than_are_soon_drawn() {
        let line = Stroke { from: (0.0, 0.0), to: (1.0, 1.0), color: [0; 3], width: 1.0 };
        let layer =
            |begin, end| Arc::new(PlannedLayer { begin, end, opacity: FULL, drawing: Drawing::Line(line.clone()) });
        let mut layers: Vec<_> = (0..1000).map(|_| layer(0, 5)).chain((0..1000).map(|_| layer(5, 6))).collect();
        assert_eq!(together(&layers, 1), Ok(()));
        layers.push(layer(4, 5));
        let failure = together(&layers, 1).unwrap_err();
        assert!(failure.message.contains("frame 4 has 1001 layers"), "{}", failure.message);
    }
}
