//! Videos whose frames carry their number, and the numbers read back: how tests see that the right frame is in the right
//! place, through coding and all.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use enginehouse::config::MediaConfig;
use enginehouse::media::frames::{Fit, Frame, FrameReader, FrameWriter, PixelFormat, VideoSpec};
use enginehouse::media::{Media, Tools};

/// Bits of a number.
const BARS: u32 = 8;

/// The programs of this machine, with the limits of the default settings.
pub fn media() -> Media {
    Media::new(Tools::from(&MediaConfig::default()))
}

/// The same with some of it changed.
pub fn media_with(change: impl FnOnce(&mut Tools)) -> Media {
    let mut tools = Tools::from(&MediaConfig::default());
    change(&mut tools);
    Media::new(tools)
}

/// Makes a file with the ffmpeg command line.
pub fn ffmpeg(args: &str, out: &Path) -> Result<()> {
    let status = Command::new("ffmpeg").args(["-v", "error", "-y"]).args(args.split_whitespace()).arg(out).status()?;
    ensure!(status.success(), "ffmpeg {args} ended with {status}");
    Ok(())
}

/// A frame that carries `number` (0 to 255): eight bars, the highest bit left, dark for 0 and light for 1.
pub fn numbered(number: u64, width: u32, height: u32) -> Frame {
    let format = PixelFormat::planar(width, height);
    let mut data = vec![128; format.frame_bytes(width, height)];
    for (i, luma) in data.iter_mut().take((width * height) as usize).enumerate() {
        let bar = i as u32 % width * BARS / width;
        *luma = if number >> (BARS - 1 - bar) & 1 == 1 { 200 } else { 50 };
    }
    Frame { format, width, height, data }
}

/// The number that a frame carries.
pub fn number(frame: &Frame) -> u64 {
    let row = frame.height / 2 * frame.width;
    let step = if frame.format == PixelFormat::Rgb24 { 3 } else { 1 };
    (0..BARS).fold(0, |number, bar| {
        let middle = (row + (2 * bar + 1) * frame.width / (2 * BARS)) * step;
        number << 1 | u64::from(frame.data.get(middle as usize).is_some_and(|luma| *luma > 125))
    })
}

/// What test videos are encoded as.
pub fn spec(width: u32, height: u32, fps: f64) -> VideoSpec {
    VideoSpec { width, height, fps, format: PixelFormat::planar(width, height), crf: 18, lossless: false }
}

/// Writes a video of these frames.
pub async fn write(path: &Path, spec: VideoSpec, frames: impl IntoIterator<Item = Frame>) -> Result<PathBuf> {
    let mut writer = FrameWriter::create(&media(), path, spec).await?;
    for frame in frames {
        writer.write(&frame).await?;
    }
    writer.finish().await?;
    Ok(path.to_path_buf())
}

/// Writes a video of numbered frames.
pub async fn video(
    path: &Path,
    (width, height): (u32, u32),
    fps: f64,
    numbers: impl IntoIterator<Item = u64>,
) -> Result<PathBuf> {
    write(path, spec(width, height, fps), numbers.into_iter().map(|n| numbered(n, width, height))).await
}

/// All frames of a file.
pub async fn read(path: &Path, size: (u32, u32), format: PixelFormat, fit: Fit) -> Result<Vec<Frame>> {
    let mut reader = FrameReader::open(&media(), path, size.0, size.1, format, fit).await?;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next().await? {
        frames.push(frame);
    }
    Ok(frames)
}

/// All frames of a file at its own size, as RGB.
pub async fn rgb(path: &Path) -> Result<Vec<Frame>> {
    let facts = media().probe(path).await?;
    read(path, (facts.width, facts.height), PixelFormat::Rgb24, Fit::Stretch).await
}

/// The numbers that the frames of a file carry.
pub async fn numbers(path: &Path) -> Result<Vec<u64>> {
    let facts = media().probe(path).await.with_context(|| path.display().to_string())?;
    let size = (facts.width, facts.height);
    Ok(read(path, size, PixelFormat::planar(size.0, size.1), Fit::Stretch).await?.iter().map(number).collect())
}

/// Whether no byte is further than `tolerance` from what is wanted.
pub fn near(got: &[u8], want: &[u8], tolerance: u8) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.abs_diff(*w) <= tolerance)
}

/// The RGB value in the middle of an RGB frame.
pub fn middle(frame: &Frame) -> [u8; 3] {
    pixel(frame, frame.width / 2, frame.height / 2)
}

/// The RGB value at a place of an RGB frame.
pub fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
    let at = ((y * frame.width + x) * 3) as usize;
    frame.data.get(at..at + 3).and_then(|value| value.try_into().ok()).unwrap_or_default()
}
