//! What follows from a recording as a whole: which message belongs to which submission, where each one ends and with
//! which record, when the server was down, and which routes it has.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::recording::{Recording, Request, Response, What};

/// A recording, read.
#[derive(Debug)]
pub struct Tape {
    pub recording: Recording,
    pub submissions: Vec<Submission>,
    /// By event: the submission it belongs to.
    pub owner: Vec<Option<usize>>,
    /// Where the server dies, and the event before which it is back, if ever.
    pub deaths: BTreeMap<usize, Option<usize>>,
    /// Where the server is not up yet at the beginning: the event before which it is, if ever.
    pub late: Option<Option<usize>>,
    /// What routes answer that the server does not have.
    pub no_jobs: Option<Response>,
    pub no_cancel: Option<Response>,
}

/// One POST `/prompt`.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Places of the request and its answer.
    pub request: usize,
    pub answer: Option<usize>,
    /// What it is recognised by.
    pub key: Key,
    pub graph: Value,
    /// As it is written in the recording.
    pub id: String,
    pub client: Option<String>,
    pub number: Value,
    pub extra_data: Value,
    /// Whether the server queued it.
    pub accepted: bool,
    /// The event with which it is over.
    pub end: Option<usize>,
    /// Whether the server stopped it before its end.
    pub interrupted: bool,
    /// After this event the stand-in waits for the request for interruption, when it is to be cancelled.
    pub hold: Option<usize>,
    /// The recorded record.
    pub record: Option<Value>,
    /// Answers to `/history/{id}` between the end and the record: places.
    pub early: Vec<usize>,
    /// Whether `/history` was asked for after the end and never had it.
    pub unrecorded: bool,
    /// Recorded answers of `/api/jobs/{id}` by their status.
    pub jobs: BTreeMap<String, Value>,
    /// Whether any message tells of it.
    pub told: bool,
}

/// What a submission is recognised by.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// Nodes without what a client may change or leave out.
    Graph(Value),
    /// A body that is not JSON.
    Text(String),
}

impl Key {
    /// Of a body.
    pub fn of(json: Option<&Value>, text: &str) -> Self {
        let parsed = json.cloned().or_else(|| serde_json::from_str(text).ok());
        parsed.map_or_else(|| Self::Text(text.into()), |json| Self::Graph(plain(&json["prompt"])))
    }
}

/// A graph without `filename_prefix` and `_meta`, numbers as numbers.
fn plain(graph: &Value) -> Value {
    let Value::Object(nodes) = graph else { return graph.clone() };
    let mut plain = Map::new();
    for (id, node) in nodes {
        let mut node = node.clone();
        if let Some(node) = node.as_object_mut() {
            node.remove("_meta");
            if let Some(inputs) = node.get_mut("inputs").and_then(Value::as_object_mut) {
                inputs.remove("filename_prefix");
            }
        }
        plain.insert(id.clone(), numbers(node));
    }
    Value::Object(plain)
}

/// `1` and `1.0` are the same number.
fn numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        Value::Array(items) => Value::Array(items.into_iter().map(numbers).collect()),
        Value::Object(members) => Value::Object(members.into_iter().map(|(name, v)| (name, numbers(v))).collect()),
        other => other,
    }
}

impl Tape {
    pub fn new(recording: Recording) -> Self {
        let submissions = submissions(&recording);
        let owner = vec![None; recording.events.len()];
        let mut tape =
            Self { submissions, owner, deaths: BTreeMap::new(), late: None, no_jobs: None, no_cancel: None, recording };
        tape.find_owners();
        tape.find_records();
        tape.find_ends();
        tape.find_deaths();
        tape.find_routes();
        tape
    }

    pub fn what(&self, event: usize) -> &What {
        &self.recording.events[event].what
    }

    pub fn len(&self) -> usize {
        self.recording.events.len()
    }

    /// The submission whose request is this event.
    pub fn submission_at(&self, event: usize) -> Option<usize> {
        self.submissions.iter().position(|submission| submission.request == event)
    }

    /// The submission whose answer is this event.
    pub fn answered_at(&self, event: usize) -> Option<usize> {
        self.submissions.iter().position(|submission| submission.answer == Some(event))
    }

