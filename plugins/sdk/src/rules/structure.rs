//! Structure guidance: videos whose movement, edges or depth the generated video is to follow.
//!
//! It is asked for in an object `structure_guidance`, or in older flat fields; both become a [`Guidance`]. The source
//! videos lie on the time line of the stitched travel; one guidance video is rendered for all of it, and each segment
//! takes its part from a frame offset on.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::fields::{self, Fields};

use super::kinds;

/// Which part of the model is guided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The guide video of VACE models.
    Vace,
    /// Uni3C, a controller of its own.
    Uni3c,
}

/// What is made of the source videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preprocessing {
    Flow,
    Canny,
    Depth,
    None,
}

impl Preprocessing {
    /// The spelling in params.
    pub fn as_str(self) -> &'static str {
        match self {
            Preprocessing::Flow => "flow",
            Preprocessing::Canny => "canny",
            Preprocessing::Depth => "depth",
            Preprocessing::None => "none",
        }
    }
}

/// Structure guidance, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    pub target: Target,
    pub preprocessing: Preprocessing,
    /// 1.0: as the model was trained; 0: no effect.
    pub strength: f64,
    pub canny_intensity: f64,
    pub depth_contrast: f64,
    /// Share of the denoising steps during which it acts.
    pub step_window: [f64; 2],
    pub frame_policy: String,
    pub zero_empty_frames: bool,
    pub keep_on_gpu: bool,
    pub videos: Vec<Video>,
    /// A guidance video that exists already: an address, a path, a digest.
    pub guidance_video: Option<String>,
    /// The first frame of it that belongs to the segment.
    pub frame_offset: i64,
}

/// A source video and its place on the time line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Video {
    pub path: String,
    pub start_frame: i64,
    /// Exclusive. None: the end of the time line.
    pub end_frame: Option<i64>,
    /// `adjust` or `clip`.
    pub treatment: String,
    pub source_start_frame: i64,
    /// Exclusive. None: the end of the video.
    pub source_end_frame: Option<i64>,
}

impl Guidance {
    /// Reads what was asked for. Where several layers have a field the first one decides, also with null: a segment says
    /// so that it has no guidance. Failure `invalid_field`, also when the source videos are of different types.
    pub fn read(fields: &Fields<'_>) -> Result<Self, Failure> {
        match fields.present("structure_guidance") {
            Some(Value::Object(block)) => Self::from_block(block),
            _ => Self::from_flat_fields(&Present(fields)),
        }
    }

    /// Whether there is anything to be guided by.
    pub fn is_given(&self) -> bool {
        !self.videos.is_empty() || self.guidance_video.is_some()
    }

