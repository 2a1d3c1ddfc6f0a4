//! `phase_config`: the denoising steps in two or three phases, each with its own guidance and LoRAs.
//!
//! The engine switches phases where the noise falls below a threshold. Which threshold separates step k from step k + 1
//! depends on the solver and its shift; the formulas follow the schedulers of the engine, in 32-bit floats as there.

use serde_json::{Map, Number, Value, json};

use crate::failure::Failure;
use crate::fields::{self, Fields};

use super::kinds;

/// Most steps that a phase may have; far above what any model uses.
const STEPS_LIMIT: i64 = 10_000;

/// A `phase_config`, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Phases {
    pub num_inference_steps: i64,
    /// One per phase, as given; two or three.
    pub guidance_scales: Vec<Number>,
    /// Noise (0 to 1000) below which phase 2 begins. None: it never does.
    pub switch_threshold: Option<f32>,
    /// Noise below which phase 3 begins.
    pub switch_threshold2: Option<f32>,
    pub flow_shift: Number,
    pub sample_solver: String,
    /// Phase with which the second model takes over.
    pub model_switch_phase: Number,
    /// Addresses, each once.
    pub lora_names: Vec<String>,
    /// One text per LoRA: its multiplier in each phase, joined by `;`.
    pub lora_multipliers: Vec<String>,
    /// Switches the model into SVI mode.
    pub svi2pro: bool,
}

impl Phases {
    /// Reads and checks a `phase_config`. Failure `bad_phase_config` with the rule that is broken.
    pub fn parse(config: &Value) -> Result<Self, Failure> {
        read(config).map_err(|failure| match failure.code.as_str() {
            kinds::BAD_PHASE_CONFIG => failure,
            _ => broken(failure.message),
        })
    }

    /// The generation parameters that follow; what does not apply is left out.
    pub fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        settings.insert("guidance_phases".into(), json!(self.guidance_scales.len()));
        settings.insert("num_inference_steps".into(), json!(self.num_inference_steps));
        for (key, threshold) in
            [("switch_threshold", self.switch_threshold), ("switch_threshold2", self.switch_threshold2)]
        {
            if let Some(threshold) = threshold {
                settings.insert(key.into(), json!(f64::from(threshold)));
            }
        }
        self.guide(&mut settings);
        settings.insert("model_switch_phase".into(), Value::Number(self.model_switch_phase.clone()));
        settings.insert("lora_names".into(), json!(self.lora_names));
        settings.insert("lora_multipliers".into(), json!(self.lora_multipliers));
        settings
    }

    /// What the model's own definition must say for this job: its LoRAs and guidance must not mix with ours.
    pub fn model_overrides(&self) -> Map<String, Value> {
        let mut overrides = Map::new();
        overrides.insert("guidance_phases".into(), json!(self.guidance_scales.len()));
        self.guide(&mut overrides);
        overrides.insert("loras".into(), json!([]));
        overrides.insert("loras_multipliers".into(), json!([]));
        if self.svi2pro {
            overrides.insert("svi2pro".into(), json!(true));
        }
        overrides
    }

    fn guide(&self, into: &mut Map<String, Value>) {
        let keys = ["guidance_scale", "guidance2_scale", "guidance3_scale"];
        for (key, scale) in keys.into_iter().zip(&self.guidance_scales) {
            into.insert(key.into(), Value::Number(scale.clone()));
        }
        into.insert("flow_shift".into(), Value::Number(self.flow_shift.clone()));
        into.insert("sample_solver".into(), json!(self.sample_solver));
    }
}

fn broken(rule: impl AsRef<str>) -> Failure {
    Failure::invalid(kinds::BAD_PHASE_CONFIG, format!("`phase_config` cannot be used: {}", rule.as_ref()))
}

