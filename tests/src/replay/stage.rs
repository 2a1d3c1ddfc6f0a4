//! Where a replay stands: how far the recording has been played, which prompts are queued, run or are over, and which
//! sockets take whose place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Options;
use super::files::Files;
use super::frames;
use super::ids::{Pair, rewrite};
use super::recording::{Request, Response, What};
use super::tape::{Key, Tape};

/// What a socket is told to do.
#[derive(Debug)]
pub enum Said {
    Text(Value),
    Binary(Vec<u8>),
    /// End: with this code, or without a farewell.
    Drop(Option<u16>),
}

/// What a request is answered with.
#[derive(Debug)]
pub enum Reply {
    Response(Response),
    /// Nothing: the connection ends.
    Cut,
}

/// A connected socket.
pub struct Socket {
    number: u64,
    /// The client id it came with.
    client: String,
    /// The recorded sockets in whose place it stands.
    labels: BTreeSet<String>,
    /// Whether it asked for previews with metadata.
    pub metadata: bool,
    said: mpsc::UnboundedSender<Said>,
}

/// One submission in this replay.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The id it has here.
    pub id: String,
    /// Whether the client made it.
    pub own: bool,
    pub queued: bool,
    pub started: bool,
    pub over: bool,
    /// Taken from the queue, or dead with the server.
    pub gone: bool,
    /// Whether its interruption was asked for.
    pub stopping: bool,
    pub record: Option<Value>,
    /// Answers given between the end and the record.
    pub early: usize,
    node: Option<String>,
    outputs: Map<String, Value>,
    messages: Vec<Value>,
    /// In which order the prompts came to their end.
    pub place: usize,
}

impl Run {
    pub fn open(&self) -> bool {
        self.queued && !self.over && !self.gone
    }
}

/// The state of a replay.
pub struct Stage {
    pub tape: Tape,
    pub files: Files,
    pub options: Options,
    /// The next event.
    pub cursor: usize,
    pub up: bool,
    pub runs: Vec<Run>,
    pub sockets: Vec<Socket>,
    next_socket: u64,
    /// Submissions whose client waits for the answer.
    pub waiting: BTreeMap<usize, oneshot::Sender<Reply>>,
    /// How often each thing was asked for.
    pub asked: BTreeMap<String, usize>,
    /// What the client did that no client should, or that the recording has no answer to.
    pub surprises: Vec<String>,
    /// The submission made last.
    pub latest: Option<usize>,
    ended: usize,
    clients: BTreeSet<String>,
}

impl Stage {
    pub fn new(tape: Tape, options: Options) -> Self {
        let runs =
            tape.submissions.iter().map(|submission| Run { id: submission.id.clone(), ..Run::default() }).collect();
        let ours = |k: &usize| options.ours.as_ref().is_none_or(|ours| ours.contains(k));
        let connected = tape.clients();
        let mut clients: BTreeSet<String> = (0..tape.submissions.len())
            .filter(ours)
            .filter_map(|k| tape.submissions[k].client.clone())
            .filter(|client| connected.contains(client))
            .collect();
        if clients.is_empty() {
            clients = connected.into_iter().take(1).collect();
        }
        Self {
            files: Files::new(&tape),
            up: tape.late.is_none(),
            tape,
            options,
            cursor: 0,
            runs,
            sockets: Vec::new(),
            next_socket: 0,
            waiting: BTreeMap::new(),
            asked: BTreeMap::new(),
            surprises: Vec::new(),
            latest: None,
            ended: 0,
            clients,
        }
    }

    /// Whether the client is to make this submission.
    pub fn ours(&self, k: usize) -> bool {
        self.options.ours.as_ref().is_none_or(|ours| ours.contains(&k))
    }

    /// Whether a prompt of the client is queued or runs.
    pub fn busy(&self) -> bool {
        self.runs.iter().any(|run| run.own && run.open())
    }

    /// Whether a prompt is held back until its interruption is asked for.
    pub fn holding(&self) -> bool {
        self.options.hold.iter().any(|&k| {
            let (Some(run), Some(submission)) = (self.runs.get(k), self.tape.submissions.get(k)) else { return false };
            run.own && run.open() && !run.stopping && submission.hold.is_some_and(|hold| self.cursor > hold)
        })
    }

