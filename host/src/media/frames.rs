//! Raw frames in and out of ffmpeg, for those that compute on pixels: the renderer and the animatic engine.
//!
//! **Colours.** Every YUV frame on this side is BT.709 in limited range (luma 16 to 235), and every file is written and
//! tagged so. Sources are converted into it from what they declare; YUV that declares no matrix is read as BT.601, which
//! is what ffmpeg and OpenCV write when nobody asks for another. RGB frames have full range.
//!
//! **Transparency** is laid over black, except in [`PixelFormat::Rgba`]. **High dynamic range** (PQ, HLG) is brought into
//! that of ordinary screens, one and the same way for every file: up to 1000 nits, diffuse white at 203.

use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio_util::task::AbortOnDropHandle;

use crate::media::probe::{self, Hdr, Source, unreadable};
use crate::media::process::{self, Program, Run};
use crate::media::sniff::Signature;
use crate::media::{Media, Probe, Tools, rate, webp, words};
use crate::task::Failure;

/// Threads of the encoder: fixed, because what it writes depends on their number.
const ENCODER_THREADS: &str = "4";

/// The scaler as exact as it goes: no visible drift over generations.
const SCALER: &str = "flags=lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact";

/// Layout of a raw frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// Packed, 3 bytes a pixel.
    Rgb24,
    /// Packed, 4 bytes a pixel; colours are multiplied by alpha. For reading alone.
    Rgba,
    /// Planar, chroma halved in both directions: even sizes alone.
    Yuv420p,
    /// Planar, full chroma: any size.
    Yuv444p,
}

impl PixelFormat {
    /// The planar format that a video of this size is kept in: [`PixelFormat::Yuv444p`] where a side is odd.
    pub fn planar(width: u32, height: u32) -> Self {
        if width.is_multiple_of(2) && height.is_multiple_of(2) { PixelFormat::Yuv420p } else { PixelFormat::Yuv444p }
    }

    /// Bytes of one frame.
    pub fn frame_bytes(self, width: u32, height: u32) -> usize {
        let pixels = width as usize * height as usize;
        match self {
            PixelFormat::Rgb24 | PixelFormat::Yuv444p => pixels * 3,
            PixelFormat::Rgba => pixels * 4,
            PixelFormat::Yuv420p => pixels + pixels / 4 * 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            PixelFormat::Rgb24 => "rgb24",
            PixelFormat::Rgba => "rgba",
            PixelFormat::Yuv420p => "yuv420p",
            PixelFormat::Yuv444p => "yuv444p",
        }
    }

    /// Arguments of ffmpeg's `scale` that lead into this format in the convention of this file. RGB to RGB passes through
    /// YUV inside the scaler, with one matrix for both ways as long as none is named.
    fn convert(self) -> String {
        let colours = match self {
            PixelFormat::Rgb24 | PixelFormat::Rgba => "out_range=pc",
            PixelFormat::Yuv420p | PixelFormat::Yuv444p => "out_range=tv:out_color_matrix=bt709",
        };
        format!("{SCALER}:{colours},format={}", self.name())
    }

    fn check(self, width: u32, height: u32) -> Result<(), Failure> {
        let odd = Self::planar(width, height) == PixelFormat::Yuv444p;
        if width == 0 || height == 0 || (self == PixelFormat::Yuv420p && odd) {
            let name = self.name();
            return Err(Failure::internal("media_failed", format!("a {name} frame cannot be {width}x{height}")));
        }
        Ok(())
    }
}

/// How a source meets a target size of another shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fit {
    /// Both sides take the target's length.
    #[default]
    Stretch,
    /// The middle of the source in the target's shape.
    Crop,
    /// The whole source with black bars.
    Letterbox,
}

/// One frame. `data` has exactly the bytes that format and size need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    pub data: Vec<u8>,
}

