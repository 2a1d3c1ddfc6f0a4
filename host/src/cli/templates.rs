//! `enginehouse templates …`.

use std::process::ExitCode;

use crate::cli::Global;
use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::cli::view::table;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Which templates are in service, which files are not, and why
    Ls,
}

pub async fn run(global: &Global, command: Command) -> Done {
    match command {
        Command::Ls => ls(global).await,
    }
}

async fn ls(global: &Global) -> Done {
    let house = House::open(global)?;
    let listing = house.templates().await.listing();
    if global.json {
        println!("{}", serde_json::to_string(&listing)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut serving = table(&["TASK TYPE", "DIGEST", "TITLE", "NODES", "MODELS"]);
    for template in &listing.serving {
        let nodes: Vec<&str> = template.requires.nodes.iter().map(String::as_str).collect();
        let models: Vec<String> = template.requires.models.iter().map(|m| format!("{}/{}", m.folder, m.name)).collect();
        serving.add_row([
            template.task_type.clone(),
            template.digest.short(),
            template.title.clone().unwrap_or_default(),
            nodes.join(", "),
            models.join(", "),
        ]);
    }
    println!("{serving}");
    for template in &listing.serving {
        for warning in &template.warnings {
            println!("\n{}: {warning}", template.file);
        }
    }
    for file in &listing.rejected {
        println!("\nnot in service: {}", file.reason);
        if let Some(digest) = file.still_serving {
            println!("  {} stays in service in its place", digest.short());
        }
    }
    if listing.serving.is_empty() && listing.rejected.is_empty() {
        println!("no template in {}", house.home.comfyui_templates().display());
    }
    Ok(ExitCode::SUCCESS)
}
