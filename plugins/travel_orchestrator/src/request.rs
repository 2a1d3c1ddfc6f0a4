//! The params, checked and understood. Everything that can be wrong with them is found here, before anything is created.

use enginehouse_sdk::fields;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::SEED;
use enginehouse_sdk::rules::frames::Frames;
use enginehouse_sdk::rules::kinds;
use enginehouse_sdk::rules::phase_config::Phases;
use enginehouse_sdk::rules::resolution::Resolution;
use enginehouse_sdk::rules::svi::Strengths;
use serde::Deserialize;

use crate::guidance::{self, Wanted};

/// Frames per second of guides and of the stitched video, where the travel does not say.
pub const FPS: i64 = 16;
/// Shortest segment in frames: shorter ones become a single frame, which nothing can overlap with.
const SHORTEST: i64 = 4;

/// What the operator may set for this plugin.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Folder of a travel that names none. Opaque text here: files travel as artifacts.
    pub output_dir: String,
    /// What relative folders count from; "": they stay relative.
    pub working_dir: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { output_dir: "outputs".into(), working_dir: String::new() }
    }
}

impl Settings {
    /// JSON Schema of the settings.
    pub fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "output_dir": {"type": "string", "description": "folder named in the children of a travel without `main_output_dir_for_run`"},
                "working_dir": {"type": "string", "description": "what relative folders count from"}
            }
        })
    }
}

/// How the segments hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each segment grows out of the last frames of its predecessor.
    Svi,
    /// Each segment shows the last frames of its predecessor again, then goes on.
    VaceChained,
    /// Segments of a VACE model that know nothing of each other.
    VaceIndependent,
    /// Segments between two pictures each.
    ImageToVideo,
}

impl Mode {
    /// A segment starts when its predecessor is complete.
    pub fn is_sequential(self) -> bool {
        matches!(self, Mode::Svi | Mode::VaceChained)
    }

    /// The segments are joined in the end.
    pub fn is_stitched(self) -> bool {
        self.is_sequential()
    }
}

/// A travel, checked.
#[derive(Clone, Debug)]
pub struct Travel {
    pub task_id: String,
    pub project_id: String,
    pub run_id: String,
    /// Absolute where the settings say what relative folders count from.
    pub run_dir: String,
    pub parent_generation_id: Value,
    /// Number of segments, at least 1.
    pub segments: usize,
    pub mode: Mode,
    /// Of all the lengths given, also beyond the last segment.
    pub frames: Frames,
    pub resolution: Resolution,
    pub fps: f64,
    pub seed: i64,
    /// The video that the travel continues.
    pub continued_video: Option<String>,
    pub prompts: Prompts,
    pub guidance: Wanted,
    pub svi_strengths: Strengths,
    /// `orchestrator_details` with what was decided so far: what the children get.
    pub details: Map<String, Value>,
}

/// The texts of a travel, as given.
#[derive(Clone, Debug, Default)]
pub struct Prompts {
    /// At least one per segment.
    pub base: Vec<String>,
    pub negative: Vec<String>,
    /// Those that were improved already; "" or none: not yet.
    pub enhanced: Vec<String>,
    /// Where a segment has no prompt of its own.
    pub fallback: String,
    pub negative_fallback: String,
    pub before: String,
    pub after: String,
    /// A model is to write those that are missing in `enhanced`.
    pub enhance: bool,
    pub images: Vec<String>,
}