fn read(config: &Value) -> Result<Phases, Failure> {
    let fields = Fields::new([fields::object("phase_config", config)?]);
    let number = |key: &str, default: Number| match fields.given(key) {
        None => Ok(default),
        Some(Value::Number(number)) => Ok(number.clone()),
        Some(other) => Err(fields::invalid(key, other, "a number")),
    };

    let mut steps = fields.integers("steps_per_phase")?.unwrap_or_else(|| vec![2, 2, 2]);
    let phases = fields.list("phases")?.unwrap_or_default();
    let named = fields.integer("num_phases")?.unwrap_or(3);
    // When the three disagree, the list that says what the phases do counts.
    let agree = [steps.len(), phases.len()].iter().all(|length| i64::try_from(*length) == Ok(named));
    let count = if agree { named } else { i64::try_from(phases.len()).unwrap_or(i64::MAX) };
    if !(2..=3).contains(&count) {
        return Err(broken(format!("it has {count} phases, and there must be 2 or 3")));
    }
    // A phase without an entry is one that no step is left for; its LoRAs are named all the same.
    if steps.len() < phases.len() {
        steps.resize(phases.len(), 0);
    }
    if let Some(wrong) = steps.iter().find(|steps| !(0..=STEPS_LIMIT).contains(*steps)) {
        return Err(broken(format!("a phase of {wrong} steps is not possible: 0 to {STEPS_LIMIT}")));
    }
    let first = steps.first().copied().unwrap_or(0);
    if first == 0 {
        return Err(broken("the first phase needs at least one step"));
    }

    let flow_shift = number("flow_shift", float(5.0))?;
    let sample_solver = fields.text("sample_solver")?.unwrap_or("euler");
    let total: i64 = steps.iter().sum();
    let second = first + steps.get(1).copied().unwrap_or(0);
    let threshold = |after: i64| {
        let shift = flow_shift.as_f64().unwrap_or(5.0) as f32;
        (after < total).then(|| {
            let noise = |step| timestep(sample_solver, shift, step, total);
            (noise(after - 1) + noise(after)) / 2.0
        })
    };

    let (lora_names, lora_multipliers) = loras(phases, &steps)?;
    let wants_svi = fields.given("svi2pro").is_some_and(|value| fields::is_truthy(value) && *value != json!(false));
    Ok(Phases {
        num_inference_steps: total,
        guidance_scales: guidance_scales(phases)?,
        switch_threshold: threshold(first),
        switch_threshold2: if count == 3 { threshold(second) } else { None },
        svi2pro: wants_svi || lora_names.iter().any(|url| url.to_lowercase().contains("svi")),
        sample_solver: sample_solver.to_owned(),
        model_switch_phase: number("model_switch_phase", 2.into())?,
        flow_shift,
        lora_names,
        lora_multipliers,
    })
}

fn float(value: f64) -> Number {
    Number::from_f64(value).unwrap_or_else(|| 0.into())
}

fn guidance_scales(phases: &[Value]) -> Result<Vec<Number>, Failure> {
    let read = |(position, phase): (usize, &Value)| {
        let field = format!("phases[{position}]");
        match Fields::new([fields::object(&field, phase)?]).given("guidance_scale") {
            None => Ok(float(if position == 0 { 3.0 } else { 1.0 })),
            Some(Value::Number(scale)) => Ok(scale.clone()),
            Some(other) => Err(fields::invalid(&format!("{field}.guidance_scale"), other, "a number")),
        }
    };
    phases.iter().enumerate().map(read).collect()
}

/// Distinct addresses in order of first appearance, and the multipliers of each in all phases.
fn loras(phases: &[Value], steps: &[i64]) -> Result<(Vec<String>, Vec<String>), Failure> {
    let mut names: Vec<String> = Vec::new();
    let mut multipliers: Vec<Vec<Option<String>>> = Vec::new();
    for (position, (phase, steps)) in phases.iter().zip(steps).enumerate() {
        let field = format!("phases[{position}].loras");
        let entries = Fields::new([fields::object(&field, phase)?]);
        for entry in entries.list("loras")?.unwrap_or_default() {
            let entry = Fields::new([fields::object(&field, entry)?]);
            let url = entry.text("url")?.unwrap_or("").trim();
            if url.is_empty() {
                continue;
            }
            let multiplier = multiplier_text(&field, entry.given("multiplier"))?;
            let values = multiplier.split(',').count();
            if values > 1 && i64::try_from(values) != Ok(*steps) {
                return Err(broken(format!(
                    "the multiplier {multiplier:?} of {url} in phase {} has {values} values, and the phase has {steps} steps",
                    position + 1
                )));
            }
            let row = match names.iter().position(|name| name == url) {
                Some(row) => row,
                None => {
                    names.push(url.to_owned());
                    multipliers.push(vec![None; phases.len()]);
                    names.len() - 1
                }
            };
            // The first entry of an address in a phase counts.
            if let Some(cell) = multipliers.get_mut(row).and_then(|row| row.get_mut(position)) {
                cell.get_or_insert(multiplier);
            }
        }
    }
    let joined = |row: Vec<Option<String>>| {
        row.into_iter().map(|cell| cell.unwrap_or_else(|| "0".into())).collect::<Vec<_>>().join(";")
    };
    Ok((names, multipliers.into_iter().map(joined).collect()))
}

