//! Timelines through real ffmpeg: the file that comes out has exactly the frames that were asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enginehouse::digest::Digest;
use enginehouse::media::frames::{Fit, Frame, PixelFormat, VideoSpec};
use enginehouse::media::{Kind, Media, Rendered};
use enginehouse::task::Failure;
use enginehouse_tests::numbered::{
    ffmpeg, media, media_with, middle, near, number, numbers, read, rgb, spec, video, write,
};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Sources by name, and a folder for results.
struct Bench {
    folder: TempDir,
    results: TempDir,
    files: HashMap<Digest, PathBuf>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), results: tempfile::tempdir().unwrap(), files: HashMap::new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Names a file for timelines.
    fn add(&mut self, file: &Path) -> Value {
        let digest = Digest::of(file.as_os_str().as_encoded_bytes());
        self.files.insert(digest, file.to_path_buf());
        json!({"$artifact": digest})
    }

    /// A video of numbered frames.
    async fn video(&mut self, name: &str, fps: f64, frames: std::ops::Range<u64>) -> Value {
        let file = video(&self.at(name), (96, 64), fps, frames).await.unwrap();
        self.add(&file)
    }

    /// A video without loss whose frames are even grey of these luma values.
    async fn greys(&mut self, name: &str, lumas: impl IntoIterator<Item = u8>) -> Value {
        let frames = lumas.into_iter().map(|luma| {
            let mut data = vec![128; PixelFormat::Yuv420p.frame_bytes(32, 32)];
            data[..32 * 32].fill(luma);
            Frame { format: PixelFormat::Yuv420p, width: 32, height: 32, data }
        });
        let spec = VideoSpec { lossless: true, ..spec(32, 32, 16.0) };
        let file = write(&self.at(name), spec, frames).await.unwrap();
        self.add(&file)
    }

    fn still(&mut self, name: &str, picture: &RgbImage) -> Value {
        let file = self.at(name);
        picture.save(&file).unwrap();
        self.add(&file)
    }

    async fn try_with(&self, media: &Media, timeline: Value) -> Result<Rendered, Failure> {
        let find = |digest| Ok(self.files.get(&digest).expect("a known file").clone());
        media.render(&timeline, &find, self.results.path()).await
    }

    async fn render(&self, timeline: Value) -> Rendered {
        self.try_with(&media(), timeline).await.unwrap()
    }

    async fn fails(&self, timeline: Value) -> Failure {
        let failure = self.try_with(&media(), timeline).await.unwrap_err();
        assert_eq!(std::fs::read_dir(self.results.path()).unwrap().count(), 0, "a failure leaves nothing behind");
        failure
    }

    /// The middle luma of every frame of a render without loss.
    async fn lumas(&self, mut timeline: Value) -> Vec<u8> {
        timeline["output"]["lossless"] = true.into();
        let made = self.render(timeline).await;
        let frames = read(&made.path, (32, 32), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap();
        assert_eq!(frames.len() as u64, made.frames);
        frames.iter().map(|frame| frame.data[16 * 32 + 16]).collect()
    }
}

#[tokio::test]
async fn ranges_are_exact_to_the_frame() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 24.0, 0..30).await;
    for (clip, want) in [
        (json!({"video": a}), (0..30).collect()),
        (json!({"video": a, "start": 7, "frames": 5}), vec![7, 8, 9, 10, 11]),
        (json!({"video": a, "start": 28}), vec![28, 29]),
        (json!({"video": a, "frames": 9, "from_end": true}), (21..30).collect()),
        (json!({"video": a, "start": 26, "from_end": true}), vec![0, 1, 2, 3]),
        (json!({"video": a, "start": 2, "frames": 3, "from_end": true}), vec![25, 26, 27]),
        (json!({"video": a, "frames": 6, "reverse": true}), vec![5, 4, 3, 2, 1, 0]),
        (json!({"video": a, "frames": 3, "from_end": true, "reverse": true}), vec![29, 28, 27]),
        (json!({"video": a, "fps": 16, "frames": 7}), vec![0, 2, 3, 5, 6, 8, 9]),
        (json!({"video": a, "fps": 36, "start": 1, "frames": 6}), vec![1, 1, 2, 3, 3, 4]),
        (json!({"video": a, "fps": 48, "frames": 4, "from_end": true, "reverse": true}), vec![29, 29, 29, 28]),
    ] {
        let made = bench.render(json!({"clips": [clip]})).await;
        assert_eq!(numbers(&made.path).await.unwrap(), want, "{clip}");
        assert_eq!((made.kind, made.frames, made.width, made.height), (Kind::Video, want.len() as u64, 96, 64));
        let fps = clip["fps"].as_f64().unwrap_or(24.0);
        assert_eq!(made.fps, fps, "{clip}");
    }
}

