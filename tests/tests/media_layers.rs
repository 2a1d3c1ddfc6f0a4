//! Layers through real ffmpeg: what lies over the frames of a timeline lies in the right place, at the right time, and on
//! nothing else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enginehouse::digest::Digest;
use enginehouse::media::frames::{Fit, Frame, PixelFormat, VideoSpec};
use enginehouse::media::{Kind, Media, Rendered};
use enginehouse::task::Failure;
use enginehouse_tests::numbered::{
    ffmpeg, media, media_with, near, number, numbered, pixel, read, rgb, spec, video, write,
};
use enginehouse_tests::pictures::{solid, with_alpha};
use image::{Rgba, RgbaImage};
use serde_json::{Value, json};
use tempfile::TempDir;

const WIDTH: u32 = 96;
const HEIGHT: u32 = 64;

const RED: [u8; 3] = [255, 0, 0];
const BLUE: [u8; 3] = [0, 0, 255];

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

    fn add(&mut self, file: &Path) -> Value {
        let digest = Digest::of(file.as_os_str().as_encoded_bytes());
        self.files.insert(digest, file.to_path_buf());
        json!({"$artifact": digest})
    }

    /// A video of numbered frames, without loss.
    async fn video(&mut self, name: &str, frames: std::ops::Range<u64>) -> Value {
        let spec = VideoSpec { lossless: true, ..spec(WIDTH, HEIGHT, 16.0) };
        let frames = frames.map(|n| numbered(n, WIDTH, HEIGHT));
        let file = write(&self.at(name), spec, frames).await.unwrap();
        self.add(&file)
    }

    fn still(&mut self, name: &str, width: u32, height: u32, colour: [u8; 3]) -> Value {
        let file = self.at(name);
        solid(width, height, colour).save(&file).unwrap();
        self.add(&file)
    }

    async fn try_with(&self, media: &Media, timeline: &Value) -> Result<Rendered, Failure> {
        let find = |digest| Ok(self.files.get(&digest).expect("a known file").clone());
        media.render(timeline, &find, self.results.path()).await
    }

    async fn render(&self, timeline: &Value) -> Rendered {
        self.try_with(&media(), timeline).await.unwrap()
    }

    /// A picture of this size that holds nothing but layers on black.
    async fn picture(&self, size: (u32, u32), layers: Value) -> Frame {
        let timeline = json!({
            "output": {"kind": "picture", "width": size.0, "height": size.1},
            "clips": [{"color": "#000000"}], "layers": layers
        });
        rgb(&self.render(&timeline).await.path).await.unwrap().remove(0)
    }
}

/// The frames of a file as they are stored.
async fn stored(path: &Path) -> Vec<Frame> {
    read(path, (WIDTH, HEIGHT), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap()
}

/// Luma and both chroma values of a pixel.
fn yuv(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
    let luma = frame.width * frame.height;
    let chroma = luma + y / 2 * (frame.width / 2) + x / 2;
    [y * frame.width + x, chroma, chroma + luma / 4].map(|at| frame.data[at as usize])
}

fn pixels(frame: &Frame) -> impl Iterator<Item = (u32, u32, [u8; 3])> + '_ {
    (0..frame.height).flat_map(move |y| (0..frame.width).map(move |x| (x, y, pixel(frame, x, y))))
}

#[tokio::test]
async fn layers_show_from_their_first_frame_to_their_last_and_all_else_stays_to_the_bit() {
    let mut bench = Bench::new();
    let base = bench.video("base.mp4", 0..12).await;
    let made = bench
        .render(&json!({
            "output": {"lossless": true}, "clips": [{"video": base}],
            "layers": [{"rectangle": {"fill": "#ff0000"}, "x": 21, "y": 11, "width": 30, "height": 20,
                        "start": 3, "frames": 4}]
        }))
        .await;
    let (before, after) = (stored(&bench.at("base.mp4")).await, stored(&made.path).await);
    assert_eq!(after.len(), 12);
    for (i, (before, after)) in before.iter().zip(&after).enumerate() {
        if !(3..7).contains(&i) {
            assert_eq!(before, after, "frame {i} is as it was decoded");
            continue;
        }
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let (was, is) = (yuv(before, x, y), yuv(after, x, y));
                if (21..51).contains(&x) && (11..31).contains(&y) {
                    assert_eq!(is[0], 63, "frame {i}, {x} {y} is red");
                } else {
                    assert_eq!(is[0], was[0], "frame {i}, {x} {y} is not covered");
                }
                if !((20..52).contains(&x) && (10..32).contains(&y)) {
                    assert_eq!(is, was, "frame {i}, {x} {y} shares no chroma with what is covered");
                }
            }
        }
        assert_eq!(yuv(after, 30, 20), [63, 102, 240]);
    }
}

