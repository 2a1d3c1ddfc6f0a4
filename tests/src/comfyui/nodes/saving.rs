//! Output nodes that write files, pictures first, and how files are named.

use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use rustix::fs::RawDir;
use serde_json::{Value as Json, json};

use super::{Inputs, Ran, Stop, Value};
use crate::comfyui::graph::Context;
use crate::comfyui::hub::Picture;

/// Which folder files go to.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Output,
    Temp,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Output => "output",
            Place::Temp => "temp",
        }
    }
}

/// Names for files of one node: `<name>_<5 digits><tail>`, counted on from the highest on disk.
pub(super) struct Names {
    folder: PathBuf,
    subfolder: String,
    stem: String,
    next: u64,
    place: Place,
}

impl Names {
    /// `prefix` may hold folders and `%width%` and the like; it must stay inside the folder of its place.
    pub(super) fn new(
        context: &Context<'_>,
        place: Place,
        prefix: &str,
        (width, height): (u32, u32),
    ) -> Result<Self, Stop> {
        let options = &context.server.options;
        let base = match place {
            Place::Output => options.output.clone(),
            Place::Temp => options.temp_folder(),
        };
        let prefix = replaced(prefix, width, height);
        let path = Path::new(&prefix);
        let stem = path.file_name().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let subfolder = path.parent().unwrap_or(Path::new(""));
        let mut depth = 0_i32;
        for part in subfolder.components() {
            match part {
                std::path::Component::Normal(_) => depth += 1,
                std::path::Component::ParentDir => depth -= 1,
                std::path::Component::CurDir => {}
                _ => depth = -1,
            }
            if depth < 0 {
                return Err(Stop::failed("Exception", "Saving a file outside the output folder is not allowed."));
            }
        }
        let folder = base.join(subfolder);
        std::fs::create_dir_all(&folder).map_err(os)?;
        let next = highest(&folder, &stem) + 1;
        Ok(Self { folder, subfolder: subfolder.to_string_lossy().into_owned(), stem, next, place })
    }

    /// The next file, and how it is told of. `tail` is the end of the name, `_.png` or `.flac`.
    pub(super) fn next(&mut self, tail: &str) -> (PathBuf, Json) {
        let name = format!("{}_{:05}{tail}", self.stem, self.next);
        self.next += 1;
        let item = json!({"filename": name, "subfolder": self.subfolder, "type": self.place.name()});
        (self.folder.join(name), item)
    }
}

fn replaced(prefix: &str, width: u32, height: u32) -> String {
    if !prefix.contains('%') {
        return prefix.to_string();
    }
    let seconds = crate::comfyui::now_ms() / 1000;
    let (year, month, day) = date(seconds / 86_400);
    let parts = [
        ("width", width.to_string()),
        ("height", height.to_string()),
        ("year", year.to_string()),
        ("month", format!("{month:02}")),
        ("day", format!("{day:02}")),
        ("hour", format!("{:02}", seconds / 3600 % 24)),
        ("minute", format!("{:02}", seconds / 60 % 60)),
        ("second", format!("{:02}", seconds % 60)),
    ];
    parts.iter().fold(prefix.to_string(), |text, (name, value)| text.replace(&format!("%{name}%"), value))
}

/// Year, month and day of a number of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut rest) = (1970, days);
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

/// The highest number among the files `<stem>_<number>...` of a folder. Read without a copy of the names: folders of
/// outputs grow, and this is done for every output.
fn highest(folder: &Path, stem: &str) -> u64 {
    let Ok(opened) = std::fs::File::open(folder) else { return 0 };
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 64 << 10];
    let mut entries = RawDir::new(opened, &mut buffer);
    let mut highest = 0;
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if name.starts_with(stem.as_bytes()) {
            let rest = name[stem.len()..].strip_prefix(b"_").unwrap_or_default();
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
            let number =
                digits.fold(0_u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
            highest = highest.max(number);
        }
    }
    highest
}

fn os(error: std::io::Error) -> Stop {
    Stop::failed("OSError", error)
}

/// Writes a file, or, where the faults want it so, lets it vanish.
pub(super) fn write(context: &Context<'_>, path: &Path, bytes: &[u8]) -> Result<(), Stop> {
    if context.server.faults().vanish_outputs {
        return Ok(());
    }
    std::fs::write(path, bytes).map_err(os)
}

/// `SaveImage`.
pub(super) fn images(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let images = inputs.images("images")?;
    let files = save_all(context, Place::Output, inputs.text("filename_prefix")?, &images)?;
    Ok(Ran::shown(json!({"images": files}), vec![Value::Images(images)]))
}

/// `PreviewImage`.
pub(super) fn preview_images(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let images = inputs.images("images")?;
    let files = save_all(context, Place::Temp, &temp_prefix("ComfyUI"), &images)?;
    Ok(Ran::shown(json!({"images": files}), vec![Value::Images(images)]))
}

/// `MaskPreview`.
pub(super) fn preview_masks(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let Value::Masks(masks) = inputs.get("mask")? else { return Err(Inputs::wrong("mask")) };
    let images: Vec<RgbImage> =
        masks.iter().map(|mask| image::DynamicImage::ImageLuma8(mask.clone()).to_rgb8()).collect();
    let files = save_all(context, Place::Temp, &temp_prefix("ComfyUI"), &images)?;
    Ok(Ran::shown(json!({"images": files, "animated": [false]}), vec![Value::Masks(masks.clone())]))
}

