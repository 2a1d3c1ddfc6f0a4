//! A task that goes straight to Wan2GP becomes a request.
//!
//! What a task type means is data: [`TYPES`] gives its model and what is filled in, [`WHITELIST`] the params
//! that reach the engine. Steps, in order: prompt, model, whitelist, `orchestrator_details`, alias, what the type fills
//! in, input pictures, defaults.
//!
//! Params that name files ([`FILE_KEYS`]) are passed on as they stand: whoever calls has made artifacts of them.
//!
//! Not converted yet, and passed on as known: the marked-up picture of `image_inpaint` and `annotated_image_edit` (picture
//! and mask go on as `image_guide` and `image_mask`), the trigger phrases and LoRAs of the Qwen types, two-pass
//! generation, `phase_config`.

use serde_json::{Map, Value, json};

use super::Request;
use crate::task::{Failure, Task};

/// A task type that Wan2GP serves directly.
struct DirectType {
    name: &'static str,
    model: &'static str,
    /// `params.model` does not count.
    forced: bool,
    /// A task without a prompt gets a blank one.
    promptless: bool,
    /// Where the picture goes that `params.image` or `image_url` gives.
    picture: &'static str,
    /// What the task cannot do without.
    needs: Needs,
    /// Filled in unless the task gives it.
    fill: Fill,
    /// Longest side of the result in pixels, if there is a limit.
    longest_side: Option<u32>,
}

/// Pictures that a type works on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Picture,
    PictureAndMask,
}

/// Settings that a type fills in.
#[derive(Clone, Copy, Default)]
struct Fill {
    video_prompt_type: Option<&'static str>,
    guidance_scale: Option<f64>,
    num_inference_steps: Option<u32>,
    video_length: Option<u32>,
    resolution: Option<&'static str>,
    denoising_strength: Option<f64>,
}

/// A picture made in so many steps.
const fn still(video_prompt_type: &'static str, guidance: f64, steps: u32, resolution: Option<&'static str>) -> Fill {
    Fill {
        video_prompt_type: Some(video_prompt_type),
        guidance_scale: Some(guidance),
        num_inference_steps: Some(steps),
        video_length: Some(1),
        resolution,
        denoising_strength: None,
    }
}

const NOTHING: Fill = Fill {
    video_prompt_type: None,
    guidance_scale: None,
    num_inference_steps: None,
    video_length: None,
    resolution: None,
    denoising_strength: None,
};

/// A type that only names a model.
const fn plain(name: &'static str, model: &'static str) -> DirectType {
    DirectType {
        name,
        model,
        forced: false,
        promptless: false,
        picture: "image_start",
        needs: Needs::Nothing,
        fill: NOTHING,
        longest_side: None,
    }
}

/// A picture made of a picture by the Qwen edit model.
const fn qwen_edit(name: &'static str, promptless: bool) -> DirectType {
    DirectType {
        promptless,
        picture: "image_guide",
        fill: still("KI", 1.0, 12, None),
        longest_side: Some(1200),
        ..plain(name, "qwen_image_edit_20B")
    }
}

/// The 21 types that have always gone straight to Wan2GP.
const TYPES: [DirectType; 21] = [
    plain("generate_video", "t2v"),
    plain("t2v", "t2v"),
    plain("t2v_22", "t2v_2_2"),
    plain("wan_2_2_t2i", "t2v_2_2"),
    plain("i2v", "i2v"),
    plain("i2v_22", "i2v_2_2"),
    plain("vace", "vace_14B_cocktail_2_2"),
    plain("vace_22", "vace_14B_cocktail_2_2"),
    plain("vace_21", "vace_14B"),
    plain("flux", "flux"),
    plain("hunyuan", "hunyuan"),
    plain("ltxv", "ltxv_13B"),
    DirectType { needs: Needs::Picture, ..qwen_edit("qwen_image_edit", true) },
    DirectType {
        fill: still("KI", 1.0, 10, Some("1328x1328")),
        longest_side: None,
        ..qwen_edit("qwen_image_hires", false)
    },
    DirectType { needs: Needs::PictureAndMask, ..qwen_edit("image_inpaint", true) },
    DirectType { needs: Needs::PictureAndMask, ..qwen_edit("annotated_image_edit", false) },
    DirectType { forced: true, ..qwen_edit("qwen_image_style", true) },
    DirectType { forced: true, fill: still("", 3.5, 4, Some("1024x1024")), ..qwen_edit("qwen_image", false) },
    DirectType {
        forced: true,
        fill: still("", 4.0, 4, Some("1024x1024")),
        longest_side: Some(2512),
        ..plain("qwen_image_2512", "qwen_image_2512_20B")
    },
    DirectType { forced: true, fill: still("", 0.0, 8, None), ..plain("z_image_turbo", "z_image") },
    DirectType {
        forced: true,
        promptless: true,
        needs: Needs::Picture,
        fill: Fill { denoising_strength: Some(0.7), ..still("", 0.0, 12, None) },
        ..plain("z_image_turbo_i2i", "z_image_img2img")
    },
];

