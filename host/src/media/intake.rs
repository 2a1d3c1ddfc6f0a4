//! Files of users and of the network become artifacts: pictures are turned upright as their EXIF data says, broken and
//! cut-off files are refused before a task works with them. What is checked is a copy of our own, which nobody changes
//! meanwhile.
//!
//! - `picture.rs`: pictures, decoded and turned.
//! - `roots.rs`: which local paths a task may name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use url::Url;

use crate::artifacts::download::Fetch;
use crate::artifacts::{Artifacts, Take, names, sniff};
use crate::digest::Digest;
use crate::media::Media;
use crate::task::{Failure, FileRef};

mod picture;
mod roots;

/// How often a file is fetched whose server does not say how long it is, and that turns out to be cut off.
const FETCHES: u32 = 3;

/// Extensions that nothing but pictures, videos and sound have.
const MEDIA_EXTENSIONS: [&str; 26] = [
    "apng", "avi", "avif", "flv", "gif", "heic", "jpeg", "jpg", "m2ts", "m4a", "m4v", "mkv", "mov", "mp3", "mp4",
    "mpeg", "mpg", "mxf", "ogv", "png", "tiff", "wav", "webm", "webp", "wmv", "y4m",
];

/// The way in for files. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    pub artifacts: Artifacts,
    pub downloader: Arc<dyn Fetch>,
    pub media: Media,
    /// Local paths are accepted below these folders alone; relative ones count from each of them.
    pub roots: Vec<PathBuf>,
}

impl Intake {
    /// `http(s)://…`, `sha256:…`, or a path (also `file://…`) below one of the roots. Codes as `artifacts.resolve` in
    /// `wit/artifacts.wit`; what [`Media::probe`] says of films and sound.
    pub async fn resolve(&self, source: &str) -> Result<FileRef, Failure> {
        if source.starts_with("sha256:") {
            return self.known(source).await;
        }
        if !source.contains("://") {
            return self.local(PathBuf::from(source)).await;
        }
        let url = Url::parse(source).map_err(|e| {
            let start: String = source.chars().take_while(|c| !matches!(c, '?' | '#')).take(200).collect();
            Failure::invalid("download_failed", format!("`{start}` is no address that can be downloaded: {e}."))
        })?;
        match url.scheme() {
            "file" => match url.to_file_path() {
                Ok(path) => self.local(path).await,
                Err(()) => Err(roots::not_allowed(&self.roots, Path::new(url.path()))),
            },
            // Other schemes are refused there, in words.
            _ => self.downloaded(&url).await,
        }
    }

