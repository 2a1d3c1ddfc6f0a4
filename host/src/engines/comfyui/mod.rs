//! ComfyUI: a server that the host starts and owns, or one that an operator runs.
//!
//! - `engine.rs`: ComfyUI as an engine of the lane; what is tried again, and when.
//! - `server.rs`: the server that the host owns: how it is started, when it is ready.
//! - `prepare.rs`: a job's workflow becomes a prompt.
//! - `client.rs`: a client of one server; `prompt.rs`: the way of one prompt; `files.rs`: its inputs and outputs.
//! - `http.rs`, `socket.rs`: the two channels; `events.rs`: what is said over the second.
//! - `record.rs`: the server's record, which decides how a prompt ended; `problems.rs`: what went wrong, as a closed list.
//! - `progress.rs`, `preview.rs`: what is told meanwhile. `graph.rs`: workflows, read without trusting them.
//! - `bare.rs`: a minimal client, for the bench.

mod bare;
mod client;
mod engine;
mod events;
mod files;
pub mod graph;
mod http;
mod prepare;
mod preview;
mod problems;
mod progress;
mod prompt;
mod record;
mod server;
mod socket;

pub use bare::Bare;
pub use client::{Client, Collected, Folders, Prompt, Run, Times, prompt_id};
pub use engine::ComfyUi;
pub use http::{Address, System};
pub use problems::{Code, Outcome, PromptFailure};
pub use record::main_output;
pub use server::ServerOptions;
