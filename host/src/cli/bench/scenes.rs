//! Videos as an engine would give them: a camera that pans and zooms over a textured ground, a ball that rolls across it,
//! fine grain. Drawn with arithmetic alone, the same each time.

use std::path::Path;

use crate::media::Media;
use crate::media::frames::{Frame, FrameWriter, PixelFormat, VideoSpec};
use crate::task::Failure;

/// Side of the ground, after which it repeats. A power of two.
const GROUND: usize = 1024;

/// One pixel of the ground in the fixed-point numbers of [`Ground::at`].
const ONE: u32 = 256;

/// Wavelengths of the waves that the ground is made of, in pixels, each half as high as the one before. They divide
/// [`GROUND`].
const WAVELENGTHS: [usize; 6] = [256, 128, 64, 32, 16, 8];

/// Draws segment `segment` into a video of `frames` frames.
pub async fn draw(
    media: &Media,
    ground: &Ground,
    segment: u32,
    frames: u32,
    spec: VideoSpec,
    path: &Path,
) -> Result<(), Failure> {
    let mut writer = FrameWriter::create(media, path, spec).await?;
    for frame in 0..frames {
        writer.write(&picture(ground, segment, frame, spec)).await?;
    }
    writer.finish().await
}

/// One frame, in 4:2:0.
fn picture(ground: &Ground, segment: u32, frame: u32, spec: VideoSpec) -> Frame {
    let VideoSpec { width, height, .. } = spec;
    // Each segment goes its own way: some pixels and a fraction a frame, a permille or two nearer.
    let zoom = ONE + segment * 9 + frame * (1 + segment % 3) / 4;
    let left = segment * 70_000 + frame * (330 + 90 * segment);
    let top = segment * 41_000 + frame * (610 - 70 * segment.min(8));
    let ball = (i64::from(width * (frame + 10) / 110), i64::from(height / 2 + height * (segment % 4) / 16));
    let radius = i64::from(height / 7);
    let mut data = Vec::with_capacity(PixelFormat::Yuv420p.frame_bytes(width, height));
    for y in 0..height {
        for x in 0..width {
            let grain = noise(x ^ (y << 12) ^ (frame << 24) ^ segment.rotate_right(8)) % 4;
            let (dx, dy) = (i64::from(x) - ball.0, i64::from(y) - ball.1);
            let inside = radius * radius - dx * dx - dy * dy;
            let light = if inside > 0 {
                // Brighter towards its upper left, as from one lamp.
                (150 - 70 * (dx + dy) / radius / 2) as u32
            } else {
                36 + ground.at(left + x * zoom, top + y * zoom) * 3 / 4
            };
            data.push((light + grain).min(235) as u8);
        }
    }
    for plane in 0..2 {
        for (y, x) in (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (y, x))) {
            // Broad patches of colour that move with the ground.
            let (u, v) = (left / 4 + x * zoom / 2, top / 4 + y * zoom / 2);
            let tint = ground.at(u.wrapping_add(plane * 90_000), v.wrapping_add(segment * 30_000));
            data.push((96 + tint / 4) as u8);
        }
    }
    Frame { format: PixelFormat::Yuv420p, width, height, data }
}

/// Hills and furrows of many sizes.
pub struct Ground(Vec<u8>);

impl Ground {
    pub fn new() -> Self {
        let mut heights = vec![0.0f32; GROUND * GROUND];
        for (octave, wavelength) in WAVELENGTHS.into_iter().enumerate() {
            let share = 0.5f32.powi(octave as i32 + 1);
            let cells = GROUND / wavelength;
            // A random height at each corner of a grid.
            let corner = |x: usize, y: usize| {
                let place = (x % cells) | (y % cells) << 10 | octave << 20;
                (noise(place as u32) % 1024) as f32 / 1023.0
            };
            for (i, height) in heights.iter_mut().enumerate() {
                let (x, y) = (i % GROUND, i / GROUND);
                let (cx, cy) = (x / wavelength, y / wavelength);
                let smooth = |at: usize| {
                    let t = (at % wavelength) as f32 / wavelength as f32;
                    t * t * (3.0 - 2.0 * t)
                };
                let (tx, ty) = (smooth(x), smooth(y));
                let upper = corner(cx, cy) * (1.0 - tx) + corner(cx + 1, cy) * tx;
                let lower = corner(cx, cy + 1) * (1.0 - tx) + corner(cx + 1, cy + 1) * tx;
                *height += share * (upper * (1.0 - ty) + lower * ty);
            }
        }
        // The cast saturates.
        Self(heights.into_iter().map(|height| (height * 255.0) as u8).collect())
    }

    /// 0 to 255, between four pixels in their shares. Coordinates in 1/[`ONE`] pixels.
    fn at(&self, x: u32, y: u32) -> u32 {
        let (column, row) = ((x / ONE) as usize, (y / ONE) as usize);
        let (tx, ty) = (x % ONE, y % ONE);
        let pixel = |x: usize, y: usize| self.0.get(y % GROUND * GROUND + x % GROUND).copied().map_or(0, u32::from);
        let upper = pixel(column, row) * (ONE - tx) + pixel(column + 1, row) * tx;
        let lower = pixel(column, row + 1) * (ONE - tx) + pixel(column + 1, row + 1) * tx;
        (upper * (ONE - ty) + lower * ty) / (ONE * ONE)
    }
}

/// A number that looks random, always the same for the same place.
fn noise(place: u32) -> u32 {
    let mixed = (place ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ mixed >> 13).wrapping_mul(0xc2b2_ae35);
    mixed ^ mixed >> 16
}
