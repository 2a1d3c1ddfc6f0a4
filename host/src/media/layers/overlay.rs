//! The frames of a timeline, one after the other, with their layers. Videos are decoded ahead while they are shown, and
//! stills once for all layers that show them in the same size.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::canvas::{Area, Canvas, FULL, Paint};
use super::plan::{Drawing, Picture, PlannedLayer};
use crate::media::Media;
use crate::media::clip::{ClipFrames, Pixels, Shape, compute};
use crate::media::frames::PixelFormat;
use crate::media::pixels::Adjust;
use crate::task::Failure;

/// Bytes of decoded stills that are kept beyond those that are shown just now: a still that moves is many layers.
const KEPT_BYTES: usize = 256 << 20;

/// Layers that are drawn in one go: between goes, drawing ends when nobody waits for it any more.
const TOGETHER: usize = 32;

/// Draws the layers of a timeline. Frames come in order, every one once.
pub(in crate::media) struct Overlay<'a> {
    media: &'a Media,
    /// Of the timeline's frames.
    shape: Shape,
    /// For frames that must wait.
    scratch: &'a Path,
    layers: &'a [Arc<PlannedLayer>],
    /// Layers that did not begin yet, the next one last.
    waiting: Vec<usize>,
    /// Layers that are shown, the lowest first.
    shown: Vec<Shown>,
    stills: HashMap<String, Pixels>,
    /// The frame that comes next.
    at: u64,
}

struct Shown {
    index: usize,
    layer: Arc<PlannedLayer>,
    frames: Frames,
}

/// What a layer shows from frame to frame.
enum Frames {
    /// Nothing that was decoded.
    None,
    Still(Pixels),
    Video(ClipFrames, Option<Adjust>),
}

impl<'a> Overlay<'a> {
    pub fn new(media: &'a Media, layers: &'a [Arc<PlannedLayer>], shape: Shape, scratch: &'a Path) -> Self {
        let mut waiting: Vec<(u64, usize)> = layers.iter().enumerate().map(|(i, layer)| (layer.begin, i)).collect();
        waiting.sort_unstable_by(|a, b| b.cmp(a));
        let waiting = waiting.into_iter().map(|(_, index)| index).collect();
        Self { media, shape, scratch, layers, waiting, shown: Vec::new(), stills: HashMap::new(), at: 0 }
    }

    /// The next frame with its layers; without any, as it is.
    pub async fn draw(&mut self, frame: Pixels) -> Result<Pixels, Failure> {
        let at = self.at;
        self.at += 1;
        self.shown.retain(|shown| shown.layer.end > at);
        self.begin(at).await?;
        if self.shown.is_empty() {
            return Ok(frame);
        }
        let mut work = Vec::with_capacity(self.shown.len());
        for shown in &mut self.shown {
            let pixels = match &mut shown.frames {
                Frames::None => None,
                Frames::Still(pixels) => Some(pixels.clone()),
                Frames::Video(frames, adjust) => Some(adjusted(frames.next().await?, *adjust).await?),
            };
            work.push((shown.layer.clone(), pixels));
        }
        let Shape { width, height, format } = self.shape;
        let mut data = Arc::unwrap_or_clone(frame);
        let mut work = work.into_iter();
        loop {
            let some: Vec<_> = work.by_ref().take(TOGETHER).collect();
            if some.is_empty() {
                return Ok(Arc::new(data));
            }
            data = compute(move || {
                let mut canvas = Canvas { data: &mut data, format, width: width as usize, height: height as usize };
                for (layer, pixels) in &some {
                    draw(&mut canvas, layer, pixels.as_deref().map_or(&[], Vec::as_slice));
                }
                data
            })
            .await?;
        }
    }

    /// Opens the layers whose first frame this is.
    async fn begin(&mut self, at: u64) -> Result<(), Failure> {
        let before = self.shown.len();
        while let Some(index) = self.waiting.last().copied() {
            let Some(layer) = self.layers.get(index).filter(|layer| layer.begin <= at).cloned() else { break };
            self.waiting.pop();
            let frames = match &layer.drawing {
                Drawing::Picture(picture) => self.open(picture).await?,
                _ => Frames::None,
            };
            self.shown.push(Shown { index, layer, frames });
        }
        if self.shown.len() > before {
            self.shown.sort_unstable_by_key(|shown| shown.index);
        }
        Ok(())
    }

