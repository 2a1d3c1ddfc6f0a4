//! What a workflow leaves: the outputs that are agreed, or, where none are, what its saving nodes would write; each with its
//! size, length and rate, traced up the graph where nobody says them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::artifacts::names;
use crate::digest::Digest;
use crate::engines::WorkflowTerms;
use crate::media::{Kind, Probe};
use crate::task::{Failure, FailureClass};
use crate::templates::{OutputKind, graph};

/// Where nothing says it.
const SIDE: u32 = 512;
const FRAMES: u64 = 16;
const FPS: f64 = 16.0;

/// Sides of a frame in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 1..=16384;
/// Frames of a video, files of a batch.
const LENGTHS: std::ops::RangeInclusive<u64> = 1..=100_000;
/// Frames a second.
const RATES: std::ops::RangeInclusive<f64> = 0.01..=1000.0;

/// What is drawn for one output.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub node: String,
    pub kind: OutputKind,
    /// Names of the files: one, or those of a batch of pictures.
    pub names: Vec<String>,
    pub width: u32,
    pub height: u32,
    /// Of a video or an animated picture.
    pub frames: u64,
    pub fps: f64,
    /// Of sound.
    pub seconds: f64,
    /// A picture that moves is one file.
    pub animated: bool,
}

/// Every file in a workflow, by digest.
pub fn files(workflow: &Map<String, Value>, terms: &WorkflowTerms) -> BTreeSet<Digest> {
    let inputs = workflow.values().filter_map(graph::inputs).flatten();
    let there = inputs.filter_map(|(_, value)| artifact(value));
    there.chain(terms.outputs.iter().filter_map(|output| output.like)).collect()
}

/// The outputs in the order of a result: as agreed, else the first video, or else the first picture, before the others.
///
/// Codes: `no_output` when nothing is saved, `bad_workflow` when a size, length or rate cannot be.
pub fn wanted(
    workflow: &Map<String, Value>,
    terms: &WorkflowTerms,
    probes: &BTreeMap<Digest, Probe>,
) -> Result<Vec<Wanted>, Failure> {
    let mut counter = Counter::default();
    let trace = Trace { workflow, probes };
    if !terms.outputs.is_empty() {
        let declared = terms.outputs.iter().map(|output| {
            let inputs = workflow.get(&output.node).and_then(graph::inputs);
            let saver = Saver::of(graph::class_of(workflow, &output.node).unwrap_or_default(), inputs);
            let saver = saver.filter(|saver| saver.kind == output.kind).unwrap_or(Saver::plain(output.kind));
            let said = Measures {
                width: output.width,
                height: output.height,
                frames: output.frames,
                fps: output.fps,
                seconds: None,
            };
            let like = output.like.and_then(|file| probes.get(&file)).map(Measures::of).unwrap_or_default();
            let measures = said.over(&like).over(&trace.at(&output.node));
            build(output.node.clone(), saver, measures, inputs, &output.name, &mut counter)
        });
        return declared.collect();
    }
    let mut found = Vec::new();
    for id in graph::ids(workflow) {
        let Some(node) = workflow.get(id) else { continue };
        let (class, inputs) = (graph::class(node).unwrap_or_default(), graph::inputs(node));
        let Some(saver) = Saver::of(class, inputs) else { continue };
        if class.starts_with("Preview") && !terms.temp_nodes.contains(id) {
            continue;
        }
        found.push(build(id.to_string(), saver, trace.at(id), inputs, "ComfyUI", &mut counter)?);
    }
    let main = [OutputKind::Video, OutputKind::Image]
        .into_iter()
        .find_map(|kind| found.iter().position(|wanted| wanted.kind == kind));
    if let Some(main) = main {
        let first = found.remove(main);
        found.insert(0, first);
    }
    if found.is_empty() {
        let message = "the workflow has no node that saves anything: its run would leave no file";
        return Err(Failure::new(FailureClass::Engine, "no_output", message));
    }
    Ok(found)
}

/// How a node saves.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Saver {
    kind: OutputKind,
    extension: &'static str,
    animated: bool,
}