    // Sockets.

    /// A client connected. Returns the number of its socket.
    pub fn connect(&mut self, client: String, said: mpsc::UnboundedSender<Said>) -> u64 {
        self.next_socket += 1;
        let number = self.next_socket;
        let sid = if client.is_empty() { format!("socket-{number}") } else { client };
        let status = json!({"exec_info": {"queue_remaining": self.remaining()}});
        said.send(Said::Text(json!({"type": "status", "data": {"status": status, "sid": sid}}))).ok();
        // One registration a client id: the new socket takes over.
        for socket in self.sockets.iter_mut().filter(|socket| socket.client == sid) {
            socket.labels.clear();
        }
        self.sockets.push(Socket { number, client: sid, labels: BTreeSet::new(), metadata: false, said });
        for client in self.clients.clone() {
            if let Some(label) = self.tape.open_label(&client, self.cursor) {
                self.attach(&client, &label);
            }
        }
        number
    }

    pub fn disconnect(&mut self, number: u64) {
        self.sockets.retain(|socket| socket.number != number);
    }

    pub fn wants_metadata(&mut self, number: u64) {
        if let Some(socket) = self.sockets.iter_mut().find(|socket| socket.number == number) {
            socket.metadata = true;
        }
    }

    /// Lets the newest socket stand in a recorded one's place. False when there is none.
    pub fn attach(&mut self, client: &str, label: &str) -> bool {
        if self.sockets.iter().any(|socket| socket.labels.contains(label)) {
            return true;
        }
        let taken = |socket: &Socket| {
            socket.labels.iter().any(|held| self.tape.open_label(client, self.cursor).as_deref() == Some(held.as_str()))
        };
        let Some(at) = self.sockets.iter().rposition(|socket| !taken(socket)) else { return false };
        self.sockets[at].labels.insert(label.into())
    }

    /// Whether the client stands in for the one that the recording knows by this id.
    pub fn plays(&self, client: &str) -> bool {
        self.clients.contains(client)
    }

    fn say(&mut self, label: &str, said: impl Fn(&Socket) -> Said) {
        for socket in self.sockets.iter().filter(|socket| socket.labels.contains(label)) {
            socket.said.send(said(socket)).ok();
        }
    }

    fn say_to_all(&mut self, frame: &Value) {
        for socket in self.sockets.iter().filter(|socket| !socket.labels.is_empty()) {
            socket.said.send(Said::Text(frame.clone())).ok();
        }
    }

    // Submissions.

    /// The client submits. What it is answered comes over the channel.
    pub fn submit(&mut self, body: &[u8]) -> oneshot::Receiver<Reply> {
        let (send, receive) = oneshot::channel();
        let text = String::from_utf8_lossy(body);
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let key = Key::of(json.as_ref(), &text);
        let alike: Vec<usize> = (0..self.runs.len()).filter(|&k| self.tape.submissions[k].key == key).collect();
        let next = alike.iter().copied().find(|&k| {
            let ahead = self.tape.submissions[k].request >= self.cursor || !self.runs[k].queued;
            !self.runs[k].own && k >= self.options.from && ahead && (self.ours(k) || self.sent_again(k))
        });
        // What was refused would be refused again.
        let again = || {
            let refused = |k: &usize| self.runs[*k].own && !self.tape.submissions[*k].accepted;
            alike.iter().rev().copied().find(refused)
        };
        let Some(k) = next.or_else(again) else {
            let known =
                if alike.is_empty() { "does not know it" } else { "has been submitted as often as in the recording" };
            self.surprises.push(format!("a graph was submitted that {known}: {text:.300}"));
            send.send(Reply::Response(Response::of_text(500, "The recording has no such submission."))).ok();
            return receive;
        };
        while self.cursor <= self.tape.submissions[k].request {
            self.apply(self.cursor, false);
            self.cursor += 1;
        }
        self.waiting.insert(k, send);
        self.latest = Some(k);
        for name in ["prompt_id", "client_id"] {
            if json.as_ref().is_some_and(|json| !json[name].is_string()) {
                self.surprises.push(format!("a prompt was submitted without `{name}`"));
            }
        }
        let submission = &self.tape.submissions[k];
        let own = json.as_ref().and_then(|json| json["prompt_id"].as_str()).unwrap_or(&submission.id).to_string();
        self.runs[k] = Run { id: own, own: true, queued: submission.accepted, ..Run::default() };
        if !submission.accepted || submission.answer.is_none() {
            self.answer(k);
        }
        receive
    }

