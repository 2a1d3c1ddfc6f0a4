//! Guidance of a standalone segment: it renders its own part from the source videos of the travel. The segments of a run
//! are given theirs.

use enginehouse_sdk::host::assist::{GuidanceRequest, GuidanceSource};
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::frames::quantise;
use enginehouse_sdk::rules::structure::{Guidance as Structure, Video};

use crate::values::Segment;

/// The guidance video of a standalone segment (its digest). None if no source video reaches into the segment, or if the
/// host cannot make one: the segment goes on without.
pub fn rendered(
    host: &mut dyn Host,
    segment: &Segment,
    structure: &Structure,
    travel: &Map<String, Value>,
) -> Result<Option<String>, Failure> {
    if !segment.standalone {
        return Ok(None);
    }
    let lengths = Fields::new([travel]).integers("segment_frames_expanded")?.unwrap_or_default();
    let frames = i64::try_from(segment.frames).unwrap_or(i64::MAX);
    let part = part(&structure.videos, &lengths, segment.index, frames);
    if part.is_empty() {
        return Ok(None);
    }
    let made = sources(host, part).and_then(|videos| {
        host.guidance(&GuidanceRequest {
            preprocessing: structure.preprocessing.as_str().to_string(),
            strength: structure.strength,
            canny_intensity: structure.canny_intensity,
            depth_contrast: structure.depth_contrast,
            width: segment.resolution.width,
            height: segment.resolution.height,
            fps: segment.fps,
            frames,
            videos,
        })
    });
    match made {
        Ok(file) => Ok(Some(file.artifact)),
        Err(failure) if failure.class == FailureClass::Cancelled => Err(failure),
        Err(failure) => {
            host.warn(&format!("segment {} goes on without guidance: {}", segment.index, failure.message));
            Ok(None)
        }
    }
}

fn sources(host: &mut dyn Host, part: Vec<Part>) -> Result<Vec<GuidanceSource>, Failure> {
    part.into_iter()
        .map(|part| {
            Ok(GuidanceSource {
                video: host.resolve(&part.path)?.reference(),
                start_frame: part.start,
                end_frame: part.end,
                treatment: part.treatment,
                source_start_frame: part.source_start,
                source_end_frame: part.source_end,
            })
        })
        .collect()
}

/// What a segment shows of a source video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub path: String,
    /// First frame within the segment.
    pub start: i64,
    /// Exclusive.
    pub end: i64,
    pub treatment: String,
    pub source_start: i64,
    /// Exclusive. None: the end of the source.
    pub source_end: Option<i64>,
}

/// Cuts the source videos to a segment of `frames` frames. They lie on the time line of the travel's lengths laid end to
/// end; where the range of the source is known it is cut in proportion.
pub fn part(videos: &[Video], lengths: &[i64], index: usize, frames: i64) -> Vec<Part> {
    let before: i64 = lengths.iter().take(index).map(|length| quantise(*length)).sum();
    let total: i64 = lengths.iter().map(|length| quantise(*length)).sum();
    let range = before..before.saturating_add(frames);
    let mut parts: Vec<Part> = videos
        .iter()
        .filter_map(|video| {
            let until = video.end_frame.unwrap_or(total.max(range.end));
            let (start, end) = (video.start_frame.max(range.start), until.min(range.end));
            if start >= end {
                return None;
            }
            let at = |frame: i64, source_end: i64| {
                let share = (frame - video.start_frame) as f64 / (until - video.start_frame) as f64;
                video.source_start_frame + (share * (source_end - video.source_start_frame) as f64) as i64
            };
            Some(Part {
                path: video.path.clone(),
                start: start - range.start,
                end: end - range.start,
                treatment: video.treatment.clone(),
                source_start: video.source_end_frame.map_or(video.source_start_frame, |source| at(start, source)),
                source_end: video.source_end_frame.map(|source| at(end, source)),
            })
        })
        .collect();
    parts.sort_by_key(|part| part.start);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(start: i64, end: Option<i64>, source_end: Option<i64>) -> Video {
        Video {
            path: "s.mp4".into(),
            start_frame: start,
            end_frame: end,
            treatment: "adjust".into(),
            source_start_frame: 0,
            source_end_frame: source_end,
        }
    }

    #[test]
    fn a_source_is_cut_to_the_segment_in_proportion() {
        let part = part(&[video(20, Some(60), Some(20))], &[33, 33], 1, 33);
        assert_eq!(part.len(), 1);
        assert_eq!((part[0].start, part[0].end), (0, 27));
        assert_eq!((part[0].source_start, part[0].source_end), (6, Some(20)));
    }

    #[test]
    fn a_source_elsewhere_is_left_out() {
        assert_eq!(part(&[video(0, Some(33), None)], &[33, 33], 1, 33), []);
    }

    #[test]
    fn a_source_without_an_end_reaches_to_the_end_of_the_travel() {
        let part = part(&[video(40, None, None)], &[33, 33], 1, 33);
        assert_eq!((part[0].start, part[0].end, part[0].source_end), (7, 33, None));
    }
}
