//! When two pieces of JSON say the same: numbers by value, placeholders of chance by being there, files by being files.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::case::{Case, step};
use crate::members;

/// Marks of a path that the component itself made up: time and chance are in it.
const CHANCE: [&str; 4] = ["$HHMMSS", "$RAND6", "$TIME", "$UUID"];

/// Thresholds were computed in 32 bits.
const THRESHOLD: f64 = 1e-3;

/// A comparison in progress.
pub struct Same<'a> {
    case: &'a Case,
    pub differences: Vec<String>,
    pub left_out: BTreeMap<String, String>,
}

impl<'a> Same<'a> {
    pub fn new(case: &'a Case) -> Self {
        Self { case, differences: Vec::new(), left_out: BTreeMap::new() }
    }

    pub fn differ(&mut self, pointer: &str, want: &Value, got: &Value) {
        let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
        self.differences.push(format!("{pointer}: recorded {}, observed {}", short(want), short(got)));
    }

    /// A place that the record leaves open.
    pub fn open(&mut self, pointer: &str) {
        self.left_out.insert(shape(pointer), format!("left open by the record: {}", self.case.why));
    }

    pub fn json(&mut self, pointer: &str, want: &Value, got: &Value) {
        self.json_as(pointer, pointer, want, got);
    }

    /// `pointer` is the place in the record, `shown` the one that people are told.
    pub fn json_as(&mut self, pointer: &str, shown: &str, want: &Value, got: &Value) {
        if self.case.leaves_open(pointer) || self.case.leaves_open(shown) {
            self.open(pointer);
            return;
        }
        if let Some(reason) = members::left_out(pointer) {
            self.left_out.insert(shape(pointer), reason.into());
            return;
        }
        match (want, got) {
            (Value::Object(want), Value::Object(got)) if !got.contains_key("$artifact") => {
                for (name, want) in want {
                    let place = step(name);
                    let got = got.get(name);
                    match got {
                        Some(got) => {
                            self.json_as(&format!("{pointer}/{place}"), &format!("{shown}/{place}"), want, got);
                        }
                        None => self.absent(&format!("{pointer}/{place}"), want),
                    }
                }
                for (name, got) in got.iter().filter(|(name, _)| !want.contains_key(*name)) {
                    let place = format!("{pointer}/{}", step(name));
                    if !self.case.leaves_open(&place) {
                        self.differ(&place, &Value::from("nothing"), got);
                    }
                }
            }
            (Value::Array(want), Value::Array(got)) => {
                if want.len() != got.len() {
                    self.differ(&format!("{shown} (entries)"), &want.len().into(), &got.len().into());
                }
                for (i, (want, got)) in want.iter().zip(got).enumerate() {
                    self.json_as(&format!("{pointer}/{i}"), &format!("{shown}/{i}"), want, got);
                }
            }
            (Value::Number(_), Value::Number(_)) => {
                let tolerance = if pointer.contains("switch_threshold") { THRESHOLD } else { 0.0 };
                let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
                let apart = (number(want) - number(got)).abs();
                // Not a number is apart from everything.
                if apart.is_nan() || apart > tolerance {
                    self.differ(shown, want, got);
                }
            }
            (Value::String(text), got) if (is_file(got) && names_a_file(text)) || by_chance(text) => {
                let there = is_file(got) || got.as_str().is_some_and(|got| !got.is_empty());
                if !there {
                    self.differ(shown, want, got);
                }
                let reason = if is_file(got) {
                    "a file: compared by its content, not by its name"
                } else {
                    "a path of the component's own making: compared only that there is one"
                };
                self.left_out.insert(shape(pointer), reason.into());
            }
            _ if want == got => {}
            _ => self.differ(shown, want, got),
        }
    }

    fn absent(&mut self, pointer: &str, want: &Value) {
        if self.case.leaves_open(pointer) {
            self.open(pointer);
        } else if let Some(reason) = members::left_out(pointer) {
            self.left_out.insert(shape(pointer), reason.into());
        } else {
            self.differ(pointer, want, &Value::from("nothing"));
        }
    }
}

/// Whether a text names a file that the component itself made.
pub fn by_chance(text: &str) -> bool {
    CHANCE.iter().any(|mark| text.contains(mark))
}

/// Whether a text of the record is a path or an address.
fn names_a_file(text: &str) -> bool {
    ["$", "/", "http://", "https://"].iter().any(|start| text.starts_with(start))
}

fn is_file(value: &Value) -> bool {
    value.get("$artifact").is_some()
}

/// A place without its numbers: `/children/*/params`.
pub fn shape(pointer: &str) -> String {
    let step = |step: &str| if step.parse::<usize>().is_ok() { "*".to_string() } else { step.to_string() };
    pointer.trim_start_matches('/').split('/').map(step).collect::<Vec<_>>().join("/")
}

/// The file name of a LoRA: the last part of its address, percent-decoded; the two generic names carry their folder.
pub fn file_name(lora: &Value) -> String {
    let address = lora.as_str().unwrap_or_default();
    let address = address.split(['?', '#']).next().unwrap_or_default();
    let mut parts = address.rsplit('/').map(decoded);
    let name = parts.next().unwrap_or_default();
    match name.as_str() {
        "high_noise_model.safetensors" | "low_noise_model.safetensors" => match parts.next() {
            Some(folder) => format!("{folder}_{name}"),
            None => name,
        },
        _ => name,
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_lora_is_known_by_its_file_name() {
    for (address, name) in [
        ("https://h.example/a/b%20c.safetensors?download=1", "b c.safetensors"),
        ("https://h.example/WAN/high_noise_model.safetensors", "WAN_high_noise_model.safetensors"),
        ("style.safetensors", "style.safetensors"),
        ("100%.safetensors", "100%.safetensors"),
    ] {
        assert_eq!(file_name(&Value::from(address)), name);
    }
}
