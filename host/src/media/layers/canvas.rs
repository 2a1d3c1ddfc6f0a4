//! A frame that is drawn on, in its own format. Planes are blended as planes: since they are linear in RGB, the result is
//! that of RGB, and pixels that nothing covers keep their value to the bit.

use crate::media::frames::PixelFormat;
use crate::media::pixels::{CB, CR, Y};

/// Full cover, and the scale of all weights.
pub(super) const FULL: u32 = 1 << 16;

/// What comes over a pixel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paint {
    /// Share of the pixel that it takes, 0 to [`FULL`].
    pub alpha: u32,
    /// 0 to 255, times that share.
    pub rgb: [u32; 3],
}

impl Paint {
    /// A colour that takes so much of a pixel.
    #[inline]
    pub fn solid([r, g, b]: [u8; 3], alpha: u32) -> Self {
        Self { alpha, rgb: [u32::from(r) * alpha, u32::from(g) * alpha, u32::from(b) * alpha] }
    }

    #[inline]
    fn wide(self) -> [i64; 3] {
        let [r, g, b] = self.rgb;
        [i64::from(r), i64::from(g), i64::from(b)]
    }

    /// This over that.
    #[inline]
    pub fn over(self, below: Self) -> Self {
        if self.alpha >= FULL || below.alpha == 0 {
            return self;
        }
        let Self { alpha, rgb: [r, g, b] } = below.faded(FULL - self.alpha);
        let [own_r, own_g, own_b] = self.rgb;
        Self { alpha: self.alpha + alpha, rgb: [own_r + r, own_g + g, own_b + b] }
    }

    /// Less of it: `opacity` from 0 to [`FULL`].
    #[inline]
    pub fn faded(self, opacity: u32) -> Self {
        if opacity == FULL {
            return self;
        }
        let [r, g, b] = self.rgb;
        let rgb = [scaled(r, opacity), scaled(g, opacity), scaled(b, opacity)];
        Self { alpha: scaled(self.alpha, opacity), rgb }
    }
}

/// `value · share / FULL`, rounded.
#[inline]
fn scaled(value: u32, share: u32) -> u32 {
    ((u64::from(value) * u64::from(share) + u64::from(FULL / 2)) / u64::from(FULL)) as u32
}

/// A part of a frame: columns from `left` up to `right`, rows from `top` up to `bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

impl Area {
    /// The part of a frame that a box touches; none when it lies outside.
    pub fn of(frame: (usize, usize), left: f64, top: f64, right: f64, bottom: f64) -> Option<Self> {
        // The casts saturate.
        let near = |at: f64| at.floor().max(0.0) as usize;
        let far = |at: f64, end: usize| (at.ceil().max(0.0) as usize).min(end);
        let area = Self { left: near(left), top: near(top), right: far(right, frame.0), bottom: far(bottom, frame.1) };
        (area.left < area.right && area.top < area.bottom).then_some(area)
    }

    pub fn width(&self) -> usize {
        self.right - self.left
    }

    pub fn height(&self) -> usize {
        self.bottom - self.top
    }
}

/// A frame.
pub(super) struct Canvas<'a> {
    pub data: &'a mut [u8],
    pub format: PixelFormat,
    pub width: usize,
    pub height: usize,
}

