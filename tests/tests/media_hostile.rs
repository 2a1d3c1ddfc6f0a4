//! Files that are broken, and files made to do harm: refused in words, within the limits, and without a look at any other
//! file or at the network.

// Linux tells which files are opened, and bounds what a program uses.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use enginehouse::media::frames::{Fit, FrameReader, PixelFormat};
use enginehouse::media::{Kind, Media};
use enginehouse::task::Failure;
use enginehouse_tests::numbered::{ffmpeg, media, media_with, numbers, video};
use enginehouse_tests::played::{play, played};
use image::{Rgb, RgbImage};
use serde_json::json;
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    flat: PathBuf,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flat = video(&folder.path().join("flat.mp4"), (96, 64), 25.0, 0..40).await.unwrap();
        Self { folder, flat }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn made(&self, name: &str, how: &str) -> PathBuf {
        let path = self.at(name);
        ffmpeg(&format!("-i {} {how}", self.flat.display()), &path).unwrap();
        path
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A failure is one for people: it has no path, no address in memory and none of ffmpeg's own sayings.
    fn is_in_words(&self, failure: &Failure) {
        let said = &failure.message;
        for noise in
            [&*self.folder.path().to_string_lossy(), "0x", "@ ", "Invalid data found", "moov atom", "file:", "Error "]
        {
            assert!(!said.contains(noise), "{said}");
        }
        assert!(said.len() > 40, "{said}");
    }
}

/// What becomes of all frames of a file: their numbers, or why not.
async fn outcome(file: &Path) -> Result<Vec<u64>, Failure> {
    let made = play(&media(), file, &json!({}), &json!({})).await?;
    Ok(numbers(&made.made.path).await.unwrap())
}

#[tokio::test]
async fn a_file_that_is_cut_off_anywhere_is_refused_in_words() {
    let bench = Bench::new().await;
    for (name, how) in [
        ("front.mp4", "-c copy -movflags +faststart"),
        ("tail.mp4", "-c copy"),
        ("x.mov", "-c copy"),
        ("fragments.mp4", "-c:v libx264 -g 10 -movflags frag_keyframe+empty_moov"),
        ("x.mkv", "-c copy"),
        ("x.webm", "-c:v libvpx -b:v 1M"),
        ("x.avi", "-c:v mpeg4 -q:v 2"),
        ("x.flv", "-c copy"),
        ("x.ogv", "-c:v libtheora -q:v 9"),
        ("x.wmv", "-c:v wmv2 -q:v 2"),
        ("x.mxf", "-c:v mpeg2video -q:v 2"),
        ("x.ts", "-c copy"),
        ("x.ivf", "-c:v libvpx -b:v 1M"),
        ("x.gif", ""),
        ("x.apng", "-f apng"),
        ("x.webp", "-c:v libwebp_anim -lossless 1"),
        ("x.avif", "-c:v libaom-av1 -cpu-used 8"),
        ("x.png", "-frames:v 1"),
        ("x.jpg", "-frames:v 1"),
        ("x.bmp", "-frames:v 1"),
        ("x.tiff", "-frames:v 1"),
        ("still.webp", "-frames:v 1 -c:v libwebp"),
    ] {
        let whole = std::fs::read(bench.made(name, how)).unwrap();
        assert!(media().probe(&bench.at(name)).await.is_ok(), "{name}");
        for keep in [whole.len() / 10, whole.len() / 2, whole.len() * 95 / 100, whole.len() - 23] {
            // Some 188 bytes are a packet: a cut that hits none.
            let keep = if name == "x.ts" && keep % 188 == 0 { keep + 1 } else { keep };
            let cut = bench.file("cut", &whole[..keep]);
            let Err(failure) = media().probe(&cut).await else { panic!("{name}: {keep} of {} bytes", whole.len()) };
            assert_eq!(failure.code, "unreadable_media", "{name} at {keep}");
            bench.is_in_words(&failure);
            assert_eq!(outcome(&cut).await.unwrap_err().code, "unreadable_media", "{name} at {keep}");
        }
    }
}

