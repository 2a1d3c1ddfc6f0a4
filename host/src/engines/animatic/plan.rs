//! The settings of a generation, read and checked: what the stand-in is going to draw.
//!
//! Names and defaults are those that handlers and presets use for Wan2GP. A setting that cannot be what is meant is
//! refused (`invalid_settings`) by its name; settings that do not change a stand-in's picture are not looked at.

use serde_json::{Map, Value};

use super::models::{self, Traits};
use crate::digest::Digest;
use crate::task::Failure;

/// Sides of a frame in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 16..=8192;
/// Frames of one request.
const FRAMES: std::ops::RangeInclusive<u64> = 1..=100_000;
/// Frames a second.
const RATES: std::ops::RangeInclusive<f64> = 1.0..=240.0;
/// Pictures of one request.
const BATCH: std::ops::RangeInclusive<u64> = 1..=16;
/// How many frames of a continued video are rendered again.
const DEFAULT_OVERLAP: u64 = 4;

/// What comes out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// PNG files.
    Pictures { count: u64 },
    /// One mp4 of `frames` new frames, less the overlap when it continues a source.
    Video { frames: u64 },
}

/// Frames a second of a video.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    Fixed(f64),
    /// That of the guide, or the model's when there is none.
    OfGuide(f64),
    /// That of the source, of the guide, or the model's: the first there is.
    OfSource(f64),
}

/// A file that a setting names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The setting.
    pub key: &'static str,
    pub file: Digest,
}

/// The video that is continued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub input: Input,
    /// As the engine reads it: positive, so many from the start; negative, all but so many at the end; none, all.
    pub keep: Option<i64>,
    /// New frames that repeat the source's end and are left out.
    pub overlap: u64,
}

/// Everything that decides what is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub width: u32,
    pub height: u32,
    pub shape: Shape,
    pub rate: Rate,
    pub model: String,
    pub prompt: String,
    pub seed: i64,
    /// What the request calls itself: `label`, `segment 3`.
    pub label: Option<String>,
    pub start: Option<Input>,
    pub end: Option<Input>,
    pub guide: Option<Input>,
    pub mask: Option<Input>,
    /// White means keep, not generate.
    pub mask_inverted: bool,
    pub source: Option<Source>,
    pub refs: Vec<Input>,
}