    /// A file named by the operator on the command line: any path.
    pub async fn import(&self, path: &Path) -> Result<FileRef, Failure> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let scratch = self.artifacts.scratch()?;
        let (from, copy) = (path.to_path_buf(), scratch.path().join("file"));
        let to = copy.clone();
        blocking(move || copied(&from, &to)).await?;
        self.take_in(&copy, &name, &scratch.path().join("upright")).await
    }

    async fn known(&self, source: &str) -> Result<FileRef, Failure> {
        let absent = |why: String| Failure::invalid("input_not_found", why);
        let digest: Digest = source.parse().map_err(|e| absent(format!("{e}.")))?;
        let head = self.artifacts.read(digest, 0, sniff::HEAD_BYTES as u32).await.map_err(|e| absent(e.message))?;
        // Its names belong to those who made it; here it is known by its content alone.
        let media_type = sniff::media_type(&head, "");
        let extension = sniff::extension(media_type).map_or(String::new(), |extension| format!(".{extension}"));
        let name = format!("{}{extension}", digest.short());
        Ok(FileRef { artifact: digest, name, media_type: media_type.to_string() })
    }

    async fn local(&self, named: PathBuf) -> Result<FileRef, Failure> {
        let roots = self.roots.clone();
        let path = blocking(move || roots::locate(&roots, &named)).await?;
        self.import(&path).await
    }

    async fn downloaded(&self, url: &Url) -> Result<FileRef, Failure> {
        let mut fetches = 1;
        loop {
            let scratch = self.artifacts.scratch()?;
            let file = self.downloader.fetch(url, scratch.path()).await?;
            match self.take_in(&file.path, &file.name, &scratch.path().join("upright")).await {
                Err(e)
                    if !file.length_known
                        && fetches < FETCHES
                        && matches!(e.code.as_str(), "truncated" | "unreadable_media") =>
                {
                    fetches += 1;
                }
                result => return result,
            }
        }
    }

    /// Checks a file that is ours and keeps it.
    async fn take_in(&self, path: &Path, name: &str, turned: &Path) -> Result<FileRef, Failure> {
        let name = names::sanitised(name);
        let (from, called) = (path.to_path_buf(), name.clone());
        let media_type = blocking(move || media_type(&from, &called)).await?;
        if picture::is_picture(media_type) {
            if self.upright(path, &name, turned).await? {
                let name = format!("{}.png", names::split(&name).0);
                return self.artifacts.import_file(turned, &name, Take::Move).await;
            }
        } else if is_media(media_type) || names_media(&name) {
            self.media.probe(path).await.map_err(|e| {
                let message = format!("The file {name} cannot be used: {}", e.message);
                Failure { message, ..e }
            })?;
        }
        self.artifacts.import_file(path, &name, Take::Move).await
    }

    /// Checks a picture, and writes it upright to `turned` when it is not; true says so. An animation may have as many
    /// frames as it likes: decoding them takes no longer than a run of ffmpeg may.
    async fn upright(&self, path: &Path, name: &str, turned: &Path) -> Result<bool, Failure> {
        let (from, to, called) = (path.to_path_buf(), turned.to_path_buf(), name.to_string());
        let tools = self.media.tools.clone();
        let seconds = tools.seconds;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = tokio::task::spawn_blocking(move || picture::checked(&from, &called, &tools, &to, &stopped));
        // Whoever stops waiting, be it for a cancelled task, stops the work too.
        let _stop_at_the_end = StopOnDrop(stop);
        match tokio::time::timeout(Duration::from_secs(seconds), work).await {
            // A decoder that breaks on a file has found a broken file.
            Ok(done) => done.unwrap_or_else(|_| Err(picture::unreadable(name, "it cannot be decoded"))),
            Err(_) => Err(Failure::denied(
                "media_too_slow",
                format!(
                    "The picture {name} was not decoded within the {seconds} s that the setting `media.run_seconds` allows."
                ),
            )),
        }
    }
}

/// Tells work on another thread to stop.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_media(media_type: &str) -> bool {
    ["image/", "video/", "audio/"].iter().any(|kind| media_type.starts_with(kind))
}

/// Whether a file is called a video or sound: then it must be one, whatever its first bytes look like.
fn names_media(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    MEDIA_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
}

fn media_type(path: &Path, name: &str) -> Result<&'static str, Failure> {
    use std::io::Read;
    let mut head = Vec::with_capacity(sniff::HEAD_BYTES);
    std::fs::File::open(path)
        .and_then(|file| file.take(sniff::HEAD_BYTES as u64).read_to_end(&mut head))
        .map_err(|e| not_read(path, &e.to_string()))?;
    Ok(sniff::media_type(&head, name))
}

/// Copies a file; file systems that can do so share the bytes.
fn copied(from: &Path, to: &Path) -> Result<(), Failure> {
    let found = std::fs::metadata(from).map_err(|e| not_read(from, &e.to_string()))?;
    if !found.is_file() {
        return Err(not_read(from, if found.is_dir() { "it is a folder" } else { "it is no regular file" }));
    }
    std::fs::copy(from, to).map(drop).map_err(|e| not_read(from, &e.to_string()))
}

