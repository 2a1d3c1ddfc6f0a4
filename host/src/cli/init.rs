//! `enginehouse init [DIR]`: makes a home.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use crate::cli::Global;
use crate::cli::exit::{Done, Stop};
use crate::config;
use crate::home::Home;
use crate::templates::shipped;

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
        eprintln!("templates of ComfyUI workflows stand in {}", home.comfyui_templates().display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the folders, the shipped templates and the settings file.
pub fn make(home: &Home, force: bool) -> Result<(), Stop> {
    if home.config().exists() && !force {
        return Err(anyhow::anyhow!(
            "{} exists already; `init --force` overwrites it and leaves everything else as it is",
            home.config().display()
        )
        .into());
    }
    let templates = home.comfyui_templates();
    // In a home that was made before, what is missing was deleted.
    let first = !templates.exists();
    for folder in
        [home.plugins(), templates.clone(), home.templates().join("wan2gp"), home.inputs(), home.outputs(), home.data()]
    {
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    for (name, text) in shipped::FILES.iter().filter(|_| first) {
        let path = templates.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::fs::write(home.config(), config::commented_toml())
        .with_context(|| format!("cannot write {}", home.config().display()))?;
    Ok(())
}
