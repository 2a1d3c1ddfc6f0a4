//! The files of a case: made as it says, and looked at when it is over.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use enginehouse_tests::{numbered, pictures};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// Grey value of the first frame of a ramp, and how much lighter each frame is, where a case does not say.
const RAMP: (f64, f64) = (40.0, 1.0);

/// Darker than this is black.
const BLACK: f64 = 10.0;

/// A film of flat frames.
pub struct Film {
    pub width: u32,
    pub height: u32,
    pub fps: f64,
    /// The colour of every frame.
    pub colours: Vec<[u8; 3]>,
}

impl Film {
    /// Frame i is as light as `start + i · step`.
    pub fn ramp(size: (u32, u32), fps: f64, frames: u64, description: &Value) -> Self {
        let start = description["luma_start"].as_f64().unwrap_or(RAMP.0);
        let step = description["luma_step"].as_f64().unwrap_or(RAMP.1);
        let grey = |i: u64| [(start + i as f64 * step).round().clamp(0.0, 255.0) as u8; 3];
        Self { width: size.0, height: size.1, fps, colours: (0..frames).map(grey).collect() }
    }

    /// All frames have one colour.
    pub fn solid(size: (u32, u32), fps: f64, frames: u64, rgb: [u8; 3]) -> Self {
        Self { width: size.0, height: size.1, fps, colours: (0..frames).map(|_| rgb).collect() }
    }

    /// H.264, yuv420p, CRF 18, as the recordings' films were made: from frames in the order blue, green, red, by ffmpeg's
    /// quick conversion, which darkens them by a few levels.
    pub async fn write(&self, path: &Path) -> Result<()> {
        let Self { width, height, fps, .. } = *self;
        let pixels = width as usize * height as usize;
        let frames: Vec<u8> = self.colours.iter().flat_map(|[r, g, b]| [*b, *g, *r].repeat(pixels)).collect();
        let (size, rate) = (format!("{width}x{height}"), fps.to_string());
        let mut child = Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", &size, "-r", &rate, "-i", "-"])
            .args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-preset", "veryfast", "-threads", "1"])
            .args(["-f", "mp4"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("ffmpeg reads")?;
        stdin.write_all(&frames).await?;
        drop(stdin);
        let status = child.wait().await?;
        ensure!(status.success(), "ffmpeg ended with {status}");
        Ok(())
    }
}

/// Makes the files that a case describes.
pub async fn make(folder: &Path, described: &Value) -> Result<()> {
    let none = Map::new();
    for (name, file) in described.as_object().unwrap_or(&none) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        one(&path, file).await.with_context(|| format!("the file {name}"))?;
    }
    Ok(())
}

async fn one(path: &Path, file: &Value) -> Result<()> {
    let number = |name: &str| file[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let size = || Some((number("width")?, number("height")?));
    match file["kind"].as_str() {
        Some("garbage") => std::fs::write(path, "neither a picture nor a film")?,
        Some("image") => {
            let (width, height) = size().context("a picture has a size")?;
            // Whatever its name says: a PNG.
            pictures::solid(width, height, rgb(&file["rgb"])?).save_with_format(path, image::ImageFormat::Png)?;
        }
        Some("video") => {
            let size = size().context("a film has a size")?;
            let fps = file["fps"].as_f64().context("a film has a rate")?;
            let frames = file["frames"].as_u64().context("a film has frames")?;
            let film = match file["pattern"].as_str() {
                Some("solid") => Film::solid(size, fps, frames, rgb(&file["rgb"])?),
                None => Film::ramp(size, fps, frames, file),
                Some(other) => anyhow::bail!("the pattern {other} is not known"),
            };
            film.write(path).await?;
        }
        other => anyhow::bail!("the kind {other:?} is not known"),
    }
    Ok(())
}

fn rgb(value: &Value) -> Result<[u8; 3]> {
    let colour: Vec<u8> = serde_json::from_value(value.clone())?;
    colour.try_into().ok().context("a colour has three values")
}

/// What a file holds: size, rate, and the mean colour and grey of every frame.
pub async fn facts(path: &Path) -> Result<Value> {
    let probe = numbered::media().probe(path).await?;
    let read = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        .output()
        .await?;
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let frames: Vec<&[u8]> = read.stdout.chunks(probe.width as usize * probe.height as usize * 3).collect();
    ensure!(frames.len() as u64 == probe.frames, "{} frames were counted, {} decoded", probe.frames, frames.len());
    let colours: Vec<[f64; 3]> = frames.iter().map(|frame| mean(frame)).collect();
    let luma: Vec<f64> = colours.iter().map(|[r, g, b]| 0.299 * r + 0.587 * g + 0.114 * b).collect();
    let black: Vec<usize> = luma.iter().enumerate().filter(|(_, luma)| **luma < BLACK).map(|(i, _)| i).collect();
    Ok(json!({
        "width": probe.width,
        "height": probe.height,
        "frames": probe.frames,
        "fps": probe.fps,
        "colors": colours,
        "luma": luma,
        "black_frames": black,
    }))
}

fn mean(frame: &[u8]) -> [f64; 3] {
    let mut sums = [0_u64; 3];
    for pixel in frame.chunks_exact(3) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
    }
    let pixels = (frame.len() / 3) as f64;
    sums.map(|sum| sum as f64 / pixels)
}
