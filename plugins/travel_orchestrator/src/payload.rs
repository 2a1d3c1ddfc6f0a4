//! The params of the children.

use enginehouse_sdk::fields::is_truthy;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::{UPSCALE_SEED_OFFSET, svi};

use crate::prompts;
use crate::request::{FPS, Mode, Travel};

/// Fields of the travel that a segment has as its own too, where the travel has them (also null). The per-segment negative
/// prompt is not among them: it beats the common one.
const LIFTED: [&str; 28] = [
    "prompt",
    "resolution",
    "video_length",
    "seed",
    "model",
    "num_inference_steps",
    "guidance_scale",
    "guidance2_scale",
    "guidance3_scale",
    "guidance_phases",
    "flow_shift",
    "switch_threshold",
    "switch_threshold2",
    "model_switch_phase",
    "sample_solver",
    "lora_names",
    "lora_multipliers",
    "activated_loras",
    "image_url",
    "in_scene",
    "style_reference_image",
    "style_reference_strength",
    "video_guide",
    "video_mask",
    "video_prompt_type",
    "control_net_weight",
    "amount_of_motion",
    "phase_config",
];

/// Params of segment i. `guidance`: its block of structure guidance, or null.
pub fn segment(travel: &Travel, index: usize, guidance: Value) -> Map<String, Value> {
    let of = |key: &str, default: Value| detail(travel, key, default);
    let mut params = common(travel);
    params.extend(members(json!({
        "segment_index": index,
        "is_first_segment": index == 0,
        "is_last_segment": index + 1 == travel.segments,
        "base_prompt": prompts::prompt(&travel.prompts, index),
        "negative_prompt": prompts::negative(&travel.prompts, index),
        "segment_frames_target": travel.frames.target(index, travel.mode == Mode::VaceChained),
        "frame_overlap_from_previous": travel.frames.overlap_before(index),
        "frame_overlap_with_next": travel.frames.overlap_after(index),
        "vace_image_refs_to_prepare_by_worker": image_refs(travel, index),
        "model_name": of("model_name", Value::Null),
        "seed_to_use": travel.seed,
        "cfg_star_switch": of("cfg_star_switch", json!(0)),
        "cfg_zero_step": of("cfg_zero_step", json!(-1)),
        "params_json_str_override": of("params_json_str_override", Value::Null),
        "fps_helpers": of("fps_helpers", json!(FPS)),
        "subsequent_starting_strength_adjustment": of("subsequent_starting_strength_adjustment", json!(0.0)),
        "desaturate_subsequent_starting_frames": of("desaturate_subsequent_starting_frames", json!(0.0)),
        "adjust_brightness_subsequent_starting_frames": of("adjust_brightness_subsequent_starting_frames", json!(0.0)),
        "after_first_post_generation_saturation": of("after_first_post_generation_saturation", Value::Null),
        "after_first_post_generation_brightness": of("after_first_post_generation_brightness", Value::Null),
        "segment_image_download_dir": null,
        "continue_from_video_resolved_path_for_guide": travel.continued_video.as_ref().filter(|_| index == 0),
        "consolidated_end_anchor_idx": null,
        "consolidated_keyframe_positions": null,
        "structure_guidance": guidance,
    })));
    lift(travel, &mut params);
    if travel.mode == Mode::Svi {
        grow_from_predecessor(travel, index, &mut params);
    }
    params
}

/// Params of the stitch.
pub fn stitch(travel: &Travel) -> Map<String, Value> {
    let of = |key: &str, default: Value| detail(travel, key, default);
    let polling = travel.details.get("original_common_args").and_then(Value::as_object);
    let polled = |key: &str, default: i64| Fields::new(polling).given(key).cloned().unwrap_or(json!(default));
    let mut params = common(travel);
    params.extend(members(json!({
        "num_total_segments_generated": travel.segments,
        "frame_overlap_settings_expanded": overlaps(travel),
        "crossfade_sharp_amt": of("crossfade_sharp_amt", json!(0.3)),
        "fps_final_video": of("fps_helpers", json!(FPS)),
        "upscale_factor": of("upscale_factor", json!(0.0)),
        "upscale_model_name": of("upscale_model_name", Value::Null),
        "seed_for_upscale": travel.seed.saturating_add(UPSCALE_SEED_OFFSET),
        "initial_continued_video_path": travel.continued_video,
        "final_stitched_output_path": format!("{}/travel_final_stitched_{}.mp4", travel.run_dir, travel.run_id),
        "poll_interval_from_orchestrator": polled("poll_interval", 15),
        "poll_timeout_from_orchestrator": polled("poll_timeout", 1800),
    })));
    params
}

