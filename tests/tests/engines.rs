//! The animatic engine behind its lane, with the real ffmpeg: what is asked for is what comes out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use enginehouse::artifacts::{Artifacts, Take};
use enginehouse::clock::{Clock, Timestamp};
use enginehouse::config::MediaConfig;
use enginehouse::engines::animatic::Animatic;
use enginehouse::engines::{EngineOptions, Engines, JobKey, JobResult, NewJob, Request};
use enginehouse::media::frames::{Fit, Frame, FrameReader, FrameWriter, PixelFormat, VideoSpec};
use enginehouse::media::{Kind, Media, Probe, Tools};
use enginehouse::task::{Failure, FailureClass, FileRef, TaskId};
use image::{Rgb, RgbImage};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const CEILING: Duration = Duration::from_secs(120);

struct House {
    home: TempDir,
    media: Media,
    artifacts: Artifacts,
    engines: Arc<Engines>,
    task: TaskId,
}

impl House {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let media = Media::new(Tools::from(&MediaConfig::default()));
        let artifacts = Artifacts::open(&home.path().join("data"), &home.path().join("outputs")).unwrap();
        let engines = Engines::new(EngineOptions {
            jobs: home.path().join("data/jobs"),
            artifacts: artifacts.clone(),
            clock: Clock::system(),
            comfyui: Err("No ComfyUI here.".into()),
            wan2gp: Ok(Arc::new(Animatic::new(media.clone()))),
            job_limit: CEILING,
            cancel_grace: CEILING,
        });
        Self { home, media, artifacts, engines, task: TaskId::random() }
    }

    async fn submit(&self, seq: u64, settings: Value, said: Arc<Mutex<Vec<String>>>) -> JobKey {
        let settings = settings.as_object().unwrap().clone();
        let job = NewJob {
            key: JobKey { task: self.task, attempt: 1, seq },
            request: Request::Generation { settings, model_overrides: Map::new() },
            label: None,
            priority: 0,
            created_at: Timestamp(0),
            report: Arc::new(move |_, words| said.lock().unwrap().push(words)),
            log: Arc::new(|_, _| ()),
        };
        self.engines.submit(job).await.unwrap()
    }

    async fn run(&self, seq: u64, settings: Value) -> Result<JobResult, Failure> {
        let key = self.submit(seq, settings, Arc::default()).await;
        tokio::time::timeout(CEILING, self.engines.wait(key, None)).await.unwrap()
    }

    /// The only output of a request.
    async fn render(&self, seq: u64, settings: Value) -> FileRef {
        let mut outputs = self.run(seq, settings).await.unwrap().outputs;
        assert_eq!(outputs.len(), 1);
        outputs.remove(0)
    }

    async fn probe(&self, file: &FileRef) -> Probe {
        self.media.probe(&self.artifacts.path(file.artifact).unwrap()).await.unwrap()
    }

    async fn frames(&self, file: &FileRef) -> Vec<RgbImage> {
        let (path, facts) = (self.artifacts.path(file.artifact).unwrap(), self.probe(file).await);
        let (width, height) = (facts.width, facts.height);
        let format = PixelFormat::Rgb24;
        let mut reader = FrameReader::open(&self.media, &path, width, height, format, Fit::Stretch).await.unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            frames.push(RgbImage::from_raw(width, height, frame.data).unwrap());
        }
        frames
    }

    /// The frames of an input, as coding has left them.
    async fn decoded(&self, input: &Value) -> Vec<RgbImage> {
        let artifact = input["$artifact"].as_str().unwrap().parse().unwrap();
        self.frames(&FileRef { artifact, name: String::new(), media_type: String::new() }).await
    }

    async fn import(&self, path: &Path) -> Value {
        let file = self.artifacts.import_file(path, "input", Take::Move).await.unwrap();
        json!({"$artifact": file.artifact.to_string()})
    }

    async fn picture(&self, picture: &RgbImage) -> Value {
        let path = self.scratch("png");
        picture.save(&path).unwrap();
        self.import(&path).await
    }

    async fn video(&self, frames: &[RgbImage], fps: f64) -> Value {
        let (width, height) = frames[0].dimensions();
        let path = self.scratch("mp4");
        let spec = VideoSpec { width, height, fps, format: PixelFormat::Rgb24, crf: 18, lossless: false };
        let mut writer = FrameWriter::create(&self.media, &path, spec).await.unwrap();
        for frame in frames {
            let data = frame.as_raw().clone();
            writer.write(&Frame { format: PixelFormat::Rgb24, width, height, data }).await.unwrap();
        }
        writer.finish().await.unwrap();
        self.import(&path).await
    }

    fn scratch(&self, extension: &str) -> PathBuf {
        self.home.path().join(format!("{}.{extension}", uuid::Uuid::new_v4()))
    }
}

fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(width, height, Rgb(colour))
}

/// A picture in which no two places look alike.
fn scenery(width: u32, height: u32, shift: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let part = |v: u32, of: u32| (v * 255 / of.max(1)).min(255) as u8;
        Rgb([part((x + shift) % width, width), part(y, height), part((x + y) / 2, width.max(height))])
    })
}

/// The largest mean difference of any 8x8 block outside the corner where the word stands.
fn difference(one: &RgbImage, other: &RgbImage) -> f64 {
    assert_eq!(one.dimensions(), other.dimensions());
    let (width, height) = one.dimensions();
    let mut worst = 0.0_f64;
    for top in (0..height - 7).step_by(8) {
        for left in (0..width - 7).step_by(8) {
            if left < 80 && top < 24 {
                continue;
            }
            let mut sum = 0.0;
            for (x, y) in (0..64).map(|i| (left + i % 8, top + i / 8)) {
                for channel in 0..3 {
                    sum += f64::from(one.get_pixel(x, y).0[channel].abs_diff(other.get_pixel(x, y).0[channel]));
                }
            }
            worst = worst.max(sum / 192.0);
        }
    }
    worst
}

/// Whether the plate with the word stands in the corner: dark, with something light on it.
fn carries_the_word(frame: &RgbImage) -> bool {
    let corner: Vec<u8> =
        (0..14).flat_map(|y| (0..56).map(move |x| (x, y))).map(|(x, y)| frame.get_pixel(x, y).0[1]).collect();
    let dark = corner.iter().filter(|v| **v < 70).count();
    let light = corner.iter().filter(|v| **v > 150).count();
    dark * 2 > corner.len() && light * 20 > corner.len()
}

/// Coding moves values a little.
const CODING: f64 = 6.0;

#[tokio::test]
async fn frames_size_and_rate_are_exactly_as_asked() {
    let house = House::new();
    for (seq, settings, frames, size, fps) in [
        (1, json!({"resolution": "96x48", "video_length": 9, "prompt": "tiny"}), 9, (96, 48), 16.0),
        (2, json!({"resolution": "97x49", "video_length": 5, "force_fps": "25"}), 5, (97, 49), 25.0),
        (3, json!({"resolution": "128x256", "video_length": "1s", "model": "hunyuan"}), 25, (128, 256), 24.0),
        (
            4,
            json!({"resolution": "64x64", "video_length": 1, "_source_task_type": "travel_segment"}),
            1,
            (64, 64),
            16.0,
        ),
    ] {
        let file = house.render(seq, settings).await;
        assert!(file.name.ends_with(".mp4"));
        assert_eq!(file.media_type, "video/mp4");
        let facts = house.probe(&file).await;
        assert_eq!((facts.kind, facts.frames, (facts.width, facts.height)), (Kind::Video, frames, size));
        assert!((facts.fps - fps).abs() < 0.01, "{}", facts.fps);
    }
}

#[tokio::test]
async fn a_video_goes_from_its_start_image_to_its_end_image() {
    let house = House::new();
    let (red, blue) = (plain(160, 96, [200, 30, 30]), plain(160, 96, [30, 30, 200]));
    let settings = json!({
        "resolution": "160x96", "video_length": 9,
        "image_start": house.picture(&red).await, "image_end": house.picture(&blue).await,
    });
    let frames = house.frames(&house.render(1, settings).await).await;
    // Halfway up the right side stands neither word nor caption.
    let reds: Vec<u8> = frames.iter().map(|frame| frame.get_pixel(150, 40).0[0]).collect();
    assert!(reds[0] > 190 && reds[8] < 40, "{reds:?}");
    assert!(reds.is_sorted_by(|a, b| a >= b), "{reds:?}");
    assert!((100..130).contains(&reds[4]), "{reds:?}");
}

