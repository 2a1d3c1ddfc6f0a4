//! What kind of file some bytes are: by content; the name decides only where the content says too little.

/// As many bytes of a file's beginning as [`media_type`] looks at.
pub const HEAD_BYTES: usize = 4096;

/// Used where nothing is recognised.
pub const UNKNOWN: &str = "application/octet-stream";

/// The media type of a file, from its first bytes ([`HEAD_BYTES`] or all there are) and its name.
pub fn media_type(head: &[u8], name: &str) -> &'static str {
    let binary = match head {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some("audio/wav"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => Some("video/x-msvideo"),
        // The reserved words after the size are zero in every bitmap that was ever written.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some("image/bmp"),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some("image/tiff"),
        [_, _, _, _, b'f', b't', b'y', b'p', a, b, c, d, ..] => Some(iso_media(&[*a, *b, *c, *d])),
        // Films from before the brand was invented begin with their data or their index.
        [_, _, _, _, b'm', b'o', b'o', b'v', ..] | [_, _, _, _, b'm', b'd', b'a', b't', ..] => Some("video/quicktime"),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some(matroska(head)),
        [b'O', b'g', b'g', b'S', ..] if contains(head, b"\x80theora") => Some("video/ogg"),
        [b'O', b'g', b'g', b'S', ..] => Some("audio/ogg"),
        [b'f', b'L', b'a', b'C', ..] => Some("audio/flac"),
        [b'I', b'D', b'3', ..] => Some("audio/mpeg"),
        _ if mpeg_frame(head) => Some("audio/mpeg"),
        _ => None,
    };
    binary.or_else(|| text(head, name)).unwrap_or(UNKNOWN)
}

/// The extension that files of a media type usually have, without the dot.
pub fn extension(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "image/png" => "png",
        "image/jpeg" => "jpg",
        "image/gif" => "gif",
        "image/webp" => "webp",
        "image/bmp" => "bmp",
        "image/tiff" => "tiff",
        "image/avif" => "avif",
        "image/heic" => "heic",
        "video/mp4" => "mp4",
        "video/quicktime" => "mov",
        "video/webm" => "webm",
        "video/x-matroska" => "mkv",
        "video/x-msvideo" => "avi",
        "video/ogg" => "ogv",
        "audio/wav" => "wav",
        "audio/mpeg" => "mp3",
        "audio/mp4" => "m4a",
        "audio/ogg" => "ogg",
        "audio/flac" => "flac",
        "application/json" => "json",
        "text/plain" => "txt",
        _ => return None,
    })
}

fn iso_media(brand: &[u8; 4]) -> &'static str {
    match brand {
        b"qt  " => "video/quicktime",
        b"avif" | b"avis" => "image/avif",
        b"heic" | b"heix" | b"mif1" | b"msf1" => "image/heic",
        b"M4A " | b"M4B " => "audio/mp4",
        _ => "video/mp4",
    }
}

/// WebM is Matroska with another word in its head.
fn matroska(head: &[u8]) -> &'static str {
    let head = head.get(..64).unwrap_or(head);
    if contains(head, b"webm") { "video/webm" } else { "video/x-matroska" }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The head of an MPEG audio frame, layer III, with no field at a forbidden value.
fn mpeg_frame(head: &[u8]) -> bool {
    let [0xff, second, third, ..] = head else { return false };
    let (sync, version, layer) = (second & 0xe0, (second >> 3) & 3, (second >> 1) & 3);
    let (bitrate, rate) = (third >> 4, (third >> 2) & 3);
    sync == 0xe0 && version != 1 && layer == 1 && !matches!(bitrate, 0 | 15) && rate != 3
}

fn text(head: &[u8], name: &str) -> Option<&'static str> {
    let whole = head.len() < HEAD_BYTES;
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The end may cut a character in two.
        Err(e) if !whole && e.error_len().is_none() => std::str::from_utf8(head.get(..e.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c')) {
        return None;
    }
    let begins_like_json = text.trim_start_matches('\u{feff}').trim_start().starts_with(['{', '[']);
    let is_json = match begins_like_json {
        true if whole => serde_json::from_str::<serde::de::IgnoredAny>(text.trim_start_matches('\u{feff}')).is_ok(),
        // Only the beginning is known: the name decides.
        true => name.to_ascii_lowercase().ends_with(".json"),
        false => false,
    };
    if is_json {
        Some("application/json")
    } else if text.is_empty() {
        None
    } else {
        Some("text/plain")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_recognised_by_their_content_and_not_by_their_name() {
        let cases: [(&[u8], &str); 23] = [
            (b"\x89PNG\r\n\x1a\n\0\0", "image/png"),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
            (b"GIF89a\x01\0", "image/gif"),
            (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
            (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "image/bmp"),
            (b"II*\0\x08\0\0\0", "image/tiff"),
            (b"MM\0*\0\0\0\x08", "image/tiff"),
            (b"\0\0\0\x20ftypisom\0\0\x02\0", "video/mp4"),
            (b"\0\0\0\x14ftypqt  \0\0\0\0", "video/quicktime"),
            (b"\0\0\0\x08moov\0\0", "video/quicktime"),
            (b"\0\0\0\x20ftypM4A \0\0", "audio/mp4"),
            (b"\0\0\0\x20ftypheic\0\0", "image/heic"),
            (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webmB\x87", "video/webm"),
            (b"\x1a\x45\xdf\xa3\xa3B\x86\x81\x01B\x82\x88matroska", "video/x-matroska"),
            (b"RIFF\x10\0\0\0WAVEfmt ", "audio/wav"),
            (b"ID3\x04\0\0", "audio/mpeg"),
            (b"\xff\xfb\x90\x64\0\0", "audio/mpeg"),
            (b"OggS\0\x02\0\0\0\0\x01vorbis", "audio/ogg"),
            (b"OggS\0\x02\0\0\0\0\x80theora", "video/ogg"),
            (b"fLaC\0\0\0\x22", "audio/flac"),
            (b" {\"a\": [1, 2]}\n", "application/json"),
            ("Grüße\n".as_bytes(), "text/plain"),
            (b"\x08\0\0\0\0\0\0\0{\"a\": 1}", UNKNOWN),
        ];
        for (head, expected) in cases {
            assert_eq!(media_type(head, "misleading.png"), expected, "{head:?}");
        }
        assert_eq!(media_type(b"{not json", "a.json"), "text/plain");
        assert_eq!(media_type(b"", "a.txt"), UNKNOWN);
    }

    #[test]
    fn a_long_text_is_json_by_its_name() {
        let head: Vec<u8> = b"{\"key\": \"".iter().copied().chain("ä".bytes().cycle()).take(HEAD_BYTES).collect();
        assert_eq!(media_type(&head, "workflow.JSON"), "application/json");
        assert_eq!(media_type(&head, "workflow"), "text/plain");
    }
}