/// Decodes a picture or video into frames of one size and format, in display order, every one exactly once.
pub struct FrameReader {
    run: Option<Run>,
    tools: Tools,
    stdout: ChildStdout,
    path: PathBuf,
    format: PixelFormat,
    width: u32,
    height: u32,
    facts: Probe,
    /// Feeds the program with frames that it cannot decode itself.
    feeding: Option<AbortOnDropHandle<Result<(), Failure>>>,
    /// Frames that must come.
    wanted: u64,
    given: u64,
}

impl FrameReader {
    /// Starts decoding. Pictures give one frame. Codes: those of [`Media::probe`]; `no_pictures` for sound alone.
    pub async fn open(
        media: &Media,
        path: &Path,
        width: u32,
        height: u32,
        format: PixelFormat,
        fit: Fit,
    ) -> Result<Self, Failure> {
        let source = probe::probe(media, path).await?;
        let all = 0..source.facts.frames;
        Self::start(media, path, &source, all, Target { width, height, format, fit })
    }

    /// As [`FrameReader::open`], for some of the frames of a file that was probed already.
    pub(super) fn start(
        media: &Media,
        path: &Path,
        source: &Source,
        frames: Range<u64>,
        target: Target,
    ) -> Result<Self, Failure> {
        let Target { width, height, format, .. } = target;
        format.check(width, height)?;
        media.fits(width.into(), height.into(), "the wanted frame")?;
        if source.facts.frames == 0 {
            return Err(Failure::invalid("no_pictures", "the file holds sound alone, but pictures are needed"));
        }
        let fed = source.signature == Signature::AnimatedWebp;
        let mut run = Run::start(media, Program::Ffmpeg, decode(media, path, source, &frames, target), fed)?;
        let stdout = run.stdout()?;
        let feeding = if fed { Some(webp::feed(path, frames.clone(), run.stdin()?)) } else { None };
        let path = path.to_path_buf();
        let wanted = frames.end.saturating_sub(frames.start);
        Ok(Self {
            run: Some(run),
            tools: media.tools.clone(),
            stdout,
            path,
            format,
            width,
            height,
            facts: source.facts,
            feeding,
            wanted,
            given: 0,
        })
    }

    /// What the file is.
    pub fn source(&self) -> &Probe {
        &self.facts
    }

    /// The next frame; none after the last. A file that breaks off in the middle is `unreadable_media`.
    pub async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        let mut data = Vec::new();
        if !self.fill(&mut data).await? {
            return Ok(None);
        }
        Ok(Some(Frame { format: self.format, width: self.width, height: self.height, data }))
    }

    /// Reads the next frame's bytes into `data`, whatever it held; false after the last.
    pub(super) async fn fill(&mut self, data: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(run) = &mut self.run else { return Ok(false) };
        data.resize(self.format.frame_bytes(self.width, self.height), 0);
        let stdout = &mut self.stdout;
        let got = run
            .within(async {
                let mut got = 0;
                while let Some(rest) = data.get_mut(got..)
                    && !rest.is_empty()
                {
                    match stdout.read(rest).await? {
                        0 => break,
                        n => got += n,
                    }
                }
                Ok::<_, std::io::Error>(got)
            })
            .await?
            .map_err(|e| unreadable(&format!("the decoded frames cannot be read: {e}")))?;
        if got == data.len() && self.given < self.wanted {
            self.given += 1;
            return Ok(true);
        }
        self.end(got).await?;
        Ok(false)
    }

    /// No frame came, but `rest` bytes: right after the last frame, and nowhere else, this is as it should be.
    async fn end(&mut self, rest: usize) -> Result<(), Failure> {
        let (wanted, given) = (self.wanted, self.given);
        if let Some(mut run) = self.run.take() {
            if rest > 0 && given == wanted {
                return Err(unreadable(&format!("{wanted} frames were counted, but decoding gives more")));
            }
            let ended = run.end().await?;
            if !ended.ok {
                return Err(words::refusal(&self.tools, &ended.said, &self.path));
            }
            if given != wanted {
                if let Some(feeding) = self.feeding.take() {
                    // Why it gave no more is what there is to say.
                    feeding.await.unwrap_or(Ok(()))?;
                }
                return Err(unreadable(&format!("decoding gives {given} of {wanted} frames")));
            }
        }
        Ok(())
    }
}

