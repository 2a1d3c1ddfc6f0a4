//! Nodes of moving pictures and sound. The files are real: ffmpeg writes and reads them.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use image::RgbImage;
use serde_json::{Value as Json, json};

use super::saving::{Names, Place, temp_prefix};
use super::{Audio, Inputs, Ran, Stop, Value, Video};
use crate::comfyui::files;
use crate::comfyui::graph::Context;

/// `SaveAnimatedWEBP`, `SaveAnimatedPNG`, `SaveWEBM`.
pub(super) fn animation(class: &str, inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let images = inputs.images("images")?;
    let fps = inputs.float("fps")?;
    let mut names = Names::new(context, Place::Output, inputs.text("filename_prefix")?, size(&images))?;
    let owned = |arguments: &[&str]| arguments.iter().map(|a| (*a).to_string()).collect::<Vec<_>>();
    let (tail, coding) = match class {
        "SaveAnimatedWEBP" => {
            let mut coding = owned(&["-c:v", "libwebp_anim", "-loop", "0", "-quality"]);
            coding.push(inputs.whole("quality")?.to_string());
            coding.extend(owned(&["-lossless", if inputs.flag("lossless") { "1" } else { "0" }]));
            ("_.webp", coding)
        }
        "SaveAnimatedPNG" => ("_.png", owned(&["-c:v", "apng", "-plays", "0", "-f", "apng"])),
        _ => {
            let mut coding = owned(&["-c:v", "libvpx-vp9", "-b:v", "0", "-pix_fmt", "yuv420p", "-crf"]);
            coding.push(inputs.float("crf")?.round().to_string());
            ("_.webm", coding)
        }
    };
    let (path, item) = names.next(tail);
    let mut arguments = raw_video(&images, fps);
    arguments.extend(coding);
    encode(context, arguments, &path, raw_bytes(&images))?;
    Ok(Ran::shown(json!({"images": [item], "animated": [true]}), vec![Value::Images(images)]))
}

pub(super) fn empty_audio(inputs: &Inputs) -> Result<Ran, Stop> {
    let rate = u32::try_from(inputs.whole("sample_rate")?).map_err(|_| Inputs::wrong("sample_rate"))?;
    let channels = u32::try_from(inputs.whole("channels")?).map_err(|_| Inputs::wrong("channels"))?;
    let length = (inputs.float("duration")? * f64::from(rate)).round() as usize;
    let samples = vec![0.0; length * channels as usize];
    Ok(Ran::value(Value::Audio(Arc::new(Audio { rate, channels, samples }))))
}

/// `SaveAudio`, `SaveAudioMP3`, `PreviewAudio`.
pub(super) fn save_audio(class: &str, inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let audio = inputs.audio("audio")?;
    let (place, prefix) = match class {
        "PreviewAudio" => (Place::Temp, temp_prefix("ComfyUI")),
        _ => (Place::Output, inputs.text("filename_prefix")?.to_string()),
    };
    let (tail, coding): (_, &[&str]) = match class {
        "SaveAudioMP3" => match inputs.text("quality")? {
            "V0" => (".mp3", &["-c:a", "libmp3lame", "-q:a", "0"]),
            "320k" => (".mp3", &["-c:a", "libmp3lame", "-b:a", "320k"]),
            _ => (".mp3", &["-c:a", "libmp3lame", "-b:a", "128k"]),
        },
        _ => (".flac", &["-c:a", "flac"]),
    };
    let mut names = Names::new(context, place, &prefix, (0, 0))?;
    let (path, item) = names.next(tail);
    let mut arguments = raw_audio(&audio, "pipe:0");
    arguments.extend(coding.iter().map(|a| (*a).to_string()));
    encode(context, arguments, &path, samples(&audio))?;
    Ok(Ran::shown(json!({"audio": [item]}), vec![Value::Audio(audio)]))
}