    /// `uni3c`, `raw`, or the preprocessing.
    pub fn structure_type(&self) -> &'static str {
        match (self.target, self.preprocessing) {
            (Target::Uni3c, _) => "uni3c",
            (Target::Vace, Preprocessing::None) => "raw",
            (Target::Vace, preprocessing) => preprocessing.as_str(),
        }
    }

    /// Whether any source video shows something in a range of the time line.
    pub fn meets(&self, range: &Range<i64>) -> bool {
        self.videos
            .iter()
            .any(|video| video.start_frame < range.end && video.end_frame.is_none_or(|end| range.start < end))
    }

    /// The block that a segment gets.
    pub fn block(&self, guidance_video: Option<&str>, frame_offset: i64) -> Value {
        json!({
            "target": self.target,
            "preprocessing": self.preprocessing,
            "strength": self.strength,
            "canny_intensity": self.canny_intensity,
            "depth_contrast": self.depth_contrast,
            "step_window": self.step_window,
            "frame_policy": self.frame_policy,
            "zero_empty_frames": self.zero_empty_frames,
            "keep_on_gpu": self.keep_on_gpu,
            "videos": self.videos,
            "_guidance_video_url": guidance_video,
            "_frame_offset": frame_offset,
        })
    }

    fn from_block(block: &Map<String, Value>) -> Result<Self, Failure> {
        let fields = Fields::new([block]);
        let listed = fields.list("videos")?.unwrap_or_default();
        // The block says itself what is made of its sources; entries taken over from older params must not say otherwise.
        common_type("structure_guidance.videos", listed)?;
        let number = |key: &str| Ok::<_, Failure>(fields.number(key)?.unwrap_or(1.0));
        Ok(Self {
            target: word("structure_guidance.target", fields.given("target"), "vace or uni3c")?.unwrap_or(Target::Vace),
            preprocessing: word(
                "structure_guidance.preprocessing",
                fields.given("preprocessing"),
                "flow, canny, depth or none",
            )?
            .unwrap_or(Preprocessing::Flow),
            strength: number("strength")?,
            canny_intensity: number("canny_intensity")?,
            depth_contrast: number("depth_contrast")?,
            step_window: step_window(fields.given("step_window"))?,
            frame_policy: fields.text("frame_policy")?.unwrap_or("fit").into(),
            zero_empty_frames: fields.boolean("zero_empty_frames")?.unwrap_or(true),
            keep_on_gpu: fields.boolean("keep_on_gpu")?.unwrap_or(false),
            videos: videos("structure_guidance.videos", listed)?,
            guidance_video: fields.text("_guidance_video_url")?.filter(|url| !url.is_empty()).map(Into::into),
            frame_offset: fields.integer("_frame_offset")?.unwrap_or(0),
        })
    }

    fn from_flat_fields(fields: &Present<'_>) -> Result<Self, Failure> {
        let listed = fields.list("structure_videos")?;
        let of_entries = common_type("structure_videos", listed)?;
        let kind = fields.first_text(&["structure_type", "structure_video_type"])?.or(of_entries);
        let uni3c = kind == Some("uni3c") || fields.boolean("use_uni3c")?.unwrap_or(false);
        let (target, preprocessing) = match kind {
            _ if uni3c => (Target::Uni3c, Preprocessing::None),
            Some("canny") => (Target::Vace, Preprocessing::Canny),
            Some("depth") => (Target::Vace, Preprocessing::Depth),
            Some("raw") => (Target::Vace, Preprocessing::None),
            _ => (Target::Vace, Preprocessing::Flow),
        };
        let mut videos = videos("structure_videos", listed)?;
        if videos.is_empty()
            && let Some(path) = fields.first_text(&["structure_video_path"])?
        {
            videos.push(Video {
                path: path.into(),
                start_frame: 0,
                end_frame: None,
                treatment: treatment("structure_video_treatment", fields.value("structure_video_treatment"))?,
                source_start_frame: 0,
                source_end_frame: None,
            });
        }
        let own = if uni3c { fields.number("uni3c_strength")? } else { None };
        Ok(Self {
            target,
            preprocessing,
            strength: own.or(fields.number("structure_video_motion_strength")?).unwrap_or(1.0),
            canny_intensity: fields.number("structure_canny_intensity")?.unwrap_or(1.0),
            depth_contrast: fields.number("structure_depth_contrast")?.unwrap_or(1.0),
            step_window: [
                fields.number("uni3c_start_percent")?.unwrap_or(0.0),
                fields.number("uni3c_end_percent")?.unwrap_or(1.0),
            ],
            frame_policy: fields.first_text(&["uni3c_frame_policy"])?.unwrap_or("fit").into(),
            zero_empty_frames: fields.boolean("uni3c_zero_empty_frames")?.unwrap_or(true),
            keep_on_gpu: fields.boolean("uni3c_keep_on_gpu")?.unwrap_or(false),
            videos,
            guidance_video: fields
                .first_text(&["structure_guidance_video_url", "structure_motion_video_url", "uni3c_guide_video"])?
                .map(Into::into),
            frame_offset: fields.first_integer(&[
                "structure_guidance_frame_offset",
                "structure_motion_frame_offset",
                "uni3c_guidance_frame_offset",
            ])?,
        })
    }
}

/// Where each source lies on a time line of so many frames, in order: ends beyond it are clipped, sources after it left
/// out. The error says in words what is wrong with the ranges.
pub fn placed(videos: &[Video], frames: i64) -> Result<Vec<(&Video, Range<i64>)>, String> {
    let mut sorted: Vec<&Video> = videos.iter().collect();
    sorted.sort_by_key(|video| video.start_frame);
    let mut placed: Vec<(&Video, Range<i64>)> = Vec::new();
    for video in sorted {
        let (start, end) = (video.start_frame, video.end_frame.unwrap_or(frames));
        if start >= frames {
            continue;
        }
        if start < 0 || start >= end {
            return Err(format!("the range {start}..{end} of {} is empty or begins before 0", video.path));
        }
        if let Some((earlier, range)) = placed.last()
            && start < range.end
        {
            return Err(format!("{} (until {}) and {} (from {start}) overlap", earlier.path, range.end, video.path));
        }
        placed.push((video, start..end.min(frames)));
    }
    if placed.is_empty() { Err(format!("no source lies within the {frames} frames of the travel")) } else { Ok(placed) }
}

/// The flat fields, the first layer that has one deciding.
struct Present<'a>(&'a Fields<'a>);

