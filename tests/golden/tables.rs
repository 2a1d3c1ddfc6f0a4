//! Tables of pure functions: inputs and recorded outputs, computed natively by what the handlers share.

use std::path::PathBuf;

use enginehouse::config::MediaConfig;
use enginehouse::media::{Media, Tools};
use enginehouse_sdk::fields::Fields;
use enginehouse_sdk::rules::frames::{Frames, quantise};
use enginehouse_sdk::rules::phase_config::Phases;
use enginehouse_sdk::rules::prompts;
use enginehouse_sdk::rules::resolution::Resolution;
use enginehouse_sdk::rules::structure::{Guidance, Video};
use enginehouse_sdk::rules::svi::{Strengths, with_loras};
use enginehouse_tests::numbered;
use serde_json::{Map, Value, json};

use crate::case::merge;

/// How the entries of one table came out.
#[derive(Debug, Default)]
pub struct Table {
    pub name: String,
    pub passed: usize,
    pub differences: Vec<String>,
    /// Entries that were not computed, and why.
    pub not_compared: Vec<String>,
}

/// What became of an entry.
enum Computed {
    Value(Value),
    /// Nothing of ours computes this.
    NotApplicable(&'static str),
}

/// Computes every table. One that nobody knows is a difference.
pub async fn run(sections: &Map<String, Value>) -> Vec<Table> {
    let mut tables = Vec::new();
    for (name, entries) in sections {
        let mut table = Table { name: name.clone(), ..Table::default() };
        for (i, entry) in entries.as_array().map_or(&[][..], Vec::as_slice).iter().enumerate() {
            let mut want = entry.clone();
            if let Some(patch) = entry.get("expected_intended") {
                merge(&mut want, patch);
            }
            match computed(name, entry).await {
                None => table.differences.push(format!("{name}[{i}]: nobody knows this table")),
                Some(Computed::NotApplicable(reason)) => table.not_compared.push(format!("{name}[{i}]: {reason}")),
                Some(Computed::Value(got)) => match difference(name, &want, &got) {
                    None if unnoticed(name, &want, &got) => {
                        table.differences.push(format!("{name}[{i}]: an altered entry would go unnoticed"));
                    }
                    None => table.passed += 1,
                    Some(difference) => table.differences.push(format!("{name}[{i}]: {difference}")),
                },
            }
        }
        tables.push(table);
    }
    tables
}

async fn computed(table: &str, entry: &Value) -> Option<Computed> {
    let input = &entry["input"];
    Some(Computed::Value(match table {
        "frame_quantisation" => json!({"quantised": quantise(entry["frames"].as_i64()?)}),
        "overlap_and_context_vace_chained" => overlaps(entry),
        "resolution" => resolution(input.as_str()?),
        "prompt_normalisation" => json!({"output": prompts::normalised(input.as_str())}),
        "phase_config" => json!({"result": phases(input)}),
        "svi_loras" => svi(input.as_object()?),
        "structure_guidance_config" => json!({"result": structure(input.as_object()?)}),
        "segment_overlaps_structure_video" => return Some(meets(entry)),
        "crossfade_alpha" => alpha(entry["overlap"].as_u64()?).await,
        "crossfade_flat_frames" => flat_frames(entry).await,
        "lora_config" => {
            return Some(Computed::NotApplicable(
                "several lists of LoRAs become one on the way of direct tasks, which is not the travel family's",
            ));
        }
        _ => return None,
    }))
}

fn integers(list: &Value) -> Vec<i64> {
    list.as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_i64).collect()
}

fn texts(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|text| text.as_str().map(String::from)).collect()
}

fn overlaps(entry: &Value) -> Value {
    let frames = Frames::plan(&integers(&entry["segment_frames"]), &integers(&entry["overlaps"]), false);
    let each = |value: &dyn Fn(usize) -> i64| (0..frames.lengths.len()).map(value).collect::<Vec<_>>();
    json!({
        "quantised_frames": frames.lengths,
        "quantised_overlaps": frames.overlaps,
        "segment_frames_target": each(&|i| frames.target(i, true)),
        "frame_overlap_from_previous": each(&|i| frames.overlap_before(i)),
        "frame_overlap_with_next": each(&|i| frames.overlap_after(i)),
    })
}

fn resolution(text: &str) -> Value {
    let sides = |resolution: Resolution| json!([resolution.width, resolution.height]);
    let parsed = Resolution::parse(text).ok();
    let snapped = parsed.and_then(|parsed| parsed.snapped().ok());
    json!({"parsed": parsed.map(sides), "snapped": snapped.map(sides)})
}

fn phases(config: &Value) -> Value {
    match Phases::parse(config) {
        Ok(phases) => json!({"ok": phases.settings()}),
        Err(_) => json!({"error": "ValueError"}),
    }
}

fn svi(input: &Map<String, Value>) -> Value {
    let strengths = Strengths::read(&Fields::new([input])).unwrap_or_default();
    let names = texts(input.get("existing_urls"));
    let (urls, multipliers) = with_loras(&names, &texts(input.get("existing_multipliers")), strengths);
    json!({"urls": urls, "multipliers": multipliers})
}

fn structure(input: &Map<String, Value>) -> Value {
    let Ok(guidance) = Guidance::read(&Fields::new([input])) else { return json!("refused") };
    let mut block = guidance.block(None, guidance.frame_offset);
    if let Some(block) = block.as_object_mut() {
        block.remove("_guidance_video_url");
        block.remove("_frame_offset");
        block.insert("guidance_video_url".into(), json!(guidance.guidance_video));
        block.insert("frame_offset".into(), json!(guidance.frame_offset));
        block.insert("has_guidance".into(), json!(guidance.is_given()));
        block.insert("structure_type".into(), json!(guidance.structure_type()));
    }
    block
}

