//! Enginehouse turns a GPU machine into a worker: it takes generation tasks from a queue and serves every task type with
//! one of two engines, ComfyUI and Wan2GP, or with a plugin, a sandboxed WebAssembly component.
//!
//! The rooms stand on floors; a file imports only from floors below its own (`tests/tests/house.rs` holds this):
//!
//! | floor | rooms |
//! |---|---|
//! | 7 | main |
//! | 6 | cli |
//! | 5 | worker |
//! | 4 | plugins |
//! | 3 | engines |
//! | 2 | media, store, router, schedule |
//! | 1 | artifacts, config, home, net, task, tasklog |
//! | 0 | clock, digest |

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod artifacts;
pub mod cli;
pub mod clock;
pub mod config;
pub mod digest;
pub mod engines;
pub mod home;
pub mod media;
pub mod net;
pub mod plugins;
pub mod router;
pub mod schedule;
pub mod store;
pub mod task;
pub mod tasklog;
pub mod worker;
