//! Random timelines against a model of what `render` promises: the frames of the result are read back by the numbers they
//! carry, through encoding and all.
//!
//! The model is written from the contract (`wit/media.wit`) alone. Every frame of every source has a number of its own, as
//! eight bars, dark or light. The model knows for each frame of the result how light each bar must be: in a fade that is
//! the mixture of two frames, so that both of them and their weights are seen.

// Tests say what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use enginehouse::digest::Digest;
use enginehouse::media::Rendered;
use enginehouse::media::frames::{Fit, Frame, PixelFormat};
use enginehouse_tests::{numbered, pictures};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Bars of a frame.
const BARS: usize = 8;

/// Luma of the bars that stand for 0 and 1.
const LUMA: [f64; 2] = [50.0, 200.0];

/// How far a bar may be off after scaling and H.264.
const TOLERANCE: f64 = 14.0;

/// Rates of sources, sizes and lengths: 240 frames in all, one number each.
const SOURCES: [(f64, (u32, u32), u64); 8] = [
    (10.0, (96, 64), 23),
    (13.0, (97, 55), 30),
    (24_000.0 / 1001.0, (128, 72), 36),
    (24.0, (96, 65), 29),
    (25.0, (131, 64), 25),
    (30.0, (160, 90), 40),
    (50.0, (99, 57), 31),
    (60.0, (96, 64), 26),
];

/// Sizes of results, even and odd.
const SIZES: [(u32, u32); 5] = [(96, 64), (97, 64), (128, 71), (161, 91), (80, 48)];

/// Rates of results, and of sources that are brought to another rate.
const RATES: [f64; 11] = [8.0, 10.0, 12.0, 16.0, 23.976, 24.0, 25.0, 29.0, 30.0, 48.0, 60.0];

/// How light the bars of a frame are.
type Bars = [f64; BARS];

/// The sources, made once.
struct Pool {
    folder: TempDir,
    runtime: Runtime,
}

impl Pool {
    fn get() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let runtime = Runtime::new().unwrap();
            for (i, (fps, size, frames)) in SOURCES.into_iter().enumerate() {
                let numbers = first_number(i)..first_number(i) + frames;
                runtime.block_on(numbered::video(&folder.path().join(format!("{i}.mp4")), size, fps, numbers)).unwrap();
                still(first_number(i)).save(folder.path().join(format!("{i}.png"))).unwrap();
            }
            for (i, seconds) in SOUNDS.into_iter().enumerate() {
                let made = numbered::ffmpeg(
                    &format!("-f lavfi -i sine=frequency=440:duration={seconds} -f wav"),
                    &folder.path().join(format!("{i}.wav")),
                );
                made.unwrap();
            }
            Self { folder, runtime }
        })
    }

    /// Files are asked for by the digest of their name.
    fn find(&self, digest: Digest) -> PathBuf {
        let names = (0..SOURCES.len()).flat_map(|i| ["mp4", "png", "wav"].map(|kind| format!("{i}.{kind}")));
        names
            .into_iter()
            .find(|name| Digest::of(name.as_bytes()) == digest)
            .map(|name| self.folder.path().join(name))
            .unwrap()
    }

    fn render(&self, timeline: &Value, into: &Path) -> Rendered {
        let find = |digest| Ok(self.find(digest));
        self.runtime.block_on(numbered::media().render(timeline, &find, into)).unwrap()
    }

    fn bars(&self, file: &Path, size: (u32, u32)) -> Vec<Bars> {
        let format = PixelFormat::planar(size.0, size.1);
        let frames = self.runtime.block_on(numbered::read(file, size, format, Fit::Stretch)).unwrap();
        frames.iter().map(measured).collect()
    }
}

/// Seconds of sound, shorter and longer than most results.
const SOUNDS: [f64; 3] = [0.2, 1.5, 20.0];

fn first_number(source: usize) -> u64 {
    SOURCES[..source].iter().map(|(_, _, frames)| frames).sum()
}

fn bars(number: u64) -> Bars {
    std::array::from_fn(|bar| LUMA[usize::from(number >> (BARS - 1 - bar) & 1 == 1)])
}

