//! Pictures and videos. ffmpeg and ffprobe run behind this interface and nowhere else.
//!
//! - `process.rs`: one run of ffmpeg: guarded, bounded, reaped.
//! - `words.rs`: what it said, told to people.
//! - `sniff.rs`: pictures are known by their first bytes, and so is what cannot be read.
//! - `header.rs`: the size of a picture, before anything is read whole.
//! - `whole.rs`: whether a file is as long as it says.
//! - `probe.rs`: what a file is: frames counted, size as displayed, rate.
//! - `streams.rs`: what ffprobe says about a file.
//! - `timing.rs`: when the frames of a video are shown.
//! - `webp.rs`: animated WebP, decoded here.
//! - `frames.rs`: raw frames in and out of ffmpeg, for those that compute on pixels.
//! - `timeline.rs`: the JSON of `render`, parsed and checked.
//! - `step.rs`: from one rate to another, exactly.
//! - `plan.rs`: which frames of which file a timeline means.
//! - `clip.rs`: the frames of one clip, decoded ahead.
//! - `pixels.rs`: adjusting, blending, sharpening.
//! - `layers/`: pictures, videos, shapes and text over the frames of a timeline.
//! - `render.rs`: a timeline becomes one file.
//! - `tone.rs`: a quiet tone.
//! - `bare.rs`: the measure of the render bench: one ffmpeg command.
//! - `intake.rs`: files of users become artifacts: pictures upright, broken files refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::config::MediaConfig;
use crate::digest::Digest;
use crate::task::Failure;

pub mod bare;
mod clip;
pub mod frames;
mod header;
pub mod intake;
mod layers;
mod pixels;
mod plan;
mod probe;
mod process;
mod render;
mod sniff;
mod step;
mod streams;
mod timeline;
mod timing;
mod tone;
mod webp;
mod whole;
mod words;

/// ffmpeg, ffprobe and the limits they run under. Cheap to clone; clones share the limits.
#[derive(Clone, Debug)]
pub struct Media {
    tools: Tools,
    /// Room for renders. Held for the whole of one, its own looks at files included.
    renders: Arc<Semaphore>,
    /// Room for looks at files. Apart from `renders`, so that a look never waits behind long films.
    looks: Arc<Semaphore>,
}

/// Where the programs are and what they may use.
#[derive(Clone, Debug)]
pub struct Tools {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
    /// Wall-clock seconds one run may take.
    pub seconds: u64,
    /// Width times height of one frame.
    pub pixels: u64,
    /// Frames of one source or one result.
    pub frames: u64,
    /// Bytes of memory that one run may write to. Held on Linux alone.
    pub memory: u64,
    /// Bytes of one result. Held on Linux alone.
    pub result: u64,
    /// Bytes of decoded frames that one clip may set aside on the disk.
    pub scratch: u64,
    /// Bytes that may stand around the pixels of a picture: colour profiles, previews, the short film of a phone.
    pub picture_extra: u64,
    /// Renders that run at once, and as many looks at files beside them; 0: as many as there are processors.
    pub parallel_runs: usize,
}

impl From<&MediaConfig> for Tools {
    fn from(config: &MediaConfig) -> Self {
        Self {
            ffmpeg: config.ffmpeg.clone().into(),
            ffprobe: config.ffprobe.clone().into(),
            seconds: config.run_seconds,
            pixels: config.megapixels.saturating_mul(1_000_000),
            frames: config.frames,
            memory: config.memory_mb.saturating_mul(1 << 20),
            result: config.result_mb.saturating_mul(1 << 20),
            scratch: config.scratch_mb.saturating_mul(1 << 20),
            picture_extra: config.picture_extra_mb.saturating_mul(1 << 20),
            parallel_runs: config.parallel_runs,
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Video,
    Picture,
    Audio,
}

/// The facts of a file. Frames are counted, not estimated; sizes are as displayed, in pixels. What does not apply is 0:
/// rate and seconds of a picture, frames and size of sound.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub kind: Kind,
    pub frames: u64,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
    pub seconds: f64,
    pub has_audio: bool,
    pub has_alpha: bool,
}

/// A rendered file and its facts.
#[derive(Clone, Debug)]
pub struct Rendered {
    pub path: PathBuf,
    pub name: String,
    pub kind: Kind,
    pub frames: u64,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
}

impl Media {
    pub fn new(tools: Tools) -> Self {
        let runs = match tools.parallel_runs {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            runs => runs.min(Semaphore::MAX_PERMITS),
        };
        Self { tools, renders: Arc::new(Semaphore::new(runs)), looks: Arc::new(Semaphore::new(runs)) }
    }

    /// Code `unreadable_media` when it is no picture, video or sound, or is cut off; `ffmpeg_missing` with the command
    /// that installs it. Waits for room: [`Tools::parallel_runs`].
    pub async fn probe(&self, path: &Path) -> Result<Probe, Failure> {
        // Nobody closes the semaphores of this file: there always is a permit.
        let _room = self.looks.acquire().await;
        Ok(probe::probe(self, path).await?.facts)
    }

    /// Renders a timeline (the JSON of `media.render` in `wit/media.wit`) into a new file in `folder`, which must exist.
    /// `source` gives the file of a digest. Waits for room: [`Tools::parallel_runs`].
    ///
    /// Codes: `invalid_timeline`, `range_outside_source`, `unreadable_media`, `no_pictures`, `no_sound`,
    /// `media_too_large`, `media_too_slow`, `ffmpeg_missing`, and those of `source`.
    pub async fn render(
        &self,
        timeline: &Value,
        source: &(dyn Fn(Digest) -> Result<PathBuf, Failure> + Send + Sync),
        folder: &Path,
    ) -> Result<Rendered, Failure> {
        let _room = self.renders.acquire().await;
        render::render(self, timeline, source, folder).await
    }

