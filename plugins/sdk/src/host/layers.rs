//! What lies over the frames of a timeline: videos, stills, shapes and text.
//!
//! ```ignore
//! let montage = Timeline::picture("montage.jpg").size(800, 200)
//!     .clip(Clip::color("#000000", 1))
//!     .layer(Layer::source(Clip::still(&left, 1).fit(Fit::Crop)).at(0, 0).size(400, 200))
//!     .layer(Layer::source(Clip::still(&right, 1).fit(Fit::Crop)).at(400, 0).size(400, 200))
//!     .layer(Layer::text(Text::new("before, after", 24.0, "#ffffff").bold()).at(10, 160));
//! ```

use serde::Serialize;

use super::media::Clip;

/// Something over the frames of a timeline. What is `None` has the default that `wit/media.wit` names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layer {
    #[serde(flatten)]
    pub content: LayerContent,
    /// In pixels, from the left of the frame.
    pub x: f64,
    /// In pixels, from the top of the frame.
    pub y: f64,
    /// Of a source or a shape; the longest line of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<f64>,
    /// Where a line ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_x: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_y: Option<f64>,
    /// 0 (not to be seen) to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opacity: Option<f64>,
    /// First frame of the timeline that shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// None: all that follow; of a video, as many as its range has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<u64>,
}

/// What a layer shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerContent {
    /// A range of a video, or a still; never a colour.
    Source(Box<Clip>),
    Rectangle(Outlined),
    Ellipse(Outlined),
    Line(Stroke),
    Text(Text),
}

/// The colours (`#rrggbb`) of a rectangle or an ellipse: at least one. The outline lies inside.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outlined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outline: Option<String>,
    /// Of the outline, in pixels; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_width: Option<f64>,
}

/// The colour (`#rrggbb`) and width of a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stroke {
    pub color: String,
    /// In pixels; none: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_width: Option<f64>,
}

/// Lines of text, in DejaVu Sans.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Text {
    /// `\n` begins a new line.
    pub text: String,
    /// Pixels of the em square: capitals are 0.73 of it high.
    pub size: f64,
    /// `#rrggbb`.
    pub color: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bold: bool,
    pub align: Align,
}

/// What of a line lies at the layer's `x`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Align {
    #[default]
    Left,
    Center,
    Right,
}

impl Layer {
    /// A video with its range, or a still, at its own size.
    pub fn source(clip: Clip) -> Self {
        Self::of(LayerContent::Source(Box::new(clip)))
    }

    /// A rectangle; [`Layer::size`] is needed.
    pub fn rectangle(colors: Outlined) -> Self {
        Self::of(LayerContent::Rectangle(colors))
    }

    /// An ellipse; [`Layer::size`] is needed.
    pub fn ellipse(colors: Outlined) -> Self {
        Self::of(LayerContent::Ellipse(colors))
    }

    /// A line of this width in pixels.
    pub fn line(color: impl Into<String>, width: f64, from: (f64, f64), to: (f64, f64)) -> Self {
        let line = Self::of(LayerContent::Line(Stroke { color: color.into(), line_width: Some(width) }));
        Self { x: from.0, y: from.1, to_x: Some(to.0), to_y: Some(to.1), ..line }
    }

    pub fn text(text: Text) -> Self {
        Self::of(LayerContent::Text(text))
    }

    fn of(content: LayerContent) -> Self {
        Self {
            content,
            x: 0.0,
            y: 0.0,
            width: None,
            height: None,
            to_x: None,
            to_y: None,
            opacity: None,
            start: None,
            frames: None,
        }
    }

    /// Placed there, in pixels from the upper left corner of the frame.
    pub fn at(mut self, x: impl Into<f64>, y: impl Into<f64>) -> Self {
        self.x = x.into();
        self.y = y.into();
        self
    }

    /// Of this size in pixels.
    pub fn size(mut self, width: impl Into<f64>, height: impl Into<f64>) -> Self {
        self.width = Some(width.into());
        self.height = Some(height.into());
        self
    }