/// Types whose plugin is gone keep the model that the plugin would have used.
const RETIRED_MODELS: [(&str, &str); 2] = [
    ("join_clips_segment", "wan_2_2_vace_lightning_baseline_2_2_2"),
    ("inpaint_frames", "wan_2_2_vace_lightning_baseline_2_2_2"),
];

/// The model of a type that nobody knows.
const DEFAULT_MODEL: &str = "t2v";

/// Params that name files (or lists of files).
pub const FILE_KEYS: &[&str] = &[
    "image",
    "image_url",
    "image_start",
    "image_end",
    "image_guide",
    "image_mask",
    "image_refs",
    "image_refs_paths",
    "mask_url",
    "style_reference_image",
    "subject_reference_image",
    "video_guide",
    "video_guide2",
    "video_mask",
    "video_source",
    "vid2vid_init_video",
    "uni3c_guide_video",
    "audio_guide",
    "audio_guide2",
    "audio_source",
];

/// Params that reach the engine; others are dropped.
const WHITELIST: &[&str] = &[
    "negative_prompt",
    "resolution",
    "video_length",
    "num_inference_steps",
    "guidance_scale",
    "guidance2_scale",
    "guidance3_scale",
    "guidance_phases",
    "switch_threshold",
    "switch_threshold2",
    "model_switch_phase",
    "seed",
    "flow_shift",
    "embedded_guidance_scale",
    "audio_guidance_scale",
    "repeat_generation",
    "multi_images_gen_type",
    "video_guide",
    "video_mask",
    "video_prompt_type",
    "control_net_weight",
    "control_net_weight2",
    "keep_frames_video_guide",
    "video_guide_outpainting",
    "mask_expand",
    "image_prompt_type",
    "image_start",
    "image_end",
    "image_refs",
    "frames_positions",
    "image_guide",
    "image_mask",
    "model_mode",
    "video_source",
    "keep_frames_video_source",
    "audio_guide",
    "audio_guide2",
    "audio_source",
    "audio_prompt_type",
    "speakers_locations",
    "activated_loras",
    "loras_multipliers",
    "additional_loras",
    "loras",
    "tea_cache_setting",
    "tea_cache_start_step_perc",
    "RIFLEx_setting",
    "slg_switch",
    "slg_layers",
    "slg_start_perc",
    "slg_end_perc",
    "cfg_star_switch",
    "cfg_zero_step",
    "prompt_enhancer",
    "hires_scale",
    "hires_steps",
    "hires_denoise",
    "hires_upscale_method",
    "lightning_lora_strength",
    "sliding_window_size",
    "sliding_window_overlap",
    "sliding_window_overlap_noise",
    "sliding_window_discard_last_frames",
    "latent_noise_mask_strength",
    "vid2vid_init_video",
    "vid2vid_init_strength",
    "remove_background_images_ref",
    "temporal_upsampling",
    "spatial_upsampling",
    "film_grain_intensity",
    "film_grain_saturation",
    "image_refs_relative_size",
    "output_dir",
    "custom_output_dir",
    "override_profile",
    "image",
    "image_url",
    "mask_url",
    "style_reference_image",
    "subject_reference_image",
    "style_reference_strength",
    "subject_strength",
    "subject_description",
    "in_this_scene",
    "output_format",
    "enable_base64_output",
    "enable_sync_mode",
    "use_uni3c",
    "uni3c_guide_video",
    "uni3c_strength",
    "uni3c_start_percent",
    "uni3c_end_percent",
    "uni3c_keep_on_gpu",
    "uni3c_frame_policy",
    "uni3c_zero_empty_frames",
    "uni3c_blackout_last_frame",
    "denoising_strength",
];

