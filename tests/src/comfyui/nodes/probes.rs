//! The test pack: nodes that take time, do not listen, fail, expand, or show what they are told.

use std::time::Duration;

use image::ImageEncoder;
use serde_json::{Map, json};

use super::{Inputs, Ran, Stop, Value, sleep};
use crate::comfyui::graph::Context;
use crate::comfyui::hub::Picture;

/// Longest edge of a preview, in pixels.
const PREVIEW_SIDE: u32 = 512;

/// `steps` steps of `delay` seconds each, with a JPEG preview each when `preview` is set.
pub(super) fn steps(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let images = inputs.images("image")?;
    let (steps, delay) = (inputs.whole("steps")?, Duration::from_secs_f64(inputs.float("delay")?.max(0.0)));
    for step in 1..=steps {
        sleep(context.server, delay)?;
        let preview = match images.first().filter(|_| inputs.flag("preview")) {
            Some(picture) => {
                let small = if picture.width().max(picture.height()) > PREVIEW_SIDE {
                    image::DynamicImage::ImageRgb8(picture.clone()).thumbnail(PREVIEW_SIDE, PREVIEW_SIDE).to_rgb8()
                } else {
                    picture.clone()
                };
                let mut jpeg = Vec::new();
                image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95)
                    .write_image(&small, small.width(), small.height(), image::ExtendedColorType::Rgb8)
                    .map_err(|error| Stop::failed("ValueError", error))?;
                Some((Picture::Jpeg, jpeg))
            }
            None => None,
        };
        context.progress(step, steps, preview)?;
    }
    Ok(Ran::value(Value::Images(images)))
}

/// Sleeps `seconds` without a look at interruptions.
pub(super) fn deaf(inputs: &Inputs, context: &Context<'_>) -> Result<Ran, Stop> {
    sleep(context.server, Duration::from_secs_f64(inputs.float("seconds")?.max(0.0)))?;
    Ok(Ran::value(inputs.get("image")?.clone()))
}

/// The failure that was ordered.
pub(super) fn fail(inputs: &Inputs) -> Result<Stop, Stop> {
    Ok(match inputs.text("kind")? {
        "oom" => Stop::failed(
            "torch.OutOfMemoryError",
            "CUDA out of memory. Tried to allocate 20.00 GiB.\nThe GPU has no room for this; a smaller batch may fit.",
        ),
        _ => Stop::failed("ValueError", "probe failure"),
    })
}

/// Becomes an inverted picture and a preview of it.
pub(super) fn expand(context: &Context<'_>) -> Ran {
    let (inverted, preview) = (context.inner_id("1"), context.inner_id("2"));
    let result = json!([inverted, 0]);
    let mut graph = Map::new();
    let image = context.unresolved("image");
    graph.insert(inverted, json!({"class_type": "ImageInvert", "inputs": {"image": image}}));
    graph.insert(preview, json!({"class_type": "PreviewImage", "inputs": {"images": result}}));
    Ran::Expanded { graph, results: vec![result] }
}

/// Shows the JSON it is given.
pub(super) fn ui(inputs: &Inputs) -> Result<Ran, Stop> {
    let shown = serde_json::from_str(inputs.text("ui_json")?)
        .map_err(|error| Stop::failed("json.decoder.JSONDecodeError", error))?;
    Ok(Ran::shown(shown, Vec::new()))
}
