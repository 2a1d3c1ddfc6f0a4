//! What a file is by its first bytes, where that decides how it is opened: ffmpeg guesses pictures by file name, and
//! takes a name with `%` for a pattern over many files.

use std::path::Path;

use tokio::io::AsyncReadExt;

use crate::task::Failure;

/// How far an animation's mark may lie from the beginning.
const HEAD_BYTES: u64 = 4096;

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
    /// Not one of these: a container for ffmpeg to recognise.
    Other,
}

impl Signature {
    /// Reads the beginning of a file.
    pub async fn of(path: &Path) -> Result<Self, Failure> {
        let cannot = |e: std::io::Error| {
            Failure::invalid("unreadable_media", format!("the media file cannot be opened: {e}"))
                .with_detail(path.display().to_string())
        };
        let file = tokio::fs::File::open(path).await.map_err(cannot)?;
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head).await.map_err(cannot)?;
        Ok(Self::of_bytes(&head))
    }

    fn of_bytes(head: &[u8]) -> Self {
        let at = |offset: usize, mark: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(mark));
        let has = |mark: &[u8]| head.windows(mark.len()).any(|window| window == mark);
        if at(0, b"\x89PNG\r\n\x1a\n") {
            if has(b"acTL") { Signature::Apng } else { Signature::Png }
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
        } else {
            Signature::Other
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
            Signature::Other => None,
        }
    }

    /// Always one frame.
    pub fn is_still(self) -> bool {
        matches!(self, Signature::Png | Signature::Jpeg | Signature::Webp | Signature::Bmp | Signature::Tiff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_their_first_bytes_and_text_is_none() {
        assert_eq!(Signature::of_bytes(b"\x89PNG\r\n\x1a\n...IHDR...IDAT"), Signature::Png);
        assert_eq!(Signature::of_bytes(b"\x89PNG\r\n\x1a\n...IHDR...acTL"), Signature::Apng);
        assert_eq!(Signature::of_bytes(b"RIFF....WEBPVP8X....\x02"), Signature::AnimatedWebp);
        assert_eq!(Signature::of_bytes(b"RIFF....WEBPVP8 ...."), Signature::Webp);
        assert_eq!(Signature::of_bytes(b"BMW is a car"), Signature::Other);
        assert_eq!(Signature::of_bytes(b""), Signature::Other);
    }
}