#[tokio::test]
async fn a_continued_video_begins_with_its_source_and_repeats_only_the_overlap() {
    let house = House::new();
    let source: Vec<RgbImage> = (0..9).map(|i| scenery(160, 96, i * 4)).collect();
    let input = house.video(&source, 16.0).await;
    let decoded = house.decoded(&input).await;
    for (seq, overlap, total) in [(1, None, 9 + 13 - 4), (2, Some(1), 9 + 13 - 1), (3, Some(0), 9 + 13)] {
        let settings = json!({
            "resolution": "160x96", "video_length": 13, "video_source": input, "sliding_window_overlap": overlap,
        });
        let frames = house.frames(&house.render(seq, settings).await).await;
        assert_eq!(frames.len(), total);
        for (frame, decoded) in frames.iter().zip(&decoded) {
            let off = difference(frame, decoded);
            assert!(off < CODING, "{off}");
        }
        assert!(difference(&frames[9], &decoded[8]) > CODING, "the first new frame is captioned");
        assert!(frames.iter().all(carries_the_word));
    }
}

#[tokio::test]
async fn frames_that_the_mask_keeps_are_the_guides_and_the_others_are_not() {
    let house = House::new();
    let (grey, black, white) = (plain(160, 96, [128; 3]), plain(160, 96, [0; 3]), plain(160, 96, [255; 3]));
    let kept = |i: usize| i < 3 || i == 12;
    let guide: Vec<RgbImage> =
        (0..13).map(|i| if kept(i) { scenery(160, 96, i as u32 * 9) } else { grey.clone() }).collect();
    let mask: Vec<RgbImage> = (0..13).map(|i| if kept(i) { black.clone() } else { white.clone() }).collect();
    let guide = house.video(&guide, 16.0).await;
    let settings = json!({
        "model": "vace_14B", "resolution": "160x96", "video_length": 13, "video_prompt_type": "VM",
        "video_guide": guide, "video_mask": house.video(&mask, 16.0).await,
    });
    let guide = house.decoded(&guide).await;
    let frames = house.frames(&house.render(1, settings).await).await;
    assert_eq!(frames.len(), 13);
    for (i, (frame, guide)) in frames.iter().zip(&guide).enumerate() {
        let off = difference(frame, guide);
        assert_eq!(off < CODING, kept(i), "frame {i} is off by {off}");
        assert!(carries_the_word(frame), "frame {i}");
    }
    // What is generated leads from the last kept frame to the next: it is no grey.
    let mean = |frame: &RgbImage| f64::from(frame.get_pixel(20, 48).0[0]);
    assert!((mean(&frames[3]) - mean(&frames[2])).abs() < 30.0);
    assert!((mean(&frames[11]) - mean(&frames[12])).abs() < 30.0);
}

#[tokio::test]
async fn a_mask_divides_a_frame_where_it_is_drawn() {
    let house = House::new();
    let guide = scenery(160, 96, 0);
    let mask = RgbImage::from_fn(160, 96, |x, _| Rgb(if x < 80 { [0; 3] } else { [255; 3] }));
    let settings = json!({
        "model": "vace_14B", "resolution": "160x96", "video_length": 5, "video_guide":
        house.video(&vec![guide.clone(); 5], 16.0).await, "video_mask": house.video(&vec![mask; 5], 16.0).await,
    });
    for frame in house.frames(&house.render(1, settings).await).await {
        let half = |picture: &RgbImage, x| image::imageops::crop_imm(picture, x, 0, 72, 96).to_image();
        assert!(difference(&half(&frame, 0), &half(&guide, 0)) < CODING);
        assert!(difference(&half(&frame, 88), &half(&guide, 88)) > CODING);
    }
}

