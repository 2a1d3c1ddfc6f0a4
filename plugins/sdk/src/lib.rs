//! What plugin authors depend on.
//!
//! A plugin is a type with a manifest and a function that serves one task. This is a complete one: it makes a video from
//! a picture and shows it backwards.
//!
//! ```ignore
//! use enginehouse_sdk::prelude::*;
//!
//! struct Rewind;
//!
//! impl Plugin for Rewind {
//!     fn manifest() -> Value {
//!         json!({
//!             "name": "rewind",
//!             "version": "1.0.0",
//!             "summary": "generates a video from a picture and plays it backwards",
//!             "task_types": {"rewind": {"params": {"type": "object", "required": ["image"]}}},
//!             "capabilities": ["engines", "artifacts", "media"]
//!         })
//!     }
//!
//!     fn handle(task: Task) -> Result<Outcome, Failure> {
//!         let fields = Fields::new([&task.params]);
//!         let picture = artifacts::resolve(fields.required_text("image")?)?;
//!         let settings = json!({
//!             "model_name": "wan_2_2_i2v", "prompt": fields.text("prompt")?.unwrap_or(" "),
//!             "resolution": "832x480", "video_length": 49, "image_start": picture.reference()
//!         });
//!
//!         progress::report(None, "generating");
//!         let job = engines::submit_generation(&settings, &engines::Options::default())?;
//!         let generated = engines::wait(&job, None)?;
//!
//!         let backwards = Clip::video(&generated.main()?.artifact).reversed();
//!         let video = media::render(&Timeline::video("rewind.mp4").clip(backwards))?;
//!         Ok(Outcome::file(video.file.artifact, "rewind.mp4"))
//!     }
//! }
//!
//! enginehouse_sdk::plugin!(Rewind);
//! ```
//!
//! What to know before writing the second one:
//!
//! - **It is sequential code that survives crashes.** The host records what every call returned and answers from the
//!   record after a restart. So decide only from the task and from what calls return; clocks and random numbers of the
//!   standard library are safe, they are derived from the record.
//! - **A panic is a failure** of class `internal` with its backtrace. Return a [`Failure`] where a person can do
//!   something about it: `Failure::invalid("no_image", "…")`.
//! - **Pictures and videos stay outside.** A plugin holds their digests and asks the host to probe, cut and join.
//! - **Everything else must be granted.** The manifest's `capabilities` name what is wanted; what the operator does not
//!   grant answers with a failure of class `denied`.
//!
//! The parts:
//!
//! - [`plugin`](mod@plugin): what a plugin is: the trait, its task, its outcome. [`failure`]: how it ends badly.
//! - [`host`]: what it may ask for, one file per interface of `wit/`: values instead of JSON text.
//! - [`fields`]: reading params, several objects at once, with failures that name the field.
//! - [`rules`]: what the shipped travel handlers share. Pure, so it is tested on this machine.
//! - [`bindings`]: the contract itself, generated.
//!
//! On this machine (not WebAssembly) everything compiles, and calls of [`host`] panic: test pure functions here, and
//! handlers that make their calls on a [`Host`](host::calls::Host) with a script in its place.

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod failure;
pub mod fields;
pub mod host;
pub mod plugin;
pub mod rules;

/// The contract, generated from `wit/`.
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler",
        pub_export_macro: true,
        default_bindings_module: "enginehouse_sdk::bindings",
        additional_derives: [PartialEq],
        generate_all,
    });
}

/// Everything a handler needs, by one line: `use enginehouse_sdk::prelude::*;`.
pub mod prelude {
    pub use serde_json::{Map, Value, json};

    pub use crate::failure::{Failure, FailureClass};
    pub use crate::fields::Fields;
    pub use crate::host::artifacts::File;
    pub use crate::host::calls::{Host, Imports};
    pub use crate::host::media::{Clip, Fade, Timeline};
    pub use crate::host::{artifacts, assist, engines, http, log, media, progress, secrets, settings, tasks};
    pub use crate::plugin::{Outcome, Plugin, Task};
}