fn multiplier_text(field: &str, multiplier: Option<&Value>) -> Result<String, Failure> {
    match multiplier {
        None => Ok("1.0".into()),
        Some(Value::String(text)) => Ok(text.trim().to_owned()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(other) => Err(fields::invalid(&format!("{field}.multiplier"), other, "a number or a text of numbers")),
    }
}

/// Noise (0 to 1000) at one of `count` steps.
fn timestep(solver: &str, shift: f32, step: i64, count: i64) -> f32 {
    let shifted = |value: f32| shift * value / (1.0 + (shift - 1.0) * value) * 1000.0;
    match solver {
        "euler" => shifted(linear(1000.0, 1.0, step, count) / 1000.0),
        "unipc" | "" => shifted(linear(1.0, 0.001, step, count + 1)),
        "dpm++" | "dpm++_sde" => shifted(linear(1.0, 0.0, step, count + 1)),
        _ => linear(1000.0, 1.0, step, count),
    }
}

/// The value at a position of `count` evenly spaced ones, counted from the nearer end so that both ends are exact.
fn linear(start: f32, end: f32, position: i64, count: i64) -> f32 {
    if count < 2 {
        return start;
    }
    let step = (end - start) / (count - 1) as f32;
    if position < count / 2 { start + step * position as f32 } else { end - step * (count - 1 - position) as f32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(config: Value) -> Result<Phases, Failure> {
        Phases::parse(&config)
    }

    fn plain(solver: &str, shift: f64, steps: &[i64]) -> Phases {
        let phases: Vec<Value> = steps.iter().map(|_| json!({"guidance_scale": 1, "loras": []})).collect();
        let count = steps.len();
        parse(json!({"num_phases": count, "steps_per_phase": steps, "flow_shift": shift, "sample_solver": solver,
            "phases": phases}))
        .unwrap()
    }

    #[track_caller]
    fn near(threshold: Option<f32>, expected: f32) {
        assert!((threshold.unwrap() - expected).abs() < 1e-3, "{threshold:?} is not {expected}");
    }

    #[test]
    fn thresholds_lie_between_the_last_step_of_a_phase_and_the_first_of_the_next() {
        // Each expected value is the formula of its solver, worked out by hand in double precision.
        let three = plain("euler", 5.0, &[2, 2, 2]);
        near(three.switch_threshold, 917.4817);
        near(three.switch_threshold2, 663.231);
        near(plain("euler", 5.0, &[3, 3]).switch_threshold, 826.1);
        near(plain("unipc", 8.0, &[4, 4]).switch_threshold, 909.7113);
        near(plain("dpm++", 5.0, &[2, 3, 3]).switch_threshold2, 791.6666);
        near(plain("causvid", 5.0, &[2, 2]).switch_threshold, 500.5);
        assert_eq!(plain("euler", 5.0, &[6, 0]).switch_threshold, None);
    }

    #[test]
    fn each_lora_has_one_multiplier_per_phase() {
        let phases = parse(json!({
            "num_phases": 3, "steps_per_phase": [2, 2, 2],
            "phases": [
                {"guidance_scale": 3, "loras": [{"url": "https://h/a", "multiplier": "0.75"}, {"url": " "}]},
                {"loras": [{"url": "https://h/a", "multiplier": 0.5}, {"url": "https://h/a", "multiplier": 9}]},
                {"loras": [{"url": "https://h/SVI", "multiplier": "1,0.5"}]}
            ]
        }))
        .unwrap();
        assert_eq!(phases.lora_names, ["https://h/a", "https://h/SVI"]);
        assert_eq!(phases.lora_multipliers, ["0.75;0.5;0", "0;0;1,0.5"]);
        assert!(phases.svi2pro);
        let settings = phases.settings();
        assert_eq!(settings["guidance_scale"], json!(3));
        assert_eq!(settings["guidance2_scale"], json!(1.0));
        assert_eq!(settings["num_inference_steps"], json!(6));
        assert_eq!(phases.model_overrides()["loras"], json!([]));
        assert_eq!(phases.model_overrides()["svi2pro"], json!(true));
    }

    #[test]
    fn two_phases_leave_out_what_only_three_have() {
        let settings = plain("euler", 5.0, &[3, 3]).settings();
        assert!(!settings.contains_key("guidance3_scale") && !settings.contains_key("switch_threshold2"));
    }

    #[test]
    fn the_list_of_phases_decides_when_the_counts_disagree() {
        let phases = parse(json!({"num_phases": 3, "steps_per_phase": [2, 2], "phases": [{}, {}]})).unwrap();
        assert_eq!(phases.guidance_scales.len(), 2);
    }

    #[test]
    fn a_phase_that_no_step_is_left_for_keeps_its_loras_and_is_never_switched_to() {
        let lora = json!({"url": "https://h/late", "multiplier": 0.5});
        let phases = parse(json!({"steps_per_phase": [4], "phases": [{}, {"loras": [lora]}]})).unwrap();
        assert_eq!((phases.num_inference_steps, phases.switch_threshold), (4, None));
        assert_eq!((phases.lora_names, phases.lora_multipliers), (vec!["https://h/late".into()], vec!["0;0.5".into()]));
    }

    #[test]
    fn a_broken_rule_is_named() {
        let two =
            |first: Value| json!({"num_phases": 2, "steps_per_phase": [2, 2], "phases": [{"loras": [first]}, {}]});
        let cases = [
            (json!({}), "it has 0 phases"),
            (json!([]), "an object"),
            (json!({"num_phases": 1, "steps_per_phase": [6], "phases": [{}]}), "it has 1 phases"),
            (two(json!({"url": "https://h/a", "multiplier": "1,2,3"})), "has 3 values, and the phase has 2 steps"),
            (json!({"num_phases": 2, "steps_per_phase": [0, 6], "phases": [{}, {}]}), "at least one step"),
            (json!({"num_phases": 2, "steps_per_phase": [2, -1], "phases": [{}, {}]}), "a phase of -1 steps"),
            (json!({"num_phases": 2, "steps_per_phase": [2, 2], "phases": [{"guidance_scale": "x"}, {}]}), "a number"),
        ];
        for (config, rule) in cases {
            let failure = parse(config.clone()).unwrap_err();
            assert_eq!(failure.code, "bad_phase_config", "{config}");
            assert!(failure.message.contains(rule), "{}", failure.message);
        }
    }

    proptest! {
        #[test]
        fn thresholds_fall_from_phase_to_phase(
            steps in prop::collection::vec(1..20_i64, 3), shift in 1.0..12.0_f64,
            solver in prop::sample::select(vec!["euler", "unipc", "", "dpm++", "dpm++_sde", "causvid"]),
        ) {
            let phases = plain(solver, shift, &steps);
            let (first, second) = (phases.switch_threshold.unwrap(), phases.switch_threshold2.unwrap());
            prop_assert!(0.0 <= second && second < first && first < 1000.0, "{first} {second}");
        }

        #[test]
        fn no_config_makes_it_panic(count in any::<i64>(), steps in prop::collection::vec(any::<i64>(), 0..4), shift in any::<f64>()) {
            let _ = parse(json!({"num_phases": count, "steps_per_phase": steps, "flow_shift": shift, "phases": [{}, {}, {}]}));
        }
    }
}
