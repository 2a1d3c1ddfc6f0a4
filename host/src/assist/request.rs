//! The JSON of `assist`, parsed and checked; `wit/assist.wit` is the contract. What is wrong is said with what is allowed.

use serde::{Deserialize, Deserializer};

use crate::digest::Digest;
use crate::task::Failure;

/// Most pictures of one prompt, and most videos of one guidance.
const SOURCES: usize = 1000;

/// Widest and highest guidance, in pixels.
const SIDE: u32 = 65_535;

/// A file that the host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Source {
    #[serde(rename = "$artifact")]
    pub artifact: Digest,
}

/// What a prompt is to be written from.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CaptionRequest {
    /// At least one.
    pub images: Vec<Source>,
    /// What the user wrote.
    #[serde(default)]
    pub prompt: String,
    pub mode: CaptionMode,
    /// Length of the video that the prompt is for.
    #[serde(default)]
    pub frames: u64,
    #[serde(default)]
    pub fps: f64,
}

/// Whether a prompt describes the way between two pictures or what happens in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionMode {
    Transition,
    Single,
}

/// What a guidance video is to be made of.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GuidanceRequest {
    pub preprocessing: Preprocessing,
    #[serde(default = "one")]
    pub strength: f64,
    #[serde(default = "one")]
    pub canny_intensity: f64,
    #[serde(default = "one")]
    pub depth_contrast: f64,
    /// Pixels.
    pub width: u32,
    pub height: u32,
    /// 0.001 to 1000.
    pub fps: f64,
    /// Length of the guidance, at least 1.
    pub frames: u64,
    /// At least one; their places do not overlap, and are in order.
    pub videos: Vec<GuidanceVideo>,
}

/// What is drawn from the source videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preprocessing {
    Flow,
    Canny,
    Depth,
    /// The videos themselves.
    None,
}

impl Preprocessing {
    /// The spelling of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Preprocessing::Flow => "flow",
            Preprocessing::Canny => "canny",
            Preprocessing::Depth => "depth",
            Preprocessing::None => "none",
        }
    }
}

/// A source video and its place in the guidance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct GuidanceVideo {
    pub video: Source,
    #[serde(default)]
    pub start_frame: u64,
    /// Exclusive, above `start_frame`. Absent: the end of the guidance.
    #[serde(default)]
    pub end_frame: Option<u64>,
    #[serde(default)]
    pub treatment: Treatment,
    #[serde(default, deserialize_with = "or_default")]
    pub source_start_frame: u64,
    /// Exclusive. Absent: the end of the source.
    #[serde(default)]
    pub source_end_frame: Option<u64>,
}

/// How a source of another length fills its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// Its speed is changed.
    #[default]
    Adjust,
    /// It keeps its speed, and is cut or played again from its beginning.
    Clip,
}

impl CaptionRequest {
    /// Code `invalid_request`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let request: Self = serde_json::from_str(text).map_err(|e| invalid(&e.to_string()))?;
        if request.images.is_empty() || request.images.len() > SOURCES {
            return Err(invalid(&format!("`images` has {} pictures, expected 1 to {SOURCES}", request.images.len())));
        }
        Ok(request)
    }
}

