//! One frame as a picture: what would be generated, what is kept, and the words that say what it stands for.
//!
//! A frame is drawn in three layers. What is *generated* is the blend of the pictures on either side (or one of them,
//! slowly zoomed; or a gradient that seed and prompt decide), with guide and references inset and a caption below. Where
//! the mask says *keep*, the guide's own pixels stand, untouched. Over everything, in the corner, stands the word
//! *animatic*, opaque and always in the same place: drawing it over a frame that has it already changes nothing.

use std::sync::Arc;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use super::plan::{Plan, Shape};
use super::text::{Type, WHITE, fill, mixed, shrunk, wrapped, write};

/// Masks are videos: their black and white come back from the decoder nearly so.
pub const BLACK_BELOW: u8 = 16;
const WHITE_ABOVE: u8 = 239;

const INK: Rgb<u8> = Rgb([16, 18, 22]);
const GREY: Rgb<u8> = Rgb([176, 182, 190]);
/// How far a single picture is zoomed into.
const ZOOM: f32 = 0.08;

/// What is drawn at one moment.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// Position among all frames of the result, from 0.
    pub index: u64,
    /// The pictures before and after, and how far it is from one to the other (0 to 1).
    pub before: Option<Arc<RgbImage>>,
    pub after: Option<Arc<RgbImage>>,
    pub way: f32,
    pub guide: Option<Arc<RgbImage>>,
    pub mask: Option<Arc<RgbImage>>,
}

/// What is the same in all frames of a result.
pub struct Scene {
    plan: Plan,
    total: u64,
    /// Frames a second; none for pictures.
    fps: Option<f64>,
    refs: Vec<RgbImage>,
    palette: (Rgb<u8>, Rgb<u8>),
    /// Colour of each pixel of the bar that shows what is taken over and what is generated.
    bar: Vec<Rgb<u8>>,
}

impl Scene {
    /// `taken(i)`: frame i is taken over from the source or the guide, not generated.
    pub fn new(plan: Plan, total: u64, fps: Option<f64>, refs: Vec<RgbImage>, taken: impl Fn(u64) -> bool) -> Self {
        let bar = (0..u64::from(plan.width))
            .map(|x| if taken(x * total / u64::from(plan.width)) { Rgb([64, 164, 152]) } else { Rgb([92, 98, 106]) })
            .collect();
        let palette = palette(plan.seed, &plan.prompt);
        Self { plan, total, fps, refs, palette, bar }
    }

    /// Draws a frame.
    pub fn draw(&self, moment: &Moment) -> RgbImage {
        let mut frame = self.generated(moment);
        if let (Some(guide), Some(mask)) = (&moment.guide, &moment.mask) {
            keep(&mut frame, guide, mask, self.plan.mask_inverted);
        }
        stamp(&mut frame);
        frame
    }

    fn generated(&self, moment: &Moment) -> RgbImage {
        let mut frame = match (&moment.before, &moment.after) {
            (Some(before), Some(after)) => blend(before, after, smoothstep(moment.way)),
            (Some(before), None) => zoomed(before, moment.way),
            (None, Some(after)) => zoomed(after, 1.0 - moment.way),
            (None, None) => self.gradient(moment.way),
        };
        // A guide without a mask guides all of the frame: it shines through.
        if let (Some(guide), None) = (&moment.guide, &self.plan.mask) {
            let alone = moment.before.is_none() && moment.after.is_none();
            frame = blend(&frame, guide, if alone { 0.75 } else { 0.35 });
        }
        let band = self.caption(&mut frame, moment.index);
        self.insets(&mut frame, moment.guide.as_deref(), band);
        frame
    }

    /// The band at the foot of the frame; its upper edge.
    fn caption(&self, frame: &mut RgbImage, index: u64) -> u32 {
        let (width, height) = frame.dimensions();
        let kind = Type::body(width, height);
        let pad = (kind.line() / 3).min(width / 24);
        let bar = (height / 120).clamp(1, 8);
        let columns = (width.saturating_sub(2 * pad) / kind.advance().max(1)) as usize;
        let room = (height * 9 / 20).saturating_sub(bar + 2 * (pad / 2)) / kind.line();
        // What tells frames apart comes first when there is little room.
        let facts = arranged(&self.facts(index), &self.measures(), columns, room.min(2) as usize);
        let prompt = wrapped(&self.plan.prompt, columns, (room as usize).saturating_sub(facts.len()).min(3));
        let lines = (prompt.len() + facts.len()) as u32;
        let band = bar + if lines > 0 { lines * kind.line() + 2 * (pad / 2) } else { 0 };
        let top = height.saturating_sub(band);
        fill(frame, 0, top, width, band, INK, 0.66);
        let words = prompt.iter().map(|line| (line, WHITE)).chain(facts.iter().map(|line| (line, GREY)));
        for (line, (words, colour)) in words.enumerate() {
            write(frame, &kind.coverage(words), pad, top + pad / 2 + line as u32 * kind.line(), colour);
        }
        self.bar(frame, bar, index);
        top
    }

