//! What a file is. ffprobe is asked twice: for the streams, then for the frames of the picture track.
//!
//! **Frames** are counted, never taken from a header. One packet is one frame where that is certain: in MP4, MOV, Matroska
//! and WebM, with a codec that stores one picture a packet, progressive, and with every packet meant to be shown after the
//! key frame it needs. Everywhere else (edit lists that hide frames, interlaced fields, packed AVI, streams that begin in
//! the middle of a group) frames are counted by decoding them.
//!
//! **The rate** is the base rate of the track (`r_frame_rate`). Where the average over the whole track is more than 2 %
//! away from that, the track has no constant rate, and the average is the truth.

use std::path::Path;

use image::metadata::Orientation;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::media::header::Header;
use crate::media::process::{self, Ended, Program, Run};
use crate::media::sniff::Signature;
use crate::media::{Kind, Media, Probe, whole};
use crate::task::Failure;

/// Answers of ffprobe longer than this are refused: a packet takes some twenty bytes.
const ANSWER_BYTES: u64 = 64 * 1024 * 1024;

/// Rates further apart than this share belong to a track without constant rate.
const RATE_TOLERANCE: f64 = 0.02;

/// Codecs in which one packet always is one picture that is shown.
const ONE_PICTURE_A_PACKET: [&str; 12] =
    ["h264", "hevc", "av1", "vp9", "mpeg4", "prores", "dnxhd", "ffv1", "mjpeg", "png", "qtrle", "utvideo"];

/// What the reader needs beyond the public facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub facts: Probe,
    pub signature: Signature,
    /// How a still picture is to be turned. Videos are turned by ffmpeg.
    pub orientation: Orientation,
}

/// Probes a file.
pub(super) async fn probe(media: &Media, path: &Path) -> Result<Source, Failure> {
    let signature = Signature::of(path).await?;
    if signature == Signature::AnimatedWebp {
        return Err(unreadable("animated WebP is not supported; convert it to MP4 or GIF"));
    }
    if signature.is_still() { still(media, path, signature).await } else { moving(media, path, signature).await }
}

async fn still(media: &Media, path: &Path, signature: Signature) -> Result<Source, Failure> {
    let header = header(path).await;
    if let Some(header) = &header {
        fits(media, header.width.into(), header.height.into())?;
        if let Some(why) = header.too_long() {
            return Err(Failure::denied("media_too_large", format!("the picture {why}")));
        }
    }
    if signature == Signature::Jpeg && !whole::jpeg_ends(path).await.map_err(|e| unreadable(&e.to_string()))? {
        return Err(unreadable("the picture is cut off"));
    }
    let answer: Answer = ask(media, path, signature, &["-count_frames", "-show_entries", STREAMS]).await?;
    let track = answer.picture_track().ok_or_else(|| unreadable("the picture is damaged or cut off"))?;
    if track.nb_read_frames.as_deref() != Some("1") {
        return Err(unreadable("the picture is damaged or cut off"));
    }
    fits(media, track.width.into(), track.height.into())?;
    let orientation = header.as_ref().map_or(Orientation::NoTransforms, |header| header.orientation);
    let (width, height) = match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (track.height, track.width)
        }
        _ => (track.width, track.height),
    };
    let has_alpha = header.map_or_else(|| track.has_alpha(), |header| header.has_alpha);
    let facts =
        Probe { kind: Kind::Picture, frames: 1, fps: 0.0, width, height, seconds: 0.0, has_audio: false, has_alpha };
    Ok(Source { facts, signature, orientation })
}

/// None when the header is not understood: ffmpeg may know better.
async fn header(path: &Path) -> Option<Header> {
    let path = path.to_path_buf();
    tokio::task::spawn_blocking(move || Header::read(&path).ok()).await.ok().flatten()
}