/// Reads and checks a task. None: there is nothing to generate.
pub fn read(task: &Task, settings: &Settings) -> Result<Option<Travel>, Failure> {
    let project_id = task.context.project_id.clone().ok_or_else(|| {
        Failure::invalid(
            kinds::MISSING_PROJECT_ID,
            "the task belongs to no project: submit it again with a project, which its segments need",
        )
    })?;
    let mut details = match task.params.get("orchestrator_details") {
        None | Some(Value::Null) => return Err(missing_details()),
        Some(details) => fields::object("orchestrator_details", details)?.clone(),
    };
    details.insert("orchestrator_task_id".into(), json!(task.id));

    let mode = mode(&mut details)?;
    if let Some(config) = details.get("phase_config").filter(|config| fields::is_truthy(config)) {
        let settings = Phases::parse(config)?.settings();
        details.extend(settings);
    }
    let segments = match Fields::new([&details]).required_integer("num_new_segments_to_generate")? {
        0 => return Ok(None),
        count => usize::try_from(count).map_err(|_| {
            fields::invalid("num_new_segments_to_generate", &json!(count), "a number of segments, 0 or more")
        })?,
    };

    let continued_video = text(&details, "continue_from_video_resolved_path")?.filter(|path| !path.is_empty());
    let frames = frames(&mut details, segments, continued_video.is_some())?;
    let prompts = prompts(&details, segments)?;
    let given = Fields::new([&details]);
    let resolution = Resolution::parse(given.required_text("parsed_resolution_wh")?)?;
    resolution.snapped()?;
    given.required_text("model_name")?;
    let fps = frame_rate(&given)?;
    passed_on(&given)?;
    let seed = given.integer("seed_base")?.unwrap_or(SEED);
    let svi_strengths = Strengths::read(&given)?;
    let guidance = guidance::wanted(&given)?;
    let run_id = text(&details, "run_id")?.filter(|id| !id.is_empty()).unwrap_or_else(|| task.id.clone());
    let run_dir = text(&details, "main_output_dir_for_run")?.filter(|folder| !folder.is_empty());

    Ok(Some(Travel {
        task_id: task.id.clone(),
        project_id,
        run_id,
        run_dir: absolute(&run_dir.unwrap_or_else(|| settings.output_dir.clone()), &settings.working_dir),
        parent_generation_id: parent_generation(&task.params, &details),
        segments,
        mode,
        frames,
        resolution,
        fps,
        seed,
        continued_video,
        prompts,
        guidance,
        svi_strengths,
        details,
    }))
}

fn missing_details() -> Failure {
    Failure::invalid(
        kinds::MISSING_ORCHESTRATOR_DETAILS,
        "the params have no `orchestrator_details`: submit the task again with the object that describes the travel",
    )
}

/// Decides how the segments hang together, and writes `chain_segments` back.
fn mode(details: &mut Map<String, Value>) -> Result<Mode, Failure> {
    let given = Fields::new([&*details]);
    let chain = match given.boolean("chain_segments")? {
        Some(chain) => chain,
        // The older name says the opposite.
        None => !given.boolean("independent_segments")?.unwrap_or(false),
    };
    let model_type = given.given("model_type");
    let mode = match model_type.map_or(Some("vace"), Value::as_str) {
        Some("vace" | "i2v") if given.boolean("use_svi")?.unwrap_or(false) => Mode::Svi,
        Some("vace") if chain => Mode::VaceChained,
        Some("vace") => Mode::VaceIndependent,
        Some("i2v") => Mode::ImageToVideo,
        _ => return Err(fields::invalid("model_type", model_type.unwrap_or(&Value::Null), "\"vace\" or \"i2v\"")),
    };
    details.insert("chain_segments".into(), json!(chain));
    Ok(mode)
}

/// Quantises lengths and overlaps, and writes them back.
fn frames(details: &mut Map<String, Value>, segments: usize, continues_video: bool) -> Result<Frames, Failure> {
    const LENGTHS: &str = "segment_frames_expanded";
    const OVERLAPS: &str = "frame_overlap_expanded";
    let given = Fields::new([&*details]);
    let lengths = given.integers(LENGTHS)?.ok_or_else(|| fields::missing(LENGTHS))?;
    long_enough(LENGTHS, lengths.len(), segments)?;
    for (segment, length) in lengths.iter().enumerate().take(segments) {
        if *length < SHORTEST {
            let field = format!("{LENGTHS}[{segment}]");
            return Err(fields::invalid(&field, &json!(length), &format!("a number of frames, at least {SHORTEST}")));
        }
    }
    let overlaps = match given.present(OVERLAPS).ok_or_else(|| fields::missing(OVERLAPS))? {
        Value::Null => Vec::new(),
        overlap @ Value::Number(_) => Frames::repeat(fields::integer(OVERLAPS, overlap)?, segments, continues_video),
        Value::Array(_) => given.integers(OVERLAPS)?.unwrap_or_default(),
        other => return Err(fields::invalid(OVERLAPS, other, "a list of frame numbers, or one for all joins")),
    };
    let frames = Frames::plan(&lengths, &overlaps, continues_video);
    details.insert(LENGTHS.into(), json!(frames.lengths));
    details.insert(OVERLAPS.into(), json!(frames.overlaps));
    Ok(frames)
}