#[tokio::test]
async fn videos_run_through_their_range_frame_by_frame() {
    let mut bench = Bench::new();
    let base = bench.video("base.mp4", 200..220).await;
    let inset = bench.video("inset.mp4", 0..30).await;
    let timeline = |source: Value, more: Value| {
        let mut layer = json!({"source": source, "x": 0, "y": 0, "width": WIDTH, "height": 48});
        layer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"output": {"lossless": true}, "clips": [{"video": base}], "layers": [layer]})
    };
    for (source, more, first, want) in [
        (json!({"video": inset, "start": 4, "frames": 3}), json!({"start": 5}), 5, vec![4, 5, 6]),
        (json!({"video": inset}), json!({"start": 17}), 17, vec![0, 1, 2]),
        (json!({"video": inset}), json!({"start": 2, "frames": 2}), 2, vec![0, 1]),
        (json!({"video": inset, "frames": 4, "from_end": true, "reverse": true}), json!({}), 0, vec![29, 28, 27, 26]),
        (json!({"video": inset, "fps": 8, "start": 1}), json!({"frames": 3}), 0, vec![2, 4, 6]),
    ] {
        let made = bench.render(&timeline(source.clone(), more)).await;
        let frames = stored(&made.path).await;
        assert_eq!(frames.len(), 20);
        let end = first + want.len();
        for (i, frame) in frames.iter().enumerate() {
            let wanted = if (first..end).contains(&i) { want[i - first] } else { 200 + i as u64 };
            assert_eq!(number(frame), wanted, "{source} frame {i}");
        }
    }
}

#[tokio::test]
async fn later_layers_cover_earlier_ones_and_opacity_mixes() {
    let mut bench = Bench::new();
    let still = bench.still("red.png", 40, 40, RED);
    let frame = bench
        .picture(
            (100, 60),
            json!([
                {"source": {"still": still}, "x": 10, "y": 10},
                {"rectangle": {"fill": "#0000ff"}, "x": 30, "y": 10, "width": 40, "height": 40, "opacity": 0.25},
                {"source": {"still": still}, "x": 60, "y": 0, "width": 20, "height": 20, "opacity": 0.5},
                {"ellipse": {"fill": "#ffffff"}, "x": 0, "y": 0, "width": 100, "height": 60, "opacity": 0}
            ]),
        )
        .await;
    for ((x, y), want) in [
        ((5, 5), [0, 0, 0]),
        ((15, 20), RED),
        ((40, 30), [191, 0, 64]),
        ((55, 30), [0, 0, 64]),
        ((75, 5), [128, 0, 0]),
        ((65, 15), [128, 0, 32]),
    ] {
        assert!(near(&pixel(&frame, x, y), &want, 3), "{x} {y}: {:?}, not {want:?}", pixel(&frame, x, y));
    }
}

