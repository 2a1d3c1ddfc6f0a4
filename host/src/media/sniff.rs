//! What a file is by its first bytes, where that decides how it is opened: ffmpeg guesses pictures by file name, and
//! takes a name with `%` for a pattern over many files. What nobody here can read is named for what it is.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::task::Failure;

/// How much of the beginning is looked at.
const HEAD_BYTES: u64 = 4096;

/// Parts of a PNG in front of its pixels: beyond so many nobody looks for the mark of an animation.
const MOST_CHUNKS: usize = 256;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    Png,
    /// PNG with several frames.
    Apng,
    Jpeg,
    Webp,
    /// WebP with several frames.
    AnimatedWebp,
    Bmp,
    Tiff,
    Gif,
    /// AV1 still picture.
    Avif,
    /// A container, by the name of its demuxer.
    Container(&'static str),
    /// Not one of these: a container for ffmpeg to recognise.
    Other,
}

/// Containers whose beginning says so: where it starts, how it reads, and which demuxer reads it.
const CONTAINERS: [(usize, &[u8], &str); 10] = [
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
];

impl Signature {
    /// Reads the beginning of a file. Code `unreadable_media`, naming what it is, for kinds that are never read.
    pub async fn of(path: &Path) -> Result<Self, Failure> {
        let cannot = |e: std::io::Error| {
            Failure::invalid("unreadable_media", format!("the media file cannot be opened: {e}"))
                .with_detail(path.display().to_string())
        };
        let mut file = tokio::fs::File::open(path).await.map_err(cannot)?;
        let mut head = Vec::new();
        (&mut file).take(HEAD_BYTES).read_to_end(&mut head).await.map_err(cannot)?;
        let signature = Self::of_bytes(&head);
        if !signature.is_picture()
            && let Some(kind) = foreign(&head)
        {
            return Err(super::probe::unreadable(kind));
        }
        if signature == Signature::Png && animated_png(&mut file).await.map_err(cannot)? {
            return Ok(Signature::Apng);
        }
        Ok(signature)
    }

    fn of_bytes(head: &[u8]) -> Self {
        let at = |offset: usize, mark: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(mark));
        if at(0, b"\x89PNG\r\n\x1a\n") {
            Signature::Png
        } else if at(0, b"\xff\xd8\xff") {
            Signature::Jpeg
        } else if at(0, b"RIFF") && at(8, b"WEBP") {
            if at(12, b"VP8X") && head.get(20).is_some_and(|flags| flags & 0x02 != 0) {
                Signature::AnimatedWebp
            } else {
                Signature::Webp
            }
        } else if at(0, b"GIF8") {
            Signature::Gif
        } else if at(0, b"BM") && at(6, &[0; 4]) {
            Signature::Bmp
        } else if at(0, b"II*\0") || at(0, b"MM\0*") {
            Signature::Tiff
        } else if at(4, b"ftypavif") {
            Signature::Avif
        } else {
            let known = CONTAINERS.iter().find(|(offset, mark, _)| at(*offset, mark));
            known.map_or(Signature::Other, |(_, _, demuxer)| Signature::Container(demuxer))
        }
    }

    /// ffmpeg's demuxer for it; none: it chooses among its containers.
    pub fn demuxer(self) -> Option<&'static str> {
        match self {
            Signature::Png => Some("png_pipe"),
            Signature::Apng => Some("apng"),
            Signature::Jpeg => Some("jpeg_pipe"),
            Signature::Webp | Signature::AnimatedWebp => Some("webp_pipe"),
            Signature::Bmp => Some("bmp_pipe"),
            Signature::Tiff => Some("tiff_pipe"),
            Signature::Gif => Some("gif"),
            Signature::Avif => Some("mov"),
            Signature::Container(demuxer) => Some(demuxer),
            Signature::Other => None,
        }
    }

    /// Held in no container: a still or an animation.
    pub fn is_picture(self) -> bool {
        !matches!(self, Signature::Container(_) | Signature::Other)
    }

    /// Always one frame.
    pub fn is_still(self) -> bool {
        matches!(
            self,
            Signature::Png | Signature::Jpeg | Signature::Webp | Signature::Bmp | Signature::Tiff | Signature::Avif
        )
    }
}

