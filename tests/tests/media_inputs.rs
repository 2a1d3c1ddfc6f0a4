//! Files of every kind people have, through real ffmpeg: their facts are right, and each of their frames plays once.

use std::path::{Path, PathBuf};

use enginehouse::media::{Kind, Probe};
use enginehouse_tests::numbered::{ffmpeg, media, near, numbers, pixel, rgb, video};
use enginehouse_tests::played::{frames, play, played};
use image::{Rgb, RgbImage};
use serde_json::json;
use tempfile::TempDir;

/// Frames of the video that all others are made from.
const FRAMES: u64 = 40;

struct Bench {
    folder: TempDir,
    /// 96x64, 25 frames a second, numbered.
    flat: PathBuf,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flat = video(&folder.path().join("flat.mp4"), (96, 64), 25.0, 0..FRAMES).await.unwrap();
        Self { folder, flat }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file of the numbered video with the ffmpeg command line.
    fn made(&self, name: &str, how: &str) -> PathBuf {
        let path = self.at(name);
        ffmpeg(&format!("-i {} {how}", self.flat.display()), &path).unwrap();
        path
    }
}

/// What is not as it should be with a file whose frames are the numbers 0 and up.
async fn wrong(file: &Path, size: (u32, u32), fps: f64, check: impl Fn(&Probe) -> bool) -> Option<String> {
    let facts = match media().probe(file).await {
        Ok(facts) => facts,
        Err(failure) => return Some(failure.message),
    };
    let seconds = FRAMES as f64 / fps;
    let as_told = (facts.kind, facts.frames, facts.width, facts.height) == (Kind::Video, FRAMES, size.0, size.1)
        && (facts.fps - fps).abs() < 0.01
        && (facts.seconds - seconds).abs() < 0.05
        && check(&facts);
    if !as_told {
        return Some(format!("{facts:?}"));
    }
    // All of it, then ranges from the middle and from either end.
    let clips = json!([{}, {"start": 13, "frames": 4}, {"frames": 2, "from_end": true}, {"frames": 1}]);
    let want: Vec<u64> = (0..FRAMES).chain(13..17).chain(FRAMES - 2..FRAMES).chain(0..1).collect();
    match played(file, clips).await {
        Ok(got) if got == want => None,
        Ok(got) => Some(format!("{got:?}")),
        Err(e) => Some(format!("{e:#}")),
    }
}

