//! Whether an answer is the recorded one, but for what differs from run to run.

use serde_json::Value;

/// Members whose value is a matter of time, memory, version or program text. They must be there, of the recorded type.
const OF_THE_MOMENT: [&str; 18] = [
    "timestamp",
    "create_time",
    "execution_start_time",
    "execution_end_time",
    "traceback",
    "exception_message",
    "ram_total",
    "ram_free",
    "vram_total",
    "vram_free",
    "torch_vram_total",
    "torch_vram_free",
    "os",
    "python_version",
    "pytorch_version",
    "comfy_package_versions",
    "argv",
    "display_name",
];

/// Arrays that the real server fills from sets: their order is chance.
const UNORDERED: [&str; 5] = ["errors", "dependent_outputs", "current_outputs", "executed", "outputs_to_execute"];

/// Adds a line to `differences` for everything in which `actual` is not `expected`.
pub fn json(place: &str, expected: &Value, actual: &Value, differences: &mut Vec<String>) {
    let differ = |differences: &mut Vec<String>| {
        differences.push(format!("{place}: {} was recorded, {} came", short(expected), short(actual)));
    };
    match (expected, actual) {
        (Value::String(mark), _) if mark == "<anything>" => {}
        (Value::String(mark), _) if mark == "<text>" && actual.is_string() => {}
        (Value::String(mark), _) if mark == "<list>" && actual.is_array() => {}
        // A printed tensor, shortened by whoever recorded it.
        (Value::String(text), Value::String(_)) if text.ends_with("<shortened>") => {}
        (Value::String(one), Value::String(other)) => {
            if unlettered(one) != unlettered(other) {
                differ(differences);
            }
        }
        (Value::Number(one), Value::Number(other)) => {
            if one.as_f64() != other.as_f64() {
                differ(differences);
            }
        }
        (Value::Object(one), Value::Object(other)) => {
            for (name, expected) in one.iter().filter(|(name, _)| *name != "tooltip") {
                let place = format!("{place}.{name}");
                match other.get(name) {
                    None => differences.push(format!("{place} is missing")),
                    Some(actual) if OF_THE_MOMENT.contains(&name.as_str()) => {
                        if std::mem::discriminant(expected) != std::mem::discriminant(actual) {
                            differences.push(format!("{place}: {} is of another type", short(actual)));
                        }
                    }
                    Some(actual) if UNORDERED.contains(&name.as_str()) => {
                        unordered(&place, expected, actual, differences)
                    }
                    Some(actual) => json(&place, expected, actual, differences),
                }
            }
            for name in other.keys().filter(|name| !one.contains_key(*name)) {
                differences.push(format!("{place}.{name} was not recorded"));
            }
        }
        (Value::Array(one), Value::Array(other)) => {
            if one.len() != other.len() {
                return differ(differences);
            }
            // `[number, id, graph, extra_data, outputs_to_execute]`
            let prompt = one.len() == 5 && one[1].is_string() && one[2].is_object() && one[4].is_array();
            for (at, (expected, actual)) in one.iter().zip(other).enumerate() {
                let place = format!("{place}[{at}]");
                if prompt && at == 4 {
                    unordered(&place, expected, actual, differences);
                } else {
                    json(&place, expected, actual, differences);
                }
            }
        }
        _ if expected == actual => {}
        _ => differ(differences),
    }
}

/// Every recorded element has its own match.
fn unordered(place: &str, expected: &Value, actual: &Value, differences: &mut Vec<String>) {
    let (Some(expected), Some(actual)) = (expected.as_array(), actual.as_array()) else {
        return json(place, expected, actual, differences);
    };
    let mut left: Vec<&Value> = actual.iter().collect();
    for one in expected {
        let matching = left.iter().position(|other| {
            let mut found = Vec::new();
            json("", one, other, &mut found);
            found.is_empty()
        });
        match matching {
            Some(at) => {
                left.remove(at);
            }
            None => differences.push(format!("{place}: {} was recorded and did not come", short(one))),
        }
    }
    for other in left {
        differences.push(format!("{place}: {} was not recorded", short(other)));
    }
}

/// Names of temporary files hold five letters of chance.
fn unlettered(text: &str) -> String {
    match text.split_once("_temp_") {
        Some((before, after)) if after.len() > 5 && after.is_char_boundary(5) => {
            format!("{before}_temp_{}", &after[5..])
        }
        _ => text.to_string(),
    }
}

pub fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
