//! What the plugin says of itself.

use enginehouse_sdk::prelude::*;

use crate::stitch::UPSCALE_LIMIT_SECONDS;

/// The manifest.
///
/// The schema says of which type a field is and what it is for. What must be there is left to the handler, whose failures
/// have codes of their own (`stitch_missing_references`, …).
pub fn manifest() -> Value {
    let field = |kind: &str, description: &str| json!({"type": [kind, "null"], "description": description});
    json!({
        "name": "travel_stitch",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "joins the segments of a travel into one video",
        "task_types": {"travel_stitch": {"params": {
            "type": "object",
            "title": "the segments of a run, joined",
            "properties": {
                "orchestrator_task_id_ref": field("string", "the task that made the segments"),
                "orchestrator_run_id": field("string", "the run that the segments belong to"),
                "num_total_segments_generated": field("number", "how many segments there must be"),
                "frame_overlap_settings_expanded": {
                    "type": ["array", "number", "null"], "items": {"type": "number"},
                    "description": "frames that fade into each other, for each join from the first video on"
                },
                "initial_continued_video_path": field("string", "a video that comes before the segments"),
                "parsed_resolution_wh": field("string", "WIDTHxHEIGHT in pixels"),
                "crossfade_sharp_amt": field("number", "sharpening inside the fades (default 0.3)"),
                "fps_final_video": field("number", "frames a second, where the details name none (default 16)"),
                "upscale_factor": field("number", "above 1: the result is that much larger (default: as large as the segments)"),
                "upscale_model_name": field("string", "Wan2GP model that enlarges; without one nothing is enlarged"),
                "seed_for_upscale": field("number", "its seed (default: that of the travel, and 5000)"),
                "poll_timeout_upscale": field("number", "longest running time of enlarging, in seconds"),
                "orchestrator_details": {
                    "type": ["object", "null"],
                    "description": "the travel as a whole",
                    "properties": {
                        "fps_helpers": field("number", "frames a second of the result"),
                        "crossfade_sharp_amt": field("number", "sharpening inside the fades"),
                        "regenerate_anchors": field("boolean", "the last frame of each overlap stays unblended"),
                    },
                },
            },
        }}},
        "capabilities": ["tasks", "artifacts", "media", "engines"],
        "settings": {
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "upscale_limit_seconds": {
                    "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": UPSCALE_LIMIT_SECONDS,
                    "description": "longest running time of enlarging, in seconds, where the travel does not say"
                },
            },
        },
    })
}
