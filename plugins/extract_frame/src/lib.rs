//! `extract_frame`: one frame of another task's video, as a picture.
//!
//! A small plugin, whole: what it says of itself stands here, what it does in `extract`.

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod extract;

use enginehouse_sdk::prelude::*;

/// The plugin.
pub struct ExtractFrame;

impl Plugin for ExtractFrame {
    fn manifest() -> Value {
        json!({
            "name": "extract_frame",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "saves one frame of another task's video as PNG",
            "task_types": {"extract_frame": {"params": {
                "type": "object",
                // What must be there is told by the handler, whose failures name the field and have codes.
                "properties": {
                    "input_video_task_id": {
                        "type": ["string", "null"],
                        "description": "id of the task whose output is the video; it must be complete"
                    },
                    "frame_index": {
                        "type": ["integer", "null"], "default": 0,
                        "description": "number of the frame from 0; negative ones count from the end, -1 is the last"
                    },
                    "output_dir": {"description": "not used: outputs have one folder per task type"}
                }
            }}},
            "capabilities": ["tasks", "artifacts", "media"],
            // Nothing to set. Said here, so that an operator who sets something is told that it has no effect.
            "settings": {"type": "object", "additionalProperties": false}
        })
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        extract::extract(&mut Imports, &task)
    }
}

enginehouse_sdk::plugin!(ExtractFrame);