async fn moving(media: &Media, path: &Path, signature: Signature) -> Result<Source, Failure> {
    let missing = whole::missing(path).await.map_err(|e| unreadable(&e.to_string()))?;
    if let Some(missing) = missing {
        return Err(unreadable(&format!("it is cut off: {missing} bytes are missing at its end")));
    }
    let answer: Answer = ask(media, path, signature, &["-show_entries", STREAMS]).await?;
    let has_audio = answer.streams.iter().any(|stream| stream.codec_type == "audio");
    let seconds = answer.format.duration.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    let done = |facts| Ok(Source { facts, signature, orientation: Orientation::NoTransforms });
    let Some(track) = answer.picture_track() else {
        if !has_audio {
            return Err(unreadable("it holds neither pictures nor sound"));
        }
        let facts =
            Probe { kind: Kind::Audio, frames: 0, fps: 0.0, width: 0, height: 0, seconds, has_audio, has_alpha: false };
        return done(facts);
    };
    let (width, height) = track.displayed();
    fits(media, track.width.into(), track.height.into())?;
    fits(media, width.into(), height.into())?;
    let frames = count(media, path, signature, &answer, track).await?;
    if frames == 0 {
        return Err(unreadable("it holds no frame that can be decoded"));
    }
    if frames > media.tools.frames {
        return Err(Failure::denied(
            "media_too_large",
            format!(
                "the video has {frames} frames, more than the {} that the setting `media.frames` allows",
                media.tools.frames
            ),
        ));
    }
    let has_alpha = track.has_alpha();
    if frames == 1 && signature == Signature::Gif {
        let facts =
            Probe { kind: Kind::Picture, frames, fps: 0.0, width, height, seconds: 0.0, has_audio: false, has_alpha };
        return done(facts);
    }
    let fps = track.fps();
    let seconds = if seconds > 0.0 {
        seconds
    } else if fps > 0.0 {
        frames as f64 / fps
    } else {
        0.0
    };
    done(Probe { kind: Kind::Video, frames, fps, width, height, seconds, has_audio, has_alpha })
}

