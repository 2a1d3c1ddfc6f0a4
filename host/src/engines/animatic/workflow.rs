//! The stand-in for ComfyUI: every output of a workflow as a real file of its size, length and rate, with the graph as
//! picture.

use std::collections::BTreeMap;
use std::sync::Arc;

use image::ImageFormat;
use serde_json::{Map, Value};

use super::map::GraphMap;
use super::outputs::{self, Wanted};
use super::{CRF, Rendering, painted};
use crate::engines::{Job, Produced, WorkflowTerms};
use crate::media::Media;
use crate::media::frames::{FrameWriter, PixelFormat, VideoSpec};
use crate::task::Failure;
use crate::templates::{OutputKind, graph};

/// Renders the outputs, the main one first.
pub(super) async fn run(
    media: &Media,
    workflow: &Map<String, Value>,
    terms: &WorkflowTerms,
    job: &Job<'_>,
) -> Result<Vec<Produced>, Failure> {
    let mut probes = BTreeMap::new();
    for file in outputs::files(workflow, terms) {
        // What is no picture, video or sound has no measures; whether a node could read it is not for a stand-in to say.
        if let Ok(probe) = media.probe(&job.artifacts.path(file)?).await {
            probes.insert(file, probe);
        }
    }
    let mut produced = Vec::new();
    for wanted in outputs::wanted(workflow, terms, &probes)? {
        match wanted.kind {
            OutputKind::Video => video(media, workflow, &wanted, job, &mut produced).await?,
            OutputKind::Image if wanted.animated => video(media, workflow, &wanted, job, &mut produced).await?,
            OutputKind::Image => pictures(workflow, &wanted, job, &mut produced).await?,
            OutputKind::Audio => sound(media, &wanted, job, &mut produced).await?,
            OutputKind::Text | OutputKind::Model | OutputKind::File => {
                let text = said(workflow, &wanted).into_bytes();
                for file in place(&wanted, job) {
                    let written = tokio::fs::write(&file.path, &text).await;
                    written.map_err(|e| not_written(&file, &e.to_string()))?;
                    produced.push(file);
                }
            }
        }
    }
    Ok(produced)
}

/// Where the files of an output go.
fn place(wanted: &Wanted, job: &Job<'_>) -> impl Iterator<Item = Produced> {
    wanted.names.iter().map(|name| Produced { path: job.folder.join(name), name: name.clone() })
}

async fn pictures(
    workflow: &Map<String, Value>,
    wanted: &Wanted,
    job: &Job<'_>,
    produced: &mut Vec<Produced>,
) -> Result<(), Failure> {
    let map = map(workflow, wanted, format!("{}x{}", wanted.width, wanted.height));
    let count = wanted.names.len();
    for (i, file) in place(wanted, job).enumerate() {
        let (map, path) = (map.clone(), file.path.clone());
        let moment = if count > 1 { format!("picture {}/{count}", i + 1) } else { String::new() };
        let way = (i + 1) as f32 / count as f32;
        let encoded = painted(move || {
            let saved = map.draw(way, &moment).save_with_format(&path, ImageFormat::Png);
            Ok(saved.map_err(|e| e.to_string()))
        });
        encoded.await?.map_err(|e| not_written(&file, &e))?;
        (job.report)(Some(way), format!("node {}: picture {} of {count}", wanted.node, i + 1));
        produced.push(file);
    }
    Ok(())
}

async fn video(
    media: &Media,
    workflow: &Map<String, Value>,
    wanted: &Wanted,
    job: &Job<'_>,
    produced: &mut Vec<Produced>,
) -> Result<(), Failure> {
    let Wanted { width, height, frames, fps, .. } = *wanted;
    let rate = (fps * 100.0).round() / 100.0;
    let map = map(workflow, wanted, format!("{width}x{height} · {rate} fps"));
    let spec = VideoSpec { width, height, fps, format: PixelFormat::Rgb24, crf: CRF, lossless: false };
    for file in place(wanted, job) {
        let mut result = Rendering {
            writer: FrameWriter::create(media, &file.path, spec).await?,
            written: 0,
            total: frames,
            report: job.report.clone(),
        };
        for frame in 0..frames {
            let map = map.clone();
            // The last frame shows the whole graph done.
            let way = (frame + 1) as f32 / frames as f32;
            let moment = format!("frame {}/{frames}", frame + 1);
            result.write(painted(move || Ok(map.draw(way, &moment))).await?).await?;
        }
        result.writer.finish().await?;
        produced.push(file);
    }
    Ok(())
}

async fn sound(media: &Media, wanted: &Wanted, job: &Job<'_>, produced: &mut Vec<Produced>) -> Result<(), Failure> {
    for file in place(wanted, job) {
        media.tone(&file.path, wanted.seconds).await?;
        (job.report)(None, format!("node {}: {} s of sound", wanted.node, wanted.seconds));
        produced.push(file);
    }
    Ok(())
}

fn map(workflow: &Map<String, Value>, wanted: &Wanted, measures: String) -> Arc<GraphMap> {
    let class = graph::class_of(workflow, &wanted.node).unwrap_or_default();
    let caption = format!("node {} {class} · {measures}", wanted.node);
    Arc::new(GraphMap::new(workflow, &wanted.node, wanted.width, wanted.height, caption))
}

/// A file of words: the graph by its nodes.
fn said(workflow: &Map<String, Value>, wanted: &Wanted) -> String {
    let mut text = format!("animatic: stands for the {} of node {}\n", wanted.kind.as_str(), wanted.node);
    for id in graph::ids(workflow) {
        let class = graph::class_of(workflow, id).unwrap_or_default();
        let links: Vec<&str> = workflow.get(id).into_iter().flat_map(graph::links).map(|(_, from)| from).collect();
        let from = if links.is_empty() { String::new() } else { format!(" <- {}", links.join(", ")) };
        text.push_str(&format!("{id} {class}{from}\n"));
    }
    text
}

fn not_written(file: &Produced, why: &str) -> Failure {
    Failure::internal("picture_not_written", format!("Could not write {}: {why}", file.path.display()))
}
