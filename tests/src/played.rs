//! A source seen through `render`: what plays when it stands alone in a timeline.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use enginehouse::digest::Digest;
use enginehouse::media::frames::{Fit, Frame, PixelFormat};
use enginehouse::media::{Media, Rendered};
use enginehouse::task::Failure;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::numbered::{media, numbers, read};

/// A render, and the folder that it lies in for as long as this lives.
pub struct Played {
    pub made: Rendered,
    _folder: TempDir,
}

/// Renders clips of a file with these members (`{}`: all of it, as it is; several in an array) and these of the output.
pub async fn play(media: &Media, file: &Path, clips: &Value, output: &Value) -> Result<Played, Failure> {
    let folder = tempfile::tempdir().map_err(|e| Failure::internal("test", e.to_string()))?;
    let of_file = |members: &Value| {
        let mut clip = json!({ "video": { "$artifact": Digest::of(b"source") } });
        if let (Some(clip), Some(members)) = (clip.as_object_mut(), members.as_object()) {
            clip.extend(members.clone());
        }
        clip
    };
    let clips: Vec<Value> = match clips.as_array() {
        Some(clips) => clips.iter().map(of_file).collect(),
        None => vec![of_file(clips)],
    };
    let timeline = json!({ "output": output, "clips": clips });
    let find = |_| Ok::<PathBuf, Failure>(file.to_path_buf());
    let made = media.render(&timeline, &find, folder.path()).await?;
    Ok(Played { made, _folder: folder })
}

/// The numbers that play when clips of a file are rendered: see [`play`].
pub async fn played(file: &Path, clips: Value) -> Result<Vec<u64>> {
    let played = play(&media(), file, &clips, &json!({})).await?;
    let numbers = numbers(&played.made.path).await?;
    ensure!(numbers.len() as u64 == played.made.frames, "{} frames were promised", played.made.frames);
    Ok(numbers)
}

/// The frames that play, without loss, as RGB.
pub async fn frames(file: &Path, clip: Value) -> Result<Vec<Frame>> {
    let played = play(&media(), file, &clip, &json!({"lossless": true})).await?;
    read(&played.made.path, (played.made.width, played.made.height), PixelFormat::Rgb24, Fit::Stretch).await
}