    pub fn response(&self, event: usize) -> Option<&Response> {
        match self.what(event) {
            What::Response { response, .. } => Some(response),
            _ => None,
        }
    }

    /// The place of what was answered to a request.
    pub fn answer_of(&self, request: usize) -> Option<usize> {
        answer_of(&self.recording, request)
    }

    /// The label under which a client was connected before this event, and was not closed.
    pub fn open_label(&self, client: &str, before: usize) -> Option<String> {
        let mut open = None;
        for event in &self.recording.events[..before] {
            match &event.what {
                What::Connect { label, client: who } if who == client => open = Some(label.clone()),
                What::Closed { label, .. } if open.as_ref() == Some(label) => open = None,
                _ => {}
            }
        }
        open
    }

    /// Every client id under which a socket was opened.
    pub fn clients(&self) -> Vec<String> {
        let mut clients: Vec<String> = Vec::new();
        for event in &self.recording.events {
            if let What::Connect { client, .. } = &event.what
                && !clients.contains(client)
            {
                clients.push(client.clone());
            }
        }
        clients
    }

    /// By prompt id; of several submissions with one id, the next begins when the one before is over.
    fn find_owners(&mut self) {
        let mut current: BTreeMap<String, usize> = BTreeMap::new();
        let mut over = vec![false; self.submissions.len()];
        let mut on_label: BTreeMap<String, usize> = BTreeMap::new();
        for event in 0..self.len() {
            let (label, id, kind, node_is_null) = match self.what(event) {
                What::Text { label, frame } => {
                    let id = frame["data"]["prompt_id"].as_str().map(str::to_string);
                    (label.clone(), id, kind_of(self.what(event)).to_string(), frame["data"]["node"].is_null())
                }
                What::Binary { label, binary } => {
                    let id = binary.metadata.as_ref().and_then(|metadata| metadata["prompt_id"].as_str());
                    (label.clone(), id.map(str::to_string), String::new(), false)
                }
                _ => continue,
            };
            // Previews, and the node that is told on reconnecting, do not say of which prompt.
            if id.is_none() && matches!(kind.as_str(), "" | "executing") {
                self.owner[event] = on_label.get(&label).copied();
            }
            let Some(id) = id else { continue };
            let is_null = kind == "executing" && node_is_null;
            let held = current.get(&id).copied();
            let next = |after: Option<usize>| {
                (0..self.submissions.len()).find(|&k| {
                    let submission = &self.submissions[k];
                    submission.id == id
                        && submission.accepted
                        && submission.request < event
                        && after.is_none_or(|after| k > after)
                })
            };
            let owner = match held {
                Some(k) if !over[k] || is_null => Some(k),
                Some(k) => next(Some(k)).or(Some(k)),
                None => next(None),
            };
            let Some(k) = owner else { continue };
            // A death in between: what is told afterwards is of the submission after it.
            let k = if kind == "execution_start" && held == Some(k) && self.submissions[k].told {
                next(Some(k)).unwrap_or(k)
            } else {
                k
            };
            current.insert(id, k);
            on_label.insert(label, k);
            self.owner[event] = Some(k);
            self.submissions[k].told = true;
            if is_null || is_terminal(self.what(event)) {
                over[k] = true;
            }
        }
    }

    fn find_records(&mut self) {
        let terminal: Vec<Option<usize>> = (0..self.submissions.len()).map(|k| self.last(k, is_terminal)).collect();
        for event in 0..self.len() {
            let What::Request(request) = self.what(event) else { continue };
            let (request, Some(answer)) = (request.clone(), self.answer_of(event)) else { continue };
            let response = self.response(answer).cloned();
            if request.method == "GET" && (request.path == "/history" || request.path.starts_with("/history/")) {
                self.note_record(&request, event, answer, response.as_ref(), &terminal);
            } else if let Some(id) = request.path.strip_prefix("/api/jobs/")
                && let Some(job) = response.as_ref().and_then(Response::json)
                && let Some(status) = job["status"].as_str()
                && let Some(k) = self.latest(id, event)
            {
                self.submissions[k].jobs.insert(status.into(), job.clone());
            }
        }
    }