fn prompts(details: &Map<String, Value>, segments: usize) -> Result<Prompts, Failure> {
    let given = Fields::new([details]);
    let texts = |key: &str| {
        let entries = given.texts(key)?.unwrap_or_default();
        Ok::<Vec<String>, Failure>(entries.into_iter().map(str::to_owned).collect())
    };
    let one = |key: &str| Ok::<String, Failure>(given.text(key)?.unwrap_or("").to_owned());
    for required in ["base_prompts_expanded", "negative_prompts_expanded"] {
        // Null is an empty list; that is long enough for negative prompts alone.
        given.present(required).ok_or_else(|| fields::missing(required))?;
    }
    let base = texts("base_prompts_expanded")?;
    long_enough("base_prompts_expanded", base.len(), segments)?;
    Ok(Prompts {
        base,
        negative: texts("negative_prompts_expanded")?,
        enhanced: texts("enhanced_prompts_expanded")?,
        fallback: one("base_prompt")?,
        negative_fallback: one("negative_prompt")?,
        before: one("text_before_prompts")?,
        after: one("text_after_prompts")?,
        enhance: given.boolean("enhance_prompt")?.unwrap_or(false),
        images: texts("input_image_paths_resolved")?,
    })
}

fn frame_rate(given: &Fields<'_>) -> Result<f64, Failure> {
    const KEY: &str = "fps_helpers";
    let fps = given.number(KEY)?.unwrap_or(FPS as f64);
    if fps > 0.0 { Ok(fps) } else { Err(fields::invalid(KEY, &json!(fps), "a number of frames per second above 0")) }
}

/// Values that only the children use: better refused now than after the first segment has been generated.
fn passed_on(given: &Fields<'_>) -> Result<(), Failure> {
    for number in [
        "crossfade_sharp_amt",
        "upscale_factor",
        "subsequent_starting_strength_adjustment",
        "desaturate_subsequent_starting_frames",
        "adjust_brightness_subsequent_starting_frames",
        "after_first_post_generation_saturation",
        "after_first_post_generation_brightness",
    ] {
        given.number(number)?;
    }
    for boolean in ["regenerate_anchors", "debug_mode_enabled", "skip_cleanup_enabled"] {
        given.boolean(boolean)?;
    }
    Ok(())
}

fn long_enough(list: &str, length: usize, needed: usize) -> Result<(), Failure> {
    if length >= needed {
        return Ok(());
    }
    Err(Failure::invalid(
        kinds::LIST_TOO_SHORT,
        format!("`{list}` has {length} entries, and the travel has {needed} segments: give one for each"),
    ))
}

fn text(details: &Map<String, Value>, key: &str) -> Result<Option<String>, Failure> {
    Ok(Fields::new([details]).text(key)?.map(str::to_owned))
}

/// The generation that the results belong to: named beside the details, in them, or in details wrapped once more.
fn parent_generation(params: &Map<String, Value>, details: &Map<String, Value>) -> Value {
    const KEY: &str = "parent_generation_id";
    let wrapped = details.get("orchestrator_details").and_then(Value::as_object);
    Fields::new([params, details].into_iter().chain(wrapped)).truthy(KEY).cloned().unwrap_or(Value::Null)
}

/// `./a/b` below a working folder; addresses and absolute folders as they are.
fn absolute(folder: &str, working_dir: &str) -> String {
    let folder = if folder.len() > 1 { folder.trim_end_matches('/') } else { folder };
    if folder.starts_with('/') || folder.contains("://") {
        return folder.to_owned();
    }
    let parts = folder.split('/').filter(|part| !part.is_empty() && *part != ".");
    let base = working_dir.trim_end_matches('/');
    let parts: Vec<&str> = (!base.is_empty()).then_some(base).into_iter().chain(parts).collect();
    parts.join("/")
}

