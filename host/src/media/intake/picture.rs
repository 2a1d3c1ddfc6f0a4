//! Pictures at the door: decoded in full, so that a broken one never reaches a task, and turned upright, because engines
//! look at pixels alone and not at what a camera noted about how it was held.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use image::codecs::gif::GifDecoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageEncoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::media::header::Header;
use crate::task::Failure;

/// Working space that a decoder may use besides the pixels.
const WORKING_BYTES: u64 = 256 << 20;

/// Whether a media type is one that is decoded here.
pub(super) fn is_picture(media_type: &str) -> bool {
    matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp" | "image/bmp" | "image/tiff")
}

/// Decodes a picture. One that is not upright is written upright to `turned`, without loss, as PNG; true says so. Codes:
/// `truncated` (cut off or broken), `too_large` (more than so many pixels, or far more bytes than its pixels can take).
pub(super) fn checked(path: &Path, name: &str, pixels: u64, turned: &Path) -> Result<bool, Failure> {
    // Before anything reads the file whole.
    let header = Header::read(path).map_err(|e| broken(name, e))?;
    fits(name, pixels, header)?;

    let file = File::open(path).map_err(|e| unreadable(name, &e.to_string()))?;
    let mut reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| unreadable(name, &e.to_string()))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(pixels.saturating_mul(8).saturating_add(WORKING_BYTES));
    reader.limits(limits);
    let format = reader.format();

    let mut decoder = reader.into_decoder().map_err(|e| broken(name, e))?;
    let profile = decoder.icc_profile().ok().flatten();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| broken(name, e))?;
    complete(path, name, format)?;

    if header.orientation == Orientation::NoTransforms {
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

/// What the decoders do not notice: a JPEG that ends in the middle is filled up with grey, and of a moving GIF only the
/// first picture was looked at.
fn complete(path: &Path, name: &str, format: Option<ImageFormat>) -> Result<(), Failure> {
    let open = || File::open(path).map(BufReader::new).map_err(|e| unreadable(name, &e.to_string()));
    match format {
        Some(ImageFormat::Jpeg) => {
            let bytes = std::fs::read(path).map_err(|e| unreadable(name, &e.to_string()))?;
            if jpeg_ends(&bytes) { Ok(()) } else { Err(unreadable(name, "it ends before its last line")) }
        }
        Some(ImageFormat::Gif) => {
            let mut decoder = GifDecoder::new(open()?).map_err(|e| broken(name, e))?;
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(u64::from(u32::MAX));
            decoder.set_limits(limits).map_err(|e| broken(name, e))?;
            decoder.into_frames().try_for_each(|frame| frame.map(drop)).map_err(|e| broken(name, e))
        }
        _ => Ok(()),
    }
}

/// Whether a JPEG has its end marker. Marker segments are skipped by their length, for a preview inside of one has an end
/// of its own.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(rest) = bytes.get(at..) {
        at += match rest {
            // Standing alone: stuffing, restart markers, a fill byte.
            [0xff, 0x00 | 0x01 | 0xd0..=0xd8, ..] => 2,
            [0xff, 0xff, ..] => 1,
            [0xff, 0xd9, ..] => return true,
            [0xff, _, high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            [0xff, ..] | [] => return false,
            // Picture data up to the next marker.
            _ => rest.iter().position(|byte| *byte == 0xff).unwrap_or(rest.len()),
        };
    }
    false
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

fn broken(name: &str, error: ImageError) -> Failure {
    match error {
        ImageError::Limits(_) => {
            Failure::denied("too_large", format!("The picture {name} needs more memory than a picture may have."))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_jpeg_is_the_one_outside_of_its_segments() {
        let preview = [0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        let data = [0xff, 0xda, 0, 3, 1, 7, 7, 0xff, 0, 7, 0xff, 0xd0, 7];
        let mut jpeg = [preview.as_slice(), &data].concat();
        assert!(!jpeg_ends(&jpeg));
        jpeg.extend([0xff, 0xff, 0xd9]);
        assert!(jpeg_ends(&jpeg));
        jpeg.extend(b"trailing film of a phone");
        assert!(jpeg_ends(&jpeg));
        assert!(!jpeg_ends(&jpeg[..9]) && !jpeg_ends(&[]) && !jpeg_ends(&[0xff, 0xd8, 0xff]));
    }
}
