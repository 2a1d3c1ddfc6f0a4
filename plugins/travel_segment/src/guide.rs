//! The guide and the mask that tell a VACE model what is fixed: which frames show what. Pure.
//!
//! The guide is a video of the segment's length: grey where the model is free, a picture or frames of a video where it is
//! not. The mask is its shadow: black where the guide is to be kept, white where the model generates.

use enginehouse_sdk::host::media::Adjust;
use enginehouse_sdk::prelude::*;

/// Grey 128: "nothing is known of this frame".
const FREE: &str = "#808080";
const BLACK: &str = "#000000";
const WHITE: &str = "#ffffff";

/// What the guide begins with.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// Nothing is fixed: the segment follows another without overlap.
    Free,
    /// The first frame is a picture (its digest).
    Picture(String),
    /// The first frames are the last ones of a video.
    Tail {
        artifact: String,
        /// Frames the video has.
        length: u64,
        /// Frames to take; no more than it has.
        frames: u64,
        adjust: Adjust,
    },
}

/// A video that guides the frames which are free otherwise: its frame `offset` + k belongs to frame k of the segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Guidance {
    pub artifact: String,
    /// Frames it has.
    pub length: u64,
    pub offset: u64,
}

/// What is fixed in a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub frames: u64,
    pub opening: Opening,
    /// The picture of the last frame (its digest).
    pub end: Option<String>,
    pub guidance: Option<Guidance>,
    /// The last frame of the guide is black whatever the end: the engine must not follow the guidance there.
    pub black_end: bool,
}

/// Size and rate of guide and mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    pub fps: f64,
}

impl Plan {
    /// The guide.
    pub fn guide(&self, shape: Shape, name: String) -> Timeline {
        let tail = u64::from(self.frames > 0 && (self.end.is_some() || self.black_end));
        let head = self.opening.frames().min(self.frames - tail);
        let free = (head, self.frames - tail);

        let mut clips = Vec::new();
        match &self.opening {
            _ if head == 0 => {}
            Opening::Free => {}
            Opening::Picture(artifact) => clips.push(Clip::still(artifact, head)),
            Opening::Tail { artifact, length, frames, adjust } => {
                let clip = Clip::video(artifact).range(length.saturating_sub(*frames), head);
                clips.push(if *adjust == Adjust::default() { clip } else { clip.adjust(*adjust) });
            }
        }
        clips.extend(self.free_frames(free));
        match &self.end {
            _ if tail == 0 => {}
            Some(artifact) if !self.black_end => clips.push(Clip::still(artifact, tail)),
            _ => clips.push(Clip::color(BLACK, tail)),
        }
        timeline(shape, name, clips)
    }

    /// Frames `from` to `to` (exclusive): the guidance as far as it reaches, then grey.
    fn free_frames(&self, (from, to): (u64, u64)) -> Vec<Clip> {
        let mut clips = Vec::new();
        let mut next = from;
        if let Some(guidance) = &self.guidance {
            let reach = guidance.length.saturating_sub(guidance.offset).min(to);
            if reach > from {
                clips.push(Clip::video(&guidance.artifact).range(guidance.offset + from, reach - from));
                next = reach;
            }
        }
        if to > next {
            clips.push(Clip::color(FREE, to - next));
        }
        clips
    }

    /// The mask.
    pub fn mask(&self, shape: Shape, name: String) -> Timeline {
        let (head, tail) = self.kept();
        let clips = [(BLACK, head), (WHITE, self.frames - head - tail), (BLACK, tail)]
            .into_iter()
            .filter(|(_, frames)| *frames > 0)
            .map(|(color, frames)| Clip::color(color, frames))
            .collect();
        timeline(shape, name, clips)
    }

    /// How many frames at the beginning and at the end are kept.
    pub fn kept(&self) -> (u64, u64) {
        let tail = u64::from(self.frames > 0 && self.end.is_some());
        (self.opening.frames().min(self.frames - tail), tail)
    }
}

impl Opening {
    fn frames(&self) -> u64 {
        match self {
            Opening::Free => 0,
            Opening::Picture(_) => 1,
            Opening::Tail { frames, .. } => *frames,
        }
    }
}

/// Pictures and videos of another shape are stretched: the renderer's default.
fn timeline(shape: Shape, name: String, clips: Vec<Clip>) -> Timeline {
    let empty = Timeline::video(name).size(shape.width, shape.height).fps(shape.fps);
    clips.into_iter().fold(empty, Timeline::clip)
}