#[tokio::test]
async fn sixteen_frames_a_second_become_twenty_four_and_back() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 16.0, 0..32).await;
    let up = bench.render(json!({"clips": [{"video": a, "fps": 24}]})).await;
    assert_eq!((up.frames, up.fps), (48, 24.0));
    let frames = numbers(&up.path).await.unwrap();
    assert_eq!(frames[..7], [0, 1, 1, 2, 3, 3, 4]);
    let up = bench.add(&up.path);
    let down = bench.render(json!({"clips": [{"video": up, "fps": 16}]})).await;
    assert_eq!((down.frames, down.fps), (32, 16.0));
}

#[tokio::test]
async fn clips_follow_each_other_with_stills_and_colours_between() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 16.0, 0..5).await;
    let b = bench.video("b.mp4", 30.0, 100..103).await;
    let still = bench.still("s.png", &RgbImage::from_pixel(40, 40, Rgb([200, 30, 60])));
    let made = bench
        .render(json!({
            "output": {"name": "joined"},
            "clips": [{"video": a}, {"color": "#808080", "frames": 3}, {"still": still, "frames": 2}, {"video": b}]
        }))
        .await;
    assert_eq!((made.frames, made.fps, made.name.as_str()), (13, 16.0, "joined.mp4"));
    let frames = rgb(&made.path).await.unwrap();
    assert_eq!(frames.len(), 13);
    for (i, frame) in frames.iter().enumerate() {
        match i {
            0..5 => assert_eq!(number(frame), i as u64),
            5..8 => assert!(near(&middle(frame), &[128; 3], 2), "{i}: {:?}", middle(frame)),
            8..10 => assert!(near(&middle(frame), &[200, 30, 60], 4), "{i}: {:?}", middle(frame)),
            _ => assert_eq!(number(frame), 90 + i as u64),
        }
    }
}

#[tokio::test]
async fn a_guide_and_its_mask_are_what_an_engine_expects() {
    let mut bench = Bench::new();
    let before = bench.greys("before.mp4", (0..20).map(|i| 40 + i * 4)).await;
    let end = bench.still("end.png", &RgbImage::from_pixel(32, 32, Rgb([128; 3])));
    let guide = json!({"output": {"width": 32, "height": 32, "fps": 16}, "clips": [
        {"video": before, "frames": 4, "from_end": true, "adjust": {"grey_mix": 0.5, "brightness": -0.1}},
        {"color": "#808080", "frames": 12},
        {"still": end}
    ]});
    let lumas = bench.lumas(guide).await;
    assert_eq!(lumas.len(), 17);
    for (i, luma) in lumas[..4].iter().enumerate() {
        let value = (104.0 + 4.0 * i as f64 - 16.0) * 255.0 / 219.0;
        let want = 16.0 + (value * 0.5 + 64.0) * 0.9 * 219.0 / 255.0;
        assert!((f64::from(*luma) - want).abs() <= 1.5, "{i}: {luma}, not {want}");
    }
    assert_eq!(lumas[4..], [126; 13], "grey 128, whether colour or picture");
    let mask = json!({"output": {"width": 32, "height": 32, "fps": 16}, "clips": [
        {"color": "#000000", "frames": 4}, {"color": "#ffffff", "frames": 12}, {"color": "#000000"}
    ]});
    assert_eq!(bench.lumas(mask).await, [vec![16; 4], vec![235; 12], vec![16]].concat());
}