impl Plan {
    /// Codes `invalid_settings`, and `input_missing` for a VACE model without `video_guide`; `unsupported_feature` for
    /// modes that work on finished files.
    pub fn read(settings: &Map<String, Value>) -> Result<Self, Failure> {
        let settings = Settings(settings);
        if let Some(mode) = settings.text("mode")?.filter(|mode| mode.starts_with("edit_")) {
            return Err(Failure::unavailable(
                "unsupported_feature",
                format!("The animatic engine makes videos and pictures; `mode` \"{mode}\" needs a real Wan2GP."),
            ));
        }
        let model = ["model", "model_name", "model_type"].iter().find_map(|key| settings.text(key).transpose());
        let model = model.transpose()?.unwrap_or_else(|| "t2v".into());
        let traits = models::traits(&model);
        let (width, height) = settings.resolution()?;
        let rate = settings.rate(&traits)?;
        let length = settings.length(&traits, rate)?;
        let image_mode = settings.whole("image_mode")?.unwrap_or(0);
        let travel = settings.text("_source_task_type")?.is_some_and(|t| t.ends_with("travel_segment"));
        let shape = if image_mode > 0 || traits.picture || (length == 1 && !travel) {
            let count = u64::try_from(settings.whole("batch_size")?.unwrap_or(1)).unwrap_or(0);
            if !BATCH.contains(&count) {
                return Err(invalid("batch_size", "must be 1 to 16"));
            }
            Shape::Pictures { count }
        } else {
            Shape::Video { frames: length }
        };
        let pictures = matches!(shape, Shape::Pictures { .. });
        // Picture models are given their control picture under other names.
        let first = |keys: [&'static str; 2]| {
            let keys: &[&'static str] = if pictures { &keys } else { &keys[..1] };
            keys.iter().find_map(|key| settings.file(key).transpose()).transpose()
        };
        let (guide, mask) = (first(["video_guide", "image_guide"])?, first(["video_mask", "image_mask"])?);
        if traits.vace && guide.is_none() {
            return Err(Failure::invalid(
                "input_missing",
                format!("Model {model} is guided by a video, and the request has no `video_guide`. Give it one."),
            ));
        }
        let source = match settings.file("video_source")? {
            Some(input) if !pictures => Some(settings.source(input, length)?),
            _ => None,
        };
        Ok(Self {
            width,
            height,
            shape,
            rate,
            prompt: settings.text("prompt")?.unwrap_or_default(),
            seed: settings.whole("seed")?.unwrap_or(-1),
            label: settings.label()?,
            start: settings.file("image_start")?,
            end: settings.file("image_end")?,
            guide,
            mask,
            mask_inverted: settings.text("video_prompt_type")?.is_some_and(|letters| letters.contains('N')),
            source,
            refs: [settings.files("image_refs")?, settings.files("image_refs_paths")?].concat(),
            model,
        })
    }
}

/// Settings with typed questions. Null and the empty text count as absent.
struct Settings<'a>(&'a Map<String, Value>);

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    fn text(&self, key: &'static str) -> Result<Option<String>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(invalid(key, "must be text")),
        }
    }

    fn number(&self, key: &'static str) -> Result<Option<f64>, Failure> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        number.filter(|n| n.is_finite()).map(Some).ok_or_else(|| invalid(key, "must be a number"))
    }

    fn whole(&self, key: &'static str) -> Result<Option<i64>, Failure> {
        // A seed may be larger than what a float holds exactly.
        if let Some(whole) = self.get(key).and_then(Value::as_i64) {
            return Ok(Some(whole));
        }
        match self.number(key)? {
            None => Ok(None),
            Some(n) if n.fract() == 0.0 && n.abs() < 9e15 => Ok(Some(n as i64)),
            Some(_) => Err(invalid(key, "must be a whole number")),
        }
    }

    fn resolution(&self) -> Result<(u32, u32), Failure> {
        let text = self.text("resolution")?.unwrap_or_else(|| "832x480".into());
        let side = |side: &str| side.trim().parse::<u32>().ok().filter(|side| SIDES.contains(side));
        text.split_once(['x', 'X']).and_then(|(w, h)| Some((side(w)?, side(h)?))).ok_or_else(|| {
            let range = format!("{} to {}", SIDES.start(), SIDES.end());
            invalid("resolution", &format!("must be WIDTHxHEIGHT with sides of {range} pixels, not \"{text}\""))
        })
    }

    fn rate(&self, traits: &Traits) -> Result<Rate, Failure> {
        let own = f64::from(traits.fps);
        match self.get("force_fps").and_then(Value::as_str).map(str::trim) {
            Some("control") => return Ok(Rate::OfGuide(own)),
            Some("source" | "auto") => return Ok(Rate::OfSource(own)),
            _ => {}
        }
        match self.number("force_fps") {
            Ok(None) => Ok(Rate::Fixed(own)),
            Ok(Some(fps)) if RATES.contains(&fps) => Ok(Rate::Fixed(fps)),
            _ => Err(invalid("force_fps", "must be 1 to 240, `auto`, `control` or `source`")),
        }
    }

    /// Frames; a number of seconds becomes the nearest count that the model can make.
    fn length(&self, traits: &Traits, rate: Rate) -> Result<u64, Failure> {
        let problem = || invalid("video_length", "must be a number of frames (1 to 100000), or seconds as \"5s\"");
        let seconds = self.get("video_length").and_then(Value::as_str).and_then(|text| text.trim().strip_suffix('s'));
        let frames = match seconds {
            Some(seconds) => {
                let (Rate::Fixed(fps) | Rate::OfGuide(fps) | Rate::OfSource(fps)) = rate;
                let frames = seconds.trim().parse::<f64>().map_err(|_| problem())? * fps;
                let grid = traits.grid as f64;
                ((frames.round() - 1.0) / grid).round() * grid + 1.0
            }
            None => self.number("video_length").map_err(|_| problem())?.unwrap_or(81.0),
        };
        let whole = frames.fract() == 0.0 && frames >= *FRAMES.start() as f64 && frames <= *FRAMES.end() as f64;
        if whole { Ok(frames as u64) } else { Err(problem()) }
    }

    fn source(&self, input: Input, length: u64) -> Result<Source, Failure> {
        let overlap = match self.whole("sliding_window_overlap")? {
            None => DEFAULT_OVERLAP,
            Some(overlap) => {
                u64::try_from(overlap).map_err(|_| invalid("sliding_window_overlap", "must not be negative"))?
            }
        };
        if overlap >= length {
            let why =
                format!("must be more than the {overlap} frames (`sliding_window_overlap`) that repeat the source");
            return Err(invalid("video_length", &why));
        }
        let keep = self.whole("keep_frames_video_source")?.filter(|keep| *keep != 0);
        Ok(Source { input, keep, overlap })
    }

    fn label(&self) -> Result<Option<String>, Failure> {
        if let Some(label) = self.text("label")? {
            return Ok(Some(label));
        }
        Ok(self.whole("segment_index")?.map(|index| format!("segment {}", index.saturating_add(1))))
    }

    fn files(&self, key: &'static str) -> Result<Vec<Input>, Failure> {
        let wrong = || invalid(key, "must be a file ({\"$artifact\": \"sha256:…\"})");
        let one = |value: &Value| {
            let text = value.get("$artifact").and_then(Value::as_str).ok_or_else(wrong)?;
            Ok(Input { key, file: text.parse().map_err(|_| wrong())? })
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(one).collect(),
            Some(value) => Ok(vec![one(value)?]),
        }
    }

    fn file(&self, key: &'static str) -> Result<Option<Input>, Failure> {
        Ok(self.files(key)?.first().copied())
    }
}