#[tokio::test]
async fn a_stream_that_notes_no_length_plays_what_is_there_or_is_refused() {
    let bench = Bench::new().await;
    for (name, how) in [
        ("x.h264", "-c copy -bsf:v h264_mp4toannexb"),
        ("x.mpg", "-c:v mpeg2video -q:v 2"),
        ("x.y4m", "-pix_fmt yuv420p"),
        ("live.mkv", "-c:v libx264 -live 1 -cluster_time_limit 200"),
    ] {
        let whole = std::fs::read(bench.made(name, how)).unwrap();
        for keep in [whole.len() / 10, whole.len() / 2, whole.len() * 95 / 100] {
            match outcome(&bench.file("cut", &whole[..keep])).await {
                // Not a frame that was not there, none twice, none in another's place (but for the one that was cut).
                Ok(got) => {
                    let certain = &got[..got.len().saturating_sub(1)];
                    assert!(certain.iter().enumerate().all(|(i, n)| *n == i as u64), "{name}: {got:?}");
                }
                Err(failure) => {
                    assert_eq!(failure.code, "unreadable_media", "{name}");
                    bench.is_in_words(&failure);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_is_damaged_in_the_middle_never_gives_fewer_frames_than_it_said() {
    let bench = Bench::new().await;
    for (name, how) in [
        ("x.mp4", "-c:v libx264 -g 10"),
        ("x.mkv", "-c:v libx264 -g 10"),
        ("x.webm", "-c:v libvpx -b:v 1M"),
        ("x.avi", "-c:v mpeg4 -q:v 2"),
        ("x.ts", "-c:v libx264 -g 10"),
        ("x.gif", ""),
        ("x.apng", "-f apng"),
        ("x.webp", "-c:v libwebp_anim -lossless 1"),
    ] {
        let mut bytes = std::fs::read(bench.made(name, how)).unwrap();
        let middle = bytes.len() / 2;
        for (i, byte) in bytes[middle..middle + 200].iter_mut().enumerate() {
            *byte = (i * 89 + 7) as u8;
        }
        let damaged = bench.file("damaged", &bytes);
        match media().probe(&damaged).await {
            Err(failure) => {
                assert_eq!(failure.code, "unreadable_media", "{name}");
                bench.is_in_words(&failure);
            }
            Ok(facts) => match outcome(&damaged).await {
                Ok(got) => assert_eq!(got.len() as u64, facts.frames, "{name}"),
                Err(failure) => {
                    assert_eq!(failure.code, "unreadable_media", "{name}");
                    bench.is_in_words(&failure);
                }
            },
        }
    }
}

#[tokio::test]
async fn what_is_no_medium_is_named_for_what_it_is() {
    let bench = Bench::new().await;
    for (name, bytes, words) in [
        ("empty.mp4", &b""[..], "empty"),
        ("login.mp4", b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>", "web page"),
        ("gone.webm", b"{\"error\": \"not found\"}", "JSON"),
        ("t.mov", b"just text", "text"),
        ("a.png", b"PK\x03\x04\x14\0\0\0", "ZIP"),
        ("a.jpg", b"%PDF-1.7\n", "PDF"),
        ("noise", &[0xa5; 5000], "kind"),
        ("zeros", &[0; 5000], "kind"),
        ("one.mp4", b"\0", "cut off"),
    ] {
        let failure = media().probe(&bench.file(name, bytes)).await.unwrap_err();
        assert_eq!((failure.class.as_str(), failure.code.as_str()), ("invalid-input", "unreadable_media"), "{name}");
        assert!(failure.message.contains(words), "{name}: {}", failure.message);
        bench.is_in_words(&failure);
    }
}

/// Which files of `folder` are opened while something runs, as the kernel tells it.
async fn opened(folder: &Path, work: impl Future<Output = ()>) -> BTreeSet<String> {
    use rustix::fs::inotify;
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, folder, inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS).unwrap();
    work.await;
    let mut space = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(&watch, &mut space);
    let mut names = BTreeSet::new();
    while let Ok(event) = reader.next() {
        names.extend(event.file_name().map(|name| name.to_string_lossy().into_owned()));
    }
    names
}

/// A QuickTime film whose samples lie in another file.
fn with_outside_data(bench: &Bench, target: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(bench.made("inside.mov", "-c copy")).unwrap();
    // An alias: names of volume and file, how far up to go, then the path in full (kind 2) and the end (kind -1).
    let path = target.display().to_string();
    let mut alias = vec![0; 150];
    alias[106..110].copy_from_slice(&[0xff; 4]);
    alias.extend([&[0, 2][..], &(path.len() as u16).to_be_bytes(), path.as_bytes(), &[0xff, 0xff, 0, 0]].concat());
    let entry = [&((alias.len() + 12) as u32).to_be_bytes()[..], b"alis\0\0\0\0", &alias].concat();
    // The one entry that there is says that the data is in this file.
    let at = bytes.windows(4).position(|name| name == b"dref").unwrap() + 12;
    let old = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let grown = (entry.len() - old) as u32;
    bytes.splice(at..at + old, entry);
    // Every box around it grows with it.
    for around in [&b"moov"[..], b"trak", b"mdia", b"minf", b"dinf", b"dref"] {
        let at = bytes.windows(4).position(|name| name == around).unwrap() - 4;
        let size = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) + grown;
        bytes[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_file_that_names_others_opens_none_of_them_and_calls_nobody() {
    let bench = Bench::new().await;
    let secrets = tempfile::tempdir().unwrap();
    let secret = video(&secrets.path().join("secret.mp4"), (96, 64), 25.0, 200..205).await.unwrap();
    for name in ["secret.ts", "001.png", "secret.idx", "secret.sub", "secret.srt"] {
        std::fs::copy(&secret, secrets.path().join(name)).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let host = listener.local_addr().unwrap();
    let (path, folder) = (secret.display(), secrets.path().display());
    let list = |target: &str| format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n");
    let mut files = vec![
        ("hls_file.m3u8", list(&format!("file://{path}")).into_bytes()),
        ("hls_plain.mp4", list(&path.to_string()).into_bytes()),
        ("hls_net.mp4", list(&format!("http://{host}/x.ts")).into_bytes()),
        ("hls_crypto.m3u8", list(&format!("crypto+http://{host}/x.ts")).into_bytes()),
        ("hls_concat.m3u8", list(&format!("concat:http://{host}/x|{path}")).into_bytes()),
        ("dash.mpd", format!("<?xml version=\"1.0\"?><MPD><Period><BaseURL>http://{host}/x</BaseURL></Period></MPD>").into_bytes()),
        ("concat.txt", format!("ffconcat version 1.0\nfile '{path}'\n").into_bytes()),
        ("concat.mp4", format!("file '{path}'\nfile 'http://{host}/x'\n").into_bytes()),
        ("session.sdp", format!("v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n").into_bytes()),
        ("pic.svg", format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><image href=\"{path}\"/><image href=\"http://{host}/\"/></svg>").into_bytes()),
        ("ref.smil", format!("<smil><body><video src=\"http://{host}/x\"/></body></smil>").into_bytes()),
        ("list.asx", format!("<asx><entry><ref href=\"http://{host}/x\"/></entry></asx>").into_bytes()),
        ("list.pls", format!("[playlist]\nFile1=http://{host}/x\n").into_bytes()),
        ("script.avs", format!("DirectShowSource(\"{path}\")").into_bytes()),
        ("index.idx", format!("# VobSub index file, v7\nid: en, index: 0\n{folder}").into_bytes()),
        ("imf.xml", format!("<CompositionPlaylist><Asset>{path}</Asset></CompositionPlaylist>").into_bytes()),
    ];
    let outside = with_outside_data(&bench, &secret);
    // It does reach out, where that is allowed: what is tried below is no blank shot.
    let careless = bench.file("careless.mov", &outside);
    let reached = opened(secrets.path(), async {
        let allowed = ["-v", "quiet", "-enable_drefs", "1", "-use_absolute_path", "1", "-i"];
        Command::new("ffmpeg").args(allowed).arg(&careless).args(["-f", "null", "-"]).status().unwrap();
    })
    .await;
    assert_eq!(reached, BTreeSet::from(["secret.mp4".to_string()]));
    files.push(("outside.mov", outside));
    let mut prefixed = std::fs::read(&bench.flat).unwrap();
    prefixed.extend(list(&format!("http://{host}/x.ts")).bytes());
    files.push(("behind.mp4", prefixed));
    // A BOM, blank lines and other openings in front of a list.
    files.push(("bom.m3u8", [&b"\xef\xbb\xbf"[..], list(&format!("http://{host}/x.ts")).as_bytes()].concat()));

    let opened = opened(secrets.path(), async {
        for (name, bytes) in files {
            // Beside the secrets too: names that count from the file itself.
            for file in [bench.file(name, &bytes), bench.at("%03d.png")] {
                std::fs::write(&file, &bytes).unwrap();
                match outcome(&file).await {
                    Ok(numbers) => assert!(numbers.iter().all(|n| *n < 40), "{name} shows the secret: {numbers:?}"),
                    Err(failure) => {
                        assert_eq!(failure.code, "unreadable_media", "{name}: {failure}");
                        bench.is_in_words(&failure);
                        assert!(!failure.message.contains("secret"), "{failure}");
                    }
                }
            }
        }
    })
    .await;
    assert_eq!(opened, BTreeSet::new());
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody was called");
}

#[tokio::test]
async fn opening_a_watched_file_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let file = video(&folder.path().join("v.mp4"), (96, 64), 25.0, 0..3).await.unwrap();
    let opened = opened(folder.path(), async {
        media().probe(&file).await.unwrap();
    })
    .await;
    assert_eq!(opened, BTreeSet::from(["v.mp4".to_string()]), "what the test above relies on");
}

/// A PNG of one colour whose header and data claim this size: kilobytes for gigabytes.
fn png_bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    image::ImageEncoder::write_image(encoder, &[7; 64], 8, 8, image::ExtendedColorType::L8).unwrap();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The checksum of a PNG's chunk.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    })
}

async fn too_large(media: &Media, file: &Path, setting: &str) {
    let failure = media.probe(file).await.unwrap_err();
    assert_eq!((failure.class.as_str(), failure.code.as_str()), ("denied", "media_too_large"), "{failure}");
    assert!(failure.message.contains(setting), "{failure}");
}

#[tokio::test]
async fn a_small_file_that_unpacks_into_too_much_is_refused_before_it_does() {
    let bench = Bench::new().await;
    let bomb = png_bomb(60_000, 60_000);
    too_large(&media(), &bench.file("bomb.png", &bomb), "media.megapixels").await;
    // The same picture as the frame of a film, which has another size on its cover.
    RgbImage::from_pixel(8, 8, Rgb([9; 3])).save(bench.at("small.png")).unwrap();
    let film = bench.at("film.mov");
    ffmpeg(&format!("-i {} -c:v copy", bench.at("small.png").display()), &film).unwrap();
    let mut bytes = std::fs::read(&film).unwrap();
    let inside = bytes.windows(4).position(|name| name == b"IHDR").unwrap();
    bytes[inside + 4..inside + 12].copy_from_slice(&bomb[16..24]);
    let sum = crc(&bytes[inside..inside + 17]);
    bytes[inside + 17..inside + 21].copy_from_slice(&sum.to_be_bytes());
    let failure = outcome(&bench.file("film.mov", &bytes)).await.unwrap_err();
    assert!(matches!(failure.code.as_str(), "media_too_large" | "unreadable_media"), "{failure}");
    bench.is_in_words(&failure);
    // Canvases of animations.
    let mut gif = std::fs::read(bench.made("a.gif", "")).unwrap();
    gif[6..10].copy_from_slice(&[0xff; 4]);
    too_large(&media(), &bench.file("bomb.gif", &gif), "media.megapixels").await;
    let mut apng = std::fs::read(bench.made("a.apng", "-f apng")).unwrap();
    apng[16..33].copy_from_slice(&bomb[16..33]);
    let sum = crc(&apng[12..29]);
    apng[29..33].copy_from_slice(&sum.to_be_bytes());
    too_large(&media(), &bench.file("bomb.apng", &apng), "media.megapixels").await;
    let mut webp = std::fs::read(bench.made("a.webp", "-c:v libwebp_anim -lossless 1")).unwrap();
    webp[24..30].copy_from_slice(&[0xff, 0x3f, 0, 0xff, 0x3f, 0]);
    too_large(&media(), &bench.file("bomb.webp", &webp), "media.megapixels").await;
    // More frames than allowed, whatever the container.
    let few = media_with(|tools| tools.frames = 30);
    for name in ["a.gif", "a.apng", "a.webp"] {
        too_large(&few, &bench.at(name), "media.frames").await;
    }
    let far_too_few = media_with(|tools| tools.frames = 1);
    too_large(&far_too_few, &bench.flat, "media.frames").await;
    // Pixels that a video stretches to.
    let wide = bench.made("wide.mkv", "-vf setsar=60000/1 -c:v libx264");
    let small = media_with(|tools| tools.pixels = 1_000_000);
    let refused = small.probe(&wide).await;
    assert!(
        refused.is_err() || refused.is_ok_and(|facts| u64::from(facts.width) * u64::from(facts.height) <= 1_000_000)
    );
}

#[tokio::test]
async fn a_tiny_file_that_claims_hours_gives_the_frames_it_has() {
    let bench = Bench::new().await;
    // One frame, and ten hours later another one.
    let file = bench.made("hours.mkv", "-vf select='lt(n,2)',setpts=N*36000/TB -fps_mode vfr -c:v libx264");
    match media().probe(&file).await {
        Ok(facts) => assert_eq!((facts.kind, facts.frames), (Kind::Video, 2)),
        Err(failure) => bench.is_in_words(&failure),
    }
    let few = media_with(|tools| tools.frames = 10_000);
    let failure = play(&few, &file, &json!({"fps": 60}), &json!({})).await.err().unwrap();
    assert!(matches!(failure.code.as_str(), "media_too_large" | "unreadable_media"), "{failure}");
    // A header that lies about the length of the film.
    let mut bytes = std::fs::read(&bench.flat).unwrap();
    let header = bytes.windows(4).position(|name| name == b"mvhd").unwrap();
    bytes[header + 20..header + 24].copy_from_slice(&36_000_000u32.to_be_bytes());
    let facts = media().probe(&bench.file("lies.mp4", &bytes)).await.unwrap();
    assert_eq!(facts.frames, 40);
    assert!((facts.seconds - 1.6).abs() < 0.01, "{facts:?}");
}

#[tokio::test]
async fn rates_that_nobody_can_show_are_refused_and_those_of_clocks_are_not_taken_for_rates() {
    let bench = Bench::new().await;
    let fast = bench.made("fast.mkv", "-vf setpts=N/TB/20000 -fps_mode vfr -enc_time_base 1:90000 -c:v libx264");
    match media().probe(&fast).await {
        Ok(facts) => assert!((0.001..=1000.0).contains(&facts.fps), "{facts:?}"),
        Err(failure) => {
            assert_eq!(failure.code, "unreadable_media");
            bench.is_in_words(&failure);
        }
    }
    let fast = bench.made(
        "fast.mp4",
        "-vf setpts=N/TB/20000 -fps_mode vfr -enc_time_base 1:90000 -video_track_timescale 90000 -c:v libx264",
    );
    let failure = media().probe(&fast).await.unwrap_err();
    assert!(failure.message.contains("frames a second"), "{failure}");
    // Uneven times: the base rate is then that of the clock.
    let uneven = bench.made("u.mp4", "-vf setpts='(N+0.1*mod(N,3))/25/TB' -fps_mode vfr -enc_time_base 1:90000 -video_track_timescale 90000 -c:v libx264");
    let facts = media().probe(&uneven).await.unwrap();
    assert!((facts.fps - 25.0).abs() < 0.2, "{facts:?}");
    assert_eq!(played(&uneven, json!({})).await.unwrap(), (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_smallest_video_and_picture_there_are_play() {
    let bench = Bench::new().await;
    for (name, how) in [
        ("one.mkv", "-vf scale=1:1 -c:v ffv1 -pix_fmt yuv444p"),
        ("one.mp4", "-vf scale=1:1 -c:v libx264 -pix_fmt yuv444p"),
        ("one.gif", "-vf scale=1:1"),
        ("one.png", "-vf scale=1:1 -frames:v 1"),
    ] {
        let file = bench.made(name, how);
        let facts = media().probe(&file).await.unwrap();
        assert_eq!((facts.width, facts.height), (1, 1), "{name}");
        for size in [(1, 1), (64, 48)] {
            for fit in [Fit::Stretch, Fit::Crop, Fit::Letterbox] {
                let format = PixelFormat::planar(size.0, size.1);
                let mut reader = FrameReader::open(&media(), &file, size.0, size.1, format, fit).await.unwrap();
                let mut count = 0;
                while reader.next().await.unwrap().is_some() {
                    count += 1;
                }
                assert_eq!(count, facts.frames, "{name} {size:?} {fit:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_container_inside_a_container_is_what_is_outside() {
    let bench = Bench::new().await;
    let inner = bench.made("inner.mkv", "-c copy");
    let outer = bench.at("outer.mkv");
    ffmpeg(
        &format!(
            "-i {} -c copy -attach {} -metadata:s:t mimetype=video/x-matroska",
            bench.flat.display(),
            inner.display()
        ),
        &outer,
    )
    .unwrap();
    assert_eq!(played(&outer, json!({})).await.unwrap(), (0..40).collect::<Vec<_>>());
    let zip = bench.file("film.mp4", [&b"PK\x03\x04"[..], &std::fs::read(&bench.flat).unwrap()].concat());
    assert!(media().probe(&zip).await.unwrap_err().message.contains("ZIP"));
}

#[tokio::test]
async fn memory_results_and_scratch_are_bounded_each_by_its_setting() {
    let bench = Bench::new().await;
    let big = json!({"width": 3000, "height": 2000, "crf": 0});
    for (media, clip, setting) in [
        (media_with(|tools| tools.memory = 96 << 20), json!({}), "media.memory_mb"),
        (media_with(|tools| tools.result = 20 << 10), json!({}), "media.result_mb"),
        (media_with(|tools| tools.scratch = 1 << 20), json!({"reverse": true}), "media.scratch_mb"),
    ] {
        let failure = play(&media, &bench.flat, &clip, &big).await.err().unwrap();
        assert_eq!(
            (failure.class.as_str(), failure.code.as_str()),
            ("denied", "media_too_large"),
            "{setting}: {failure}"
        );
        assert!(failure.message.contains(setting), "{failure}");
    }
}

#[tokio::test]
async fn a_run_that_takes_too_long_is_stopped_and_gone() {
    let bench = Bench::new().await;
    let stand_in = bench.at("slow");
    let script = r#"printf '#!/bin/sh\necho $$ > "$0.pid"\nexec sleep 600\n' > "$0" && chmod +x "$0""#;
    assert!(Command::new("sh").args(["-c", script]).arg(&stand_in).status().unwrap().success());
    let slow = media_with(|tools| {
        tools.ffmpeg = stand_in.clone();
        tools.seconds = 1;
    });
    let failure = slow.frame_png(&bench.flat, 0).await.unwrap_err();
    assert_eq!((failure.class.as_str(), failure.code.as_str()), ("denied", "media_too_slow"));
    assert!(failure.message.contains("media.run_seconds"), "{failure}");
    let pid = std::fs::read_to_string(bench.at("slow.pid")).unwrap();
    let gone = || !Path::new(&format!("/proc/{}", pid.trim())).exists();
    for _ in 0..500 {
        if gone() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(gone(), "the program was killed and reaped");
}
