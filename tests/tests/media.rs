//! Files in and out of real ffmpeg: what they are, and every frame of them.

use std::net::TcpListener;
use std::process::Command;

use enginehouse::media::Kind;
use enginehouse::media::frames::{Fit, Frame, FrameReader, FrameWriter, PixelFormat, VideoSpec};
use enginehouse_tests::numbered::{
    ffmpeg, media, media_with, middle, near, numbered, numbers, pixel, read, rgb, spec, video, write,
};
use image::{Rgb, RgbImage, Rgba, RgbaImage};

const RED: [u8; 3] = [255, 0, 0];
const WHITE: [u8; 3] = [255; 3];
const COLOURS: [[u8; 3]; 4] = [RED, [0, 0, 255], [128; 3], [60, 200, 120]];

#[tokio::test]
async fn every_frame_comes_out_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    for size in [(96, 64), (97, 65), (96, 65)] {
        let file = video(&folder.path().join("v.mp4"), size, 16.0, 0..81).await.unwrap();
        let facts = media().probe(&file).await.unwrap();
        assert_eq!((facts.kind, facts.frames, facts.fps), (Kind::Video, 81, 16.0));
        assert_eq!((facts.width, facts.height), size);
        assert!(!facts.has_audio && !facts.has_alpha);
        assert_eq!(numbers(&file).await.unwrap(), (0..81).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn equal_frames_give_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let first = video(&folder.path().join("1.mp4"), (96, 64), 24.0, 0..30).await.unwrap();
    let second = video(&folder.path().join("2.mp4"), (96, 64), 24.0, 0..30).await.unwrap();
    assert!(std::fs::read(first).unwrap() == std::fs::read(second).unwrap());
}

#[tokio::test]
async fn a_file_appears_when_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.mp4");
    let mut writer = FrameWriter::create(&media(), &path, spec(96, 64, 16.0)).await.unwrap();
    writer.write(&numbered(1, 96, 64)).await.unwrap();
    assert!(!path.exists());
    writer.finish().await.unwrap();
    assert!(path.exists());
    let writer = FrameWriter::create(&media(), &folder.path().join("none.mp4"), spec(96, 64, 16.0)).await.unwrap();
    assert!(writer.finish().await.is_err(), "a video without frames");
}

#[tokio::test]
async fn lossless_frames_come_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mp4");
    for format in [PixelFormat::Rgb24, PixelFormat::Yuv420p, PixelFormat::Yuv444p] {
        let data: Vec<u8> = (0..format.frame_bytes(32, 16)).map(|i| (i * 37 % 219 + 16) as u8).collect();
        let frame = Frame { format, width: 32, height: 16, data };
        let spec = VideoSpec { format, lossless: true, ..spec(32, 16, 10.0) };
        write(&path, spec, [frame.clone()]).await.unwrap();
        assert_eq!(read(&path, (32, 16), format, Fit::Stretch).await.unwrap(), [frame]);
    }
}

#[tokio::test]
async fn colours_survive_whichever_way_they_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let (png, path) = (folder.path().join("still.png"), folder.path().join("v.mp4"));
    for colour in COLOURS {
        RgbImage::from_pixel(64, 48, Rgb(colour)).save(&png).unwrap();
        // A picture, decoded as RGB and as YUV, through an encoder and back.
        for size in [(64, 48), (63, 47)] {
            for format in [PixelFormat::Rgb24, PixelFormat::planar(size.0, size.1)] {
                let frames = read(&png, size, format, Fit::Stretch).await.unwrap();
                write(&path, VideoSpec { format, crf: 10, ..spec(size.0, size.1, 10.0) }, frames).await.unwrap();
                let seen = middle(&rgb(&path).await.unwrap()[0]);
                assert!(near(&seen, &colour, 4), "{colour:?} via {format:?} {size:?} became {seen:?}");
            }
        }
        // Videos of others: what they declare, and BT.601 when they declare nothing.
        let [r, g, b] = colour;
        for how in [
            "-pix_fmt yuv420p",
            "-vf scale=out_color_matrix=bt709:out_range=tv,format=yuv420p -colorspace bt709 -color_range tv",
            "-vf scale=out_color_matrix=bt601:out_range=pc,format=yuvj420p -colorspace bt470bg -color_range pc",
        ] {
            let source = format!("-f lavfi -i color=0x{r:02x}{g:02x}{b:02x}:s=64x48:r=10:d=0.5,format=rgb24");
            ffmpeg(&format!("{source} {how} -crf 10"), &path).unwrap();
            let seen = middle(&rgb(&path).await.unwrap()[0]);
            assert!(near(&seen, &colour, 4), "{colour:?} via {how} became {seen:?}");
            let from_video = read(&path, (64, 48), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap().remove(0);
            let from_still = read(&png, (64, 48), PixelFormat::Yuv420p, Fit::Stretch).await.unwrap().remove(0);
            assert!(
                near(&from_video.data, &from_still.data, 4),
                "{colour:?} via {how} differs from the picture in YUV"
            );
        }
    }
}