impl Saver {
    /// Of a node class; none: it saves nothing.
    fn of(class: &str, inputs: Option<&Map<String, Value>>) -> Option<Self> {
        let text = |name: &str| inputs.and_then(|inputs| inputs.get(name)).and_then(Value::as_str).unwrap_or_default();
        let saver = |kind, extension| Some(Self { kind, extension, animated: false });
        let moving = |extension| Some(Self { kind: OutputKind::Image, extension, animated: true });
        match class {
            "SaveAnimatedWEBP" => moving("webp"),
            "SaveAnimatedPNG" => moving("png"),
            "SaveWEBM" => saver(OutputKind::Video, "webm"),
            "SaveVideo" | "VHS_VideoCombine" => match text("format") {
                "image/webp" => moving("webp"),
                format if format.ends_with("webm") => saver(OutputKind::Video, "webm"),
                format if format.ends_with("mkv") => saver(OutputKind::Video, "mkv"),
                _ => saver(OutputKind::Video, "mp4"),
            },
            "SaveAudioMP3" => saver(OutputKind::Audio, "mp3"),
            "SaveAudioOpus" => saver(OutputKind::Audio, "opus"),
            "SaveText" => match text("format") {
                "csv" => saver(OutputKind::Text, "csv"),
                "md" => saver(OutputKind::Text, "md"),
                "json" => saver(OutputKind::Text, "json"),
                _ => saver(OutputKind::Text, "txt"),
            },
            "PreviewImage" | "MaskPreview" => saver(OutputKind::Image, "png"),
            _ if class.starts_with("SaveImage") => saver(OutputKind::Image, "png"),
            _ if class.starts_with("SaveAudio") || class == "PreviewAudio" => saver(OutputKind::Audio, "flac"),
            _ if class.starts_with("Save") => {
                let has = |name: &str| inputs.is_some_and(|inputs| inputs.contains_key(name));
                let kinds = [
                    ("images", OutputKind::Image),
                    ("image", OutputKind::Image),
                    ("video", OutputKind::Video),
                    ("audio", OutputKind::Audio),
                    ("text", OutputKind::Text),
                ];
                let kind = kinds.iter().find(|(name, _)| has(name)).map_or(OutputKind::File, |(_, kind)| *kind);
                Some(Self::plain(kind))
            }
            _ => None,
        }
    }

    /// The usual file of a kind. What the stand-in cannot make is a text that says so.
    fn plain(kind: OutputKind) -> Self {
        let extension = match kind {
            OutputKind::Video => "mp4",
            OutputKind::Image => "png",
            OutputKind::Audio => "flac",
            OutputKind::Text | OutputKind::Model | OutputKind::File => "txt",
        };
        Self { kind, extension, animated: false }
    }
}

/// What is known about pictures or sound at one place of the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Measures {
    width: Option<u32>,
    height: Option<u32>,
    frames: Option<u64>,
    fps: Option<f64>,
    seconds: Option<f64>,
}

impl Measures {
    fn of(probe: &Probe) -> Self {
        let moving = probe.kind == Kind::Video;
        Self {
            width: Some(probe.width).filter(|side| *side > 0),
            height: Some(probe.height).filter(|side| *side > 0),
            frames: Some(probe.frames).filter(|frames| moving && *frames > 0),
            fps: Some(probe.fps).filter(|fps| moving && *fps > 0.0),
            seconds: Some(probe.seconds).filter(|seconds| *seconds > 0.0),
        }
    }

    /// This, and the other where this says nothing. A side that alone is said brings the other's shape along.
    fn over(self, other: &Self) -> Self {
        let scaled = |side: u32, of: u32, to: u32| {
            ((f64::from(side) * f64::from(of) / f64::from(to.max(1))).round() as u32).max(1)
        };
        let (width, height) = match (self.width, self.height, other.width, other.height) {
            (Some(width), None, Some(w), Some(h)) => (Some(width), Some(scaled(width, h, w))),
            (None, Some(height), Some(w), Some(h)) => (Some(scaled(height, w, h)), Some(height)),
            (width, height, w, h) => (width.or(w), height.or(h)),
        };
        Self {
            width,
            height,
            frames: self.frames.or(other.frames),
            fps: self.fps.or(other.fps),
            seconds: self.seconds.or(other.seconds),
        }
    }
}

/// Looks up the links of a graph.
struct Trace<'a> {
    workflow: &'a Map<String, Value>,
    probes: &'a BTreeMap<Digest, Probe>,
}