    fn facts(&self, index: u64) -> Vec<String> {
        let plan = &self.plan;
        let mut facts = vec![match plan.shape {
            Shape::Video { .. } => format!("frame {}/{}", index + 1, self.total),
            Shape::Pictures { .. } => format!("picture {}/{}", index + 1, self.total),
        }];
        facts.extend(plan.label.clone());
        facts.push(format!("seed {}", plan.seed));
        facts.push(plan.model.clone());
        facts
    }

    /// What is worth saying if there is room.
    fn measures(&self) -> Vec<String> {
        let mut measures = vec![format!("{}x{}", self.plan.width, self.plan.height)];
        measures.extend(self.fps.map(|fps| format!("{} fps", (fps * 100.0).round() / 100.0)));
        measures
    }

    /// How far the video has come, and which of its frames are taken over.
    fn bar(&self, frame: &mut RgbImage, thick: u32, index: u64) {
        if self.total < 2 {
            return;
        }
        let (width, height) = frame.dimensions();
        let reached = u32::try_from(index * u64::from(width) / (self.total - 1)).unwrap_or(width);
        for (x, colour) in (0..width).zip(&self.bar) {
            let colour = if x < reached { mixed(*colour, WHITE, 0.55) } else { *colour };
            for y in height.saturating_sub(thick)..height {
                frame.put_pixel(x, y, colour);
            }
        }
    }

    /// Guide and references as small pictures down the right side, as many as fit above the caption.
    fn insets(&self, frame: &mut RgbImage, guide: Option<&RgbImage>, floor: u32) {
        let (width, height) = frame.dimensions();
        let margin = (width.min(height) / 40).max(2);
        let label = Type::small(width, height);
        let mut top = margin;
        let guides = guide.map(|guide| ("guide", guide)).into_iter();
        for (name, picture) in guides.chain(self.refs.iter().map(|picture| ("reference", picture))) {
            let inset_width = (width / 5).max(12);
            let by = inset_width as f32 / picture.width().max(1) as f32;
            let inset_height = ((picture.height() as f32 * by) as u32).clamp(6, (height / 4).max(6));
            let inset_width = inset_width
                .min((inset_height as f32 / picture.height().max(1) as f32 * picture.width() as f32) as u32)
                .max(6);
            if top + inset_height + margin > floor {
                return;
            }
            let left = width.saturating_sub(inset_width + margin);
            let small = imageops::resize(picture, inset_width, inset_height, FilterType::Triangle);
            fill(frame, left - 1, top - 1, inset_width + 2, inset_height + 2, WHITE, 0.85);
            imageops::replace(frame, &small, i64::from(left), i64::from(top));
            let words = label.coverage(name);
            if words.width() + 6 <= inset_width && words.height() < inset_height / 2 {
                let y = top + inset_height - words.height();
                fill(frame, left, y, words.width() + 6, words.height(), INK, 0.66);
                write(frame, &words, left + 3, y, WHITE);
            }
            top += inset_height + margin;
        }
    }

    /// Two colours running into each other, slowly moving on.
    fn gradient(&self, way: f32) -> RgbImage {
        let (width, height) = (self.plan.width, self.plan.height);
        let (one, other) = self.palette;
        let across = (width + height) as f32;
        RgbImage::from_fn(width, height, |x, y| {
            let slope = (x + y) as f32 / across;
            let wave = 0.5 + 0.5 * (std::f32::consts::PI * (slope * 1.4 + way * 0.6)).cos();
            let rise = y as f32 / height as f32;
            mixed(mixed(one, other, wave), INK, 0.25 * rise)
        })
    }
}

/// The word that no frame lacks. Opaque, so that it does not darken when it is drawn again.
pub fn stamp(frame: &mut RgbImage) {
    let (width, height) = frame.dimensions();
    let kind = match width.min(height) {
        0..=600 => Type::small(width, height),
        _ => Type::body(width * 2 / 3, height * 2 / 3),
    };
    let pad = if width.min(height) < 120 { 0 } else { kind.line() / 4 };
    let words = shrunk(kind.bold().coverage("animatic"), width.saturating_sub(2), (height / 3).max(4));
    fill(frame, 0, 0, words.width() + 2 * pad + 1, words.height() + pad, INK, 1.0);
    write(frame, &words, pad, pad / 2, WHITE);
}

/// Puts the guide's pixels where the mask says keep.
fn keep(frame: &mut RgbImage, guide: &RgbImage, mask: &RgbImage, inverted: bool) {
    for ((pixel, guide), Rgb([grey, ..])) in frame.pixels_mut().zip(guide.pixels()).zip(mask.pixels()) {
        let generate = match *grey {
            0..BLACK_BELOW => 0.0,
            grey if grey > WHITE_ABOVE => 1.0,
            grey => f32::from(grey) / 255.0,
        };
        *pixel = mixed(*guide, *pixel, if inverted { 1.0 - generate } else { generate });
    }
}