#[tokio::test]
async fn a_source_of_another_shape_is_stretched_cropped_or_letterboxed() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("wide.png");
    // Red, white, red: twice as wide as high, the white square in the middle.
    RgbImage::from_fn(200, 100, |x, _| Rgb(if (50..150).contains(&x) { WHITE } else { RED })).save(&png).unwrap();
    let fitted = async |format, fit| read(&png, (80, 80), format, fit).await.unwrap().remove(0);
    let frame = fitted(PixelFormat::Rgb24, Fit::Stretch).await;
    assert!(near(&pixel(&frame, 5, 40), &RED, 2) && near(&pixel(&frame, 40, 40), &WHITE, 2));
    let frame = fitted(PixelFormat::Rgb24, Fit::Crop).await;
    assert!(near(&pixel(&frame, 3, 3), &WHITE, 2) && near(&pixel(&frame, 76, 76), &WHITE, 2));
    let frame = fitted(PixelFormat::Rgb24, Fit::Letterbox).await;
    assert_eq!([pixel(&frame, 40, 10), pixel(&frame, 40, 69)], [[0; 3]; 2], "bars above and below");
    assert!(near(&pixel(&frame, 5, 40), &RED, 2) && near(&pixel(&frame, 40, 40), &WHITE, 2));
    let frame = fitted(PixelFormat::Yuv420p, Fit::Letterbox).await;
    assert_eq!(frame.data[..80], [16; 80], "bars are black in limited range");
}

#[tokio::test]
async fn transparency_is_laid_over_black() {
    let folder = tempfile::tempdir().unwrap();
    let png = folder.path().join("a.png");
    RgbaImage::from_pixel(40, 40, Rgba([255, 100, 0, 128])).save(&png).unwrap();
    assert!(media().probe(&png).await.unwrap().has_alpha);
    let seen = middle(&rgb(&png).await.unwrap()[0]);
    assert!(near(&seen, &[128, 50, 0], 1), "{seen:?}");
}

#[tokio::test]
async fn a_video_flagged_as_turned_is_seen_upright() {
    let folder = tempfile::tempdir().unwrap();
    let flat = video(&folder.path().join("flat.mp4"), (96, 64), 16.0, [1, 2, 3]).await.unwrap();
    let turned = folder.path().join("turned.mp4");
    ffmpeg(&format!("-i {} -c copy -metadata:s:v:0 rotate=90", flat.display()), &turned).unwrap();
    let facts = media().probe(&turned).await.unwrap();
    assert_eq!((facts.width, facts.height, facts.frames), (64, 96, 3));
    let frames = rgb(&turned).await.unwrap();
    // The bar of the lowest bit stood at the right; turned, it lies at one end of the height.
    let ends = |frame: &Frame| (pixel(frame, 32, 4)[0] > 125, pixel(frame, 32, 91)[0] > 125);
    assert_ne!(ends(&frames[0]).0, ends(&frames[0]).1);
    assert_eq!(ends(&frames[1]), (false, false));
}

#[tokio::test]
async fn a_picture_whose_header_says_turned_is_seen_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("turned.jpg");
    let mut jpeg = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95);
    // EXIF orientation 6: to be turned clockwise.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    image::ImageEncoder::set_exif_metadata(&mut encoder, exif.to_vec()).unwrap();
    encoder.encode_image(&RgbImage::from_fn(80, 40, |x, _| Rgb(if x < 40 { RED } else { WHITE }))).unwrap();
    std::fs::write(&path, jpeg).unwrap();
    let facts = media().probe(&path).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.width, facts.height), (Kind::Picture, 1, 40, 80));
    let frame = rgb(&path).await.unwrap().remove(0);
    assert!(near(&pixel(&frame, 20, 10), &RED, 8), "what was left is now above: {:?}", pixel(&frame, 20, 10));
    assert!(near(&pixel(&frame, 20, 70), &WHITE, 8), "what was right is now below");
}

