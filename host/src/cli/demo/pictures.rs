//! Four pictures of one coast, drawn with a few lines of arithmetic: dawn, noon, dusk and night. The same each time.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::{Rgb, RgbImage};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 576;

/// Colours and the place of the sun or moon, as fractions of the picture.
struct Scene {
    name: &'static str,
    sky_top: [f32; 3],
    sky_low: [f32; 3],
    sea: [f32; 3],
    hills: [f32; 3],
    disc: [f32; 3],
    at: (f32, f32),
    radius: f32,
}

const SCENES: [Scene; 4] = [
    Scene {
        name: "1-dawn.png",
        sky_top: [64., 74., 130.],
        sky_low: [250., 176., 130.],
        sea: [110., 92., 130.],
        hills: [52., 44., 72.],
        disc: [255., 226., 170.],
        at: (0.25, 0.52),
        radius: 0.10,
    },
    Scene {
        name: "2-noon.png",
        sky_top: [54., 132., 214.],
        sky_low: [190., 226., 246.],
        sea: [30., 118., 158.],
        hills: [62., 112., 76.],
        disc: [255., 252., 222.],
        at: (0.55, 0.18),
        radius: 0.07,
    },
    Scene {
        name: "3-dusk.png",
        sky_top: [70., 50., 116.],
        sky_low: [244., 120., 74.],
        sea: [96., 60., 96.],
        hills: [44., 30., 54.],
        disc: [255., 150., 84.],
        at: (0.72, 0.5),
        radius: 0.10,
    },
    Scene {
        name: "4-night.png",
        sky_top: [10., 12., 34.],
        sky_low: [36., 48., 92.],
        sea: [14., 24., 52.],
        hills: [8., 12., 24.],
        disc: [226., 232., 244.],
        at: (0.78, 0.26),
        radius: 0.06,
    },
];

/// Draws the pictures into a folder and returns their paths in order.
pub fn draw(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    SCENES
        .iter()
        .map(|scene| {
            let path = folder.join(scene.name);
            let picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
                Rgb(pixel(scene, x as f32 / WIDTH as f32, y as f32 / HEIGHT as f32))
            });
            picture.save(&path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        })
        .collect()
}

/// Colour at (x, y), both 0 to 1.
fn pixel(scene: &Scene, x: f32, y: f32) -> [u8; 3] {
    let horizon = 0.62;
    let ridge = horizon - 0.05 - 0.07 * (x * 7.0 + 1.3).sin().abs() * (x * 2.6).cos().abs();
    let aspect = WIDTH as f32 / HEIGHT as f32;
    let from_disc = (((x - scene.at.0) * aspect).powi(2) + (y - scene.at.1).powi(2)).sqrt();
    let colour = if y > horizon {
        let depth = (y - horizon) / (1.0 - horizon);
        let waves = ((y * 190.0 + (x * 24.0).sin() * 2.0).sin() * 0.5 + 0.5) * (1.0 - depth) * 0.35;
        let path = (1.0 - ((x - scene.at.0).abs() * (6.0 - 4.0 * depth)).min(1.0)) * 0.45;
        mix(mix(scene.sea, [8., 14., 26.], depth * 0.55), scene.disc, waves * (0.25 + path))
    } else if y > ridge {
        mix(scene.hills, scene.sky_low, ((horizon - y) * 2.0).clamp(0.0, 0.35))
    } else {
        let sky = mix(scene.sky_top, scene.sky_low, (y / horizon).powf(1.4));
        let glow = (1.0 - (from_disc / (scene.radius * 4.5)).min(1.0)).powi(2) * 0.6;
        let edge = ((scene.radius - from_disc) * 160.0).clamp(0.0, 1.0);
        mix(mix(sky, scene.disc, glow), scene.disc, edge)
    };
    // Components are mixes of bytes.
    colour.map(|c| c.round().clamp(0.0, 255.0) as u8)
}

fn mix(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    let [a0, a1, a2] = a;
    let [b0, b1, b2] = b;
    [a0 + (b0 - a0) * t, a1 + (b1 - a1) * t, a2 + (b2 - a2) * t]
}
