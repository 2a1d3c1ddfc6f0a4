//! The JSON of `render`, parsed and checked. The contract is in `wit/media.wit`; what is wrong is named by its JSON pointer
//! together with what is allowed there. Members that nobody knows are ignored, and null is as good as absent.

use std::num::NonZeroU64;

use serde_json::Value;

use crate::digest::Digest;
use crate::media::frames::Fit;
use crate::media::layers::Layer;
use crate::media::pixels::Adjust;
use crate::task::Failure;

/// Longest name of a result, in bytes.
const NAME_BYTES: usize = 200;

/// Most clips of one timeline.
const CLIPS: usize = 10_000;

/// What is to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    pub output: Output,
    /// At least one.
    pub clips: Vec<Clip>,
    /// Over the frames of the clips, the later ones over the earlier ones.
    pub layers: Vec<Layer>,
    pub audio: Option<Digest>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub kind: OutputKind,
    /// Pixels, at least 1; none: as the first source.
    pub width: Option<u32>,
    pub height: Option<u32>,
    /// None: as the first video.
    pub fps: Option<f64>,
    /// A plain file name with the extension of its kind.
    pub name: String,
    /// 0 to 51.
    pub crf: u32,
    /// Never of a picture whose name makes it a JPEG.
    pub lossless: bool,
}

/// The kinds that can come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    Video,
    Picture,
}

/// A stretch of the timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    pub source: ClipSource,
    pub fit: Fit,
    /// None: the frames are taken as they are.
    pub adjust: Option<Adjust>,
    /// How the next clip takes over; none: from one frame to the next. Never on the last clip.
    pub fade: Option<Fade>,
}

/// Where the frames of a clip come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ClipSource {
    Video { artifact: Digest, range: Range },
    Still { artifact: Digest, frames: NonZeroU64 },
    Color { rgb: [u8; 3], frames: NonZeroU64 },
}

/// A part of a video, in frames of the rate `fps`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Range {
    /// Left out at the front; with `from_end`, at the back.
    pub start: u64,
    /// None: all that follow; with `from_end`, all that precede.
    pub frames: Option<NonZeroU64>,
    pub from_end: bool,
    pub reverse: bool,
    /// None: the source's own rate.
    pub fps: Option<f64>,
}

/// A cross-fade into the next clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fade {
    pub frames: NonZeroU64,
    pub curve: Curve,
    /// 0 to 10; 0: none.
    pub sharpen: f32,
}

/// How the later clip gains weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    Cosine,
    Linear,
}

impl Fade {
    /// Weight of the later clip in frame `i` of the fade: above 0 in the first, 1 in the last.
    pub fn weight(&self, i: u64) -> f32 {
        let t = (i + 1) as f64 / self.frames.get() as f64;
        let weight = match self.curve {
            Curve::Cosine => (1.0 - (std::f64::consts::PI * t).cos()) / 2.0,
            Curve::Linear => t,
        };
        weight as f32
    }
}