/// What every child gets.
fn common(travel: &Travel) -> Map<String, Value> {
    let of = |key: &str, default: Value| detail(travel, key, default);
    members(json!({
        "orchestrator_task_id_ref": travel.task_id,
        "orchestrator_run_id": travel.run_id,
        "project_id": travel.project_id,
        "parent_generation_id": travel.parent_generation_id,
        "current_run_base_output_dir": travel.run_dir,
        "parsed_resolution_wh": of("parsed_resolution_wh", Value::Null),
        "debug_mode_enabled": of("debug_mode_enabled", json!(false)),
        "skip_cleanup_enabled": of("skip_cleanup_enabled", json!(false)),
        "use_svi": of("use_svi", json!(false)),
        "orchestrator_details": travel.details,
    }))
}

/// A field of the travel, or its default where it is absent or null.
fn detail(travel: &Travel, key: &str, default: Value) -> Value {
    Fields::new([&travel.details]).given(key).cloned().unwrap_or(default)
}

/// Copies the fields that a segment has as its own too.
fn lift(travel: &Travel, params: &mut Map<String, Value>) {
    for key in LIFTED {
        if let Some(value) = travel.details.get(key) {
            params.insert(key.into(), value.clone());
        }
    }
    if let Some(loras) = travel.details.get("additional_loras").filter(|loras| is_truthy(loras)) {
        params.insert("additional_loras".into(), loras.clone());
    }
}

/// The reference pictures that name this segment.
fn image_refs(travel: &Travel, index: usize) -> Vec<Value> {
    let refs = travel.details.get("vace_image_refs_to_prepare_by_worker").and_then(Value::as_array);
    let names =
        |entry: &&Value| entry.get("segment_idx_for_naming").and_then(Value::as_u64) == u64::try_from(index).ok();
    refs.into_iter().flatten().filter(names).cloned().collect()
}

/// SVI: the first segment is generated like any other, the following ones grow out of their predecessor.
fn grow_from_predecessor(travel: &Travel, index: usize, params: &mut Map<String, Value>) {
    if index == 0 {
        params.insert("use_svi".into(), json!(false));
        params.insert("svi2pro".into(), json!(false));
        return;
    }
    let (names, multipliers) =
        svi::with_loras(&texts(params.get("lora_names")), &texts(params.get("lora_multipliers")), travel.svi_strengths);
    params.extend(svi::settings());
    params.insert("lora_names".into(), json!(names));
    params.insert("lora_multipliers".into(), json!(multipliers));
    params.insert("frame_overlap_from_previous".into(), json!(svi::OVERLAP));
    let with_next = if index + 1 < travel.segments { svi::OVERLAP } else { 0 };
    params.insert("frame_overlap_with_next".into(), json!(with_next));
}

/// Entries as texts; numbers are written out.
fn texts(list: Option<&Value>) -> Vec<String> {
    let text = |entry: &Value| entry.as_str().map_or_else(|| entry.to_string(), str::to_owned);
    list.and_then(Value::as_array).into_iter().flatten().map(text).collect()
}

