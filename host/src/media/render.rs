//! A timeline becomes one file, in one pass: clips are decoded at the output's size, blended where they meet, and encoded
//! once; layers are drawn in between. Frames that nothing changes reach the encoder as they were decoded.

use std::ffi::OsString;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use serde_json::Value;
use uuid::Uuid;

use crate::digest::Digest;
use crate::media::clip::{ClipFrames, Opening, Pixels, Shape, compute};
use crate::media::frames::{Fit, FrameReader, FrameWriter, PixelFormat, Target, VideoSpec, cannot_write};
use crate::media::layers::Overlay;
use crate::media::pixels::{self, Layout};
use crate::media::plan::{Plan, Planned};
use crate::media::process::{self, Program, Run};
use crate::media::sniff::Signature;
use crate::media::timeline::{Fade, Output, OutputKind, Timeline};
use crate::media::{Media, Rendered, probe, words};
use crate::task::Failure;

/// Bit rate of the sound that is laid under a video.
const AUDIO_BIT_RATE: &str = "192k";

/// Quality of pictures that become JPEG, 1 to 100.
const JPEG_QUALITY: u8 = 90;

/// Renders. The file gets a new name in `folder`; on failure nothing is left there. Looks at files without asking for room
/// ([`Media::probe`] does): a render holds room already, and waiting for more could be for ever.
pub(super) async fn render(
    media: &Media,
    timeline: &Value,
    find: &(dyn Fn(Digest) -> Result<PathBuf, Failure> + Send + Sync),
    folder: &Path,
) -> Result<Rendered, Failure> {
    let timeline = Timeline::parse(timeline)?;
    let audio = timeline.audio.filter(|_| timeline.output.kind == OutputKind::Video).map(find).transpose()?;
    if let Some(audio) = &audio
        && !probe::probe(media, audio).await?.facts.has_audio
    {
        return Err(Failure::invalid("no_sound", "the file that `/audio` names holds no sound"));
    }
    let plan = Plan::new(media, &timeline, find).await?;
    let work =
        tempfile::Builder::new().prefix("render-").tempdir_in(folder).map_err(|e| cannot_write(&e.to_string()))?;
    let (made, extension) = match timeline.output.kind {
        OutputKind::Picture => {
            let jpeg = timeline.output.is_jpeg();
            (picture(media, &plan, jpeg, work.path()).await?, if jpeg { "jpg" } else { "png" })
        }
        OutputKind::Video => {
            let silent = video(media, &plan, &timeline.output, work.path()).await?;
            let made = match &audio {
                None => silent,
                Some(audio) => with_sound(media, &silent, audio, &plan, work.path()).await?,
            };
            (made, "mp4")
        }
    };
    // The facts are those of the file, not those that were planned.
    let facts = probe::probe(media, &made).await?.facts;
    if timeline.output.kind == OutputKind::Video && facts.frames != plan.frames {
        return Err(cannot_write(&format!("{} frames were to be written, {} were", plan.frames, facts.frames)));
    }
    let path = folder.join(format!("{}.{extension}", Uuid::new_v4().simple()));
    tokio::fs::rename(&made, &path).await.map_err(|e| cannot_write(&e.to_string()))?;
    Ok(Rendered {
        path,
        name: timeline.output.name,
        kind: facts.kind,
        frames: facts.frames,
        fps: facts.fps,
        width: facts.width,
        height: facts.height,
    })
}

/// A frame of a file at its own size as PNG.
pub(super) async fn frame_png(media: &Media, path: &Path, frame: u64) -> Result<Vec<u8>, Failure> {
    let source = probe::probe(media, path).await?;
    let facts = source.facts;
    if frame >= facts.frames {
        return Err(Failure::invalid(
            "range_outside_source",
            format!("frame {frame} was asked for, but the source has {} frames, the first of them 0", facts.frames),
        ));
    }
    let target = Target { width: facts.width, height: facts.height, format: PixelFormat::Rgb24, fit: Fit::Stretch };
    let mut reader = FrameReader::start(media, path, &source, frame..frame + 1, target)?;
    let found = reader.next().await?.ok_or_else(|| probe::unreadable("the frame cannot be decoded"))?;
    png(found.data.into(), facts.width, facts.height).await
}

/// The first frame of the timeline.
async fn picture(media: &Media, plan: &Plan, jpeg: bool, work: &Path) -> Result<PathBuf, Failure> {
    let mut first = None;
    frames(media, plan, work, Taker::First(&mut first)).await?;
    let pixels = first.ok_or_else(|| cannot_write("the timeline gave no frame"))?;
    let path = work.join("picture");
    let (width, height) = (plan.width, plan.height);
    let bytes = if jpeg { self::jpeg(pixels, width, height).await? } else { png(pixels, width, height).await? };
    tokio::fs::write(&path, bytes).await.map_err(|e| cannot_write(&e.to_string()))?;
    Ok(path)
}

