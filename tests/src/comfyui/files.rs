//! Files by name: the three folders, names with a suffix that picks one, and `/view`.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::routes::{empty, fault};
use super::{Options, Server};

/// Extensions that a browser would run: they come as plain bytes, to be saved.
const DANGEROUS: [&str; 8] = ["html", "htm", "xhtml", "svg", "js", "mjs", "css", "xml"];

/// The folder of `input`, `output` or `temp`.
pub(super) fn folder(options: &Options, kind: &str) -> Option<PathBuf> {
    match kind {
        "input" => Some(options.input.clone()),
        "output" => Some(options.output.clone()),
        "temp" => Some(options.temp_folder()),
        _ => None,
    }
}

/// `name`, `sub/name`, and either with ` [input]`, ` [output]` or ` [temp]` behind it. Nothing when it leads outside.
pub(super) fn annotated(options: &Options, name: &str) -> Option<PathBuf> {
    let (name, kind) = suffix(name).unwrap_or((name, "input"));
    inside(&folder(options, kind)?, name)
}

fn suffix(name: &str) -> Option<(&str, &str)> {
    ["input", "output", "temp"].into_iter().find_map(|kind| {
        let name = name.strip_suffix(']')?.strip_suffix(kind)?.strip_suffix('[')?;
        Some((name.strip_suffix(' ').unwrap_or(name), kind))
    })
}

/// A path below `folder`, if it stays there.
pub(super) fn inside(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut depth = 0_i32;
    for part in Path::new(name).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
        if depth < 0 {
            return None;
        }
    }
    Some(folder.join(name))
}

/// Names of the files that lie directly in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut names: Vec<String> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The query of `/view`.
#[derive(serde::Deserialize)]
pub(super) struct Viewed {
    filename: Option<String>,
    subfolder: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    preview: Option<String>,
    channel: Option<String>,
}

/// A file, or a part of it.
pub(super) async fn view(
    State(server): State<Arc<Server>>,
    Query(query): Query<Viewed>,
    headers: HeaderMap,
) -> Response {
    let path = match find(&server.options, &query) {
        Ok(path) => path,
        Err(status) => return empty(status),
    };
    let Ok(bytes) = tokio::fs::read(&path).await else { return empty(StatusCode::NOT_FOUND) };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if query.preview.is_some() || query.channel.as_deref().is_some_and(|channel| ["rgb", "a"].contains(&channel)) {
        return match recoded(&bytes, &query) {
            Some((kind, bytes)) => Response::builder()
                .header(header::CONTENT_TYPE, kind)
                .header(header::CONTENT_DISPOSITION, format!("filename=\"{name}\""))
                .body(Body::from(bytes))
                .unwrap_or_else(|_| fault()),
            None => fault(),
        };
    }
    let kind = content_type(&name);
    let disposition = match kind {
        None => format!("attachment; filename=\"{name}\""),
        Some(_) => format!("filename=\"{name}\""),
    };
    let length = bytes.len();
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, kind.unwrap_or("application/octet-stream"))
        .header(header::CONTENT_DISPOSITION, disposition)
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let asked = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(|range| part(range, length));
    let body = match asked {
        Some(Err(())) => {
            let response = response.status(416).header(header::CONTENT_RANGE, format!("bytes */{length}"));
            return response.body(Body::empty()).unwrap_or_else(|_| fault());
        }
        Some(Ok((from, to))) => {
            response = response.status(206).header(header::CONTENT_RANGE, format!("bytes {from}-{}/{length}", to - 1));
            bytes[from..to].to_vec()
        }
        None => bytes,
    };
    let stamp = std::fs::metadata(&path).ok().and_then(|facts| facts.modified().ok());
    let stamp = stamp.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    response
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{:x}-{length:x}\"", stamp.as_nanos()))
        .body(Body::from(body))
        .unwrap_or_else(|_| fault())
}

