//! Cases: a recording, and what is expected of one submission in it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::case::folder;

/// One case.
pub struct Case {
    /// `RECORDING`, or `RECORDING/N` for an entry of several, with what is special about it.
    pub name: String,
    pub recording: Value,
    pub expected: Expected,
}

/// A recording that yields no case.
pub struct NotCompared {
    pub recording: String,
    pub reason: String,
}

/// What is expected.
pub enum Expected {
    /// What the readiness poll yields.
    System(Map<String, Value>),
    /// An entry of the list.
    Prompt(Map<String, Value>),
}

impl Case {
    /// Which submission of the recording it is about, counted from 0.
    pub fn submit(&self) -> Option<usize> {
        match &self.expected {
            Expected::Prompt(entry) => entry.get("submit")?.as_u64()?.try_into().ok(),
            Expected::System(_) => None,
        }
    }

    /// Whether the prompt is cancelled while it runs.
    pub fn is_cancelled(&self) -> bool {
        match &self.expected {
            Expected::Prompt(entry) => entry.get("act").is_some_and(|act| act == "cancel_while_running"),
            Expected::System(_) => false,
        }
    }

    /// Whether a socket alone cannot tell how it ends: it breaks on the way to success, or a file is gone.
    pub fn beyond_the_socket(&self) -> bool {
        let Expected::Prompt(expected) = &self.expected else { return false };
        let events = self.recording["events"].as_array();
        let broke = events.into_iter().flatten().any(|event| event.get("ws_closed").is_some());
        (broke && expected.get("outcome").is_some_and(|outcome| outcome == "ok") && expected["submit"] == 0)
            || expected.get("class").is_some_and(|class| class == "output_lost")
    }
}

/// Every case, and recordings that yield none.
pub fn cases() -> Result<(Vec<Case>, Vec<NotCompared>)> {
    let (recordings, expectations) = read()?;
    let (mut cases, mut left) = (Vec::new(), Vec::new());
    for (name, recording) in recordings {
        let expected = expectations.get(&name);
        let kind = expected.and_then(|expected| expected["kind"].as_str()).unwrap_or_default();
        match kind {
            "conversation" => {}
            "server-fact" => {
                left.push(NotCompared {
                    recording: name,
                    reason: "a fact of the server: held by the live stand-in's own tests".into(),
                });
                continue;
            }
            "uncallable" => {
                left.push(NotCompared { recording: name, reason: "a use that the client never makes".into() });
                continue;
            }
            "" => {
                left.push(NotCompared { recording: name, reason: "nothing is said of what is expected".into() });
                continue;
            }
            other => bail!("{name} is of the kind `{other}`, which nobody knows"),
        }
        let Some(expected) = expected else { continue };
        let before = cases.len();
        if let Some(system) = expected.get("system") {
            let system = system.as_object().with_context(|| format!("`system` of {name} is no object"))?.clone();
            cases.push(Case { name: name.clone(), recording: recording.clone(), expected: Expected::System(system) });
        }
        let entries = expected["prompts"].as_array().cloned().unwrap_or_default();
        for (place, entry) in entries.iter().enumerate() {
            let entry = entry.as_object().with_context(|| format!("entry {place} of {name} is no object"))?.clone();
            let name = if entries.len() == 1 { name.clone() } else { format!("{name}/{place}") };
            cases.push(Case { name, recording: recording.clone(), expected: Expected::Prompt(entry) });
        }
        if cases.len() == before {
            left.push(NotCompared { recording: name, reason: "there is nothing for a client to conclude".into() });
        }
    }
    if cases.is_empty() {
        bail!("{} holds no cases", folder().join("comfyui").display());
    }
    Ok((cases, left))
}

/// Cases of one recording that can be had in one conversation: of each submission the first entry. Recordings with one
/// submission yield none.
pub fn together(cases: &[Case]) -> Vec<Vec<&Case>> {
    let mut groups: BTreeMap<&str, BTreeMap<usize, &Case>> = BTreeMap::new();
    for case in cases {
        let Some(submit) = case.submit() else { continue };
        let recording = case.name.split('/').next().unwrap_or_default();
        groups.entry(recording).or_default().entry(submit).or_insert(case);
    }
    groups.into_values().filter(|group| group.len() > 1).map(|group| group.into_values().collect()).collect()
}

/// Recordings by the name of their file, and the list of expectations, which is the file without events.
fn read() -> Result<(BTreeMap<String, Value>, Map<String, Value>)> {
    let folder = folder().join("comfyui");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("no recordings in {}", folder.display()))?;
    let (mut recordings, mut expectations) = (BTreeMap::new(), Map::new());
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let json: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if json["events"].is_array() {
            recordings.insert(name, json);
        } else if let Value::Object(members) = json {
            expectations.extend(members.into_iter().filter(|(_, expected)| expected["kind"].is_string()));
        }
    }
    for name in expectations.keys() {
        if !recordings.contains_key(name) {
            bail!("something is expected of {name}, which is not recorded in {}", folder.display());
        }
    }
    Ok((recordings, expectations))
}
