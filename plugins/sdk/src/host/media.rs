//! Pictures and videos, worked on by the host. Capability: `media`.
//!
//! A [`Timeline`] says what the result shows, frame by frame; the host renders it, frame-exact:
//!
//! ```ignore
//! let guide = Timeline::video("guide.mp4").size(832, 480).fps(16.0)
//!     .clip(Clip::video(&previous).last(9))
//!     .clip(Clip::color("#808080", 71))
//!     .clip(Clip::still(&end_image, 1));
//! let guide = media::render(&guide)?;
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bindings::enginehouse::plugin::media;
use crate::failure::Failure;

use super::artifacts::File;
use super::{read, reference, write};

pub use super::layers::{Align, Layer, LayerContent, Outlined, Stroke, Text};

/// What a file is. Frames are counted, not estimated; sizes are as displayed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Probe {
    /// `video`, `picture` or `audio`.
    pub kind: String,
    pub frames: u64,
    pub fps: f64,
    pub width: u32,
    pub height: u32,
    pub seconds: f64,
    pub has_audio: bool,
    pub has_alpha: bool,
}

/// A rendered file and its facts.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Rendered {
    #[serde(flatten)]
    pub file: File,
    #[serde(default)]
    pub frames: u64,
    #[serde(default)]
    pub fps: f64,
    #[serde(default)]
    pub width: u32,
    #[serde(default)]
    pub height: u32,
}

/// Clips in order, how they join, and what lies over them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    pub output: Output,
    pub clips: Vec<Clip>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fades: Vec<Fade>,
    /// Over the frames of the clips, the later ones over the earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// Reference to the sound that goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<Value>,
}

/// What the result is. What is `None` is taken from the sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Output {
    pub kind: OutputKind,
    /// File name, extension included.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Quality of H.264, 0 (best) to 51.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crf: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lossless: bool,
}

/// Whether a timeline becomes a video or, from its first frame, a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    #[default]
    Video,
    Picture,
}

/// A range of a video, a still, or a colour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clip {
    #[serde(flatten)]
    pub source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// None: all that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
    /// The range is counted from the last frame.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_end: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reverse: bool,
    /// The source is brought to this rate first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjust: Option<Adjust>,
}

/// What a clip shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Reference to a video.
    Video(Value),
    /// Reference to a picture.
    Still(Value),
    /// `#rrggbb`.
    Color(String),
}

/// How a source of another shape is brought to the output's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    Stretch,
    Crop,
    Letterbox,
}

/// Changes to every frame of a clip, applied in this order; `wit/media.wit` has the formulas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Adjust {
    /// 0 (as it is) to 1 (grey).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grey_mix: Option<f64>,
    /// 0 (as it is) to 1 (without colour).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desaturate: Option<f64>,
    /// -1 (black) to 1; 0: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brightness: Option<f64>,
    /// 0 or more; 1: as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<f64>,
}

/// How two neighbouring clips run into each other; the result is shorter by `frames`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fade {
    /// Position of the earlier clip.
    pub after: usize,
    pub frames: u64,
    pub curve: Curve,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpen: Option<f64>,
}

/// Weight of the later clip over a fade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Curve {
    Cosine,
    Linear,
}

/// Looks at a file. Code `unreadable_media` when it is no picture, video or sound, or is cut off.
pub fn probe(artifact: &str) -> Result<Probe, Failure> {
    read("media.probe", &media::probe(artifact)?)
}

/// Renders a timeline into one file.
pub fn render(timeline: &Timeline) -> Result<Rendered, Failure> {
    read("media.render", &media::render(&write("media.render", timeline)?)?)
}

impl Timeline {
    /// A video without clips yet.
    pub fn video(name: impl Into<String>) -> Self {
        Self { output: Output { name: name.into(), ..Output::default() }, ..Self::default() }
    }

