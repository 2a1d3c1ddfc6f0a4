//! What the node classes do.

mod media;
mod pictures;
mod probes;
mod saving;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use image::{GrayImage, RgbImage};
use serde_json::{Map, Value as Json, json};

use super::Server;
use super::graph::Context;

/// How often a sleeping node looks whether the server stops.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What goes along a link.
#[derive(Clone)]
pub(super) enum Value {
    /// A batch of one size.
    Images(Arc<Vec<RgbImage>>),
    Masks(Arc<Vec<GrayImage>>),
    Audio(Arc<Audio>),
    Video(Arc<Video>),
    /// Width, height, batch.
    Latent([u64; 3]),
    Json(Json),
}

pub(super) struct Audio {
    pub rate: u32,
    pub channels: u32,
    /// Interleaved.
    pub samples: Vec<f32>,
}

pub(super) enum Video {
    File(std::path::PathBuf),
    Parts { images: Arc<Vec<RgbImage>>, fps: f64, audio: Option<Arc<Audio>> },
}

impl Value {
    /// As it stands in the inputs of a failed node.
    pub(super) fn printed(&self) -> Json {
        match self {
            Value::Images(images) => {
                let (width, height) = images.first().map_or((0, 0), RgbImage::dimensions);
                json!(format!("tensor(shape=[{}, {height}, {width}, 3])", images.len()))
            }
            Value::Masks(masks) => json!(format!("tensor(masks={})", masks.len())),
            Value::Audio(audio) => json!(format!("audio(rate={}, samples={})", audio.rate, audio.samples.len())),
            Value::Video(_) => json!("video"),
            Value::Latent(shape) => json!(format!("latent({shape:?})")),
            Value::Json(value) => value.clone(),
        }
    }
}

/// Why a node ended without a result.
pub(super) enum Stop {
    Interrupted,
    Failed {
        exception: &'static str,
        message: String,
    },
    /// The server stops.
    Gone,
}

impl Stop {
    /// Messages end in a line feed.
    pub(super) fn failed(exception: &'static str, message: impl std::fmt::Display) -> Self {
        Stop::Failed { exception, message: format!("{message}\n") }
    }
}

/// How a node ended.
pub(super) enum Ran {
    Done {
        values: Vec<Value>,
        /// Of output nodes only.
        shown: Option<Map<String, Json>>,
    },
    /// The node is replaced by a graph, keyed by whole ids; its outputs are these links or literals.
    Expanded { graph: Map<String, Json>, results: Vec<Json> },
}

impl Ran {
    fn value(value: Value) -> Self {
        Ran::Done { values: vec![value], shown: None }
    }

    /// What an output node shows, and the value it hands on.
    fn shown(shown: Json, values: Vec<Value>) -> Self {
        let shown = match shown {
            Json::Object(shown) => shown,
            _ => Map::new(),
        };
        Ran::Done { values, shown: Some(shown) }
    }

    /// Nothing to show and nothing to hand on.
    fn nothing() -> Self {
        Ran::Done { values: Vec::new(), shown: None }
    }
}

/// The inputs of a node, links resolved.
pub(super) struct Inputs {
    given: HashMap<String, Value>,
}

impl Inputs {
    pub(super) fn new(given: HashMap<String, Value>) -> Self {
        Self { given }
    }

    fn get(&self, name: &str) -> Result<&Value, Stop> {
        let missing = || Stop::failed("TypeError", format!("missing 1 required positional argument: '{name}'"));
        self.given.get(name).ok_or_else(missing)
    }

    fn wrong(name: &str) -> Stop {
        Stop::failed("TypeError", format!("input '{name}' is of another kind"))
    }

    fn images(&self, name: &str) -> Result<Arc<Vec<RgbImage>>, Stop> {
        match self.get(name)? {
            Value::Images(images) => Ok(images.clone()),
            _ => Err(Self::wrong(name)),
        }
    }

    fn audio(&self, name: &str) -> Result<Arc<Audio>, Stop> {
        match self.get(name)? {
            Value::Audio(audio) => Ok(audio.clone()),
            _ => Err(Self::wrong(name)),
        }
    }