#[tokio::test]
async fn pictures_animations_and_sound_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let picture = RgbImage::from_pixel(30, 20, Rgb([9, 99, 200]));
    for name in ["a.png", "a.jpg", "a.bmp", "a.tiff", "a.webp", "a.gif", "%03d.png", "no_extension"] {
        let format = image::ImageFormat::from_path(at(name)).unwrap_or(image::ImageFormat::Png);
        picture.save_with_format(at(name), format).unwrap();
        let facts = media().probe(&at(name)).await.unwrap();
        assert_eq!((facts.kind, facts.frames, facts.width, facts.height), (Kind::Picture, 1, 30, 20), "{name}");
        let seen = middle(&rgb(&at(name)).await.unwrap()[0]);
        assert!(near(&seen, &[9, 99, 200], 5), "{name}: {seen:?}");
    }
    ffmpeg("-f lavfi -i testsrc2=s=64x48:r=10:d=0.7", &at("moving.gif")).unwrap();
    let facts = media().probe(&at("moving.gif")).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.fps), (Kind::Video, 7, 10.0));
    assert_eq!(rgb(&at("moving.gif")).await.unwrap().len(), 7);
    ffmpeg("-f lavfi -i sine=d=1.5", &at("s.wav")).unwrap();
    let facts = media().probe(&at("s.wav")).await.unwrap();
    assert_eq!((facts.kind, facts.frames, facts.has_audio, facts.seconds), (Kind::Audio, 0, true, 1.5));
    let failure =
        FrameReader::open(&media(), &at("s.wav"), 8, 8, PixelFormat::Rgb24, Fit::Stretch).await.err().unwrap();
    assert_eq!(failure.code, "no_pictures");
}

#[tokio::test]
async fn frames_are_counted_in_every_container() {
    let folder = tempfile::tempdir().unwrap();
    let flat = video(&folder.path().join("flat.mp4"), (96, 64), 25.0, 0..40).await.unwrap();
    for (name, how) in [
        ("x.mkv", "-c copy"),
        ("x.mov", "-c copy"),
        ("x.ts", "-c copy"),
        ("x.avi", "-c:v mpeg4 -q:v 2"),
        ("packed.avi", "-c:v mpeg4 -q:v 2 -bf 2"),
        ("x.webm", "-c:v libvpx -b:v 1M -auto-alt-ref 1 -lag-in-frames 16"),
        ("x9.webm", "-c:v libvpx-vp9 -crf 20 -b:v 0 -cpu-used 8"),
        ("interlaced.mp4", "-c:v libx264 -flags +ildct+ilme"),
        ("sound.mp4", "-f lavfi -i sine=d=9 -map 0:v -map 1:a -c:v copy"),
    ] {
        let path = folder.path().join(name);
        ffmpeg(&format!("-i {} {how}", flat.display()), &path).unwrap();
        let facts = media().probe(&path).await.unwrap();
        assert_eq!((facts.frames, facts.fps), (40, 25.0), "{name}");
        assert_eq!(facts.has_audio, name == "sound.mp4");
        assert_eq!(numbers(&path).await.unwrap(), (0..40).collect::<Vec<_>>(), "{name}");
    }
    // A cut without encoding: an edit list hides what lies between the key frame and the cut.
    let cut = folder.path().join("cut.mp4");
    ffmpeg(&format!("-ss 0.4 -i {} -c copy", flat.display()), &cut).unwrap();
    assert_eq!(media().probe(&cut).await.unwrap().frames, 30);
    assert_eq!(numbers(&cut).await.unwrap(), (10..40).collect::<Vec<_>>());
    // Without a constant rate.
    let uneven = folder.path().join("uneven.mkv");
    let some = "-vf select='not(mod(n,3))+eq(n,1)' -fps_mode vfr";
    ffmpeg(&format!("-i {} {some}", flat.display()), &uneven).unwrap();
    assert_eq!(numbers(&uneven).await.unwrap(), [0, 1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39]);
}