/// The request of a task that is routed straight to Wan2GP.
///
/// Codes: `prompt_required` (the caller knows more about why there is none and says it better), `image_required`,
/// `image_and_mask_required`.
pub fn generation(task: &Task) -> Result<Request, Failure> {
    let params = &task.params;
    let direct = TYPES.iter().find(|direct| direct.name == task.task_type);
    let prompt = match params.get("prompt").and_then(Value::as_str).filter(|prompt| !prompt.is_empty()) {
        Some(prompt) => prompt,
        None if direct.is_some_and(|direct| direct.promptless) => " ",
        None => {
            return Err(Failure::invalid(
                "prompt_required",
                format!("A task of type {} goes to Wan2GP, which needs a `prompt` among the params.", task.task_type),
            ));
        }
    };
    let mut settings = Map::new();
    settings.insert("model".into(), model(direct, task).into());
    settings.insert("prompt".into(), prompt.into());
    for key in WHITELIST {
        if let Some(value) = params.get(*key) {
            settings.insert((*key).into(), value.clone());
        }
    }
    let details = params.get("orchestrator_details").and_then(Value::as_object);
    for key in ["additional_loras", "phase_config"] {
        let detail = || details.and_then(|details| details.get(key)).filter(|value| !is_empty(value));
        if let Some(value) = params.get(key).or_else(detail) {
            settings.insert(key.into(), value.clone());
        }
    }
    if let Some(steps) = params.get("steps") {
        settings.entry("num_inference_steps").or_insert_with(|| steps.clone());
    }
    take_pictures(direct, &mut settings);
    check_pictures(direct, &settings)?;
    take_strength(params, &mut settings);
    if let Some(direct) = direct {
        direct.fill.apply(&mut settings);
        if let Some(longest) = direct.longest_side {
            cap(&mut settings, longest);
        }
    }
    if task.task_type == "wan_2_2_t2i" {
        settings.insert("video_length".into(), json!(1));
    }
    settings.entry("seed").or_insert(json!(-1));
    settings.entry("negative_prompt").or_insert(json!(""));
    Ok(Request::Generation { settings, model_overrides: Map::new() })
}

fn model<'a>(direct: Option<&'a DirectType>, task: &'a Task) -> &'a str {
    let asked = task.params.get("model").and_then(Value::as_str).filter(|model| !model.is_empty());
    match direct {
        Some(direct) if direct.forced => direct.model,
        Some(direct) => asked.unwrap_or(direct.model),
        None => {
            let retired = RETIRED_MODELS.iter().find(|(name, _)| *name == task.task_type);
            asked.unwrap_or(retired.map_or(DEFAULT_MODEL, |(_, model)| *model))
        }
    }
}

/// The picture that a task is about goes where its type wants it, unless something is there already.
fn take_pictures(direct: Option<&DirectType>, settings: &mut Map<String, Value>) {
    // Composites name the picture by address first; everything else prefers the file.
    let keys = match direct.map(|direct| direct.name) {
        Some("image_inpaint" | "annotated_image_edit") => ["image_url", "image"],
        Some("qwen_image_style") => ["style_reference_image", "subject_reference_image"],
        _ => ["image", "image_url"],
    };
    let picture = keys.iter().find_map(|key| settings.get(*key).filter(|value| !is_empty(value)).cloned());
    let target = direct.map_or("image_start", |direct| direct.picture);
    let mask = settings.get("mask_url").filter(|value| !is_empty(value)).cloned();
    for (key, value) in [(target, picture), ("image_mask", mask)] {
        if let Some(value) = value
            && settings.get(key).is_none_or(is_empty)
        {
            settings.insert(key.into(), value);
        }
    }
}