impl Canvas<'_> {
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Lays paint over an area that lies inside the frame. `paint` is asked for every pixel by column and row, counted in
    /// the area.
    pub fn lay(&mut self, area: Area, paint: impl Fn(usize, usize) -> Paint) {
        match self.format {
            PixelFormat::Rgb24 | PixelFormat::Rgba => self.lay_packed(area, paint),
            PixelFormat::Yuv444p => self.lay_full(area, paint),
            PixelFormat::Yuv420p => self.lay_halved(area, paint),
        }
    }

    fn lay_packed(&mut self, area: Area, paint: impl Fn(usize, usize) -> Paint) {
        let step = if self.format == PixelFormat::Rgba { 4 } else { 3 };
        let rows = self.data.chunks_exact_mut((self.width * step).max(1)).skip(area.top).take(area.height());
        for (y, row) in rows.enumerate() {
            for (x, pixel) in row.chunks_exact_mut(step).skip(area.left).take(area.width()).enumerate() {
                let paint = paint(x, y);
                if paint.alpha > 0
                    && let [r, g, b, ..] = pixel
                {
                    mix(r, paint.alpha, paint.rgb[0]);
                    mix(g, paint.alpha, paint.rgb[1]);
                    mix(b, paint.alpha, paint.rgb[2]);
                }
            }
        }
    }

    fn lay_full(&mut self, area: Area, paint: impl Fn(usize, usize) -> Paint) {
        let mut planes = self.data.chunks_exact_mut((self.width * self.height).max(1));
        let (Some(luma), Some(blue), Some(red)) = (planes.next(), planes.next(), planes.next()) else { return };
        for y in area.top..area.bottom {
            let row = y * self.width;
            let (from, to) = (row + area.left, row + area.right);
            let (Some(luma), Some(blue), Some(red)) =
                (luma.get_mut(from..to), blue.get_mut(from..to), red.get_mut(from..to))
            else {
                return;
            };
            for (x, ((luma, blue), red)) in luma.iter_mut().zip(blue).zip(red).enumerate() {
                let paint = paint(x, y - area.top);
                if paint.alpha > 0 {
                    let rgb = paint.wide();
                    mix(luma, paint.alpha, plane(paint.alpha, rgb, 16, Y, 0));
                    mix(blue, paint.alpha, plane(paint.alpha, rgb, 128, CB, 0));
                    mix(red, paint.alpha, plane(paint.alpha, rgb, 128, CR, 0));
                }
            }
        }
    }

    /// Chroma gets the mean of what its four pixels get.
    fn lay_halved(&mut self, area: Area, paint: impl Fn(usize, usize) -> Paint) {
        let (luma, chroma) = self.data.split_at_mut((self.width * self.height).min(self.data.len()));
        let half = self.width / 2;
        let (blues, reds) = chroma.split_at_mut(chroma.len() / 2);
        for block_y in area.top / 2..area.bottom.div_ceil(2) {
            let Some(rows) = luma.get_mut(block_y * 2 * self.width..(block_y * 2 + 2) * self.width) else { return };
            let chroma = block_y * half..(block_y + 1) * half;
            let (Some(blues), Some(reds)) = (blues.get_mut(chroma.clone()), reds.get_mut(chroma)) else { return };
            let (upper, lower) = rows.split_at_mut(self.width);
            let blocks = upper.as_chunks_mut::<2>().0.iter_mut().zip(lower.as_chunks_mut::<2>().0);
            let blocks = blocks.zip(blues).zip(reds).enumerate().skip(area.left / 2);
            for (block_x, (((upper, lower), blue), red)) in blocks.take(area.right.div_ceil(2) - area.left / 2) {
                let (x, y) = (block_x * 2, block_y * 2);
                let (mut alpha, mut sum) = (0, [0_i64; 3]);
                let mut one = |luma: &mut u8, x: usize, y: usize| {
                    if x < area.left || x >= area.right || y < area.top || y >= area.bottom {
                        return;
                    }
                    let paint = paint(x - area.left, y - area.top);
                    if paint.alpha > 0 {
                        let rgb = paint.wide();
                        mix(luma, paint.alpha, plane(paint.alpha, rgb, 16, Y, 0));
                        alpha += paint.alpha;
                        sum = [sum[0] + rgb[0], sum[1] + rgb[1], sum[2] + rgb[2]];
                    }
                };
                let ([a, b], [c, d]) = (upper, lower);
                one(a, x, y);
                one(b, x + 1, y);
                one(c, x, y + 1);
                one(d, x + 1, y + 1);
                if alpha > 0 {
                    mix(blue, alpha / 4, plane(alpha, sum, 128, CB, 2));
                    mix(red, alpha / 4, plane(alpha, sum, 128, CR, 2));
                }
            }
        }
    }
}

