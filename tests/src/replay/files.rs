//! Which files there are: written by nodes that ran, gone where the recording says so.

use std::collections::BTreeMap;

use serde_json::Value;

use super::recording::{Body, Response, What};
use super::tape::Tape;

/// Type, subfolder and name of a file.
pub type Name = (String, String, String);

/// What a recording says of files.
#[derive(Debug, Default)]
pub struct Files {
    /// Events at which a file came into being (true) or went (false).
    changes: BTreeMap<Name, Vec<(usize, bool)>>,
    /// Recorded looks at it: places of the answers.
    looks: BTreeMap<Name, Vec<usize>>,
}

/// What to answer to `/view`.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// This recorded answer.
    Recorded(usize),
    Bytes,
    Missing,
}

impl Files {
    pub fn new(tape: &Tape) -> Self {
        let mut files = Self::default();
        let mut latest: Vec<Name> = Vec::new();
        for (k, submission) in tape.submissions.iter().enumerate() {
            files.of_record(tape, k, submission.request);
        }
        for event in 0..tape.len() {
            match tape.what(event) {
                What::Text { frame, .. } if frame["type"] == "executed" => {
                    let names = names(&frame["data"]["output"]);
                    let cached = tape.owner[event].is_some_and(|k| cached(tape, k).contains(&frame["data"]["node"]));
                    for name in &names {
                        let changes = files.changes.entry(name.clone()).or_default();
                        if !cached {
                            changes.push((event, true));
                        }
                    }
                    latest = names.into_iter().filter(|(kind, ..)| kind == "output").collect();
                }
                What::Response { response, .. } => {
                    let record = response.json().and_then(Value::as_object).and_then(|object| object.values().next());
                    let of_record = record.map(|record| names(&record["outputs"])).unwrap_or_default();
                    let of_record: Vec<Name> = of_record.into_iter().filter(|(kind, ..)| kind == "output").collect();
                    if !of_record.is_empty() {
                        latest = of_record;
                    }
                }
                What::Note(note) if tells_of_deletion(note) => {
                    let known: Vec<Name> =
                        files.changes.keys().filter(|(_, _, name)| note.contains(name.as_str())).cloned().collect();
                    for name in if known.is_empty() { &latest } else { &known } {
                        files.changes.entry(name.clone()).or_default().push((event, false));
                    }
                }
                What::Request(request) if request.path == "/view" => {
                    if let Some(answer) = tape.answer_of(event) {
                        files.looks.entry(asked(&request.query)).or_default().push(answer);
                    }
                }
                _ => {}
            }
        }
        files.changes.values_mut().for_each(|changes| changes.sort_unstable());
        files
    }

    /// Files of a record whose making nobody was told.
    fn of_record(&mut self, tape: &Tape, k: usize, at: usize) {
        let Some(outputs) = tape.submissions[k].record.as_ref().and_then(|record| record["outputs"].as_object()) else {
            return;
        };
        let told: Vec<&Value> = (0..tape.len())
            .filter(|&event| tape.owner[event] == Some(k))
            .filter_map(|event| match tape.what(event) {
                What::Text { frame, .. } if frame["type"] == "executed" => Some(&frame["data"]["node"]),
                _ => None,
            })
            .collect();
        let cached = cached(tape, k);
        for (node, output) in outputs {
            let node = Value::from(node.as_str());
            for name in names(output) {
                let changes = self.changes.entry(name).or_default();
                if !told.contains(&&node) && !cached.contains(&node) {
                    changes.push((at, true));
                }
            }
        }
    }

    /// What `/view` answers when everything before `now` has been played. `since`: the event of the submission that was
    /// made last; `times`: how often it was asked before.
    pub fn look(&self, name: &Name, now: usize, since: usize, times: usize, tape: &Tape) -> Found {
        let none = Vec::new();
        let changes = self.changes.get(name);
        let all = changes.unwrap_or(&none);
        let state = all.iter().rev().find(|(at, _)| *at < now);
        let from = state.map_or(0, |(at, _)| *at);
        let until = all.iter().find(|(at, _)| *at >= now).map_or(usize::MAX, |(at, _)| *at);
        let looks: Vec<usize> = self.looks.get(name).into_iter().flatten().copied().collect();
        let here: Vec<usize> = looks.into_iter().filter(|&at| at >= from && at < until).collect();
        // The looks at the results of this submission, until the next is made.
        let next = tape.submissions.iter().map(|submission| submission.request).find(|&request| request >= now);
        let own: Vec<usize> =
            here.iter().copied().filter(|&at| at > since && next.is_none_or(|next| at < next)).collect();
        let before = || here.iter().rev().find(|&&at| at <= since);
        let recorded = own.get(times.min(own.len().saturating_sub(1))).or_else(before);
        if let Some(&answer) = recorded
            && tape.response(answer).is_some()
        {
            return Found::Recorded(answer);
        }
        match (changes, state) {
            (None, _) | (_, Some((_, false))) => Found::Missing,
            _ => Found::Bytes,
        }
    }
}

/// The file that a query of `/view` asks for.
pub fn asked(query: &BTreeMap<String, String>) -> Name {
    let part = |name: &str| query.get(name).cloned().unwrap_or_default();
    let kind = Some(part("type")).filter(|kind| !kind.is_empty()).unwrap_or_else(|| "output".into());
    (kind, part("subfolder"), part("filename"))
}

/// A few bytes for a file, or the bytes of which only the first are recorded.
pub fn content(name: &str, recorded: Option<&Response>) -> Vec<u8> {
    match recorded.map(|response| &response.body) {
        Some(Body::Bytes { head, length }) => {
            let mut bytes = head.clone();
            bytes.resize(*length.min(&MOST), 0);
            bytes
        }
        Some(Body::Text(text)) => text.clone().into_bytes(),
        Some(Body::Json(json)) => json.to_string().into_bytes(),
        _ => format!("what the file {name} holds is not recorded\n").into_bytes(),
    }
}

/// Longest body that is made up, in bytes.
const MOST: usize = 16 << 20;

/// Every file that an output names.
fn names(output: &Value) -> Vec<Name> {
    match output {
        Value::Object(members) => match members.get("filename").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => {
                let text = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
                let kind = Some(text("type")).filter(|kind| !kind.is_empty()).unwrap_or_else(|| "output".into());
                vec![(kind, text("subfolder"), name.into())]
            }
            _ => members.values().flat_map(names).collect(),
        },
        Value::Array(items) => items.iter().flat_map(names).collect(),
        _ => Vec::new(),
    }
}

/// The nodes of a prompt that did not run because their result was there.
fn cached(tape: &Tape, k: usize) -> Vec<Value> {
    let told = (0..tape.len()).filter(|&event| tape.owner[event] == Some(k)).find_map(|event| match tape.what(event) {
        What::Text { frame, .. } if frame["type"] == "execution_cached" => frame["data"]["nodes"].as_array().cloned(),
        _ => None,
    });
    told.unwrap_or_else(|| {
        let record = tape.submissions[k].record.as_ref();
        let messages = record.and_then(|record| record["status"]["messages"].as_array());
        let cached = messages.and_then(|all| all.iter().find(|message| message[0] == "execution_cached"));
        cached.and_then(|message| message[1]["nodes"].as_array().cloned()).unwrap_or_default()
    })
}

fn tells_of_deletion(note: &str) -> bool {
    let note = note.to_ascii_lowercase();
    let gone = ["delet", "remov", "unlink", "moved away", "wiped"].iter().any(|word| note.contains(word));
    gone && (note.contains("file") || note.contains('.') || note.contains("output"))
}
