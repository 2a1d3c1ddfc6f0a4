//! `enginehouse bench render`: what the house adds to ffmpeg. Segments as an engine would give them are stitched with fades
//! by `render` and by one hand-written ffmpeg command, in turns; the medians count. Fades are not sharpened, for ffmpeg's own
//! filters are no match there; what sharpening adds to `render` is told beside. The two results are compared frame by frame.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::bench::scenes::{self, Ground};
use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::clock::Stopwatch;
use crate::digest::Digest;
use crate::media::bare::{self, Stitch};
use crate::media::frames::{Fit, FrameReader, PixelFormat, VideoSpec};
use crate::media::{Media, Rendered};

#[derive(clap::Args)]
pub struct Args {
    /// Segments to stitch
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=64))]
    segments: u32,
    /// Frames of each segment
    #[arg(long, default_value_t = 81, value_parser = clap::value_parser!(u32).range(16..=10_000))]
    frames: u32,
    /// Pixels, even numbers
    #[arg(long, default_value = "1280x720", value_name = "WIDTHxHEIGHT", value_parser = size)]
    size: (u32, u32),
    /// How often each of the two is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// Frames of a fade, and the rate: those of a travel video.
const FADE: u32 = 8;
const FPS: u32 = 16;

/// What a travel video sharpens its fades with, unless it is told otherwise.
const SHARPEN: f64 = 0.3;

/// Peak signal-to-noise ratio of luma, in decibels, below which two frames are not the same picture encoded twice.
const ALIKE_DB: f64 = 36.0;

pub async fn run(global: &Global, args: &Args) -> Done {
    let media = House::open(global)?.media();
    let folder = tempfile::tempdir().context("cannot make a folder for the bench")?;
    let (width, height) = args.size;
    let shape = Stitch { width, height, fps: FPS, frames: args.frames, fade: FADE };
    eprintln!(
        "{} segments of {} frames, {width}x{height}, fades of {FADE} frames, cosine, not sharpened; {} rounds",
        args.segments, args.frames, args.rounds
    );
    let bench = Bench { segments: draw(&media, args.segments, shape, folder.path()).await?, shape, media, folder };

    let (mut by_ffmpeg, mut by_render, mut sharpened) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..args.rounds {
        // Neither always comes first.
        if round % 2 == 0 {
            by_ffmpeg.push(bench.ffmpeg().await?);
            by_render.push(bench.render(0.0).await?);
        } else {
            by_render.push(bench.render(0.0).await?);
            by_ffmpeg.push(bench.ffmpeg().await?);
        }
        sharpened.push(bench.render(SHARPEN).await?);
    }
    let alike = bench.compare(args.segments).await?;
    let (ffmpeg_s, render_s, sharpened_s) = (median(by_ffmpeg), median(by_render), median(sharpened));
    eprintln!("one ffmpeg command: {ffmpeg_s:.2} s; render: {render_s:.2} s; with sharpening: {sharpened_s:.2} s");
    eprintln!("the results are the same frame by frame: at least {alike:.1} dB");
    let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
    let figures = json!({
        "ffmpeg_s": rounded(ffmpeg_s), "render_s": rounded(render_s), "ratio": rounded(render_s / ffmpeg_s),
    });
    println!("{figures}");
    Ok(ExitCode::SUCCESS)
}

/// Encodes the segments.
async fn draw(media: &Media, segments: u32, shape: Stitch, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let Stitch { width, height, fps, frames, .. } = shape;
    let (format, fps) = (PixelFormat::Yuv420p, f64::from(fps));
    let spec = VideoSpec { width, height, fps, format, crf: 18, lossless: false };
    let ground = Ground::new();
    let mut paths = Vec::new();
    for segment in 0..segments {
        let path = folder.join(format!("{segment}.mp4"));
        scenes::draw(media, &ground, segment, frames, spec, &path).await?;
        paths.push(path);
    }
    Ok(paths)
}

struct Bench {
    media: Media,
    folder: tempfile::TempDir,
    segments: Vec<PathBuf>,
    shape: Stitch,
}

impl Bench {
    /// Seconds that the hand-written command takes.
    async fn ffmpeg(&self) -> anyhow::Result<Duration> {
        let watch = Stopwatch::start();
        bare::stitch(&self.media, &self.segments, self.shape, &self.folder.path().join("ffmpeg.mp4")).await?;
        Ok(watch.elapsed())
    }