    fn note_record(
        &mut self,
        request: &Request,
        event: usize,
        answer: usize,
        response: Option<&Response>,
        terminal: &[Option<usize>],
    ) {
        let object = response.and_then(Response::json).and_then(Value::as_object).cloned().unwrap_or_default();
        for (id, record) in object.iter().filter(|(_, record)| record.is_object()) {
            let number = &record["prompt"][0];
            let of_number = (0..self.submissions.len()).rev().find(|&k| {
                let submission = &self.submissions[k];
                submission.id == *id
                    && submission.accepted
                    && submission.request < event
                    && submission.number == *number
            });
            if let Some(k) = of_number.or_else(|| self.latest(id, event)) {
                self.submissions[k].record = Some(record.clone());
                self.submissions[k].unrecorded = false;
                self.submissions[k].end.get_or_insert(answer);
            }
        }
        let Some(id) = request.path.strip_prefix("/history/") else { return };
        if let Some(k) = self.latest(id, event)
            && !object.contains_key(id)
            && self.submissions[k].record.is_none()
            && terminal[k].is_some_and(|at| at < event)
        {
            self.submissions[k].early.push(answer);
            self.submissions[k].unrecorded = self.over_null(k).is_some_and(|at| at < event);
        }
    }

    /// The last submission with this id before an event.
    fn latest(&self, id: &str, before: usize) -> Option<usize> {
        (0..self.submissions.len()).rev().find(|&k| {
            let submission = &self.submissions[k];
            submission.id == id && submission.accepted && submission.request < before
        })
    }

    fn last(&self, k: usize, is: impl Fn(&What) -> bool) -> Option<usize> {
        (0..self.len()).rev().find(|&event| self.owner[event] == Some(k) && is(self.what(event)))
    }

    /// The `executing` without a node.
    fn over_null(&self, k: usize) -> Option<usize> {
        self.last(k, |what| {
            matches!(what, What::Text { frame, .. }
                if frame["type"] == "executing" && frame["data"].get("node").is_some_and(Value::is_null))
        })
    }

    fn find_ends(&mut self) {
        for k in 0..self.submissions.len() {
            if !self.submissions[k].accepted {
                continue;
            }
            let terminal = self.last(k, is_terminal);
            let by_record = self.submissions[k].end;
            let end = self.over_null(k).or(terminal).or(by_record).or_else(|| self.drained(k));
            let interrupted = self.last(k, |what| kind_of(what) == "execution_interrupted").is_some()
                || self.submissions[k].record.as_ref().is_some_and(|record| {
                    let messages = record["status"]["messages"].as_array();
                    messages.and_then(|all| all.last()).is_some_and(|last| last[0] == "execution_interrupted")
                });
            let hold = self.hold(k);
            let submission = &mut self.submissions[k];
            submission.end = end;
            submission.interrupted = interrupted;
            submission.hold = hold;
        }
    }

    /// Nobody was told of its run: it is over when the queue is said to be empty.
    fn drained(&self, k: usize) -> Option<usize> {
        if self.submissions[k].told {
            return None;
        }
        let later = self.submissions[k].request..self.len();
        later.into_iter().find(|&event| {
            matches!(self.what(event), What::Text { frame, .. }
                if frame["type"] == "status" && frame["data"]["status"]["exec_info"]["queue_remaining"] == 0)
        })
    }

    /// The first message that lets a client compute progress above nothing, and lies before the interruption; else the
    /// last one before it.
    fn hold(&self, k: usize) -> Option<usize> {
        let own = |at: &usize| self.owner[*at] == Some(k);
        let stopped = || (0..self.len()).filter(own).find(|&at| kind_of(self.what(at)) == "execution_interrupted");
        let limit = (self.submissions[k].request..self.len())
            .find(|&at| self.interrupts(at, k))
            .or_else(stopped)
            .unwrap_or(self.len());
        let first = |is: &dyn Fn(&str, &Value) -> bool| {
            (0..limit).filter(own).find(|&at| match self.what(at) {
                What::Text { frame, .. } => is(kind_of(self.what(at)), &frame["data"]),
                _ => false,
            })
        };
        let above_nothing =
            |node: &Value| node["state"] == "finished" || node["value"].as_f64().is_some_and(|v| v > 0.0);
        first(&|kind, data| kind == "progress" && data["value"].as_f64().is_some_and(|value| value > 0.0))
            .or_else(|| {
                first(&|kind, data| {
                    let nodes = || data["nodes"].as_object().into_iter().flatten();
                    kind == "progress_state" && nodes().any(|(_, node)| above_nothing(node))
                })
            })
            .or_else(|| first(&|kind, _| kind == "executing"))
            .or_else(|| (0..limit).rev().find(own))
    }

