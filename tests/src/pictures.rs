//! Pictures as people have them.

use std::io::BufWriter;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};

/// One colour.
pub fn solid(width: u32, height: u32, rgb: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(rgb))
}

/// A disc on nothing.
pub fn with_alpha(width: u32, height: u32) -> RgbaImage {
    let (cx, cy) = (width / 2, height / 2);
    RgbaImage::from_fn(width, height, |x, y| {
        let inside = x.abs_diff(cx).pow(2) + y.abs_diff(cy).pow(2) < (width.min(height) / 3).pow(2);
        Rgba([220, 180, 40, if inside { 255 } else { 0 }])
    })
}

/// A JPEG whose EXIF data says how to turn it (1 to 8).
pub fn jpeg_with_orientation(picture: &RgbImage, orientation: u8, path: &Path) {
    // A TIFF header and one entry: tag 0x0112, type SHORT, one value.
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend_from_slice(&[orientation, 0, 0, 0, 0, 0, 0, 0]);
    let file = BufWriter::new(std::fs::File::create(path).expect("a file"));
    let mut encoder = JpegEncoder::new_with_quality(file, 95);
    encoder.set_exif_metadata(exif).expect("EXIF data");
    encoder
        .write_image(picture.as_raw(), picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
        .expect("a JPEG");
}
