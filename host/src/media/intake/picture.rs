//! Pictures at the door: decoded in full, so that a broken one never reaches a task, and turned upright, because engines
//! look at pixels alone and not at what a camera noted about how it was held.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use image::codecs::gif::GifDecoder;
use image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::media::header::Header;
use crate::media::{Tools, whole};
use crate::task::Failure;

/// Whether a media type is one that is decoded here.
pub(super) fn is_picture(media_type: &str) -> bool {
    matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp" | "image/bmp" | "image/tiff")
}

/// Decodes a picture. One that is not upright is written upright to `turned`, without loss, as PNG; true says so (not of
/// animations, which are turned where they are used). `stop` ends the work at the next frame. Codes: `truncated` (cut off
/// or broken), `too_large` (more pixels, frames or memory than the settings allow, or far more bytes than its pixels can
/// take).
pub(super) fn checked(
    path: &Path,
    name: &str,
    tools: &Tools,
    turned: &Path,
    stop: &AtomicBool,
) -> Result<bool, Failure> {
    // Before anything reads the file whole.
    let header = Header::read(path, tools.picture_extra).map_err(|e| broken(name, tools, e))?;
    fits(name, tools.pixels, header)?;

    let file = File::open(path).map_err(|e| unreadable(name, &e.to_string()))?;
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| unreadable(name, &e.to_string()))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(tools.memory);
    reader.limits(limits);
    let format = reader.format();

    let mut decoder = reader.into_decoder().map_err(|e| broken(name, tools, e))?;
    let profile = decoder.icc_profile().ok().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| broken(name, tools, e))?;
    let is_animation = complete(path, name, format, tools, stop)?;

    if is_animation || header.orientation == Orientation::NoTransforms {
        return Ok(false);
    }
    picture.apply_orientation(header.orientation);
    write(&picture, profile, turned).map_err(|e| {
        Failure::unavailable("artifact_store_failed", format!("The picture {name} could not be turned upright: {e}."))
    })?;
    Ok(true)
}

/// Refuses what is too large to be read.
fn fits(name: &str, pixels: u64, header: Header) -> Result<(), Failure> {
    if header.pixels() > pixels {
        return Err(Failure::denied(
            "too_large",
            format!(
                "The picture {name} has {}x{} pixels: more than the {} million that a picture may have \
                 (`media.megapixels`).",
                header.width,
                header.height,
                pixels / 1_000_000
            ),
        ));
    }
    match header.too_long() {
        Some(why) => Err(Failure::denied("too_large", format!("The picture {name} {why}."))),
        None => Ok(()),
    }
}

/// What the decoders do not notice: a JPEG that ends in the middle is filled up with grey, and of an animation only the
/// first frame was looked at. True: it has several frames.
fn complete(
    path: &Path,
    name: &str,
    format: Option<ImageFormat>,
    tools: &Tools,
    stop: &AtomicBool,
) -> Result<bool, Failure> {
    let cannot = |e: std::io::Error| unreadable(name, &e.to_string());
    let open = || File::open(path).map(BufReader::new).map_err(cannot);
    let wrong = |e| broken(name, tools, e);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(tools.memory);
    let frames = match format {
        Some(ImageFormat::Jpeg) => {
            let whole = whole::jpeg_ends(path).map_err(cannot)?;
            return if whole { Ok(false) } else { Err(unreadable(name, "it ends before its last line")) };
        }
        Some(ImageFormat::Gif) => {
            let mut decoder = GifDecoder::new(open()?).map_err(wrong)?;
            decoder.set_limits(limits).map_err(wrong)?;
            decoder.into_frames()
        }
        Some(ImageFormat::WebP) => {
            let decoder = WebPDecoder::new(open()?).map_err(wrong)?;
            if !decoder.has_animation() {
                return Ok(false);
            }
            decoder.into_frames()
        }
        Some(ImageFormat::Png) => {
            let decoder = PngDecoder::with_limits(open()?, limits).map_err(wrong)?;
            if !decoder.is_apng().map_err(wrong)? {
                return Ok(false);
            }
            decoder.apng().map_err(wrong)?.into_frames()
        }
        _ => return Ok(false),
    };
    let mut count: u64 = 0;
    for frame in frames {
        match frame {
            // Animations of more than 8 bits a channel: whoever works with them has a decoder for that.
            Err(ImageError::Unsupported(_)) => return Ok(true),
            frame => drop(frame.map_err(wrong)?),
        }
        count += 1;
        if count > tools.frames {
            let most = tools.frames;
            let message = format!("The picture {name} has more than the {most} frames that `media.frames` allows.");
            return Err(Failure::denied("too_large", message));
        }
        if stop.load(Ordering::Relaxed) {
            // Nobody waits for this any more.
            return Err(Failure::denied("media_too_slow", format!("Decoding the picture {name} was broken off.")));
        }
    }
    Ok(count > 1)
}

fn write(picture: &DynamicImage, profile: Option<Vec<u8>>, to: &Path) -> Result<(), ImageError> {
    let mut file = BufWriter::new(File::create(to)?);
    let mut encoder = PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Adaptive);
    if let Some(profile) = profile {
        // A profile that PNG cannot hold is left out; the pixels are the same.
        let _ = encoder.set_icc_profile(profile);
    }
    match picture {
        // PNG knows no floating point: 16 bits are the most it can hold.
        DynamicImage::ImageRgb32F(_) => DynamicImage::from(picture.to_rgb16()).write_with_encoder(encoder)?,
        DynamicImage::ImageRgba32F(_) => DynamicImage::from(picture.to_rgba16()).write_with_encoder(encoder)?,
        _ => picture.write_with_encoder(encoder)?,
    }
    file.flush()?;
    Ok(())
}

fn broken(name: &str, tools: &Tools, error: ImageError) -> Failure {
    match error {
        ImageError::Limits(_) => {
            let most = tools.memory >> 20;
            let message = format!("The picture {name} needs more than the {most} MB that `media.memory_mb` allows.");
            Failure::denied("too_large", message)
        }
        error => unreadable(name, &error.to_string()),
    }
}

pub(super) fn unreadable(name: &str, why: &str) -> Failure {
    Failure::invalid(
        "truncated",
        format!("The picture {name} is cut off or broken: {}. Send it again, whole.", why.trim_end_matches('.')),
    )
}
