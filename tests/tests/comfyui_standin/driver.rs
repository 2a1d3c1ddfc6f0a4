//! Plays the client's side of a recorded conversation against the running program, and notes every difference.
//!
//! Before a request everything that was recorded before it must have been heard. What the recording server had done
//! before is done first: numbers that were given, results that were known, files that lay on disk.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::compare;
use crate::heard::{self, Heard};
use crate::http::{Answer, ask};
use crate::program::{CEILING, Program, Socket};
use crate::uploads;

/// A recording of `tests/golden/data/comfyui`.
pub fn recording(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data/comfyui").join(format!("{name}.json"));
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_slice(&bytes).expect("a recording is JSON")
}

/// Plays it; gives the differences.
pub async fn play(recording: &Value) -> Vec<String> {
    let events = recording["events"].as_array().expect("a recording has events");
    let mut play = Play::start().await;
    play.prepare(events).await;
    for (at, event) in events.iter().enumerate() {
        play.event(at, event).await;
    }
    play.finish().await
}

struct Play {
    program: Program,
    /// By label: the socket, and what was recorded for it.
    sockets: Vec<(String, (Socket, Vec<Heard>))>,
    /// The answer to the last request, and its place in the recording.
    answer: Option<(usize, std::io::Result<Answer>)>,
    asked: Value,
    differences: Vec<String>,
}

impl Play {
    async fn start() -> Self {
        let mut program = Program::new();
        program.launch().await;
        Self { program, sockets: Vec::new(), answer: None, asked: Value::Null, differences: Vec::new() }
    }