fn blend(one: &RgbImage, other: &RgbImage, amount: f32) -> RgbImage {
    let mut blended = one.clone();
    for (pixel, other) in blended.pixels_mut().zip(other.pixels()) {
        *pixel = mixed(*pixel, *other, amount);
    }
    blended
}

/// The middle of a picture, enlarged to its size; `way` 0 is the picture itself.
fn zoomed(picture: &RgbImage, way: f32) -> RgbImage {
    let scale = 1.0 / (1.0 + ZOOM * smoothstep(way));
    if scale == 1.0 {
        return picture.clone();
    }
    let (width, height) = picture.dimensions();
    let (middle_x, middle_y) = ((width - 1) as f32 / 2.0, (height - 1) as f32 / 2.0);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (middle_x + (x as f32 - middle_x) * scale, middle_y + (y as f32 - middle_y) * scale);
        imageops::interpolate_bilinear(picture, u, v).unwrap_or(INK)
    })
}

fn smoothstep(way: f32) -> f32 {
    let way = way.clamp(0.0, 1.0);
    way * way * (3.0 - 2.0 * way)
}

/// Facts on as few lines as they need, at most `lines`; long ones are cut, those for which no room is left fall away.
/// `more` is added where it needs no further line.
fn arranged(facts: &[String], more: &[String], columns: usize, lines: usize) -> Vec<String> {
    let mut arranged: Vec<String> = Vec::new();
    let facts = facts.iter().map(|fact| (fact, true)).chain(more.iter().map(|fact| (fact, false)));
    for (fact, needed) in facts {
        let may_break = needed && arranged.len() < lines;
        for fact in wrapped(fact, columns, 1) {
            match arranged.last_mut() {
                Some(line) if line.chars().count() + 3 + fact.chars().count() <= columns => {
                    line.push_str(" · ");
                    line.push_str(&fact);
                }
                _ if may_break => arranged.push(fact),
                _ => {}
            }
        }
    }
    arranged
}

/// Two colours that seed and prompt decide.
fn palette(seed: i64, prompt: &str) -> (Rgb<u8>, Rgb<u8>) {
    // FNV-1a: the same on every machine and in every version, unlike the standard library's hashes.
    let hash = seed
        .to_le_bytes()
        .iter()
        .chain(prompt.as_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let hue = (hash >> 48) as f32 / 65536.0;
    let turn = 0.10 + 0.15 * ((hash >> 32) & 0xffff) as f32 / 65536.0;
    (colour(hue, 0.48, 0.30), colour(hue + turn, 0.52, 0.58))
}

/// A colour by hue, saturation and lightness (each 0 to 1; the hue goes round).
fn colour(hue: f32, saturation: f32, lightness: f32) -> Rgb<u8> {
    let reach = saturation * lightness.min(1.0 - lightness);
    let channel = |offset: f32| {
        let k = (offset + hue * 12.0) % 12.0;
        ((lightness - reach * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0)) * 255.0).round() as u8
    };
    Rgb([channel(0.0), channel(8.0), channel(4.0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawing_the_word_again_changes_nothing() {
        for (width, height) in [(16, 16), (96, 48), (480, 832), (1920, 1080)] {
            let mut once = RgbImage::from_pixel(width, height, Rgb([40, 40, 40]));
            stamp(&mut once);
            let mut twice = once.clone();
            stamp(&mut twice);
            assert_eq!(once, twice, "{width}x{height}");
            assert!(once.pixels().any(|Rgb([_, g, _])| *g > 90), "{width}x{height}: the word is there");
        }
    }

    #[test]
    fn facts_take_a_second_line_only_when_they_must() {
        let facts = ["frame 1/9", "seed 7", "vace_14B"].map(String::from);
        let more = ["832x480", "16 fps"].map(String::from);
        assert_eq!(arranged(&facts, &more, 40, 2), ["frame 1/9 · seed 7 · vace_14B · 832x480"]);
        assert_eq!(arranged(&facts, &more, 18, 2), ["frame 1/9 · seed 7", "vace_14B · 832x480"]);
        assert_eq!(arranged(&facts, &more, 12, 1), ["frame 1/9"]);
        assert!(arranged(&facts, &more, 0, 2).is_empty());
    }

    #[test]
    fn a_picture_stands_still_at_both_ends_of_its_way() {
        let picture = RgbImage::from_fn(40, 20, |x, y| Rgb([x as u8 * 6, y as u8 * 12, 90]));
        assert_eq!(zoomed(&picture, 0.0), picture);
        assert_ne!(zoomed(&picture, 1.0), picture);
    }
}
