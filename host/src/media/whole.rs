//! Whether a file is as long as it says. Containers write down how far they reach, and ffmpeg plays what is there without
//! a word about the rest; of a JPEG it paints what is there. Where a container notes nothing (raw streams, MPEG program
//! streams), nothing is known. Everything here blocks.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// Parts of a file beyond this are not looked at: fragments are small and many, and end where the next begins.
const MOST_PARTS: usize = 1_000_000;

/// How much of the beginning holds the outermost headers.
const HEADERS: usize = 4096;

/// An Ogg page is no longer than this, in bytes.
const OGG_PAGE: u64 = 27 + 255 + 255 * 255;

/// In an ASF file: what comes before the length of the file. Its identifier, its size, and the identifier of the file.
const ASF_FILE: [u8; 16] =
    [0xa1, 0xdc, 0xab, 0x8c, 0x47, 0xa9, 0xcf, 0x11, 0x8e, 0xe4, 0, 0xc0, 0x0c, 0x20, 0x53, 0x65];

/// What the pack that begins an MXF file is known by, whatever the last bytes of its name.
const MXF_HEADER: [u8; 14] = [0x06, 0x0e, 0x2b, 0x34, 0x02, 0x05, 0x01, 0x01, 0x0d, 0x01, 0x02, 0x01, 0x01, 0x02];

/// What is missing at the end of a file, as the end of a sentence; none: it is whole, or says nothing about its length.
pub(super) fn cut_off(path: &Path) -> std::io::Result<Option<String>> {
    let mut file = BufReader::new(File::open(path)?);
    let length = file.get_ref().metadata()?.len();
    let mut head = Vec::new();
    (&mut file).take(HEADERS as u64).read_to_end(&mut head)?;
    let end = match end(&mut file, &head, length) {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => End::Missing,
        end => end?,
    };
    Ok(match end {
        End::At(end) if end > length => Some(format!("it is cut off: {} bytes are missing at its end", end - length)),
        End::Missing => Some("it is cut off: its end is missing".to_string()),
        End::At(_) | End::Unknown => None,
    })
}

/// Whether a JPEG goes on to its end marker. Reads it whole: how long it may be is for the caller to check.
pub(super) fn jpeg_ends(path: &Path) -> std::io::Result<bool> {
    Ok(jpeg_end(&std::fs::read(path)?).is_some())
}

/// Where a file ends that is whole.
#[derive(Debug, PartialEq)]
enum End {
    /// At so many bytes or beyond.
    At(u64),
    /// Somewhere beyond what there is.
    Missing,
    /// The file says nothing.
    Unknown,
}

/// Running into the end of the file is an error of kind `UnexpectedEof`, and an end that is missing.
fn end(file: &mut BufReader<File>, head: &[u8], length: u64) -> std::io::Result<End> {
    Ok(match head {
        [_, _, _, _, b'f', b't', b'y', b'p', ..]
        | [_, _, _, _, b'm', b'o', b'o', b'v', ..]
        | [_, _, _, _, b'm', b'd', b'a', b't', ..]
        | [_, _, _, _, b'w', b'i', b'd', b'e', ..] => mp4_end(file, length)?,
        [0x1a, 0x45, 0xdf, 0xa3, ..] => matroska_end(head).map_or(End::Unknown, End::At),
        [b'R', b'I', b'F', b'F', rest @ ..] => riff_end(rest).map_or(End::Unknown, End::At),
        [b'G', b'I', b'F', b'8', ..] => gif_end(file)?,
        [0x89, b'P', b'N', b'G', ..] => png_end(file)?,
        [b'F', b'L', b'V', 1, ..] => flv_end(file, length)?,
        [b'O', b'g', b'g', b'S', ..] => ogg_end(file, length)?,
        [b'D', b'K', b'I', b'F', ..] => ivf_end(file, length)?,
        _ if head.starts_with(&MXF_HEADER) => mxf_end(file, head, length)?,
        _ if head.starts_with(&[0x30, 0x26, 0xb2, 0x75]) => asf_end(head).map_or(End::Unknown, End::At),
        _ => transport_end(head, length).map_or(End::Unknown, End::At),
    })
}

