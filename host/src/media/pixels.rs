//! What is computed on pixels: adjustments, blends, and RGB into the YUV of [`frames`](crate::media::frames). Pure functions
//! over slices, written so that the compiler vectorises them.

use crate::media::frames::PixelFormat;

/// σ of the blur that sharpening subtracts, in pixels of the whole picture.
const SIGMA: f32 = 3.0;

/// The share of each primary in luma (BT.709).
const LUMA: [f32; 3] = [0.2126, 0.7152, 0.0722];

/// A change of colours, applied in RGB in the order of its members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adjust {
    /// 0 to 1: share of middle grey.
    pub grey_mix: f32,
    /// 0 to 1: share of the pixel's own luma.
    pub desaturate: f32,
    /// -1 to 1: channels times 1 plus this.
    pub brightness: f32,
    /// 0 and up: factor on the distance from luma.
    pub saturation: f32,
}

impl Default for Adjust {
    /// Changes nothing.
    fn default() -> Self {
        Self { grey_mix: 0.0, desaturate: 0.0, brightness: 0.0, saturation: 1.0 }
    }
}

impl Adjust {
    /// Changes packed RGB in place. Values are clipped after brightness and at the end, and rounded once.
    pub fn apply(&self, rgb: &mut [u8]) {
        let Self { grey_mix, desaturate, brightness, saturation } = *self;
        for pixel in rgb.as_chunks_mut::<3>().0 {
            let mixed = pixel.map(|channel| 128.0 * grey_mix + f32::from(channel) * (1.0 - grey_mix));
            let grey = luma(mixed) * desaturate;
            let bright =
                mixed.map(|channel| ((channel * (1.0 - desaturate) + grey) * (1.0 + brightness)).clamp(0.0, 255.0));
            let grey = luma(bright);
            *pixel = bright.map(|channel| to_byte(grey + (channel - grey) * saturation));
        }
    }
}

fn luma(rgb: [f32; 3]) -> f32 {
    let [r, g, b] = rgb;
    let [kr, kg, kb] = LUMA;
    r * kr + g * kg + b * kb
}

fn to_byte(value: f32) -> u8 {
    // The cast saturates.
    (value + 0.5) as u8
}

/// Packed RGB as planes (packed formats: as it is): BT.709, limited range; the chroma of 4:2:0 is that of the mean of its four pixels.
pub fn planar(rgb: &[u8], width: usize, format: PixelFormat) -> Vec<u8> {
    let pixels = rgb.as_chunks::<3>().0;
    match format {
        PixelFormat::Rgb24 | PixelFormat::Rgba => rgb.to_vec(),
        PixelFormat::Yuv444p => {
            let mut out: Vec<u8> = pixels.iter().map(|rgb| y(rgb.map(i32::from))).collect();
            out.extend(pixels.iter().map(|rgb| cb(rgb.map(i32::from), 0)));
            out.extend(pixels.iter().map(|rgb| cr(rgb.map(i32::from), 0)));
            out
        }
        PixelFormat::Yuv420p => {
            let mut out: Vec<u8> = pixels.iter().map(|rgb| y(rgb.map(i32::from))).collect();
            let mut sums: Vec<[i32; 3]> = Vec::with_capacity(pixels.len() / 4);
            for rows in pixels.chunks_exact(width.max(1) * 2) {
                let (upper, lower) = rows.split_at(width);
                let blocks = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
                sums.extend(blocks.map(|([a, b], [c, d])| {
                    let [[ar, ag, ab], [br, bg, bb]] = [a.map(i32::from), b.map(i32::from)];
                    let [[cr, cg, cb], [dr, dg, db]] = [c.map(i32::from), d.map(i32::from)];
                    [ar + br + cr + dr, ag + bg + cg + dg, ab + bb + cb + db]
                }));
            }
            out.extend(sums.iter().map(|sum| cb(*sum, 2)));
            out.extend(sums.iter().map(|sum| cr(*sum, 2)));
            out
        }
    }
}

// Weights in 1/65536: 219/255 of the luma weights; 224/255 of (B - Y) / 1.8556 and (R - Y) / 1.5748.
pub(super) const Y: [i32; 3] = [11_966, 40_254, 4_064];
pub(super) const CB: [i32; 3] = [-6_596, -22_188, 28_784];
pub(super) const CR: [i32; 3] = [28_784, -26_145, -2_639];

fn weighted([r, g, b]: [i32; 3], [kr, kg, kb]: [i32; 3]) -> i32 {
    kr * r + kg * g + kb * b
}

fn y(rgb: [i32; 3]) -> u8 {
    (16 + ((weighted(rgb, Y) + (1 << 15)) >> 16)) as u8
}

/// Of a sum of 2^`bits` pixels.
fn cb(rgb: [i32; 3], bits: u32) -> u8 {
    (128 + ((weighted(rgb, CB) + (1 << (15 + bits))) >> (16 + bits))) as u8
}

