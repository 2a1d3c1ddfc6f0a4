//! Text in DejaVu Sans, which the program carries along: the same on every machine, with smooth edges.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, GlyphId, OutlinedGlyph, PxScale, PxScaleFont, ScaleFont as _, point};

use super::canvas::{Area, Canvas, Paint};
use super::shapes::share;

static REGULAR: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("../../../assets/fonts/DejaVuSans.ttf")).ok());
static BOLD: LazyLock<Option<FontRef<'static>>> =
    LazyLock::new(|| FontRef::try_from_slice(include_bytes!("../../../assets/fonts/DejaVuSans-Bold.ttf")).ok());

/// Stands for what did not fit.
const ELLIPSIS: char = '…';

/// Lines of text.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::media) struct Text {
    /// Lines end with `\n`.
    pub words: String,
    /// Of what `align` says, in pixels.
    pub x: f32,
    /// Of the upper end of the first line.
    pub y: f32,
    /// Pixels from the font's em square: capitals are some 0.73 of it high, lines 1.16.
    pub size: f32,
    pub color: [u8; 3],
    pub bold: bool,
    pub align: Align,
    /// Longer lines end in an ellipsis; none: they go on.
    pub width: Option<f32>,
}

/// What of a line lies at its `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::media) enum Align {
    #[default]
    Left,
    Center,
    Right,
}

impl Text {
    /// Draws it; `opacity` from 0 to full.
    pub(super) fn draw(&self, canvas: &mut Canvas<'_>, opacity: u32) {
        let Some(font) = (if self.bold { BOLD.as_ref() } else { REGULAR.as_ref() }) else { return };
        let frame = canvas.size();
        let glyphs: Vec<(OutlinedGlyph, Area)> = self
            .glyphs(font)
            .into_iter()
            .filter_map(|glyph| {
                let bounds = glyph.px_bounds();
                let [left, top] = [bounds.min.x, bounds.min.y].map(f64::from);
                let [right, bottom] = [bounds.max.x, bounds.max.y].map(f64::from);
                Some((glyph, Area::of(frame, left, top, right, bottom)?))
            })
            .collect();
        let Some(area) = glyphs.iter().map(|(_, area)| *area).reduce(|a, b| Area {
            left: a.left.min(b.left),
            top: a.top.min(b.top),
            right: a.right.max(b.right),
            bottom: a.bottom.max(b.bottom),
        }) else {
            return;
        };
        let width = area.width();
        let mut covered = vec![0_u8; width * area.height()];
        for (glyph, _) in &glyphs {
            let (left, top) = (glyph.px_bounds().min.x as i64, glyph.px_bounds().min.y as i64);
            let (left, top) = (left - area.left as i64, top - area.top as i64);
            glyph.draw(|x, y, coverage| {
                let (x, y) = (left + i64::from(x), top + i64::from(y));
                let column = usize::try_from(x).ok().filter(|x| *x < width);
                if let (Some(x), Ok(y)) = (column, usize::try_from(y))
                    && let Some(pixel) = covered.get_mut(y * width + x)
                {
                    // The cast saturates.
                    *pixel = pixel.saturating_add((coverage * 255.0 + 0.5) as u8);
                }
            });
        }
        canvas.lay(area, |x, y| {
            let covered = covered.get(y * width + x).copied().unwrap_or(0);
            Paint::solid(self.color, share(covered)).faded(opacity)
        });
    }

    /// Everything that leaves a mark, in its place.
    fn glyphs(&self, font: &FontRef<'static>) -> Vec<OutlinedGlyph> {
        let em = font.units_per_em().filter(|em| *em > 0.0).unwrap_or(1.0);
        let font = font.as_scaled(PxScale::from(self.size * font.height_unscaled() / em));
        let mut found = Vec::new();
        for (i, line) in self.words.split('\n').enumerate() {
            let line = Line::new(&font, line, self.width);
            let left = match self.align {
                Align::Left => self.x,
                Align::Center => self.x - line.width / 2.0,
                Align::Right => self.x - line.width,
            };
            let base = self.y + font.ascent() + i as f32 * (font.height() + font.line_gap());
            let glyphs =
                line.glyphs.iter().map(|(id, x)| id.with_scale_and_position(font.scale(), point(left + x, base)));
            found.extend(glyphs.filter_map(|glyph| font.outline_glyph(glyph)));
        }
        found
    }
}

/// A line of text, set.
struct Line {
    /// Each with its distance from the line's beginning.
    glyphs: Vec<(GlyphId, f32)>,
    width: f32,
}