async fn png(rgb: Pixels, width: u32, height: u32) -> Result<Vec<u8>, Failure> {
    compute(move || {
        let mut bytes = Vec::new();
        PngEncoder::new(Cursor::new(&mut bytes))
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .map(|()| bytes)
            .map_err(|e| cannot_write(&e.to_string()))
    })
    .await?
}

async fn jpeg(rgb: Pixels, width: u32, height: u32) -> Result<Vec<u8>, Failure> {
    compute(move || {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .map(|()| bytes)
            .map_err(|e| cannot_write(&e.to_string()))
    })
    .await?
}

/// All frames of the timeline.
async fn video(media: &Media, plan: &Plan, output: &Output, work: &Path) -> Result<PathBuf, Failure> {
    let path = work.join("video.mp4");
    let spec = VideoSpec {
        width: plan.width,
        height: plan.height,
        fps: plan.fps,
        format: plan.format,
        crf: output.crf,
        lossless: output.lossless,
    };
    let mut writer = FrameWriter::create(media, &path, spec).await?;
    frames(media, plan, work, Taker::Video(&mut writer)).await?;
    writer.finish().await?;
    Ok(path)
}

/// Who gets the frames of a timeline.
enum Taker<'a> {
    /// The first frame is all that is wanted.
    First(&'a mut Option<Pixels>),
    Video(&'a mut FrameWriter),
}

impl Taker<'_> {
    /// Whether there is something to get ready for.
    fn wants_all(&self) -> bool {
        matches!(self, Taker::Video(_))
    }

    /// Takes a frame; false: no more are wanted.
    async fn take(&mut self, pixels: Pixels) -> Result<bool, Failure> {
        match self {
            Taker::First(first) => {
                **first = Some(pixels);
                Ok(false)
            }
            Taker::Video(writer) => writer.feed(&pixels).await.map(|()| true),
        }
    }
}

/// Gives every frame of the timeline to `taker`, until it wants no more.
async fn frames(media: &Media, plan: &Plan, work: &Path, mut taker: Taker<'_>) -> Result<(), Failure> {
    let Plan { format, width, height, .. } = *plan;
    let shape = Shape { width, height, format };
    let mut overlay = Overlay::new(media, &plan.layers, shape, work);
    // The clip before, which stands at the first frame of its fade, while that lasts.
    let mut before: Option<(ClipFrames, Fade)> = None;
    let open = |clip: &Planned| Opening::start(media, clip, shape, work);
    let mut opening = plan.clips.first().map(open);
    for (i, clip) in plan.clips.iter().enumerate() {
        let Some(opened) = opening.take() else { break };
        let mut own = opened.done().await?;
        // The next one gets ready meanwhile: programs take a while to start.
        opening = plan.clips.get(i + 1).filter(|_| taker.wants_all()).map(open);
        for i in 0..alone(clip) {
            let mut pixels = own.next().await?;
            match &mut before {
                Some((earlier, fade)) if i < fade.frames.get() => {
                    pixels = blended(earlier.next().await?, pixels, shape, *fade, i).await?;
                }
                _ => before = None,
            }
            if !taker.take(overlay.draw(pixels).await?).await? {
                return Ok(());
            }
        }
        before = clip.fade.map(|fade| (own, fade));
    }
    Ok(())
}

/// How many frames of a clip come before the fade at its end.
fn alone(clip: &Planned) -> u64 {
    clip.frames.saturating_sub(clip.fade.map_or(0, |fade| fade.frames.get()))
}

async fn blended(earlier: Pixels, later: Pixels, shape: Shape, fade: Fade, i: u64) -> Result<Pixels, Failure> {
    let layout = Layout { format: shape.format, width: shape.width as usize, height: shape.height as usize };
    let blend = move || pixels::blend(&earlier, &later, layout, fade.weight(i), fade.sharpen);
    compute(blend).await.map(Pixels::new)
}

/// Lays sound under a video: cut or filled with silence to the video's length. The frames are copied as they are.
async fn with_sound(media: &Media, video: &Path, sound: &Path, plan: &Plan, work: &Path) -> Result<PathBuf, Failure> {
    let path = work.join("sound.mp4");
    let seconds = format!("{:.6}", plan.frames as f64 / plan.fps);
    let mut args: Vec<OsString> = ["-nostdin", "-hide_banner", "-v", "error", "-y"].map(Into::into).to_vec();
    for input in [video, sound] {
        args.extend(process::input(&media.tools, input, Signature::of(input).await?));
    }
    args.extend(
        ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-c:a", "aac", "-b:a", AUDIO_BIT_RATE].map(Into::into),
    );
    // Sound that begins late in its file begins as late here.
    args.extend(["-af".into(), format!("aresample=async=1:first_pts=0,apad,atrim=end={seconds}").into()]);
    args.extend(["-bitexact", "-map_metadata", "-1", "-movflags", "+faststart", "-f", "mp4"].map(Into::into));
    let mut url = OsString::from("file:");
    url.push(&path);
    args.push(url);
    let ended = Run::start(media, Program::Ffmpeg, args, false)?.end().await?;
    if !ended.ok {
        return Err(words::refusal(&media.tools, &ended.said, sound));
    }
    Ok(path)
}
