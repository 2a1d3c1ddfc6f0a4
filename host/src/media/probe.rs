//! What a file is. ffprobe is asked twice: for the streams, then for the frames of the picture track.
//!
//! **Frames** are counted, never taken from a header. One packet is one frame where that is certain: in MP4, MOV, Matroska
//! and WebM, with a codec that stores one picture a packet, progressive, and with every packet meant to be shown after the
//! key frame it needs. Everywhere else (edit lists that hide frames, interlaced fields, packed AVI, streams that begin in
//! the middle of a group) frames are counted by decoding them. Interlaced frames count once, woven as they are stored.
//!
//! **The rate** is the base rate of the track (`r_frame_rate`). Where the average over the whole track is more than 2 %
//! away from that, the track has no constant rate, and the average is the truth. When each frame is shown is kept beside
//! it: see [`timing`](crate::media::timing).
//!
//! **Of several tracks** the first one with pictures counts, covers left out. It begins with its first frame, wherever the
//! sound begins. Animations play once.

use std::path::Path;
use std::sync::Arc;

use image::metadata::Orientation;
use tokio::io::AsyncReadExt;

use crate::media::header::{self, Header};
use crate::media::process::{self, Ended, Program, Run};
use crate::media::sniff::Signature;
use crate::media::streams::{Answer, STREAMS, Stream, turned};
use crate::media::timing::{Mark, Timing};
use crate::media::{Kind, Media, Probe, Tools, webp, whole, words};
use crate::task::Failure;

/// Bytes that ffprobe writes about one packet or frame at most, and about a file before the first.
const LINE_BYTES: u64 = 128;
const OTHER_BYTES: u64 = 1 << 20;

/// Packets for one frame: two fields, each in its own.
const PACKETS_PER_FRAME: u64 = 2;

/// Codecs in which one packet always is one picture that is shown.
const ONE_PICTURE_A_PACKET: [&str; 12] =
    ["h264", "hevc", "av1", "vp9", "mpeg4", "prores", "dnxhd", "ffv1", "mjpeg", "png", "qtrle", "utvideo"];

/// What the reader needs beyond the public facts.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub facts: Probe,
    pub signature: Signature,
    /// How its frames are to be turned.
    pub orientation: Orientation,
    /// Of the picture track.
    pub index: u32,
    /// Size of a frame before it is turned, in pixels as they are stored.
    pub stored: (u32, u32),
    /// When each frame is shown, in seconds from the first; none: at its number divided by the rate.
    pub times: Option<Arc<[f64]>>,
    /// The decoder that must be taken; none: any.
    pub decoder: Option<&'static str>,
    /// Of frames with more light than ordinary screens have.
    pub hdr: Option<Hdr>,
}

/// Colours of high dynamic range, by the names of ffmpeg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hdr {
    pub transfer: String,
    pub primaries: String,
    pub matrix: String,
    pub range: String,
    /// Stored as RGB.
    pub is_rgb: bool,
}

/// Probes a file.
pub(super) async fn probe(media: &Media, path: &Path) -> Result<Source, Failure> {
    let signature = Signature::of(path).await?;
    let file = path.to_path_buf();
    let extra = media.tools.picture_extra;
    let (cut_off, header) = blocking(move || {
        let header = if signature.is_picture() { Header::read(&file, extra).ok() } else { None };
        if let Some(why) = header.as_ref().and_then(Header::too_long) {
            return Err(Failure::denied("media_too_large", format!("the picture {why}")));
        }
        let cut_off = whole::cut_off(&file).map_err(|e| unreadable(&e.to_string()))?;
        if signature == Signature::Jpeg && !whole::jpeg_ends(&file).map_err(|e| unreadable(&e.to_string()))? {
            return Err(unreadable("the picture is cut off"));
        }
        if signature == Signature::Avif
            && let Some(why) = header::beyond_avif(&file).map_err(|e| unreadable(&e.to_string()))?
        {
            return Err(unreadable(why));
        }
        Ok((cut_off, header))
    })
    .await?;
    if let Some(header) = &header {
        fits(media, header.width.into(), header.height.into())?;
    }
    if let Some(why) = cut_off {
        return Err(unreadable(&why));
    }
    match signature {
        Signature::AnimatedWebp => animated(media, path, header).await,
        _ if signature.is_still() => still(media, path, signature, header).await,
        _ => moving(media, path, signature, header).await,
    }
}

