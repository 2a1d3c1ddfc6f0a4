//! The guidance video that all segments share: what is wanted, its making, and the part of each segment.
//!
//! Making it needs help that may be absent, and sources that may be broken. The travel then goes on without guidance and
//! says so.

use std::ops::Range;

use enginehouse_sdk::fields;
use enginehouse_sdk::host::assist::{GuidanceRequest, GuidanceSource};
use enginehouse_sdk::host::reference;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;
use enginehouse_sdk::rules::loras::is_url;
use enginehouse_sdk::rules::structure::{self, Guidance};

use crate::plan::Helpers;
use crate::request::Travel;

/// What guidance a travel wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Nothing,
    /// Source videos on the time line of the stitched travel, made into one guidance video.
    Composite(Guidance),
    /// A guidance video that exists already, on the older time line.
    Given(Guidance),
    /// One source video for the whole travel, named beside an empty `structure_guidance`: the older time line.
    Single {
        guidance: Guidance,
        source: Single,
    },
}

/// The source video of [`Wanted::Single`].
#[derive(Clone, Debug, PartialEq)]
pub struct Single {
    pub path: String,
    /// `flow`, `canny`, `depth` or `none`.
    pub preprocessing: &'static str,
    /// `adjust` or `clip`.
    pub treatment: String,
    pub strength: f64,
    pub canny_intensity: f64,
    pub depth_contrast: f64,
}

/// A guidance video, ready for the segments.
#[derive(Clone, Debug, PartialEq)]
pub struct Ready {
    guidance: Guidance,
    video: String,
    /// Where each segment lies.
    ranges: Vec<Range<i64>>,
    /// Segments that no source meets go without.
    only_where_met: bool,
}

impl Ready {
    /// The block that a segment gets; null: it goes without guidance.
    pub fn block(&self, segment: usize) -> Value {
        match self.ranges.get(segment) {
            Some(range) if !self.only_where_met || self.guidance.meets(range) => {
                self.guidance.block(Some(&self.video), range.start)
            }
            _ => Value::Null,
        }
    }
}

/// Reads what guidance is wanted.
pub fn wanted(given: &Fields<'_>) -> Result<Wanted, Failure> {
    let guidance = Guidance::read(given)?;
    if !guidance.videos.is_empty() {
        return Ok(Wanted::Composite(guidance));
    }
    let path = given.text("structure_video_path")?.filter(|path| !path.is_empty());
    if let Some(path) = path {
        let source = single(given, path)?;
        return Ok(Wanted::Single { guidance, source });
    }
    Ok(if guidance.is_given() { Wanted::Given(guidance) } else { Wanted::Nothing })
}

fn single(given: &Fields<'_>, path: &str) -> Result<Single, Failure> {
    let kind = given.truthy("structure_video_type").or_else(|| given.truthy("structure_type"));
    let preprocessing = match kind.map_or(Some("flow"), Value::as_str) {
        Some("flow") => "flow",
        Some("canny") => "canny",
        Some("depth") => "depth",
        Some("raw" | "uni3c") => "none",
        _ => {
            let kind = kind.unwrap_or(&Value::Null);
            return Err(fields::invalid("structure_video_type", kind, "flow, canny, depth, raw or uni3c"));
        }
    };
    let treatment = match given.truthy("structure_video_treatment") {
        None => "adjust",
        Some(Value::String(text)) if text == "adjust" || text == "clip" => text,
        Some(other) => return Err(fields::invalid("structure_video_treatment", other, "adjust or clip")),
    };
    let number = |key: &str| Ok::<f64, Failure>(given.number(key)?.unwrap_or(1.0));
    Ok(Single {
        path: path.into(),
        preprocessing,
        treatment: treatment.into(),
        strength: number("structure_video_motion_strength")?,
        canny_intensity: number("structure_canny_intensity")?,
        depth_contrast: number("structure_depth_contrast")?,
    })
}

