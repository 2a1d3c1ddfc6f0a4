//! ComfyUI: a server that the host starts and owns, or one that an operator runs.

mod client;
mod events;
mod files;
pub mod graph;
mod http;
mod preview;
mod problems;
mod progress;
mod prompt;
mod record;
mod socket;

pub use client::{Client, Collected, Folders, Prompt, Run, Times, prompt_id};
pub use http::{Address, System};
pub use problems::{Code, Outcome, PromptFailure};
pub use record::main_output;
