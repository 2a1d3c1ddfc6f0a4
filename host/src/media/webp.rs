//! Animated WebP, which ffmpeg (until version 8) cannot read: decoded in this process, frame by frame, and handed to
//! ffmpeg as raw pictures, so that everything behind it is as with any other video.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use image::AnimationDecoder as _;
use image::codecs::webp::WebPDecoder;
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

/// When each frame is shown, from the headers alone; at most `most` and one more. Blocks.
pub(super) fn marks(path: &Path, most: u64) -> Result<Vec<Mark>, Failure> {
    let damaged = |e: std::io::Error| unreadable(&format!("the animation is damaged: {e}"));
    let mut file = BufReader::new(File::open(path).map_err(damaged)?);
    file.seek(SeekFrom::Start(12)).map_err(damaged)?;
    let mut marks = Vec::new();
    let mut at: u64 = 0;
    while marks.len() as u64 <= most {
        let mut head = [0; 24];
        let mut got = 0;
        // The last chunk may be shorter than that.
        while let Some(rest) = head.get_mut(got..)
            && !rest.is_empty()
        {
            match file.read(rest).map_err(damaged)? {
                0 => break,
                n => got += n,
            }
        }
        if got < 8 {
            break;
        }
        let [name @ .., a, b, c, d, _, _, _, _, _, _, _, _, _, _, _, _, low, middle, high, _] = head;
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        if name == *b"ANMF" && got == head.len() {
            let length = match u32::from_le_bytes([low, middle, high, 0]) {
                ..LEAST_MILLISECONDS => USUAL_MILLISECONDS,
                length => length,
            };
            let seconds = |milliseconds: u64| Some(milliseconds as f64 / 1000.0);
            marks.push(Mark { time: seconds(at), length: seconds(length.into()) });
            at += u64::from(length);
        }
        // Chunks have even lengths.
        let next = i64::try_from(8 + size + size % 2).unwrap_or(i64::MAX) - got as i64;
        file.seek_relative(next).map_err(damaged)?;
    }
    Ok(marks)
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
    let decoder = WebPDecoder::new(BufReader::new(file)).map_err(broken)?;
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
