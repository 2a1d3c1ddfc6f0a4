//! From what a timeline asks to what its sources have: which frames of which file, how many in all, of what size and rate.
//! Everything that can be wrong with a timeline is found here, before the first frame is decoded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::media::frames::{Fit, PixelFormat};
use crate::media::layers::PlannedLayer;
use crate::media::pixels::Adjust;
use crate::media::probe::{self, Source};
use crate::media::step::Step;
use crate::media::timeline::{ClipSource, Fade, OutputKind, Range, Timeline, invalid};
use crate::media::{Kind, Media, Probe, layers, timing};
use crate::task::Failure;

/// The rate of a result without any video.
const DEFAULT_FPS: f64 = 16.0;

/// A timeline whose sources are known.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of the frames while they are worked on. Pictures come out as RGB, videos as the planes of their encoding.
    pub format: PixelFormat,
    pub width: u32,
    pub height: u32,
    pub fps: f64,
    pub clips: Vec<Planned>,
    /// Those that can be seen, the lowest first.
    pub layers: Vec<Arc<PlannedLayer>>,
    /// Of the whole.
    pub frames: u64,
}

/// A clip whose source is known.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub content: Content,
    /// At least 1.
    pub frames: u64,
    pub fit: Fit,
    pub adjust: Option<Adjust>,
    /// Into the next clip: no longer than either.
    pub fade: Option<Fade>,
}

/// What a clip shows.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Video { file: SourceFile, picks: Picks },
    Still(SourceFile),
    Color([u8; 3]),
}

/// A file and what it is.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub path: PathBuf,
    pub source: Source,
}

/// Which frames of a source are shown, in this order. Output frame i of the resampled source is the source frame nearest in
/// time to i / rate, the later one of two that are as near: `round(i · source rate / rate)`, halves up, but never beyond
/// the last. Where the frames of the source have times of their own, those count; and as a frame stays until the next one
/// comes, none is then shown more than one frame (1 / source rate) before its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picks {
    /// First frame, counted after resampling.
    begin: u64,
    pub count: u64,
    step: Step,
    /// Last frame of the source.
    last: u64,
    pub reverse: bool,
    /// Of the source, when they count.
    times: Option<Times>,
}

/// When the frames of a source without constant rate are shown.
#[derive(Clone, Debug, PartialEq)]
struct Times {
    /// In seconds from the first frame.
    of_frames: Arc<[f64]>,
    /// Frames a second of the clip.
    rate: f64,
    /// Seconds that a frame may be shown before its time.
    early: f64,
}

impl Picks {
    /// Finds the range in a source of at least one frame. `times`: of its frames, when it has no constant rate.
    pub fn of(range: &Range, facts: &Probe, times: Option<&Arc<[f64]>>) -> Result<Self, String> {
        let Probe { frames, fps, .. } = *facts;
        let step = match range.fps {
            Some(rate) if fps > 0.0 => Step::between(fps, rate),
            _ => Step::ONE,
        };
        let times = match (range.fps, times) {
            (Some(rate), Some(times)) if fps > 0.0 => {
                Some(Times { of_frames: times.clone(), rate, early: fps.recip() })
            }
            _ => None,
        };
        let available = match &times {
            Some(times) => (facts.seconds * times.rate).round() as u64,
            None => step.clip_frames(frames),
        };
        let available = available.max(1);
        let left = available.saturating_sub(range.start);
        let count = range.frames.map_or(left, |count| count.get());
        if count == 0 || count > left {
            let at = if range.fps.is_some() { " at this rate" } else { "" };
            let end = if range.from_end { " counted from the end" } else { "" };
            let asked = range.frames.map_or("all frames".to_string(), |count| format!("{count} frames"));
            return Err(format!(
                "asks for {asked} from frame {} on{end}, but the source has {available} frames{at}",
                range.start
            ));
        }
        let begin = if range.from_end { left - count } else { range.start };
        Ok(Self { begin, count, step, last: frames.saturating_sub(1), reverse: range.reverse, times })
    }

    /// The source frames in the order of the source; a frame may come several times.
    pub fn forward(&self) -> impl Iterator<Item = u64> {
        (self.begin..self.begin.saturating_add(self.count)).map(|i| self.source_frame(i))
    }

    /// What must be decoded.
    pub fn span(&self) -> std::ops::Range<u64> {
        let end = self.begin.saturating_add(self.count).saturating_sub(1);
        self.source_frame(self.begin)..self.source_frame(end) + 1
    }

    fn source_frame(&self, i: u64) -> u64 {
        let frame = match &self.times {
            Some(Times { of_frames, rate, early }) => timing::nearest(of_frames, i as f64 / rate, *early),
            None => self.step.nearest(i),
        };
        frame.min(self.last)
    }
}