#[tokio::test]
async fn image_models_and_single_frames_give_pictures() {
    let house = House::new();
    for (seq, settings) in [
        (1, json!({"model": "qwen_image_edit_20B", "resolution": "120x80", "prompt": "a"})),
        (2, json!({"model": "t2v_2_2", "video_length": 1, "resolution": "120x80"})),
        (3, json!({"model": "t2v", "image_mode": 1, "resolution": "120x80"})),
    ] {
        let file = house.render(seq, settings).await;
        assert_eq!(file.media_type, "image/png");
        let facts = house.probe(&file).await;
        assert_eq!((facts.kind, facts.width, facts.height), (Kind::Picture, 120, 80));
        assert!(carries_the_word(&house.frames(&file).await[0]));
    }
    let batch = json!({"model": "flux", "resolution": "120x80", "batch_size": 3});
    let outputs = house.run(4, batch).await.unwrap().outputs;
    assert_eq!(outputs.len(), 3);
    assert_ne!(outputs[0].artifact, outputs[1].artifact);
    assert!(!outputs[0].name.contains('_') || outputs[0].name == "flux_seed-1.png", "{}", outputs[0].name);
}

#[tokio::test]
async fn equal_requests_give_equal_files() {
    let mut digests = Vec::new();
    for attempt in 0..2 {
        let house = House::new();
        let source: Vec<RgbImage> = (0..6).map(|i| scenery(160, 96, i * 4)).collect();
        let settings = json!({
            "resolution": "160x96", "video_length": 12, "prompt": "a fox in the snow", "seed": 7, "label": "segment 1",
            "image_end": house.picture(&scenery(90, 90, 5)).await, "video_source": house.video(&source, 16.0).await,
        });
        let video = house.render(1 + attempt, settings).await;
        let picture =
            house.render(5 + attempt, json!({"model": "flux", "prompt": "a fox", "resolution": "96x96"})).await;
        digests.push((video.artifact, picture.artifact));
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn a_running_job_is_cancelled_within_a_second() {
    let house = House::new();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let long = json!({"resolution": "832x480", "video_length": 20_000, "prompt": "long"});
    let key = house.submit(1, long, said.clone()).await;
    tokio::time::timeout(CEILING, async {
        while said.lock().unwrap().is_empty() || house.engines.status().running.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let begun = Instant::now();
    house.engines.cancel(key).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(house.engines.wait(key, None).await.unwrap_err().class, FailureClass::Cancelled);
    println!("cancelled in {took:?}");
    // Promised is a second; the ceiling allows for a machine that is busy otherwise.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(!house.home.path().join(format!("data/jobs/{}/1-1/result.json", house.task)).exists());
    house.render(2, json!({"resolution": "64x64", "video_length": 5})).await;
}

#[tokio::test]
async fn progress_counts_frames() {
    let house = House::new();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let key = house.submit(1, json!({"resolution": "64x64", "video_length": 5}), said.clone()).await;
    house.engines.wait(key, None).await.unwrap();
    let said = said.lock().unwrap().clone();
    assert_eq!(said.last().unwrap(), "frame 5 of 5");
    assert!(said.contains(&"frame 2 of 5".to_string()), "{said:?}");
}

#[tokio::test]
async fn what_cannot_be_rendered_is_refused_by_name() {
    let house = House::new();
    let absent = json!({"$artifact": format!("sha256:{}", "0".repeat(64))});
    let path = house.scratch("png");
    std::fs::write(&path, "no picture").unwrap();
    let broken = house.import(&path).await;
    for (seq, settings, code, key) in [
        (1, json!({"resolution": "big"}), "invalid_settings", "`resolution`"),
        (2, json!({"video_length": -1}), "invalid_settings", "`video_length`"),
        (3, json!({"image_start": "a.png"}), "invalid_settings", "`image_start`"),
        (4, json!({"model_name": "vace_14B"}), "input_missing", "`video_guide`"),
        (5, json!({"image_end": absent}), "artifact_not_found", "`image_end`"),
        (6, json!({"video_source": broken}), "unreadable_media", "`video_source`"),
    ] {
        let failure = house.run(seq, settings.clone()).await.unwrap_err();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::InvalidInput, code), "{settings}");
        assert!(failure.message.contains(key), "{}", failure.message);
    }
}
