//! What ffmpeg said, told to people: what is wrong with the file, in words that mean something to those who sent it. What
//! it said word for word goes into the detail of the failure, without paths.

use std::path::Path;

use crate::media::{Tools, process};
use crate::task::Failure;

/// What is said (a part of a line, in lower case), and what it means. The first that is found counts: the most telling
/// ones come first.
const MEANINGS: [(&str, &str); 22] = [
    ("moov atom not found", "its index is missing: it is cut off, or its recording was never finished"),
    ("format not on whitelist", "it is of a kind that is not read here: playlists, captures and rare formats are not"),
    ("not on whitelist", "it refers to another file or to the network, which is never opened"),
    ("file ended prematurely", "it is cut off"),
    ("partial file", "it is cut off"),
    ("truncat", "it is cut off"),
    ("end of file", "it is cut off"),
    ("corrupt input packet", "it is damaged or cut off"),
    ("corrupt decoded frame", "it is damaged: some of its frames cannot be decoded whole"),
    ("chunk too big", "it is damaged or cut off"),
    ("could not find codec parameters", "no frame of it can be decoded: it is damaged or cut off"),
    ("decoder not found", "it is coded in a way that the installed ffmpeg cannot decode"),
    ("unknown decoder", "it is coded in a way that the installed ffmpeg cannot decode"),
    ("decoding requested, but no decoder found", "it is coded in a way that the installed ffmpeg cannot decode"),
    ("unsupported codec", "it is coded in a way that the installed ffmpeg cannot decode"),
    ("not implemented", "it uses a rare feature that the installed ffmpeg cannot decode"),
    ("no such filter: 'zscale'", "it is HDR, and the installed ffmpeg is built without zscale, which brings that down"),
    ("encrypted", "it is encrypted"),
    ("error while decoding", "it is damaged: some of its frames cannot be decoded"),
    ("invalid data found", "it is damaged or cut off, or of a kind that is not read here"),
    ("error reading header", "its beginning is damaged"),
    ("permission denied", "it may not be opened"),
];

/// The failure of a file that ffmpeg did not take: `unreadable_media`, or `media_too_large` where a limit stopped it.
pub(super) fn refusal(tools: &Tools, said: &str, file: &Path) -> Failure {
    let low = said.to_lowercase();
    // Sizes that no decoder takes are called invalid.
    let oversized =
        low.contains("picture size") && ["max pixel count", "is invalid"].iter().any(|end| low.contains(end));
    let failure = if oversized {
        Failure::denied(
            "media_too_large",
            format!(
                "a frame of the file is over the {:.1} megapixels that the setting `media.megapixels` allows",
                tools.pixels as f64 / 1e6
            ),
        )
    } else {
        super::probe::unreadable(meaning(&low))
    };
    failure.with_detail(process::plain(said, file))
}

/// What is wrong, as the end of a sentence. `low`: what was said, in lower case.
fn meaning(low: &str) -> &'static str {
    let known = MEANINGS.iter().find(|(said, _)| low.contains(said));
    known.map_or("it is damaged, or of a kind that is not read here", |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MediaConfig;

    #[test]
    fn people_read_what_is_wrong_and_not_what_ffmpeg_printed() {
        let tools = Tools::from(&MediaConfig::default());
        let file = Path::new("/data/ab/cdef");
        for (said, code, words) in [
            ("[mov,mp4 @ 0x55d0c3] moov atom not found\nfile:/data/ab/cdef: Invalid data", "unreadable_media", "index"),
            ("[h264 @ 0x1] error while decoding MB 3 4, bytestream -5", "unreadable_media", "damaged"),
            ("something new in version 12", "unreadable_media", "damaged"),
            ("Picture size 9x9 exceeds specified max pixel count 1", "media_too_large", "media.megapixels"),
            ("[gif @ 0x1] Picture size 65535x65535 is invalid", "media_too_large", "media.megapixels"),
        ] {
            let failure = refusal(&tools, said, file);
            assert_eq!(failure.code, code);
            assert!(failure.message.contains(words), "{}", failure.message);
            for noise in ["0x", "/data", "MB 3", "version 12"] {
                assert!(!failure.message.contains(noise), "{}", failure.message);
            }
            assert!(!failure.detail.unwrap_or_default().contains("/data"));
        }
    }
}