impl Trace<'_> {
    fn at(&self, node: &str) -> Measures {
        self.follow(node, &mut BTreeSet::new())
    }

    /// What the node says itself, else what comes to it: pictures and sound first, whatever else is linked after them. Each
    /// node is asked once.
    fn follow(&self, id: &str, asked: &mut BTreeSet<String>) -> Measures {
        let Some(node) = self.workflow.get(id) else { return Measures::default() };
        if !asked.insert(id.to_string()) {
            return Measures::default();
        }
        let mut linked: Vec<(&str, &str)> = graph::links(node).collect();
        linked.sort_by_key(|(name, _)| {
            let carries = ["image", "video", "pixels", "samples", "latent", "audio"];
            !carries.iter().any(|start| name.starts_with(start))
        });
        let mut above = Measures::default();
        for (_, from) in linked {
            above = above.over(&self.follow(from, asked));
        }
        let inputs = graph::inputs(node);
        let mut own = self.said(inputs);
        if let Some(by) =
            inputs.and_then(|inputs| inputs.get("scale_by")).and_then(Value::as_f64).filter(|by| *by > 0.0)
        {
            let scaled = |side: Option<u32>| side.map(|side| ((f64::from(side) * by).round() as u32).max(1));
            own.width = own.width.or(scaled(above.width));
            own.height = own.height.or(scaled(above.height));
        }
        own.over(&above)
    }

    fn said(&self, inputs: Option<&Map<String, Value>>) -> Measures {
        let number = |names: &[&str]| {
            let found = names.iter().find_map(|name| inputs?.get(*name)?.as_f64());
            found.filter(|number| *number > 0.0)
        };
        let side = |name| number(&[name]).map(|side| side.min(f64::from(u32::MAX)) as u32);
        let said = Measures {
            width: side("width"),
            height: side("height"),
            frames: number(&["batch_size", "length", "num_frames", "video_frames"]).map(|frames| frames as u64),
            fps: number(&["fps", "frame_rate"]),
            seconds: number(&["duration", "seconds"]),
        };
        let files = inputs.into_iter().flatten().filter_map(|(_, value)| self.probes.get(&artifact(value)?));
        files.fold(said, |said, probe| said.over(&Measures::of(probe)))
    }
}