/// What frames are decoded into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
    pub fit: Fit,
}

/// ffmpeg's arguments for reading.
fn decode(media: &Media, path: &Path, source: &Source, frames: &Range<u64>, target: Target) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["-nostdin", "-hide_banner", "-v", "error", "-xerror"].map(Into::into).to_vec();
    if source.signature == Signature::AnimatedWebp {
        let (width, height) = source.stored;
        let size = format!("{width}x{height}");
        args.extend(["-f", "rawvideo", "-pix_fmt", "rgba", "-s", &size, "-i", "pipe:0"].map(Into::into));
    } else {
        // Versions differ in what they turn, and none turns all: it is done below. A size that changes in the middle must
        // not begin the counting of frames anew.
        args.extend(["-noautorotate", "-reinit_filter", "0"].map(Into::into));
        args.extend(source.decoder.iter().flat_map(|decoder| ["-c:v", *decoder]).map(Into::into));
        args.extend(process::input(&media.tools, path, source.signature));
    }
    args.extend(["-map", &format!("0:{}", source.index), "-fps_mode", "passthrough", "-vf"].map(Into::into));
    args.push(filters(source, frames, target).into());
    args.extend(["-f", "rawvideo", "-pix_fmt", target.format.name(), "pipe:1"].map(Into::into));
    args
}

/// The wanted frames, upright, over black, scaled into the target.
fn filters(source: &Source, frames: &Range<u64>, target: Target) -> String {
    let Target { width, height, format, fit } = target;
    let mut chain: Vec<String> = Vec::new();
    if !source.signature.is_picture() {
        // Nothing, as long as the frames keep their size.
        let (width, height) = source.stored;
        chain.push(format!("scale={width}:{height}:{SCALER}"));
    }
    let is_part = frames.start > 0 || frames.end < source.facts.frames;
    if is_part && source.signature != Signature::AnimatedWebp {
        chain.push(format!("trim=start_frame={}:end_frame={}", frames.start, frames.end));
    }
    let turn = match source.orientation {
        Orientation::NoTransforms => None,
        Orientation::Rotate90 => Some("transpose=clock"),
        Orientation::Rotate180 => Some("hflip,vflip"),
        Orientation::Rotate270 => Some("transpose=cclock"),
        Orientation::FlipHorizontal => Some("hflip"),
        Orientation::FlipVertical => Some("vflip"),
        Orientation::Rotate90FlipH => Some("transpose=clock,hflip"),
        Orientation::Rotate270FlipH => Some("transpose=cclock,hflip"),
    };
    chain.extend(turn.map(String::from));
    chain.extend(source.hdr.as_ref().map(tone_mapping));
    if source.facts.has_alpha {
        let black = if format == PixelFormat::Rgba { "" } else { ",format=gbrp" };
        chain.push(format!("format=gbrap,premultiply=inplace=1{black}"));
    }
    let convert = format.convert();
    let scale = |w: u32, h: u32| format!("scale={w}:{h}:{convert}");
    // Offsets of planes with halved chroma are even.
    let step = if format == PixelFormat::Yuv420p { 2 } else { 1 };
    let (from_width, from_height) = (f64::from(source.facts.width.max(1)), f64::from(source.facts.height.max(1)));
    let (by_width, by_height) = (f64::from(width) / from_width, f64::from(height) / from_height);
    let side = |length: f64, by: f64| ((length * by / f64::from(step)).round() as u32).max(1).saturating_mul(step);
    match fit {
        Fit::Stretch => chain.push(scale(width, height)),
        Fit::Crop => {
            let by = by_width.max(by_height);
            let (w, h) = (side(from_width, by).max(width), side(from_height, by).max(height));
            let (x, y) = ((w - width) / 2 / step * step, (h - height) / 2 / step * step);
            chain.push(format!("{},crop={width}:{height}:{x}:{y}", scale(w, h)));
        }
        Fit::Letterbox => {
            let by = by_width.min(by_height);
            let (w, h) = (side(from_width, by).min(width), side(from_height, by).min(height));
            let (x, y) = ((width - w) / 2 / step * step, (height - h) / 2 / step * step);
            chain.push(format!("{},pad={width}:{height}:{x}:{y}:color=black", scale(w, h)));
        }
    }
    chain.join(",")
}