    /// Whether this event asks the server to stop the submission.
    fn interrupts(&self, event: usize, k: usize) -> bool {
        let What::Request(request) = self.what(event) else { return false };
        let id = &self.submissions[k].id;
        let named = request.json.as_ref().is_none_or(|json| json["prompt_id"].is_null() || json["prompt_id"] == **id);
        let listed = || {
            request.json.as_ref().is_some_and(|json| {
                json["job_ids"].as_array().is_some_and(|ids| ids.iter().any(|listed| listed == id.as_str()))
            })
        };
        request.method == "POST"
            && (request.path == "/interrupt" && named
                || request.path == format!("/api/jobs/{id}/cancel")
                || request.path == "/api/jobs/cancel" && listed())
    }

    fn find_deaths(&mut self) {
        let mut doomed = false;
        let mut down = false;
        for event in 0..self.len() {
            match self.what(event) {
                What::Note(note) if !down => doomed = doomed || tells_of_death(note),
                What::Closed { code, .. } if !down && code.is_none_or(|code| code == 1006) => {
                    let by_client = code.is_none();
                    if (!by_client && (doomed || self.is_last_sign(event))) || self.refused_next(event) {
                        self.deaths.insert(event, self.back_after(event));
                        (doomed, down) = (false, true);
                    }
                }
                What::Failure { words, .. } if !down && (doomed || is_refusal(words)) => {
                    let back = self.back_after(event);
                    if self.deaths.is_empty() && !self.answered_before(event) {
                        self.late = Some(back);
                    } else {
                        self.deaths.insert(event, back);
                    }
                    (doomed, down) = (false, true);
                }
                What::Connect { .. } | What::Response { .. } => down = false,
                _ => {}
            }
        }
        if doomed && !down && self.len() > 0 {
            self.deaths.insert(self.len() - 1, None);
        }
    }

    fn answered_before(&self, event: usize) -> bool {
        self.recording.events[..event]
            .iter()
            .any(|event| matches!(event.what, What::Response { .. } | What::Connect { .. }))
    }

    /// Whether nothing is heard of the server after this event.
    fn is_last_sign(&self, event: usize) -> bool {
        !self.recording.events[event + 1..].iter().any(|event| {
            matches!(event.what, What::Response { .. } | What::Connect { .. } | What::Text { .. } | What::Binary { .. })
        })
    }

    /// Whether the next thing the client tried was refused.
    fn refused_next(&self, event: usize) -> bool {
        let later = self.recording.events[event + 1..].iter().map(|event| &event.what);
        later
            .filter(|what| matches!(what, What::Failure { .. } | What::Response { .. } | What::Connect { .. }))
            .map(|what| matches!(what, What::Failure { words, .. } if is_refusal(words)))
            .next()
            .unwrap_or(false)
    }

    /// The first event that shows the server up again: the request that was answered, or the connection.
    fn back_after(&self, event: usize) -> Option<usize> {
        (event + 1..self.len()).find(|&at| match self.what(at) {
            What::Connect { .. } => true,
            What::Request(_) => self.answer_of(at).is_some_and(|answer| self.response(answer).is_some()),
            _ => false,
        })
    }

    fn find_routes(&mut self) {
        let version = version(&self.recording.version);
        if version.is_some_and(|version| version < (0, 8, 0)) {
            self.no_jobs = Some(Response::of_text(404, "404: Not Found"));
        }
        if version.is_some_and(|version| version < (0, 26, 0)) {
            self.no_cancel = Some(Response::of_text(405, "405: Method Not Allowed"));
        }
        for event in 0..self.len() {
            let What::Request(request) = self.what(event).clone() else { continue };
            let Some(response) = self.answer_of(event).and_then(|answer| self.response(answer)) else { continue };
            let response = response.clone();
            let absent = matches!(response.status, 404 | 405) && response.json().is_none();
            if !absent || !(request.path == "/api/jobs" || request.path.starts_with("/api/jobs/")) {
                continue;
            }
            if request.method == "GET" {
                self.no_jobs = Some(response.clone());
            }
            if request.path.ends_with("/cancel") {
                self.no_cancel = Some(response.clone());
            }
        }
        if self.no_jobs.is_some() && self.no_cancel.is_none() {
            self.no_cancel = Some(Response::of_text(405, "405: Method Not Allowed"));
        }
    }
}

