//! Layers: pictures, videos, shapes and text over the frames of a timeline. Parsed here.
//!
//! - `plan.rs`: where and when a layer is seen, and what its source must give.
//! - `overlay.rs`: the frames of a timeline, one after the other, with their layers.
//! - `canvas.rs`: a frame that is drawn on, in its own format.
//! - `shapes.rs`: how much of each pixel a shape covers.
//! - `text.rs`: the same for text.
//!
//! Drawing is arithmetic of this process, without the special instructions of a machine: equal everywhere. A pixel that no
//! layer covers is never touched, and a frame without any is passed on as it is.

use std::num::NonZeroU64;

use crate::media::timeline::{At, Clip};
use crate::task::Failure;

mod canvas;
mod overlay;
mod plan;
mod shapes;
mod text;

pub(super) use overlay::Overlay;
pub(super) use plan::{PlannedLayer, plan};
pub(super) use shapes::{Outlined, Stroke};
pub(super) use text::{Align, Text};

/// Most layers of one timeline.
const LAYERS: usize = 50_000;

/// Furthest place of a layer from the frame's upper left corner, and its longest side, in pixels.
const REACH: i64 = 100_000;

/// Longest text of a layer, in bytes.
const TEXT_BYTES: usize = 4000;

/// Something that lies over the frames of a timeline.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    pub content: Content,
    /// 0 to 1.
    pub opacity: f32,
    /// First frame of the timeline that shows it.
    pub start: u64,
    /// None: to the end of the timeline, or of the layer's video.
    pub frames: Option<NonZeroU64>,
}

/// What a layer shows.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Source(Box<Placed>),
    Rectangle(Outlined),
    Ellipse(Outlined),
    Line(Stroke),
    Text(Text),
}

/// A video or a still, and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    /// Never a colour, never with a fade.
    pub clip: Clip,
    /// Of the upper left corner.
    pub x: i64,
    pub y: i64,
    /// None: as the other side wants it; without either, as the source is.
    pub width: Option<u32>,
    pub height: Option<u32>,
}

impl Layer {
    /// All layers of a timeline. Code `invalid_timeline`.
    pub fn parse_all(at: &At) -> Result<Vec<Self>, Failure> {
        if at.value.is_none() {
            return Ok(Vec::new());
        }
        let items = at.items().filter(|items| items.len() <= LAYERS);
        let items = items.ok_or_else(|| at.wrong(&format!("an array of at most {LAYERS} layers")))?;
        items.iter().map(Self::parse).collect()
    }

    fn parse(at: &At) -> Result<Self, Failure> {
        const KINDS: [&str; 5] = ["source", "rectangle", "ellipse", "line", "text"];
        at.object("an object with `source`, `rectangle`, `ellipse`, `line` or `text`")?;
        let given: Vec<&str> = KINDS.into_iter().filter(|kind| at.member(kind).value.is_some()).collect();
        let content = match given.as_slice() {
            ["source"] => Content::Source(Box::new(Placed::parse(at)?)),
            ["rectangle"] => Content::Rectangle(outlined(at, &at.member("rectangle"))?),
            ["ellipse"] => Content::Ellipse(outlined(at, &at.member("ellipse"))?),
            ["line"] => Content::Line(stroke(at, &at.member("line"))?),
            ["text"] => Content::Text(text(at, &at.member("text"))?),
            _ => return Err(at.wrong("exactly one of `source`, `rectangle`, `ellipse`, `line` and `text`")),
        };
        Ok(Self {
            content,
            opacity: at.member("opacity").number(0.0, 1.0)?.unwrap_or(1.0) as f32,
            start: at.member("start").integer(0..=u64::MAX)?.unwrap_or(0),
            frames: at.member("frames").integer(1..=u64::MAX)?.and_then(NonZeroU64::new),
        })
    }
}

impl Placed {
    fn parse(at: &At) -> Result<Self, Failure> {
        let source = at.member("source");
        if source.member("color").value.is_some() {
            return Err(source.wrong("a `video` or a `still`: a `rectangle` shows a colour"));
        }
        let clip = Clip::parse(&source)?;
        let side =
            |name| at.member(name).integer(1..=65_535).map(|side| side.and_then(|side| u32::try_from(side).ok()));
        let place = |name| at.member(name).signed(REACH).map(Option::unwrap_or_default);
        Ok(Self { clip, x: place("x")?, y: place("y")?, width: side("width")?, height: side("height")? })
    }
}