#[tokio::test]
async fn transparent_pixels_let_through_what_lies_below() {
    let mut bench = Bench::new();
    let disc = bench.at("disc.png");
    with_alpha(60, 60).save(&disc).unwrap();
    let disc = bench.add(&disc);
    let half = bench.at("half.png");
    RgbaImage::from_pixel(10, 10, Rgba([200, 100, 40, 128])).save(&half).unwrap();
    let half = bench.add(&half);
    let ground = json!({"rectangle": {"fill": "#0000ff"}, "width": 100, "height": 60});
    let frame = bench
        .picture(
            (100, 60),
            json!([
                ground,
                {"source": {"still": disc}},
                {"source": {"still": half}, "x": 60, "y": 10, "width": 20, "height": 20},
                {"source": {"still": half, "adjust": {"desaturate": 1}}, "x": 80, "y": 10, "width": 20, "height": 20}
            ]),
        )
        .await;
    for ((x, y), want) in [
        ((2, 2), BLUE),
        ((57, 57), BLUE),
        ((30, 30), [220, 180, 40]),
        ((70, 20), [100, 50, 147]),
        // Luma of the colour is 117.
        ((90, 20), [59, 59, 186]),
        ((70, 40), BLUE),
    ] {
        assert!(near(&pixel(&frame, x, y), &want, 4), "{x} {y}: {:?}, not {want:?}", pixel(&frame, x, y));
    }
    // The same over a video: where nothing is seen, nothing changes.
    let base = bench.video("base.mp4", 7..9).await;
    let made = bench
        .render(&json!({"output": {"lossless": true}, "clips": [{"video": base}],
                        "layers": [{"source": {"still": disc}, "x": 18, "y": 2}]}))
        .await;
    let (before, after) = (stored(&bench.at("base.mp4")).await, stored(&made.path).await);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(yuv(before, 20, 4), yuv(after, 20, 4), "inside the picture, outside the disc");
        assert_eq!(yuv(before, 2, 2), yuv(after, 2, 2));
        assert_ne!(yuv(before, 48, 32), yuv(after, 48, 32));
    }
}

#[tokio::test]
async fn transparent_videos_let_through_what_lies_below_in_every_frame() {
    let mut bench = Bench::new();
    let file = bench.at("moving.mov");
    // The left half is transparent in even frames, the right half in odd ones.
    let alpha = "if(eq(mod(N\\,2)\\,lt(X\\,W/2))\\,255\\,0)";
    let source = format!("-f lavfi -i color=red:s=40x20:r=8:d=0.5,format=argb,geq=r=255:g=0:b=0:a={alpha} -c:v qtrle");
    ffmpeg(&source, &file).unwrap();
    let moving = bench.add(&file);
    let made = bench
        .render(&json!({
            "output": {"width": 40, "height": 20, "fps": 8, "lossless": true},
            "clips": [{"color": "#0000ff", "frames": 4}],
            "layers": [{"source": {"video": moving, "reverse": true}}]
        }))
        .await;
    let frames = rgb(&made.path).await.unwrap();
    for (i, frame) in frames.iter().enumerate() {
        let (left, right) = (pixel(frame, 5, 10), pixel(frame, 35, 10));
        // Reversed: the first frame shown is the fourth, an odd one.
        let want = if i % 2 == 0 { (RED, BLUE) } else { (BLUE, RED) };
        assert!(near(&left, &want.0, 4) && near(&right, &want.1, 4), "frame {i}: {left:?} {right:?}");
    }
    assert_eq!(frames.len(), 4);
}

#[tokio::test]
async fn what_lies_partly_outside_is_cut_off() {
    let mut bench = Bench::new();
    let base = bench.video("base.mp4", 5..6).await;
    let still = bench.still("red.png", 40, 40, RED);
    let places = [(-30, -30), (86, 54), (-30, 54), (86, -30), (-40, 0), (0, 64), (-100_000, 100_000)];
    let layers: Vec<Value> = places.iter().map(|(x, y)| json!({"source": {"still": still}, "x": x, "y": y})).collect();
    let made = bench.render(&json!({"output": {"lossless": true}, "clips": [{"video": base}], "layers": layers})).await;
    let (before, after) = (stored(&bench.at("base.mp4")).await, stored(&made.path).await);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let corner = !(10..86).contains(&x) && !(10..54).contains(&y);
            let (was, is) = (yuv(&before[0], x, y), yuv(&after[0], x, y));
            assert!(if corner { near(&is, &[63, 102, 240], 1) } else { is == was }, "{x} {y}: {is:?}");
        }
    }
    // What is cut off is the far side, not the near one.
    let numbers = bench.video("numbers.mp4", 0b1111_0000..0b1111_0001).await;
    let layers = json!([{"source": {"video": numbers}, "x": -48, "y": 0}]);
    let frame = bench.picture((96, 64), layers).await;
    assert!(pixel(&frame, 10, 30)[0] < 80 && pixel(&frame, 40, 30)[0] < 80 && pixel(&frame, 60, 30)[0] == 0);
}