fn check_pictures(direct: Option<&DirectType>, settings: &Map<String, Value>) -> Result<(), Failure> {
    let Some(direct) = direct else { return Ok(()) };
    let absent = |key: &str| settings.get(key).is_none_or(is_empty);
    let (code, what) = match direct.needs {
        Needs::Picture if absent(direct.picture) => ("image_required", "a picture (`image` or `image_url`)"),
        Needs::PictureAndMask if absent(direct.picture) || absent("image_mask") => {
            ("image_and_mask_required", "a picture (`image_url` or `image`) and its mask (`mask_url`)")
        }
        _ => return Ok(()),
    };
    Err(Failure::invalid(code, format!("A task of type {} needs {what} among its params.", direct.name)))
}

/// The noise strength under any of its names.
fn take_strength(params: &Map<String, Value>, settings: &mut Map<String, Value>) {
    let names = ["denoising_strength", "denoise_strength", "strength"];
    let given = names.iter().find_map(|name| params.get(*name).filter(|value| !value.is_null()));
    if let Some(strength) = given {
        settings.insert("denoising_strength".into(), strength.clone());
    }
}

impl Fill {
    fn apply(&self, settings: &mut Map<String, Value>) {
        let values = [
            ("video_prompt_type", self.video_prompt_type.map(Value::from)),
            ("guidance_scale", self.guidance_scale.map(number)),
            ("num_inference_steps", self.num_inference_steps.map(Value::from)),
            ("video_length", self.video_length.map(Value::from)),
            ("resolution", self.resolution.map(Value::from)),
            ("denoising_strength", self.denoising_strength.map(number)),
        ];
        for (key, value) in values {
            if let Some(value) = value {
                settings.entry(key).or_insert(value);
            }
        }
    }
}

/// Shrinks a resolution whose longest side is over the limit, in its own shape, sides cut to whole pixels.
fn cap(settings: &mut Map<String, Value>, longest: u32) {
    let Some((width, height)) = settings
        .get("resolution")
        .and_then(Value::as_str)
        .and_then(|text| text.split_once('x'))
        .and_then(|(w, h)| Some((w.trim().parse::<u32>().ok()?, h.trim().parse::<u32>().ok()?)))
        .filter(|(w, h)| *w.max(h) > longest)
    else {
        return;
    };
    let limit = f64::from(longest);
    let ratio = (limit / f64::from(width)).min(limit / f64::from(height));
    let side = |side: u32| (f64::from(side) * ratio) as u32;
    settings.insert("resolution".into(), format!("{}x{}", side(width), side(height)).into());
}

/// Whole numbers are written without a point.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { Value::from(value as i64) } else { Value::from(value) }
}