async fn still(media: &Media, path: &Path, signature: Signature, header: Option<Header>) -> Result<Source, Failure> {
    let (answer, said) = ask(media, path, signature, &["-count_frames", "-show_entries", STREAMS]).await?;
    let Some(track) = answer.picture_track() else { return Err(words::refusal(&media.tools, &said, path)) };
    if track.nb_read_frames.as_deref() != Some("1") {
        return Err(unreadable("the picture is damaged or cut off"));
    }
    fits(media, track.width.into(), track.height.into())?;
    let orientation = header.as_ref().map_or(Orientation::NoTransforms, |header| header.orientation);
    let (width, height) = turned((track.width, track.height), orientation);
    let has_alpha = header.map_or_else(|| track.has_alpha(), |header| header.has_alpha);
    let facts = Probe { kind: Kind::Picture, frames: 1, width, height, has_alpha, ..NOTHING };
    Ok(Source { orientation, ..source(facts, signature, track)? })
}

/// A WebP that moves. ffmpeg does not know it.
async fn animated(media: &Media, path: &Path, header: Option<Header>) -> Result<Source, Failure> {
    let Some(header) = header else { return Err(unreadable("the animation is damaged or cut off")) };
    let (file, most) = (path.to_path_buf(), media.tools.frames);
    let stored = (header.width, header.height);
    let webp::Animation { marks, has_gaps } = blocking(move || webp::animation(&file, stored, most)).await?;
    if marks.is_empty() {
        return Err(unreadable("it holds no frame that can be decoded"));
    }
    few_enough(&media.tools, marks.len() as u64)?;
    let timing = Timing::of(&marks, 0.0, 0.0)?;
    let has_alpha = header.has_alpha || has_gaps;
    let (width, height) = turned(stored, header.orientation);
    let facts = Probe { width, height, has_alpha, ..moving_facts(marks.len() as u64, &timing, true) };
    Ok(Source {
        facts,
        signature: Signature::AnimatedWebp,
        orientation: header.orientation,
        index: 0,
        stored,
        times: timing.times,
        decoder: None,
        hdr: None,
    })
}

async fn moving(media: &Media, path: &Path, signature: Signature, header: Option<Header>) -> Result<Source, Failure> {
    let (answer, said) = ask(media, path, signature, &["-show_entries", STREAMS]).await?;
    let has_audio = answer.streams.iter().any(|stream| stream.codec_type == "audio");
    let Some(track) = answer.picture_track() else {
        if answer.has_pictures() {
            return Err(words::refusal(&media.tools, &said, path));
        }
        if !has_audio {
            return Err(unreadable("it holds neither pictures nor sound"));
        }
        let seconds = answer.format.duration.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let facts = Probe { kind: Kind::Audio, seconds, has_audio, ..NOTHING };
        return source(facts, signature, &Stream::default());
    };
    let orientation = match header {
        Some(header) => header.orientation,
        None => track.orientation()?,
    };
    let (width, height) = track.displayed(orientation);
    fits(media, track.width.into(), track.height.into())?;
    fits(media, width.into(), height.into())?;
    if track.is_hdr() && track.has_alpha() {
        return Err(unreadable("HDR with transparency is not supported: save it without one of the two"));
    }
    let marks = marks(media, path, signature, &answer, track).await?;
    if marks.is_empty() {
        return Err(unreadable("it holds no frame that can be decoded"));
    }
    let frames = marks.len() as u64;
    few_enough(&media.tools, frames)?;
    let (base, average) = track.rates();
    let timing = Timing::of(&marks, base, average)?;
    let is_animation = matches!(signature, Signature::Gif | Signature::Apng);
    let facts = moving_facts(frames, &timing, is_animation);
    let facts = Probe { width, height, has_audio, has_alpha: track.has_alpha(), ..facts };
    Ok(Source { orientation, times: timing.times, ..source(facts, signature, track)? })
}

/// What does not apply.
const NOTHING: Probe = Probe {
    kind: Kind::Video,
    frames: 0,
    fps: 0.0,
    width: 0,
    height: 0,
    seconds: 0.0,
    has_audio: false,
    has_alpha: false,
};

/// An animation of one frame is a picture.
fn moving_facts(frames: u64, timing: &Timing, is_animation: bool) -> Probe {
    if is_animation && frames == 1 {
        return Probe { kind: Kind::Picture, frames, ..NOTHING };
    }
    Probe { kind: Kind::Video, frames, fps: timing.fps, seconds: timing.seconds, ..NOTHING }
}

