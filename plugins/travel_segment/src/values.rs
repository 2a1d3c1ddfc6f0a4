//! What a segment is: its values, read from three layers of params and checked. Pure.
//!
//! The layers, the most particular first: `individual_segment_params` (own), the task's params (task), and
//! `orchestrator_details` (travel). Which of them a value may come from differs from value to value.

use enginehouse_sdk::fields::{integer, invalid, missing, object, text};
use enginehouse_sdk::host::media::Adjust;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::SEED;
use enginehouse_sdk::rules::frames::quantise;
use enginehouse_sdk::rules::kinds;
use enginehouse_sdk::rules::prompts::normalised;
use enginehouse_sdk::rules::resolution::Resolution;
use enginehouse_sdk::rules::svi::Strengths;

use crate::guide::overlap_adjustment;
use crate::images::{Named, Place};

/// Frames a second of guides when the travel names none.
const FPS: f64 = 16.0;

/// Generation parameters that an SVI segment takes from its task as they are.
const SVI_SETTINGS: [&str; 8] = [
    "guidance_phases",
    "num_inference_steps",
    "guidance_scale",
    "guidance2_scale",
    "flow_shift",
    "switch_threshold",
    "model_switch_phase",
    "sample_solver",
];

/// The layers of params.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    pub own: &'a Map<String, Value>,
    pub task: &'a Map<String, Value>,
    pub travel: &'a Map<String, Value>,
}

/// A segment to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// On its own, not part of a run: nothing is chained.
    pub standalone: bool,
    pub index: usize,
    pub first: Option<bool>,
    pub last: Option<bool>,

    pub model: String,
    pub prompt: String,
    pub negative_prompt: String,
    pub resolution: Resolution,
    pub frames: u64,
    pub fps: f64,
    pub seed: i64,
    pub steps: Option<Value>,
    pub guidance_scale: Option<Value>,
    pub flow_shift: Option<Value>,
    pub phase_config: Option<Value>,

    /// The travel is of the kind `vace`: guide and mask are made, if the model takes them.
    pub vace_travel: bool,
    /// Segments continue from each other.
    pub chained: bool,
    /// Frames shared with what comes before.
    pub overlap: u64,
    pub overlap_adjust: Adjust,
    /// Address of a video that the whole travel continues.
    pub continued: Option<String>,
    pub named: Named,

    /// Generated from the end of a video by the SVI method.
    pub svi: bool,
    /// Address of the video to start from instead of the predecessor's (SVI).
    pub predecessor: Option<String>,
    pub svi_strengths: Strengths,
    /// Generation parameters of the task that an SVI segment hands on.
    pub svi_settings: Map<String, Value>,

    /// Applied to the generated video; none: as it is.
    pub saturation: Option<f64>,
    pub brightness: Option<f64>,
    /// Guide and mask are made for every model, to look at.
    pub debug: bool,
    /// What was made on the way is kept beside the product.
    pub keeps_steps: bool,
}

/// The number of a segment. Code `missing_segment_index` where it is required and absent.
pub fn index(params: &Map<String, Value>, standalone: bool) -> Result<usize, Failure> {
    const FIELD: &str = "segment_index";
    match params.get(FIELD) {
        None | Some(Value::Null) if standalone => Ok(0),
        None | Some(Value::Null) => Err(Failure::invalid(
            kinds::MISSING_SEGMENT_INDEX,
            "cannot tell which segment this is: the params lack `segment_index`",
        )),
        Some(value) => usize::try_from(integer(FIELD, value)?)
            .map_err(|_| invalid(FIELD, value, "the number of a segment, 0 or more")),
    }
}

/// `individual_segment_params`, or nothing.
pub fn own(params: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
    const FIELD: &str = "individual_segment_params";
    match params.get(FIELD) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(value) => object(FIELD, value).cloned(),
    }
}