impl GuidanceRequest {
    /// Code `invalid_request`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut request: Self = serde_json::from_str(text).map_err(|e| invalid(&e.to_string()))?;
        request.check().map_err(|why| invalid(&why))?;
        request.videos.sort_by_key(|video| video.start_frame);
        let mut before = 0;
        for video in &request.videos {
            let (start, end) = (video.start_frame, video.end(request.frames));
            if start < before {
                return Err(invalid(&format!(
                    "two `videos` overlap at frame {start}: each frame has one source at most"
                )));
            }
            before = end;
        }
        Ok(request)
    }

    fn check(&self) -> Result<(), String> {
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if !(1..=SIDE).contains(&side) {
                return Err(format!("`{name}` is {side}, expected 1 to {SIDE} pixels"));
            }
        }
        if !(0.001..=1000.0).contains(&self.fps) {
            return Err(format!("`fps` is {}, expected 0.001 to 1000", self.fps));
        }
        if self.frames == 0 {
            return Err("`frames` is 0, expected 1 or more".into());
        }
        if self.videos.is_empty() || self.videos.len() > SOURCES {
            return Err(format!("`videos` has {} videos, expected 1 to {SOURCES}", self.videos.len()));
        }
        for (i, video) in self.videos.iter().enumerate() {
            if let Some(end) = video.end_frame.filter(|end| *end <= video.start_frame) {
                let start = video.start_frame;
                return Err(format!("`videos/{i}` ends before frame {end} but starts at frame {start}"));
            }
            if let Some(end) = video.source_end_frame.filter(|end| *end <= video.source_start_frame) {
                let start = video.source_start_frame;
                return Err(format!(
                    "`videos/{i}` takes its source from frame {start} to frame {end}, which is nothing"
                ));
            }
        }
        Ok(())
    }
}

impl GuidanceVideo {
    /// The frame of the guidance before which the video ends, if the guidance has `frames` frames.
    pub fn end(&self, frames: u64) -> u64 {
        self.end_frame.unwrap_or(frames).min(frames).max(self.start_frame)
    }
}

fn one() -> f64 {
    1.0
}

fn or_default<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    Option::deserialize(value).map(Option::unwrap_or_default)
}

fn invalid(why: &str) -> Failure {
    Failure::invalid("invalid_request", format!("The request for help cannot be used: {why}."))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn guidance(change: impl FnOnce(&mut Value)) -> Result<GuidanceRequest, Failure> {
        let source = json!({"$artifact": Digest::of(b"video"), "name": "a.mp4"});
        let mut request = json!({
            "preprocessing": "none", "width": 64, "height": 48, "fps": 16, "frames": 33,
            "videos": [
                {"video": source, "start_frame": 20, "end_frame": null, "source_end_frame": 9},
                {"video": source, "start_frame": 0, "end_frame": 20, "treatment": "clip", "source_start_frame": null},
            ],
        });
        change(&mut request);
        GuidanceRequest::parse(&request.to_string())
    }

    #[test]
    fn videos_come_in_the_order_of_their_places() {
        let request = guidance(|_| ()).unwrap();
        let places: Vec<_> = request.videos.iter().map(|video| video.start_frame..video.end(request.frames)).collect();
        assert_eq!(places, [0..20, 20..33]);
        assert_eq!(request.videos[0].treatment, Treatment::Clip);
        assert_eq!((request.strength, request.preprocessing.as_str()), (1.0, "none"));
    }

    #[test]
    fn what_is_wrong_with_a_guidance_is_said() {
        for (pointer, value, said) in [
            ("/preprocessing", json!("sobel"), "expected one of `flow`, `canny`, `depth`, `none`"),
            ("/width", json!(0), "`width` is 0"),
            ("/fps", json!(0), "`fps` is 0"),
            ("/frames", json!(0), "`frames` is 0"),
            ("/videos", json!([]), "`videos` has 0"),
            ("/videos/1/end_frame", json!(0), "starts at frame 0"),
            ("/videos/0/source_end_frame", json!(0), "which is nothing"),
            ("/videos/1/end_frame", json!(21), "overlap at frame 20"),
            ("/videos/1/start_frame", json!(-1), "expected u64"),
            ("/videos/0/video", json!({"$artifact": "x"}), "sha256"),
        ] {
            let failure = guidance(|request| *request.pointer_mut(pointer).unwrap() = value).unwrap_err();
            assert_eq!(failure.code, "invalid_request");
            assert!(failure.message.contains(said), "{said}: {}", failure.message);
        }
    }

    #[test]
    fn a_prompt_needs_a_picture() {
        let failure = CaptionRequest::parse(r#"{"images": [], "mode": "single"}"#).unwrap_err();
        assert!(failure.message.contains("`images` has 0 pictures"), "{}", failure.message);
    }
}
