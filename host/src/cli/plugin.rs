//! `enginehouse plugin …`.

use std::process::ExitCode;

use crate::cli::Global;
use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::cli::plugin_build;
use crate::cli::view::table;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Compile plugin crates to components
    Build(plugin_build::Args),
    /// Which plugins are in service, which files are not, and why
    Ls,
}

pub async fn run(global: &Global, command: Command) -> Done {
    match command {
        Command::Build(args) => plugin_build::run(global, &args).await,
        Command::Ls => ls(global).await,
    }
}

async fn ls(global: &Global) -> Done {
    let house = House::open(global)?;
    let snapshot = house.snapshot().await?;
    if global.json {
        println!("{}", serde_json::to_string(&snapshot)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut serving = table(&["PLUGIN", "VERSION", "DIGEST", "FILE", "TASK TYPES", "NOT GRANTED"]);
    for p in &snapshot.serving {
        serving.add_row([
            p.name.clone(),
            p.version.clone(),
            p.digest.short(),
            p.file.clone(),
            p.task_types.join(", "),
            p.denied.join(", "),
        ]);
    }
    println!("{serving}");
    for file in &snapshot.rejected {
        println!("\nnot in service: {}: {}", file.file, file.reason);
        if let Some(digest) = file.still_serving {
            println!("  {} stays in service in its place", digest.short());
        }
    }
    for p in &snapshot.retired {
        println!(
            "\nretired: {} {} ({}), was {}; served {}",
            p.name,
            p.version,
            p.digest.short(),
            p.file,
            p.task_types.join(", ")
        );
    }
    if snapshot.serving.is_empty() && snapshot.rejected.is_empty() {
        println!("no plugin in {}", house.home.plugins().display());
    }
    Ok(ExitCode::SUCCESS)
}