/// What the reader needs to know of a track.
fn source(facts: Probe, signature: Signature, track: &Stream) -> Result<Source, Failure> {
    let decoder = match track.codec_name.as_str() {
        // ffmpeg's own decoders leave the layer out that holds the transparency.
        "vp8" if track.is_layered() => Some("libvpx"),
        "vp9" if track.is_layered() => Some("libvpx-vp9"),
        _ => None,
    };
    let is_rgb = ["gbr", "rgb", "bgr"].iter().any(|name| track.pix_fmt.starts_with(name));
    let or = |value: &Option<String>, usual: &str| {
        value.clone().filter(|value| !matches!(value.as_str(), "unknown" | "reserved")).unwrap_or_else(|| usual.into())
    };
    let hdr = track.is_hdr().then(|| Hdr {
        transfer: or(&track.color_transfer, "smpte2084"),
        primaries: or(&track.color_primaries, "bt2020"),
        matrix: if is_rgb { "gbr".into() } else { or(&track.color_space, "bt2020nc") },
        range: or(&track.color_range, if is_rgb { "pc" } else { "tv" }),
        is_rgb,
    });
    Ok(Source {
        facts,
        signature,
        orientation: Orientation::NoTransforms,
        index: track.index,
        stored: (track.width, track.height),
        times: None,
        decoder,
        hdr,
    })
}

fn few_enough(tools: &Tools, frames: u64) -> Result<(), Failure> {
    if frames <= tools.frames {
        return Ok(());
    }
    Err(Failure::denied(
        "media_too_large",
        format!("the video has {frames} frames, more than the {} that the setting `media.frames` allows", tools.frames),
    ))
}

/// The frames of a track, one mark each.
async fn marks(
    media: &Media,
    path: &Path,
    signature: Signature,
    answer: &Answer,
    track: &Stream,
) -> Result<Vec<Mark>, Failure> {
    let index = track.index.to_string();
    let is_mov = answer.format.format_name.contains("mp4");
    let indexed = is_mov || answer.format.format_name.contains("matroska");
    let progressive = matches!(track.field_order.as_deref(), None | Some("progressive" | "unknown"));
    let args = ["-select_streams", &index, "-show_entries", "packet=pts,duration,flags"];
    let (out, _) = run(media, path, signature, &args, "compact=p=0").await?;
    let packets: Vec<Packet> = lines(&out).map(|line| Packet::of(&line, track.tick())).collect();
    // The table of an MP4 names every frame: fewer in the file means that its end is missing.
    let promised = track.nb_frames.as_deref().and_then(|text| text.parse::<usize>().ok());
    if is_mov && let Some(promised) = promised.filter(|promised| *promised > packets.len()) {
        return Err(unreadable(&format!("it is cut off: {} of {promised} frames are there", packets.len())));
    }
    let certain = indexed && progressive && ONE_PICTURE_A_PACKET.contains(&track.codec_name.as_str());
    if certain && all_shown(&packets) {
        return Ok(packets.into_iter().map(|packet| packet.mark).collect());
    }
    // One of the two names of the length is known to every version.
    let entries = "frame=best_effort_timestamp,pkt_duration,duration";
    let args = ["-select_streams", &index, "-show_entries", entries];
    let (out, ended) = run(media, path, signature, &args, "compact=p=0").await?;
    let frames: Vec<Mark> = lines(&out).map(|line| Packet::of(&line, track.tick()).mark).collect();
    if frames.is_empty() && !ended.said.is_empty() {
        return Err(words::refusal(&media.tools, &ended.said, path));
    }
    Ok(frames)
}

/// What ffprobe notes about a packet or a frame.
#[derive(Debug, Default, PartialEq)]
struct Packet {
    mark: Mark,
    is_key: bool,
    is_hidden: bool,
}

impl Packet {
    /// From `pts=512|duration=512|flags=K_`. `tick`: seconds for one of these units.
    fn of(line: &str, tick: f64) -> Self {
        let mut packet = Self::default();
        for (name, value) in line.split('|').filter_map(|field| field.split_once('=')) {
            let seconds = || value.parse::<i64>().ok().filter(|_| tick > 0.0).map(|ticks| ticks as f64 * tick);
            match name {
                "pts" | "best_effort_timestamp" => packet.mark.time = seconds(),
                "duration" | "pkt_duration" => packet.mark.length = packet.mark.length.or(seconds()),
                "flags" => (packet.is_key, packet.is_hidden) = (value.contains('K'), value.contains('D')),
                _ => {}
            }
        }
        packet
    }
}