/// How the overlap frames are altered: the params' `subsequent_starting_strength_adjustment` (strength 1 + that, 0 is
/// grey), `desaturate_subsequent_starting_frames` (0 to 1) and `adjust_brightness_subsequent_starting_frames` (positive
/// darkens).
pub fn overlap_adjustment(strength: f64, desaturate: f64, darken: f64) -> Adjust {
    let set = |value: f64| Some(value).filter(|value| *value != 0.0);
    Adjust {
        grey_mix: set(1.0 - (1.0 + strength).clamp(0.0, 1.0)),
        desaturate: set(desaturate.clamp(0.0, 1.0)),
        brightness: set(-darken.clamp(-1.0, 1.0)),
        saturation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { width: 96, height: 48, fps: 16.0 };

    fn plan(opening: Opening) -> Plan {
        Plan { frames: 33, opening, end: Some("end".into()), guidance: None, black_end: false }
    }

    fn tail(length: u64, frames: u64) -> Opening {
        Opening::Tail { artifact: "previous".into(), length, frames, adjust: Adjust::default() }
    }

    fn guide(plan: &Plan) -> Vec<Clip> {
        plan.guide(SHAPE, "guide.mp4".into()).clips
    }

    fn length(clips: &[Clip]) -> u64 {
        clips.iter().map(|clip| clip.frames.unwrap()).sum()
    }

    #[test]
    fn a_segment_from_scratch_is_fixed_at_both_ends() {
        let plan = plan(Opening::Picture("start".into()));
        assert_eq!(guide(&plan), [Clip::still("start", 1), Clip::color("#808080", 31), Clip::still("end", 1)]);
        assert_eq!(
            plan.mask(SHAPE, "mask.mp4".into()).clips,
            [Clip::color("#000000", 1), Clip::color("#ffffff", 31), Clip::color("#000000", 1)]
        );
    }

    #[test]
    fn a_chained_segment_opens_with_the_last_frames_of_the_previous_one() {
        let plan = plan(tail(41, 8));
        let expected = [Clip::video("previous").range(33, 8), Clip::color("#808080", 24), Clip::still("end", 1)];
        assert_eq!(guide(&plan), expected);
        assert_eq!(plan.kept(), (8, 1));
    }

    #[test]
    fn guidance_lies_frame_by_frame_under_what_is_free() {
        let guidance = Some(Guidance { artifact: "g".into(), length: 66, offset: 25 });
        let plan = Plan { guidance, ..plan(Opening::Picture("start".into())) };
        assert_eq!(guide(&plan), [Clip::still("start", 1), Clip::video("g").range(26, 31), Clip::still("end", 1)]);
    }

    #[test]
    fn guidance_that_is_too_short_leaves_the_rest_grey() {
        let guidance = Some(Guidance { artifact: "g".into(), length: 30, offset: 20 });
        let clips = guide(&Plan { guidance, ..plan(tail(40, 4)) });
        assert_eq!(clips[1..3], [Clip::video("g").range(24, 6), Clip::color("#808080", 22)]);
        assert_eq!(length(&clips), 33);
        let gone = Some(Guidance { artifact: "g".into(), length: 20, offset: 20 });
        assert_eq!(guide(&Plan { guidance: gone, ..plan(tail(40, 4)) })[1], Clip::color("#808080", 28));
    }

    #[test]
    fn a_black_end_shows_in_the_guide_and_not_in_the_mask() {
        let black = Plan { black_end: true, ..plan(Opening::Picture("start".into())) };
        assert_eq!(guide(&black)[2], Clip::color("#000000", 1));
        assert_eq!(black.kept(), (1, 1));
        let open = Plan { end: None, ..black };
        assert_eq!(guide(&open)[2], Clip::color("#000000", 1));
        assert_eq!(open.kept(), (1, 0));
    }

    #[test]
    fn an_open_end_stays_free() {
        let plan = Plan { end: None, ..plan(Opening::Picture("start".into())) };
        assert_eq!(guide(&plan), [Clip::still("start", 1), Clip::color("#808080", 32)]);
        assert_eq!(plan.kept(), (1, 0));
    }

    #[test]
    fn guide_and_mask_are_always_as_long_as_the_segment() {
        for frames in 0..12 {
            for taken in 0..12 {
                for (end, black_end) in [(None, false), (Some("end".to_string()), false), (None, true)] {
                    for guidance in [None, Some(Guidance { artifact: "g".into(), length: 5, offset: 1 })] {
                        let plan = Plan { frames, opening: tail(taken, taken), end: end.clone(), guidance, black_end };
                        assert_eq!(length(&guide(&plan)), frames, "{plan:?}");
                        assert_eq!(length(&plan.mask(SHAPE, "mask.mp4".into()).clips), frames, "{plan:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn overlap_frames_are_altered_only_when_asked() {
        assert_eq!(overlap_adjustment(0.0, 0.0, 0.0), Adjust::default());
        let altered = overlap_adjustment(-0.25, 0.5, 0.2);
        assert_eq!((altered.grey_mix, altered.desaturate, altered.brightness), (Some(0.25), Some(0.5), Some(-0.2)));
        assert_eq!(overlap_adjustment(-3.0, 0.0, 0.0).grey_mix, Some(1.0));
        assert_eq!(overlap_adjustment(0.5, 0.0, 0.0), Adjust::default());
    }
}
