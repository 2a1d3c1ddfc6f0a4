//! Animated WebP, which most versions of ffmpeg cannot read: decoded in this process, frame by frame, and handed to
//! ffmpeg as raw pictures, so that everything behind it is as with any other video.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder as _, Rgba};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::media::probe::unreadable;
use crate::media::timing::Mark;
use crate::task::Failure;

/// Frames decoded ahead of ffmpeg.
const AHEAD: usize = 2;

/// Frames shorter than this, in milliseconds, are meant to be as fast as it was once possible: everybody shows them for
/// [`USUAL_MILLISECONDS`].
const LEAST_MILLISECONDS: u32 = 11;
const USUAL_MILLISECONDS: u32 = 100;

/// What the headers of an animation say.
#[derive(Debug, Default)]
pub(super) struct Animation {
    /// When each frame is shown.
    pub marks: Vec<Mark>,
    /// Whether parts of the canvas may be bare: they are transparent, even where no frame is.
    pub has_gaps: bool,
}

/// Reads the headers of at most `most` frames and one more. `canvas`: width and height in pixels. Blocks.
pub(super) fn animation(path: &Path, canvas: (u32, u32), most: u64) -> Result<Animation, Failure> {
    let damaged = |e: std::io::Error| unreadable(&format!("the animation is damaged: {e}"));
    let mut file = BufReader::new(File::open(path).map_err(damaged)?);
    file.seek(SeekFrom::Start(12)).map_err(damaged)?;
    let mut animation = Animation::default();
    let mut at: u64 = 0;
    while animation.marks.len() as u64 <= most {
        let mut head = Vec::new();
        (&mut file).take(8).read_to_end(&mut head).map_err(damaged)?;
        let Ok([name @ .., a, b, c, d]) = <[u8; 8]>::try_from(head) else { break };
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        let mut rest = size;
        if name == *b"ANMF" && size >= 16 {
            let mut frame = [0; 16];
            file.read_exact(&mut frame).map_err(damaged)?;
            rest -= 16;
            let [_, _, _, _, _, _, w0, w1, w2, h0, h1, h2, low, middle, high, flags] = frame;
            let little = |low, middle, high| u32::from_le_bytes([low, middle, high, 0]);
            let length = match little(low, middle, high) {
                ..LEAST_MILLISECONDS => USUAL_MILLISECONDS,
                length => length,
            };
            let seconds = |milliseconds: u64| Some(milliseconds as f64 / 1000.0);
            animation.has_gaps |= flags & 1 == 1
                || (animation.marks.is_empty() && (little(w0, w1, w2) + 1, little(h0, h1, h2) + 1) != canvas);
            animation.marks.push(Mark { time: seconds(at), length: seconds(length.into()) });
            at += u64::from(length);
        }
        // Chunks have even lengths.
        file.seek_relative(i64::try_from(rest + size % 2).unwrap_or(i64::MAX)).map_err(damaged)?;
    }
    Ok(animation)
}

/// Decodes these frames and writes them to a program that reads packed RGBA of the canvas' size. Ends early when it does
/// not read any more; its failure is that of the decoder.
pub(super) fn feed(path: &Path, frames: Range<u64>, mut to: ChildStdin) -> AbortOnDropHandle<Result<(), Failure>> {
    let path = path.to_path_buf();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let (sender, mut decoded) = mpsc::channel(AHEAD);
        let decoding = tokio::task::spawn_blocking(move || decode(path, frames, &sender));
        while let Some(frame) = decoded.recv().await {
            let frame: Vec<u8> = frame;
            if to.write_all(&frame).await.is_err() {
                break;
            }
        }
        drop((to, decoded));
        // A decoder that breaks on a file has found a broken file.
        decoding.await.unwrap_or_else(|_| Err(unreadable("a frame of the animation cannot be decoded")))
    }))
}

fn decode(path: PathBuf, frames: Range<u64>, to: &mpsc::Sender<Vec<u8>>) -> Result<(), Failure> {
    let broken = |_| unreadable("a frame of the animation is damaged");
    let file = File::open(path).map_err(|e| unreadable(&format!("it cannot be opened: {e}")))?;
    let mut decoder = WebPDecoder::new(BufReader::new(file)).map_err(broken)?;
    // What the file names as its background is a hint that nobody heeds.
    decoder.set_background_color(Rgba([0; 4])).map_err(broken)?;
    for (i, frame) in (0..frames.end).zip(decoder.into_frames()) {
        let frame = frame.map_err(broken)?;
        let gone =
            if i < frames.start { to.is_closed() } else { to.blocking_send(frame.into_buffer().into_raw()).is_err() };
        if gone {
            break;
        }
    }
    Ok(())
}