/// Files by name and the command line that makes them, each as the numbered video in its size and rate.
async fn all_right(kinds: &[(&str, &str)], check: impl Fn(&Probe) -> bool) {
    let bench = Bench::new().await;
    let mut faults = Vec::new();
    for (name, how) in kinds {
        let file = bench.made(name, how);
        if let Some(why) = wrong(&file, (96, 64), 25.0, &check).await {
            faults.push(format!("{name} ({how}): {why}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn h264_and_hevc_with_reordered_frames_and_open_groups_play_frame_by_frame() {
    all_right(
        &[
            ("b.mp4", "-c:v libx264 -bf 3 -g 12"),
            ("open.mkv", "-c:v libx264 -x264-params open-gop=1:keyint=10:bframes=3"),
            ("open.ts", "-c:v libx264 -x264-params open-gop=1:keyint=10:bframes=3"),
            ("fragments.mp4", "-c:v libx264 -g 10 -movflags frag_keyframe+empty_moov"),
            ("hevc.mp4", "-c:v libx265 -x265-params log-level=error:keyint=10 -tag:v hvc1"),
            ("hevc.mkv", "-c:v libx265 -x265-params log-level=error:keyint=10:open-gop=1"),
            ("hevc10.mp4", "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=error"),
            ("h264_10.mp4", "-c:v libx264 -pix_fmt yuv420p10le"),
            ("422.mov", "-c:v libx264 -pix_fmt yuv422p"),
        ],
        |facts| !facts.has_audio && !facts.has_alpha,
    )
    .await;
}

#[tokio::test]
async fn videos_of_the_web_play_frame_by_frame() {
    all_right(
        &[
            ("vp8.webm", "-c:v libvpx -b:v 2M -auto-alt-ref 1 -lag-in-frames 16"),
            ("vp9.webm", "-c:v libvpx-vp9 -crf 20 -b:v 0 -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16"),
            ("av1.webm", "-c:v libaom-av1 -crf 20 -cpu-used 8"),
            ("av1.mp4", "-c:v libaom-av1 -crf 20 -cpu-used 8"),
            ("ivf.ivf", "-c:v libvpx-vp9 -crf 20 -b:v 0 -cpu-used 8"),
            ("theora.ogv", "-c:v libtheora -q:v 9"),
            ("flv.flv", "-c:v libx264"),
            ("sorenson.flv", "-c:v flv -q:v 2"),
            ("wmv.wmv", "-c:v wmv2 -q:v 2"),
        ],
        |facts| !facts.has_audio && !facts.has_alpha,
    )
    .await;
}

#[tokio::test]
async fn videos_of_editors_cameras_and_broadcast_play_frame_by_frame() {
    all_right(
        &[
            ("prores.mov", "-c:v prores_ks -profile:v 3"),
            ("mjpeg.mov", "-c:v mjpeg -q:v 2"),
            ("mjpeg.avi", "-c:v mjpeg -q:v 2"),
            ("mpeg4.avi", "-c:v mpeg4 -q:v 2 -bf 2"),
            ("raw.avi", "-c:v rawvideo"),
            ("ut.avi", "-c:v utvideo"),
            ("ffv1.mkv", "-c:v ffv1"),
            ("m2.ts", "-c:v mpeg2video -q:v 2 -bf 2"),
            ("h264.m2ts", "-c:v libx264"),
            ("ps.mpg", "-c:v mpeg2video -q:v 2 -bf 2"),
            ("x.mxf", "-c:v mpeg2video -q:v 2 -bf 2"),
            ("x.nut", "-c:v mpeg4 -q:v 2"),
            ("x.y4m", "-pix_fmt yuv420p"),
            ("interlaced.mp4", "-c:v libx264 -flags +ildct+ilme"),
            ("interlaced.ts", "-c:v mpeg2video -q:v 2 -flags +ildct+ilme"),
        ],
        |facts| !facts.has_audio && !facts.has_alpha,
    )
    .await;
    let bench = Bench::new().await;
    let dnx = bench.made("dnx.mov", "-vf scale=256:128 -c:v dnxhd -profile:v dnxhr_sq -pix_fmt yuv422p");
    assert_eq!(wrong(&dnx, (256, 128), 25.0, |_| true).await, None);
    // Pixels of DV are as wide as its system says.
    let dv = bench.made("x.dv", "-vf scale=720:576,setsar=16/15 -c:v dvvideo -pix_fmt yuv420p");
    assert_eq!(wrong(&dv, (768, 576), 25.0, |_| true).await, None);
}

#[tokio::test]
async fn streams_without_any_container_play_frame_by_frame() {
    all_right(
        &[
            ("raw.h264", "-c:v libx264 -bf 2"),
            ("raw.hevc", "-c:v libx265 -x265-params log-level=error"),
            ("raw.m4v", "-c:v mpeg4 -q:v 2"),
            ("raw.obu", "-c:v libaom-av1 -crf 20 -cpu-used 8"),
        ],
        |_| true,
    )
    .await;
}

#[tokio::test]
async fn sound_covers_and_subtitles_beside_the_pictures_change_nothing() {
    let bench = Bench::new().await;
    std::fs::write(bench.at("s.srt"), "1\n00:00:00,000 --> 00:00:01,000\nHello\n").unwrap();
    RgbImage::from_pixel(300, 300, Rgb([1, 2, 3])).save(bench.at("cover.png")).unwrap();
    video(&bench.at("other.mp4"), (64, 48), 25.0, 100..140).await.unwrap();
    let at = |name: &str| bench.at(name).display().to_string();
    let sound = |seconds: f64| format!("-f lavfi -i sine=d={seconds}");
    let kinds = [
        ("longer.mp4", format!("{} -map 0:v -map 1:a -c:v copy", sound(5.0))),
        ("shorter.mp4", format!("{} -map 0:v -map 1:a -c:v copy", sound(0.3))),
        ("late.mkv", format!("-itsoffset 0.7 {} -map 0:v -map 1:a -c:v copy", sound(1.0))),
        ("first.mp4", format!("{} -map 1:a -map 0:v -c:v copy", sound(1.6))),
        ("two.mkv", format!("{0} {0} -map 0:v -map 1:a -map 2:a -c:v copy", sound(1.6))),
        ("subtitled.mkv", format!("-i {} {} -map 0:v -map 2:a -map 1:s -c:v copy", at("s.srt"), sound(1.6))),
        (
            "cover.mp4",
            format!(
                "-i {} {} -map 1 -map 0:v -map 2:a -c:v copy -c:v:0 png -disposition:v:0 attached_pic",
                at("cover.png"),
                sound(1.6)
            ),
        ),
        ("angles.mkv", format!("-i {} {} -map 0:v -map 1:v -map 2:a -c:v copy", at("other.mp4"), sound(1.6))),
    ];
    for (name, how) in kinds {
        let file = bench.made(name, &how);
        assert_eq!(wrong(&file, (96, 64), 25.0, |facts| facts.has_audio).await, None, "{name}");
    }
    // Pictures that begin later than the sound begin with their first one.
    let late = bench.at("late_pictures.mkv");
    let how = format!("{} -itsoffset 0.7 -i {} -map 0:a -map 1:v -c:v copy", sound(3.0), bench.flat.display());
    ffmpeg(&how, &late).unwrap();
    assert_eq!(wrong(&late, (96, 64), 25.0, |facts| facts.has_audio).await, None);
    // A song with a cover is sound.
    let song = bench.at("song.mp3");
    ffmpeg(&format!("{} -i {} -map 0 -map 1 -c:v png", sound(1.0), at("cover.png")), &song).unwrap();
    let facts = media().probe(&song).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.has_audio), (Kind::Audio, 0, true));
}

#[tokio::test]
async fn what_an_edit_list_hides_is_not_there() {
    let bench = Bench::new().await;
    for name in ["cut.mp4", "cut.mov"] {
        let cut = bench.at(name);
        ffmpeg(&format!("-ss 0.4 -i {} -c copy", bench.flat.display()), &cut).unwrap();
        assert_eq!(media().probe(&cut).await.unwrap().frames, 30);
        assert_eq!(played(&cut, json!({})).await.unwrap(), (10..40).collect::<Vec<_>>());
        assert_eq!(played(&cut, json!({"start": 3, "frames": 2})).await.unwrap(), [13, 14]);
    }
}

#[tokio::test]
async fn frames_of_uneven_length_play_once_each_and_by_time_at_another_rate() {
    let bench = Bench::new().await;
    // Frames of 40 ms, but from the tenth on every second one is missing.
    let kept: Vec<u64> = (0..40).filter(|n| *n < 10 || n % 2 == 0).collect();
    let some = "-vf select='lt(n,10)+not(mod(n,2))' -fps_mode vfr -enc_time_base 1:1000";
    // Frame k of the result is the nearest in time to k / rate, the later one of two.
    let nearest = |rate: f64, frames: u64| -> Vec<u64> {
        let distance = |k: u64, n: u64| (n as f64 / 25.0 - k as f64 / rate).abs();
        let best = |k| {
            kept.iter().rev().copied().min_by(|a, b| {
                let (a, b) = (distance(k, *a), distance(k, *b));
                if (a - b).abs() < 1e-9 { std::cmp::Ordering::Equal } else { a.total_cmp(&b) }
            })
        };
        (0..frames).filter_map(best).collect()
    };
    for (name, codec) in [
        ("v.mkv", "-c:v libx264"),
        ("v.mp4", "-c:v libx264"),
        ("v.webm", "-c:v libvpx-vp9 -crf 20 -b:v 0 -cpu-used 8"),
        ("v8.webm", "-c:v libvpx -b:v 2M"),
        ("v.flv", "-c:v libx264"),
        ("v.gif", ""),
        ("v.apng", "-f apng"),
        ("v.webp", "-c:v libwebp_anim -lossless 1"),
    ] {
        let file = bench.made(name, &format!("{some} {codec}"));
        let facts = media().probe(&file).await.unwrap();
        assert_eq!(facts.frames, 25, "{name}");
        assert!((facts.fps - 25.0 / 1.6).abs() < 0.6, "{name}: {facts:?}");
        assert!((facts.seconds - 1.6).abs() < 0.09, "{name}: {facts:?}");
        assert_eq!(played(&file, json!({})).await.unwrap(), kept, "{name}");
        for rate in [10.0, 30.0] {
            let got = played(&file, json!({"fps": rate})).await.unwrap();
            assert!((got.len() as f64 - 1.6 * rate).abs() <= 2.0, "{name} at {rate}: {}", got.len());
            assert_eq!(got, nearest(rate, got.len() as u64), "{name} at {rate}");
        }
        assert_eq!(
            played(&file, json!({"fps": 25, "start": 12, "frames": 4})).await.unwrap(),
            nearest(25.0, 16)[12..],
            "{name}"
        );
        let mut backwards = nearest(25.0, 6);
        backwards.reverse();
        assert_eq!(played(&file, json!({"fps": 25, "frames": 6, "reverse": true})).await.unwrap(), backwards, "{name}");
    }
}

#[tokio::test]
async fn a_long_pause_of_a_screen_recording_is_a_pause() {
    let bench = Bench::new().await;
    // Ten frames, three seconds of nothing, ten frames.
    let pause =
        "-vf select='lt(n,20)',setpts='N/25/TB+gte(N,10)*3/TB' -fps_mode vfr -enc_time_base 1:1000 -c:v libx264";
    let file = bench.made("pause.mkv", pause);
    let got = played(&file, json!({"fps": 25})).await.unwrap();
    assert_eq!(got[..10], (0..10).collect::<Vec<_>>());
    let back = got.iter().position(|n| *n == 10).unwrap();
    assert!((80..=85).contains(&back), "the eleventh frame is due at 85, and came at {back}");
    assert!(got[10..back].iter().all(|n| *n == 9));
}

/// Four quarters: red, green above blue, white.
fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y < height / 2) {
        (true, true) => Rgb([230, 20, 20]),
        (false, true) => Rgb([20, 200, 20]),
        (true, false) => Rgb([20, 20, 230]),
        (false, false) => Rgb([230, 230, 230]),
    })
}