/// Numbers files as the engine does.
#[derive(Default)]
struct Counter(BTreeMap<(String, &'static str), u32>);

impl Counter {
    fn next(&mut self, stem: &str, saver: Saver) -> String {
        let number = self.0.entry((stem.to_string(), saver.extension)).or_default();
        *number += 1;
        let tail = if matches!(saver.kind, OutputKind::Image | OutputKind::Video) { "_" } else { "" };
        format!("{stem}_{number:05}{tail}.{}", saver.extension)
    }
}

fn build(
    node: String,
    saver: Saver,
    measures: Measures,
    inputs: Option<&Map<String, Value>>,
    name: &str,
    counter: &mut Counter,
) -> Result<Wanted, Failure> {
    let (width, height) = (measures.width.unwrap_or(SIDE), measures.height.unwrap_or(SIDE));
    let fps = measures.fps.unwrap_or(FPS);
    let single = saver.kind == OutputKind::Image && !saver.animated;
    let frames = measures.frames.unwrap_or(if single { 1 } else { FRAMES });
    let seconds = match (measures.seconds, measures.frames) {
        (Some(seconds), _) => seconds,
        (None, _) => frames as f64 / fps,
    };
    let problem = |what: String| {
        Err(Failure::invalid("bad_workflow", format!("node {node}: the animatic engine cannot make {what}")))
    };
    if !SIDES.contains(&width) || !SIDES.contains(&height) {
        return problem(format!("a picture of {width}x{height}; sides have 1 to 16384 pixels"));
    }
    if !LENGTHS.contains(&frames) {
        return problem(format!("{frames} frames; 1 to 100000 are possible"));
    }
    if !RATES.contains(&fps) {
        return problem(format!("{fps} frames a second; 0.01 to 1000 are possible"));
    }
    let prefix = inputs.and_then(|inputs| inputs.get("filename_prefix")).and_then(Value::as_str);
    let stem = prefix.and_then(|prefix| prefix.rsplit('/').next()).filter(|stem| !stem.is_empty()).unwrap_or(name);
    let stem = names::sanitised(&stem.replace('%', "_"));
    let count = if single { frames } else { 1 };
    let names = (0..count).map(|_| counter.next(&stem, saver)).collect();
    Ok(Wanted { node, kind: saver.kind, names, width, height, frames, fps, seconds, animated: saver.animated })
}

fn artifact(value: &Value) -> Option<Digest> {
    value.get("$artifact")?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::templates::DeclaredOutput;

    fn probe(kind: Kind, frames: u64, fps: f64, width: u32, height: u32) -> Probe {
        let seconds = if fps > 0.0 { frames as f64 / fps } else { 0.0 };
        Probe { kind, frames, fps, width, height, seconds, has_audio: false, has_alpha: false }
    }

    fn derive(workflow: Value, probes: &BTreeMap<Digest, Probe>) -> Vec<Wanted> {
        wanted(workflow.as_object().unwrap(), &WorkflowTerms::default(), probes).unwrap()
    }

    #[test]
    fn sizes_are_traced_through_the_links_to_where_they_are_said() {
        let workflow = json!({
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
            "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 640, "height": 384, "batch_size": 2}},
            "3": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"clip": ["1", 1], "width": 99, "height": 99}},
            "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["3", 0], "latent_image": ["2", 0]}},
            "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
            "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "a/b/fox"}}
        });
        let got = derive(workflow, &BTreeMap::new());
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].width, got[0].height), (640, 384));
        assert_eq!(got[0].names, ["fox_00001_.png", "fox_00002_.png"]);
    }

    #[test]
    fn a_loaded_file_gives_its_measures_and_one_side_alone_keeps_the_shape() {
        let file = Digest::of(b"x");
        let probes = BTreeMap::from([(file, probe(Kind::Video, 32, 8.0, 96, 64))]);
        let load = json!({"class_type": "LoadVideo", "inputs": {"file": {"$artifact": file.to_string()}}});
        let scale = |inputs: Value| {
            let mut node = json!({"class_type": "ImageScale", "inputs": inputs});
            node["inputs"]["image"] = json!(["1", 0]);
            json!({
                "1": load, "2": node,
                "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 24}},
                "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "format": "mp4"}}
            })
        };
        for (inputs, size) in [
            (json!({"width": 48, "height": 0}), (48, 32)),
            (json!({"width": 0, "height": 128}), (192, 128)),
            (json!({"width": 10, "height": 20}), (10, 20)),
            (json!({"width": 0, "height": 0}), (96, 64)),
            (json!({"scale_by": 2.0}), (192, 128)),
        ] {
            let got = derive(scale(inputs.clone()), &probes);
            assert_eq!((got[0].width, got[0].height), size, "{inputs}");
            assert_eq!((got[0].frames, got[0].fps), (32, 24.0));
            assert_eq!(got[0].names, ["ComfyUI_00001_.mp4"]);
        }
    }

    #[test]
    fn every_saving_node_leaves_its_kind_of_file_and_the_video_comes_first() {
        let node = |class: &str, inputs: Value| json!({"class_type": class, "inputs": inputs});
        let workflow = json!({
            "1": node("SaveText", json!({"text": "x", "format": "md"})),
            "2": node("SaveAudio", json!({"audio": ["9", 0], "filename_prefix": "audio/x"})),
            "3": node("SaveAnimatedWEBP", json!({"images": ["8", 0], "fps": 6})),
            "4": node("SaveWEBM", json!({"images": ["8", 0], "fps": 12})),
            "5": node("PreviewImage", json!({"images": ["8", 0]})),
            "6": node("SaveLatent", json!({"samples": ["8", 0]})),
            "8": node("EmptyImage", json!({"width": 32, "height": 16, "batch_size": 5})),
            "9": node("EmptyAudio", json!({"duration": 2.5}))
        });
        let got = derive(workflow.clone(), &BTreeMap::new());
        let names: Vec<_> = got.iter().map(|wanted| wanted.names.join(" ")).collect();
        let expected =
            ["ComfyUI_00001_.webm", "ComfyUI_00001.md", "x_00001.flac", "ComfyUI_00001_.webp", "ComfyUI_00001.txt"];
        assert_eq!(names, expected);
        assert_eq!((got[0].frames, got[0].fps, got[2].seconds), (5, 12.0, 2.5));
        assert!(got[3].animated);

        let terms = WorkflowTerms { temp_nodes: BTreeSet::from(["5".to_string()]), ..WorkflowTerms::default() };
        let got = wanted(workflow.as_object().unwrap(), &terms, &BTreeMap::new()).unwrap();
        assert!(got.iter().any(|wanted| wanted.node == "5" && wanted.names.len() == 5));
    }

    #[test]
    fn what_is_declared_goes_before_what_is_traced() {
        let file = Digest::of(b"x");
        let probes = BTreeMap::from([(file, probe(Kind::Picture, 1, 0.0, 300, 200))]);
        let workflow = json!({
            "1": {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 16}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
        });
        let mut output = DeclaredOutput {
            name: "picture".into(),
            node: "2".into(),
            kind: OutputKind::Image,
            width: Some(150),
            height: None,
            frames: None,
            fps: None,
            like: Some(file),
        };
        let mut terms = WorkflowTerms { outputs: vec![output.clone()], ..WorkflowTerms::default() };
        let got = wanted(workflow.as_object().unwrap(), &terms, &probes).unwrap();
        assert_eq!((got[0].width, got[0].height), (150, 100));
        assert_eq!(got[0].names, ["picture_00001_.png"]);
        output.frames = Some(0);
        terms.outputs = vec![output];
        let failure = wanted(workflow.as_object().unwrap(), &terms, &probes).unwrap_err();
        assert_eq!(failure.code, "bad_workflow");
    }

    #[test]
    fn a_graph_that_saves_nothing_has_no_output_and_a_circle_ends() {
        let workflow = json!({
            "1": {"class_type": "A", "inputs": {"image": ["2", 0]}},
            "2": {"class_type": "B", "inputs": {"image": ["1", 0]}}
        });
        let failure = wanted(workflow.as_object().unwrap(), &WorkflowTerms::default(), &BTreeMap::new()).unwrap_err();
        assert_eq!(failure.code, "no_output");
        let mut workflow = workflow;
        workflow["3"] = json!({"class_type": "SaveImage", "inputs": {"images": ["1", 0]}});
        assert_eq!(derive(workflow, &BTreeMap::new())[0].width, SIDE);
    }
}
