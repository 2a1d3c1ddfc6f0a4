//! `travel_stitch`: joins the segments of a travel into one video.
//!
//! - `run`: which segments, and how: the params.
//! - `join`: which frames of which video, and where they fade into each other.
//! - `upscale`: the joined video, enlarged by a model.
//! - `stitch`: the way from the params to the product.

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod join;
pub mod run;
pub mod stitch;
pub mod upscale;

mod manifest;

use enginehouse_sdk::prelude::*;

/// The plugin.
pub struct TravelStitch;

impl Plugin for TravelStitch {
    fn manifest() -> Value {
        manifest::manifest()
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        stitch::stitch(&mut Imports, &task)
    }
}

enginehouse_sdk::plugin!(TravelStitch);
