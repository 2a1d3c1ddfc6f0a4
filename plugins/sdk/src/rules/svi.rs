//! SVI: segments that grow out of the last frames of their predecessor.
//!
//! From the second segment on, four LoRAs and fixed settings go on top of what the travel asks for.

use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::fields::Fields;

/// Frames that an SVI segment shares with its predecessor.
pub const OVERLAP: i64 = 4;
/// Frames of the predecessor that the model looks at in addition.
pub const CONTEXT: i64 = 5;

/// Address and multiplier (phase 1; phase 2) of each LoRA, in this order.
pub const LORAS: [(&str, [f64; 2]); 4] = [
    (
        "https://huggingface.co/DeepBeepMeep/Wan2.2/resolve/main/SVI_Wan2.2-I2V-A14B_high_noise_lora_v2.0_pro.safetensors",
        [1.0, 0.0],
    ),
    (
        "https://huggingface.co/DeepBeepMeep/Wan2.2/resolve/main/SVI_Wan2.2-I2V-A14B_low_noise_lora_v2.0_pro.safetensors",
        [0.0, 1.0],
    ),
    (
        "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
        [1.2, 0.0],
    ),
    (
        "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
        [0.0, 1.0],
    ),
];

/// How strongly the LoRAs act.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Strengths {
    /// In every phase that has none of its own.
    pub everywhere: Option<f64>,
    /// In phase 1.
    pub first: Option<f64>,
    /// In phase 2.
    pub second: Option<f64>,
}

impl Strengths {
    /// `svi_strength`, `svi_strength_1`, `svi_strength_2`.
    pub fn read(fields: &Fields<'_>) -> Result<Self, Failure> {
        Ok(Self {
            everywhere: fields.number("svi_strength")?,
            first: fields.number("svi_strength_1")?,
            second: fields.number("svi_strength_2")?,
        })
    }

    /// Each LoRA acts in one phase alone, so one factor holds for both of its parts.
    fn factor(&self, parts: [f64; 2]) -> f64 {
        let own = if parts[0] != 0.0 { self.first } else { self.second };
        own.or(self.everywhere).unwrap_or(1.0)
    }
}

/// The LoRAs of an SVI segment: those asked for, then ours where they are not among them. Names and multipliers go in
/// pairs; where a multiplier is missing the LoRA acts fully.
pub fn with_loras(names: &[String], multipliers: &[String], strengths: Strengths) -> (Vec<String>, Vec<String>) {
    let mut names = names.to_vec();
    let mut multipliers = multipliers.to_vec();
    multipliers.resize(names.len(), "1.0".into());
    for (url, parts) in LORAS {
        if !names.iter().any(|name| name == url) {
            let factor = strengths.factor(parts);
            names.push(url.into());
            multipliers.push(parts.map(|part| scaled(part * factor)).join(";"));
        }
    }
    (names, multipliers)
}

/// Settings that every SVI segment must have.
pub fn settings() -> Map<String, Value> {
    let settings = json!({
        "guidance_phases": 2, "num_inference_steps": 6, "guidance_scale": 1, "guidance2_scale": 1, "flow_shift": 5,
        "switch_threshold": 883, "model_switch_phase": 1, "sample_solver": "euler", "svi2pro": true,
        "video_prompt_type": "I"
    });
    settings.as_object().cloned().unwrap_or_default()
}

/// An integer if it is one, else two significant digits.
fn scaled(value: f64) -> String {
    if value.fract() == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = 1 - value.abs().log10().floor() as i32;
    let decimals = usize::try_from(digits.max(0)).unwrap_or(0);
    let rounded = format!("{value:.decimals$}");
    if decimals == 0 { rounded } else { rounded.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn multipliers(everywhere: Option<f64>, first: Option<f64>, second: Option<f64>) -> Vec<String> {
        with_loras(&[], &[], Strengths { everywhere, first, second }).1
    }

    #[test]
    fn each_phase_has_its_own_strength() {
        assert_eq!(multipliers(None, None, None), ["1;0", "0;1", "1.2;0", "0;1"]);
        assert_eq!(multipliers(Some(1.0), None, None), ["1;0", "0;1", "1.2;0", "0;1"]);
        assert_eq!(multipliers(Some(0.5), None, None), ["0.5;0", "0;0.5", "0.6;0", "0;0.5"]);
        assert_eq!(multipliers(None, Some(0.7), None), ["0.7;0", "0;1", "0.84;0", "0;1"]);
        assert_eq!(multipliers(Some(0.9), Some(0.25), Some(2.0)), ["0.25;0", "0;2", "0.3;0", "0;2"]);
        assert_eq!(multipliers(Some(0.0), None, None), ["0;0", "0;0", "0;0", "0;0"]);
    }

    #[test]
    fn what_was_asked_for_stays_in_front_and_nothing_comes_twice() {
        let (ours, _) = LORAS[1];
        let names = ["https://h/a".to_owned(), ours.to_owned()];
        let (names, multipliers) = with_loras(&names, &["1;0.5".into()], Strengths::default());
        assert_eq!(names.len(), 5);
        assert_eq!(multipliers[..3], ["1;0.5", "1.0", "1;0"]);
    }

    #[test]
    fn two_significant_digits_are_kept() {
        let cases =
            [(0.35, "0.35"), (0.123, "0.12"), (0.0456, "0.046"), (1.26, "1.3"), (12.4, "12"), (10.1, "10"), (2.0, "2")];
        for (value, text) in cases {
            assert_eq!(scaled(value), text);
        }
    }

    proptest! {
        #[test]
        fn a_scaled_number_reads_back_within_its_digits(value in 0.001..50.0_f64) {
            let read: f64 = scaled(value).parse().unwrap();
            prop_assert!((read - value).abs() <= value * 0.051, "{value} was written {read}");
        }

        #[test]
        fn names_and_multipliers_go_in_pairs(count in 0..4_usize, given in 0..6_usize) {
            let names: Vec<String> = (0..count).map(|i| format!("https://h/{i}")).collect();
            let given: Vec<String> = (0..given).map(|i| i.to_string()).collect();
            let (names, multipliers) = with_loras(&names, &given, Strengths::default());
            prop_assert_eq!(names.len(), multipliers.len());
            prop_assert_eq!(names.len(), count + LORAS.len());
        }
    }
}