/// Makes the guidance video that the travel wants, and writes to its details what follows from it. The failure says why
/// there is none.
pub fn make(travel: &mut Travel, helpers: &mut dyn Helpers) -> Result<Option<Ready>, Failure> {
    match travel.guidance.clone() {
        Wanted::Nothing => Ok(None),
        Wanted::Given(guidance) => {
            let video = guidance.guidance_video.clone().unwrap_or_default();
            Ok(Some(Ready { video, ranges: travel.frames.guidance(), guidance, only_where_met: false }))
        }
        Wanted::Composite(guidance) => {
            snap(travel)?;
            composite(travel, guidance, helpers).map(Some)
        }
        Wanted::Single { guidance, source } => {
            snap(travel)?;
            of_single(travel, guidance, &source, helpers).map(Some)
        }
    }
}

/// The guidance video must fit the generated one, so the whole travel takes the size that the model works in.
fn snap(travel: &mut Travel) -> Result<(), Failure> {
    travel.resolution = travel.resolution.snapped()?;
    travel.details.insert("parsed_resolution_wh".into(), json!(travel.resolution.to_string()));
    Ok(())
}

fn composite(travel: &Travel, guidance: Guidance, helpers: &mut dyn Helpers) -> Result<Ready, Failure> {
    let ranges = travel.frames.stitched();
    let total = last_end(travel, &ranges);
    let mut videos = Vec::new();
    let unplaced = |reason: String| Failure::invalid(kinds::INVALID_FIELD, reason);
    for (video, range) in structure::placed(&guidance.videos, total).map_err(unplaced)? {
        let artifact = helpers.resolve(&video.path)?;
        videos.push(GuidanceSource {
            video: reference(&artifact),
            start_frame: range.start,
            end_frame: range.end,
            treatment: video.treatment.clone(),
            source_start_frame: video.source_start_frame,
            source_end_frame: video.source_end_frame,
        });
    }
    let request = GuidanceRequest {
        preprocessing: guidance.preprocessing.as_str().into(),
        strength: guidance.strength,
        canny_intensity: guidance.canny_intensity,
        depth_contrast: guidance.depth_contrast,
        videos,
        ..request(travel, total)
    };
    let video = helpers.guidance(&request)?;
    Ok(Ready { guidance, video, ranges, only_where_met: true })
}

fn of_single(
    travel: &mut Travel,
    guidance: Guidance,
    source: &Single,
    helpers: &mut dyn Helpers,
) -> Result<Ready, Failure> {
    let ranges = travel.frames.guidance();
    let total = travel.frames.lengths.iter().take(travel.segments).sum();
    let artifact = helpers.resolve(&source.path)?;
    if is_url(&source.path) {
        travel.details.insert("structure_original_video_url".into(), json!(source.path));
    }
    let plain = GuidanceRequest {
        videos: vec![GuidanceSource {
            video: reference(&artifact),
            start_frame: 0,
            end_frame: total,
            treatment: source.treatment.clone(),
            source_start_frame: 0,
            source_end_frame: None,
        }],
        ..request(travel, total)
    };
    let trimmed = helpers.guidance(&plain)?;
    travel.details.insert("structure_trimmed_video_url".into(), json!(trimmed));
    let video = helpers.guidance(&GuidanceRequest {
        preprocessing: source.preprocessing.into(),
        strength: source.strength,
        canny_intensity: source.canny_intensity,
        depth_contrast: source.depth_contrast,
        ..plain
    })?;
    Ok(Ready { guidance, video, ranges, only_where_met: false })
}

/// A request without preprocessing or sources.
fn request(travel: &Travel, frames: i64) -> GuidanceRequest {
    GuidanceRequest {
        preprocessing: "none".into(),
        strength: 1.0,
        canny_intensity: 1.0,
        depth_contrast: 1.0,
        width: travel.resolution.width,
        height: travel.resolution.height,
        fps: travel.fps,
        frames,
        videos: Vec::new(),
    }
}

fn last_end(travel: &Travel, ranges: &[Range<i64>]) -> i64 {
    travel.segments.checked_sub(1).and_then(|last| ranges.get(last)).map_or(0, |range| range.end)
}