/// A picture that carries a number.
fn still(number: u64) -> image::RgbImage {
    let mut picture = pictures::solid(160, 90, [0; 3]);
    for (x, _, pixel) in picture.enumerate_pixels_mut() {
        // The grey whose luma in limited range is that of the bar.
        let luma = bars(number)[x as usize * BARS / 160];
        pixel.0 = [((luma - 16.0) * 255.0 / 219.0).round() as u8; 3];
    }
    picture
}

/// The luma in the middle of each bar.
fn measured(frame: &Frame) -> Bars {
    let row = (frame.height / 2 * frame.width) as usize;
    std::array::from_fn(|bar| f64::from(frame.data[row + (2 * bar + 1) * frame.width as usize / (2 * BARS)]))
}

#[derive(Clone, Debug)]
enum Clip {
    /// Where it starts and how long it is, as shares of what there is.
    Video {
        source: usize,
        start: f64,
        length: f64,
        from_end: bool,
        reverse: bool,
        fps: Option<f64>,
    },
    Still {
        source: usize,
        frames: u64,
    },
    Grey {
        grey: u8,
        frames: u64,
    },
}

#[derive(Clone, Debug)]
struct Plan {
    clips: Vec<Clip>,
    /// Of each join, as share of what fits, and whether it is linear.
    fades: Vec<Option<(f64, bool)>>,
    size: (u32, u32),
    fps: f64,
    sound: Option<usize>,
}

fn clip() -> impl Strategy<Value = Clip> {
    let fps = prop::option::of(prop::sample::select(RATES.to_vec()));
    prop_oneof![
        5 => (0..SOURCES.len(), 0.0..1.0f64, 0.0..1.0f64, any::<bool>(), any::<bool>(), fps).prop_map(
            |(source, start, length, from_end, reverse, fps)| Clip::Video { source, start, length, from_end, reverse, fps }
        ),
        1 => (0..SOURCES.len(), 1..20u64).prop_map(|(source, frames)| Clip::Still { source, frames }),
        1 => (any::<u8>(), 1..20u64).prop_map(|(grey, frames)| Clip::Grey { grey, frames }),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        prop::collection::vec((clip(), prop::option::of((0.0..1.0f64, any::<bool>()))), 1..5),
        prop::sample::select(SIZES.to_vec()),
        prop::sample::select(RATES.to_vec()),
        prop::option::of(0..SOUNDS.len()),
    )
        .prop_map(|(parts, size, fps, sound)| {
            let (clips, fades) = parts.into_iter().unzip();
            Plan { clips, fades, size, fps, sound }
        })
}

/// What a clip is, in JSON and in frames.
fn modelled(clip: &Clip) -> (Value, Vec<Bars>) {
    let file = |name: String| json!({"$artifact": Digest::of(name.as_bytes())});
    match clip {
        Clip::Grey { grey, frames } => {
            let luma = 16.0 + f64::from(*grey) * 219.0 / 255.0;
            let frames_of = vec![[luma; BARS]; *frames as usize];
            (json!({"color": format!("#{grey:02x}{grey:02x}{grey:02x}"), "frames": frames}), frames_of)
        }
        Clip::Still { source, frames } => {
            let frames_of = vec![bars(first_number(*source)); *frames as usize];
            (json!({"still": file(format!("{source}.png")), "frames": frames}), frames_of)
        }
        Clip::Video { source, start, length, from_end, reverse, fps } => {
            let (own, _, frames) = SOURCES[*source];
            // The source at the wanted rate: as long as before, each frame the nearest one.
            let at_rate: Vec<u64> = match fps {
                None => (0..frames).collect(),
                Some(fps) => {
                    let count = ((frames as f64 * fps / own).round() as u64).max(1);
                    (0..count).map(|i| ((i as f64 * own / fps + 0.5).floor() as u64).min(frames - 1)).collect()
                }
            };
            let available = at_rate.len();
            let start = (start * available as f64) as usize;
            let count = 1 + (length * (available - start - 1) as f64).round() as usize;
            let range = if *from_end { available - start - count..available - start } else { start..start + count };
            let mut taken: Vec<Bars> = at_rate[range].iter().map(|frame| bars(first_number(*source) + frame)).collect();
            if *reverse {
                taken.reverse();
            }
            let json = json!({
                "video": file(format!("{source}.mp4")),
                "start": start,
                "frames": count,
                "from_end": from_end,
                "reverse": reverse,
                "fps": fps,
            });
            (json, taken)
        }
    }
}