fn not_read(path: &Path, why: &str) -> Failure {
    Failure::invalid("input_not_found", format!("The file {} could not be read: {why}.", path.display()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Failure::internal("intake_failed", format!("A file could not be taken in: {e}."))))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::jpeg::JpegEncoder;
    use image::{DynamicImage, ImageEncoder, ImageFormat, Rgb, RgbImage};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::artifacts::download::Downloader;
    use crate::config::MediaConfig;
    use crate::media::Tools;
    use crate::net::NetPolicy;

    struct House {
        folder: TempDir,
        intake: Intake,
    }

    fn house() -> House {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("inputs");
        std::fs::create_dir(&root).unwrap();
        let config = MediaConfig { ffmpeg: "no".into(), ffprobe: "no".into(), megapixels: 1, ..MediaConfig::default() };
        let intake = Intake {
            artifacts: Artifacts::open(&folder.path().join("data"), &folder.path().join("outputs")).unwrap(),
            downloader: Arc::new(Downloader {
                policy: NetPolicy { allow: vec!["127.0.0.1".into()] },
                bytes: 10_000_000,
                timeout: Duration::from_secs(30),
            }),
            media: Media::new(Tools::from(&config)),
            roots: vec![root],
        };
        House { folder, intake }
    }

    impl House {
        async fn bring(&self, name: &str, bytes: &[u8]) -> Result<FileRef, Failure> {
            std::fs::write(self.folder.path().join("inputs").join(name), bytes).unwrap();
            let result = self.intake.resolve(name).await;
            let incoming = self.folder.path().join("data/artifacts/incoming");
            assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0, "nothing is left lying about");
            result
        }

        fn kept(&self, file: &FileRef) -> Vec<u8> {
            std::fs::read(self.intake.artifacts.path(file.artifact).unwrap()).unwrap()
        }
    }

    /// A picture with structure: a cut-off file cannot decode to the same.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 % 256) as u8, (y * 11 % 256) as u8, (x * y % 251) as u8]))
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(picture(120, 80)).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    /// Left half red, right half blue, with the note that it was taken with this orientation.
    fn held(orientation: u8) -> Vec<u8> {
        let picture = RgbImage::from_fn(64, 32, |x, _| if x < 32 { Rgb([250, 0, 0]) } else { Rgb([0, 0, 250]) });
        let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
        let mut bytes = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
        encoder.set_exif_metadata(exif).unwrap();
        encoder.write_image(&picture, 64, 32, image::ExtendedColorType::Rgb8).unwrap();
        bytes
    }

    #[tokio::test]
    async fn pictures_that_are_upright_stay_as_they_are() {
        let house = house();
        let formats = [
            (ImageFormat::Png, "image/png"),
            (ImageFormat::Jpeg, "image/jpeg"),
            (ImageFormat::Gif, "image/gif"),
            (ImageFormat::WebP, "image/webp"),
            (ImageFormat::Bmp, "image/bmp"),
            (ImageFormat::Tiff, "image/tiff"),
        ];
        for (format, media_type) in formats {
            let bytes = encoded(format);
            let file = house.bring("my picture", &bytes).await.unwrap();
            assert_eq!((file.media_type.as_str(), house.kept(&file) == bytes), (media_type, true));
        }
        let bytes = held(1);
        let file = house.bring("upright.jpg", &bytes).await.unwrap();
        assert_eq!((file.name.as_str(), house.kept(&file) == bytes), ("upright.jpg", true));
    }

    #[tokio::test]
    async fn a_picture_taken_sideways_is_turned_upright_without_loss() {
        let house = house();
        let bytes = held(6);
        let file = house.bring("side ways.jpg", &bytes).await.unwrap();
        assert_eq!((file.name.as_str(), file.media_type.as_str()), ("side_ways.png", "image/png"));
        let turned = image::load_from_memory(&house.kept(&file)).unwrap().to_rgb8();
        let as_stored = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(turned, image::imageops::rotate90(&as_stored));
        assert_eq!(turned.dimensions(), (32, 64));
        assert!(turned.get_pixel(16, 4)[0] > 200 && turned.get_pixel(16, 60)[2] > 200, "what was left is on top");
        assert_eq!(house.bring("again.jpg", &bytes).await.unwrap().artifact, file.artifact);
    }

    #[tokio::test]
    async fn cut_off_pictures_are_refused_wherever_they_end() {
        let house = house();
        let formats = [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::Gif,
            ImageFormat::WebP,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
        ];
        for format in formats {
            let whole = encoded(format);
            for part in [40, 70, 95] {
                let failure = house.bring("cut", &whole[..whole.len() * part / 100]).await.unwrap_err();
                assert_eq!(failure.code, "truncated", "{format:?} at {part} %: {failure}");
            }
        }
        assert_eq!(house.bring("head.png", &encoded(ImageFormat::Png)[..8]).await.unwrap_err().code, "truncated");
    }

    #[tokio::test]
    async fn too_large_a_picture_is_refused_before_it_is_decoded() {
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::new_luma8(1001, 1000).write_to(&mut bytes, ImageFormat::Png).unwrap();
        let failure = house().bring("large.png", &bytes.into_inner()).await.unwrap_err();
        assert_eq!(failure.code, "too_large");
        assert!(failure.message.contains("1001x1000") && failure.message.contains("media.megapixels"), "{failure}");
    }

    #[tokio::test]
    async fn a_small_picture_in_front_of_gigabytes_is_refused_without_reading_them() {
        let house = house();
        for (name, format) in [("film.jpg", ImageFormat::Jpeg), ("film.png", ImageFormat::Png)] {
            let path = house.folder.path().join("inputs").join(name);
            std::fs::write(&path, encoded(format)).unwrap();
            // A hole: it takes no room on the disk, and would take all of it in memory.
            std::fs::File::options().write(true).open(&path).unwrap().set_len(4 << 30).unwrap();
            let tools = &house.intake.media.tools;
            let upright = path.with_extension("upright");
            let failure = picture::checked(&path, name, tools, &upright, &AtomicBool::new(false)).unwrap_err();
            assert_eq!(failure.code, "too_large", "{failure}");
            assert!(failure.message.contains("120x80") && failure.message.contains("4096 MB"), "{failure}");
            let failure = house.intake.media.probe(&path).await.unwrap_err();
            assert_eq!(failure.code, "media_too_large", "{failure}");
        }
        // What phones put behind their pictures is no offence.
        let with_film = [encoded(ImageFormat::Jpeg), vec![0; 1 << 20]].concat();
        assert_eq!(house.kept(&house.bring("phone.jpg", &with_film).await.unwrap()), with_film);
    }

    #[tokio::test]
    async fn other_files_pass_as_they_are() {
        let house = house();
        let file = house.bring("workflow.json", b"{\"a\": 1}").await.unwrap();
        assert_eq!(file.media_type, "application/json");
        let weights = b"\x08\0\0\0\0\0\0\0{      }";
        let file = house.bring("model.v1.safetensors", weights).await.unwrap();
        assert_eq!(
            (file.name.as_str(), file.media_type.as_str()),
            ("model.v1.safetensors", "application/octet-stream")
        );
        assert_eq!(house.kept(&file), weights);
    }

    #[tokio::test]
    async fn a_web_page_that_is_called_a_video_is_refused_as_what_it_is() {
        let house = house();
        for name in ["film.mp4", "FILM.MOV", "picture.png"] {
            let failure = house.bring(name, b"<!doctype html>\n<html><title>Sign in</title></html>").await.unwrap_err();
            assert_eq!(failure.code, "unreadable_media");
            assert!(failure.message.contains(name) && failure.message.contains("web page"), "{failure}");
        }
        assert_eq!(house.bring("page.html", b"<!doctype html>").await.unwrap().media_type, "text/plain");
    }

    /// Two frames of the same size, the second cut off or not, with the note that they were taken sideways.
    fn animation(whole: bool) -> Vec<u8> {
        let mut still = Cursor::new(Vec::new());
        DynamicImage::from(picture(24, 16)).write_to(&mut still, ImageFormat::WebP).unwrap();
        // Behind the outermost header stands the coded picture.
        let coded = still.into_inner().split_off(12);
        let chunk = |name: &[u8], content: &[u8]| {
            [name, &(content.len() as u32).to_le_bytes()[..], content, &vec![0; content.len() % 2]].concat()
        };
        let frame =
            |coded: &[u8]| chunk(b"ANMF", &[&[0, 0, 0, 0, 0, 0, 23, 0, 0, 15, 0, 0, 100, 0, 0, 0][..], coded].concat());
        let mut broken = coded.clone();
        if !whole {
            broken.iter_mut().skip(30).for_each(|byte| *byte = 0xff);
        }
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let body = [
            chunk(b"VP8X", &[0x0a, 0, 0, 0, 23, 0, 0, 15, 0, 0]),
            chunk(b"ANIM", &[0; 6]),
            frame(&coded),
            frame(&broken),
            chunk(b"EXIF", exif),
        ]
        .concat();
        [&b"RIFF"[..], &(body.len() as u32 + 4).to_le_bytes(), b"WEBP", &body].concat()
    }

    #[tokio::test]
    async fn animations_stay_as_they_are_and_are_looked_at_to_their_last_frame() {
        let house = house();
        let bytes = animation(true);
        let file = house.bring("a.webp", &bytes).await.unwrap();
        assert_eq!((file.media_type.as_str(), house.kept(&file) == bytes), ("image/webp", true));
        // Turned where they are used: one frame alone would be left of it here.
        let facts = house.intake.media.probe(&house.intake.artifacts.path(file.artifact).unwrap()).await.unwrap();
        assert_eq!((facts.frames, facts.fps, facts.width, facts.height), (2, 10.0, 16, 24));
        assert_eq!(house.bring("b.webp", &animation(false)).await.unwrap_err().code, "truncated");
    }

    #[tokio::test]
    async fn a_digest_is_known_or_not() {
        let house = house();
        let file = house.bring("a.png", &encoded(ImageFormat::Png)).await.unwrap();
        let again = house.intake.resolve(&file.artifact.to_string()).await.unwrap();
        assert_eq!((again.artifact, again.media_type.as_str()), (file.artifact, "image/png"));
        assert_eq!(again.name, format!("{}.png", file.artifact.short()));
        for unknown in [Digest::of(b"unknown").to_string(), "sha256:12".into()] {
            assert_eq!(house.intake.resolve(&unknown).await.unwrap_err().code, "input_not_found");
        }
    }

    #[tokio::test]
    async fn paths_are_kept_to_the_roots_and_the_operator_is_not() {
        let house = house();
        let outside = house.folder.path().join("outside ü.txt");
        std::fs::write(&outside, "text").unwrap();
        let inside = house.folder.path().join("inputs/inside.txt");
        std::fs::write(&inside, "text").unwrap();
        let code = |source: String| {
            let intake = house.intake.clone();
            async move { intake.resolve(&source).await.map_or_else(|failure| failure.code, |file| file.name) }
        };
        assert_eq!(code(inside.display().to_string()).await, "inside.txt");
        assert_eq!(code(crate::artifacts::uri(&inside)).await, "inside.txt");
        assert_eq!(code(outside.display().to_string()).await, "path_not_allowed");
        assert_eq!(code(crate::artifacts::uri(&outside)).await, "path_not_allowed");
        assert_eq!(code("file://elsewhere/etc/passwd".into()).await, "path_not_allowed");
        assert_eq!(code("missing.txt".into()).await, "input_not_found");
        assert_eq!(code(String::new()).await, "input_not_found");
        assert_eq!(code("ftp://example.org/a".into()).await, "download_failed");
        assert_eq!(code("http://".into()).await, "download_failed");
        assert_eq!(house.intake.import(&outside).await.unwrap().name, "outside_ü.txt");
        assert!(outside.exists());
        assert_eq!(house.intake.import(house.folder.path()).await.unwrap_err().code, "input_not_found");
    }

    /// A server that does not say how long its file is, and breaks off the first times.
    async fn serve(bytes: Vec<u8>, broken: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for nth in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let end = if nth < broken { bytes.len() / 2 } else { bytes.len() };
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await;
                let _ = stream.write_all(&bytes[..end]).await;
            }
        });
        format!("http://{address}/a%20picture.png?key=secret")
    }

    #[tokio::test]
    async fn a_download_whose_length_is_unknown_is_fetched_again_when_it_is_cut_off() {
        let house = house();
        let bytes = encoded(ImageFormat::Png);
        let file = house.intake.resolve(&serve(bytes.clone(), 2).await).await.unwrap();
        assert_eq!((file.name.as_str(), house.kept(&file) == bytes), ("a_picture.png", true));
        let failure = house.intake.resolve(&serve(bytes, 3).await).await.unwrap_err();
        assert_eq!(failure.code, "truncated");
    }
}
