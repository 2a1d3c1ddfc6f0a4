//! What a socket heard, in a form in which two runs can be compared: who was told what in which order, without the
//! chances of timing.
//!
//! Steps of one node that follow each other count as one. Nodes are compared one by one, since the order of branches
//! is chance; the frame of each prompt (its start, its end) is compared in order.

use serde_json::{Value, json};

use crate::compare;

/// One message, or the end.
#[derive(Clone, Debug)]
pub enum Heard {
    Text(Value),
    /// Number of the event, kind of picture, metadata.
    Binary(u32, Option<u32>, Option<Value>),
    /// Without a close frame.
    Cut,
}

impl Heard {
    pub fn frame(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            bytes.get(at..at + 4).map_or(0, |part| u32::from_be_bytes([part[0], part[1], part[2], part[3]]))
        };
        if number(0) == 4 {
            let end = (8 + number(4) as usize).min(bytes.len());
            return Heard::Binary(4, None, serde_json::from_slice(&bytes[8..end]).ok());
        }
        Heard::Binary(number(0), Some(number(4)), None)
    }

    pub fn recorded(binary: &Value) -> Self {
        let number = |name: &str| binary[name].as_u64().and_then(|number| u32::try_from(number).ok());
        Heard::Binary(number("event_type").unwrap_or(0), number("image_format"), binary.get("metadata").cloned())
    }

    /// The type of the message; `preview`, or `cut` for an end without a close frame.
    pub fn kind(&self) -> &str {
        match self {
            Heard::Text(message) => message["type"].as_str().unwrap_or_default(),
            Heard::Binary(..) => "preview",
            Heard::Cut => "cut",
        }
    }

    fn is_step(&self) -> bool {
        ["progress", "progress_state", "preview"].contains(&self.kind())
    }

    fn is_state(&self) -> bool {
        self.kind() == "progress_state"
    }

    fn of(&self, member: &str) -> Option<&str> {
        match self {
            Heard::Text(message) => message["data"][member].as_str(),
            _ => None,
        }
    }
}

/// Whether everything recorded so far has been heard, as far as order and number are no chance.
pub fn caught_up(recorded: &[Heard], heard: &[Heard]) -> bool {
    recorded.iter().all(|one| {
        let alike = |other: &&Heard| {
            one.kind() == other.kind() && ["prompt_id", "node"].iter().all(|member| one.of(member) == other.of(member))
        };
        let needed = if one.is_step() { 1 } else { recorded.iter().filter(alike).count() };
        // States may have been left out of one of the two.
        one.is_state() || heard.iter().filter(alike).count() >= needed
    })
}

/// Adds a line to `differences` for everything in which what was heard is not what was recorded.
pub fn compare(place: &str, recorded: &[Heard], heard: &[Heard], differences: &mut Vec<String>) {
    let states = recorded.iter().any(Heard::is_state);
    let heard: Vec<Heard> = heard.iter().filter(|one| states || !one.is_state()).cloned().collect();
    let (one, other) = (Told::new(recorded), Told::new(&heard));
    compare::json(&format!("{place}, queue lengths"), &one.queue, &other.queue, differences);
    compare::json(&format!("{place}, order of prompts"), &one.order, &other.order, differences);
    compare::json(&format!("{place}, beside prompts"), &one.beside, &other.beside, differences);
    compare::json(&format!("{place}, frames of prompts"), &one.frames, &other.frames, differences);
    compare::json(&format!("{place}, nodes"), &one.nodes, &other.nodes, differences);
}

/// Messages by what they concern.
struct Told {
    /// Lengths of the queue, each once while it stays the same.
    queue: Value,
    /// Prompt ids in the order of their first message.
    order: Value,
    /// Messages of no prompt.
    beside: Value,
    /// Prompt id to its messages that concern no node.
    frames: Value,
    /// Prompt and node to what was told of it.
    nodes: Value,
}

impl Told {
    fn new(all: &[Heard]) -> Self {
        let mut told =
            Self { queue: json!([]), order: json!([]), beside: json!([]), frames: json!({}), nodes: json!({}) };
        // Whoever is meant by a preview that names nobody.
        let mut last = (String::new(), String::new());
        let mut ended: Option<String> = None;
        let mut states: std::collections::HashMap<String, String> = std::collections::HashMap::new();
        for one in all {
            match one {
                Heard::Cut => push(&mut told.beside, json!("cut")),
                Heard::Binary(event, picture, metadata) => {
                    told.step(&last.0, &last.1, json!({"preview": event, "picture": picture, "metadata": metadata}));
                }
                Heard::Text(message) => {
                    let data = &message["data"];
                    let prompt = data["prompt_id"].as_str().unwrap_or_default().to_string();
                    let node = data["node"].as_str().unwrap_or_default().to_string();
                    if !prompt.is_empty() && !told.order.as_array().is_some_and(|known| known.contains(&json!(prompt)))
                    {
                        push(&mut told.order, json!(prompt));
                    }
                    match one.kind() {
                        "status" if data.get("sid").is_some() => push(&mut told.beside, message.clone()),
                        "status" => {
                            let length = &data["status"]["exec_info"]["queue_remaining"];
                            if told.queue.as_array().and_then(|known| known.last()) != Some(length) {
                                push(&mut told.queue, length.clone());
                            }
                            if let Some(prompt) = ended.take() {
                                push(&mut told.frames[prompt], json!("status"));
                            }
                        }
                        "progress_state" => {
                            for (id, state) in data["nodes"].as_object().into_iter().flatten() {
                                let now = state["state"].as_str().unwrap_or_default().to_string();
                                if states.insert(format!("{prompt} {id}"), now.clone()).as_ref() != Some(&now) {
                                    let (display, parent) = (&state["display_node_id"], &state["parent_node_id"]);
                                    let max = if now == "finished" { state["max"].clone() } else { Value::Null };
                                    let entry = json!({"state": now, "max": max, "display": display, "parent": parent});
                                    push(&mut told.nodes[format!("{prompt} {id}")], entry);
                                }
                            }
                        }
                        "progress" => {
                            told.step(&prompt, &node, json!({"max": data["max"]}));
                            last = (prompt, node);
                        }
                        "executing" | "executed" if !prompt.is_empty() && !node.is_empty() => {
                            push(&mut told.nodes[format!("{prompt} {node}")], message.clone());
                            last = (prompt, node);
                        }
                        kind if !prompt.is_empty() => {
                            if ["execution_success", "execution_error", "execution_interrupted"].contains(&kind) {
                                ended = Some(prompt.clone());
                            }
                            push(&mut told.frames[prompt], message.clone());
                        }
                        _ => push(&mut told.beside, message.clone()),
                    }
                }
            }
        }
        told
    }

    /// A step that was told just now is not told again.
    fn step(&mut self, prompt: &str, node: &str, step: Value) {
        let told = &mut self.nodes[format!("{prompt} {node}")];
        // A preview and its step come in an order that depends on the kind of preview.
        let run =
            told.as_array().map_or(0, |told| told.iter().rev().take_while(|one| one.get("step").is_some()).count());
        let known = told.as_array().is_some_and(|told| told[told.len() - run..].iter().any(|one| one["step"] == step));
        if !known {
            push(told, json!({"step": step}));
        }
    }
}

fn push(list: &mut Value, one: Value) {
    match list {
        Value::Array(list) => list.push(one),
        other => *other = json!([one]),
    }
}