/// The quarters of a frame, by the first letters of their colours, in reading order.
fn seen(frame: &enginehouse::media::frames::Frame) -> String {
    let (w, h) = (frame.width, frame.height);
    [(w / 4, h / 4), (w * 3 / 4, h / 4), (w / 4, h * 3 / 4), (w * 3 / 4, h * 3 / 4)]
        .into_iter()
        .map(|(x, y)| match pixel(frame, x, y).map(|value| value > 125) {
            [true, false, false] => 'r',
            [false, true, false] => 'g',
            [false, false, true] => 'b',
            [true, true, true] => 'w',
            _ => '?',
        })
        .collect()
}

/// Writes another display matrix into the header of an MP4's only track.
fn turn(file: &Path, [a, b, c, d]: [i32; 4], to: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = bytes.windows(4).position(|name| name == b"tkhd").unwrap() + 4;
    // Version and flags, times, number, length, layer, group, volume: then nine numbers.
    let matrix = header + 40;
    for (i, value) in [a, b, 0, c, d, 0, 0, 0, 1 << 30].into_iter().enumerate() {
        bytes[matrix + i * 4..matrix + i * 4 + 4].copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(to, bytes).unwrap();
}

#[tokio::test]
async fn videos_held_in_any_way_are_seen_upright() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    quarters(96, 64).save(at("q.png")).unwrap();
    ffmpeg(&format!("-loop 1 -framerate 25 -t 0.2 -i {} -pix_fmt yuv420p", at("q.png").display()), &at("flat.mp4"))
        .unwrap();
    let one = 1 << 16;
    for (matrix, size, quarters) in [
        ([one, 0, 0, one], (96, 64), "rgbw"),
        ([0, one, -one, 0], (64, 96), "brwg"),
        ([-one, 0, 0, -one], (96, 64), "wbgr"),
        ([0, -one, one, 0], (64, 96), "gwrb"),
        ([-one, 0, 0, one], (96, 64), "grwb"),
        ([one, 0, 0, -one], (96, 64), "bwrg"),
        ([0, one, one, 0], (64, 96), "rbgw"),
        ([0, -one, -one, 0], (64, 96), "wgbr"),
    ] {
        turn(&at("flat.mp4"), matrix, &at("turned.mp4"));
        let facts = media().probe(&at("turned.mp4")).await.unwrap();
        assert_eq!(((facts.width, facts.height), facts.frames), (size, 5), "{matrix:?}");
        let frames = frames(&at("turned.mp4"), json!({"start": 1, "frames": 2})).await.unwrap();
        assert_eq!((frames.len(), seen(&frames[1]).as_str()), (2, quarters), "{matrix:?}");
    }
    turn(&at("flat.mp4"), [46_341, 46_341, -46_341, 46_341], &at("turned.mp4"));
    let failure = media().probe(&at("turned.mp4")).await.unwrap_err();
    assert!(failure.message.contains("quarter turn"), "{failure}");
}

