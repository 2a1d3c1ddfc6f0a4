//! A quiet tone, for those that must leave sound where there is none to take.

use std::ffi::OsString;
use std::path::Path;

use crate::media::Media;
use crate::media::frames::cannot_write;
use crate::media::process::{self, Program, Run};
use crate::task::Failure;

/// Pitch and loudness: audible, and never mistaken for a result.
const SINE: &str = "sine=frequency=220:sample_rate=44100";
const LOUDNESS: &str = "volume=0.05";

/// Encoder and container by the extension of the file; FLAC for those that are not known.
fn encoder(path: &Path) -> [&'static str; 4] {
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "mp3" => ["-c:a", "libmp3lame", "-f", "mp3"],
        "opus" | "ogg" => ["-c:a", "libopus", "-f", "ogg"],
        "wav" => ["-c:a", "pcm_s16le", "-f", "wav"],
        "m4a" => ["-c:a", "aac", "-f", "ipod"],
        _ => ["-c:a", "flac", "-f", "flac"],
    }
}

/// Writes a tone of so many seconds. Equal lengths give equal files.
pub(super) async fn write(media: &Media, path: &Path, seconds: f64) -> Result<(), Failure> {
    let source = format!("{SINE}:duration={seconds}");
    let mut args: Vec<OsString> = ["-nostdin", "-hide_banner", "-v", "error", "-y", "-f", "lavfi", "-i", &source]
        .iter()
        .chain(&["-af", LOUDNESS, "-bitexact", "-threads", "1"])
        .chain(&encoder(path))
        .map(OsString::from)
        .collect();
    let mut url = OsString::from("file:");
    url.push(path);
    args.push(url);
    let ended = Run::start(media, Program::Ffmpeg, args, false)?.end().await?;
    if ended.ok { Ok(()) } else { Err(cannot_write(&process::plain(&ended.said, path))) }
}