    /// Seconds that the same takes as a timeline, looks at the sources and at the result included.
    async fn render(&self, sharpen: f64) -> anyhow::Result<Duration> {
        let named: HashMap<Digest, &PathBuf> =
            self.segments.iter().map(|path| (Digest::of(path.as_os_str().as_encoded_bytes()), path)).collect();
        let clips: Vec<Value> = self
            .segments
            .iter()
            .map(|path| json!({"video": {"$artifact": Digest::of(path.as_os_str().as_encoded_bytes())}}))
            .collect();
        let fades: Vec<Value> = (1..clips.len())
            .map(|next| json!({"after": next - 1, "frames": FADE, "curve": "cosine", "sharpen": sharpen}))
            .collect();
        let timeline = json!({"clips": clips, "fades": fades});
        let find = |digest| {
            let found = named.get(&digest).map(|path| path.to_path_buf());
            found.ok_or_else(|| crate::task::Failure::internal("media_failed", "no such segment"))
        };
        let watch = Stopwatch::start();
        let Rendered { path, .. } = self.media.render(&timeline, &find, self.folder.path()).await?;
        let taken = watch.elapsed();
        let name = if sharpen > 0.0 { "sharpened.mp4" } else { "render.mp4" };
        std::fs::rename(path, self.folder.path().join(name)).context("cannot keep the result")?;
        Ok(taken)
    }

    /// How alike the least alike frames of the two results are, in decibels. An error when they are not the same.
    async fn compare(&self, segments: u32) -> anyhow::Result<f64> {
        let Stitch { width, height, frames, fade, .. } = self.shape;
        let mut readers = Vec::new();
        for name in ["ffmpeg.mp4", "render.mp4"] {
            let path = self.folder.path().join(name);
            readers
                .push(FrameReader::open(&self.media, &path, width, height, PixelFormat::Yuv420p, Fit::Stretch).await?);
        }
        let [one, other] = readers.as_mut_slice() else { bail!("two results were made") };
        let pixels = width as usize * height as usize;
        let (mut count, mut least) = (0, f64::INFINITY);
        loop {
            let (Some(one), Some(other)) = (one.next().await?, other.next().await?) else { break };
            let alike = psnr(one.data.get(..pixels).unwrap_or_default(), other.data.get(..pixels).unwrap_or_default());
            if alike < ALIKE_DB {
                bail!("frame {count} of the two results differs: {alike:.1} dB, less than {ALIKE_DB} dB");
            }
            least = least.min(alike);
            count += 1;
        }
        let wanted = segments * frames - (segments - 1) * fade;
        let lengths = (one.source().frames, other.source().frames);
        if (count, lengths) != (wanted, (wanted.into(), wanted.into())) {
            bail!("the results have {} and {} frames, expected {wanted}", lengths.0, lengths.1);
        }
        Ok(least)
    }
}

/// Peak signal-to-noise ratio in decibels.
fn psnr(one: &[u8], other: &[u8]) -> f64 {
    let squares: u64 = one.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    let mean = squares as f64 / one.len().max(1) as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

/// In seconds; of an even number of times, the mean of the two in the middle.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0.0, Duration::as_secs_f64);
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 } else { at(middle) }
}

/// `1280x720`.
fn size(text: &str) -> anyhow::Result<(u32, u32)> {
    let side = |text: &str| text.parse().ok().filter(|side: &u32| (32..=8192).contains(side) && side.is_multiple_of(2));
    text.split_once('x')
        .and_then(|(width, height)| Some((side(width)?, side(height)?)))
        .ok_or_else(|| anyhow!("expected WIDTHxHEIGHT in even numbers of pixels from 32 to 8192, such as 1280x720"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        let of = |times: &[u64]| median(times.iter().copied().map(Duration::from_secs).collect());
        assert_eq!((of(&[9, 1, 2]), of(&[4, 1, 2, 9]), of(&[5])), (2.0, 3.0, 5.0));
    }

    #[test]
    fn the_ratio_of_signal_to_noise_is_in_decibels() {
        assert_eq!(psnr(&[7; 100], &[7; 100]), f64::INFINITY);
        assert!((psnr(&[100; 100], &[101; 100]) - 48.13).abs() < 0.01);
    }

    #[test]
    fn sizes_are_two_even_numbers() {
        assert_eq!(size("1280x720").unwrap(), (1280, 720));
        for bad in ["", "1280", "1281x720", "0x0", "axb", "16384x16384"] {
            assert!(size(bad).unwrap_err().to_string().contains("1280x720"), "{bad}");
        }
    }
}