#[tokio::test]
async fn odd_sizes_and_pixels_that_are_not_square_are_seen_as_meant() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (w, h) in [(97, 65), (96, 65), (97, 64), (33, 17)] {
        quarters(w, h).save(at("q.png")).unwrap();
        for (name, how) in [
            ("444.mp4", "-c:v libx264 -pix_fmt yuv444p"),
            ("420.webm", "-c:v libvpx-vp9 -pix_fmt yuv420p -crf 10 -b:v 0"),
            ("420.mkv", "-c:v ffv1 -pix_fmt yuv420p"),
            ("rle.mov", "-c:v qtrle"),
            ("a.gif", ""),
            ("a.webp", "-c:v libwebp_anim -lossless 1"),
        ] {
            let how = format!("-loop 1 -framerate 25 -t 0.2 -i {} {how}", at("q.png").display());
            ffmpeg(&how, &at(name)).unwrap();
            let facts = media().probe(&at(name)).await.unwrap();
            assert_eq!((facts.width, facts.height), (w, h), "{name}");
            let frames = frames(&at(name), json!({})).await.unwrap();
            assert_eq!((frames.len() as u64, seen(&frames[0]).as_str()), (facts.frames, "rgbw"), "{name} {w}x{h}");
        }
    }
    // Twice as wide as stored; of the turned one it is the height that grows.
    quarters(96, 64).save(at("q.png")).unwrap();
    for name in ["wide.mp4", "wide.mkv", "wide.mov"] {
        let how = format!("-loop 1 -framerate 25 -t 0.2 -i {} -vf setsar=2 -pix_fmt yuv420p", at("q.png").display());
        ffmpeg(&how, &at(name)).unwrap();
        let facts = media().probe(&at(name)).await.unwrap();
        assert_eq!((facts.width, facts.height), (192, 64), "{name}");
        assert_eq!(seen(&frames(&at(name), json!({})).await.unwrap()[4]), "rgbw", "{name}");
    }
    turn(&at("wide.mp4"), [0, 1 << 16, -1 << 16, 0], &at("turned.mp4"));
    let facts = media().probe(&at("turned.mp4")).await.unwrap();
    assert_eq!((facts.width, facts.height), (64, 192));
}

