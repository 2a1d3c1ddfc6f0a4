//! What ffprobe says about a file: its streams, each with the facts that its container and its decoder know.

use image::metadata::Orientation;
use serde::Deserialize;

use crate::media::probe::unreadable;
use crate::task::Failure;

/// What ffprobe is asked for.
pub(super) const STREAMS: &str = "stream=index,codec_type,codec_name,pix_fmt,width,height,sample_aspect_ratio,r_frame_rate,\
                                  avg_frame_rate,time_base,nb_frames,nb_read_frames,field_order,color_range,color_space,\
                                  color_transfer,color_primaries:stream_disposition=attached_pic:\
                                  stream_side_data=displaymatrix:stream_tags=alpha_mode:format=format_name,duration";

/// How far from a quarter turn a display matrix may be, as a share.
const MATRIX_TOLERANCE: f64 = 0.01;

#[derive(Deserialize)]
pub(super) struct Answer {
    #[serde(default)]
    pub streams: Vec<Stream>,
    #[serde(default)]
    pub format: Format,
}

impl Answer {
    /// The first picture track that is not the cover of a record.
    pub fn picture_track(&self) -> Option<&Stream> {
        self.streams.iter().find(|stream| {
            stream.codec_type == "video"
                && stream.disposition.attached_pic == 0
                && stream.width > 0
                && stream.height > 0
        })
    }

