//! `enginehouse bench …`: figures of this machine, as ratios measured in one run.
//!
//! - `comfyui.rs`: what the host's client adds to a prompt of ComfyUI.
//! - `dispatch.rs`: what the house adds to a call of a component.
//! - `render.rs`: what the house adds to ffmpeg; `scenes.rs`: the videos it works on.

use crate::cli::Global;
use crate::cli::exit::Done;

mod comfyui;
mod dispatch;
mod render;
mod scenes;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Prompts that compute nothing, by the host's client and by a minimal one, against a stand-in server
    Comfyui(comfyui::Args),
    /// A no-op plugin through claim, route, run and settle, against the bare instantiate-and-call of the same component
    Dispatch(dispatch::Args),
    /// Eight segments stitched with fades by `render`, against one hand-written ffmpeg command that does the same
    Render(render::Args),
}

pub async fn run(global: &Global, command: Command) -> Done {
    match command {
        Command::Comfyui(args) => comfyui::run(global, &args).await,
        Command::Dispatch(args) => dispatch::run(global, &args).await,
        Command::Render(args) => render::run(global, &args).await,
    }
}