#[tokio::test]
async fn what_is_broken_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    video(&at("front.mp4"), (96, 64), 16.0, 0..60).await.unwrap();
    ffmpeg(&format!("-i {} -c copy", at("front.mp4").display()), &at("v.mkv")).unwrap();
    ffmpeg(&format!("-i {} -c copy", at("front.mp4").display()), &at("tail.mp4")).unwrap();
    let noise = RgbImage::from_fn(64, 64, |x, y| Rgb([((x * 31) ^ (y * 17)) as u8, (x * y) as u8, y as u8]));
    for name in ["p.png", "p.jpg", "p.webp", "p.bmp"] {
        noise.save(at(name)).unwrap();
    }
    for name in ["front.mp4", "v.mkv", "tail.mp4", "p.png", "p.jpg", "p.webp", "p.bmp"] {
        let whole = std::fs::read(at(name)).unwrap();
        assert!(media().probe(&at(name)).await.is_ok(), "{name}");
        for keep in [whole.len() / 3, whole.len() * 2 / 3, whole.len() - 40] {
            std::fs::write(at("cut"), &whole[..keep]).unwrap();
            let Err(failure) = media().probe(&at("cut")).await else { panic!("{name}: {keep} of {}", whole.len()) };
            assert_eq!(failure.code, "unreadable_media", "{name}");
            assert!(!failure.message.contains(&*folder.path().to_string_lossy()), "{}", failure.message);
        }
    }
    for (name, content) in [("t.txt", "just text"), ("empty", ""), ("j.json", "{\"a\": 1}")] {
        std::fs::write(at(name), content).unwrap();
        assert_eq!(media().probe(&at(name)).await.unwrap_err().code, "unreadable_media", "{name}");
    }
    assert_eq!(media().probe(&at("absent")).await.unwrap_err().code, "unreadable_media");
}

#[tokio::test]
async fn a_file_that_names_other_files_opens_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let secret = video(&folder.path().join("secret.mp4"), (96, 64), 16.0, 0..5).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/x.ts", listener.local_addr().unwrap());
    let path = secret.display();
    let playlist = |target: &str| format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n");
    for (name, content) in [
        ("list.m3u8", playlist(&format!("file://{path}"))),
        ("net.m3u8", playlist(&url)),
        ("net.mp4", playlist(&url)),
        ("list.ffconcat", format!("ffconcat version 1.0\nfile '{path}'\n")),
        ("dash.mpd", format!("<?xml version=\"1.0\"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>")),
        ("pic.svg", format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><image href=\"{path}\"/></svg>")),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        assert_eq!(media().probe(&file).await.unwrap_err().code, "unreadable_media", "{name}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody was called");
}

#[tokio::test]
async fn limits_are_named_with_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = video(&folder.path().join("v.mp4"), (96, 64), 16.0, 0..30).await.unwrap();
    for (media, code, setting) in [
        (media_with(|tools| tools.pixels = 96 * 63), "media_too_large", "media.megapixels"),
        (media_with(|tools| tools.frames = 29), "media_too_large", "media.frames"),
        (media_with(|tools| tools.seconds = 0), "media_too_slow", "media.run_seconds"),
    ] {
        let failure = media.probe(&file).await.unwrap_err();
        assert_eq!((failure.class.as_str(), failure.code.as_str()), ("denied", code));
        assert!(failure.message.contains(setting), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_missing_program_is_named_with_the_command_that_installs_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = video(&folder.path().join("v.mp4"), (96, 64), 16.0, 0..3).await.unwrap();
    let none = media_with(|tools| tools.ffprobe = "/nowhere/ffprobe".into());
    let failure = none.probe(&file).await.unwrap_err();
    assert_eq!((failure.class.as_str(), failure.code.as_str()), ("unavailable", "ffmpeg_missing"));
    for words in ["apt-get install ffmpeg", "brew install ffmpeg", "media.ffprobe"] {
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let none = media_with(|tools| tools.ffmpeg = "/nowhere/ffmpeg".into());
    let failure = FrameWriter::create(&none, &file, spec(8, 8, 8.0)).await.err().unwrap();
    assert!(failure.message.contains("media.ffmpeg"), "{}", failure.message);
}

#[tokio::test]
async fn a_version_that_is_too_old_says_which_one_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let file = video(&folder.path().join("v.mp4"), (96, 64), 16.0, 0..3).await.unwrap();
    let program = folder.path().join("ffmpeg");
    // Written by another process: one that this process holds open, even for a moment, may not be started.
    let script = r#"printf '#!/bin/sh\necho Unrecognized option fps_mode. >&2\nexit 1\n' > "$0" && chmod +x "$0""#;
    assert!(Command::new("sh").args(["-c", script]).arg(&program).status().unwrap().success());
    let old = media_with(|tools| tools.ffmpeg = program);
    let failure = old.frame_png(&file, 0).await.unwrap_err();
    assert_eq!((failure.class.as_str(), failure.code.as_str()), ("unavailable", "ffmpeg_too_old"));
    assert!(failure.message.contains("5.1"), "{}", failure.message);
}
