//! Binary frames: their first bytes are recorded, the rest is made up at the recorded length, with a picture that is one.

use std::io::Cursor;

use serde_json::Value;

use super::recording::Binary;

/// Longest frame that is made up, in bytes.
const MOST: usize = 16 << 20;

/// A frame as it was sent, with this metadata where it carries any. A client that did not ask for metadata gets the
/// picture alone.
pub fn binary(recorded: &Binary, metadata: Option<&Value>, asked_for_metadata: bool) -> Vec<u8> {
    let length = recorded.length.min(MOST);
    match (recorded.event, metadata) {
        (4, Some(metadata)) if asked_for_metadata => {
            let text = metadata.to_string();
            let mut frame = 4u32.to_be_bytes().to_vec();
            frame.extend(u32::try_from(text.len()).unwrap_or_default().to_be_bytes());
            frame.extend(text.as_bytes());
            with_picture(frame, &recorded.image_head, length)
        }
        (4, Some(metadata)) => {
            let kind: u32 = if metadata["image_type"] == "image/png" { 2 } else { 1 };
            let mut frame = 1u32.to_be_bytes().to_vec();
            frame.extend(kind.to_be_bytes());
            let length = length.saturating_sub(metadata.to_string().len());
            with_picture(frame, &recorded.image_head, length)
        }
        (1, _) => with_picture(recorded.head.iter().copied().take(8).collect(), &recorded.image_head, length),
        _ => {
            let mut frame = recorded.head.clone();
            frame.resize(length.max(frame.len()), b' ');
            frame
        }
    }
}

fn with_picture(mut frame: Vec<u8>, head: &[u8], length: usize) -> Vec<u8> {
    let format = if head.starts_with(b"\x89PNG") { image::ImageFormat::Png } else { image::ImageFormat::Jpeg };
    let mut picture = Cursor::new(Vec::new());
    // A picture of one colour always encodes.
    image::RgbImage::from_pixel(16, 12, image::Rgb([90, 120, 150])).write_to(&mut picture, format).ok();
    frame.extend(picture.into_inner());
    frame.resize(length.max(frame.len()), 0);
    frame
}