/// JSON Schema of the params. It fixes the shape of lists and objects; what is wrong with a single value is told by this
/// plugin, in the words and codes of its failures.
pub fn schema() -> Value {
    let list = |of: &str| json!({"type": ["array", "null"], "description": of});
    json!({
        "type": "object",
        "properties": {
            "orchestrator_details": {
                "type": ["object", "null"],
                "description": "the travel; unknown members are passed on to its segments",
                "properties": {
                    "num_new_segments_to_generate": {"type": ["integer", "null"], "description": "number of segments N"},
                    "base_prompts_expanded": list("a prompt per segment"),
                    "negative_prompts_expanded": list("a negative prompt per segment; missing ones are empty"),
                    "enhanced_prompts_expanded": list("prompts that replace those of `base_prompts_expanded`; empty ones do not"),
                    "segment_frames_expanded": list("frames per segment, brought to the form 4k + 1"),
                    "frame_overlap_expanded": {"type": ["array", "integer", "null"], "description": "frames shared at each join"},
                    "input_image_paths_resolved": list("the pictures: addresses, digests or paths; normally N + 1"),
                    "parsed_resolution_wh": {"description": "\"WIDTHxHEIGHT\" in pixels"},
                    "model_name": {"description": "the Wan2GP model"},
                    "model_type": {"description": "\"vace\" (default) or \"i2v\""},
                    "chain_segments": {"description": "true (default): each VACE segment goes on from the one before"},
                    "use_svi": {"description": "true: SVI chaining"},
                    "seed_base": {"description": "seed of all segments", "default": SEED},
                    "fps_helpers": {"description": "frames per second", "default": FPS},
                    "phase_config": {"description": "denoising in two or three phases"},
                    "structure_guidance": {"description": "videos whose structure the travel follows"}
                }
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use enginehouse_sdk::plugin::Context;

    use super::*;

    /// A task whose details are those of a sound travel of two segments, changed by `changes`; null removes a field.
    pub(crate) fn task(changes: Value) -> Task {
        let mut details = json!({
            "run_id": "run", "num_new_segments_to_generate": 2, "base_prompts_expanded": ["a", "b"],
            "negative_prompts_expanded": ["x", ""], "negative_prompt": "ugly", "segment_frames_expanded": [80, 81],
            "frame_overlap_expanded": [11], "parsed_resolution_wh": "902x508", "model_name": "wan_vace",
            "input_image_paths_resolved": ["0.png", "1.png", "2.png"], "main_output_dir_for_run": "/runs/1"
        });
        let members = details.as_object_mut().unwrap();
        for (key, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(members.remove(key)),
                value => drop(members.insert(key.clone(), value.clone())),
            }
        }
        Task {
            id: "t1".into(),
            params: json!({"orchestrator_details": details}).as_object().unwrap().clone(),
            context: Context { project_id: Some("p1".into()), ..Context::default() },
            ..Task::default()
        }
    }

    pub(crate) fn travel(changes: Value) -> Travel {
        read(&task(changes), &Settings::default()).unwrap().unwrap()
    }

    fn failure(changes: Value) -> Failure {
        read(&task(changes), &Settings::default()).unwrap_err()
    }

    #[test]
    fn a_travel_is_understood_and_its_details_say_what_was_decided() {
        let travel = travel(json!({}));
        assert_eq!((travel.mode, travel.segments, travel.seed, travel.fps), (Mode::VaceChained, 2, 12345, 16.0));
        assert_eq!(travel.details["segment_frames_expanded"], json!([81, 81]));
        assert_eq!(travel.details["frame_overlap_expanded"], json!([10]));
        assert_eq!(travel.details["chain_segments"], json!(true));
        assert_eq!(travel.details["orchestrator_task_id"], json!("t1"));
    }

    #[test]
    fn each_broken_rule_has_its_code_and_names_its_field() {
        let cases = [
            (json!({"num_new_segments_to_generate": null}), "missing_required_field", "`num_new_segments_to_generate`"),
            (json!({"num_new_segments_to_generate": -1}), "invalid_field", "is -1"),
            (json!({"num_new_segments_to_generate": 3}), "list_too_short", "has 2 entries, and the travel has 3"),
            (json!({"base_prompts_expanded": ["a"]}), "list_too_short", "`base_prompts_expanded` has 1 entries"),
            (json!({"negative_prompts_expanded": null}), "missing_required_field", "`negative_prompts_expanded`"),
            (json!({"segment_frames_expanded": null}), "missing_required_field", "`segment_frames_expanded`"),
            (json!({"segment_frames_expanded": [81, 3]}), "invalid_field", "`segment_frames_expanded[1]` is 3"),
            (json!({"frame_overlap_expanded": "10"}), "invalid_field", "`frame_overlap_expanded`"),
            (json!({"frame_overlap_expanded": null}), "missing_required_field", "`frame_overlap_expanded`"),
            (json!({"model_name": ""}), "missing_required_field", "`model_name`"),
            (json!({"model_type": "hybrid"}), "invalid_field", "\"vace\" or \"i2v\""),
            (json!({"chain_segments": "false"}), "invalid_field", "`chain_segments` is \"false\""),
            (json!({"parsed_resolution_wh": "8x508"}), "invalid_resolution", "8x508"),
            (json!({"phase_config": {"num_phases": 1}}), "bad_phase_config", "phases"),
            (json!({"fps_helpers": 0}), "invalid_field", "`fps_helpers`"),
            (json!({"crossfade_sharp_amt": "a lot"}), "invalid_field", "`crossfade_sharp_amt`"),
            (json!({"structure_guidance": {"preprocessing": "x"}}), "invalid_field", "preprocessing"),
        ];
        for (changes, code, words) in cases {
            let failure = failure(changes.clone());
            assert_eq!(failure.code, code, "{changes}");
            assert!(failure.message.contains(words), "{changes}: {}", failure.message);
        }
    }

    #[test]
    fn a_task_needs_a_project_and_details() {
        let settings = Settings::default();
        let homeless = Task { context: Context::default(), ..task(json!({})) };
        assert_eq!(read(&homeless, &settings).unwrap_err().code, "missing_project_id");
        let empty = Task { params: Map::new(), ..task(json!({})) };
        assert_eq!(read(&empty, &settings).unwrap_err().code, "missing_orchestrator_details");
    }

    #[test]
    fn no_segments_are_nothing_to_generate() {
        assert!(read(&task(json!({"num_new_segments_to_generate": 0})), &Settings::default()).unwrap().is_none());
    }

    #[test]
    fn the_mode_follows_from_type_chain_and_svi() {
        let cases = [
            (json!({"chain_segments": false}), Mode::VaceIndependent),
            (json!({"independent_segments": true}), Mode::VaceIndependent),
            (json!({"independent_segments": true, "chain_segments": true}), Mode::VaceChained),
            (json!({"model_type": "i2v"}), Mode::ImageToVideo),
            (json!({"model_type": "i2v", "use_svi": true}), Mode::Svi),
            (json!({"use_svi": true, "chain_segments": false}), Mode::Svi),
        ];
        for (changes, mode) in cases {
            assert_eq!(travel(changes.clone()).mode, mode, "{changes}");
        }
    }

    #[test]
    fn one_overlap_holds_for_all_joins_and_null_for_none() {
        assert_eq!(travel(json!({"frame_overlap_expanded": 7})).frames.overlaps, [6]);
        let mut none = task(json!({}));
        none.params["orchestrator_details"]["frame_overlap_expanded"] = Value::Null;
        assert_eq!(read(&none, &Settings::default()).unwrap().unwrap().frames.overlaps, [0]);
        let continued = travel(json!({"frame_overlap_expanded": 7, "continue_from_video_resolved_path": "v.mp4"}));
        assert_eq!(continued.frames.overlaps, [6, 6]);
    }

    #[test]
    fn phases_become_settings_of_the_travel() {
        let travel = travel(json!({"phase_config": {"num_phases": 2, "steps_per_phase": [3, 3], "phases": [{}, {}]}}));
        assert_eq!(travel.details["num_inference_steps"], json!(6));
        assert_eq!(travel.details["guidance_phases"], json!(2));
    }

    #[test]
    fn folders_are_absolute_where_the_operator_says_what_they_count_from() {
        assert_eq!(absolute("./a/b/", "/srv"), "/srv/a/b");
        assert_eq!(absolute("/a/b", "/work"), "/a/b");
        assert_eq!(absolute("s3://bucket/a", "/work"), "s3://bucket/a");
        assert_eq!(absolute("a", ""), "a");
        assert_eq!(travel(json!({"main_output_dir_for_run": null})).run_dir, "outputs");
    }

    #[test]
    fn the_generation_beside_the_details_goes_first() {
        let mut task =
            task(json!({"parent_generation_id": "inner", "orchestrator_details": {"parent_generation_id": "wrapped"}}));
        let read = |task: &Task| read(task, &Settings::default()).unwrap().unwrap().parent_generation_id;
        assert_eq!(read(&task), json!("inner"));
        task.params.insert("parent_generation_id".into(), json!("top"));
        assert_eq!(read(&task), json!("top"));
    }
}