pub(super) fn load_video(inputs: &Inputs, context: &Context<'_>) -> Result<Ran, Stop> {
    let name = inputs.text("file")?;
    let file = files::annotated(&context.server.options, name)
        .filter(|file| file.is_file())
        .ok_or_else(|| Stop::failed("FileNotFoundError", format!("[Errno 2] No such file or directory: '{name}'")))?;
    Ok(Ran::value(Value::Video(Arc::new(Video::File(file)))))
}

pub(super) fn create_video(inputs: &Inputs) -> Result<Ran, Stop> {
    let audio = inputs.audio("audio").ok();
    let video = Video::Parts { images: inputs.images("images")?, fps: inputs.float("fps")?, audio };
    Ok(Ran::value(Value::Video(Arc::new(video))))
}

/// Frames, sound, frames per second, bits per colour, colour space.
pub(super) fn video_components(inputs: &Inputs) -> Result<Ran, Stop> {
    let Value::Video(video) = inputs.get("video")? else { return Err(Inputs::wrong("video")) };
    let (images, audio, fps) = match video.as_ref() {
        Video::Parts { images, fps, audio } => (images.clone(), audio.clone(), *fps),
        Video::File(file) => decode(file)?,
    };
    let silence = || Arc::new(Audio { rate: 44_100, channels: 2, samples: Vec::new() });
    let values = vec![
        Value::Images(images),
        Value::Audio(audio.unwrap_or_else(silence)),
        Value::Json(json!(fps)),
        Value::Json(json!(8)),
        Value::Json(json!("sRGB")),
    ];
    Ok(Ran::Done { values, shown: None })
}

pub(super) fn save_video(inputs: &Inputs, context: &mut Context<'_>) -> Result<Ran, Stop> {
    let Value::Video(video) = inputs.get("video")? else { return Err(Inputs::wrong("video")) };
    let container = match inputs.text("format")? {
        known @ ("mkv" | "webm") => known,
        "auto" | "mp4" => "mp4",
        _ => return Err(Stop::failed("TypeError", "missing 1 required positional argument: 'format'")),
    };
    let coding: &[&str] = match container {
        "webm" => &["-c:v", "libvpx-vp9", "-c:a", "libopus"],
        _ => &["-c:v", "libx264", "-c:a", "aac"],
    };
    // Sides are even in these formats.
    let shape = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"];
    let coding = shape.iter().chain(coding).map(|a| (*a).to_string());
    let pixels = match video.as_ref() {
        Video::Parts { images, .. } => size(images),
        Video::File(_) => (0, 0),
    };
    let mut names = Names::new(context, Place::Output, inputs.text("filename_prefix")?, pixels)?;
    let (path, item) = names.next(&format!("_.{container}"));
    match video.as_ref() {
        Video::File(file) => {
            let mut arguments = vec!["-i".to_string(), file.to_string_lossy().into_owned()];
            arguments.extend(coding);
            encode(context, arguments, &path, Vec::new())?;
        }
        Video::Parts { images, fps, audio } => {
            let mut arguments = raw_video(images, *fps);
            let sound = audio.as_ref().map(|audio| (audio, path.with_extension("sound.tmp")));
            if let Some((audio, file)) = &sound {
                std::fs::write(file, samples(audio)).map_err(|error| Stop::failed("OSError", error))?;
                arguments.extend(raw_audio(audio, &file.to_string_lossy()));
            }
            arguments.extend(coding);
            let written = encode(context, arguments, &path, raw_bytes(images));
            if let Some((_, file)) = &sound {
                let _ = std::fs::remove_file(file);
            }
            written?;
        }
    }
    Ok(Ran::shown(json!({"images": [item], "animated": [true]}), vec![Value::Video(video.clone())]))
}

fn size(images: &[RgbImage]) -> (u32, u32) {
    images.first().map_or((0, 0), RgbImage::dimensions)
}

/// The arguments that make ffmpeg read frames from its input.
fn raw_video(images: &[RgbImage], fps: f64) -> Vec<String> {
    let (width, height) = size(images);
    let arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", &format!("{width}x{height}"), "-framerate"];
    let mut arguments: Vec<String> = arguments.iter().map(|a| (*a).to_string()).collect();
    arguments.extend([fps.to_string(), "-i".to_string(), "pipe:0".to_string()]);
    arguments
}