/// The timeline in JSON, and the frames that must come out.
fn model(plan: &Plan) -> (Value, Vec<Bars>) {
    let parts: Vec<(Value, Vec<Bars>)> = plan.clips.iter().map(modelled).collect();
    let mut frames: Vec<Bars> = Vec::new();
    let mut fades = Vec::new();
    // Frames of the clip before that no fade has taken.
    let mut free = 0;
    for (i, (_, clip)) in parts.iter().enumerate() {
        let fade = i.checked_sub(1).and_then(|join| plan.fades[join]).map(|(share, linear)| {
            // At least one frame of each clip stays out of its fades, where there is one.
            let most = free.min(clip.len());
            ((share * most as f64) as usize, linear)
        });
        let mut taken = 0;
        if let Some((length, linear)) = fade.filter(|(length, _)| *length > 0) {
            let curve = if linear { "linear" } else { "cosine" };
            fades.push(json!({"after": i - 1, "frames": length, "curve": curve}));
            let tail = frames.len() - length;
            for k in 0..length {
                let t = (k + 1) as f64 / length as f64;
                let weight = if linear { t } else { (1.0 - (std::f64::consts::PI * t).cos()) / 2.0 };
                for bar in 0..BARS {
                    frames[tail + k][bar] = (1.0 - weight) * frames[tail + k][bar] + weight * clip[k][bar];
                }
            }
            taken = length;
        }
        frames.extend(&clip[taken..]);
        free = clip.len() - taken;
    }
    let (width, height) = plan.size;
    let mut timeline = json!({
        "output": {"width": width, "height": height, "fps": plan.fps},
        "clips": parts.into_iter().map(|(json, _)| json).collect::<Vec<_>>(),
        "fades": fades,
    });
    if let Some(sound) = plan.sound {
        timeline["audio"] = json!({"$artifact": Digest::of(format!("{sound}.wav").as_bytes())});
    }
    (timeline, frames)
}

/// Seconds of a file's sound; none if it has none.
fn sound_seconds(file: &Path) -> Option<f64> {
    let args = ["-v", "error", "-select_streams", "a:0", "-show_entries", "stream=duration", "-of", "csv=p=0"];
    let said = Command::new("ffprobe").args(args).arg(file).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().parse().ok()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        max_shrink_iters: 60,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_frame_of_a_timeline_comes_from_where_the_model_says(plan in plan()) {
        let (timeline, wanted) = model(&plan);
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::get();
        let made = pool.render(&timeline, folder.path());
        prop_assert_eq!((made.width, made.height), plan.size, "{}", timeline);
        prop_assert_eq!(made.frames, wanted.len() as u64, "{}", timeline);
        prop_assert!((made.fps - plan.fps).abs() < 0.01, "{} frames a second: {}", made.fps, timeline);
        let found = pool.bars(&made.path, plan.size);
        prop_assert_eq!(found.len(), wanted.len(), "{}", timeline);
        for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            let near = found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= TOLERANCE);
            prop_assert!(near, "frame {i} is {found:?}, not {wanted:?}: {timeline}");
        }
        let seconds = wanted.len() as f64 / plan.fps;
        match (plan.sound, sound_seconds(&made.path)) {
            (None, None) => {}
            // Sound comes in packets of 1024 samples.
            (Some(_), Some(sound)) => prop_assert!((sound - seconds).abs() < 0.1, "{sound} s of sound, not {seconds}"),
            (asked, found) => prop_assert!(false, "sound {asked:?} was asked for, {found:?} s of it are there"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 6,
        max_shrink_iters: 20,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn equal_timelines_give_equal_files(plan in plan()) {
        let (timeline, _) = model(&plan);
        let folder = tempfile::tempdir().unwrap();
        let pool = Pool::get();
        let file = || std::fs::read(pool.render(&timeline, folder.path()).path).unwrap();
        prop_assert!(file() == file(), "two renders differ: {timeline}");
    }
}
