//! `enginehouse init [DIR]`: makes a home.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::Global;
use crate::cli::exit::{Done, Stop};
use crate::config;
use crate::home::Home;

#[derive(clap::Args)]
pub struct Args {
    /// Folder to make (default: --home)
    dir: Option<PathBuf>,
    /// Overwrite an existing enginehouse.toml
    #[arg(long)]
    force: bool,
}

pub fn run(global: &Global, args: &Args) -> Done {
    let home = Home::new(args.dir.as_ref().unwrap_or(&global.home));
    make(&home, args.force)?;
    if global.json {
        println!("{}", json!({ "home": home.folder(), "config": home.config() }));
    } else {
        eprintln!("made a home in {}", home.folder().display());
        eprintln!("next: put plugins (*.wasm) into {} and start `enginehouse run`", home.plugins().display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the folders and the settings file.
pub fn make(home: &Home, force: bool) -> Result<(), Stop> {
    if home.config().exists() && !force {
        return Err(anyhow::anyhow!(
            "{} exists already; `init --force` overwrites it and leaves everything else as it is",
            home.config().display()
        )
        .into());
    }
    let templates = home.templates();
    for folder in [
        home.plugins(),
        templates.join("comfyui"),
        templates.join("wan2gp"),
        home.inputs(),
        home.outputs(),
        home.data(),
    ] {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    std::fs::write(home.config(), config::commented_toml())
        .with_context(|| format!("cannot write {}", home.config().display()))?;
    Ok(())
}
