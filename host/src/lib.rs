//! Enginehouse turns a GPU machine into a worker: it takes generation tasks from a queue and serves every task type with
//! one of two engines, ComfyUI and Wan2GP, or with a plugin, a sandboxed WebAssembly component.
//!
//! The rooms stand on floors; a file imports only from floors below its own (`tests/tests/house.rs` holds this):
//!
//! | floor | rooms |
//! |---|---|
//! | 9 | main |
//! | 8 | cli |
//! | 7 | worker |
//! | 6 | plugins |
//! | 5 | assist, engines |
//! | 4 | media, router, schedule, store, templates |
//! | 3 | artifacts, config |
//! | 2 | net, tasklog |
//! | 1 | folders, task |
//! | 0 | clock, digest, home, nearest, schemas |

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod artifacts;
pub mod assist;
pub mod cli;
pub mod clock;
pub mod config;
pub mod digest;
pub mod engines;
pub mod folders;
pub mod home;
pub mod media;
pub mod nearest;
pub mod net;
pub mod plugins;
pub mod router;
pub mod schedule;
pub mod schemas;
pub mod store;
pub mod task;
pub mod tasklog;
pub mod templates;
pub mod worker;