impl Segment {
    /// Reads the values. Codes: `missing_required_field`, `invalid_field`, `invalid_resolution`, `missing_segment_index`.
    pub fn read(layers: Layers, standalone: bool) -> Result<Self, Failure> {
        let Layers { own, task, travel } = layers;
        let index = index(task, standalone)?;
        let of_own = Fields::new([own, task]);
        let of_task = Fields::new([task, travel]);
        let of_travel = Fields::new([travel]);
        let only_task = Fields::new([task]);

        let frames = frames(layers, index)?;
        let first = only_task.boolean("is_first_segment")?;
        let after = of_task.number("after_first_post_generation_saturation")?.filter(|s| *s >= 0.0 && *s != 1.0);
        let continued = address(&of_travel, "continue_from_video_resolved_path")?;
        let debug = of_task.boolean("debug_mode_enabled")?.unwrap_or(false);
        // The look of later segments is corrected towards the first one, which keeps its own; after a continued video even
        // the first one follows.
        let follows = !first.unwrap_or(true) || continued.is_some();

        Ok(Self {
            standalone,
            index,
            first,
            last: only_task.boolean("is_last_segment")?,
            model: of_task.required_text("model_name")?.to_string(),
            prompt: normalised(of_own.text("base_prompt")?).to_string(),
            negative_prompt: normalised(of_own.text("negative_prompt")?).to_string(),
            resolution: Resolution::parse(of_task.required_text("parsed_resolution_wh")?)?.snapped()?,
            // The lengths of a run are quantised when it is planned.
            frames: if standalone { quantise(frames) } else { frames }.unsigned_abs(),
            fps: of_task.number("fps_helpers")?.filter(|fps| *fps > 0.0).unwrap_or(FPS),
            seed: of_own.integer("seed_to_use")?.unwrap_or(SEED),
            // A number of steps of 0 means nothing; a guidance of 0 does.
            steps: of_task.truthy("num_inference_steps").cloned(),
            guidance_scale: of_task.given("guidance_scale").cloned(),
            flow_shift: of_task.given("flow_shift").cloned(),
            phase_config: Fields::new([own, task, travel]).truthy("phase_config").cloned(),

            vace_travel: of_travel.text("model_type")?.unwrap_or("vace") == "vace",
            chained: chained(&of_travel)?,
            overlap: only_task.integer("frame_overlap_from_previous")?.unwrap_or(0).max(0).unsigned_abs(),
            overlap_adjust: overlap_adjustment(
                of_task.number("subsequent_starting_strength_adjustment")?.unwrap_or(0.0),
                of_task.number("desaturate_subsequent_starting_frames")?.unwrap_or(0.0),
                of_task.number("adjust_brightness_subsequent_starting_frames")?.unwrap_or(0.0),
            ),
            named: Named {
                start_url: address(&Fields::new([own]), "start_image_url")?,
                end_url: address(&Fields::new([own]), "end_image_url")?,
                own: addresses(&Fields::new([own]))?,
                task: addresses(&only_task)?,
                run: addresses(&of_travel)?,
            },
            continued,

            svi: match of_task.present("use_svi") {
                None | Some(Value::Null) => false,
                Some(_) => Fields::new([task, travel]).boolean("use_svi")?.unwrap_or(false),
            },
            predecessor: address(&of_task, "svi_predecessor_video_url")?,
            svi_strengths: Strengths::read(&of_task)?,
            svi_settings: SVI_SETTINGS
                .iter()
                .filter_map(|key| only_task.given(key).map(|value| (key.to_string(), value.clone())))
                .collect(),

            saturation: after.filter(|_| follows && !standalone),
            brightness: of_task
                .number("after_first_post_generation_brightness")?
                .filter(|brightness| *brightness != 0.0 && follows && !standalone),
            debug,
            keeps_steps: debug || of_task.boolean("skip_cleanup_enabled")?.unwrap_or(false),
        })
    }