    fn json(&self, name: &str) -> Result<&Json, Stop> {
        match self.get(name)? {
            Value::Json(value) => Ok(value),
            _ => Err(Self::wrong(name)),
        }
    }

    fn text(&self, name: &str) -> Result<&str, Stop> {
        self.json(name)?.as_str().ok_or_else(|| Self::wrong(name))
    }

    fn whole(&self, name: &str) -> Result<u64, Stop> {
        self.json(name)?.as_u64().ok_or_else(|| Self::wrong(name))
    }

    fn float(&self, name: &str) -> Result<f64, Stop> {
        self.json(name)?.as_f64().ok_or_else(|| Self::wrong(name))
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.given.get(name), Some(Value::Json(Json::Bool(true))))
    }
}

/// Interrupted, or stopping?
pub(super) fn check(server: &Server) -> Result<(), Stop> {
    if server.stopping.load(Ordering::Relaxed) {
        return Err(Stop::Gone);
    }
    if server.interrupt.swap(false, Ordering::Relaxed) {
        return Err(Stop::Interrupted);
    }
    Ok(())
}

/// Sleeps without a look at interruptions.
pub(super) fn sleep(server: &Server, time: Duration) -> Result<(), Stop> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK_EVERY));
        if server.stopping.load(Ordering::Relaxed) {
            return Err(Stop::Gone);
        }
    }
}

/// What a result depends on beside the inputs: the state of the file a loader reads.
pub(super) fn changed(server: &Server, class: &str, inputs: &Map<String, Json>) -> String {
    let name = match class {
        "LoadImage" => &inputs.get("image"),
        "LoadVideo" => &inputs.get("file"),
        _ => return String::new(),
    };
    let file = name.and_then(Json::as_str).and_then(|name| super::files::annotated(&server.options, name));
    let facts = file.and_then(|file| std::fs::metadata(file).ok()).map(|facts| (facts.len(), facts.modified().ok()));
    format!("{facts:?}")
}

/// Runs a node of a class that the catalog knows.
pub(super) fn run(class: &str, inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    match class {
        "EmptyImage" => pictures::empty(inputs),
        "LoadImage" => pictures::load(inputs, context),
        "ImageInvert" => pictures::invert(inputs),
        "ImageScale" => pictures::scale(inputs),
        "ImageScaleBy" => pictures::scale_by(inputs),
        "ImageBlend" => pictures::blend(inputs),
        "SolidMask" => pictures::solid_mask(inputs),
        "SaveImage" | "SaveImageAdvanced" => saving::images(inputs, context),
        "PreviewImage" => saving::preview_images(inputs, context),
        "MaskPreview" => saving::preview_masks(inputs, context),
        "ImageCompare" => saving::compare(inputs, context),
        "SaveImageWebsocket" => saving::websocket(inputs, context),
        "SaveText" => saving::text(inputs, context),
        "PreviewAny" => saving::preview_any(inputs),
        "SaveLatent" => saving::latent(inputs, context),
        "PrimitiveStringMultiline" => Ok(Ran::value(inputs.get("value")?.clone())),
        "EmptyLatentImage" => {
            let shape = [inputs.whole("width")?, inputs.whole("height")?, inputs.whole("batch_size")?];
            Ok(Ran::value(Value::Latent(shape)))
        }
        "SaveAnimatedWEBP" | "SaveAnimatedPNG" | "SaveWEBM" => media::animation(class, inputs, context),
        "EmptyAudio" => media::empty_audio(inputs),
        "SaveAudio" | "SaveAudioMP3" | "PreviewAudio" => media::save_audio(class, inputs, context),
        "LoadVideo" => media::load_video(inputs, context),
        "CreateVideo" => media::create_video(inputs),
        "GetVideoComponents" => media::video_components(inputs),
        "SaveVideo" => media::save_video(inputs, context),
        "ProbeSteps" => probes::steps(inputs, context),
        "ProbeDeaf" => probes::deaf(inputs, context),
        "ProbeFail" => Err(probes::fail(inputs)?),
        "ProbeExpand" => Ok(probes::expand(context)),
        "ProbeUi" => probes::ui(inputs),
        _ => Err(Stop::failed("NotImplementedError", format!("no model stands behind {class} here"))),
    }
}