/// A place on one axis; 0 where it is not given.
fn place(at: &At, name: &str) -> Result<f32, Failure> {
    let reach = REACH as f64;
    Ok(at.member(name).number(-reach, reach)?.unwrap_or(0.0) as f32)
}

fn required(at: &At, name: &str, least: f64, most: f64) -> Result<f32, Failure> {
    let member = at.member(name);
    let number = member.number(least, most)?;
    let number = number.ok_or_else(|| member.wrong(&format!("a number from {least} to {most}")))?;
    Ok(number as f32)
}

fn line_width(paint: &At) -> Result<f32, Failure> {
    Ok(paint.member("line_width").number(0.1, 1000.0)?.unwrap_or(1.0) as f32)
}

fn outlined(at: &At, paint: &At) -> Result<Outlined, Failure> {
    paint.object("an object with `fill` or `outline` or both")?;
    let colour = |name: &str| {
        let member = paint.member(name);
        member.value.is_some().then(|| member.color()).transpose()
    };
    let (fill, outline) = (colour("fill")?, colour("outline")?);
    if fill.is_none() && outline.is_none() {
        return Err(paint.wrong("an object with `fill` or `outline` or both"));
    }
    Ok(Outlined {
        x: place(at, "x")?,
        y: place(at, "y")?,
        width: required(at, "width", 0.0, REACH as f64)?,
        height: required(at, "height", 0.0, REACH as f64)?,
        fill,
        outline,
        line_width: line_width(paint)?,
    })
}

fn stroke(at: &At, paint: &At) -> Result<Stroke, Failure> {
    paint.object("an object with `color`")?;
    let reach = REACH as f64;
    Ok(Stroke {
        from: (place(at, "x")?, place(at, "y")?),
        to: (required(at, "to_x", -reach, reach)?, required(at, "to_y", -reach, reach)?),
        color: paint.member("color").color()?,
        width: line_width(paint)?,
    })
}