    /// Whether there is a picture track, be it of unknown size.
    pub fn has_pictures(&self) -> bool {
        self.streams.iter().any(|stream| stream.codec_type == "video" && stream.disposition.attached_pic == 0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Format {
    pub format_name: String,
    pub duration: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Stream {
    pub index: u32,
    pub codec_type: String,
    pub codec_name: String,
    pub pix_fmt: String,
    pub width: u32,
    pub height: u32,
    sample_aspect_ratio: Option<String>,
    r_frame_rate: Option<String>,
    avg_frame_rate: Option<String>,
    time_base: Option<String>,
    pub nb_frames: Option<String>,
    pub nb_read_frames: Option<String>,
    pub field_order: Option<String>,
    pub color_range: Option<String>,
    pub color_space: Option<String>,
    pub color_transfer: Option<String>,
    pub color_primaries: Option<String>,
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
    displaymatrix: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tags {
    /// VP8 and VP9 keep transparency in a second layer that their pixel format does not show.
    alpha_mode: Option<String>,
}

impl Stream {
    /// Size on the screen: pixels made square by widening, quarter turns applied.
    pub fn displayed(&self, orientation: Orientation) -> (u32, u32) {
        let mut width = self.width;
        if let Some((num, den)) = self.sample_aspect_ratio.as_deref().and_then(|text| ratio(text, ':'))
            && num != den
        {
            width = (f64::from(width) * num / den).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        }
        turned((width, self.height), orientation)
    }

    /// How the frames are to be turned. Code `unreadable_media` for angles between quarter turns.
    pub fn orientation(&self) -> Result<Orientation, Failure> {
        let Some(matrix) = self.side_data_list.iter().find_map(|side| side.displaymatrix.as_deref()) else {
            return Ok(Orientation::NoTransforms);
        };
        of_matrix(matrix).ok_or_else(|| {
            unreadable("it is to be turned by an angle that is no quarter turn: save it again the way it is to be seen")
        })
    }

    /// The base rate of the track and its average; 0: not stated.
    pub fn rates(&self) -> (f64, f64) {
        let rate = |text: &Option<String>| {
            text.as_deref().and_then(|text| ratio(text, '/')).map_or(0.0, |(num, den)| num / den)
        };
        (rate(&self.r_frame_rate), rate(&self.avg_frame_rate))
    }

    /// Seconds that one tick of its clock takes.
    pub fn tick(&self) -> f64 {
        self.time_base.as_deref().and_then(|text| ratio(text, '/')).map_or(0.0, |(num, den)| num / den)
    }

    pub fn has_alpha(&self) -> bool {
        const WITH_ALPHA: [&str; 10] = ["rgba", "bgra", "argb", "abgr", "yuva", "gbrap", "ya8", "ya16", "ayuv", "vuya"];
        WITH_ALPHA.iter().any(|name| self.pix_fmt.starts_with(name)) || self.is_layered()
    }

    /// Whether transparency is a second layer.
    pub fn is_layered(&self) -> bool {
        self.tags.alpha_mode.as_deref() == Some("1") && matches!(self.codec_name.as_str(), "vp8" | "vp9")
    }

    /// Whether its light reaches beyond that of ordinary screens.
    pub fn is_hdr(&self) -> bool {
        matches!(self.color_transfer.as_deref(), Some("smpte2084" | "arib-std-b67"))
    }
}

/// A size after turning.
pub(super) fn turned((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    }
}

/// `num/den` with both above zero.
fn ratio(text: &str, separator: char) -> Option<(f64, f64)> {
    let (num, den) = text.split_once(separator)?;
    let (num, den) = (num.parse::<f64>().ok()?, den.parse::<f64>().ok()?);
    (num > 0.0 && den > 0.0).then_some((num, den))
}

/// What a display matrix does: lines of three numbers, each line behind its number and a colon. None: no quarter turn.
fn of_matrix(text: &str) -> Option<Orientation> {
    let mut rows = text.lines().filter_map(|line| line.split_once(':')).map(|(_, row)| {
        let mut numbers = row.split_whitespace().map(|number| number.parse::<f64>().unwrap_or(0.0));
        (numbers.next().unwrap_or(0.0), numbers.next().unwrap_or(0.0))
    });
    // A point (x, y), y down, goes to (ax + cy, bx + dy).
    let ((a, b), (c, d)) = (rows.next()?, rows.next()?);
    let (straight, crossed) = (a.abs().max(d.abs()), b.abs().max(c.abs()));
    if crossed <= straight * MATRIX_TOLERANCE {
        return Some(match (a < 0.0, d < 0.0) {
            (false, false) => Orientation::NoTransforms,
            (true, true) => Orientation::Rotate180,
            (true, false) => Orientation::FlipHorizontal,
            (false, true) => Orientation::FlipVertical,
        });
    }
    (straight <= crossed * MATRIX_TOLERANCE).then_some(match (b < 0.0, c < 0.0) {
        (false, true) => Orientation::Rotate90,
        (true, false) => Orientation::Rotate270,
        (false, false) => Orientation::Rotate90FlipH,
        (true, true) => Orientation::Rotate270FlipH,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(json: &str) -> Stream {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_size_is_that_on_the_screen() {
        let sideways = stream(r#"{"width": 1440, "height": 1080, "sample_aspect_ratio": "4:3"}"#);
        assert_eq!(sideways.displayed(Orientation::Rotate270), (1080, 1920));
        let unknown = stream(r#"{"width": 10, "height": 20, "sample_aspect_ratio": "0:1"}"#);
        assert_eq!(unknown.displayed(Orientation::FlipHorizontal), (10, 20));
    }

    #[test]
    fn a_display_matrix_is_one_of_eight_orientations_or_refused() {
        let one = 65_536;
        for ([a, b, c, d], orientation) in [
            ([one, 0, 0, one], Some(Orientation::NoTransforms)),
            ([0, one, -one, 0], Some(Orientation::Rotate90)),
            ([-one, 0, 0, -one], Some(Orientation::Rotate180)),
            ([0, -one, one, 0], Some(Orientation::Rotate270)),
            ([-one, 0, 0, one], Some(Orientation::FlipHorizontal)),
            ([one, 0, 0, -one], Some(Orientation::FlipVertical)),
            ([0, one, one, 0], Some(Orientation::Rotate90FlipH)),
            ([0, -one, -one, 0], Some(Orientation::Rotate270FlipH)),
            ([0; 4], Some(Orientation::NoTransforms)),
            ([2 * one, 0, 0, one], Some(Orientation::NoTransforms)),
            ([46_341, 46_341, -46_341, 46_341], None),
        ] {
            let text = format!("\n00000000: {a:12} {b:11} 0\n00000001: {c:12} {d:11} 0\n00000002: 0 0 1073741824\n");
            assert_eq!(of_matrix(&text), orientation, "{a} {b} {c} {d}");
        }
    }
}