fn meets(entry: &Value) -> Computed {
    let frames = Frames::plan(&integers(&entry["segment_frames"]), &[], false);
    let index = entry["segment_index"].as_u64().and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX);
    let Some(range) = frames.stitched().get(index).cloned() else {
        return Computed::NotApplicable("a travel has no such segment");
    };
    let Ok(mut guidance) = Guidance::read(&Fields::new([&Map::new()])) else {
        return Computed::Value(json!("refused"));
    };
    guidance.videos = entry["videos"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|video| Video {
            path: "v.mp4".into(),
            start_frame: video["start_frame"].as_i64().unwrap_or_default(),
            end_frame: video["end_frame"].as_i64(),
            treatment: "adjust".into(),
            source_start_frame: 0,
            source_end_frame: None,
        })
        .collect();
    Computed::Value(json!({"overlaps": guidance.meets(&range)}))
}

/// Weights are read off a fade from black to white.
async fn alpha(overlap: u64) -> Value {
    let greys = faded(0, 255, overlap, 0.0).await;
    json!({"alpha": greys.iter().map(|grey| f64::from(*grey) / 255.0).collect::<Vec<_>>()})
}

async fn flat_frames(entry: &Value) -> Value {
    let grey = |name: &str| entry[name].as_u64().and_then(|grey| u8::try_from(grey).ok()).unwrap_or_default();
    let overlap = entry["overlap"].as_u64().unwrap_or_default();
    let sharpen = entry["sharp_amt"].as_f64().unwrap_or_default();
    json!({"gray_out": faded(grey("gray_a"), grey("gray_b"), overlap, sharpen).await})
}

/// Grey values of a fade that was rendered and decoded again; none if it could not be.
async fn faded(from: u8, to: u8, frames: u64, sharpen: f64) -> Vec<u8> {
    let media = Media::new(Tools::from(&MediaConfig::default()));
    let Ok(folder) = tempfile::tempdir() else { return Vec::new() };
    let clip = |grey: u8| json!({"color": format!("#{grey:02x}{grey:02x}{grey:02x}"), "frames": frames});
    let timeline = json!({
        "output": {"width": 64, "height": 48, "fps": 16, "lossless": true},
        "clips": [clip(from), clip(to)],
        "fades": [{"after": 0, "frames": frames, "curve": "cosine", "sharpen": sharpen}],
    });
    let no_source = |_| -> Result<PathBuf, _> { Err(enginehouse::task::Failure::internal("none", "no source")) };
    let Ok(made) = media.render(&timeline, &no_source, folder.path()).await else { return Vec::new() };
    let frames = numbered::rgb(&made.path).await.unwrap_or_default();
    frames.iter().map(|frame| numbered::middle(frame)[0]).collect()
}

/// Members of entries that are given, not recorded.
const GIVEN: [&str; 11] = [
    "input",
    "frames",
    "segment_frames",
    "overlaps",
    "overlap",
    "segment_index",
    "videos",
    "gray_a",
    "gray_b",
    "sharp_amt",
    "row",
];

/// The first difference, if there is one.
fn difference(table: &str, want: &Value, got: &Value) -> Option<String> {
    let got = got.as_object()?;
    let recorded =
        want.as_object()?.keys().filter(|name| !GIVEN.contains(&name.as_str()) && *name != "expected_intended");
    if let Some(name) = recorded.into_iter().find(|name| !got.contains_key(*name)) {
        return Some(format!("`{name}` is recorded, and nothing computes it"));
    }
    got.iter().find_map(|(name, got)| {
        let want = &want[name];
        (!same(table, name, want, got)).then(|| format!("`{name}` is recorded as {want}, computed as {got}"))
    })
}

/// Whether one altered value of the record would pass.
fn unnoticed(table: &str, want: &Value, got: &Value) -> bool {
    let Some(names) = got.as_object() else { return true };
    names.keys().any(|name| {
        let mut altered = want.clone();
        altered[name] = json!(["altered"]);
        difference(table, &altered, got).is_none()
    })
}

fn same(table: &str, name: &str, want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let names = want.keys().chain(got.keys()).filter(|name| !internal(table, name));
            names.into_iter().all(|name| {
                same(table, name, want.get(name).unwrap_or(&Value::Null), got.get(name).unwrap_or(&Value::Null))
            })
        }
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(want, got)| same(table, name, want, got))
        }
        (Value::Number(want), Value::Number(got)) => match (want.as_f64(), got.as_f64()) {
            (Some(want), Some(got)) => (want - got).abs() <= tolerance(table, name),
            _ => false,
        },
        _ => want == got,
    }
}

/// Members that the recorded function gave and the product has no use for, or the other way round.
fn internal(table: &str, name: &str) -> bool {
    // The sum of the steps stands beside the recorded result; the weights of LoRAs have an effect nowhere.
    table == "phase_config" && ["additional_loras", "num_inference_steps"].contains(&name)
}

fn tolerance(table: &str, name: &str) -> f64 {
    match (table, name) {
        ("phase_config", name) if name.starts_with("switch_threshold") => 1e-3,
        // Written and read as 8-bit video of limited range.
        ("crossfade_alpha", _) => 1.5 / 255.0,
        ("crossfade_flat_frames", _) => 1.0,
        _ => 0.0,
    }
}