fn text(at: &At, paint: &At) -> Result<Text, Failure> {
    paint.object("an object with `text`, `size` and `color`")?;
    let words = paint.member("text");
    let found = words.value.and_then(serde_json::Value::as_str).filter(|words| words.len() <= TEXT_BYTES);
    let found = found.ok_or_else(|| words.wrong(&format!("a text of at most {TEXT_BYTES} bytes")))?;
    let aligns = [("left", Align::Left), ("center", Align::Center), ("right", Align::Right)];
    Ok(Text {
        words: found.to_string(),
        x: place(at, "x")?,
        y: place(at, "y")?,
        size: required(paint, "size", 1.0, 1000.0)?,
        color: paint.member("color").color()?,
        bold: paint.member("bold").flag()?,
        align: paint.member("align").choice(&aligns)?.unwrap_or_default(),
        width: at.member("width").number(0.0, REACH as f64)?.map(|width| width as f32),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::Digest;
    use crate::media::timeline::{ClipSource, Timeline};

    fn parse(layers: &serde_json::Value) -> Result<Vec<Layer>, Failure> {
        Timeline::parse(&json!({"clips": [{"color": "#000000"}], "layers": layers})).map(|timeline| timeline.layers)
    }

    #[test]
    fn every_kind_of_layer_is_understood() {
        let picture = json!({"$artifact": Digest::of(b"x")});
        let layers = parse(&json!([
            {"source": {"video": picture, "start": 3, "frames": 5, "fit": "crop"}, "x": -4.0, "width": 10,
             "start": 7, "frames": 2, "opacity": 0.5},
            {"rectangle": {"fill": "#010203"}, "x": 0.5, "y": -1, "width": 3, "height": 0},
            {"ellipse": {"outline": "#010203", "line_width": 2.5}, "width": 3, "height": 4},
            {"line": {"color": "#010203"}, "to_x": 3, "to_y": -4},
            {"text": {"text": "a", "size": 14, "color": "#010203", "bold": true, "align": "right"}, "width": 50}
        ]))
        .unwrap();
        let [source, rectangle, ellipse, line, text] = layers.as_slice() else { panic!("five layers") };
        assert_eq!((source.start, source.frames.unwrap().get(), source.opacity), (7, 2, 0.5));
        let Content::Source(placed) = &source.content else { panic!("a source") };
        assert_eq!((placed.x, placed.y, placed.width, placed.height), (-4, 0, Some(10), None));
        let ClipSource::Video { range, .. } = &placed.clip.source else { panic!("a video") };
        assert_eq!((range.start, range.frames.unwrap().get()), (3, 5), "the range is the source's own");
        let Content::Rectangle(shape) = &rectangle.content else { panic!("a rectangle") };
        assert_eq!((shape.x, shape.y, shape.fill, shape.outline), (0.5, -1.0, Some([1, 2, 3]), None));
        assert!(matches!(&ellipse.content, Content::Ellipse(shape) if shape.line_width == 2.5));
        assert!(matches!(&line.content, Content::Line(line) if line.to == (3.0, -4.0) && line.width == 1.0));
        assert!(matches!(&text.content, Content::Text(text) if text.bold && text.align == Align::Right));
        assert_eq!((text.opacity, text.start, text.frames), (1.0, 0, None));
    }

    #[test]
    fn what_is_wrong_with_a_layer_is_named_by_pointer_and_what_is_allowed() {
        let text = json!({"text": "a", "size": 14, "color": "#000000"});
        let fill = json!({"fill": "#000000"});
        for (layer, pointer, allowed) in [
            (json!(3), "", "an object with `source`"),
            (json!({}), "", "exactly one of `source`"),
            (json!({"text": text, "rectangle": fill}), "", "exactly one of `source`"),
            (json!({"source": {"color": "#000000"}}), "/source", "a `rectangle` shows a colour"),
            (json!({"source": {"still": "x"}}), "/source/still", "sha256:"),
            (json!({"source": {"still": {"$artifact": Digest::of(b"x")}}, "x": 0.5}), "/x", "-100000 to 100000"),
            (json!({"source": {"still": {"$artifact": Digest::of(b"x")}}, "width": 0}), "/width", "1 to 65535"),
            (json!({"rectangle": {}, "width": 1, "height": 1}), "/rectangle", "`fill` or `outline`"),
            (json!({"rectangle": {"fill": "red"}, "width": 1, "height": 1}), "/rectangle/fill", "#808080"),
            (json!({"rectangle": fill, "width": 1}), "/height", "is missing"),
            (json!({"ellipse": fill, "width": 1, "height": -1}), "/height", "0 to 100000"),
            (json!({"ellipse": {"outline": "#000000", "line_width": 0}}), "/width", "is missing"),
            (json!({"line": {"color": "#000000"}, "to_x": 1}), "/to_y", "is missing"),
            (json!({"line": {"color": "#000000", "line_width": 0}, "to_x": 1, "to_y": 1}), "/line/line_width", "0.1"),
            (json!({"text": {"text": 3, "size": 14, "color": "#000000"}}), "/text/text", "at most 4000 bytes"),
            (json!({"text": {"text": "a", "color": "#000000"}}), "/text/size", "1 to 1000"),
            (json!({"text": {"text": "a", "size": 14}}), "/text/color", "#808080"),
            (json!({"text": text, "opacity": 1.5}), "/opacity", "0 to 1"),
            (json!({"text": text, "start": -1}), "/start", "from 0 up"),
            (json!({"text": text, "frames": 0}), "/frames", "from 1 up"),
        ] {
            let failure = parse(&json!([{"text": text}, layer])).unwrap_err();
            assert_eq!(failure.code, "invalid_timeline");
            assert!(failure.message.contains(&format!("`/layers/1{pointer}`")), "{pointer}: {}", failure.message);
            assert!(failure.message.contains(allowed), "{allowed}: {}", failure.message);
        }
        let failure = parse(&json!({})).unwrap_err();
        assert!(failure.message.contains("at most 50000 layers"), "{}", failure.message);
        assert!(parse(&json!([])).unwrap().is_empty() && parse(&json!(null)).unwrap().is_empty());
    }
}