fn raw_bytes(images: &[RgbImage]) -> Vec<u8> {
    images.iter().flat_map(|picture| picture.as_raw().iter().copied()).collect()
}

fn raw_audio(audio: &Audio, from: &str) -> Vec<String> {
    let arguments = ["-f", "f32le", "-ar", &audio.rate.to_string(), "-ac", &audio.channels.to_string(), "-i", from];
    arguments.iter().map(|a| (*a).to_string()).collect()
}

fn samples(audio: &Audio) -> Vec<u8> {
    audio.samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// Writes a file with ffmpeg, or, where the faults want it so, lets it vanish.
fn encode(context: &Context<'_>, mut arguments: Vec<String>, path: &Path, input: Vec<u8>) -> Result<(), Stop> {
    arguments.extend(["-y".to_string(), path.to_string_lossy().into_owned()]);
    ffmpeg("ffmpeg", &arguments, input)?;
    if context.server.faults().vanish_outputs {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn ffmpeg(program: &str, arguments: &[String], input: Vec<u8>) -> Result<Vec<u8>, Stop> {
    let failed = |what: String| Stop::failed("av.error.InvalidDataError", format!("{program}: {what}"));
    let mut child = Command::new(program)
        .args(["-v", "error"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdin = child.stdin.take();
    let feeding = std::thread::spawn(move || {
        // It may end before it has read everything: then its exit code tells why.
        let _ = stdin.map(|mut stdin| stdin.write_all(&input));
    });
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let _ = feeding.join();
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_string()));
    }
    Ok(output.stdout)
}

type Decoded = (Arc<Vec<RgbImage>>, Option<Arc<Audio>>, f64);

fn decode(file: &Path) -> Result<Decoded, Stop> {
    let path = file.to_string_lossy().into_owned();
    let owned = |arguments: &[&str]| arguments.iter().map(|a| (*a).to_string()).collect::<Vec<_>>();
    let facts = ffmpeg("ffprobe", &owned(&["-show_streams", "-of", "json", &path]), Vec::new())?;
    let facts: Json = serde_json::from_slice(&facts).map_err(|error| Stop::failed("ValueError", error))?;
    let stream = |kind: &str| {
        let streams = facts["streams"].as_array().into_iter().flatten();
        streams.into_iter().find(|stream| stream["codec_type"] == kind).cloned()
    };
    let video = stream("video").ok_or_else(|| Stop::failed("ValueError", "no video stream"))?;
    let side = |name: &str| video[name].as_u64().and_then(|side| u32::try_from(side).ok()).unwrap_or(0);
    let (width, height) = (side("width"), side("height"));
    let fps = ratio(video["avg_frame_rate"].as_str().unwrap_or_default()).unwrap_or(30.0);
    let frames = ffmpeg(
        "ffmpeg",
        &owned(&[
            "-i",
            &path,
            "-map",
            "0:v:0",
            "-fps_mode",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "pipe:1",
        ]),
        Vec::new(),
    )?;
    let bytes = (width as usize * height as usize * 3).max(1);
    let images = frames.chunks_exact(bytes).filter_map(|frame| RgbImage::from_raw(width, height, frame.to_vec()));
    let images = Arc::new(images.collect::<Vec<_>>());
    let audio = match stream("audio") {
        Some(sound) => {
            let number = |value: &Json| value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0);
            let (rate, channels) = (number(&sound["sample_rate"]) as u32, number(&sound["channels"]) as u32);
            let bytes = ffmpeg("ffmpeg", &owned(&["-i", &path, "-map", "0:a:0", "-f", "f32le", "pipe:1"]), Vec::new())?;
            let samples = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            Some(Arc::new(Audio { rate, channels, samples }))
        }
        None => None,
    };
    Ok((images, audio, fps))
}

/// `30000/1001`.
fn ratio(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/')?;
    let (above, below): (f64, f64) = (above.parse().ok()?, below.parse().ok()?);
    (above > 0.0 && below > 0.0).then_some(above / below)
}