impl Plan {
    /// Probes every source once.
    pub async fn new(
        media: &Media,
        timeline: &Timeline,
        find: &(dyn Fn(Digest) -> Result<PathBuf, Failure> + Send + Sync),
    ) -> Result<Self, Failure> {
        let mut known = Sources { media, find, known: HashMap::new() };
        let mut clips = Vec::with_capacity(timeline.clips.len());
        let (mut size, mut rate) = (None, None);
        for (i, clip) in timeline.clips.iter().enumerate() {
            let artifact = match &clip.source {
                ClipSource::Video { artifact, .. } | ClipSource::Still { artifact, .. } => Some(*artifact),
                ClipSource::Color { .. } => None,
            };
            let file = match artifact {
                Some(artifact) => Some(known.get(artifact, &format!("/clips/{i}")).await?),
                None => None,
            };
            let file = file.as_ref();
            if let Some(file) = file {
                size.get_or_insert((file.source.facts.width, file.source.facts.height));
            }
            let (content, frames) = match (&clip.source, file) {
                (ClipSource::Video { range, .. }, Some(file)) => {
                    let facts = &file.source.facts;
                    let picks = Picks::of(range, facts, file.source.times.as_ref())
                        .map_err(|why| Failure::invalid("range_outside_source", format!("`/clips/{i}` {why}")))?;
                    if facts.fps > 0.0 {
                        rate.get_or_insert(range.fps.unwrap_or(facts.fps));
                    }
                    let count = picks.count;
                    (Content::Video { file: file.clone(), picks }, count)
                }
                (ClipSource::Still { frames, .. }, Some(file)) => (Content::Still(file.clone()), frames.get()),
                (ClipSource::Color { rgb, frames }, _) => (Content::Color(*rgb), frames.get()),
                (ClipSource::Video { .. } | ClipSource::Still { .. }, None) => {
                    return Err(Failure::internal("media_failed", format!("the source of clip {i} was not looked up")));
                }
            };
            clips.push(Planned { content, frames, fit: clip.fit, adjust: clip.adjust, fade: clip.fade });
        }
        let output = &timeline.output;
        let side = |given: Option<u32>, own: Option<u32>, name: &str| {
            let missing = "is missing, and there is no source to take it from: expected the number of pixels";
            given.or(own).ok_or_else(|| invalid(&format!("/output/{name}"), missing))
        };
        let width = side(output.width, size.map(|(width, _)| width), "width")?;
        let height = side(output.height, size.map(|(_, height)| height), "height")?;
        media.fits(width.into(), height.into(), "the result")?;
        let format = match output.kind {
            OutputKind::Video => PixelFormat::planar(width, height),
            OutputKind::Picture => PixelFormat::Rgb24,
        };
        let fps = output.fps.or(rate).unwrap_or(DEFAULT_FPS);
        let frames = total(&clips)?;
        if output.kind == OutputKind::Video && frames > media.tools.frames {
            let most = media.tools.frames;
            let message = format!(
                "the result would have {frames} frames, over the {most} that the setting `media.frames` allows"
            );
            return Err(Failure::denied("media_too_large", message));
        }
        let layers = layers::plan(&mut known, &timeline.layers, (width, height), frames).await?;
        Ok(Self { format, width, height, fps, clips, layers, frames })
    }
}

/// The files that a timeline names. Each is looked at once.
pub(super) struct Sources<'a> {
    pub media: &'a Media,
    find: &'a (dyn Fn(Digest) -> Result<PathBuf, Failure> + Send + Sync),
    known: HashMap<Digest, SourceFile>,
}

impl Sources<'_> {
    /// The file behind an artifact that stands at `pointer`.
    pub async fn get(&mut self, artifact: Digest, pointer: &str) -> Result<SourceFile, Failure> {
        if let Some(file) = self.known.get(&artifact) {
            return Ok(file.clone());
        }
        let path = (self.find)(artifact)?;
        let source = look_at(self.media, &path, pointer).await?;
        let file = SourceFile { path, source };
        self.known.insert(artifact, file.clone());
        Ok(file)
    }
}

/// The facts of a source, told with the member that wants it.
async fn look_at(media: &Media, path: &Path, pointer: &str) -> Result<Source, Failure> {
    let there = |failure: Failure| Failure { message: format!("`{pointer}`: {}", failure.message), ..failure };
    let source = probe::probe(media, path).await.map_err(there)?;
    if source.facts.kind == Kind::Audio {
        return Err(there(Failure::invalid("no_pictures", "the source holds sound alone, but pictures are needed")));
    }
    Ok(source)
}