/// From high dynamic range to ordinary RGB: light is made linear with diffuse white (203 nits) at 1, the primaries become
/// those of BT.709, and what is brighter than three tenths of that white is bent so that 1000 nits come out as white.
fn tone_mapping(hdr: &Hdr) -> String {
    let Hdr { transfer, primaries, matrix, range, is_rgb } = hdr;
    // Full chroma first: the filter that follows takes no halves of odd sizes.
    let deep = if *is_rgb { "gbrp16le" } else { "yuv444p10le" };
    format!(
        "format={deep},setparams=color_trc={transfer}:color_primaries={primaries}:colorspace={matrix}:range={range},\
         zscale=t=linear:npl=203:p=bt709:m=gbr,format=gbrpf32le,tonemap=mobius:desat=0:peak=4.926,\
         zscale=t=bt709:m=gbr:r=pc,format=gbrp"
    )
}

/// What a video file is encoded as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoSpec {
    pub width: u32,
    pub height: u32,
    /// Frames a second, above 0. Within a thousandth of n or n·1000/1001 it is written as exactly that.
    pub fps: f64,
    /// Of the frames that are written.
    pub format: PixelFormat,
    /// H.264 quality, 0 to 51; smaller is better.
    pub crf: u32,
    /// Frames come back exactly as they were written; `crf` is ignored. RGB frames are then stored as RGB.
    pub lossless: bool,
}

/// Encodes frames into an mp4 (H.264; yuv420p, or yuv444p where a side is odd). Equal frames give equal files.
///
/// A path that ends in `.mkv` gives the same in Matroska; `.webm` gives VP9. `.webp` and `.png` give animated pictures, from RGB
/// frames alone; quality and losslessness are then those of the format.
///
/// The file appears under its name when it is complete, never before.
pub struct FrameWriter {
    run: Run,
    stdin: ChildStdin,
    /// Where it is written until it is complete.
    part: PathBuf,
    path: PathBuf,
    spec: VideoSpec,
    taken: u64,
}

impl FrameWriter {
    /// Starts encoding into `path`; a file that is there is replaced.
    pub async fn create(media: &Media, path: &Path, spec: VideoSpec) -> Result<Self, Failure> {
        spec.format.check(spec.width, spec.height)?;
        if spec.format == PixelFormat::Rgba {
            return Err(Failure::internal("media_failed", "videos are written without transparency"));
        }
        media.fits(spec.width.into(), spec.height.into(), "the wanted frame")?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let mut run = Run::start(media, Program::Ffmpeg, encode(path, &part, &spec)?, true)?;
        let stdin = run.stdin()?;
        Ok(Self { run, stdin, part, path: path.to_path_buf(), spec, taken: 0 })
    }

    pub async fn write(&mut self, frame: &Frame) -> Result<(), Failure> {
        let VideoSpec { format, width, height, .. } = self.spec;
        if (frame.format, frame.width, frame.height) != (format, width, height)
            || frame.data.len() != format.frame_bytes(width, height)
        {
            return Err(Failure::internal("media_failed", "a frame of another size or format came to the encoder"));
        }
        self.feed(&frame.data).await
    }

    /// The bytes of one frame, as the spec says.
    pub(super) async fn feed(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.taken += 1;
        if self.run.within(self.stdin.write_all(data)).await?.is_ok() {
            return Ok(());
        }
        // A broken pipe explains nothing; what ffmpeg said does.
        let said = self.run.end().await?.said;
        Err(cannot_write(&process::plain(&said, &self.part)))
    }

