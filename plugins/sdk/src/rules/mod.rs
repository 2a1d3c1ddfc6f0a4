//! What the shipped travel handlers share: arithmetic and reading, nothing else.
//!
//! A *travel* is a video that moves through a list of pictures. The orchestrator cuts it into segments, one between each
//! pair of neighbours; the segments are generated; the stitch joins them. All three must agree on what follows, so it
//! stands here once, pure (no call to the host) and tested on this machine.
//!
//! - `frames`: lengths, overlaps, targets, time lines.
//! - `resolution`: "WxH".
//! - `prompts`: wrapping and normalisation.
//! - `phase_config`: denoising in phases: thresholds, guidance, LoRAs.
//! - `svi`: LoRAs and settings of SVI segments.
//! - `structure`: structure guidance as it was asked for.
//! - `loras`: what the file of a LoRA is called.
//! - `kinds`: codes of failures and kinds of progress, stable.

pub mod frames;
pub mod kinds;
pub mod loras;
pub mod phase_config;
pub mod prompts;
pub mod resolution;
pub mod structure;
pub mod svi;

use serde_json::{Map, Value};

/// Seed of a travel that names none.
pub const SEED: i64 = 12345;
/// Added to the seed for enlarging the stitched video.
pub const UPSCALE_SEED_OFFSET: i64 = 5000;

/// The details of the travel in the params of a segment or stitch, under their name or the older one; absent or empty is
/// none.
pub fn details(params: &Map<String, Value>) -> Option<&Map<String, Value>> {
    ["orchestrator_details", "full_orchestrator_payload"]
        .iter()
        .filter_map(|key| params.get(*key).and_then(Value::as_object))
        .find(|details| !details.is_empty())
}
