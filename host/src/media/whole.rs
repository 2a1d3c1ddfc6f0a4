//! Whether a file is as long as it says. Containers write down how far they reach, and ffmpeg plays what is there without
//! a word about the rest; of a JPEG it paints what is there.

use std::path::Path;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Parts of an MP4 beyond this are not looked at: fragments are small and many, and end where the next begins.
const MOST_PARTS: usize = 4096;

/// How much of the beginning of a Matroska file holds its two outermost headers.
const HEADERS: usize = 256;

/// Whether a JPEG goes on to its end marker. Reads it whole: how long it may be is for the caller to check.
pub(super) async fn jpeg_ends(path: &Path) -> std::io::Result<bool> {
    Ok(jpeg_end(&tokio::fs::read(path).await?).is_some())
}

/// How many bytes of a video are missing at its end; none: it is whole, or its container does not say.
pub(super) async fn missing(path: &Path) -> std::io::Result<Option<u64>> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let mut head = Vec::new();
    (&mut file).take(HEADERS as u64).read_to_end(&mut head).await?;
    let end = match head.as_slice() {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => mp4_end(&mut file, length).await?,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska_end(&head),
        [b'R', b'I', b'F', b'F', size @ ..] => riff_end(size),
        _ => None,
    };
    Ok(end.and_then(|end| end.checked_sub(length)).filter(|missing| *missing > 0))
}

/// MP4 and MOV: boxes one after the other, each with its size.
async fn mp4_end(file: &mut File, length: u64) -> std::io::Result<Option<u64>> {
    let mut at = 0;
    for _ in 0..MOST_PARTS {
        if at >= length {
            break;
        }
        file.seek(std::io::SeekFrom::Start(at)).await?;
        let mut head = Vec::new();
        (&mut *file).take(16).read_to_end(&mut head).await?;
        let size = match *head.as_slice() {
            // A 64-bit size follows the name.
            [0, 0, 0, 1, _, _, _, _, a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            // To the end of the file.
            [0, 0, 0, 0, ..] => return Ok(None),
            [a, b, c, d, _, _, _, _, ..] => u64::from(u32::from_be_bytes([a, b, c, d])),
            // Not even a header: padding, or a cut inside it.
            _ => return Ok(Some(at + 8)),
        };
        if size < 8 {
            return Ok(None);
        }
        at = at.saturating_add(size);
    }
    Ok(Some(at))
}

/// Matroska and WebM: one header element, then one segment that holds everything.
fn matroska_end(head: &[u8]) -> Option<u64> {
    let (header_size, header_at) = element_size(head, 4)?;
    let segment = header_at.checked_add(usize::try_from(header_size?).ok()?)?;
    if head.get(segment..segment.checked_add(4)?)? != [0x18, 0x53, 0x80, 0x67] {
        return None;
    }
    let (segment_size, segment_at) = element_size(head, segment + 4)?;
    // Live streams leave the size open.
    Some(segment_size?.saturating_add(segment_at as u64))
}

/// The size of an element and where its content begins. The number of leading zero bits is the number of further bytes;
/// all ones: unknown.
fn element_size(head: &[u8], at: usize) -> Option<(Option<u64>, usize)> {
    let first = *head.get(at)?;
    let width = first.leading_zeros() as usize + 1;
    let bytes = head.get(at..at + width)?;
    let bits = bytes.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let ones = (1u64 << (7 * width).min(63)) - 1;
    let size = bits & ones;
    Some(((size != ones).then_some(size), at + width))
}

/// AVI and WAV: one chunk around everything. Streams leave the size at its least or greatest; that it does not count its
/// own eight bytes is a rule that writers break, so they are not asked for.
fn riff_end(size: &[u8]) -> Option<u64> {
    let size = u32::from_le_bytes(size.get(..4)?.try_into().ok()?);
    (size != 0 && size < 0xffff_ff00).then_some(u64::from(size))
}

/// Where the end marker stands: behind segments with their lengths and scans in which 0xff is followed by 0 or by a restart
/// marker. What follows it (thumbnails, whole videos) is nobody's concern.
fn jpeg_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // In a scan, or in sloppy padding between segments: on to the next marker.
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xff)?;
        match *bytes.get(at + 1)? {
            0xd9 => return Some(at + 2),
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let &[high, low] = bytes.get(at + 2..at + 4)? else { return None };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn missing_of(bytes: &[u8]) -> Option<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        missing(file.path()).await.unwrap()
    }

    #[tokio::test]
    async fn boxes_that_reach_beyond_the_end_are_seen() {
        let whole = [&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\x0amdat12"].concat();
        assert_eq!(missing_of(&whole).await, None);
        assert_eq!(missing_of(&whole[..whole.len() - 1]).await, Some(1));
        assert_eq!(missing_of(&[&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\0mdat1"].concat()).await, None, "open end");
        let wide = [&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x64"].concat();
        assert_eq!(missing_of(&wide).await, Some(84));
    }

    #[test]
    fn a_jpeg_ends_at_its_own_marker_and_not_at_that_of_its_thumbnail() {
        let whole = b"\xff\xd8\xff\xe1\x00\x06\xff\xd9ab\xff\xda\x00\x03xdata\xff\x00\xff\xd1data\xff\xd9";
        assert_eq!(jpeg_end(whole), Some(whole.len()));
        assert_eq!(jpeg_end(&[&whole[..], b"more\xff\xda"].concat()), Some(whole.len()));
        for cut in 0..whole.len() {
            assert_eq!(jpeg_end(&whole[..cut]), None, "{cut}");
        }
    }

    #[tokio::test]
    async fn segments_that_reach_beyond_the_end_are_seen() {
        let head = b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67";
        assert_eq!(missing_of(&[&head[..], b"\x84four"].concat()).await, None);
        assert_eq!(missing_of(&[&head[..], b"\x01\0\0\0\0\0\0\x04fo"].concat()).await, Some(2));
        assert_eq!(missing_of(&[&head[..], b"\xffopen"].concat()).await, None);
        assert_eq!(missing_of(b"neither").await, None);
    }
}