/// Overlaps of the joins that the stitch makes.
fn overlaps(travel: &Travel) -> Vec<i64> {
    if travel.mode != Mode::Svi {
        return travel.frames.overlaps.clone();
    }
    // The join with a video that exists already is no SVI join.
    let first = travel.continued_video.is_some().then(|| travel.frames.overlap_before(0));
    first.into_iter().chain(std::iter::repeat_n(svi::OVERLAP, travel.segments.saturating_sub(1))).collect()
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::travel;

    #[test]
    fn a_segment_that_goes_on_shows_the_shared_frames_again() {
        let travel = travel(json!({}));
        let (first, second) = (segment(&travel, 0, Value::Null), segment(&travel, 1, Value::Null));
        assert_eq!([&first["segment_frames_target"], &second["segment_frames_target"]], [81, 89]);
        assert_eq!([&first["frame_overlap_with_next"], &second["frame_overlap_from_previous"]], [10, 10]);
        assert_eq!((&first["is_last_segment"], &second["is_last_segment"]), (&json!(false), &json!(true)));
        assert_eq!(second["orchestrator_details"]["segment_frames_expanded"], json!([81, 81]));
    }

    #[test]
    fn segments_that_do_not_go_on_have_no_context_frames() {
        for changes in [json!({"chain_segments": false}), json!({"model_type": "i2v"}), json!({"use_svi": true})] {
            assert_eq!(segment(&travel(changes.clone()), 1, Value::Null)["segment_frames_target"], 81, "{changes}");
        }
    }

    #[test]
    fn the_negative_prompt_of_a_segment_beats_the_common_one() {
        let travel = travel(json!({}));
        assert_eq!(segment(&travel, 0, Value::Null)["negative_prompt"], "x");
        assert_eq!(segment(&travel, 1, Value::Null)["negative_prompt"], "ugly");
    }

    #[test]
    fn settings_of_the_travel_are_the_segments_own_too() {
        let travel =
            travel(json!({"guidance_scale": 2.5, "additional_loras": {}, "steps": 20, "amount_of_motion": 0.5}));
        let params = segment(&travel, 0, Value::Null);
        assert_eq!((&params["guidance_scale"], &params["amount_of_motion"]), (&json!(2.5), &json!(0.5)));
        assert!(!params.contains_key("additional_loras") && !params.contains_key("steps"));
    }

    #[test]
    fn svi_begins_with_an_ordinary_segment() {
        let travel =
            travel(json!({"use_svi": true, "model_type": "i2v", "svi_strength": 0.5, "lora_names": ["https://h/a"],
            "lora_multipliers": [0.9], "num_inference_steps": 20}));
        let (first, second) = (segment(&travel, 0, Value::Null), segment(&travel, 1, Value::Null));
        assert_eq!((&first["use_svi"], &first["num_inference_steps"]), (&json!(false), &json!(20)));
        assert_eq!(
            (&second["use_svi"], &second["svi2pro"], &second["num_inference_steps"]),
            (&json!(true), &json!(true), &json!(6))
        );
        assert_eq!(second["lora_multipliers"], json!(["0.9", "0.5;0", "0;0.5", "0.6;0", "0;0.5"]));
        assert_eq!(
            (&second["frame_overlap_from_previous"], &second["frame_overlap_with_next"]),
            (&json!(4), &json!(0))
        );
        assert_eq!(stitch(&travel)["frame_overlap_settings_expanded"], json!([4]));
    }

    #[test]
    fn reference_pictures_go_to_the_segment_they_name() {
        let travel = travel(json!({"vace_image_refs_to_prepare_by_worker": [{"segment_idx_for_naming": 1, "n": 1},
            {"segment_idx_for_naming": 5}]}));
        assert_eq!(segment(&travel, 0, Value::Null)["vace_image_refs_to_prepare_by_worker"], json!([]));
        assert_eq!(segment(&travel, 1, Value::Null)["vace_image_refs_to_prepare_by_worker"][0]["n"], 1);
    }

    #[test]
    fn a_travel_that_continues_a_video_has_one_join_more() {
        let travel = travel(json!({"continue_from_video_resolved_path": "v.mp4", "frame_overlap_expanded": [11, 7]}));
        let (first, second) = (segment(&travel, 0, Value::Null), segment(&travel, 1, Value::Null));
        assert_eq!(first["continue_from_video_resolved_path_for_guide"], "v.mp4");
        assert_eq!(second["continue_from_video_resolved_path_for_guide"], Value::Null);
        assert_eq!((&first["frame_overlap_from_previous"], &first["frame_overlap_with_next"]), (&json!(10), &json!(6)));
        let stitch = stitch(&travel);
        assert_eq!(stitch["frame_overlap_settings_expanded"], json!([10, 6]));
        assert_eq!(stitch["initial_continued_video_path"], "v.mp4");
    }

    #[test]
    fn the_stitch_is_told_how_to_join() {
        let stitch = stitch(&travel(json!({"original_common_args": {"poll_interval": 5}, "seed_base": 7})));
        assert_eq!(stitch["num_total_segments_generated"], 2);
        assert_eq!(stitch["final_stitched_output_path"], "/runs/1/travel_final_stitched_run.mp4");
        assert_eq!(
            (&stitch["poll_interval_from_orchestrator"], &stitch["poll_timeout_from_orchestrator"]),
            (&json!(5), &json!(1800))
        );
        assert_eq!((&stitch["seed_for_upscale"], &stitch["fps_final_video"]), (&json!(5007), &json!(16)));
    }
}