/// Of a sum of 2^`bits` pixels.
fn cr(rgb: [i32; 3], bits: u32) -> u8 {
    (128 + ((weighted(rgb, CR) + (1 << (15 + bits))) >> (16 + bits))) as u8
}

/// Layout of the frames that are blended.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub format: PixelFormat,
    pub width: usize,
    pub height: usize,
}

/// `(1 - weight)·a + weight·b`, then sharpened by `sharpen·weight`: what a blur takes away is added that often. Weight 1
/// without sharpening is exactly `b`. Planes are blended as they are, which is the blend in RGB, since both are linear in
/// each other; chroma of 4:2:0 is blurred with half the σ, for its pixels are twice as wide.
pub fn blend(a: &[u8], b: &[u8], layout: Layout, weight: f32, sharpen: f32) -> Vec<u8> {
    let amount = sharpen * weight;
    if amount <= 0.0 {
        let later = (weight.clamp(0.0, 1.0) * 65_536.0).round() as u32;
        let earlier = 65_536 - later;
        let mix = |(a, b): (&u8, &u8)| ((u32::from(*a) * earlier + u32::from(*b) * later + (1 << 15)) >> 16) as u8;
        return a.iter().zip(b).map(mix).collect();
    }
    let base: Vec<f32> =
        a.iter().zip(b).map(|(a, b)| f32::from(*a) * (1.0 - weight) + f32::from(*b) * weight).collect();
    let Layout { format, width, height } = layout;
    let pixels = width * height;
    let mut out = Vec::with_capacity(base.len());
    match format {
        PixelFormat::Rgb24 | PixelFormat::Rgba => {
            out.resize(base.len(), 0);
            let channels = if format == PixelFormat::Rgb24 { 3 } else { 4 };
            for channel in 0..channels {
                let plane: Vec<f32> = base.iter().skip(channel).step_by(channels).copied().collect();
                let plane = sharpened(&plane, width, SIGMA, amount, 0.0, 255.0);
                out.iter_mut().skip(channel).step_by(channels).zip(plane).for_each(|(out, value)| *out = value);
            }
        }
        PixelFormat::Yuv444p | PixelFormat::Yuv420p => {
            let halved = format == PixelFormat::Yuv420p;
            let (chroma_width, sigma) = if halved { (width / 2, SIGMA / 2.0) } else { (width, SIGMA) };
            let chroma_pixels = if halved { pixels / 4 } else { pixels };
            let (luma, chroma) = base.split_at(pixels.min(base.len()));
            out.extend(sharpened(luma, width, SIGMA, amount, 16.0, 235.0));
            for plane in chroma.chunks_exact(chroma_pixels.max(1)) {
                out.extend(sharpened(plane, chroma_width, sigma, amount, 16.0, 240.0));
            }
        }
    }
    out
}

/// `(1 + amount)·plane - amount·blur(plane)`, clipped and rounded.
fn sharpened(plane: &[f32], width: usize, sigma: f32, amount: f32, least: f32, most: f32) -> Vec<u8> {
    let blurred = blur(plane, width, sigma);
    let sharp =
        |(value, blurred): (&f32, &f32)| to_byte(((1.0 + amount) * value - amount * blurred).clamp(least, most));
    plane.iter().zip(&blurred).map(sharp).collect()
}

/// Gaussian blur out to 4σ, the picture mirrored at its borders (the border pixel itself once).
fn blur(plane: &[f32], width: usize, sigma: f32) -> Vec<f32> {
    let width = width.max(1);
    let height = plane.len() / width;
    let radius = (sigma * 4.0).round() as usize;
    let kernel = kernel(radius, sigma);
    let mut rows = Vec::with_capacity(plane.len());
    let mut padded = Vec::with_capacity(width + 2 * radius);
    for row in plane.chunks_exact(width) {
        padded.clear();
        padded.extend((0..width + 2 * radius).map(|x| row.get(mirrored(x, radius, width)).copied().unwrap_or(0.0)));
        let at = rows.len();
        rows.resize(at + width, 0.0);
        let out = rows.get_mut(at..).unwrap_or_default();
        for (k, weight) in kernel.iter().enumerate() {
            add_weighted(out, padded.get(k..).unwrap_or_default(), *weight);
        }
    }
    let mut out = vec![0.0; rows.len()];
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        for (k, weight) in kernel.iter().enumerate() {
            let row = mirrored(y + k, radius, height) * width;
            add_weighted(out, rows.get(row..).unwrap_or_default(), *weight);
        }
    }
    out
}

fn add_weighted(out: &mut [f32], values: &[f32], weight: f32) {
    out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
}

/// Where pixel `at - radius` of a line of `length` pixels is found when the line is mirrored at its ends.
fn mirrored(at: usize, radius: usize, length: usize) -> usize {
    let period = 2 * length.saturating_sub(1);
    if period == 0 {
        return 0;
    }
    // Whole periods keep the number positive.
    let at = (at + period * radius.div_ceil(period) - radius) % period;
    at.min(period - at)
}

