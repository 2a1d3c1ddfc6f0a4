//! What a model's name tells. The stand-in has no list of models: families are recognised by how names begin.

use serde_json::Map;

use crate::engines::ModelInfo;

/// A family of models and what its members have in common.
struct Family {
    /// Beginnings of the names, lower case; the first family that fits wins.
    begins: &'static [&'static str],
    name: &'static str,
    /// Makes pictures alone.
    picture: bool,
    /// Rate of its videos.
    fps: u32,
    /// Its videos have a multiple of this and one frame more.
    grid: u64,
}

const fn video(begins: &'static [&'static str], name: &'static str, fps: u32, grid: u64) -> Family {
    Family { begins, name, picture: false, fps, grid }
}

const fn picture(begins: &'static [&'static str], name: &'static str) -> Family {
    Family { begins, name, picture: true, fps: 16, grid: 4 }
}

/// Rates and grids as WanGP 12.60 gives them.
const FAMILIES: &[Family] = &[
    picture(&["qwen_image"], "qwen"),
    picture(&["z_image"], "z_image"),
    picture(&["flux2"], "flux2"),
    picture(&["flux"], "flux"),
    video(&["hunyuan_1_5"], "hunyuan_1_5", 24, 4),
    video(&["hunyuan"], "hunyuan", 24, 4),
    video(&["ltx2"], "ltx2", 24, 8),
    video(&["ltxv"], "ltxv", 30, 8),
    video(&["k5_", "kandinsky"], "kandinsky5", 24, 4),
    video(&["ti2v_2_2"], "wan2_2", 24, 4),
    video(&["wan", "t2v", "i2v", "vace"], "wan", 16, 4),
];

/// What is derived from a model's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    pub family: Option<&'static str>,
    pub vace: bool,
    pub picture: bool,
    pub fps: u32,
    pub grid: u64,
}

/// A name that no family claims is taken for a video model at 16 frames a second.
pub fn traits(model: &str) -> Traits {
    let name = model.to_lowercase();
    let vace = name.contains("vace");
    match FAMILIES.iter().find(|family| family.begins.iter().any(|begin| name.starts_with(begin))) {
        Some(f) => Traits { family: Some(f.name), vace, picture: f.picture, fps: f.fps, grid: f.grid },
        None => Traits { family: None, vace, picture: false, fps: 16, grid: 4 },
    }
}

/// For callers who ask what is known: nothing for certain.
pub fn info(model: &str) -> ModelInfo {
    let traits = traits(model);
    ModelInfo { known: false, vace: traits.vace, family: traits.family.map(String::from), defaults: Map::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_rate_kind_and_control() {
        assert_eq!(traits("wan_2_2_VACE_lightning_baseline_3_3").family, Some("wan"));
        assert!(traits("wan_2_2_VACE_lightning_baseline_3_3").vace);
        assert!(!traits("i2v_2_2").vace);
        assert_eq!((traits("hunyuan").fps, traits("ltxv_13B").fps, traits("ltx2_distilled").fps), (24, 30, 24));
        assert!(traits("qwen_image_edit_20B").picture && traits("z_image").picture && traits("flux2_dev").picture);
        assert_eq!(traits("qwen3_tts_base").family, None);
    }
}