    /// Of this width in pixels: a source keeps its proportions, a text ends longer lines in an ellipsis.
    pub fn width(mut self, width: impl Into<f64>) -> Self {
        self.width = Some(width.into());
        self
    }

    /// Of this height in pixels: a source keeps its proportions.
    pub fn height(mut self, height: impl Into<f64>) -> Self {
        self.height = Some(height.into());
        self
    }

    pub fn opacity(mut self, opacity: f64) -> Self {
        self.opacity = Some(opacity);
        self
    }

    /// Shown in these frames of the timeline alone.
    pub fn during(mut self, start: u64, frames: u64) -> Self {
        self.start = Some(start);
        self.frames = Some(frames);
        self
    }

    /// Shown from this frame of the timeline on.
    pub fn from(mut self, start: u64) -> Self {
        self.start = Some(start);
        self
    }
}

impl Outlined {
    /// Filled with a colour.
    pub fn filled(color: impl Into<String>) -> Self {
        Self { fill: Some(color.into()), ..Self::default() }
    }

    /// With an outline of this width in pixels, and nothing in it.
    pub fn outline(color: impl Into<String>, width: f64) -> Self {
        Self::default().outlined(color, width)
    }

    /// With an outline of this width in pixels.
    pub fn outlined(mut self, color: impl Into<String>, width: f64) -> Self {
        self.outline = Some(color.into());
        self.line_width = Some(width);
        self
    }
}

impl Text {
    /// Regular, beginning at the layer's place. Size in pixels.
    pub fn new(text: impl Into<String>, size: f64, color: impl Into<String>) -> Self {
        Self { text: text.into(), size, color: color.into(), bold: false, align: Align::Left }
    }

    pub fn bold(mut self) -> Self {
        self.bold = true;
        self
    }

    pub fn align(mut self, align: Align) -> Self {
        self.align = align;
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::media::{Fit, Timeline};
    use super::*;

    #[test]
    fn layers_are_written_as_the_contract_reads_them() {
        let timeline = Timeline::picture("montage.jpg")
            .clip(Clip::color("#000000", 1))
            .layer(Layer::source(Clip::video("sha256:a").last(9).fit(Fit::Crop)).at(-4, 5).size(40, 30).during(2, 3))
            .layer(Layer::rectangle(Outlined::filled("#010203").outlined("#040506", 2.0)).at(0.5, 1).size(7, 8))
            .layer(Layer::ellipse(Outlined::outline("#040506", 4.0)).size(7, 8).opacity(0.5))
            .layer(Layer::line("#010203", 3.0, (1.0, 2.0), (3.0, 4.0)).from(6))
            .layer(Layer::text(Text::new("a", 14.0, "#010203").bold().align(Align::Center)).at(20, 30).width(100));
        let expected = json!([
            {"source": {"video": {"$artifact": "sha256:a"}, "frames": 9, "from_end": true, "fit": "crop"},
             "x": -4.0, "y": 5.0, "width": 40.0, "height": 30.0, "start": 2, "frames": 3},
            {"rectangle": {"fill": "#010203", "outline": "#040506", "line_width": 2.0},
             "x": 0.5, "y": 1.0, "width": 7.0, "height": 8.0},
            {"ellipse": {"outline": "#040506", "line_width": 4.0}, "x": 0.0, "y": 0.0, "width": 7.0, "height": 8.0,
             "opacity": 0.5},
            {"line": {"color": "#010203", "line_width": 3.0}, "x": 1.0, "y": 2.0, "to_x": 3.0, "to_y": 4.0, "start": 6},
            {"text": {"text": "a", "size": 14.0, "color": "#010203", "bold": true, "align": "center"},
             "x": 20.0, "y": 30.0, "width": 100.0}
        ]);
        assert_eq!(serde_json::to_value(&timeline).unwrap()["layers"], expected);
    }
}