    /// Ends the file; it is complete when this returns.
    pub async fn finish(self) -> Result<(), Failure> {
        let Self { mut run, mut stdin, part, path, taken, .. } = self;
        if taken == 0 {
            return Err(cannot_write("it has no frame"));
        }
        run.within(stdin.shutdown()).await?.map_err(|e| cannot_write(&e.to_string()))?;
        drop(stdin);
        let ended = run.end().await?;
        if !ended.ok {
            return Err(cannot_write(&process::plain(&ended.said, &part)));
        }
        tokio::fs::rename(&part, &path).await.map_err(|e| cannot_write(&e.to_string()))
    }
}

/// The failure of a result that does not reach the disk.
pub(super) fn cannot_write(why: &str) -> Failure {
    Failure::internal("media_failed", format!("the result cannot be written: {why}"))
}

/// ffmpeg's arguments for writing.
fn encode(path: &Path, part: &Path, spec: &VideoSpec) -> Result<Vec<OsString>, Failure> {
    let VideoSpec { width, height, fps, format, crf, lossless } = *spec;
    let size = format!("{width}x{height}");
    let rate = rate(fps)?;
    let mut args: Vec<String> =
        ["-nostdin", "-hide_banner", "-v", "error", "-y", "-f", "rawvideo"].map(Into::into).into();
    args.extend(["-pix_fmt", format.name(), "-s", &size, "-r", &rate].map(Into::into));
    if format != PixelFormat::Rgb24 {
        args.extend(["-color_range", "tv", "-colorspace", "bt709"].map(Into::into));
    }
    args.extend(["-i", "pipe:0", "-fps_mode", "passthrough", "-bitexact"].map(Into::into));
    let keep_rgb = lossless && format == PixelFormat::Rgb24;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if let Some(other) = other_codec(extension, format) {
        args.extend(other.into_iter().map(Into::into));
        if extension == "webm" {
            let stored = PixelFormat::planar(width, height);
            args.extend(["-vf".into(), format!("scale={}", stored.convert()), "-pix_fmt".into(), stored.name().into()]);
        }
        return Ok(with_output(args, part));
    }
    if keep_rgb {
        args.extend(["-c:v", "libx264rgb"].map(Into::into));
    } else {
        let stored = if lossless { format } else { PixelFormat::planar(width, height) };
        if stored != format {
            args.extend(["-vf".into(), format!("scale={}", stored.convert())]);
        }
        args.extend(["-c:v", "libx264", "-pix_fmt", stored.name()].map(Into::into));
        args.extend(["-color_range", "tv", "-colorspace", "bt709"].map(Into::into));
        args.extend(["-color_primaries", "bt709", "-color_trc", "bt709"].map(Into::into));
    }
    let quality = if lossless { "0".to_string() } else { crf.min(51).to_string() };
    args.extend([if lossless { "-qp" } else { "-crf" }.into(), quality]);
    args.extend(["-preset", "medium", "-threads", ENCODER_THREADS].map(Into::into));
    let container: &[&str] = match extension {
        "mkv" => &["-f", "matroska"],
        _ => &["-movflags", "+faststart", "-f", "mp4"],
    };
    args.extend(container.iter().map(|argument| (*argument).into()));
    Ok(with_output(args, part))
}

/// What is not H.264, by the extension of the file.
fn other_codec(extension: &str, format: PixelFormat) -> Option<Vec<&'static str>> {
    match (extension, format) {
        ("webm", _) => Some(
            // One thread: what several write depends on their number.
            ["-c:v", "libvpx-vp9", "-crf", "32", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "8"]
                .into_iter()
                .chain(["-threads", "1", "-f", "webm"])
                .collect(),
        ),
        ("webp", PixelFormat::Rgb24) => {
            Some(["-c:v", "libwebp_anim", "-quality", "80", "-loop", "0", "-f", "webp"].to_vec())
        }
        ("png", PixelFormat::Rgb24) => {
            Some(["-c:v", "apng", "-pix_fmt", "rgb24", "-plays", "0", "-f", "apng"].to_vec())
        }
        _ => None,
    }
}

fn with_output(args: Vec<String>, part: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut url = OsString::from("file:");
    url.push(part);
    args.push(url);
    args
}