    /// What the recording server had done before.
    async fn prepare(&mut self, events: &[Value]) {
        if let Some((graph, cached)) = first_known(events) {
            let mut known: Map<String, Value> =
                graph.into_iter().filter(|(id, _)| cached.contains(&json!(id))).collect();
            let output = |node: &Value| node["class_type"].as_str().is_some_and(|class| class.starts_with("Save"));
            if !known.values().any(output) {
                let all: Vec<String> = known.keys().cloned().collect();
                for id in all {
                    known.insert(
                        format!("look at {id}"),
                        json!({"class_type": "PreviewAny", "inputs": {"source": [id, 0]}}),
                    );
                }
            }
            // A number of its own uses up none of the server's.
            let answer = self.program.post("/prompt", &json!({"prompt": known, "number": 0})).await;
            let id = answer.json()["prompt_id"].as_str().expect("what was known can be run").to_string();
            let until = Instant::now() + CEILING;
            while self.program.get(&format!("/history/{id}")).await.is_ok_and(|answer| answer.json() == json!({})) {
                assert!(Instant::now() < until, "what was known was not run");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.program.post("/history", &json!({"clear": true})).await;
        }
        for _ in 0..numbers_before(events) {
            self.program.post("/prompt", &json!([])).await;
        }
        for (subfolder, name) in files_before(events) {
            let file = self.program.output(&subfolder, &name);
            if !file.exists() {
                std::fs::create_dir_all(file.parent().expect("a file lies in a folder")).expect("a folder");
                std::fs::write(file, b"").expect("a file");
            }
        }
    }

    async fn event(&mut self, at: usize, event: &Value) {
        let socket = event["socket"].as_str();
        if let Some(connect) = event.get("ws_connect") {
            self.settle(at).await;
            self.connect(connect).await;
        } else if let Some(request) = event.get("http_request") {
            self.settle(at).await;
            self.answer = Some((at, self.request(request).await));
            self.asked = request.clone();
        } else if let Some(response) = event.get("http_response") {
            self.compare_answer(at, response);
        } else if event.get("http_failure").is_some() {
            if !matches!(self.answer.take(), Some((_, Err(_)))) {
                self.differences.push(format!("event {at}: the connection was recorded to fail"));
            }
        } else if let (Some(message), Some(label)) = (event.get("ws_text"), socket) {
            if event["dir"] == "client->server" {
                let text = message.to_string();
                self.socket(label).0.send(text).await;
            } else {
                self.socket(label).1.push(Heard::Text(message.clone()));
            }
        } else if let (Some(frame), Some(label)) = (event.get("ws_binary"), socket) {
            self.socket(label).1.push(Heard::recorded(frame));
        } else if let (Some(closed), Some(label)) = (event.get("ws_closed"), socket) {
            if closed["code"].is_null() {
                self.settle(at).await;
                self.socket(label).0.close().await;
            } else {
                self.socket(label).1.push(Heard::Cut);
            }
        } else if let Some(note) = event["note"].as_str() {
            self.settle(at).await;
            self.outside(note).await;
        } else {
            panic!("event {at} is of no known kind: {event}");
        }
    }

    fn socket(&mut self, label: &str) -> &mut (Socket, Vec<Heard>) {
        &mut self.sockets.iter_mut().find(|(known, _)| known == label).expect("the socket was opened").1
    }

    /// Something done outside the protocol.
    async fn outside(&mut self, note: &str) {
        if note.contains("SIGKILL") || note.contains("SIGINT") {
            let clean = note.contains("SIGINT");
            self.program.signal(if clean { Signal::INT } else { Signal::KILL });
            assert_eq!(self.program.ended().await.code(), clean.then_some(0), "SIGINT ends it with code 0");
            assert_eq!(self.program.folder("temp").exists(), !clean, "the temp folder goes with a clean stop only");
        } else if note.contains("started again") {
            self.program.launch().await;
        } else if note.contains("deleted from disk") {
            let last = self.sockets.iter().flat_map(|(_, (_, recorded))| recorded.iter()).rev().find_map(|heard| {
                let Heard::Text(message) = heard else { return None };
                message["data"]["output"]["images"][0]["filename"].as_str().map(str::to_string)
            });
            let file = self.program.output("", &last.expect("a file was named before"));
            std::fs::remove_file(&file).expect("the file lies there");
        } else {
            assert!(note.contains("answers 200 again"), "nobody knows how to do this: {note}");
        }
    }

    async fn connect(&mut self, connect: &Value) {
        let label = connect["socket"].as_str().expect("a socket has a label").to_string();
        let path = connect["path"].as_str().expect("a socket has a path");
        self.sockets.push((label, (Socket::open(self.program.address, path).await, Vec::new())));
    }

    async fn request(&self, request: &Value) -> std::io::Result<Answer> {
        let text = |name: &str| request[name].as_str();
        let own = format!("127.0.0.1:{}", self.program.address.port());
        let mut headers: Vec<(String, String)> = request["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_string()))
            .collect();
        for (_, value) in &mut headers {
            *value =
                value.replace("127.0.0.1:8188", &own).replace("localhost:8188", &own.replace("127.0.0.1", "localhost"));
        }
        let words = text("body_description").or_else(|| text("note").filter(|note| note.starts_with("file name ")));
        let body = match (request.get("json"), words, text("body_text")) {
            (Some(json), ..) => {
                headers.push(("Content-Type".to_string(), "application/json".to_string()));
                json.to_string().into_bytes()
            }
            (None, Some(words), _) => {
                let (kind, body) = uploads::described(words);
                headers.retain(|(name, _)| name != "Content-Type");
                headers.push(("Content-Type".to_string(), kind));
                body
            }
            (None, None, Some(body)) => body.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let (method, path) = (text("method").expect("a method"), text("path").expect("a path"));
        ask(self.program.address, method, path, &headers, &body).await
    }

    fn compare_answer(&mut self, at: usize, recorded: &Value) {
        let Some((asked, answer)) = self.answer.take() else {
            return self.differences.push(format!("event {at}: an answer without a request"));
        };
        let path = self.asked["path"].as_str().unwrap_or_default();
        let place = format!("event {asked} ({} {path})", self.asked["method"].as_str().unwrap_or_default());
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.differences.push(format!("{place}: {error}")),
        };
        let mut told = json!({
            "status": answer.status,
            "content_type": answer.header("content-type").unwrap_or_default(),
        });
        let mut wanted = json!({"status": recorded["status"], "content_type": recorded["content_type"]});
        for (name, value) in recorded["headers"].as_object().into_iter().flatten() {
            // The tag is made from the time of the file.
            wanted[name] = if name == "ETag" { json!("<text>") } else { value.clone() };
            told[name] = json!(answer.header(name));
        }
        if let Some(body) = recorded.get("json") {
            wanted["body"] = body.clone();
            told["body"] = answer.json();
        }
        if let Some(text) = recorded.get("text") {
            wanted["body"] = text.clone();
            told["body"] = json!(String::from_utf8_lossy(&answer.body));
        }
        if let Some(head) = recorded["body"]["head_hex"].as_str() {
            let length = answer.body.len().min(head.len() / 2);
            wanted["head"] = json!(head);
            told["head"] = json!(answer.body[..length].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
        // The same picture has another length from another encoder.
        let length = &recorded["body"]["length"];
        if length == 0 || (length.is_u64() && path.contains("type=input")) {
            wanted["length"] = length.clone();
            told["length"] = json!(answer.body.len());
        }
        compare::json(&place, &wanted, &told, &mut self.differences);
    }

    /// Waits until all sockets have heard what was recorded for them.
    async fn settle(&mut self, at: usize) {
        let until = Instant::now() + CEILING;
        for (label, (socket, recorded)) in &self.sockets {
            while !heard::caught_up(recorded, &socket.heard()) {
                if Instant::now() > until {
                    self.differences.push(format!("event {at}: socket {label} did not hear what was recorded"));
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    async fn finish(mut self) -> Vec<String> {
        self.settle(usize::MAX).await;
        for (label, (socket, recorded)) in &self.sockets {
            heard::compare(&format!("socket {label}"), recorded, &socket.heard(), &mut self.differences);
        }
        self.differences
    }
}

fn submissions(events: &[Value]) -> impl Iterator<Item = &Value> {
    let requests = events.iter().filter_map(|event| event.get("http_request"));
    requests.filter(|request| request["method"] == "POST" && request["path"] == "/prompt")
}

/// The first graph that was submitted with an id, and the nodes of it whose result was known already.
fn first_known(events: &[Value]) -> Option<(Map<String, Value>, Vec<Value>)> {
    let first = submissions(events).find(|request| request["json"]["prompt_id"].is_string())?;
    let id = &first["json"]["prompt_id"];
    let told = events.iter().filter_map(|event| event.get("ws_text").map(|text| (&text["type"], &text["data"])));
    let records = events.iter().filter_map(|event| event["http_response"]["json"][id.as_str()?].as_object());
    let recorded = records.flat_map(|record| record["status"]["messages"].as_array()).flatten();
    let nodes = told
        .chain(recorded.map(|message| (&message[0], &message[1])))
        .find(|(kind, data)| *kind == "execution_cached" && data["prompt_id"] == *id)
        .and_then(|(_, data)| data["nodes"].as_array())
        .filter(|nodes| !nodes.is_empty())?;
    Some((first["json"]["prompt"].as_object()?.clone(), nodes.clone()))
}

/// How many numbers were given before: the first number that is told, less the submissions that used up one until then.
fn numbers_before(events: &[Value]) -> u64 {
    let mut used = 0;
    for event in events {
        if let Some(request) = submissions(std::slice::from_ref(event)).next() {
            let body = request["body_text"].as_str().map(|text| serde_json::from_str(text).unwrap_or(Value::Null));
            let body = body.unwrap_or_else(|| request["json"].clone());
            used += u64::from(!body.is_null() && body.get("number").is_none());
        }
        if let Some(number) = event["http_response"]["json"]["number"].as_u64() {
            return (number + 1).saturating_sub(used);
        }
    }
    0
}

/// For every series of output files that does not begin with 1: the file before the first.
fn files_before(events: &[Value]) -> Vec<(String, String)> {
    let mut seen: HashMap<(String, String), ()> = HashMap::new();
    let mut before = Vec::new();
    for event in events {
        items(&event["ws_text"]["data"]["output"], &mut |item| note_file(item, &mut seen, &mut before));
        items(&event["http_response"]["json"], &mut |item| note_file(item, &mut seen, &mut before));
    }
    before
}

fn note_file(item: &Value, seen: &mut HashMap<(String, String), ()>, before: &mut Vec<(String, String)>) {
    let (Some(name), Some(subfolder)) = (item["filename"].as_str(), item["subfolder"].as_str()) else { return };
    let Some((stem, rest)) = name.rsplit_once('_').filter(|(_, rest)| rest.len() > 5).or_else(|| {
        let (stem, tail) = name.rsplit_once("_.")?;
        let (stem, digits) = stem.rsplit_once('_')?;
        name.get(stem.len() + 1..).filter(|_| !digits.is_empty() && !tail.is_empty()).map(|rest| (stem, rest))
    }) else {
        return;
    };
    let Some(number) = rest.get(..5).and_then(|digits| digits.parse::<u32>().ok()) else { return };
    if item["type"] == "output" && seen.insert((subfolder.to_string(), stem.to_string()), ()).is_none() && number > 1 {
        before.push((subfolder.to_string(), format!("{stem}_{:05}{}", number - 1, &rest[5..])));
    }
}

fn items(value: &Value, each: &mut impl FnMut(&Value)) {
    match value {
        Value::Object(members) if members.contains_key("filename") => each(value),
        Value::Object(members) => members.values().for_each(|value| items(value, each)),
        Value::Array(values) => values.iter().for_each(|value| items(value, each)),
        _ => {}
    }
}