    /// Whether this submission sends once more what the client sent in vain.
    fn sent_again(&self, k: usize) -> bool {
        (0..k).any(|before| {
            let (now, before, run) = (&self.tape.submissions[k], &self.tape.submissions[before], &self.runs[before]);
            run.own && !before.accepted && before.id == now.id && before.key == now.key
        })
    }

    /// Gives the recorded answer to whoever waits for it.
    pub fn answer(&mut self, k: usize) {
        let Some(waiting) = self.waiting.remove(&k) else { return };
        let submission = &self.tape.submissions[k];
        let reply = match submission.answer.map(|at| self.tape.what(at)) {
            Some(What::Response { response, .. }) => Reply::Response(response.clone()),
            Some(_) => Reply::Cut,
            None => {
                let answer = json!({"prompt_id": submission.id, "number": k, "node_errors": {}});
                Reply::Response(Response::of_json(200, answer))
            }
        };
        waiting.send(self.localised(Some(k), reply)).ok();
    }

    pub fn answer_all(&mut self) {
        let waiting: Vec<usize> = self.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|k| self.answer(k));
    }

    /// The ids to write over, for something that belongs to a submission.
    pub fn pairs(&self, owner: Option<usize>) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        let own = (0..self.runs.len()).rev().filter(|&k| self.runs[k].own);
        for k in owner.into_iter().chain(own) {
            let (recorded, own) = (self.tape.submissions[k].id.clone(), self.runs[k].id.clone());
            if !recorded.is_empty() && pairs.iter().all(|pair| pair.recorded != recorded) {
                pairs.push(Pair { recorded, own });
            }
        }
        pairs
    }

    fn localised(&self, owner: Option<usize>, reply: Reply) -> Reply {
        match reply {
            Reply::Response(response) => Reply::Response(self.response(owner, &response)),
            Reply::Cut => Reply::Cut,
        }
    }

    /// A recorded answer, with the ids of this replay.
    pub fn response(&self, owner: Option<usize>, recorded: &Response) -> Response {
        let mut response = recorded.clone();
        if let Some(json) = recorded.json() {
            response.body = super::recording::Body::Json(rewrite(json, &self.pairs(owner)));
        }
        response
    }

    // Playing.

    /// One event happens: what it means for the prompts, and, when `live`, what sockets are told.
    pub fn apply(&mut self, event: usize, live: bool) {
        let owner = self.tape.owner[event];
        match self.tape.what(event).clone() {
            What::Connect { label, client } => {
                if self.plays(&client) && self.tape.open_label(&client, event).is_none() {
                    self.attach(&client, &label);
                }
            }
            What::Closed { label, code } => self.close(&label, code, live),
            What::Text { label, frame } => {
                if let Some(k) = owner {
                    self.learn(k, &frame);
                }
                self.tell(&label, owner, &frame, live);
            }
            What::Binary { label, binary } => {
                let metadata = binary.metadata.as_ref().map(|metadata| rewrite(metadata, &self.pairs(owner)));
                if live && owner.is_none_or(|k| self.runs[k].queued && !self.runs[k].gone) {
                    self.say(&label, |to| Said::Binary(frames::binary(&binary, metadata.as_ref(), to.metadata)));
                }
            }
            What::Request(request) => self.control(event, &request),
            What::Response { .. } | What::Failure { .. } => {
                if let Some(k) = self.tape.answered_at(event) {
                    self.answer(k);
                }
            }
            What::Note(_) | What::Other => {}
        }
        if self.tape.deaths.contains_key(&event) {
            self.forget();
        }
        for k in 0..self.runs.len() {
            if self.tape.submissions[k].end == Some(event) && self.runs[k].open() {
                self.finish(k, self.built_record(k));
            }
        }
    }

    fn close(&mut self, label: &str, code: Option<u16>, live: bool) {
        if live {
            let farewell = code.filter(|code| *code != 1006);
            self.say(label, |_| Said::Drop(farewell));
            self.sockets.retain(|socket| !socket.labels.contains(label));
        }
        for socket in &mut self.sockets {
            socket.labels.remove(label);
        }
    }

    fn tell(&mut self, label: &str, owner: Option<usize>, frame: &Value, live: bool) {
        // What follows from connecting and asking is told when the client connects and asks.
        let answered = frame["data"].get("sid").is_some() || frame["type"] == "feature_flags";
        let silent = owner.is_some_and(|k| !self.runs[k].queued || self.runs[k].gone || self.runs[k].over);
        if live && !answered && !silent {
            let frame = rewrite(frame, &self.pairs(owner));
            self.say(label, |_| Said::Text(frame.clone()));
        }
    }

    /// What a message means for its prompt.
    fn learn(&mut self, k: usize, frame: &Value) {
        let run = &mut self.runs[k];
        if !run.open() {
            return;
        }
        run.started = true;
        let (kind, data) = (frame["type"].as_str().unwrap_or_default(), &frame["data"]);
        match kind {
            "executing" => run.node = data["node"].as_str().map(str::to_string).or(run.node.take()),
            "executed" => {
                if let Some(node) = data["node"].as_str() {
                    run.outputs.insert(node.into(), data["output"].clone());
                }
            }
            "execution_start"
            | "execution_cached"
            | "execution_success"
            | "execution_error"
            | "execution_interrupted"
                if data["exception_type"] != "ExecutionBlocked" =>
            {
                run.messages.push(json!([kind, data]));
            }
            _ => {}
        }
    }

    /// What the recording's client asks of the queue happens to the prompts here.
    fn control(&mut self, event: usize, request: &Request) {
        if let Some(k) = self.tape.submission_at(event)
            && !self.runs[k].own
        {
            self.runs[k].queued = self.tape.submissions[k].accepted;
        }
        let body = request.json.clone().unwrap_or_default();
        let mut pending: Vec<String> = Vec::new();
        if request.method == "POST" && request.path == "/queue" {
            let listed = body["delete"].as_array().into_iter().flatten();
            pending.extend(listed.filter_map(|id| id.as_str().map(str::to_string)));
        } else if let Some(id) = request.path.strip_prefix("/api/jobs/").and_then(|rest| rest.strip_suffix("/cancel")) {
            pending.push(id.into());
        } else if request.path == "/api/jobs/cancel" {
            let listed = body["job_ids"].as_array().into_iter().flatten();
            pending.extend(listed.filter_map(|id| id.as_str().map(str::to_string)));
        }
        let clear = request.path == "/queue" && body["clear"] == true;
        for (k, run) in self.runs.iter_mut().enumerate() {
            let submission = &self.tape.submissions[k];
            let named = clear || pending.contains(&submission.id);
            // One that goes on to run was not pending.
            if named && run.open() && !run.started && !submission.told && submission.record.is_none() {
                run.gone = true;
            }
        }
    }

    /// The server died: queue and history are empty, and nobody is told.
    pub fn forget(&mut self) {
        for run in self.runs.iter_mut().filter(|run| run.queued) {
            run.gone = run.gone || !run.over;
            run.record = None;
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_values().for_each(|waiting| {
            waiting.send(Reply::Cut).ok();
        });
    }

    // Prompts.

    /// Prompts that are queued or run.
    pub fn remaining(&self) -> usize {
        self.runs.iter().filter(|run| run.open()).count()
    }

    /// The prompt that runs. One of which no message tells runs when it is its turn.
    pub fn running(&self) -> Option<usize> {
        let open = || (0..self.runs.len()).filter(|&k| self.runs[k].open());
        open().find(|&k| self.runs[k].started).or_else(|| {
            let mut first: Vec<usize> = open().collect();
            first.sort_by(|&a, &b| self.order(a).total_cmp(&self.order(b)));
            first.first().copied().filter(|&k| !self.tape.submissions[k].told)
        })
    }

    /// Smaller runs first.
    pub fn order(&self, k: usize) -> f64 {
        self.tape.submissions[k].number.as_f64().unwrap_or(k as f64)
    }

    /// The client asks for the interruption of a prompt. Whether it ran.
    pub fn interrupt(&mut self, id: Option<&str>) -> bool {
        let Some(k) = self.running().filter(|&k| id.is_none_or(|id| self.runs[k].id == id)) else { return false };
        self.runs[k].stopping = true;
        if !self.tape.submissions[k].interrupted {
            self.stop(k);
        }
        true
    }

    /// Takes a prompt that waits from the queue. Whether it waited.
    pub fn remove(&mut self, id: &str) -> bool {
        let running = self.running();
        let pending =
            (0..self.runs.len()).find(|&k| self.runs[k].open() && self.runs[k].id == id && Some(k) != running);
        let Some(k) = pending else { return false };
        self.answer(k);
        self.runs[k].gone = true;
        self.tell_remaining();
        true
    }

    fn tell_remaining(&mut self) {
        let status = json!({"status": {"exec_info": {"queue_remaining": self.remaining()}}});
        self.say_to_all(&json!({"type": "status", "data": status}));
    }

    /// Ends a prompt that the recording lets run on, as a server does that was asked to.
    fn stop(&mut self, k: usize) {
        self.answer(k);
        let run = &self.runs[k];
        let node = run.node.clone().unwrap_or_default();
        let class = self.tape.submissions[k].graph[&node]["class_type"].clone();
        let executed: Vec<&String> = run.outputs.keys().collect();
        let data =
            json!({"prompt_id": run.id, "node_id": node, "node_type": class, "executed": executed, "timestamp": 0});
        let over = json!({"type": "executing", "data": {"node": null, "prompt_id": run.id}});
        self.runs[k].messages.push(json!(["execution_interrupted", data]));
        self.say_to_all(&json!({"type": "execution_interrupted", "data": data}));
        let record = self.record_of_messages(k);
        self.finish(k, Some(record));
        self.tell_remaining();
        self.say_to_all(&over);
    }

    fn finish(&mut self, k: usize, record: Option<Value>) {
        self.ended += 1;
        let run = &mut self.runs[k];
        (run.over, run.record, run.place) = (true, record, self.ended);
    }

    /// The recorded record, else one made from the messages, else none.
    fn built_record(&self, k: usize) -> Option<Value> {
        let submission = &self.tape.submissions[k];
        match &submission.record {
            Some(record) => Some(rewrite(record, &self.pairs(Some(k)))),
            None if submission.unrecorded => None,
            None => Some(self.record_of_messages(k)),
        }
    }

    fn record_of_messages(&self, k: usize) -> Value {
        let (submission, run) = (&self.tape.submissions[k], &self.runs[k]);
        let failed =
            run.messages.last().is_some_and(|last| last[0] == "execution_error" || last[0] == "execution_interrupted");
        let mut extra = submission.extra_data.as_object().cloned().unwrap_or_default();
        extra.insert("client_id".into(), json!(submission.client));
        let meta: Map<String, Value> = run
            .outputs
            .keys()
            .map(|node| {
                let meta = json!({"node_id": node, "display_node": node, "parent_node": null, "real_node_id": node});
                (node.clone(), meta)
            })
            .collect();
        let record = json!({
            "prompt": [submission.number, run.id, submission.graph, extra, run.outputs.keys().collect::<Vec<_>>()],
            "outputs": run.outputs,
            "status": {
                "status_str": if failed { "error" } else { "success" },
                "completed": !failed,
                "messages": run.messages,
            },
            "meta": meta,
        });
        rewrite(&record, &self.pairs(Some(k)))
    }

    /// How long the event is behind the one before it, at most the longest gap.
    pub fn gap(&self, event: usize) -> Duration {
        let events = &self.tape.recording.events;
        let before = event.checked_sub(1).map_or(Duration::ZERO, |before| events[before].at);
        events[event].at.saturating_sub(before).min(self.options.longest_gap)
    }
}