fn submissions(recording: &Recording) -> Vec<Submission> {
    let mut all = Vec::new();
    for (event, what) in recording.events.iter().map(|event| &event.what).enumerate() {
        let What::Request(request) = what else { continue };
        if request.method != "POST" || request.path != "/prompt" {
            continue;
        }
        let answer = answer_of(recording, event);
        let response = answer.and_then(|answer| match &recording.events[answer].what {
            What::Response { response, .. } => Some(response),
            _ => None,
        });
        let body = request.json.clone().unwrap_or_default();
        let answered = response.and_then(Response::json).cloned().unwrap_or_default();
        let id = answered["prompt_id"].as_str().or(body["prompt_id"].as_str()).unwrap_or_default().to_string();
        // Without an answer, what was told or asked later says whether it was queued.
        let accepted = response.map_or_else(|| mentioned(recording, event, &id), |response| response.status == 200);
        all.push(Submission {
            request: event,
            answer,
            key: Key::of(request.json.as_ref(), request.text.as_deref().unwrap_or_default()),
            graph: body["prompt"].clone(),
            client: body["client_id"].as_str().filter(|client| !client.is_empty()).map(str::to_string),
            number: answered["number"].clone(),
            extra_data: body["extra_data"].clone(),
            accepted: accepted && !id.is_empty(),
            id,
            end: None,
            interrupted: false,
            hold: None,
            record: None,
            early: Vec::new(),
            unrecorded: false,
            jobs: BTreeMap::new(),
            told: false,
        });
    }
    all
}

/// Whether a message or a successful answer after this event, and before the id is used again, knows the prompt.
fn mentioned(recording: &Recording, event: usize, id: &str) -> bool {
    let again = |what: &What| matches!(what, What::Request(Request { path, json: Some(json), .. }) if path == "/prompt" && json["prompt_id"] == id);
    recording.events[event + 1..].iter().map(|event| &event.what).take_while(|what| !again(what)).any(|what| match what
    {
        What::Text { frame, .. } => frame["data"]["prompt_id"] == id,
        What::Response { response, .. } if response.status == 200 => {
            response.json().is_some_and(|json| json["id"] == id || json.get(id).is_some())
        }
        _ => false,
    })
}

fn answer_of(recording: &Recording, request: usize) -> Option<usize> {
    (request + 1..recording.events.len()).find(|&at| match recording.events[at].what {
        What::Response { to, .. } => to == request,
        What::Failure { to, .. } => to == Some(request),
        _ => false,
    })
}

/// The type of a text frame.
pub fn kind_of(what: &What) -> &str {
    match what {
        What::Text { frame, .. } => frame["type"].as_str().unwrap_or_default(),
        _ => "",
    }
}

/// Whether a frame says that its prompt is over. A blocked branch also sends an error, and its prompt goes on.
fn is_terminal(what: &What) -> bool {
    let What::Text { frame, .. } = what else { return false };
    match kind_of(what) {
        "execution_success" | "execution_interrupted" => true,
        "execution_error" => frame["data"]["exception_type"] != "ExecutionBlocked",
        _ => false,
    }
}

fn is_refusal(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("refused") || words.contains("cannot connect") || words.contains("connect call failed")
}

/// A signal, or a word for the end of the process.
fn tells_of_death(note: &str) -> bool {
    let words: Vec<String> = note.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect();
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let back = has(&["start", "started", "starts", "restart", "restarted", "restarts", "again"]);
    !back
        && (has(&[
            "sigkill", "sigint", "sigterm", "sighup", "sigsegv", "sigabrt", "kill", "killed", "dies", "died",
            "crashes", "crashed",
        ]) || (has(&["server", "process"]) && has(&["stopped", "stops", "terminated", "exits", "exited"])))
}

/// `0.33.0` as numbers.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}
