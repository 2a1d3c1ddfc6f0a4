//! `enginehouse plugin build`: compiles plugin crates to components with the author's own cargo.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cli::Global;
use crate::cli::exit::{self, Done, Stop};
use crate::plugins;

/// What components are compiled for.
const TARGET: &str = "wasm32-wasip2";

#[derive(clap::Args)]
pub struct Args {
    /// Crates to build (default: the crate, or all plugin crates of the workspace, in --dir)
    names: Vec<String>,
    /// Folder of the crate or workspace
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Folder for the components (default: plugins/dist in a workspace, else dist)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A crate that makes a component.
struct Crate {
    name: String,
    /// File stem of what cargo makes of it.
    stem: String,
}

pub async fn run(global: &Global, args: &Args) -> Done {
    let built = build(&args.dir, &args.names, args.out.as_deref()).await?;
    if global.json {
        println!("{}", json!({ "components": built }));
    } else {
        for path in built {
            println!("{}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the crates and checks that each is a component this host can load. Returns the files.
pub async fn build(dir: &Path, names: &[String], out: Option<&Path>) -> Result<Vec<PathBuf>, Stop> {
    let metadata = metadata(dir).await?;
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(PathBuf::from);
    let root = text("workspace_root").ok_or_else(|| anyhow!("cargo metadata names no workspace root"))?;
    let target = text("target_directory").ok_or_else(|| anyhow!("cargo metadata names no target folder"))?;
    let out = match out {
        Some(out) => out.to_path_buf(),
        None if root.join("plugins").is_dir() => root.join("plugins/dist"),
        None => root.join("dist"),
    };
    let crates = choose(&metadata, &root, names)?;

    let mut cargo = Command::new("cargo");
    cargo.current_dir(&root).args(["build", "--release", "--target", TARGET]);
    if root.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    for c in &crates {
        cargo.args(["--package", &c.name]);
    }
    // cargo's words go to stderr; stdout stays ours.
    let status = cargo.stdin(Stdio::null()).stdout(Stdio::null()).status().await.context("cannot start cargo")?;
    if !status.success() {
        let names: Vec<&str> = crates.iter().map(|c| c.name.as_str()).collect();
        return Err(anyhow!(
            "cargo could not build {}; its words stand above. If the target is missing: rustup target add {TARGET}",
            names.join(", ")
        )
        .into());
    }

    std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let mut built = Vec::new();
    for c in &crates {
        let from = target.join(TARGET).join("release").join(format!("{}.wasm", c.stem));
        let bytes = std::fs::read(&from).with_context(|| format!("cargo made no {}", from.display()))?;
        plugins::check_component(&bytes).map_err(|reason| anyhow!("{}: {reason}", c.name))?;
        let to = out.join(format!("{}.wasm", c.name));
        // A watcher that looks at the folder must never see half a file, nor a new date on an unchanged one.
        if std::fs::read(&to).is_ok_and(|old| old == bytes) {
            built.push(to);
            continue;
        }
        let aside = out.join(format!(".{}.tmp", c.name));
        std::fs::write(&aside, &bytes).with_context(|| format!("cannot write {}", aside.display()))?;
        std::fs::rename(&aside, &to).with_context(|| format!("cannot write {}", to.display()))?;
        built.push(to);
    }
    Ok(built)
}

async fn metadata(dir: &Path) -> Result<Value, Stop> {
    let output = Command::new("cargo")
        .current_dir(dir)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|e| {
            Stop::new(exit::UNAVAILABLE, anyhow!("cannot start cargo ({e}); it comes with Rust: https://rustup.rs"))
        })?;
    if !output.status.success() {
        return Err(anyhow!(
            "{} is no cargo project: {}",
            dir.display(),
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
        )
        .into());
    }
    Ok(serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")?)
}

/// The named crates, or every crate of the workspace that makes a `cdylib` and lies below `plugins/` (or is the only one).
fn choose(metadata: &Value, root: &Path, names: &[String]) -> Result<Vec<Crate>, Stop> {
    let mut found = Vec::new();
    for package in metadata.get("packages").and_then(Value::as_array).into_iter().flatten() {
        let Some(name) = package.get("name").and_then(Value::as_str) else { continue };
        let library = package.get("targets").and_then(Value::as_array).into_iter().flatten().find(|target| {
            let kinds = target.get("crate_types").and_then(Value::as_array);
            kinds.is_some_and(|kinds| kinds.iter().any(|k| k == "cdylib"))
        });
        let Some(stem) = library.and_then(|l| l.get("name")).and_then(Value::as_str) else { continue };
        let folder = package.get("manifest_path").and_then(Value::as_str).map(PathBuf::from).unwrap_or_default();
        let is_plugin = !root.join("plugins").is_dir() || folder.starts_with(root.join("plugins"));
        let wanted = if names.is_empty() { is_plugin } else { names.iter().any(|n| n == name) };
        if wanted {
            found.push(Crate { name: name.to_string(), stem: stem.replace('-', "_") });
        }
    }
    let missing: Vec<&str> =
        names.iter().filter(|n| !found.iter().any(|c| &c.name == *n)).map(String::as_str).collect();
    if !missing.is_empty() || found.is_empty() {
        let what = if missing.is_empty() { "any plugin crate".to_string() } else { missing.join(", ") };
        return Err(Stop::new(
            exit::USAGE,
            anyhow!(
                "{} has no crate that makes a component for {what}; a plugin crate has `crate-type = [\"cdylib\"]` under [lib]",
                root.display()
            ),
        ));
    }
    Ok(found)
}