impl Timeline {
    /// Code `invalid_timeline`.
    pub fn parse(json: &Value) -> Result<Self, Failure> {
        let root = At { value: Some(json), pointer: String::new() };
        root.object("an object with `output` and `clips`")?;
        let clips = root.member("clips");
        let mut clips = clips
            .items()
            .filter(|items| (1..=CLIPS).contains(&items.len()))
            .ok_or_else(|| clips.wrong(&format!("an array of 1 to {CLIPS} clips")))?
            .iter()
            .map(Clip::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let fades = root.member("fades");
        if fades.value.is_some() {
            for fade in fades.items().ok_or_else(|| fades.wrong("an array of fades"))? {
                parse_fade(&fade, &mut clips)?;
            }
        }
        let audio = root.member("audio");
        Ok(Self {
            output: Output::parse(&root.member("output"))?,
            clips,
            layers: Layer::parse_all(&root.member("layers"))?,
            audio: audio.value.is_some().then(|| audio.artifact()).transpose()?,
        })
    }
}

impl Output {
    fn parse(at: &At) -> Result<Self, Failure> {
        if at.value.is_some() {
            at.object("an object")?;
        }
        let kind = at.member("kind").choice(&[("video", OutputKind::Video), ("picture", OutputKind::Picture)])?;
        let kind = kind.unwrap_or(OutputKind::Video);
        let side =
            |name| at.member(name).integer(1..=65_535).map(|side| side.and_then(|side| u32::try_from(side).ok()));
        let output = Self {
            kind,
            width: side("width")?,
            height: side("height")?,
            fps: at.member("fps").rate()?,
            name: file_name(&at.member("name"), kind)?,
            crf: at.member("crf").integer(0..=51)?.and_then(|crf| u32::try_from(crf).ok()).unwrap_or(18),
            lossless: at.member("lossless").flag()?,
        };
        if output.lossless && output.is_jpeg() {
            return Err(at
                .member("lossless")
                .wrong("false, or a name that ends in .png: a JPEG always loses something"));
        }
        Ok(output)
    }

    /// A picture whose name asks for JPEG; other pictures are PNG.
    pub fn is_jpeg(&self) -> bool {
        self.kind == OutputKind::Picture && has_extension(&self.name, &[".jpg", ".jpeg"])
    }
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    extensions.iter().any(|extension| name.ends_with(extension))
}

/// A name without folders. The first extension of the kind is added where all of them are missing.
fn file_name(at: &At, kind: OutputKind) -> Result<String, Failure> {
    let (extensions, extension, default): (&[&str], _, _) = match kind {
        OutputKind::Video => (&[".mp4"], ".mp4", "video.mp4"),
        OutputKind::Picture => (&[".png", ".jpg", ".jpeg"], ".png", "picture.png"),
    };
    if at.value.is_none() {
        return Ok(default.to_string());
    }
    let name = at
        .value
        .and_then(Value::as_str)
        .filter(|name| {
            !name.trim_matches(['.', ' ']).is_empty()
                && name.len() <= NAME_BYTES
                && !name.contains(['/', '\\', ':'])
                && !name.contains(char::is_control)
        })
        .ok_or_else(|| at.wrong(&format!("a file name without folders, of at most {NAME_BYTES} bytes")))?;
    if has_extension(name, extensions) { Ok(name.to_string()) } else { Ok(format!("{name}{extension}")) }
}

impl Clip {
    pub(super) fn parse(at: &At) -> Result<Self, Failure> {
        at.object("an object with `video`, `still` or `color`")?;
        let (video, still, color) = (at.member("video"), at.member("still"), at.member("color"));
        let frames = at.member("frames").integer(1..=u64::MAX)?.and_then(NonZeroU64::new);
        let source = match (video.value, still.value, color.value) {
            (Some(_), None, None) => ClipSource::Video {
                artifact: video.artifact()?,
                range: Range {
                    start: at.member("start").integer(0..=u64::MAX)?.unwrap_or(0),
                    frames,
                    from_end: at.member("from_end").flag()?,
                    reverse: at.member("reverse").flag()?,
                    fps: at.member("fps").rate()?,
                },
            },
            (None, Some(_), None) => {
                ClipSource::Still { artifact: still.artifact()?, frames: frames.unwrap_or(NonZeroU64::MIN) }
            }
            (None, None, Some(_)) => {
                ClipSource::Color { rgb: color.color()?, frames: frames.unwrap_or(NonZeroU64::MIN) }
            }
            _ => return Err(at.wrong("exactly one of `video`, `still` and `color`")),
        };
        let fits = [("stretch", Fit::Stretch), ("crop", Fit::Crop), ("letterbox", Fit::Letterbox)];
        let fit = at.member("fit").choice(&fits)?.unwrap_or_default();
        Ok(Self { source, fit, adjust: parse_adjust(&at.member("adjust"))?, fade: None })
    }
}

fn parse_adjust(at: &At) -> Result<Option<Adjust>, Failure> {
    if at.value.is_none() {
        return Ok(None);
    }
    at.object("an object")?;
    let number = |name, least: f64, most: f64, default: f32| {
        at.member(name).number(least, most).map(|number| number.map_or(default, |number| number as f32))
    };
    let adjust = Adjust {
        grey_mix: number("grey_mix", 0.0, 1.0, 0.0)?,
        desaturate: number("desaturate", 0.0, 1.0, 0.0)?,
        brightness: number("brightness", -1.0, 1.0, 0.0)?,
        saturation: number("saturation", 0.0, 100.0, 1.0)?,
    };
    Ok(Some(adjust).filter(|adjust| *adjust != Adjust::default()))
}

/// Puts a fade on the clip that it follows. One of no frames is none.
fn parse_fade(at: &At, clips: &mut [Clip]) -> Result<(), Failure> {
    at.object("an object with `after` and `frames`")?;
    let after = at.member("after");
    let last = clips.len().saturating_sub(1);
    let to_the_next = || format!("the number of a clip that another one follows (there are {})", last + 1);
    let clip = after
        .integer(0..=u64::MAX)?
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index < last)
        .and_then(|index| clips.get_mut(index))
        .ok_or_else(|| after.wrong(&to_the_next()))?;
    let curves = [("cosine", Curve::Cosine), ("linear", Curve::Linear)];
    let curve = at.member("curve").choice(&curves)?.unwrap_or(Curve::Cosine);
    let sharpen = at.member("sharpen").number(0.0, 10.0)?.unwrap_or(0.0) as f32;
    let length = at.member("frames");
    let frames = length.integer(0..=u64::MAX)?.ok_or_else(|| length.wrong("the number of frames"))?;
    if clip.fade.is_some() {
        return Err(after.wrong("one fade after a clip"));
    }
    clip.fade = NonZeroU64::new(frames).map(|frames| Fade { frames, curve, sharpen });
    Ok(())
}