fn kernel(radius: usize, sigma: f32) -> Vec<f32> {
    let bell = |k: usize| {
        let distance = (k as f32 - radius as f32) / sigma;
        (-distance * distance / 2.0).exp()
    };
    let bells: Vec<f32> = (0..=2 * radius).map(bell).collect();
    let sum: f32 = bells.iter().sum();
    bells.iter().map(|bell| bell / sum).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn adjusted(adjust: Adjust, mut rgb: [u8; 3]) -> [u8; 3] {
        adjust.apply(&mut rgb);
        rgb
    }

    #[test]
    fn each_adjustment_is_its_formula() {
        let none = Adjust::default();
        let colour = [200, 100, 50];
        // Luma of the colour: 117.65.
        assert_eq!(adjusted(none, colour), colour);
        assert_eq!(adjusted(Adjust { grey_mix: 0.25, ..none }, colour), [182, 107, 70]);
        assert_eq!(adjusted(Adjust { grey_mix: 1.0, ..none }, colour), [128; 3]);
        assert_eq!(adjusted(Adjust { desaturate: 1.0, ..none }, colour), [118; 3]);
        assert_eq!(adjusted(Adjust { desaturate: 0.5, ..none }, colour), [159, 109, 84]);
        assert_eq!(adjusted(Adjust { brightness: 0.5, ..none }, colour), [255, 150, 75]);
        assert_eq!(adjusted(Adjust { brightness: -0.25, ..none }, colour), [150, 75, 38]);
        assert_eq!(adjusted(Adjust { saturation: 0.0, ..none }, colour), [118; 3]);
        assert_eq!(adjusted(Adjust { saturation: 2.0, ..none }, colour), [255, 82, 0]);
        let all = Adjust { grey_mix: 0.5, desaturate: 0.5, brightness: -0.5, saturation: 2.0 };
        // 164 114 89 → luma 122.8: 143.4 118.4 105.9 → 71.7 59.2 52.95 → luma 61.4 → 82 57 44.5.
        assert!(adjusted(all, colour).iter().zip([82, 57, 44]).all(|(got, want)| got.abs_diff(want) <= 1));
    }

    #[test]
    fn rgb_becomes_limited_bt709() {
        let yuv = |rgb: [u8; 3]| planar(&rgb, 1, PixelFormat::Yuv444p);
        assert_eq!(yuv([0, 0, 0]), [16, 128, 128]);
        assert_eq!(yuv([255, 255, 255]), [235, 128, 128]);
        assert_eq!(yuv([255, 0, 0]), [63, 102, 240]);
        assert_eq!(yuv([0, 0, 255]), [32, 240, 118]);
        let four = [[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]].concat();
        assert_eq!(planar(&four, 2, PixelFormat::Yuv420p), [63, 63, 32, 32, 171, 179]);
    }

    #[test]
    fn sharpening_leaves_even_areas_alone_and_raises_edges() {
        let layout = Layout { format: PixelFormat::Yuv444p, width: 40, height: 30 };
        let even = vec![90; 40 * 30 * 3];
        assert_eq!(blend(&even, &even, layout, 0.5, 0.3), even);
        let edge: Vec<u8> = (0..40 * 30 * 3).map(|i| if i % 40 < 20 { 80 } else { 160 }).collect();
        let sharp = blend(&edge, &edge, layout, 1.0, 0.5);
        let row = &sharp[15 * 40..16 * 40];
        assert!(row[19] < 70 && row[20] > 170, "{row:?}");
        assert!(row[2].abs_diff(80) <= 1 && row[37].abs_diff(160) <= 1, "{row:?}");
    }

    #[test]
    fn lines_are_mirrored_around_their_last_pixel() {
        let line: Vec<usize> = (0..9).map(|at| mirrored(at, 3, 3)).collect();
        assert_eq!(line, [1, 2, 1, 0, 1, 2, 1, 0, 1]);
        assert_eq!(mirrored(5, 3, 1), 0);
    }

    proptest! {
        #[test]
        fn a_blend_is_nowhere_further_than_rounding_from_its_formula(
            a in proptest::collection::vec(any::<u8>(), 48),
            b in proptest::collection::vec(any::<u8>(), 48),
            weight in 0.0f32..=1.0,
        ) {
            let layout = Layout { format: PixelFormat::Rgb24, width: 4, height: 4 };
            for ((a, b), got) in a.iter().zip(&b).zip(blend(&a, &b, layout, weight, 0.0)) {
                let want = f64::from(*a) * (1.0 - f64::from(weight)) + f64::from(*b) * f64::from(weight);
                prop_assert!((f64::from(got) - want).abs() <= 0.51, "{a} {b} {weight}: {got}, not {want}");
            }
            prop_assert_eq!(&blend(&a, &b, layout, 1.0, 0.0), &b);
        }
    }
}