    /// SVI from the end of a video: the predecessor's, or one that was named.
    pub fn from_video(&self) -> bool {
        self.svi && (self.index > 0 || self.predecessor.is_some())
    }

    /// One picture and one segment: the travel leaves that picture and arrives nowhere.
    pub fn single_image(&self) -> bool {
        self.named.run.len() == 1 && self.continued.is_none() && self.first == Some(true) && self.last == Some(true)
    }

    /// The segment begins with its start picture, not with frames of a video before it.
    pub fn from_scratch(&self) -> bool {
        self.standalone || !self.chained || (self.first.unwrap_or(self.index == 0) && self.continued.is_none())
    }

    /// What decides where its pictures are.
    pub fn place(&self) -> Place {
        Place {
            index: self.index,
            standalone: self.standalone,
            from_video: self.from_video(),
            svi: self.svi,
            continuing: self.continued.is_some(),
            single_image: self.single_image(),
        }
    }
}

/// Length in frames, above 0.
fn frames<'a>(layers: Layers<'a>, index: usize) -> Result<i64, Failure> {
    let Layers { own, task, travel } = layers;
    let own_or_tasks = Fields::new([own, task]);
    let named = |field: &'static str, fields: &Fields<'a>| fields.truthy(field).map(|value| (field.to_string(), value));
    let given = named("num_frames", &own_or_tasks).or_else(|| named("segment_frames_target", &Fields::new([task])));
    let (field, value) = match given {
        Some(given) => given,
        None => {
            let lengths = Fields::new([travel]).list("segment_frames_expanded")?.unwrap_or_default();
            let length = lengths.get(index).ok_or_else(|| missing("segment_frames_target"))?;
            (format!("segment_frames_expanded[{index}]"), length)
        }
    };
    let frames = integer(&field, value)?;
    if frames <= 0 { Err(invalid(&field, value, "a number of frames, 1 or more")) } else { Ok(frames) }
}

/// Whether segments continue from each other: said by either of two fields.
fn chained(travel: &Fields) -> Result<bool, Failure> {
    Ok(match travel.boolean("chain_segments")? {
        Some(chained) => chained,
        None => !travel.boolean("independent_segments")?.unwrap_or(false),
    })
}

fn address(fields: &Fields, key: &str) -> Result<Option<String>, Failure> {
    fields.truthy(key).map(|value| text(key, value).map(str::to_string)).transpose()
}

