//! What the engine is asked for. Pure: the files are digests already.
//!
//! The parameters keep their established names; the host translates them to what the installed engine understands. LoRAs
//! given by address stay addresses: the host fetches them.

use enginehouse_sdk::host::reference;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::phase_config::Phases;
use enginehouse_sdk::rules::structure::{Guidance as Structure, Target};
use enginehouse_sdk::rules::svi;

use crate::values::Segment;

/// Keeps results of a single frame a video.
const SOURCE_TYPE: &str = "travel_segment";

/// The files of a request, by digest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Materials {
    pub start: Option<String>,
    pub end: Option<String>,
    pub guide: Option<String>,
    pub mask: Option<String>,
    /// The end of the video that an SVI segment starts from.
    pub prefix: Option<String>,
    /// The video that guides the camera (uni3c).
    pub uni3c_guide: Option<String>,
}

/// What the model is given to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Guide and mask were considered at all.
    pub guided: bool,
    /// The model takes a guide.
    pub vace: bool,
    /// Structure guidance goes through uni3c.
    pub uni3c: bool,
}

/// The letters that tell the engine what guide and mask are for; none: nothing is said.
pub fn prompt_type(kind: Kind, mask: bool) -> Option<String> {
    if !kind.guided {
        return None;
    }
    let source = match (kind.vace, kind.uni3c) {
        (true, false) => "V",
        (true, true) => "",
        (false, _) => "U",
    };
    Some(format!("{source}{}", if mask { "M" } else { "" }))
}

/// The settings of the generation.
pub fn settings(
    segment: &Segment,
    materials: &Materials,
    kind: Kind,
    phases: Option<&Phases>,
    structure: Option<&Structure>,
) -> Map<String, Value> {
    let mut settings = Map::new();
    let mut set = |key: &str, value: Value| settings.insert(key.to_string(), value);
    set("prompt", json!(segment.prompt));
    set("model_name", json!(segment.model));
    set("negative_prompt", json!(segment.negative_prompt));
    set("resolution", json!(segment.resolution.to_string()));
    set("video_length", json!(segment.frames));
    set("seed", json!(segment.seed));
    for (key, file) in [
        ("image_start", &materials.start),
        ("image_end", &materials.end),
        ("video_guide", &materials.guide),
        ("video_mask", &materials.mask),
    ] {
        if let Some(file) = file {
            set(key, reference(file));
        }
    }
    for (key, value) in [
        ("num_inference_steps", &segment.steps),
        ("guidance_scale", &segment.guidance_scale),
        ("flow_shift", &segment.flow_shift),
    ] {
        if let Some(value) = value {
            set(key, value.clone());
        }
    }
    if let Some(prompt_type) = prompt_type(kind, materials.mask.is_some()) {
        set("video_prompt_type", json!(prompt_type));
    }

    if let Some(phases) = phases {
        settings.extend(phases.settings());
        loras(&mut settings, &phases.lora_names, &phases.lora_multipliers);
    }
    if segment.svi {
        grow_from_video(&mut settings, segment, materials, phases);
    }
    if let (Some(structure), Some(guide)) = (structure, &materials.uni3c_guide) {
        settings.extend(uni3c(segment, structure, guide, materials.end.is_some()));
    }
    settings.insert("_source_task_type".into(), json!(SOURCE_TYPE));
    settings
}

fn loras(settings: &mut Map<String, Value>, names: &[String], multipliers: &[String]) {
    settings.insert("activated_loras".into(), json!(names));
    settings.insert("loras_multipliers".into(), json!(multipliers.join(" ")));
}

/// What makes a generation an SVI segment.
fn grow_from_video(
    settings: &mut Map<String, Value>,
    segment: &Segment,
    materials: &Materials,
    phases: Option<&Phases>,
) {
    settings.insert("svi2pro".into(), json!(true));
    settings.insert("video_prompt_type".into(), json!("I"));
    settings.insert("sliding_window_overlap".into(), json!(svi::OVERLAP));
    if let Some(start) = &materials.start {
        settings.insert("image_refs_paths".into(), json!([reference(start)]));
    }
    if let Some(prefix) = &materials.prefix {
        settings.insert("video_source".into(), reference(prefix));
        settings.insert("image_prompt_type".into(), json!("SV"));
        // The prefix says where to start.
        settings.remove("image_start");
        settings.insert("video_length".into(), json!(segment.frames + svi::OVERLAP.unsigned_abs()));
    }
    settings.extend(segment.svi_settings.clone());
    let (names, multipliers) = match phases {
        Some(phases) => svi::with_loras(&phases.lora_names, &phases.lora_multipliers, segment.svi_strengths),
        None => svi::with_loras(&[], &[], segment.svi_strengths),
    };
    loras(settings, &names, &multipliers);
}

fn uni3c(segment: &Segment, structure: &Structure, guide: &str, has_end: bool) -> Map<String, Value> {
    let mut settings = Map::new();
    if structure.target != Target::Uni3c {
        return settings;
    }
    let [start, end] = structure.step_window;
    for (key, value) in [
        ("use_uni3c", json!(true)),
        ("uni3c_guide_video", reference(guide)),
        ("uni3c_strength", json!(structure.strength)),
        ("uni3c_start_percent", json!(start)),
        ("uni3c_end_percent", json!(end)),
        ("uni3c_keep_on_gpu", json!(structure.keep_on_gpu)),
        ("uni3c_frame_policy", json!(structure.frame_policy)),
        ("uni3c_zero_empty_frames", json!(structure.zero_empty_frames)),
    ] {
        settings.insert(key.into(), value);
    }
    if has_end && segment.last.unwrap_or(true) {
        // The guidance must not pull the last frame away from the picture it has to arrive at.
        settings.insert("uni3c_blackout_last_frame".into(), json!(true));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_say_what_guide_and_mask_are_for() {
        let letters = |guided, vace, uni3c, mask| prompt_type(Kind { guided, vace, uni3c }, mask);
        assert_eq!(letters(true, true, false, true).as_deref(), Some("VM"));
        assert_eq!(letters(true, true, false, false).as_deref(), Some("V"));
        assert_eq!(letters(true, true, true, true).as_deref(), Some("M"));
        assert_eq!(letters(true, false, true, false).as_deref(), Some("U"));
        assert_eq!(letters(true, false, false, true).as_deref(), Some("UM"));
        assert_eq!(letters(false, true, false, true), None);
    }
}