fn bytes<const N: usize>(file: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn skip(file: &mut BufReader<File>, bytes: u64) -> std::io::Result<()> {
    file.seek_relative(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// MP4, MOV, AVIF: boxes one after the other, each with its size.
fn mp4_end(file: &mut BufReader<File>, length: u64) -> std::io::Result<End> {
    let mut at = 0;
    for _ in 0..MOST_PARTS {
        if at >= length {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut head = Vec::new();
        file.take(16).read_to_end(&mut head)?;
        let size = match *head.as_slice() {
            // A 64-bit size follows the name.
            [0, 0, 0, 1, _, _, _, _, a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            // To the end of the file.
            [0, 0, 0, 0, ..] => return Ok(End::Unknown),
            [a, b, c, d, _, _, _, _, ..] => u64::from(u32::from_be_bytes([a, b, c, d])),
            // Not even a header: padding, or a cut inside it.
            _ => return Ok(End::At(at + 8)),
        };
        if size < 8 {
            return Ok(End::Unknown);
        }
        at = at.saturating_add(size);
    }
    Ok(End::At(at))
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

/// AVI, WAV and WebP: one chunk around everything. Streams leave the size at its least or greatest; that it does not count
/// its own eight bytes is a rule that writers of sound and video break, so they are not asked for.
fn riff_end(rest: &[u8]) -> Option<u64> {
    let size = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
    let own = if rest.get(4..8) == Some(b"WEBP") { 8 } else { 0 };
    (size != 0 && size < 0xffff_ff00).then_some(u64::from(size) + own)
}

/// Blocks up to the trailer. What is in them is for the decoder.
fn gif_end(file: &mut BufReader<File>) -> std::io::Result<End> {
    file.seek(SeekFrom::Start(6))?;
    let [_, _, _, _, flags, _, _] = bytes(file)?;
    skip(file, colours(flags))?;
    loop {
        match bytes(file)? {
            [0x3b] => return Ok(End::At(0)),
            // An extension: its kind, then its content.
            [0x21] => skip(file, 1)?,
            // A frame: where it stands, its colours, the size of its codes, then its content.
            [0x2c] => {
                let [.., flags] = bytes::<9>(file)?;
                skip(file, colours(flags) + 1)?;
            }
            // Padding that some writers leave.
            [0] => continue,
            _ => return Ok(End::Unknown),
        }
        loop {
            let [size] = bytes(file)?;
            if size == 0 {
                break;
            }
            skip(file, size.into())?;
        }
    }
}

/// Bytes of the colour table that a GIF's flags announce.
fn colours(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Chunks up to the one that ends them.
fn png_end(file: &mut BufReader<File>) -> std::io::Result<End> {
    file.seek(SeekFrom::Start(8))?;
    for _ in 0..MOST_PARTS {
        let [a, b, c, d, name @ ..] = bytes::<8>(file)?;
        skip(file, u64::from(u32::from_be_bytes([a, b, c, d])))?;
        let _checksum = bytes::<4>(file)?;
        if &name == b"IEND" {
            return Ok(End::At(0));
        }
    }
    Ok(End::Unknown)
}

/// Behind every tag stands how long it was.
fn flv_end(file: &mut BufReader<File>, length: u64) -> std::io::Result<End> {
    let Some(last) = length.checked_sub(4).filter(|last| *last > 13) else { return Ok(End::Missing) };
    file.seek(SeekFrom::Start(last))?;
    let size = u64::from(u32::from_be_bytes(bytes(file)?));
    let Some(tag) = last.checked_sub(size).filter(|_| size >= 11) else { return Ok(End::Missing) };
    file.seek(SeekFrom::Start(tag))?;
    let [kind, a, b, c] = bytes(file)?;
    let is_tag = matches!(kind & 0x1f, 8 | 9 | 18) && u64::from(u32::from_be_bytes([0, a, b, c])) + 11 == size;
    Ok(if is_tag { End::At(0) } else { End::Missing })
}

/// The last page names the lengths of its parts.
fn ogg_end(file: &mut BufReader<File>, length: u64) -> std::io::Result<End> {
    let from = length.saturating_sub(OGG_PAGE);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let Some(at) = tail.windows(4).rposition(|mark| mark == b"OggS") else { return Ok(End::Unknown) };
    let page = tail.get(at..).unwrap_or_default();
    let Some(count) = page.get(26) else { return Ok(End::Missing) };
    let Some(parts) = page.get(27..27 + usize::from(*count)) else { return Ok(End::Missing) };
    let size = 27 + parts.len() as u64 + parts.iter().map(|part| u64::from(*part)).sum::<u64>();
    Ok(End::At(from + at as u64 + size))
}

/// A header, then frames, each with its size in front.
fn ivf_end(file: &mut BufReader<File>, length: u64) -> std::io::Result<End> {
    file.seek(SeekFrom::Start(32))?;
    let mut at = 32;
    for _ in 0..MOST_PARTS {
        if at >= length {
            break;
        }
        let [a, b, c, d, ..] = bytes::<12>(file)?;
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        skip(file, size)?;
        at += 12 + size;
    }
    Ok(End::At(at))
}

/// The header says where the footer begins; from there on it is parts with names and lengths.
fn mxf_end(file: &mut BufReader<File>, head: &[u8], length: u64) -> std::io::Result<End> {
    let footer = || {
        // The length of the pack follows its name; its first bit says that it takes several bytes itself.
        let first = *head.get(16)?;
        let pack = if first & 0x80 == 0 { 17 } else { 17 + usize::from(first & 0x7f) };
        let footer = u64::from_be_bytes(head.get(pack + 24..pack + 32)?.try_into().ok()?);
        (footer > 0).then_some(footer)
    };
    let Some(mut at) = footer() else { return Ok(End::Unknown) };
    if at >= length {
        return Ok(End::Missing);
    }
    for _ in 0..MOST_PARTS {
        if at >= length {
            break;
        }
        file.seek(SeekFrom::Start(at + 16))?;
        let [first] = bytes(file)?;
        let (size, own) = if first & 0x80 == 0 {
            (u64::from(first), 17)
        } else {
            let mut size = 0;
            for _ in 0..first & 0x7f {
                let [byte] = bytes(file)?;
                size = size << 8 | u64::from(byte);
            }
            (size, 17 + u64::from(first & 0x7f))
        };
        at = at.saturating_add(own).saturating_add(size);
    }
    Ok(End::At(at))
}

/// The header notes the length of the file, unless it is broadcast.
fn asf_end(head: &[u8]) -> Option<u64> {
    let at = head.windows(ASF_FILE.len()).position(|id| id == ASF_FILE)?;
    let size = u64::from_le_bytes(head.get(at + 40..at + 48)?.try_into().ok()?);
    let is_broadcast = head.get(at + 88)? & 1 == 1;
    (size > 0 && !is_broadcast).then_some(size)
}

/// MPEG-TS, with or without what players and discs put around its packets: whole packets alone.
fn transport_end(head: &[u8], length: u64) -> Option<u64> {
    let synced = |first: usize, size: usize| (0..4).all(|i| head.get(first + i * size) == Some(&0x47));
    let (_, size) = [(0, 188), (4, 192), (0, 204)].into_iter().find(|(first, size)| synced(*first, *size))?;
    Some(length.next_multiple_of(size as u64))
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

    fn missing(bytes: &[u8]) -> Option<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        cut_off(file.path()).unwrap()
    }

    fn is_cut_everywhere(whole: &[u8], from: usize) {
        assert_eq!(missing(whole), None);
        for cut in from..whole.len() {
            assert!(missing(&whole[..cut]).is_some(), "{cut} of {}", whole.len());
        }
    }

    #[test]
    fn boxes_that_reach_beyond_the_end_are_seen() {
        let whole = [&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\x0amdat12"].concat();
        assert_eq!(missing(&whole), None);
        assert!(missing(&whole[..whole.len() - 1]).unwrap().contains(" 1 bytes"));
        assert_eq!(missing(&[&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\0mdat1"].concat()), None, "open end");
        let wide = [&b"\0\0\0\x0cftypisom"[..], b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x64"].concat();
        assert!(missing(&wide).unwrap().contains(" 84 bytes"));
    }

    #[test]
    fn a_jpeg_ends_at_its_own_marker_and_not_at_that_of_its_thumbnail() {
        let whole = b"\xff\xd8\xff\xe1\x00\x06\xff\xd9ab\xff\xda\x00\x03xdata\xff\x00\xff\xd1data\xff\xff\xd9";
        assert_eq!(jpeg_end(whole), Some(whole.len()));
        assert_eq!(jpeg_end(&[&whole[..], b"more\xff\xda"].concat()), Some(whole.len()));
        for cut in 0..whole.len() {
            assert_eq!(jpeg_end(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn segments_that_reach_beyond_the_end_are_seen() {
        let head = b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67";
        assert_eq!(missing(&[&head[..], b"\x84four"].concat()), None);
        assert!(missing(&[&head[..], b"\x01\0\0\0\0\0\0\x04fo"].concat()).unwrap().contains(" 2 bytes"));
        assert_eq!(missing(&[&head[..], b"\xffopen"].concat()), None);
        assert_eq!(missing(b"neither"), None);
    }

    #[test]
    fn animations_go_on_to_their_end_marks() {
        let gif = b"GIF89a\x01\0\x01\0\x80\0\0rgbRGB!\xf9\x04abcd\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
        is_cut_everywhere(gif, 4);
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x02IDATabsums\0\0\0\0IENDsums";
        is_cut_everywhere(png, 4);
    }

    #[test]
    fn tags_pages_and_packets_are_whole() {
        let flv = b"FLV\x01\x05\0\0\0\x09\0\0\0\0\x09\0\0\x03\0\0\0\0\0\0\0abc\0\0\0\x0e";
        is_cut_everywhere(flv, 4);
        let page = b"OggS\0\x04granule_serlseq_csum\x02\x02\x01abc";
        assert_eq!(page.get(26), Some(&2));
        is_cut_everywhere(page, 4);
        let mut packets = vec![0; 188 * 5];
        packets.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
        assert_eq!(missing(&packets), None);
        assert!(missing(&packets[..188 * 5 - 10]).unwrap().contains(" 10 bytes"));
    }
}