#[tokio::test]
async fn transparency_is_seen_and_laid_over_black_in_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // The left half is orange, the right half is the same and cannot be seen.
    let half = image::RgbaImage::from_fn(96, 64, |x, _| image::Rgba([230, 120, 20, if x < 48 { 255 } else { 0 }]));
    half.save(at("half.png")).unwrap();
    for (name, how) in [
        ("prores.mov", "-c:v prores_ks -pix_fmt yuva444p10le -profile:v 4444"),
        ("rle.mov", "-c:v qtrle -pix_fmt argb"),
        ("png.mov", "-c:v png -pix_fmt rgba"),
        ("vp8.webm", "-c:v libvpx -pix_fmt yuva420p -auto-alt-ref 0 -b:v 2M"),
        ("vp9.webm", "-c:v libvpx-vp9 -pix_fmt yuva420p -auto-alt-ref 0 -crf 5 -b:v 0"),
        ("ffv1.mkv", "-c:v ffv1 -pix_fmt yuva444p"),
        ("a.gif", "-vf split[a][b];[a]palettegen[p];[b][p]paletteuse"),
        ("a.apng", "-f apng -pix_fmt rgba"),
        ("a.webp", "-c:v libwebp_anim -lossless 1 -pix_fmt bgra"),
        ("lossy.webp", "-c:v libwebp_anim -quality 95 -pix_fmt yuva420p"),
        ("still.png", "-frames:v 1"),
        ("still.webp", "-c:v libwebp -lossless 1 -frames:v 1"),
    ] {
        ffmpeg(&format!("-loop 1 -framerate 25 -t 0.2 -i {} {how}", at("half.png").display()), &at(name)).unwrap();
        let facts = media().probe(&at(name)).await.unwrap();
        assert!(facts.has_alpha, "{name}");
        let frames = rgb(&at(name)).await.unwrap();
        assert_eq!(frames.len() as u64, facts.frames, "{name}");
        for frame in &frames {
            let (left, right) = (pixel(frame, 20, 32), pixel(frame, 76, 32));
            assert!(near(&left, &[230, 120, 20], 8) && near(&right, &[0; 3], 2), "{name}: {left:?} {right:?}");
        }
    }
}