impl<'a> Present<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.present(key).filter(|value| !value.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Failure> {
        self.value(key).map(|value| fields::number(key, value)).transpose()
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Failure> {
        self.value(key).map(|value| fields::boolean(key, value)).transpose()
    }

    fn list(&self, key: &str) -> Result<&'a [Value], Failure> {
        self.value(key).map_or(Ok(&[]), |value| fields::list(key, value))
    }

    /// The first that is not empty.
    fn first_text(&self, keys: &[&str]) -> Result<Option<&'a str>, Failure> {
        for key in keys {
            if let Some(value) = self.value(key).filter(|value| fields::is_truthy(value)) {
                return fields::text(key, value).map(Some);
            }
        }
        Ok(None)
    }

    /// The first that is not 0.
    fn first_integer(&self, keys: &[&str]) -> Result<i64, Failure> {
        for key in keys {
            if let Some(value) = self.value(key).filter(|value| fields::is_truthy(value)) {
                return fields::integer(key, value);
            }
        }
        Ok(0)
    }
}

/// The type that the entries name. Entries may leave it out, but not differ.
fn common_type<'a>(list: &str, entries: &'a [Value]) -> Result<Option<&'a str>, Failure> {
    let mut named = entries.iter().filter_map(own_type);
    let first = named.next();
    if let Some(other) = named.find(|other| Some(*other) != first) {
        return Err(Failure::invalid(
            kinds::INVALID_FIELD,
            format!(
                "the entries of `{list}` have the types {:?} and {other:?}: they must all have the same",
                first.unwrap_or("")
            ),
        ));
    }
    Ok(first)
}

fn own_type(entry: &Value) -> Option<&str> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|kind| !kind.is_empty());
    text("structure_type").or_else(|| text("type"))
}

fn videos(field: &str, entries: &[Value]) -> Result<Vec<Video>, Failure> {
    let read = |(position, entry): (usize, &Value)| {
        let field = format!("{field}[{position}]");
        let fields = Fields::new([fields::object(&field, entry)?]);
        let within = |failure: Failure| failure.while_doing(&field);
        Ok(Video {
            path: fields.required_text("path").map_err(within)?.into(),
            start_frame: fields.integer("start_frame").map_err(within)?.unwrap_or(0),
            end_frame: fields.integer("end_frame").map_err(within)?,
            treatment: treatment(&format!("{field}.treatment"), fields.given("treatment"))?,
            source_start_frame: fields.integer("source_start_frame").map_err(within)?.unwrap_or(0),
            source_end_frame: fields.integer("source_end_frame").map_err(within)?,
        })
    };
    entries.iter().enumerate().map(read).collect()
}

fn treatment(field: &str, value: Option<&Value>) -> Result<String, Failure> {
    match value.filter(|value| fields::is_truthy(value)) {
        None => Ok("adjust".into()),
        Some(Value::String(text)) if text == "adjust" || text == "clip" => Ok(text.clone()),
        Some(other) => Err(fields::invalid(field, other, "adjust or clip")),
    }
}

fn step_window(value: Option<&Value>) -> Result<[f64; 2], Failure> {
    const FIELD: &str = "structure_guidance.step_window";
    let Some(value) = value else { return Ok([0.0, 1.0]) };
    match fields::list(FIELD, value)? {
        [start, end, ..] => Ok([fields::number(FIELD, start)?, fields::number(FIELD, end)?]),
        _ => Ok([0.0, 1.0]),
    }
}