/// The value of paint in a plane, times its share, of a sum of 2^`bits` pixels.
#[inline]
fn plane(alpha: u32, [r, g, b]: [i64; 3], zero: i64, [kr, kg, kb]: [i32; 3], bits: u32) -> u32 {
    let colour = (i64::from(kr) * r + i64::from(kg) * g + i64::from(kb) * b) >> 16;
    // Never negative: no colour lies further from the zero of its plane than that from 0.
    ((zero * i64::from(alpha) + colour) >> bits).max(0) as u32
}

#[inline]
fn mix(value: &mut u8, alpha: u32, over: u32) {
    let mixed = (u32::from(*value) * (FULL - alpha.min(FULL)) + over + FULL / 2) >> 16;
    *value = mixed.min(255) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::pixels;

    const FORMATS: [PixelFormat; 3] = [PixelFormat::Rgb24, PixelFormat::Yuv420p, PixelFormat::Yuv444p];

    fn noise(format: PixelFormat) -> Vec<u8> {
        let mut state = 7_u32;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(format.frame_bytes(16, 12)).collect()
    }

    #[test]
    fn full_cover_is_the_colour_as_a_clip_would_show_it() {
        for format in FORMATS {
            for rgb in [[255, 0, 0], [0, 0, 255], [12, 200, 99], [255, 255, 255], [0, 0, 0]] {
                let mut data = noise(format);
                let mut canvas = Canvas { data: &mut data, format, width: 16, height: 12 };
                let area = Area { left: 0, top: 0, right: 16, bottom: 12 };
                canvas.lay(area, |_, _| Paint::solid(rgb, FULL));
                assert_eq!(data, pixels::planar(&rgb.repeat(16 * 12), 16, format), "{format:?} {rgb:?}");
            }
        }
    }

    #[test]
    fn what_is_not_covered_stays_as_it_was() {
        for format in FORMATS {
            let before = noise(format);
            let mut data = before.clone();
            let mut canvas = Canvas { data: &mut data, format, width: 16, height: 12 };
            let area = Area { left: 3, top: 3, right: 8, bottom: 9 };
            canvas.lay(area, |x, _| if x == 2 { Paint::default() } else { Paint::solid([9, 250, 3], FULL / 2) });
            for y in 0..12 {
                for x in 0..16 {
                    let at = if format == PixelFormat::Rgb24 { (y * 16 + x) * 3 } else { y * 16 + x };
                    let inside = (3..8).contains(&x) && (3..9).contains(&y) && x != 5;
                    assert!(inside || data[at] == before[at], "{format:?} {x} {y}");
                }
            }
            if format == PixelFormat::Yuv420p {
                for (i, (after, before)) in data.iter().zip(&before).enumerate().skip(16 * 12) {
                    let (x, y) = ((i - 16 * 12) % 48 % 8, (i - 16 * 12) % 48 / 8);
                    assert!(((1..4).contains(&x) && (1..5).contains(&y)) || after == before, "chroma {x} {y}");
                }
            }
        }
    }

    #[test]
    fn paint_over_paint_is_the_blend_of_both() {
        let below = Paint::solid([200, 0, 0], FULL);
        let both = Paint::solid([0, 100, 0], FULL / 4).over(below);
        assert_eq!(both.alpha, FULL);
        assert_eq!(both.rgb.map(|channel| channel / FULL), [150, 25, 0]);
        assert_eq!(both.faded(FULL / 2).rgb.map(|channel| channel / FULL), [75, 12, 0]);
        assert_eq!(both.faded(0).alpha, 0);
    }

    #[test]
    fn an_area_is_the_part_inside_the_frame() {
        let of = |left, top, right, bottom| Area::of((16, 12), left, top, right, bottom);
        assert_eq!(of(-5.0, 2.5, 3.2, 99.0), Some(Area { left: 0, top: 2, right: 4, bottom: 12 }));
        assert_eq!(of(16.0, 0.0, 20.0, 5.0), None);
        assert_eq!(of(-9.0, 0.0, -1.0, 5.0), None);
    }
}