/// Null, zero, false, or nothing in it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(task_type: &str, params: Value) -> Result<Request, Failure> {
        let task = json!({
            "id": "00000000-0000-0000-0000-000000000000", "task_type": task_type, "params": params, "status": "Queued",
            "created_at": "2025-01-01T00:00:00Z",
        });
        generation(&serde_json::from_value(task).unwrap())
    }

    fn settings(task_type: &str, params: Value) -> Map<String, Value> {
        match convert(task_type, params).unwrap() {
            Request::Generation { settings, .. } => settings,
            Request::Workflow { .. } => panic!("no workflow was asked for"),
        }
    }

    #[test]
    fn a_known_type_brings_its_model_and_an_unknown_one_is_text_to_video() {
        for (task_type, model) in [
            ("i2v", "i2v"),
            ("vace", "vace_14B_cocktail_2_2"),
            ("hunyuan", "hunyuan"),
            ("inpaint_frames", "wan_2_2_vace_lightning_baseline_2_2_2"),
            ("edit_video_segment", "t2v"),
        ] {
            assert_eq!(settings(task_type, json!({"prompt": "a"}))["model"], model, "{task_type}");
            assert_eq!(settings(task_type, json!({"prompt": "a", "model": "mine"}))["model"], "mine", "{task_type}");
        }
        assert_eq!(settings("qwen_image", json!({"prompt": "a", "model": "mine"}))["model"], "qwen_image_edit_20B");
    }

    #[test]
    fn a_prompt_is_required_where_a_picture_cannot_stand_for_it() {
        for params in [json!({}), json!({"prompt": ""}), json!({"orchestrator_details": {"prompt": "a"}})] {
            let failure = convert("t2v", params.clone()).unwrap_err();
            assert_eq!(failure.code, "prompt_required", "{params}");
        }
        assert_eq!(settings("t2v", json!({"prompt": " "}))["prompt"], " ");
        for task_type in ["z_image_turbo_i2i", "qwen_image_edit", "qwen_image_style", "image_inpaint"] {
            let params = json!({"image": "a.png", "mask_url": "b.png"});
            assert_eq!(settings(task_type, params)["prompt"], " ", "{task_type}");
        }
    }

    #[test]
    fn known_params_pass_unchanged_and_unknown_ones_are_dropped() {
        let got =
            settings("t2v", json!({"prompt": "a", "seed": null, "video_length": 81, "sample_solver": "x", "steps": 9}));
        let expected = json!({
            "model": "t2v", "prompt": "a", "video_length": 81, "seed": null, "num_inference_steps": 9,
            "negative_prompt": "",
        });
        assert_eq!(Value::Object(got), expected);
        assert_eq!(settings("t2v", json!({"prompt": "a"}))["seed"], -1);
        let got = settings("t2v", json!({"prompt": "a", "steps": 9, "num_inference_steps": 4}));
        assert_eq!(got["num_inference_steps"], 4);
    }

    #[test]
    fn pictures_go_where_their_type_wants_them() {
        let file = json!({"$artifact": "sha256:x"});
        let got = settings("i2v", json!({"prompt": "a", "image": file}));
        assert_eq!(got["image_start"], file);
        assert_eq!(settings("qwen_image_edit", json!({"image_url": file}))["image_guide"], file);
        let got = settings("image_inpaint", json!({"image_url": file, "mask_url": file}));
        assert_eq!((&got["image_guide"], &got["image_mask"]), (&file, &file));
        let got = settings("i2v", json!({"prompt": "a", "image": file, "image_start": "mine"}));
        assert_eq!(got["image_start"], "mine");
    }

    #[test]
    fn a_type_that_works_on_pictures_is_refused_without_them() {
        for (task_type, params, code) in [
            ("qwen_image_edit", json!({}), "image_required"),
            ("z_image_turbo_i2i", json!({"image_url": ""}), "image_required"),
            ("image_inpaint", json!({"image": "a.png"}), "image_and_mask_required"),
            ("annotated_image_edit", json!({"prompt": "a", "mask_url": "b.png"}), "image_and_mask_required"),
        ] {
            let failure = convert(task_type, params).unwrap_err();
            assert_eq!(failure.code, code, "{task_type}");
        }
    }

    #[test]
    fn a_type_fills_in_what_the_task_leaves_open() {
        let got = settings("qwen_image", json!({"prompt": "a", "num_inference_steps": 8}));
        assert_eq!((&got["num_inference_steps"], &got["resolution"]), (&json!(8), &json!("1024x1024")));
        assert_eq!(settings("qwen_image", json!({"prompt": "a", "resolution": "1111x1999"}))["resolution"], "666x1200");
        assert_eq!(settings("wan_2_2_t2i", json!({"prompt": "a", "video_length": 81}))["video_length"], 1);
        let strength = |params| settings("z_image_turbo_i2i", params)["denoising_strength"].clone();
        assert_eq!(strength(json!({"image": "a.png", "strength": 0.4})), 0.4);
        assert_eq!(strength(json!({"image": "a.png"})), 0.7);
    }

    #[test]
    fn every_file_param_that_is_passed_is_known_as_one() {
        let named = |key: &&&str| {
            ["image_guide", "image_mask", "image_refs", "image_start", "image_end", "video_guide", "video_mask"]
                .contains(*key)
                || key.ends_with("_url")
                || key.ends_with("_source") && !key.starts_with("keep_")
                || key.ends_with("_reference_image")
        };
        for key in WHITELIST.iter().filter(named) {
            assert!(FILE_KEYS.contains(key), "{key}");
        }
    }
}
