//! The frames of one clip, in its order, adjusted: decoded ahead by a task of its own, so that decoding, computing and
//! encoding overlap. A few frames are in memory at any time, however long the clip: reversed ones pass through a file.

use std::io::SeekFrom;
use std::path::Path;
use std::sync::Arc;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::media::Media;
use crate::media::frames::{FrameReader, PixelFormat, Target, cannot_write};
use crate::media::pixels::{self, Adjust};
use crate::media::plan::{Content, Picks, Planned, SourceFile};
use crate::task::Failure;

/// Frames decoded ahead of their use.
const AHEAD: usize = 4;

/// The bytes of a frame; a still picture has many frames and one of these.
pub(super) type Pixels = Arc<Vec<u8>>;

/// What frames a clip is to give.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub width: u32,
    pub height: u32,
    pub format: PixelFormat,
}

/// The frames of one clip.
pub(super) enum ClipFrames {
    /// The same one for ever.
    Still(Pixels),
    Moving {
        frames: mpsc::Receiver<Result<Pixels, Failure>>,
        /// Ends with this value.
        _decoding: AbortOnDropHandle<()>,
    },
}

/// A clip that is being opened by a task of its own. Ends with this value.
pub(super) struct Opening(AbortOnDropHandle<Result<ClipFrames, Failure>>);

impl Opening {
    /// Starts. `scratch`: a folder for frames that must wait.
    pub fn start(media: &Media, clip: &Planned, shape: Shape, scratch: &Path) -> Self {
        let (media, clip, scratch) = (media.clone(), clip.clone(), scratch.to_path_buf());
        let open = async move { ClipFrames::open(&media, &clip, shape, &scratch).await };
        Self(AbortOnDropHandle::new(tokio::spawn(open)))
    }

    /// Waits until the clip is open.
    pub async fn done(self) -> Result<ClipFrames, Failure> {
        self.0.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl ClipFrames {
    /// Starts decoding. `scratch`: a folder for frames that must wait.
    pub async fn open(media: &Media, clip: &Planned, shape: Shape, scratch: &Path) -> Result<Self, Failure> {
        match &clip.content {
            Content::Color(rgb) => {
                let pixels = shape.width as usize * shape.height as usize;
                Ok(Self::Still(finished(rgb.repeat(pixels), clip.adjust, shape).await?))
            }
            Content::Still(file) => {
                let mut reader = reader(media, file, 0..1, clip, shape)?;
                let mut data = Vec::new();
                if !reader.fill(&mut data).await? {
                    return Err(ended());
                }
                Ok(Self::Still(prepared(data, clip.adjust, shape).await?))
            }
            Content::Video { file, picks } => {
                let span = picks.span();
                if picks.reverse {
                    let frame = reader_format(clip, shape).frame_bytes(shape.width, shape.height) as u64;
                    media.sets_aside((span.end - span.start).saturating_mul(frame))?;
                }
                let reader = reader(media, file, span, clip, shape)?;
                let (sender, frames) = mpsc::channel(AHEAD);
                let work = Work { reader, picks: picks.clone(), adjust: clip.adjust, shape, sender };
                let scratch = scratch.to_path_buf();
                let decoding = tokio::spawn(async move {
                    let sender = work.sender.clone();
                    let done = if work.picks.reverse { work.backward(&scratch).await } else { work.forward().await };
                    if let Err(failure) = done {
                        // Nobody listens any more: then nobody needs to know.
                        let _ = sender.send(Err(failure)).await;
                    }
                });
                Ok(Self::Moving { frames, _decoding: AbortOnDropHandle::new(decoding) })
            }
        }
    }

    /// The next frame, which must be there.
    pub async fn next(&mut self) -> Result<Pixels, Failure> {
        match self {
            Self::Still(pixels) => Ok(pixels.clone()),
            Self::Moving { frames, .. } => frames.recv().await.unwrap_or_else(|| Err(ended())),
        }
    }
}

/// Adjustments are computed in RGB.
fn reader_format(clip: &Planned, shape: Shape) -> PixelFormat {
    if clip.adjust.is_some() { PixelFormat::Rgb24 } else { shape.format }
}

fn reader(
    media: &Media,
    file: &SourceFile,
    frames: std::ops::Range<u64>,
    clip: &Planned,
    shape: Shape,
) -> Result<FrameReader, Failure> {
    let format = reader_format(clip, shape);
    let target = Target { width: shape.width, height: shape.height, format, fit: clip.fit };
    FrameReader::start(media, &file.path, &file.source, frames, target)
}

/// A decoded frame, adjusted, in the format of the shape.
async fn prepared(data: Vec<u8>, adjust: Option<Adjust>, shape: Shape) -> Result<Pixels, Failure> {
    match adjust {
        None => Ok(Arc::new(data)),
        Some(_) => finished(data, adjust, shape).await,
    }
}

/// An RGB frame, adjusted, in the format of the shape.
async fn finished(mut rgb: Vec<u8>, adjust: Option<Adjust>, shape: Shape) -> Result<Pixels, Failure> {
    compute(move || {
        if let Some(adjust) = adjust {
            adjust.apply(&mut rgb);
        }
        if shape.format == PixelFormat::Rgb24 { rgb } else { pixels::planar(&rgb, shape.width as usize, shape.format) }
    })
    .await
    .map(Arc::new)
}

/// Runs a computation beside the threads that wait for others.
pub(super) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::internal("media_failed", format!("a computation on frames was broken off: {e}")))
}

fn ended() -> Failure {
    Failure::internal("media_failed", "a clip ended before its last frame")
}

struct Work {
    reader: FrameReader,
    picks: Picks,
    adjust: Option<Adjust>,
    shape: Shape,
    sender: mpsc::Sender<Result<Pixels, Failure>>,
}

impl Work {
    /// Every picked frame in the order of the source.
    async fn forward(mut self) -> Result<(), Failure> {
        let mut at = self.picks.span().start;
        let mut frame = self.read().await?;
        let picks = self.picks.clone();
        for wanted in picks.forward() {
            while at < wanted {
                frame = self.read().await?;
                at += 1;
            }
            if self.sender.send(Ok(frame.clone())).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The decoded frames go to a file that has no name and vanishes with its last user; from there they come backwards.
    async fn backward(mut self, scratch: &Path) -> Result<(), Failure> {
        let failed = |e: std::io::Error| cannot_write(&format!("reversed frames cannot be set aside: {e}"));
        let mut file = File::from_std(tempfile::tempfile_in(scratch).map_err(failed)?);
        let span = self.picks.span();
        let mut bytes = 0;
        for _ in span.clone() {
            let frame = self.read().await?;
            bytes = frame.len();
            file.write_all(&frame).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        let mut held: Option<(u64, Pixels)> = None;
        let picks: Vec<u64> = self.picks.forward().collect();
        for wanted in picks.into_iter().rev() {
            let frame = match held.take() {
                Some((at, frame)) if at == wanted => frame,
                _ => {
                    let offset = (wanted - span.start).saturating_mul(bytes as u64);
                    file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
                    let mut data = vec![0; bytes];
                    file.read_exact(&mut data).await.map_err(failed)?;
                    Arc::new(data)
                }
            };
            if self.sender.send(Ok(frame.clone())).await.is_err() {
                return Ok(());
            }
            held = Some((wanted, frame));
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Pixels, Failure> {
        let mut data = Vec::new();
        if !self.reader.fill(&mut data).await? {
            return Err(ended());
        }
        prepared(data, self.adjust, self.shape).await
    }
}