fn invalid(key: &str, why: &str) -> Failure {
    Failure::invalid("invalid_settings", format!("The setting `{key}` {why}."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> Result<Plan, Failure> {
        Plan::read(settings.as_object().unwrap())
    }

    fn file() -> Value {
        json!({"$artifact": Digest::of(b"x").to_string()})
    }

    #[test]
    fn an_empty_request_is_81_frames_of_832x480_at_16() {
        let plan = read(json!({})).unwrap();
        assert_eq!((plan.width, plan.height, plan.shape), (832, 480, Shape::Video { frames: 81 }));
        assert_eq!((plan.rate, plan.seed), (Rate::Fixed(16.0), -1));
    }

    #[test]
    fn seconds_become_the_nearest_count_the_model_can_make() {
        let frames = |settings| match read(settings).unwrap().shape {
            Shape::Video { frames } => frames,
            Shape::Pictures { .. } => 0,
        };
        assert_eq!(frames(json!({"video_length": "5s"})), 81);
        assert_eq!(frames(json!({"video_length": "2s", "model": "ltxv_13B"})), 57);
        assert_eq!(frames(json!({"video_length": "1s", "force_fps": "24"})), 25);
        assert_eq!(frames(json!({"video_length": 80})), 80);
    }

    #[test]
    fn one_frame_is_a_picture_unless_it_is_a_travel_segment() {
        assert_eq!(read(json!({"video_length": 1})).unwrap().shape, Shape::Pictures { count: 1 });
        let segment = json!({"video_length": 1, "_source_task_type": "travel_segment"});
        assert_eq!(read(segment).unwrap().shape, Shape::Video { frames: 1 });
        for picture in [json!({"model": "flux"}), json!({"image_mode": 1}), json!({"model_name": "qwen_image_20B"})] {
            assert_eq!(read(picture).unwrap().shape, Shape::Pictures { count: 1 });
        }
    }

    #[test]
    fn a_wrong_setting_is_refused_by_its_name() {
        for (key, value) in [
            ("resolution", json!("832")),
            ("resolution", json!("0x480")),
            ("resolution", json!([832, 480])),
            ("video_length", json!("abc")),
            ("video_length", json!(0)),
            ("video_length", json!(2.5)),
            ("video_length", json!("0x")),
            ("force_fps", json!("fast")),
            ("force_fps", json!(0)),
            ("seed", json!("x")),
            ("prompt", json!(["a"])),
            ("image_start", json!("/home/a.png")),
            ("image_refs", json!([1])),
            ("batch_size", json!(99)),
        ] {
            let mut settings = json!({"image_mode": if key == "batch_size" { 1 } else { 0 }});
            settings[key] = value.clone();
            let failure = read(settings).unwrap_err();
            assert_eq!(failure.code, "invalid_settings", "{key} {value}");
            assert!(failure.message.contains(&format!("`{key}`")), "{key} {value}: {}", failure.message);
        }
        let failure = read(json!({"video_source": file(), "video_length": 4})).unwrap_err();
        assert!(failure.message.contains("`video_length`"));
    }

    #[test]
    fn a_vace_model_is_refused_without_its_guide() {
        assert_eq!(read(json!({"model_name": "wan_2_2_vace_x"})).unwrap_err().code, "input_missing");
        assert!(read(json!({"model_name": "wan_2_2_vace_x", "video_guide": file()})).is_ok());
    }

    #[test]
    fn null_and_empty_settings_are_absent() {
        let plan = read(json!({"video_guide": null, "image_start": [], "video_prompt_type": null, "force_fps": ""}));
        assert_eq!(plan.unwrap(), read(json!({})).unwrap());
    }
}