/// Counts the frames of a track.
async fn count(
    media: &Media,
    path: &Path,
    signature: Signature,
    answer: &Answer,
    track: &Stream,
) -> Result<u64, Failure> {
    let index = track.index.to_string();
    let is_mov = answer.format.format_name.contains("mp4");
    let indexed = is_mov || answer.format.format_name.contains("matroska");
    let progressive = matches!(track.field_order.as_deref(), None | Some("progressive" | "unknown"));
    let args = ["-select_streams", &index, "-show_entries", "packet=pts,flags"];
    let (out, _) = run(media, path, signature, &args, "csv=p=0").await?;
    let packets = String::from_utf8_lossy(&out);
    let found = packets.lines().filter(|line| !line.trim().is_empty()).count() as u64;
    // The table of an MP4 names every frame: fewer in the file means that its end is missing.
    let promised = track.nb_frames.as_deref().and_then(|text| text.parse::<u64>().ok());
    if is_mov && let Some(promised) = promised.filter(|promised| *promised > found) {
        return Err(unreadable(&format!("it is cut off: {found} of {promised} frames are there")));
    }
    let certain = indexed && progressive && ONE_PICTURE_A_PACKET.contains(&track.codec_name.as_str());
    if certain && all_shown(&packets) {
        return Ok(found);
    }
    let answer: Answer = ask(
        media,
        path,
        signature,
        &["-select_streams", &index, "-count_frames", "-show_entries", "stream=nb_read_frames,codec_type"],
    )
    .await?;
    let frames = answer.streams.first().and_then(|stream| stream.nb_read_frames.as_deref());
    Ok(frames.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Whether every packet is shown and none needs what came before the file began. Lines are `pts,flags`.
fn all_shown(packets: &str) -> bool {
    let mut first = None;
    for line in packets.lines().filter(|line| !line.trim().is_empty()) {
        let mut fields = line.trim().split(',');
        let pts = fields.next().and_then(|text| text.parse::<i64>().ok());
        let flags = fields.next().unwrap_or_default();
        let (Some(pts), false) = (pts, flags.contains('D')) else { return false };
        match first {
            None if flags.contains('K') => first = Some(pts),
            Some(first) if pts > first => {}
            _ => return false,
        }
    }
    first.is_some()
}

fn fits(media: &Media, width: u64, height: u64) -> Result<(), Failure> {
    media.fits(width, height, "the picture")
}

const STREAMS: &str = "stream=index,codec_type,codec_name,pix_fmt,width,height,sample_aspect_ratio,r_frame_rate,\
                       avg_frame_rate,nb_frames,nb_read_frames,field_order:stream_disposition=attached_pic:\
                       stream_side_data=rotation:stream_tags=alpha_mode:format=format_name,duration";

async fn ask<T: for<'de> Deserialize<'de>>(
    media: &Media,
    path: &Path,
    signature: Signature,
    args: &[&str],
) -> Result<T, Failure> {
    let (out, ended) = run(media, path, signature, args, "json").await?;
    if !ended.ok {
        return Err(unreadable(&process::plain(&ended.said, path)));
    }
    serde_json::from_slice(&out)
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
    all.extend(process::input(path, signature));
    let mut run = Run::start(media, Program::Ffprobe, all, false)?;
    let mut stdout = run.stdout()?.take(ANSWER_BYTES + 1);
    let mut out = Vec::new();
    run.within(stdout.read_to_end(&mut out))
        .await?
        .map_err(|e| Failure::internal("media_failed", format!("cannot read what ffprobe answers: {e}")))?;
    if out.len() as u64 > ANSWER_BYTES {
        return Err(Failure::denied("media_too_large", "the file has too many packets to be counted"));
    }
    drop(stdout);
    Ok((out, run.end().await?))
}

/// The failure of a file that is no medium, or a damaged one.
pub(super) fn unreadable(why: &str) -> Failure {
    Failure::invalid("unreadable_media", format!("the file cannot be read as picture, video or sound: {why}"))
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

impl Answer {
    /// The first picture track that is not the cover of a record.
    fn picture_track(&self) -> Option<&Stream> {
        self.streams.iter().find(|stream| {
            stream.codec_type == "video"
                && stream.disposition.attached_pic == 0
                && stream.width > 0
                && stream.height > 0
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Format {
    format_name: String,
    duration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stream {
    index: u32,
    codec_type: String,
    codec_name: String,
    pix_fmt: String,
    width: u32,
    height: u32,
    sample_aspect_ratio: Option<String>,
    r_frame_rate: Option<String>,
    avg_frame_rate: Option<String>,
    nb_frames: Option<String>,
    nb_read_frames: Option<String>,
    field_order: Option<String>,
    disposition: Disposition,
    side_data_list: Vec<SideData>,
    tags: Tags,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Disposition {
    attached_pic: u8,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SideData {
    rotation: Option<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tags {
    /// VP8 and VP9 keep transparency in a second layer that their pixel format does not show.
    alpha_mode: Option<String>,
}

impl Stream {
    /// Size on the screen: pixels made square by widening, quarter turns applied.
    fn displayed(&self) -> (u32, u32) {
        let mut width = self.width;
        if let Some((num, den)) = self.sample_aspect_ratio.as_deref().and_then(|text| ratio(text, ':'))
            && num != den
        {
            width = (f64::from(width) * num / den).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        }
        let turned = self.side_data_list.iter().filter_map(|side| side.rotation).any(|degrees| {
            let quarter = degrees.rem_euclid(180.0);
            (45.0..135.0).contains(&quarter)
        });
        if turned { (self.height, width) } else { (width, self.height) }
    }

    fn fps(&self) -> f64 {
        let rate = |text: &Option<String>| {
            text.as_deref().and_then(|text| ratio(text, '/')).map(|(num, den)| num / den).filter(|fps| *fps > 0.0)
        };
        match (rate(&self.r_frame_rate), rate(&self.avg_frame_rate)) {
            (Some(base), Some(average)) if (base - average).abs() <= RATE_TOLERANCE * base => base,
            (_, Some(average)) => average,
            (Some(base), None) => base,
            (None, None) => 0.0,
        }
    }

    fn has_alpha(&self) -> bool {
        let format = self.pix_fmt.as_str();
        ["rgba", "bgra", "argb", "abgr", "yuva", "gbrap", "ya8", "ya16"].iter().any(|name| format.starts_with(name))
            || self.tags.alpha_mode.as_deref() == Some("1")
    }
}

/// `num/den` with both above zero.
fn ratio(text: &str, separator: char) -> Option<(f64, f64)> {
    let (num, den) = text.split_once(separator)?;
    let (num, den) = (num.parse::<f64>().ok()?, den.parse::<f64>().ok()?);
    (num > 0.0 && den > 0.0).then_some((num, den))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(json: &str) -> Stream {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_size_is_that_on_the_screen() {
        let sideways = r#"{"width": 1440, "height": 1080, "sample_aspect_ratio": "4:3",
                           "side_data_list": [{"rotation": -90}]}"#;
        assert_eq!(stream(sideways).displayed(), (1080, 1920));
        assert_eq!(stream(r#"{"width": 10, "height": 20, "sample_aspect_ratio": "0:1"}"#).displayed(), (10, 20));
    }

    #[test]
    fn a_track_without_constant_rate_has_its_average() {
        assert_eq!(stream(r#"{"r_frame_rate": "30/1", "avg_frame_rate": "2997/100"}"#).fps(), 30.0);
        assert_eq!(stream(r#"{"r_frame_rate": "90000/1", "avg_frame_rate": "24/1"}"#).fps(), 24.0);
        assert_eq!(stream(r#"{"r_frame_rate": "100/10", "avg_frame_rate": "0/0"}"#).fps(), 10.0);
    }

    #[test]
    fn hidden_and_orphaned_packets_are_seen() {
        assert!(all_shown("0,K_\n512,__\n256,__\n"));
        assert!(!all_shown("0,K_\n-512,__\n"), "shown before the first key frame");
        assert!(!all_shown("0,KD\n512,__\n"), "hidden by an edit list");
        assert!(!all_shown("0,__\n512,K_\n"), "begins in the middle");
        assert!(!all_shown(""), "nothing at all");
    }
}