    /// Frame `frame` (the first is 0) of a picture or video, at its own size, as the bytes of a PNG. Codes: those of
    /// [`Media::probe`]; `range_outside_source`.
    pub async fn frame_png(&self, path: &Path, frame: u64) -> Result<Vec<u8>, Failure> {
        let _room = self.looks.acquire().await;
        render::frame_png(self, path, frame).await
    }

    /// Writes a quiet tone of so many seconds (above 0); the format follows the extension: flac, mp3, opus, ogg, wav, m4a.
    pub async fn tone(&self, path: &Path, seconds: f64) -> Result<(), Failure> {
        if !seconds.is_finite() || seconds <= 0.0 {
            return Err(Failure::internal("media_failed", format!("a tone cannot have {seconds} s")));
        }
        let _room = self.renders.acquire().await;
        tone::write(self, path, seconds).await
    }

    /// Code `media_too_large` when so many bytes of decoded frames are too many for the disk.
    fn sets_aside(&self, bytes: u64) -> Result<(), Failure> {
        let most = self.tools.scratch;
        if bytes <= most {
            return Ok(());
        }
        Err(Failure::denied(
            "media_too_large",
            format!(
                "playing the clip backwards would set {} MB of decoded frames aside, more than the {} MB that the setting \
                 `media.scratch_mb` allows: take a shorter range or a smaller size",
                bytes >> 20,
                most >> 20
            ),
        ))
    }

    /// Code `media_too_large` when a frame of this size is over the limit.
    fn fits(&self, width: u64, height: u64, what: &str) -> Result<(), Failure> {
        if width.saturating_mul(height) <= self.tools.pixels {
            return Ok(());
        }
        Err(Failure::denied(
            "media_too_large",
            format!(
                "{what} is {width}x{height}, over the {:.1} megapixels that the setting `media.megapixels` allows",
                self.tools.pixels as f64 / 1e6
            ),
        ))
    }
}

/// A rate as ffmpeg takes it exactly: whole, an NTSC rate (n·1000/1001), or in thousandths.
fn rate(fps: f64) -> Result<String, Failure> {
    const NEAR: f64 = 1e-3;
    if !fps.is_finite() || !(0.001..=1000.0).contains(&fps) {
        return Err(Failure::invalid("invalid_rate", format!("{fps} is no frame rate: expected 0.001 to 1000")));
    }
    let whole = fps.round();
    let ntsc = (fps * 1.001).round();
    Ok(if whole >= 1.0 && (fps - whole).abs() < NEAR {
        format!("{whole}")
    } else if ntsc >= 1.0 && (fps - ntsc / 1.001).abs() < NEAR {
        format!("{}/1001", ntsc * 1000.0)
    } else {
        format!("{}/1000", (fps * 1000.0).round())
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;

    /// Stands in for ffprobe: notes when another one runs beside it, and fails.
    const ALONE: &str = r#"printf '#!/bin/sh
mkdir "$0.running" || touch "$0.together"
sleep 0.03
rmdir "$0.running"
exit 1
' > "$0" && chmod +x "$0""#;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_more_runs_at_once_than_the_setting_allows_and_looks_never_wait_for_renders() {
        let folder = tempfile::tempdir().unwrap();
        let (ffprobe, film) = (folder.path().join("ffprobe"), folder.path().join("film"));
        // Written by a process of its own: nothing that starts meanwhile inherits the open file.
        assert!(Command::new("sh").args(["-c", ALONE]).arg(&ffprobe).status().unwrap().success());
        std::fs::write(&film, "no film").unwrap();
        let config = MediaConfig { parallel_runs: 1, ..MediaConfig::default() };
        let media = Media::new(Tools { ffprobe: ffprobe.clone(), ..Tools::from(&config) });
        let together = folder.path().join("ffprobe.together");

        let probes = (0..6).map(|_| media.probe(&film));
        for answer in futures::future::join_all(probes).await {
            assert_eq!(answer.unwrap_err().code, "unreadable_media");
        }
        assert!(!together.exists(), "two looks at once");

        let clip = json!({"video": {"$artifact": Digest::of(b"film"), "name": "film", "media_type": "video/mp4"}});
        let timeline = json!({"output": {"kind": "video"}, "clips": [clip]});
        let source = |_| Ok(film.clone());
        let renders = (0..6).map(|_| media.render(&timeline, &source, folder.path()));
        for answer in futures::future::join_all(renders).await {
            assert_eq!(answer.unwrap_err().code, "unreadable_media");
        }
        assert!(!together.exists(), "two renders at once");

        // A long render has all the room there is: a look still comes through.
        let _rendering = media.renders.clone().acquire_owned().await.unwrap();
        assert_eq!(media.clone().probe(&film).await.unwrap_err().code, "unreadable_media");
    }

    #[test]
    fn common_rates_are_written_exactly() {
        let texts =
            [(16.0, "16"), (29.97, "30000/1001"), (23.976_024, "24000/1001"), (12.5, "12500/1000"), (0.5, "500/1000")];
        for (fps, text) in texts {
            assert_eq!(rate(fps).unwrap(), text);
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 5000.0] {
            assert_eq!(rate(bad).unwrap_err().code, "invalid_rate");
        }
    }
}