fn find(options: &Options, query: &Viewed) -> Result<PathBuf, StatusCode> {
    let filename = query.filename.as_deref().ok_or(StatusCode::NOT_FOUND)?;
    let (filename, suffixed) = match suffix(filename) {
        Some((name, kind)) => (name, Some(kind)),
        None => (filename, None),
    };
    if filename.is_empty() || filename.starts_with('/') || filename.contains("..") {
        return Err(StatusCode::BAD_REQUEST);
    }
    let kind = suffixed.or(query.kind.as_deref()).unwrap_or("output");
    let folder = folder(options, kind).ok_or(StatusCode::BAD_REQUEST)?;
    let subfolder = query.subfolder.as_deref().unwrap_or_default();
    let folder = inside(&folder, subfolder).ok_or(StatusCode::FORBIDDEN)?;
    let name = Path::new(filename).file_name().ok_or(StatusCode::NOT_FOUND)?;
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(StatusCode::NOT_FOUND) }
}

/// From and to (exclusive) of `bytes=A-B`, `A-` or `-N`; an error when it lies outside. Other forms are ignored.
fn part(range: &str, length: usize) -> Option<Result<(usize, usize), ()>> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from, to) {
        ("", last) => (length.saturating_sub(last.parse().ok()?), length),
        (from, "") => (from.parse().ok()?, length),
        (from, to) => (from.parse().ok()?, to.parse::<usize>().ok()?.checked_add(1)?.min(length)),
    };
    Some(if from < to { Ok((from, to)) } else { Err(()) })
}

/// The picture as `preview=FORMAT;QUALITY` or `channel=rgb|a` wants it; nothing when it is no picture.
fn recoded(bytes: &[u8], query: &Viewed) -> Option<(&'static str, Vec<u8>)> {
    use image::ImageFormat;
    let picture = image::load_from_memory(bytes).ok()?;
    let (picture, format, kind) = match (&query.preview, query.channel.as_deref()) {
        (Some(preview), _) if preview.starts_with("jpeg") => {
            (picture.to_rgb8().into(), ImageFormat::Jpeg, "image/jpeg")
        }
        (Some(_), _) => (picture, ImageFormat::WebP, "image/webp"),
        (None, Some("a")) => {
            let rgba = picture.to_rgba8();
            let alpha = |x, y| image::Rgba([0, 0, 0, rgba.get_pixel(x, y).0[3]]);
            let alpha = image::RgbaImage::from_fn(rgba.width(), rgba.height(), alpha);
            (image::DynamicImage::from(alpha), ImageFormat::Png, "image/png")
        }
        (None, _) => (picture.to_rgb8().into(), ImageFormat::Png, "image/png"),
    };
    let mut coded = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut coded, format).ok()?;
    Some((kind, coded.into_inner()))
}

/// Nothing for types that must not be shown.
fn content_type(name: &str) -> Option<&'static str> {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default();
    if DANGEROUS.contains(&extension.as_str()) {
        return None;
    }
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mkv" => "video/x-matroska",
        "mov" => "video/quicktime",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "wav" => "audio/x-wav",
        "ogg" => "audio/ogg",
        "txt" => "text/plain",
        "csv" => "text/csv",
        "md" => "text/markdown",
        "sh" => "text/x-sh",
        "json" => "application/json",
        _ => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_pick_a_folder_by_their_suffix_and_stay_inside_it() {
        let root = tempfile::tempdir().unwrap();
        let options = Options::below(root.path()).unwrap();
        assert_eq!(annotated(&options, "a/b.png"), Some(options.input.join("a/b.png")));
        assert_eq!(annotated(&options, "b.png [output]"), Some(options.output.join("b.png")));
        assert_eq!(annotated(&options, "b.png [temp]"), Some(options.temp_folder().join("b.png")));
        assert_eq!(annotated(&options, "../b.png"), None);
        assert_eq!(annotated(&options, "/etc/passwd"), None);
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(part("bytes=0-9", 100), Some(Ok((0, 10))));
        assert_eq!(part("bytes=90-500", 100), Some(Ok((90, 100))));
        assert_eq!(part("bytes=-10", 100), Some(Ok((90, 100))));
        assert_eq!(part("bytes=500-", 100), Some(Err(())));
        assert_eq!(part("pages=1-2", 100), None);
    }
}
