//! The header of a picture, read without reading the picture. A file may go on behind its picture for as long as it likes,
//! and decoders of JPEG take in all of it before they say a word: so the size is looked up first, in the beginning alone.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{ImageDecoder as _, ImageFormat, ImageReader, ImageResult};

/// How much of an AVIF file is looked at for what describes its pictures.
const AVIF_HEAD_BYTES: u64 = 1 << 20;

/// What a pixel takes at most, in no matter which format: four values of 16 bits.
const PIXEL_BYTES: u64 = 8;

/// What stands in front of the pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    /// In pixels, as stored.
    pub width: u32,
    pub height: u32,
    /// How the picture is to be turned; upright where there is no readable note.
    pub orientation: Orientation,
    pub has_alpha: bool,
    /// Length of the file.
    bytes: u64,
    /// What may stand around the pixels: colour profiles, previews, the short film of a phone. In bytes.
    extra: u64,
}

impl Header {
    /// Reads it; blocks. `extra`: what may stand around the pixels, in bytes.
    pub fn read(path: &Path, extra: u64) -> ImageResult<Self> {
        let format = ImageReader::open(path)?.with_guessed_format()?.format();
        // The other decoders read on their own account no more than they need.
        let reach = if format == Some(ImageFormat::Jpeg) { extra } else { u64::MAX };
        let beginning = BufReader::new(File::open(path)?.take(reach));
        let mut decoder = ImageReader::new(beginning).with_guessed_format()?.into_decoder()?;
        let (width, height) = decoder.dimensions();
        let has_alpha = decoder.color_type().has_alpha();
        let bytes = std::fs::metadata(path)?.len();
        let mut header = Self { width, height, orientation: Orientation::NoTransforms, has_alpha, bytes, extra };
        // Notes are read whole, and may be what makes the file too long.
        if bytes <= header.most_bytes() {
            header.orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        }
        Ok(header)
    }

    /// Pixels of the picture.
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The longest file, in bytes, that is still taken for a picture of this size.
    fn most_bytes(&self) -> u64 {
        self.pixels().saturating_mul(PIXEL_BYTES).saturating_add(self.extra)
    }

    /// Why the file is too long for such a picture, as the end of a sentence; none: it is not.
    pub fn too_long(&self) -> Option<String> {
        let most = self.most_bytes();
        (self.bytes > most).then(|| {
            format!(
                "has {}x{} pixels but {} MB, more than the {} MB that such a picture may take (the setting \
                 `media.picture_extra_mb` and its pixels): save it again without what follows the picture",
                self.width,
                self.height,
                self.bytes.div_ceil(1 << 20),
                most >> 20
            )
        })
    }
}

/// What an AVIF picture asks for that ffmpeg does not do: it would show it wrong without a word. As the end of a sentence;
/// none: it is a plain picture.
pub(super) fn beyond_avif(path: &Path) -> std::io::Result<Option<&'static str>> {
    let mut beginning = Vec::new();
    File::open(path)?.take(AVIF_HEAD_BYTES).read_to_end(&mut beginning)?;
    // What describes the pictures comes before their data.
    let end = beginning.windows(4).position(|name| name == b"mdat").unwrap_or(beginning.len());
    let described = beginning.get(..end).unwrap_or_default();
    let has = |name: &[u8]| described.windows(name.len()).any(|window| window == name);
    Ok(if has(b"auxC") {
        Some("AVIF pictures with transparency are not supported: save it as PNG")
    } else if has(b"grid") || has(b"iovl") {
        Some("AVIF pictures that are put together from parts are not supported: save it as JPEG or PNG")
    } else if has(b"irot") || has(b"imir") || has(b"clap") {
        Some("AVIF pictures that are to be turned or cropped are not supported: save it as JPEG or PNG")
    } else {
        None
    })
}