#[tokio::test]
async fn sizes_and_fits_are_as_asked_for() {
    let mut bench = Bench::new();
    let wide = bench.still("wide.png", 40, 20, RED);
    let inked = async |layer: Value| {
        let frame = bench.picture((100, 100), json!([layer])).await;
        let found = pixels(&frame).filter(|(_, _, rgb)| rgb[0] > 128).map(|(x, y, _)| [x, y, x + 1, y + 1]);
        found.reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]).unwrap()
    };
    for (layer, want) in [
        (json!({"x": 3, "y": 5}), [3, 5, 43, 25]),
        (json!({"x": 3, "y": 5, "width": 60}), [3, 5, 63, 35]),
        (json!({"x": 3, "y": 5, "height": 30}), [3, 5, 63, 35]),
        (json!({"x": 3, "y": 5, "width": 50, "height": 50}), [3, 5, 53, 55]),
    ] {
        let mut layer = layer;
        layer["source"] = json!({"still": wide});
        assert_eq!(inked(layer.clone()).await, want, "{layer}");
    }
    let fitted = |fit: &str| json!({"source": {"still": wide, "fit": fit}, "x": 10, "width": 80, "height": 80});
    assert_eq!(inked(fitted("letterbox")).await, [10, 20, 90, 60], "no bars");
    assert_eq!(inked(fitted("crop")).await, [10, 0, 90, 80]);
}

#[tokio::test]
async fn four_stills_side_by_side_make_a_montage() {
    let mut bench = Bench::new();
    let colours = [[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]];
    let stills: Vec<Value> =
        colours.iter().enumerate().map(|(i, c)| bench.still(&format!("{i}.png"), 64, 48, *c)).collect();
    let layers: Vec<Value> =
        stills.iter().enumerate().map(|(i, still)| json!({"source": {"still": still}, "x": i * 64})).collect();
    let frame = bench.picture((256, 48), json!(layers)).await;
    for (x, y, rgb) in pixels(&frame) {
        assert!(near(&rgb, &colours[(x / 64) as usize], 2), "{x} {y}: {rgb:?}");
    }
}

#[tokio::test]
async fn text_is_written_and_equal_timelines_are_equal_files() {
    let bench = Bench::new();
    let text = |words: &str, more: Value| {
        let mut text = json!({"text": words, "size": 14, "color": "#323232"});
        text.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        text
    };
    let timeline = json!({
        "output": {"width": 320, "height": 100, "fps": 8},
        "clips": [{"color": "#f0f0f0", "frames": 4}],
        "layers": [
            {"text": text("Frame 3/80 | Segment 1/2 | a fox in the snow, looking back", json!({"bold": true})),
             "x": 20, "y": 10, "width": 280},
            {"text": text("zażółć gęślą jaźń\nвторая строка", json!({"size": 20})), "x": 20, "y": 40, "start": 2},
            {"ellipse": {"fill": "#0096ff", "outline": "#ffffff", "line_width": 1}, "x": 150, "y": 50, "width": 8,
             "height": 8, "opacity": 0.9}
        ]
    });
    let (first, second) = (bench.render(&timeline).await, bench.render(&timeline).await);
    assert!(std::fs::read(&first.path).unwrap() == std::fs::read(second.path).unwrap());
    let frames = rgb(&first.path).await.unwrap();
    let dark = |frame: &Frame, rows: std::ops::Range<u32>| {
        pixels(frame).filter(|(_, y, rgb)| rows.contains(y) && rgb[0] < 140).map(|(x, ..)| x).collect::<Vec<_>>()
    };
    let line = dark(&frames[0], 0..30);
    assert!(line.len() > 300, "{} dark pixels", line.len());
    let (left, right) = (*line.iter().min().unwrap(), *line.iter().max().unwrap());
    assert!((19..23).contains(&left) && (285..300).contains(&right), "from {left} to {right}");
    assert!(dark(&frames[1], 64..100).is_empty() && dark(&frames[2], 64..100).len() > 100, "from its frame on");
}