/// One of a few words.
fn word<'a, T: Deserialize<'a>>(field: &str, value: Option<&'a Value>, allowed: &str) -> Result<Option<T>, Failure> {
    let Some(value) = value else { return Ok(None) };
    T::deserialize(value).map(Some).map_err(|_| fields::invalid(field, value, allowed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(config: Value) -> Result<Guidance, Failure> {
        let config = config.as_object().unwrap().clone();
        Guidance::read(&Fields::new([&config]))
    }

    #[test]
    fn nothing_asked_for_is_nothing_given() {
        let guidance = read(json!({})).unwrap();
        assert!(!guidance.is_given());
        assert_eq!((guidance.strength, guidance.step_window), (1.0, [0.0, 1.0]));
    }

    #[test]
    fn the_block_alone_counts_where_there_is_one() {
        let guidance = read(json!({
            "structure_guidance": {"target": "uni3c", "strength": 0, "step_window": [0.2, 0.9], "videos": [{"path": "x"}],
                "_guidance_video_url": "u", "_frame_offset": 12},
            "structure_type": "canny"
        }))
        .unwrap();
        assert_eq!((guidance.target, guidance.structure_type()), (Target::Uni3c, "uni3c"));
        assert_eq!((guidance.strength, guidance.step_window, guidance.frame_offset), (0.0, [0.2, 0.9], 12));
        assert_eq!(guidance.videos[0].treatment, "adjust");
        assert_eq!(guidance.block(Some("v"), 7)["_guidance_video_url"], "v");
        assert_eq!(guidance.block(None, 7).as_object().unwrap().len(), 12);
    }

    #[test]
    fn the_older_fields_say_the_same() {
        let raw =
            read(json!({"structure_type": "raw", "structure_video_path": "v", "structure_video_treatment": "clip"}))
                .unwrap();
        assert_eq!((raw.preprocessing, raw.structure_type()), (Preprocessing::None, "raw"));
        assert_eq!((raw.videos[0].end_frame, raw.videos[0].treatment.as_str()), (None, "clip"));
        let uni3c = read(json!({"use_uni3c": true, "uni3c_guide_video": "g", "uni3c_strength": 0})).unwrap();
        assert_eq!((uni3c.structure_type(), uni3c.strength), ("uni3c", 0.0));
        assert!(uni3c.is_given());
        let depth =
            read(json!({"structure_videos": [{"path": "a", "type": "depth"}, {"path": "b", "start_frame": 9}]}));
        assert_eq!(depth.unwrap().structure_type(), "depth");
    }

    #[test]
    fn a_segment_without_guidance_does_not_take_that_of_the_travel() {
        let segment = json!({"structure_guidance": null});
        let travel = json!({"structure_guidance": {"videos": [{"path": "x"}]}});
        let fields = Fields::new([segment.as_object().unwrap(), travel.as_object().unwrap()]);
        assert!(!Guidance::read(&fields).unwrap().is_given());
    }

    #[test]
    fn sources_of_different_types_are_refused() {
        let entries = json!([{"path": "a", "structure_type": "flow"}, {"path": "b", "type": "depth"}]);
        for mixed in [json!({"structure_videos": entries}), json!({"structure_guidance": {"videos": entries}})] {
            let failure = read(mixed).unwrap_err();
            assert_eq!(failure.code, "invalid_field");
            assert!(failure.message.contains("\"flow\" and \"depth\""), "{}", failure.message);
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        for block in [
            json!({"target": "x"}),
            json!({"preprocessing": "x"}),
            json!({"videos": [{"path": "a", "treatment": "x"}]}),
        ] {
            assert_eq!(read(json!({"structure_guidance": block})).unwrap_err().code, "invalid_field");
        }
        let failure = read(json!({"structure_guidance": {"videos": [{"start_frame": 3}]}})).unwrap_err();
        assert!(failure.message.starts_with("structure_guidance.videos[0]: "), "{}", failure.message);
    }

    fn video(start_frame: i64, end_frame: Option<i64>) -> Video {
        Video {
            path: format!("v{start_frame}"),
            start_frame,
            end_frame,
            treatment: "adjust".into(),
            source_start_frame: 0,
            source_end_frame: None,
        }
    }

    #[test]
    fn sources_are_placed_in_order_and_clipped() {
        let videos = [video(60, None), video(0, Some(10)), video(200, Some(300))];
        let ranges: Vec<_> = placed(&videos, 152).unwrap().into_iter().map(|(_, range)| range).collect();
        assert_eq!(ranges, [0..10, 60..152]);
    }

    #[test]
    fn impossible_ranges_are_told() {
        assert!(placed(&[video(10, Some(5))], 152).unwrap_err().contains("10..5"));
        assert!(placed(&[video(0, Some(20)), video(10, Some(30))], 152).unwrap_err().contains("overlap"));
        assert!(placed(&[video(-1, Some(5))], 152).is_err());
        assert!(placed(&[video(200, None)], 152).unwrap_err().contains("no source"));
    }

    #[test]
    fn ranges_are_half_open() {
        let guidance = Guidance { videos: vec![video(60, Some(70))], ..read(json!({})).unwrap() };
        assert_eq!(
            [0..33, 33..66, 66..99, 99..132, 70..90, 50..60].map(|range| guidance.meets(&range)),
            [false, true, true, false, false, false]
        );
        let open = Guidance { videos: vec![video(60, None)], ..guidance };
        assert!(open.meets(&(900..901)));
    }

    proptest! {
        #[test]
        fn what_is_placed_lies_within_and_apart(
            ranges in prop::collection::vec((-5..200_i64, prop::option::of(-5..300_i64)), 0..6), frames in 0..250_i64,
        ) {
            let videos: Vec<Video> = ranges.into_iter().map(|(start, end)| video(start, end)).collect();
            if let Ok(placed) = placed(&videos, frames) {
                let mut last = 0;
                for (_, range) in placed {
                    prop_assert!(last <= range.start && range.start < range.end && range.end <= frames);
                    last = range.end;
                }
            }
        }
    }
}