fn addresses(fields: &Fields) -> Result<Vec<String>, Failure> {
    let addresses = fields.texts("input_image_paths_resolved")?.unwrap_or_default();
    Ok(addresses.into_iter().map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn read(own: Value, task: Value, travel: Value, standalone: bool) -> Result<Segment, Failure> {
        let mut base =
            map(json!({"segment_index": 1, "model_name": "m", "parsed_resolution_wh": "100x60", "num_frames": 33}));
        base.extend(map(task));
        let (own, travel) = (map(own), map(travel));
        Segment::read(Layers { own: &own, task: &base, travel: &travel }, standalone)
    }

    #[test]
    fn the_most_particular_layer_wins() {
        let segment = read(
            json!({"num_frames": 29, "base_prompt": "own", "seed_to_use": 42}),
            json!({"num_frames": 45, "base_prompt": "task", "seed_to_use": 1, "negative_prompt": "bad"}),
            json!({"fps_helpers": 24}),
            true,
        )
        .unwrap();
        assert_eq!((segment.frames, segment.prompt.as_str(), segment.seed), (29, "own", 42));
        assert_eq!((segment.negative_prompt.as_str(), segment.fps), ("bad", 24.0));
        assert_eq!(segment.resolution.to_string(), "96x48");
    }

    #[test]
    fn an_explicit_zero_is_an_answer_where_it_means_something() {
        let segment = read(
            json!({"seed_to_use": 0}),
            json!({"seed_to_use": 5, "guidance_scale": 0, "num_inference_steps": 0, "flow_shift": 0}),
            json!({"guidance_scale": 4, "num_inference_steps": 8}),
            false,
        )
        .unwrap();
        assert_eq!(segment.seed, 0);
        assert_eq!(segment.guidance_scale, Some(json!(0)));
        assert_eq!(segment.flow_shift, Some(json!(0)));
        assert_eq!(segment.steps, Some(json!(8)));
    }

    #[test]
    fn an_empty_own_prompt_hides_the_tasks() {
        let segment = read(json!({"base_prompt": ""}), json!({"base_prompt": "task"}), json!({}), true).unwrap();
        assert_eq!(segment.prompt, " ");
    }

    #[test]
    fn only_standalone_lengths_are_quantised() {
        assert_eq!(read(json!({}), json!({"num_frames": 30}), json!({}), true).unwrap().frames, 29);
        assert_eq!(read(json!({}), json!({"num_frames": 30}), json!({}), false).unwrap().frames, 30);
    }

    #[test]
    fn the_length_falls_back_to_the_travels_list() {
        let travel = json!({"segment_frames_expanded": [33, 49]});
        assert_eq!(read(json!({}), json!({"num_frames": null}), travel, false).unwrap().frames, 49);
        let failure = read(json!({}), json!({"num_frames": 0}), json!({}), false).unwrap_err();
        assert_eq!(failure.code, "missing_required_field");
        assert_eq!(read(json!({}), json!({"num_frames": -4}), json!({}), false).unwrap_err().code, "invalid_field");
    }

    #[test]
    fn a_segment_must_say_which_one_it_is() {
        let failure = read(json!({}), json!({"segment_index": null}), json!({}), false).unwrap_err();
        assert_eq!(failure.code, "missing_segment_index");
        assert_eq!(read(json!({}), json!({"segment_index": null}), json!({}), true).unwrap().index, 0);
    }

    #[test]
    fn the_segments_own_word_on_svi_beats_the_travels() {
        let travel = json!({"use_svi": true});
        assert!(read(json!({}), json!({}), travel.clone(), false).unwrap().from_video());
        assert!(!read(json!({}), json!({"use_svi": false}), travel.clone(), false).unwrap().svi);
        assert!(!read(json!({}), json!({"use_svi": null}), travel, false).unwrap().svi);
    }

    #[test]
    fn a_standalone_segment_always_starts_from_its_picture() {
        assert!(read(json!({}), json!({}), json!({}), true).unwrap().from_scratch());
        assert!(!read(json!({}), json!({}), json!({}), false).unwrap().from_scratch());
        assert!(read(json!({}), json!({}), json!({"independent_segments": true}), false).unwrap().from_scratch());
        let continuing = json!({"continue_from_video_resolved_path": "/in/a.mp4"});
        let first = json!({"segment_index": 0, "is_first_segment": true});
        assert!(read(json!({}), first.clone(), json!({}), false).unwrap().from_scratch());
        assert!(!read(json!({}), first, continuing, false).unwrap().from_scratch());
    }

    #[test]
    fn the_look_is_corrected_after_the_first_segment_alone() {
        let travel =
            json!({"after_first_post_generation_saturation": 0.5, "after_first_post_generation_brightness": -0.1});
        let segment = read(json!({}), json!({"is_first_segment": false}), travel.clone(), false).unwrap();
        assert_eq!((segment.saturation, segment.brightness), (Some(0.5), Some(-0.1)));
        for first in [json!({"is_first_segment": true}), json!({})] {
            let segment = read(json!({}), first, travel.clone(), false).unwrap();
            assert_eq!((segment.saturation, segment.brightness), (None, None));
        }
        let unchanged =
            json!({"after_first_post_generation_saturation": 1, "after_first_post_generation_brightness": 0});
        let segment = read(json!({}), json!({"is_first_segment": false}), unchanged, false).unwrap();
        assert_eq!((segment.saturation, segment.brightness), (None, None));
    }
}