#[tokio::test]
async fn a_picture_is_a_jpeg_when_its_name_says_so() {
    let mut bench = Bench::new();
    let still = bench.still("a.png", 60, 40, [200, 60, 20]);
    for (name, want, format) in [
        (Some("a.jpg"), "a.jpg", image::ImageFormat::Jpeg),
        (Some("A.JPEG"), "A.JPEG", image::ImageFormat::Jpeg),
        (Some("a.png"), "a.png", image::ImageFormat::Png),
        (Some("a"), "a.png", image::ImageFormat::Png),
        (None, "picture.png", image::ImageFormat::Png),
    ] {
        let made =
            bench.render(&json!({"output": {"kind": "picture", "name": name}, "clips": [{"still": still}]})).await;
        assert_eq!((made.name.as_str(), made.kind, made.width, made.height), (want, Kind::Picture, 60, 40));
        let bytes = std::fs::read(&made.path).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format, "{name:?}");
        let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert!(near(&picture.get_pixel(30, 20).0, &[200, 60, 20], 4));
    }
}

#[tokio::test]
async fn layers_over_odd_sizes_and_over_fades_lie_where_they_should() {
    let bench = Bench::new();
    let made = bench
        .render(&json!({
            "output": {"width": 33, "height": 21, "fps": 8, "lossless": true},
            "clips": [{"color": "#000000", "frames": 4}, {"color": "#ffffff", "frames": 4}],
            "fades": [{"after": 0, "frames": 3}],
            "layers": [{"rectangle": {"fill": "#ff0000"}, "x": 5, "y": 3, "width": 7, "height": 5, "start": 2, "frames": 2}]
        }))
        .await;
    let frames = rgb(&made.path).await.unwrap();
    assert_eq!(frames.len(), 5);
    for (i, frame) in frames.iter().enumerate() {
        let ground = pixel(frame, 20, 15);
        for (x, y, rgb) in pixels(frame) {
            let inside = (2..4).contains(&i) && (5..12).contains(&x) && (3..8).contains(&y);
            assert!(near(&rgb, if inside { &RED } else { &ground }, 3), "frame {i}, {x} {y}: {rgb:?}");
        }
    }
    assert_eq!((pixel(&frames[0], 20, 15), pixel(&frames[4], 20, 15)), ([0; 3], [255; 3]));
}