/// What cross-fades are by their definition: the last frames of the result so far go, and blends of the two sources come.
fn stitched(clips: &[Vec<f64>], fades: &[usize], linear: bool) -> Vec<f64> {
    let mut result = clips[0].clone();
    for (pair, n) in clips.windows(2).zip(fades) {
        let (a, b) = (&pair[0], &pair[1]);
        result.truncate(result.len() - n);
        for i in 0..*n {
            let t = (i + 1) as f64 / *n as f64;
            let w = if linear { t } else { (1.0 - (std::f64::consts::PI * t).cos()) / 2.0 };
            result.push(a[a.len() - n + i] * (1.0 - w) + b[i] * w);
        }
        result.extend(&b[*n..]);
    }
    result
}

#[tokio::test]
async fn fades_are_as_defined_also_where_two_meet_in_a_short_clip() {
    let mut bench = Bench::new();
    let ramps = [(40u8, 12usize), (200, 6), (90, 15), (60, 4)];
    let mut artifacts = Vec::new();
    let mut values = Vec::new();
    for (i, (from, length)) in ramps.into_iter().enumerate() {
        let lumas: Vec<u8> = (0..length as u8).map(|step| from + step).collect();
        artifacts.push(bench.greys(&format!("{i}.mp4"), lumas.clone()).await);
        values.push(lumas.iter().map(|luma| f64::from(*luma)).collect::<Vec<_>>());
    }
    let clips: Vec<Value> = artifacts.iter().map(|artifact| json!({"video": artifact})).collect();
    for (fades, curve) in [([4, 4, 0], "cosine"), ([5, 6, 4], "linear"), ([1, 1, 1], "cosine"), ([0, 3, 2], "linear")] {
        let list: Vec<Value> = (0..3).map(|i| json!({"after": i, "frames": fades[i], "curve": curve})).collect();
        let got = bench.lumas(json!({"clips": clips, "fades": list})).await;
        let want = stitched(&values, &fades, curve == "linear");
        assert_eq!(got.len(), want.len(), "{fades:?}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((f64::from(*got) - want).abs() <= 0.75, "{fades:?} {curve}, frame {i}: {got}, not {want}");
        }
    }
}