#[tokio::test]
async fn animations_are_put_together_as_their_frames_say() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // A square wanders; writers store the part that changes, and say what becomes of the part before.
    let wandering = "-f lavfi -i color=0x202020:s=96x64:r=10:d=0.8,format=rgb24 -f lavfi -i color=0xe0e0e0:s=8x8:r=10:d=0.8,format=rgb24 \
                     -filter_complex overlay=x='round(t*10)*11':y=28:format=rgb";
    for (name, how) in [
        ("a.gif", ""),
        ("whole.gif", "-gifflags -offsetting-transdiff"),
        ("once.gif", "-loop -1"),
        ("a.apng", "-f apng"),
        ("a.webp", "-c:v libwebp_anim -lossless 1 -loop 0"),
        ("thrice.webp", "-c:v libwebp_anim -lossless 1 -loop 3"),
    ] {
        ffmpeg(&format!("{wandering} {how}"), &at(name)).unwrap();
        let facts = media().probe(&at(name)).await.unwrap();
        assert_eq!((facts.kind, facts.frames, facts.fps), (Kind::Video, 8, 10.0), "{name}");
        for (n, frame) in rgb(&at(name)).await.unwrap().iter().enumerate() {
            for square in 0..8 {
                let value = pixel(frame, square * 11 + 4, 32)[0];
                assert_eq!(value > 128, square as usize == n, "{name}, frame {n}, place {square}: {value}");
            }
        }
    }
    // An animation of one frame is a picture.
    for (name, how) in [("one.gif", ""), ("one.apng", "-f apng"), ("one.webp", "-c:v libwebp_anim")] {
        ffmpeg(&format!("-f lavfi -i testsrc2=s=96x64:r=10:d=0.1 {how}"), &at(name)).unwrap();
        let facts = media().probe(&at(name)).await.unwrap();
        assert_eq!((facts.kind, facts.frames, facts.width, facts.height), (Kind::Picture, 1, 96, 64), "{name}");
        assert_eq!(rgb(&at(name)).await.unwrap().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_plain_avif_is_a_picture_or_a_video_and_heic_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    quarters(96, 64).save(at("q.png")).unwrap();
    let av1 = format!("-loop 1 -framerate 10 -t 0.5 -i {} -c:v libaom-av1 -cpu-used 8 -crf 10", at("q.png").display());
    ffmpeg(&format!("{av1} -still-picture 1 -frames:v 1"), &at("still.avif")).unwrap();
    ffmpeg(&av1, &at("moving.avif")).unwrap();
    let facts = media().probe(&at("still.avif")).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.width, facts.height), (Kind::Picture, 1, 96, 64));
    assert_eq!(seen(&rgb(&at("still.avif")).await.unwrap()[0]), "rgbw");
    let facts = media().probe(&at("moving.avif")).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.fps), (Kind::Video, 5, 10.0));
    // What ffmpeg would silently leave out.
    let mut bytes = std::fs::read(at("still.avif")).unwrap();
    let free = bytes.windows(4).position(|name| name == b"pixi").unwrap();
    bytes[free..free + 4].copy_from_slice(b"irot");
    std::fs::write(at("turned.avif"), bytes).unwrap();
    assert!(media().probe(&at("turned.avif")).await.unwrap_err().message.contains("turned"));
    std::fs::write(at("phone.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x08mdat").unwrap();
    assert!(media().probe(&at("phone.heic")).await.unwrap_err().message.contains("HEIC"));
}