#[tokio::test]
async fn what_cannot_be_drawn_is_named_by_pointer_and_leaves_nothing() {
    let mut bench = Bench::new();
    let base = bench.video("base.mp4", 0..10).await;
    let text = bench.at("t.txt");
    std::fs::write(&text, "no video").unwrap();
    let text = bench.add(&text);
    let sound = bench.at("s.wav");
    ffmpeg("-f lavfi -i sine=duration=1", &sound).unwrap();
    let sound = bench.add(&sound);
    let line = json!({"line": {"color": "#000000"}, "to_x": 9, "to_y": 9});
    let with = |key: &str, value: Value| {
        let mut line = line.clone();
        line[key] = value;
        line
    };
    for (layer, code, words) in [
        (with("start", json!(10)), "invalid_timeline", "`/layers/1/start` is 10, but the timeline has 10 frames"),
        (with("frames", json!(11)), "invalid_timeline", "`/layers/1/frames` is 11"),
        (with("opacity", json!(2)), "invalid_timeline", "`/layers/1/opacity`"),
        (json!({"source": {"video": base, "start": 10}}), "range_outside_source", "`/layers/1/source`"),
        (
            json!({"source": {"video": base, "frames": 3}, "frames": 4}),
            "range_outside_source",
            "`/layers/1/frames` is 4",
        ),
        (json!({"source": {"still": text}}), "unreadable_media", "`/layers/1/source`"),
        (json!({"source": {"still": sound}}), "no_pictures", "`/layers/1/source`"),
        (
            json!({"source": {"still": base}, "width": 60_000, "height": 60_000}),
            "media_too_large",
            "`/layers/1/source`",
        ),
        (json!({"source": {"still": base}, "width": 60_000}), "media_too_large", "60000x40000"),
    ] {
        let timeline = json!({"clips": [{"video": base}], "layers": [line, layer]});
        let failure = bench.try_with(&media(), &timeline).await.unwrap_err();
        assert_eq!(failure.code, code, "{layer}: {}", failure.message);
        assert!(failure.message.contains(words), "{words}: {}", failure.message);
        assert_eq!(std::fs::read_dir(bench.results.path()).unwrap().count(), 0);
    }
    let many: Vec<Value> = (0..17).map(|_| json!({"source": {"video": base}, "start": 3, "frames": 2})).collect();
    let failure = bench.try_with(&media(), &json!({"clips": [{"video": base}], "layers": many})).await.unwrap_err();
    assert!(failure.code == "media_too_large" && failure.message.contains("frame 3 show 17 videos"), "{failure:?}");
    let one_after_the_other: Vec<Value> =
        (0..20).map(|i| json!({"source": {"video": base}, "start": i / 2, "frames": 1, "width": 8})).collect();
    bench.render(&json!({"clips": [{"video": base}], "layers": one_after_the_other})).await;
    let small = media_with(|tools| tools.pixels = 96 * 64);
    let full: Vec<Value> = (0..5).map(|_| json!({"source": {"still": base}})).collect();
    let failure = bench.try_with(&small, &json!({"clips": [{"video": base}], "layers": full})).await.unwrap_err();
    assert!(failure.code == "media_too_large" && failure.message.contains("media.megapixels"), "{failure:?}");
}

#[tokio::test]
async fn a_thousand_frames_of_ten_moving_layers_are_soon_drawn() {
    let mut bench = Bench::new();
    let file = video(&bench.at("base.mp4"), (160, 96), 16.0, (0..1000).map(|n| n % 200)).await.unwrap();
    let base = bench.add(&file);
    let still = bench.still("red.png", 64, 64, RED);
    let mut layers = Vec::new();
    for frame in 0..1000 {
        let when = |mut layer: Value| {
            layer["start"] = frame.into();
            layer["frames"] = 1.into();
            layer
        };
        let x = frame % 140;
        layers.extend((0..4).map(|i| when(json!({"source": {"still": still}, "x": x, "y": 20 * i, "width": 16}))));
        layers.push(when(
            json!({"rectangle": {"fill": "#c8c8c8", "outline": "#969696"}, "x": 5, "y": 84, "width": 150, "height": 8}),
        ));
        layers.push(when(
            json!({"rectangle": {"fill": "#0096ff"}, "x": 5, "y": 84, "width": frame as f64 * 0.15, "height": 8}),
        ));
        layers.push(when(json!({"ellipse": {"fill": "#ff6400"}, "x": x, "y": 82, "width": 10, "height": 10})));
        layers.push(when(json!({"line": {"color": "#ffffff"}, "x": x, "y": 0, "to_x": 80, "to_y": 90})));
        layers.push(when(
            json!({"text": {"text": format!("Frame {frame}/999"), "size": 10, "color": "#ffffff"}, "x": 4, "y": 2}),
        ));
        layers.push(when(
            json!({"text": {"text": "a prompt", "size": 10, "color": "#ffff00", "bold": true}, "x": 90, "y": 2}),
        ));
    }
    let timeline = |layers: &[Value]| json!({"clips": [{"video": base}], "layers": layers});
    let begun = Instant::now();
    let plain = bench.render(&timeline(&[])).await;
    let without = begun.elapsed();
    let begun = Instant::now();
    let drawn = bench.render(&timeline(&layers)).await;
    let with = begun.elapsed();
    assert_eq!((plain.frames, drawn.frames), (1000, 1000));
    // Some 2 s more on an idle machine; a decoder for each still would take minutes.
    assert!(with < without * 3 + Duration::from_secs(20), "{with:?}, and {without:?} without layers");
}
