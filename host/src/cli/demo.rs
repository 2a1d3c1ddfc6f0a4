//! `enginehouse demo [PICTURES…]`: a travel video from pictures, planned by one plugin, rendered by the animatic engine,
//! stitched by another plugin; all in this process, without GPU.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Value, json};

use crate::cli::exit::{self, Done, Stop};
use crate::cli::house::House;
use crate::cli::{Global, init, plugin_build, submit, view};
use crate::digest::Digest;
use crate::home::Home;
use crate::store::{NewTask, TaskFilter};
use crate::task::{Output, Status, Task};

mod pictures;

/// Frames of one segment and of the joins between two: short enough for a first look.
const SEGMENT_FRAMES: u32 = 49;
const OVERLAP_FRAMES: u32 = 8;
/// About so many pixels a frame, in the shape of the first picture.
const PIXELS: f64 = 640.0 * 384.0;
/// What the demo needs in its plugins folder.
const PLUGINS: [&str; 3] = ["travel_orchestrator", "travel_segment", "travel_stitch"];

#[derive(clap::Args)]
pub struct Args {
    /// Two or more pictures to travel through (default: four that are drawn for it)
    pictures: Vec<PathBuf>,
    /// Folder with the components (default: plugins/dist of this checkout, built if it is not there)
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
}

pub async fn run(global: &Global, args: &Args) -> Done {
    if args.pictures.len() == 1 {
        return Err(Stop::new(exit::USAGE, anyhow!("a travel needs two pictures or more; one was given")));
    }
    // `.` is the default of --home for commands that look at an existing home; the demo makes its own.
    let folder = if global.home == Path::new(".") { PathBuf::from("demo") } else { global.home.clone() };
    let home = Home::new(folder);
    if !home.config().exists() {
        init::make(&home, false)?;
    }
    let house = House::at(home, global)?;
    put_plugins(&house, args.plugins.as_deref()).await?;

    let pictures = match args.pictures.as_slice() {
        [] => pictures::draw(&house.home.inputs())?,
        given => given.to_vec(),
    };
    let intake = house.intake()?;
    let mut images: Vec<Digest> = Vec::new();
    for picture in &pictures {
        images.push(intake.import(picture).await?.artifact);
    }
    let artifacts = house.artifacts()?;
    let first = images.first().copied().ok_or_else(|| anyhow!("there is no picture"))?;
    let probe = house.media().probe(&artifacts.path(first)?).await?;
    let resolution = resolution(probe.width, probe.height);

    let store = house.store().await?;
    let task = store
        .submit(NewTask {
            task_type: "travel_orchestrator".into(),
            params: params(&images, &resolution),
            project_id: Some("demo".into()),
            ..NewTask::default()
        })
        .await?;
    eprintln!("{} pictures at {resolution}, {} segments; task {}", images.len(), images.len() - 1, task.id);
    let task = submit::work_off(&house, &store, task.id).await?;

    if global.json {
        println!("{}", view::json(&store, &artifacts, &task).await?);
        return Ok(ExitCode::from(view::exit_code(&task)));
    }
    let children = store.list(TaskFilter { children_of: Some(task.id), ..TaskFilter::default() }).await?;
    for child in &children {
        eprintln!("  {:14} {:10} {}", child.child_key.as_deref().unwrap_or(""), child.status, served_by(child));
    }
    println!("{}", view::result_line(&artifacts, &task).await);
    if let Some(Output::File { file, .. }) = &task.output {
        let facts = house.media().probe(&artifacts.path(file.artifact)?).await?;
        println!("{} frames, {}x{}, {} frames a second", facts.frames, facts.width, facts.height, facts.fps);
    }
    if task.status == Status::Complete {
        eprintln!("every frame says animatic: that is the stand-in for a GPU. Retire a handler by deleting its file:");
        eprintln!("  rm {}", house.home.plugins().join("travel_stitch.wasm").display());
        eprintln!("  enginehouse --home {} route travel_stitch", house.home.folder().display());
    }
    Ok(ExitCode::from(view::exit_code(&task)))
}

fn served_by(task: &Task) -> String {
    task.route.as_ref().map(|r| r.reason.clone()).unwrap_or_default()
}

/// Sides are multiples of 16, as the engines want them.
fn resolution(width: u32, height: u32) -> String {
    let (w, h) = (f64::from(width.max(1)), f64::from(height.max(1)));
    let scale = (PIXELS / (w * h)).sqrt();
    // Bounded before the cast: a very long picture still gives sides the engines take.
    let side = |s: f64| ((s * scale / 16.0).round() * 16.0).clamp(64.0, 2048.0) as u32;
    format!("{}x{}", side(w), side(h))
}

fn params(images: &[Digest], resolution: &str) -> Map<String, Value> {
    let segments = images.len().saturating_sub(1);
    let prompts: Vec<String> =
        (1..=segments).map(|i| format!("the view moves on from picture {i} to picture {}", i + 1)).collect();
    let details = json!({
        "num_new_segments_to_generate": segments,
        "base_prompts_expanded": prompts,
        "negative_prompts_expanded": vec![""; segments],
        "segment_frames_expanded": vec![SEGMENT_FRAMES; segments],
        "frame_overlap_expanded": vec![OVERLAP_FRAMES; segments.saturating_sub(1)],
        "input_image_paths_resolved": images,
        "parsed_resolution_wh": resolution,
        "model_name": "vace_14B_cocktail_2_2",
        "model_type": "vace",
        "seed_base": 12345,
        "fps_helpers": 16,
    });
    Map::from_iter([("orchestrator_details".to_string(), details)])
}

/// Copies the components into the home; what lies there already with the same content is left alone.
async fn put_plugins(house: &House, given: Option<&Path>) -> Result<(), Stop> {
    let folder = match given {
        Some(folder) => folder.to_path_buf(),
        None => PathBuf::from("plugins/dist"),
    };
    let file = |name: &str| folder.join(format!("{name}.wasm"));
    if given.is_none() && !PLUGINS.iter().all(|name| file(name).exists()) {
        if !Path::new("plugins/travel_stitch/Cargo.toml").exists() {
            return Err(Stop::new(
                exit::UNAVAILABLE,
                anyhow!("there are no components in {}; name their folder with --plugins DIR", folder.display()),
            ));
        }
        eprintln!("building the components (once)");
        plugin_build::build(Path::new("."), &[], Some(&folder)).await?;
    }
    for name in PLUGINS {
        let bytes = std::fs::read(file(name)).with_context(|| format!("cannot read {}", file(name).display()))?;
        let to = house.home.plugins().join(format!("{name}.wasm"));
        if std::fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        let aside = house.home.plugins().join(format!(".{name}.tmp"));
        std::fs::write(&aside, bytes).with_context(|| format!("cannot write {}", aside.display()))?;
        std::fs::rename(&aside, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_keeps_the_shape_in_steps_of_sixteen() {
        assert_eq!(resolution(4000, 3000), "576x432");
        assert_eq!(resolution(1080, 1920), "368x656");
        assert_eq!(resolution(1, 1), "496x496");
        assert_eq!(resolution(10_000, 10), "2048x64");
    }
}
