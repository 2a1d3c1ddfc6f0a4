//! Pictures: made, loaded, turned into others.

use std::sync::Arc;

use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, Rgb, RgbImage};

use super::{Inputs, Ran, Stop, Value};
use crate::comfyui::files;
use crate::comfyui::graph::Context;

pub(super) fn empty(inputs: &Inputs) -> Result<Ran, Stop> {
    let (width, height) = (side(inputs.whole("width")?), side(inputs.whole("height")?));
    let colour = inputs.whole("color")?;
    let byte = |shift: u32| u8::try_from((colour >> shift) & 0xff).unwrap_or(0);
    let picture = RgbImage::from_pixel(width, height, Rgb([byte(16), byte(8), byte(0)]));
    let batch = usize::try_from(inputs.whole("batch_size")?).unwrap_or(1);
    Ok(images(vec![picture; batch]))
}

pub(super) fn load(inputs: &Inputs, context: &Context<'_>) -> Result<Ran, Stop> {
    let name = inputs.text("image")?;
    let missing = || Stop::failed("FileNotFoundError", format!("[Errno 2] No such file or directory: '{name}'"));
    let file = files::annotated(&context.server.options, name).ok_or_else(missing)?;
    let bytes = std::fs::read(&file).map_err(|_| missing())?;
    let unreadable =
        |_| Stop::failed("PIL.UnidentifiedImageError", format!("cannot identify image file '{}'", file.display()));
    let picture = image::load_from_memory(&bytes).map_err(unreadable)?;
    // A mask is what the alpha channel leaves out.
    let mask = GrayImage::from_fn(picture.width(), picture.height(), |x, y| {
        Luma([255 - image::GenericImageView::get_pixel(&picture, x, y).0[3]])
    });
    let values = vec![Value::Images(Arc::new(vec![picture.to_rgb8()])), Value::Masks(Arc::new(vec![mask]))];
    Ok(Ran::Done { values, shown: None })
}

pub(super) fn invert(inputs: &Inputs) -> Result<Ran, Stop> {
    let mut inverted = inputs.images("image")?.as_ref().clone();
    inverted.iter_mut().for_each(imageops::invert);
    Ok(images(inverted))
}

pub(super) fn scale(inputs: &Inputs) -> Result<Ran, Stop> {
    let given = inputs.images("image")?;
    let (old_width, old_height) = given.first().map_or((1, 1), RgbImage::dimensions);
    let (mut width, mut height) = (side(inputs.whole("width")?), side(inputs.whole("height")?));
    // A side of 0 follows the other one.
    let follow =
        |of: u32, by: u32, to: u32| side((u64::from(of) * u64::from(to) + u64::from(by) / 2) / u64::from(by)).max(1);
    match (width, height) {
        (0, 0) => return Ok(Ran::value(Value::Images(given))),
        (0, _) => width = follow(old_width, old_height, height),
        (_, 0) => height = follow(old_height, old_width, width),
        _ => {}
    }
    let method = inputs.text("upscale_method")?;
    let crop = inputs.text("crop")? == "center";
    let scaled = given.iter().map(|picture| {
        if crop {
            resized(&centre(picture, width, height), width, height, method)
        } else {
            resized(picture, width, height, method)
        }
    });
    Ok(images(scaled.collect()))
}

pub(super) fn scale_by(inputs: &Inputs) -> Result<Ran, Stop> {
    let (by, method) = (inputs.float("scale_by")?, inputs.text("upscale_method")?);
    let given = inputs.images("image")?;
    let scaled = given.iter().map(|picture| {
        let times = |of: u32| side((f64::from(of) * by).round() as u64).max(1);
        resized(picture, times(picture.width()), times(picture.height()), method)
    });
    Ok(images(scaled.collect()))
}

pub(super) fn blend(inputs: &Inputs) -> Result<Ran, Stop> {
    let (first, second) = (inputs.images("image1")?, inputs.images("image2")?);
    let (factor, mode) = (inputs.float("blend_factor")?, inputs.text("blend_mode")?);
    let blended = first.iter().zip(second.iter().cycle()).map(|(below, above)| {
        let above = if above.dimensions() == below.dimensions() {
            above.clone()
        } else {
            resized(&centre(above, below.width(), below.height()), below.width(), below.height(), "bicubic")
        };
        RgbImage::from_fn(below.width(), below.height(), |x, y| {
            let (a, b) = (below.get_pixel(x, y).0, above.get_pixel(x, y).0);
            Rgb(std::array::from_fn(|i| {
                let (a, b) = (f64::from(a[i]) / 255.0, f64::from(b[i]) / 255.0);
                let mixed = a * (1.0 - factor) + mixture(mode, a, b) * factor;
                (mixed.clamp(0.0, 1.0) * 255.0).round() as u8
            }))
        })
    });
    Ok(images(blended.collect()))
}

pub(super) fn solid_mask(inputs: &Inputs) -> Result<Ran, Stop> {
    let value = (inputs.float("value")?.clamp(0.0, 1.0) * 255.0).round() as u8;
    let mask = GrayImage::from_pixel(side(inputs.whole("width")?), side(inputs.whole("height")?), Luma([value]));
    Ok(Ran::value(Value::Masks(Arc::new(vec![mask]))))
}

fn images(batch: Vec<RgbImage>) -> Ran {
    Ran::value(Value::Images(Arc::new(batch)))
}

fn side(pixels: u64) -> u32 {
    u32::try_from(pixels).unwrap_or(u32::MAX)
}

/// The largest part around the middle with the shape of `width` by `height`.
fn centre(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (old_width, old_height) = picture.dimensions();
    let (wide, high) = (u64::from(old_width) * u64::from(height), u64::from(old_height) * u64::from(width));
    let (part_width, part_height) = if wide > high {
        (side(high / u64::from(height.max(1))), old_height)
    } else {
        (old_width, side(wide / u64::from(width.max(1))))
    };
    let (x, y) = ((old_width - part_width) / 2, (old_height - part_height) / 2);
    imageops::crop_imm(picture, x, y, part_width.max(1), part_height.max(1)).to_image()
}

fn resized(picture: &RgbImage, width: u32, height: u32, method: &str) -> RgbImage {
    let filter = match method {
        "bilinear" => FilterType::Triangle,
        "bicubic" => FilterType::CatmullRom,
        "lanczos" => FilterType::Lanczos3,
        "area" => return imageops::thumbnail(picture, width, height),
        _ => FilterType::Nearest,
    };
    imageops::resize(picture, width, height, filter)
}

/// Both in 0 to 1.
fn mixture(mode: &str, below: f64, above: f64) -> f64 {
    match mode {
        "multiply" => below * above,
        "screen" => 1.0 - (1.0 - below) * (1.0 - above),
        "overlay" if below <= 0.5 => 2.0 * below * above,
        "overlay" => 1.0 - 2.0 * (1.0 - below) * (1.0 - above),
        "soft_light" if above <= 0.5 => below - (1.0 - 2.0 * above) * below * (1.0 - below),
        "soft_light" => {
            let root = if below <= 0.25 { ((16.0 * below - 12.0) * below + 4.0) * below } else { below.sqrt() };
            below + (2.0 * above - 1.0) * (root - below)
        }
        "difference" => below - above,
        _ => above,
    }
}