    /// A picture without clips yet: a JPEG if its name ends in `.jpg` or `.jpeg`, else a PNG.
    pub fn picture(name: impl Into<String>) -> Self {
        let output = Output { kind: OutputKind::Picture, name: name.into(), ..Output::default() };
        Self { output, ..Self::default() }
    }

    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.output.width = Some(width);
        self.output.height = Some(height);
        self
    }

    pub fn fps(mut self, fps: f64) -> Self {
        self.output.fps = Some(fps);
        self
    }

    pub fn lossless(mut self) -> Self {
        self.output.lossless = true;
        self
    }

    /// With one clip more at the end.
    pub fn clip(mut self, clip: Clip) -> Self {
        self.clips.push(clip);
        self
    }

    /// With one fade more.
    pub fn fade(mut self, fade: Fade) -> Self {
        self.fades.push(fade);
        self
    }

    /// With one layer more, over all others.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }
}

impl Clip {
    /// A whole video.
    pub fn video(artifact: &str) -> Self {
        Self::of(Source::Video(reference(artifact)), None)
    }

    /// A picture, shown for so many frames.
    pub fn still(artifact: &str, frames: u64) -> Self {
        Self::of(Source::Still(reference(artifact)), Some(frames))
    }

    /// A colour (`#rrggbb`), shown for so many frames.
    pub fn color(color: impl Into<String>, frames: u64) -> Self {
        Self::of(Source::Color(color.into()), Some(frames))
    }

    fn of(source: Source, frames: Option<u64>) -> Self {
        Self { source, start: None, frames, from_end: false, reverse: false, fps: None, fit: None, adjust: None }
    }

    /// Only `frames` frames from `start` on.
    pub fn range(mut self, start: u64, frames: u64) -> Self {
        self.start = Some(start);
        self.frames = Some(frames);
        self
    }

    /// Only what follows the first `start` frames.
    pub fn from(mut self, start: u64) -> Self {
        self.start = Some(start);
        self
    }

    /// Only the last `frames` frames.
    pub fn last(mut self, frames: u64) -> Self {
        self.frames = Some(frames);
        self.from_end = true;
        self
    }

    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Brought to another rate first.
    pub fn at_rate(mut self, fps: f64) -> Self {
        self.fps = Some(fps);
        self
    }

    pub fn fit(mut self, fit: Fit) -> Self {
        self.fit = Some(fit);
        self
    }

    pub fn adjust(mut self, adjust: Adjust) -> Self {
        self.adjust = Some(adjust);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_timeline_is_written_as_the_contract_reads_it() {
        let timeline = Timeline::video("guide.mp4")
            .size(832, 480)
            .fps(16.0)
            .clip(Clip::video("sha256:a").last(9).adjust(Adjust { grey_mix: Some(0.5), ..Adjust::default() }))
            .clip(Clip::color("#808080", 12))
            .clip(Clip::still("sha256:b", 1).fit(Fit::Crop))
            .fade(Fade { after: 0, frames: 8, curve: Curve::Cosine, sharpen: Some(0.3) });
        let expected = json!({
            "output": {"kind": "video", "name": "guide.mp4", "width": 832, "height": 480, "fps": 16.0},
            "clips": [
                {"video": {"$artifact": "sha256:a"}, "frames": 9, "from_end": true, "adjust": {"grey_mix": 0.5}},
                {"color": "#808080", "frames": 12},
                {"still": {"$artifact": "sha256:b"}, "frames": 1, "fit": "crop"}
            ],
            "fades": [{"after": 0, "frames": 8, "curve": "cosine", "sharpen": 0.3}]
        });
        assert_eq!(serde_json::to_value(&timeline).unwrap(), expected);
    }

    #[test]
    fn a_rendered_file_carries_its_facts() {
        let text = r#"{"$artifact": "sha256:a", "name": "a.mp4", "media_type": "video/mp4", "frames": 81, "fps": 16,
            "width": 832, "height": 480}"#;
        let rendered: Rendered = read("media.render", text).unwrap();
        assert_eq!((rendered.frames, rendered.fps, rendered.width), (81, 16.0, 832));
        assert_eq!(rendered.file.reference(), json!({"$artifact": "sha256:a"}));
    }
}