#[tokio::test]
async fn a_sharpened_blend_is_that_of_the_definition() {
    let mut bench = Bench::new();
    let pattern = |shift: usize| -> Vec<u8> {
        (0..48 * 32).map(|i| if (i % 48 + shift) / 12 % 2 == 1 { 150 } else { 70 }).collect()
    };
    let mut make = async |name: &str, luma: &[u8]| {
        let mut data = vec![128; PixelFormat::Yuv420p.frame_bytes(48, 32)];
        data[..luma.len()].copy_from_slice(luma);
        let frame = Frame { format: PixelFormat::Yuv420p, width: 48, height: 32, data };
        let spec = VideoSpec { lossless: true, ..spec(48, 32, 16.0) };
        let file = write(&bench.at(name), spec, [frame]).await.unwrap();
        bench.add(&file)
    };
    let (a, b) = (pattern(0), pattern(7));
    let clips = [json!({"video": make("a.mp4", &a).await}), json!({"video": make("b.mp4", &b).await})];
    let fade = json!({"after": 0, "frames": 1, "curve": "linear", "sharpen": 0.6});
    let made = bench.render(json!({"output": {"lossless": true}, "clips": clips, "fades": [fade]})).await;
    let got = read(&made.path, (48, 32), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap().remove(0);
    // Weight 1: the later picture, sharpened. The straight sum over a square, mirrored at the border.
    let mirror = |at: i32, length: i32| {
        if at < 0 {
            -at
        } else if at >= length {
            2 * length - 2 - at
        } else {
            at
        }
    };
    let bell = |d: i32| (-f64::from(d * d) / 18.0).exp();
    for (x, y) in [(0, 0), (11, 5), (12, 16), (24, 31), (47, 20)] {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (dx, dy) in (-12..=12).flat_map(|dx| (-12..=12).map(move |dy| (dx, dy))) {
            let weight = bell(dx) * bell(dy);
            weights += weight;
            sum += weight * f64::from(b[(mirror(y + dy, 32) * 48 + mirror(x + dx, 48)) as usize]);
        }
        let at = (y * 48 + x) as usize;
        let want = (1.6 * f64::from(b[at]) - 0.6 * sum / weights).clamp(16.0, 235.0);
        assert!((f64::from(got.data[at]) - want).abs() <= 0.75, "{x},{y}: {}, not {want}", got.data[at]);
    }
}

#[tokio::test]
async fn adjustments_follow_their_formulas_in_video_too() {
    let mut bench = Bench::new();
    let still = bench.still("s.png", &RgbImage::from_pixel(64, 48, Rgb([200, 100, 50])));
    for (adjust, want) in [
        (json!({"grey_mix": 0.25}), [182, 107, 70]),
        (json!({"desaturate": 0.5}), [159, 109, 84]),
        (json!({"brightness": 0.5}), [255, 150, 75]),
        (json!({"saturation": 0}), [118, 118, 118]),
        (json!({"saturation": 1.5}), [241, 91, 16]),
    ] {
        let clips = json!([{"still": still, "adjust": adjust, "frames": 2}]);
        let picture = bench.render(json!({"output": {"kind": "picture"}, "clips": clips})).await;
        let seen = middle(&rgb(&picture.path).await.unwrap()[0]);
        assert!(near(&seen, &want, 1), "{adjust}: {seen:?}, not {want:?}");
        let video = bench.render(json!({"output": {"crf": 8}, "clips": clips})).await;
        let seen = middle(&rgb(&video.path).await.unwrap()[1]);
        assert!(near(&seen, &want, 4), "{adjust}: {seen:?}, not {want:?}");
    }
}

#[tokio::test]
async fn a_frame_of_a_video_comes_out_as_a_picture() {
    let mut bench = Bench::new();
    let file = video(&bench.at("a.mp4"), (97, 65), 24.0, 0..20).await.unwrap();
    let a = bench.add(&file);
    let last = json!({"output": {"kind": "picture", "name": "last.png"}, "clips": [{"video": a, "frames": 1, "from_end": true}]});
    let made = bench.render(last).await;
    assert_eq!((made.kind, made.frames, made.width, made.height), (Kind::Picture, 1, 97, 65));
    assert_eq!(made.name, "last.png");
    let decoded = rgb(&file).await.unwrap();
    assert_eq!(rgb(&made.path).await.unwrap()[0].data, decoded[19].data, "nothing is lost beyond decoding");
    let png = image::load_from_memory(&media().frame_png(&file, 7).await.unwrap()).unwrap().to_rgb8();
    assert_eq!((png.dimensions(), png.as_raw()), ((97, 65), &decoded[7].data));
    assert_eq!(media().frame_png(&file, 20).await.unwrap_err().code, "range_outside_source");
}

#[tokio::test]
async fn odd_sizes_are_kept() {
    let mut bench = Bench::new();
    let file = video(&bench.at("odd.mp4"), (95, 63), 10.0, 0..6).await.unwrap();
    let odd = bench.add(&file);
    let made = bench
        .render(json!({"clips": [{"video": odd, "reverse": true}, {"color": "#ff0000"}],
                                   "fades": [{"after": 0, "frames": 1}]}))
        .await;
    assert_eq!((made.frames, made.width, made.height), (6, 95, 63));
    assert_eq!(numbers(&made.path).await.unwrap()[..5], [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn sound_is_cut_or_filled_to_the_length_of_the_video() {
    let mut bench = Bench::new();
    for (name, seconds) in [("short.wav", 0.5), ("long.wav", 4.0)] {
        let file = bench.at(name);
        ffmpeg(&format!("-f lavfi -i sine=d={seconds}"), &file).unwrap();
        let audio = bench.add(&file);
        let silent =
            json!({"output": {"width": 64, "height": 64, "fps": 16}, "clips": [{"color": "#102030", "frames": 32}]});
        let mut loud = silent.clone();
        loud["audio"] = audio;
        let (silent, loud) = (bench.render(silent).await, bench.render(loud).await);
        let facts = media().probe(&loud.path).await.unwrap();
        assert_eq!((facts.frames, facts.has_audio), (32, true));
        assert!((facts.seconds - 2.0).abs() < 0.05, "{name}: {} s", facts.seconds);
        let data = async |path| rgb(path).await.unwrap();
        assert_eq!(data(&loud.path).await, data(&silent.path).await, "frames are not encoded again");
    }
    let mute = bench.video("mute.mp4", 16.0, 0..3).await;
    let failure = bench.try_with(&media(), json!({"clips": [{"video": mute}], "audio": mute})).await.unwrap_err();
    assert_eq!(failure.code, "no_sound");
}

#[tokio::test]
async fn equal_timelines_give_equal_files() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 16.0, 0..20).await;
    let b = bench.video("b.mp4", 16.0, 50..70).await;
    let timeline = json!({
        "clips": [{"video": a, "reverse": true}, {"video": b, "adjust": {"saturation": 1.2}}],
        "fades": [{"after": 0, "frames": 6, "sharpen": 0.3}]
    });
    let (first, second) = (bench.render(timeline.clone()).await, bench.render(timeline).await);
    assert!(std::fs::read(first.path).unwrap() == std::fs::read(second.path).unwrap());
}

#[tokio::test]
async fn what_cannot_be_rendered_is_refused_and_leaves_nothing() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 16.0, 0..10).await;
    let text = bench.at("t.txt");
    std::fs::write(&text, "no video").unwrap();
    let text = bench.add(&text);
    let clip = json!({"video": a});
    for (timeline, code, words) in [
        (json!({"clips": [{"video": a, "start": 3, "frames": 8}]}), "range_outside_source", "10 frames"),
        (json!({"clips": [{"video": a, "fps": 8, "frames": 6}]}), "range_outside_source", "5 frames at this rate"),
        (json!({"clips": [{"video": a, "start": 10}]}), "range_outside_source", "/clips/0"),
        (json!({"clips": [clip, clip], "fades": [{"after": 0, "frames": 11}]}), "invalid_timeline", "no more than"),
        (json!({"clips": [{"color": "#000000"}]}), "invalid_timeline", "/output/width"),
        (json!({"clips": [{"still": text}]}), "unreadable_media", "/clips/0"),
    ] {
        let failure = bench.fails(timeline).await;
        assert_eq!(failure.code, code);
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let few = media_with(|tools| tools.frames = 100);
    let long = json!({"output": {"width": 16, "height": 16}, "clips": [{"color": "#000000", "frames": 101}]});
    assert_eq!(bench.try_with(&few, long).await.unwrap_err().code, "media_too_large");
}

#[tokio::test]
async fn a_render_that_nobody_waits_for_ends_its_programs_and_leaves_nothing() {
    let mut bench = Bench::new();
    let a = bench.video("a.mp4", 16.0, 0..5).await;
    let endless = json!({"output": {"width": 1280, "height": 720},
                         "clips": [{"video": a}, {"color": "#123456", "frames": 150_000}]});
    let results = bench.results.path().to_string_lossy().into_owned();
    let encoders = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter(|p| {
                std::fs::read(p.path().join("cmdline"))
                    .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&results))
            })
            .count()
    };
    let until = async |wanted: usize| {
        for _ in 0..1000 {
            if encoders() == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        panic!("{} encoders are alive, not {wanted}", encoders());
    };
    let media = media();
    tokio::select! {
        made = bench.try_with(&media, endless) => panic!("ended early: {made:?}"),
        () = until(1) => {}
    }
    until(0).await;
    assert_eq!(std::fs::read_dir(bench.results.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn lossless_videos_hold_the_frames_that_went_in() {
    let mut bench = Bench::new();
    let file = video(&bench.at("a.mp4"), (96, 64), 16.0, 0..4).await.unwrap();
    let a = bench.add(&file);
    let made = bench.render(json!({"output": {"lossless": true}, "clips": [{"video": a}]})).await;
    let frames = async |path| read(path, (96, 64), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap();
    assert_eq!(frames(&made.path).await, frames(&file).await);
}