/// A failure that names a member.
pub(super) fn invalid(pointer: &str, what: &str) -> Failure {
    let pointer = if pointer.is_empty() { "/" } else { pointer };
    Failure::invalid("invalid_timeline", format!("the timeline cannot be rendered: `{pointer}` {what}"))
}

/// A value and where it stands. Absent and null are the same.
pub(super) struct At<'a> {
    pub(super) value: Option<&'a Value>,
    pointer: String,
}

impl<'a> At<'a> {
    pub(super) fn member(&self, name: &str) -> At<'a> {
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        At { value, pointer: format!("{}/{name}", self.pointer) }
    }

    pub(super) fn items(&self) -> Option<Vec<At<'a>>> {
        let items = self.value?.as_array()?.iter().enumerate();
        Some(items.map(|(i, value)| At { value: Some(value), pointer: format!("{}/{i}", self.pointer) }).collect())
    }

    pub(super) fn wrong(&self, allowed: &str) -> Failure {
        let found = match self.value {
            None => "is missing".to_string(),
            Some(value @ (Value::Array(_) | Value::Object(_))) => {
                format!("is {}", if value.is_array() { "another array" } else { "another object" })
            }
            Some(value) => format!("is {}", value.to_string().chars().take(60).collect::<String>()),
        };
        invalid(&self.pointer, &format!("{found}, expected {allowed}"))
    }

    pub(super) fn object(&self, allowed: &str) -> Result<(), Failure> {
        if self.value.is_some_and(Value::is_object) { Ok(()) } else { Err(self.wrong(allowed)) }
    }

    pub(super) fn flag(&self) -> Result<bool, Failure> {
        match self.value {
            None => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong("true or false")),
        }
    }

    pub(super) fn number(&self, least: f64, most: f64) -> Result<Option<f64>, Failure> {
        let Some(value) = self.value else { return Ok(None) };
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| self.wrong(&format!("a number from {least} to {most}")))
    }

    pub(super) fn rate(&self) -> Result<Option<f64>, Failure> {
        self.number(0.001, 1000.0)
    }

    /// The same for numbers that may be negative.
    pub(super) fn signed(&self, most: i64) -> Result<Option<i64>, Failure> {
        let most = most as f64;
        let whole = self.value.is_none_or(|value| value.as_f64().is_some_and(|number| number.fract() == 0.0));
        let number = if whole { self.number(-most, most) } else { Err(self.wrong("")) };
        let number = number.map_err(|_| self.wrong(&format!("a whole number from -{most} to {most}")))?;
        Ok(number.map(|number| number as i64))
    }

    /// Whole numbers may be written as `81.0`: some languages know no others.
    pub(super) fn integer(&self, allowed: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Failure> {
        let Some(value) = self.value else { return Ok(None) };
        let whole = |number: f64| (number.fract() == 0.0 && (0.0..=9e15).contains(&number)).then_some(number as u64);
        let number =
            value.as_u64().or_else(|| value.as_f64().and_then(whole)).filter(|number| allowed.contains(number));
        number.map(Some).ok_or_else(|| {
            let most = if *allowed.end() == u64::MAX { "up".to_string() } else { format!("to {}", allowed.end()) };
            self.wrong(&format!("a whole number from {} {most}", allowed.start()))
        })
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<Option<T>, Failure> {
        let Some(value) = self.value else { return Ok(None) };
        let found = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(&names.join(" or "))
        })
    }

    pub(super) fn artifact(&self) -> Result<Digest, Failure> {
        let text = self.value.and_then(|value| value.get("$artifact")).and_then(Value::as_str);
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| self.wrong("an artifact: `{\"$artifact\": \"sha256:…\"}`"))
    }

    pub(super) fn color(&self) -> Result<[u8; 3], Failure> {
        let bytes = self.value.and_then(Value::as_str).and_then(|text| hex::decode(text.strip_prefix('#')?).ok());
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| self.wrong("a colour as `#` and six hexadecimal digits: `#808080`"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn artifact() -> Value {
        json!({"$artifact": Digest::of(b"x"), "name": "x.mp4", "media_type": "video/mp4"})
    }

    #[test]
    fn a_whole_timeline_is_understood() {
        let timeline = Timeline::parse(&json!({
            "output": {"kind": "video", "width": 832, "height": 480.0, "fps": 16, "name": "guide.mp4", "new": 1},
            "clips": [
                {"video": artifact(), "start": 2, "frames": 81, "from_end": true, "reverse": true, "fps": 16,
                 "adjust": {"grey_mix": 0.25}},
                {"still": artifact(), "fit": "crop", "adjust": {"saturation": 1}},
                {"color": "#80ff00", "frames": 12}
            ],
            "fades": [{"after": 0, "frames": 1, "curve": "linear", "sharpen": 0.3}, {"after": 1, "frames": 0}],
            "audio": null,
            "tomorrow": true
        }))
        .unwrap();
        assert_eq!((timeline.output.height, timeline.output.crf, timeline.audio), (Some(480), 18, None));
        let [video, still, color] = timeline.clips.as_slice() else { panic!("three clips") };
        let ClipSource::Video { range, .. } = &video.source else { panic!("a video") };
        assert_eq!((range.start, range.frames.unwrap().get(), range.from_end, range.reverse), (2, 81, true, true));
        assert_eq!(video.adjust.unwrap().grey_mix, 0.25);
        assert_eq!(video.fade.unwrap().curve, Curve::Linear);
        assert_eq!((still.fit, still.adjust, still.fade), (Fit::Crop, None, None), "what changes nothing is nothing");
        assert_eq!(color.source, ClipSource::Color { rgb: [128, 255, 0], frames: NonZeroU64::new(12).unwrap() });
    }

    #[test]
    fn what_is_wrong_is_named_by_pointer_and_what_is_allowed() {
        let clip = json!({"color": "#000000"});
        for (json, pointer, allowed) in [
            (json!([]), "/", "object"),
            (json!({}), "/clips", "1 to 10000 clips"),
            (json!({"clips": []}), "/clips", "1 to 10000 clips"),
            (json!({"clips": [clip, {}]}), "/clips/1", "exactly one of"),
            (json!({"clips": [{"color": "#000000", "still": artifact()}]}), "/clips/0", "exactly one of"),
            (json!({"clips": [{"color": "red"}]}), "/clips/0/color", "#808080"),
            (json!({"clips": [{"video": {"$artifact": "x"}}]}), "/clips/0/video", "sha256:"),
            (json!({"clips": [{"color": "#000000", "frames": 0}]}), "/clips/0/frames", "from 1 up"),
            (json!({"clips": [{"color": "#000000", "frames": 1.5}]}), "/clips/0/frames", "whole number"),
            (json!({"clips": [{"video": artifact(), "fps": 0}]}), "/clips/0/fps", "0.001 to 1000"),
            (json!({"clips": [{"color": "#000000", "fit": "fill"}]}), "/clips/0/fit", "`stretch` or `crop`"),
            (json!({"clips": [{"color": "#000000", "adjust": {"grey_mix": 2}}]}), "/clips/0/adjust/grey_mix", "0 to 1"),
            (json!({"clips": [clip], "output": {"crf": 52}}), "/output/crf", "0 to 51"),
            (json!({"clips": [clip], "output": {"name": "../x"}}), "/output/name", "without folders"),
            (
                json!({"clips": [clip], "output": {"kind": "picture", "name": "a.jpg", "lossless": true}}),
                "/output/lossless",
                ".png",
            ),
            (json!({"clips": [clip], "output": {"kind": "audio"}}), "/output/kind", "`video` or `picture`"),
            (json!({"clips": [clip], "fades": [{"after": 0, "frames": 1}]}), "/fades/0/after", "another one follows"),
            (json!({"clips": [clip, clip], "fades": [{"after": 0}]}), "/fades/0/frames", "is missing"),
            (json!({"clips": [clip], "audio": "x"}), "/audio", "artifact"),
        ] {
            let failure = Timeline::parse(&json).unwrap_err();
            assert_eq!(failure.code, "invalid_timeline");
            assert!(failure.message.contains(&format!("`{pointer}`")), "{pointer}: {}", failure.message);
            assert!(failure.message.contains(allowed), "{allowed}: {}", failure.message);
        }
    }

    #[test]
    fn fades_gain_weight_as_documented() {
        let fade = |curve| Fade { frames: NonZeroU64::new(4).unwrap(), curve, sharpen: 0.0 };
        let weights = |curve| (0..4).map(|i| fade(curve).weight(i)).collect::<Vec<_>>();
        assert_eq!(weights(Curve::Linear), [0.25, 0.5, 0.75, 1.0]);
        for (got, want) in weights(Curve::Cosine).into_iter().zip([0.146_447, 0.5, 0.853_553, 1.0]) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn a_name_has_the_extension_of_its_kind() {
        let name = |output: Value| {
            Timeline::parse(&json!({"clips": [{"color": "#000000"}], "output": output})).map(|t| t.output.name)
        };
        assert_eq!(name(json!({"name": "a.b"})).unwrap(), "a.b.mp4");
        assert_eq!(name(json!({"name": "A.PNG", "kind": "picture"})).unwrap(), "A.PNG");
        assert_eq!(name(json!({"name": "a.Jpeg", "kind": "picture"})).unwrap(), "a.Jpeg");
        assert_eq!(name(json!({"name": "a.jpg"})).unwrap(), "a.jpg.mp4");
        assert_eq!(name(json!({})).unwrap(), "video.mp4");
        assert!(name(json!({"name": " .. "})).is_err());
    }
}