/// Frames of all clips less those of the fades, each of which must fit into both of its clips. The fades at the two ends of
/// a short clip may overlap: then the later one takes over from the clip's own frames, as if its last frames had been cut
/// off the finished result and blended anew.
fn total(clips: &[Planned]) -> Result<u64, Failure> {
    let mut sum: u64 = 0;
    for (i, clip) in clips.iter().enumerate() {
        sum = sum.saturating_add(clip.frames);
        let (Some(fade), Some(next)) = (clip.fade, clips.get(i + 1)) else { continue };
        let length = fade.frames.get();
        if length > clip.frames.min(next.frames) {
            return Err(Failure::invalid(
                "invalid_timeline",
                format!(
                    "the timeline cannot be rendered: the fade after clip {i} is {length} frames long, expected no more \
                     than either clip has ({} and {})",
                    clip.frames, next.frames
                ),
            ));
        }
        sum = sum.saturating_sub(length);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::media::timeline::Curve;

    fn facts(frames: u64, fps: f64, seconds: f64) -> Probe {
        let (width, height, has_audio, has_alpha) = (96, 64, false, false);
        Probe { kind: Kind::Video, frames, fps, width, height, seconds, has_audio, has_alpha }
    }

    fn picks(range: Range) -> Vec<u64> {
        let picks = Picks::of(&range, &facts(10, 24.0, 10.0 / 24.0), None).unwrap();
        let frames: Vec<u64> = picks.forward().collect();
        assert_eq!(picks.span(), frames[0]..frames[frames.len() - 1] + 1);
        frames
    }

    #[test]
    fn ranges_are_found_from_either_end() {
        let range = Range::default();
        let frames = NonZeroU64::new;
        assert_eq!(picks(range), (0..10).collect::<Vec<_>>());
        assert_eq!(picks(Range { start: 7, ..range }), [7, 8, 9]);
        assert_eq!(picks(Range { start: 2, frames: frames(3), ..range }), [2, 3, 4]);
        assert_eq!(picks(Range { frames: frames(3), from_end: true, ..range }), [7, 8, 9]);
        assert_eq!(picks(Range { start: 2, frames: frames(3), from_end: true, ..range }), [5, 6, 7]);
        assert_eq!(picks(Range { start: 4, from_end: true, ..range }), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_nearest_frame_is_taken_at_another_rate() {
        let at = |fps| picks(Range { fps: Some(fps), ..Range::default() });
        assert_eq!(at(16.0), [0, 2, 3, 5, 6, 8, 9]);
        assert_eq!(at(48.0), [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 9]);
        assert_eq!(at(24.0), (0..10).collect::<Vec<_>>());
        assert_eq!(at(0.5), [0], "never nothing");
    }

    #[test]
    fn frames_with_times_of_their_own_are_taken_by_those() {
        let times: Arc<[f64]> = [0.0, 0.1, 0.2, 1.0, 1.1].into();
        let facts = facts(5, 5.0 / 1.2, 1.2);
        let at = |fps| {
            let picks = Picks::of(&Range { fps, ..Range::default() }, &facts, Some(&times)).unwrap();
            assert_eq!(picks.forward().count() as u64, picks.count);
            picks.forward().collect::<Vec<_>>()
        };
        assert_eq!(at(Some(10.0)), [0, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 4]);
        assert_eq!(at(None), [0, 1, 2, 3, 4], "each once, unless another rate is asked for");
    }

    #[test]
    fn a_moment_between_two_frames_shows_the_later_one_at_any_pair_of_rates() {
        let at = |source, clip: f64, frames| {
            let range = Range { fps: Some(clip), ..Range::default() };
            Picks::of(&range, &facts(frames, source, frames as f64 / source), None).unwrap()
        };
        assert_eq!(at(10.0, 29.0, 5).count, 15, "14.5 frames");
        assert_eq!(at(13.0, 12.0, 100).forward().nth(54), Some(59), "frame 58.5");
    }

    #[test]
    fn ranges_that_the_source_does_not_have_are_refused() {
        let range = Range::default();
        for (start, frames, from_end) in
            [(10, 0, false), (0, 11, false), (8, 3, true), (10, 0, true), (u64::MAX, 1, false)]
        {
            let range = Range { start, frames: NonZeroU64::new(frames), from_end, ..range };
            let why = Picks::of(&range, &facts(10, 24.0, 10.0 / 24.0), None).unwrap_err();
            assert!(why.contains("has 10 frames"), "{why}");
        }
    }

    #[test]
    fn fades_shorten_the_whole_and_fit_into_their_clips() {
        let clip = |frames, fade| Planned {
            content: Content::Color([0; 3]),
            frames,
            fit: Fit::Stretch,
            adjust: None,
            fade: NonZeroU64::new(fade).map(|frames| Fade { frames, curve: Curve::Cosine, sharpen: 0.0 }),
        };
        assert_eq!(total(&[clip(10, 3), clip(4, 4), clip(20, 0)]).unwrap(), 27);
        for clips in [[clip(3, 4), clip(9, 0)], [clip(9, 4), clip(3, 0)]] {
            assert_eq!(total(&clips).unwrap_err().code, "invalid_timeline");
        }
    }
}