/// Whether a PNG says that it moves: it does so in front of its pixels, but behind colour profiles of any length.
async fn animated_png(file: &mut tokio::fs::File) -> std::io::Result<bool> {
    let mut at = 8;
    for _ in 0..MOST_CHUNKS {
        file.seek(std::io::SeekFrom::Start(at)).await?;
        let mut head = Vec::new();
        (&mut *file).take(8).read_to_end(&mut head).await?;
        match *head.as_slice() {
            [_, _, _, _, b'a', b'c', b'T', b'L'] => return Ok(true),
            [_, _, _, _, b'I', b'D', b'A', b'T'] => return Ok(false),
            // Twelve bytes stand around the content: length, name and checksum.
            [a, b, c, d, ..] if head.len() == 8 => at += 12 + u64::from(u32::from_be_bytes([a, b, c, d])),
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// What a file is that is neither picture nor video nor sound, or one of a kind that is not read; as the end of a sentence,
/// with what can be done about it.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, mark: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    if head.is_empty() {
        return Some("it is empty");
    }
    if at(4, b"ftyp") {
        return ["heic", "heix", "hevc", "heim", "heis", "mif1", "msf1"]
            .iter()
            .any(|brand| at(8, brand.as_bytes()))
            .then_some("HEIC pictures are not supported: save it as JPEG or PNG");
    }
    for (mark, kind) in [
        (&b"PK\x03\x04"[..], "it is a ZIP archive: unpack it and send what is inside"),
        (b"%PDF-", "it is a PDF document: send its pages as pictures"),
        (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
        (b"\xff\x0a", "JPEG XL pictures are not supported: save it as JPEG or PNG"),
        (b"\0\0\0\x0cJXL ", "JPEG XL pictures are not supported: save it as JPEG or PNG"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000 pictures are not supported: save it as JPEG or PNG"),
        (b"8BPS", "Photoshop files are not supported: save it as PNG"),
        (b"\x7fELF", "it is a program"),
    ] {
        if head.starts_with(mark) {
            return Some(kind);
        }
    }
    let text = text(head)?;
    let start: String = text.trim_start_matches('\u{feff}').trim_start().chars().take(512).collect();
    let start = start.to_ascii_lowercase();
    let has = |mark: &str| start.contains(mark);
    Some(
        if start.starts_with("#extm3u") || start.starts_with("ffconcat") || has("<mpd") || has("<smoothstreamingmedia")
        {
            "it is a playlist, which only names other files: send the video itself"
        } else if has("<svg") {
            "SVG drawings are not supported: save it as PNG"
        } else if start.starts_with("<!doctype html") || has("<html") || has("<head") || has("<body") {
            "it is a web page, perhaps an error message or a page to log in: fetch the file itself and send that"
        } else if start.starts_with(['{', '[']) {
            "it is JSON, perhaps an error message: fetch the file itself and send that"
        } else if start.starts_with("yuv4mpeg2") {
            return None;
        } else {
            "it is a text"
        },
    )
}

/// The bytes as text, when they are some: the end may cut a character in two.
fn text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c');
    (!text.is_empty() && !text.chars().any(odd)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pictures_are_known_by_their_first_bytes() {
        let chunk =
            |name: &[u8], length: u32| [&length.to_be_bytes()[..], name, &vec![7; length as usize], b"sums"].concat();
        let png = |chunks: &[Vec<u8>]| [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat();
        let (header, profile, mark, data) =
            (chunk(b"IHDR", 13), chunk(b"iCCP", 9000), chunk(b"acTL", 8), chunk(b"IDAT", 4));
        for (bytes, signature) in [
            (png(&[header.clone(), data.clone()]), Signature::Png),
            (png(&[header.clone(), data.clone(), mark.clone()]), Signature::Png),
            (png(&[header.clone(), profile, mark, data]), Signature::Apng),
            (png(&[]), Signature::Png),
            (b"RIFF....WEBPVP8X\n\0\0\0\x02".to_vec(), Signature::AnimatedWebp),
            (b"RIFF....WEBPVP8 ....".to_vec(), Signature::Webp),
            (b"\0\0\0\x20ftypavif".to_vec(), Signature::Avif),
            (b"\x47\x40\x11\x10".to_vec(), Signature::Other),
            (b"\0\0\0\x20ftypisom".to_vec(), Signature::Container("mov")),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            assert_eq!(Signature::of(file.path()).await.unwrap(), signature);
        }
    }

    #[test]
    fn what_is_no_media_is_named_for_what_it_is() {
        for (head, word) in [
            (&b""[..], "empty"),
            (b"\n<!DOCTYPE html>\n<title>404</title>", "web page"),
            (b"\xef\xbb\xbf<html>", "web page"),
            (b"#EXTM3U\n", "playlist"),
            (b"ffconcat version 1.0\nfile 'a'\n", "playlist"),
            (b"<?xml version=\"1.0\"?>\n<MPD>", "playlist"),
            (b"<?xml version=\"1.0\"?><svg/>", "SVG"),
            (b"{\"error\": \"gone\"}", "JSON"),
            (b"BMW is a car", "text"),
            (b"PK\x03\x04\x14\0", "ZIP"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ] {
            assert!(foreign(head).is_some_and(|kind| kind.contains(word)), "{word}: {:?}", foreign(head));
        }
        for head in [&b"\0\0\0\x18ftypisom"[..], b"\x47\x40\x11\x10", b"YUV4MPEG2 W2 H2\n", b"BM\x46\0\0\0\0\0\0\0"] {
            assert_eq!(foreign(head), None);
        }
    }
}