#[tokio::test]
async fn light_beyond_that_of_a_screen_is_brought_down_and_keeps_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hdr.mp4");
    // Diffuse white (203 nits) and half of its code, by what each curve makes of it.
    for (transfer, white, grey) in [("smpte2084", 573, 400), ("arib-std-b67", 721, 400)] {
        let mut seen = Vec::new();
        for luma in [64, grey, white, 940] {
            let source = format!(
                "-f lavfi -i color=black:s=97x65:r=10:d=0.3,format=yuv444p10le,geq=lum={luma}:cb=512:cr=512 -pix_fmt yuv420p10le \
                 -c:v libx265 -x265-params log-level=error:lossless=1:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc \
                 -color_primaries bt2020 -color_trc {transfer} -colorspace bt2020nc"
            );
            ffmpeg(&source.replace("97x65", "96x64"), &path).unwrap();
            let frames = rgb(&path).await.unwrap();
            assert_eq!(frames.len(), 3);
            let value = pixel(&frames[2], 48, 32);
            assert!(near(&value, &[value[1]; 3], 2), "grey stays grey: {value:?}");
            seen.push(value[1]);
        }
        let [black, grey, white, peak] = seen[..] else { panic!("{seen:?}") };
        assert!(black <= 2 && grey > 40 && white > grey + 30 && peak > white, "{transfer}: {seen:?}");
        assert!((190..=235).contains(&white), "diffuse white is bright, with room above it: {seen:?}");
    }
}

#[tokio::test]
async fn a_picture_that_changes_its_size_in_the_middle_plays_on_in_the_first_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    video(&at("a.mp4"), (96, 64), 25.0, 0..20).await.unwrap();
    video(&at("b.mp4"), (160, 96), 25.0, 20..40).await.unwrap();
    let part = |name: &str, how: &str| {
        ffmpeg(&format!("-i {} {how}", at(name).display()), &at("part")).unwrap();
        std::fs::read(at("part")).unwrap()
    };
    let h264 = "-c copy -bsf:v h264_mp4toannexb -f h264";
    std::fs::write(at("x.h264"), [part("a.mp4", h264), part("b.mp4", h264)].concat()).unwrap();
    // As a browser records it that sees its network change: every frame with its length and its time.
    let vp8 = "-c:v libvpx -b:v 2M -auto-alt-ref 0 -f ivf";
    let (mut first, mut second) = (part("a.mp4", vp8), part("b.mp4", vp8).split_off(32));
    let mut frame = 0;
    while frame < second.len() {
        let (length, time) = (frame + 4, frame + 12);
        let size = u32::from_le_bytes(second[frame..length].try_into().unwrap()) as usize;
        let later = u64::from_le_bytes(second[length..time].try_into().unwrap()) + 20;
        second[length..time].copy_from_slice(&later.to_le_bytes());
        frame = time + size;
    }
    first.extend(second);
    std::fs::write(at("x.ivf"), first).unwrap();
    ffmpeg(&format!("-i {} -c copy", at("x.ivf").display()), &at("x.webm")).unwrap();
    for name in ["x.h264", "x.ivf", "x.webm"] {
        let facts = media().probe(&at(name)).await.unwrap();
        assert_eq!((facts.frames, facts.width, facts.height), (40, 96, 64), "{name}");
        let clips = json!([{}, {"start": 17, "frames": 6}, {"start": 25, "frames": 3}]);
        let want: Vec<u64> = (0..40).chain(17..23).chain(25..28).collect();
        assert_eq!(played(&at(name), clips).await.unwrap(), want, "{name}");
    }
}