impl Line {
    fn new(font: &PxScaleFont<&FontRef<'static>>, words: &str, most: Option<f32>) -> Self {
        let visible = |c: char| if c.is_whitespace() || c.is_control() { ' ' } else { c };
        let mut characters: Vec<char> = words.chars().map(visible).collect();
        let line = Self::set(font, &characters);
        let Some(most) = most.filter(|most| line.width > *most) else { return line };
        // What ends before the ellipsis would begin may stay; kerning moves it by parts of a pixel.
        let room = most - font.h_advance(font.glyph_id(ELLIPSIS));
        let fitting = line.glyphs.iter().skip(1).take_while(|(_, x)| *x <= room).count();
        for keep in (0..=fitting).rev() {
            characters.truncate(keep);
            while characters.last() == Some(&' ') {
                characters.pop();
            }
            characters.push(ELLIPSIS);
            let line = Self::set(font, &characters);
            if line.width <= most {
                return line;
            }
            characters.pop();
        }
        Self { glyphs: Vec::new(), width: 0.0 }
    }

    fn set(font: &PxScaleFont<&FontRef<'static>>, characters: &[char]) -> Self {
        let (mut glyphs, mut x, mut last) = (Vec::with_capacity(characters.len()), 0.0, None);
        for character in characters {
            let id = font.glyph_id(*character);
            if let Some(last) = last {
                x += font.kern(last, id);
            }
            glyphs.push((id, x));
            x += font.h_advance(id);
            last = Some(id);
        }
        Self { glyphs, width: x }
    }
}

#[cfg(test)]
mod tests {
    use super::super::canvas::FULL;
    use super::*;
    use crate::media::frames::PixelFormat;

    fn text(words: &str) -> Text {
        let words = words.to_string();
        let color = [255, 0, 0];
        Text { words, x: 10.0, y: 5.0, size: 20.0, color, bold: false, align: Align::Left, width: None }
    }

    /// The red of each pixel of a black frame, 200 by 60 pixels.
    fn drawn(text: &Text) -> Vec<u8> {
        let mut data = vec![0; 200 * 60 * 3];
        text.draw(&mut Canvas { data: &mut data, format: PixelFormat::Rgb24, width: 200, height: 60 }, FULL);
        data.iter().step_by(3).copied().collect()
    }

    /// Left, top, right and bottom of what is inked.
    fn ink(text: &Text) -> Option<[usize; 4]> {
        let marks = drawn(text);
        let marks = marks.iter().enumerate().filter(|(_, red)| **red > 60).map(|(i, _)| (i % 200, i / 200));
        marks.fold(None, |found, (x, y)| {
            let [l, t, r, b] = found.unwrap_or([x, y, x, y]);
            Some([l.min(x), t.min(y), r.max(x), b.max(y)])
        })
    }

    #[test]
    fn capitals_stand_on_their_line() {
        let [left, top, right, bottom] = ink(&text("H")).unwrap();
        // Ascent 0.928 em, capitals 0.729 em: rows 8.98 to 23.56 for 20 pixels at y 5.
        assert_eq!((top, bottom), (9, 23));
        assert!((11..=13).contains(&left) && (21..=24).contains(&right), "{left} {right}");
        let bold = Text { bold: true, ..text("H") };
        let sum = |text: &Text| drawn(text).iter().map(|red| u64::from(*red)).sum::<u64>();
        assert!(sum(&bold) > sum(&text("H")) * 5 / 4);
    }

    #[test]
    fn lines_are_aligned_and_broken() {
        let [_, _, right, _] = ink(&Text { x: 150.0, align: Align::Right, ..text("HHH") }).unwrap();
        assert!((146..150).contains(&right), "{right}");
        let [left, _, right, _] = ink(&Text { x: 100.0, align: Align::Center, ..text("HHH") }).unwrap();
        assert!((left + right).abs_diff(199) <= 2, "{left} {right}");
        let [_, top, _, bottom] = ink(&text("H\nH")).unwrap();
        assert_eq!((top, bottom.abs_diff(23 + 23)), (9, 0));
    }

    #[test]
    fn a_line_that_is_too_long_ends_in_an_ellipsis() {
        let long = Text { width: Some(90.0), ..text("A sentence that is far too long") };
        let [_, _, right, _] = ink(&long).unwrap();
        assert!((80..100).contains(&right), "{right}");
        let font = REGULAR.as_ref().unwrap();
        let font = font.as_scaled(PxScale::from(20.0));
        let line = Line::new(&font, "A sentence that is far too long", Some(90.0));
        assert_eq!(line.glyphs.last().unwrap().0, font.glyph_id(ELLIPSIS));
        assert!(line.width <= 90.0 && line.width > 75.0, "{}", line.width);
        let whole = Line::new(&font, "short", Some(90.0));
        assert_eq!(whole.glyphs.len(), 5);
        assert!(ink(&Text { width: Some(3.0), ..text("nothing fits") }).is_none());
    }

    #[test]
    fn text_that_lies_outside_is_cut_off() {
        assert!(ink(&Text { x: -500.0, ..text("gone") }).is_none());
        let [left, ..] = ink(&Text { x: -10.0, ..text("HHHHH") }).unwrap();
        assert_eq!(left, 0);
        assert!(ink(&text("")).is_none() && ink(&text(" \t")).is_none());
    }
}