/// `ImageCompare`: each side that is given.
pub(super) fn compare(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let letters = letters();
    let mut shown = json!({});
    for side in ["a", "b"] {
        let images = match inputs.images(&format!("image_{side}")) {
            Ok(images) => {
                let prefix = format!("comfy.compare.{side}_temp_{letters}");
                save_all(context, Place::Temp, &prefix, &images)?
            }
            Err(_) => Vec::new(),
        };
        shown[format!("{side}_images")] = images.into();
    }
    Ok(Ran::shown(shown, Vec::new()))
}

/// `SaveImageWebsocket`: whole pictures as previews, and nowhere else.
pub(super) fn websocket(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let images = inputs.images("images")?;
    let count = images.len() as u64;
    for (at, picture) in (0_u64..).zip(images.iter()) {
        context.progress(at, count, Some((Picture::Png, png(picture, None)?)))?;
    }
    Ok(Ran::nothing())
}

/// `SaveText`.
pub(super) fn text(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let (text, format) = (inputs.text("text")?, inputs.text("format")?);
    let mut names = Names::new(context, Place::Output, inputs.text("filename_prefix")?, (0, 0))?;
    let (path, item) = names.next(&format!(".{format}"));
    write(context, &path, text.as_bytes())?;
    Ok(Ran::shown(json!({"text": [text], "files": [item]}), vec![Value::Json(json!(text))]))
}

/// `PreviewAny`.
pub(super) fn preview_any(inputs: &Inputs) -> Result<Ran, Stop> {
    let text = match inputs.get("source")?.printed() {
        Json::String(text) => text,
        other => other.to_string(),
    };
    Ok(Ran::shown(json!({"text": [text]}), vec![Value::Json(json!(text))]))
}

/// `SaveLatent`: a file that says the shape.
pub(super) fn latent(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let given = inputs.get("samples")?;
    let mut names = Names::new(context, Place::Output, inputs.text("filename_prefix")?, (0, 0))?;
    let (path, item) = names.next("_.latent");
    write(context, &path, given.printed().to_string().as_bytes())?;
    Ok(Ran::shown(json!({"latents": [item]}), vec![given.clone()]))
}

fn save_all(context: &Context<'_>, place: Place, prefix: &str, images: &[RgbImage]) -> Result<Vec<Json>, Stop> {
    let size = images.first().map_or((0, 0), RgbImage::dimensions);
    let mut names = Names::new(context, place, prefix, size)?;
    let graph = context.server.options.metadata.then(|| Json::Object(context.item.graph.clone()).to_string());
    let mut files = Vec::with_capacity(images.len());
    for picture in images {
        let (path, item) = names.next("_.png");
        write(context, &path, &png(picture, graph.as_deref())?)?;
        files.push(item);
    }
    Ok(files)
}

/// `<name>_temp_<5 letters>`, different for every run of a node.
pub(super) fn temp_prefix(name: &str) -> String {
    format!("{name}_temp_{}", letters())
}

fn letters() -> String {
    uuid::Uuid::new_v4().as_bytes()[..5].iter().map(|byte| char::from(b'a' + byte % 26)).collect()
}

/// A PNG; with the graph in it, if there is one.
pub(super) fn png(picture: &RgbImage, graph: Option<&str>) -> Result<Vec<u8>, Stop> {
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Sub)
        .write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| Stop::failed("ValueError", error))?;
    if let Some(graph) = graph {
        insert_text(&mut file, "prompt", graph);
    }
    Ok(file)
}

/// Bytes of the signature and the header chunk of every PNG.
const HEADER_END: usize = 8 + 25;

/// Puts a `tEXt` chunk behind the header. Characters beyond ASCII are written as JSON escapes.
fn insert_text(file: &mut Vec<u8>, keyword: &str, text: &str) {
    let mut chunk = b"tEXt".to_vec();
    chunk.extend(keyword.as_bytes());
    chunk.push(0);
    for character in text.chars() {
        if character.is_ascii() {
            chunk.push(character as u8);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                chunk.extend(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
    let length = u32::try_from(chunk.len() - 4).unwrap_or(0);
    let check = crc32(&chunk);
    let whole = length.to_be_bytes().into_iter().chain(chunk).chain(check.to_be_bytes());
    file.splice(HEADER_END..HEADER_END, whole);
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_with_its_graph_is_still_a_picture() {
        let picture = RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3]));
        let Ok(file) = png(&picture, Some("{\"1\":\"é\"}")) else { panic!("a picture can be written") };
        assert_eq!(image::load_from_memory(&file).unwrap().to_rgb8(), picture);
        assert!(file.windows(9).any(|part| part == b"tEXtpromp"));
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn numbers_go_on_from_the_highest_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(highest(folder.path(), "x"), 0);
        for name in ["x_00002_.png", "x_00007.flac", "xy_00031_.png", "x_.png", "x_00009x"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        assert_eq!(highest(folder.path(), "x"), 9);
    }

    #[test]
    fn days_are_counted_through_leap_years() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_782), (2026, 11, 25));
    }
}
