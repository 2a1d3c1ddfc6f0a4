//! What the plugin says of itself.

use enginehouse_sdk::prelude::*;

use crate::generate::STANDALONE;

/// The manifest.
///
/// The schemas say of which type a field is and what it is for. What must be there is left to the handler, whose failures
/// have codes of their own (`missing_segment_index`, `missing_orchestrator_details`, …).
pub fn manifest() -> Value {
    json!({
        "name": "travel_segment",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "generates one segment of a travel between pictures with Wan2GP",
        "task_types": {
            "travel_segment": {"params": segment("a segment of a run")},
            STANDALONE: {"params": segment("a segment on its own")},
        },
        "capabilities": ["engines", "tasks", "artifacts", "media", "assist"],
        "settings": {
            "type": "object",
            "properties": {
                "mask_active_frames": {
                    "type": "boolean", "default": true,
                    "description": "give VACE models a mask that keeps the fixed frames of the guide"
                },
                "engine_limit_seconds": {
                    "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 1800,
                    "description": "longest running time of a generation, in seconds"
                },
            },
        },
        "affinity": {"model": "/model_name"},
    })
}

fn segment(title: &str) -> Value {
    let field = |kind: &str, description: &str| json!({"type": [kind, "null"], "description": description});
    let images = json!({
        "type": ["array", "null"], "items": {"type": ["string", "null"]},
        "description": "pictures: URLs, paths, `task:ID`"
    });
    json!({
        "type": "object",
        "title": title,
        "properties": {
            "orchestrator_details": {
                "type": ["object", "null"],
                "description": "the travel as a whole; every value of it is a fallback for the segment's",
                "properties": {
                    "input_image_paths_resolved": images,
                    "model_type": field("string", "`vace` (guide and mask, the default) or `i2v`"),
                    "chain_segments": field("boolean", "segments continue from each other (default true)"),
                    "continue_from_video_resolved_path": field("string", "the travel continues this video"),
                    "segment_frames_expanded": {"type": ["array", "null"], "items": {"type": "number"}},
                },
            },
            "orchestrator_task_id_ref": field("string", "the task that holds the details, where they are absent here"),
            "individual_segment_params": {
                "type": ["object", "null"],
                "description": "values that go before those of the task",
                "properties": {
                    "start_image_url": field("string", "picture to start from"),
                    "end_image_url": field("string", "picture to arrive at"),
                    "input_image_paths_resolved": images,
                    "num_frames": field("number", "length in frames"),
                    "base_prompt": field("string", "prompt"),
                    "negative_prompt": field("string", "negative prompt"),
                    "seed_to_use": field("number", "seed"),
                },
            },
            "segment_index": field("number", "number of the segment in the travel, from 0"),
            "is_first_segment": field("boolean", "default: whether the number is 0"),
            "is_last_segment": field("boolean", "default: true"),
            "model_name": field("string", "Wan2GP model"),
            "parsed_resolution_wh": field("string", "WIDTHxHEIGHT in pixels, rounded down to multiples of 16"),
            "segment_frames_target": field("number", "length in frames, those shared with the predecessor included"),
            "num_frames": field("number", "length in frames"),
            "frame_overlap_from_previous": field("number", "frames shared with the predecessor"),
            "base_prompt": field("string", "prompt"),
            "negative_prompt": field("string", "negative prompt"),
            "seed_to_use": field("number", "seed (default 12345)"),
            "fps_helpers": field("number", "frames a second of guide and mask (default 16)"),
            "use_svi": field("boolean", "grow the segment out of the end of its predecessor"),
            "svi_predecessor_video_url": field("string", "video to grow out of instead of the predecessor's"),
            "svi_strength": field("number", "scales the SVI LoRAs; `svi_strength_1` and `svi_strength_2` per phase"),
            "num_inference_steps": field("number", "denoising steps, unless `phase_config` says"),
            "guidance_scale": field("number", "guidance, unless `phase_config` says"),
            "flow_shift": field("number", "shift of the solver, unless `phase_config` says"),
            "phase_config": field("object", "denoising in phases, with their guidance and LoRAs"),
            "structure_guidance": field("object", "videos whose structure the segment follows"),
            "input_image_paths_resolved": images,
            "debug_mode_enabled": field("boolean", "make guide and mask for every model, and keep what is made on the way"),
            "skip_cleanup_enabled": field("boolean", "keep what is made on the way beside the product"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_types_are_served_and_every_capability_is_one_of_the_contract() {
        let manifest = manifest();
        let types: Vec<&String> = manifest["task_types"].as_object().unwrap().keys().collect();
        assert_eq!(types, ["travel_segment", "individual_travel_segment"]);
        let known = ["engines", "tasks", "artifacts", "media", "assist", "http", "secrets"];
        assert!(
            manifest["capabilities"].as_array().unwrap().iter().all(|name| known.contains(&name.as_str().unwrap()))
        );
    }

    #[test]
    fn what_must_be_there_is_told_by_the_handler() {
        // A schema that requires a field would hide the code of the failure that is documented for it.
        assert!(!manifest()["task_types"].to_string().contains("\"required\""));
    }
}
