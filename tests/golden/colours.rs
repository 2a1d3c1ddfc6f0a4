//! Colours that went through H.264 several times, compared frame by frame.

use serde_json::{Value, json};

use crate::same::Same;

/// Levels of 255 that a channel may be off.
const TOLERANCE: f64 = 8.0;

/// One colour: `[r, g, b]`.
pub fn one(same: &mut Same, pointer: &str, want: &Value, got: &Value) {
    if !near(want, got) {
        same.differ(pointer, want, got);
    }
}

/// Runs of frames of one colour, `[{"from", "to", "rgb"}]`, against the colour of each frame. Runs that overlap, leave a gap
/// or end elsewhere than the frames do are a difference.
pub fn runs(same: &mut Same, pointer: &str, want: &Value, got: &Value) {
    let frames = got.as_array().map_or(&[][..], Vec::as_slice);
    let mut at = 0;
    for run in want.as_array().map_or(&[][..], Vec::as_slice) {
        let (from, to) = (run["from"].as_u64(), run["to"].as_u64());
        let (Some(from), Some(to)) = (from, to) else {
            same.differ(pointer, run, &json!("no run of frames"));
            return;
        };
        if from != at {
            same.differ(pointer, run, &json!(format!("a run that begins at frame {at}")));
        }
        for frame in from..=to {
            let got = usize::try_from(frame).ok().and_then(|frame| frames.get(frame)).unwrap_or(&Value::Null);
            if !near(&run["rgb"], got) {
                same.differ(&format!("{pointer} (frame {frame})"), &run["rgb"], got);
            }
        }
        at = to + 1;
    }
    if at != frames.len() as u64 {
        same.differ(&format!("{pointer} (frames)"), &json!(at), &json!(frames.len()));
    }
}

/// A mean grey value.
pub fn grey(same: &mut Same, pointer: &str, want: &Value, got: Option<&Value>) {
    let got = got.unwrap_or(&Value::Null);
    if !close(want, got) {
        same.differ(pointer, want, got);
    }
}

/// The mean grey value of every frame.
pub fn greys(same: &mut Same, pointer: &str, want: &Value, got: &Value) {
    let (Some(wanted), Some(found)) = (want.as_array(), got.as_array()) else {
        same.differ(pointer, want, got);
        return;
    };
    if wanted.len() != found.len() {
        same.differ(&format!("{pointer} (frames)"), &json!(wanted.len()), &json!(found.len()));
    }
    for (frame, (want, got)) in wanted.iter().zip(found).enumerate() {
        if !close(want, got) {
            same.differ(&format!("{pointer} (frame {frame})"), want, got);
        }
    }
}

fn near(want: &Value, got: &Value) -> bool {
    match (want.as_array(), got.as_array()) {
        (Some(want), Some(got)) => {
            want.len() == 3 && got.len() == 3 && want.iter().zip(got).all(|(want, got)| close(want, got))
        }
        _ => false,
    }
}

fn close(want: &Value, got: &Value) -> bool {
    match (want.as_f64(), got.as_f64()) {
        (Some(want), Some(got)) => (want - got).abs() <= TOLERANCE,
        _ => false,
    }
}