/// Whether every packet is shown and none needs what came before the file began.
fn all_shown(packets: &[Packet]) -> bool {
    let mut first = None;
    for packet in packets {
        let (Some(time), false) = (packet.mark.time, packet.is_hidden) else { return false };
        match first {
            None if packet.is_key => first = Some(time),
            Some(first) if time > first => {}
            _ => return false,
        }
    }
    first.is_some()
}

fn lines(out: &[u8]) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
    // Data that hangs on a packet may add lines of its own.
    out.split(|byte| *byte == b'\n').map(String::from_utf8_lossy).filter(|line| line.contains('='))
}

fn fits(media: &Media, width: u64, height: u64) -> Result<(), Failure> {
    media.fits(width, height, "the picture")
}

/// What ffprobe answers, and what it said beside.
async fn ask(media: &Media, path: &Path, signature: Signature, args: &[&str]) -> Result<(Answer, String), Failure> {
    let (out, ended) = run(media, path, signature, args, "json").await?;
    if !ended.ok {
        return Err(words::refusal(&media.tools, &ended.said, path));
    }
    serde_json::from_slice(&out)
        .map(|answer| (answer, ended.said))
        .map_err(|e| Failure::internal("media_failed", format!("ffprobe gave an answer that is not understood: {e}")))
}

async fn run(
    media: &Media,
    path: &Path,
    signature: Signature,
    args: &[&str],
    format: &str,
) -> Result<(Vec<u8>, Ended), Failure> {
    let mut all: Vec<std::ffi::OsString> = ["-hide_banner", "-v", "error"].map(Into::into).to_vec();
    all.extend(args.iter().map(Into::into));
    all.extend(["-of", format].map(Into::into));
    all.extend(process::input(&media.tools, path, signature));
    let mut run = Run::start(media, Program::Ffprobe, all, false)?;
    let packets = media.tools.frames.saturating_mul(PACKETS_PER_FRAME);
    let most = packets.saturating_mul(LINE_BYTES).saturating_add(OTHER_BYTES);
    let mut stdout = run.stdout()?.take(most.saturating_add(1));
    let mut out = Vec::new();
    run.within(stdout.read_to_end(&mut out))
        .await?
        .map_err(|e| Failure::internal("media_failed", format!("cannot read what ffprobe answers: {e}")))?;
    if out.len() as u64 > most {
        let frames = media.tools.frames;
        let message =
            format!("the file has far more packets than the {frames} frames that the setting `media.frames` allows");
        return Err(Failure::denied("media_too_large", message));
    }
    drop(stdout);
    Ok((out, run.end().await?))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    // A decoder that breaks on a file has found a broken file.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(unreadable("its beginning is damaged")))
}

/// The failure of a file that is no medium, or a damaged one.
pub(super) fn unreadable(why: &str) -> Failure {
    Failure::invalid("unreadable_media", format!("the file cannot be read as picture, video or sound: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(text: &str) -> Vec<Packet> {
        lines(text.as_bytes()).map(|line| Packet::of(&line, 0.5)).collect()
    }

    #[test]
    fn lines_of_ffprobe_are_understood() {
        let mark = |time, length| Mark { time, length };
        let read = packets(
            "pts=4|duration=2|flags=K_\n\npts=N/A|duration=N/A|flags=_D\nbest_effort_timestamp=3|pkt_duration=N/A|duration=1\n",
        );
        let [key, hidden, frame] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!(*key, Packet { mark: mark(Some(2.0), Some(1.0)), is_key: true, is_hidden: false });
        assert_eq!(*hidden, Packet { is_hidden: true, ..Packet::default() });
        assert_eq!(frame.mark, mark(Some(1.5), Some(0.5)));
    }

    #[test]
    fn hidden_and_orphaned_packets_are_seen() {
        let all_shown = |text| all_shown(&packets(text));
        assert!(all_shown("pts=0|flags=K_\npts=512|flags=__\npts=256|flags=__\n"));
        assert!(!all_shown("pts=0|flags=K_\npts=-512|flags=__\n"), "shown before the first key frame");
        assert!(!all_shown("pts=0|flags=KD\npts=512|flags=__\n"), "hidden by an edit list");
        assert!(!all_shown("pts=0|flags=__\npts=512|flags=K_\n"), "begins in the middle");
        assert!(!all_shown(""), "nothing at all");
    }
}