    async fn open(&mut self, picture: &Picture) -> Result<Frames, Failure> {
        let shape = Shape { width: picture.width, height: picture.height, format: picture.format };
        let Some(key) = &picture.key else {
            let frames = ClipFrames::open(self.media, &picture.clip, shape, self.scratch).await?;
            return Ok(Frames::Video(frames, picture.adjust));
        };
        if let Some(pixels) = self.stills.get(key) {
            return Ok(Frames::Still(pixels.clone()));
        }
        let mut frames = ClipFrames::open(self.media, &picture.clip, shape, self.scratch).await?;
        let pixels = adjusted(frames.next().await?, picture.adjust).await?;
        drop(frames);
        let idle = |pixels: &Pixels| Arc::strong_count(pixels) == 1;
        let kept: usize = self.stills.values().filter(|pixels| idle(pixels)).map(|pixels| pixels.len()).sum();
        if kept > KEPT_BYTES {
            self.stills.retain(|_, pixels| !idle(pixels));
        }
        self.stills.insert(key.clone(), pixels.clone());
        Ok(Frames::Still(pixels))
    }
}

/// Adjusts what is transparent: the colours behind alpha are brought back, changed and multiplied again.
async fn adjusted(pixels: Pixels, adjust: Option<Adjust>) -> Result<Pixels, Failure> {
    let Some(adjust) = adjust else { return Ok(pixels) };
    compute(move || {
        let mut data = Arc::unwrap_or_clone(pixels);
        for [r, g, b, alpha] in data.as_chunks_mut::<4>().0 {
            let share = f32::from(*alpha) / 255.0;
            let channels = [r, g, b];
            if share > 0.0 {
                let mut colour = channels.each_ref().map(|channel| (f32::from(**channel) / share + 0.5) as u8);
                adjust.apply(&mut colour);
                for (channel, colour) in channels.into_iter().zip(colour) {
                    *channel = (f32::from(colour) * share + 0.5) as u8;
                }
            }
        }
        data
    })
    .await
    .map(Arc::new)
}

fn draw(canvas: &mut Canvas<'_>, layer: &PlannedLayer, pixels: &[u8]) {
    let opacity = layer.opacity;
    match &layer.drawing {
        Drawing::Picture(picture) => draw_picture(canvas, picture, pixels, opacity),
        Drawing::Rectangle(shape) => shape.draw(canvas, false, opacity),
        Drawing::Ellipse(shape) => shape.draw(canvas, true, opacity),
        Drawing::Line(line) => line.draw(canvas, opacity),
        Drawing::Text(text) => text.draw(canvas, opacity),
    }
}

fn draw_picture(canvas: &mut Canvas<'_>, picture: &Picture, pixels: &[u8], opacity: u32) {
    let Picture { x, y, width, height, format, .. } = *picture;
    let (left, top) = (x as f64, y as f64);
    let Some(area) = Area::of(canvas.size(), left, top, left + f64::from(width), top + f64::from(height)) else {
        return;
    };
    // What of the picture lies left of and above the frame.
    let hidden = |at: i64| usize::try_from(at.saturating_neg()).unwrap_or(0);
    let (hidden_x, hidden_y, width) = (hidden(x), hidden(y), width as usize);
    if format == PixelFormat::Rgba {
        let pixels = pixels.as_chunks::<4>().0;
        canvas.lay(area, |x, y| {
            let [r, g, b, alpha] = pixels.get((y + hidden_y) * width + x + hidden_x).copied().unwrap_or_default();
            // Scaling may leave a little colour where nothing is.
            let rgb = [r.min(alpha), g.min(alpha), b.min(alpha)];
            let Paint { rgb, .. } = Paint::solid(rgb, FULL);
            Paint { alpha: super::shapes::share(alpha), rgb }.faded(opacity)
        });
    } else {
        let pixels = pixels.as_chunks::<3>().0;
        canvas.lay(area, |x, y| match pixels.get((y + hidden_y) * width + x + hidden_x) {
            Some(rgb) => Paint::solid(*rgb, opacity),
            None => Paint::default(),
        });
    }
}