#[tokio::test]
async fn a_name_may_be_whatever_the_file_system_allows() {
    let bench = Bench::new().await;
    for name in [
        "with space.mp4",
        "ünïcödé 映画 🎬.mp4",
        "-i.mp4",
        "--.mp4",
        "a:b.mp4",
        "http:%2F%2Fx.mp4",
        "%03d.mp4",
        "*?[x].mp4",
        "new\nline.mp4",
        "quote'\"\\.mp4",
        "comma,=;|&$(id).mp4",
        "concat:a|b.mp4",
        "no_extension",
        "wrong.png",
        "pattern%d.jpg",
    ] {
        let path = bench.at(name);
        std::fs::copy(&bench.flat, &path).unwrap();
        assert_eq!(numbers(&path).await.unwrap(), (0..FRAMES).collect::<Vec<_>>(), "{name}");
    }
    let picture = bench.at("100%.png");
    quarters(96, 64).save(&picture).unwrap();
    assert_eq!(seen(&rgb(&picture).await.unwrap()[0]), "rgbw");
}

#[tokio::test]
async fn sound_that_begins_late_in_its_file_begins_as_late_in_the_result() {
    let bench = Bench::new().await;
    let late = bench.at("late.mkv");
    let how = format!(
        "-i {} -itsoffset 0.8 -f lavfi -i sine=d=0.4 -map 0:v -map 1:a -c:v copy -c:a pcm_s16le",
        bench.flat.display()
    );
    ffmpeg(&how, &late).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let timeline = json!({
        "clips": [{"color": "#102030", "frames": 48}],
        "output": {"width": 64, "height": 64, "fps": 24},
        "audio": {"$artifact": enginehouse::digest::Digest::of(b"late")}
    });
    let made = media().render(&timeline, &|_| Ok(late.clone()), folder.path()).await.unwrap();
    let raw = bench.at("sound.raw");
    ffmpeg(&format!("-i {} -map 0:a -f s16le -ac 1 -ar 48000", made.path.display()), &raw).unwrap();
    let samples: Vec<i16> =
        std::fs::read(raw).unwrap().chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    let loud = |from: f64, to: f64| {
        samples[(from * 48_000.0) as usize..(to * 48_000.0) as usize].iter().any(|sample| sample.abs() > 500)
    };
    assert!(!loud(0.0, 0.7) && loud(0.85, 1.15) && !loud(1.4, 1.9), "{} samples", samples.len());
}

#[tokio::test]
async fn the_last_frame_is_the_last_one_whatever_is_asked_of_it() {
    let bench = Bench::new().await;
    let webp = bench.made("a.webp", "-c:v libwebp_anim -lossless 1");
    assert_eq!(numbers(&webp).await.unwrap(), (0..FRAMES).collect::<Vec<_>>());
    let last = json!({"frames": 1, "from_end": true});
    for file in [&webp, &bench.flat] {
        let played = play(&media(), file, &last, &json!({"kind": "picture"})).await.unwrap();
        let png = media().frame_png(file, FRAMES - 1).await.unwrap();
        let from_png = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(&rgb(&played.made.path).await.unwrap()[0].data, from_png.as_raw());
        assert_eq!(media().frame_png(file, FRAMES).await.unwrap_err().code, "range_outside_source");
    }
    assert_eq!(wrong(&webp, (96, 64), 25.0, |facts| !facts.has_audio).await, None);
}
