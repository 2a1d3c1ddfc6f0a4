//! Conversations that are not among the recorded ones, and could be: traps of the protocol, and answers of older servers.

use enginehouse_tests::recordings::{
    ANOTHER, RECORDED, answered, asked, begun, closed, connect, graph, recording, said, saved, submitted, succeeded,
};
use serde_json::{Value, json};

use super::case::{Case, Expected};

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = broken_sockets();
    cases.extend(failures());
    cases.extend(odd_answers());
    cases.extend(others());
    cases
}

fn case(name: &str, recording: Value, expected: Value) -> Case {
    let expected = Expected::Prompt(expected.as_object().cloned().unwrap_or_default());
    Case { name: format!("made up: {name}"), recording, expected }
}

/// A recording that begins as every run does.
fn after_the_first_step(rest: Vec<Value>) -> Value {
    recording([
        vec![connect("ws", "me")],
        submitted(RECORDED, "me", &graph(1, "p")).to_vec(),
        begun("ws", RECORDED),
        rest,
    ])
}

fn well(submit: usize, file: &str) -> Value {
    json!({
        "submit": submit, "outcome": "ok", "class": null, "node": null, "main": 0, "progress": "some", "retry": false,
        "files": [{"name": file, "subfolder": "", "kind": "image", "node": "b"}],
    })
}

fn badly(outcome: &str, class: &str, retry: bool) -> Value {
    json!({"submit": 0, "outcome": outcome, "class": class, "progress": "some", "retry": retry})
}

fn end(label: &str, file: &str) -> Vec<Value> {
    let mut events = vec![saved(label, RECORDED, file)];
    events.extend(succeeded(label, RECORDED));
    events
}

fn record(status: &Value) -> Vec<Value> {
    let images = json!({"b": {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}});
    let record = json!({"prompt": [7, RECORDED, graph(1, "p"), {}, ["b"]], "outputs": images, "status": status});
    let path = format!("/history/{RECORDED}");
    vec![asked("GET", &path, Value::Null), answered(200, json!({RECORDED: record}))]
}

fn success() -> Value {
    let messages = json!([["execution_start", {}], ["execution_success", {"prompt_id": RECORDED}]]);
    json!({"status_str": "success", "completed": true, "messages": messages})
}

fn broken_sockets() -> Vec<Case> {
    // The end comes while no socket is there, and is never announced.
    let mut missed = vec![closed("ws", json!(1006)), connect("second", "me")];
    missed.extend(record(&success()));
    // Another socket of the same name takes over: the first one, though open, hears nothing more.
    let mut silent = vec![connect("second", "me"), closed("ws", Value::Null)];
    silent.extend(record(&success()));
    vec![
        case("the end is missed", after_the_first_step(missed), well(0, "x.png")),
        case("the socket falls silent", after_the_first_step(silent), well(0, "x.png")),
        case(
            "the server dies without a word",
            after_the_first_step(vec![closed("ws", json!(1006))]),
            badly("lost", "engine_crashed", true),
        ),
        case("the prompt hangs", after_the_first_step(Vec::new()), badly("failed", "timeout_inactive", true)),
    ]
}

fn failures() -> Vec<Case> {
    let error = |kind: &str, message: &str, terminal: bool| {
        let mut data = json!({
            "prompt_id": RECORDED, "node_id": "a", "node_type": "SomethingSlow", "executed": [], "traceback": [],
            "exception_type": kind, "exception_message": message, "current_inputs": {}, "current_outputs": [],
        });
        if terminal {
            data["timestamp"] = json!(3);
        }
        said("ws", "execution_error", data)
    };
    // A blocked branch sends an error, and the prompt goes on.
    let mut blocked = vec![error("ExecutionBlocked", "blocked", false)];
    blocked.extend(end("ws", "x.png"));
    let over = said("ws", "executing", json!({"prompt_id": RECORDED, "node": null}));
    let wording = "CUDA error: an illegal memory access was encountered\n";
    let poisoned = vec![error("torch.AcceleratorError", wording, true), over.clone()];
    let full = vec![error("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB\n", true), over];
    let preview = json!({"images": [{"filename": "t.png", "subfolder": "", "type": "temp"}]});
    let mut nothing = vec![said("ws", "executed", json!({"prompt_id": RECORDED, "node": "b", "output": preview}))];
    nothing.extend(succeeded("ws", RECORDED));
    let mut empty = end("ws", "x.png");
    empty.push(asked("GET", "/view?filename=x.png&subfolder=&type=output", Value::Null));
    let no_bytes = json!({"status": 200, "content_type": "image/png", "body": {"length": 0, "head_hex": ""}});
    empty.push(json!({"dir": "server->client", "http_response": no_bytes}));
    let at_node = |mut expected: Value| {
        expected["node"] = json!("a");
        expected
    };
    vec![
        case("a branch is blocked", after_the_first_step(blocked), well(0, "x.png")),
        case("the GPU is poisoned", after_the_first_step(poisoned), at_node(badly("failed", "cuda_fault", true))),
        case("the GPU is full", after_the_first_step(full), at_node(badly("failed", "vram_oom", false))),
        case("only previews", after_the_first_step(nothing), badly("failed", "no_output", false)),
        case("the file is empty", after_the_first_step(empty), badly("failed", "output_lost", true)),
    ]
}

fn odd_answers() -> Vec<Case> {
    let path = format!("/history/{RECORDED}");
    let late = || (0..3).flat_map(|_| [asked("GET", &path, Value::Null), answered(200, json!({}))]);
    let mut race = vec![saved("ws", RECORDED, "x.png")];
    let [success_told, over] = <[Value; 2]>::try_from(succeeded("ws", RECORDED)).unwrap();
    race.push(success_told);
    race.extend(late());
    race.push(over);
    race.extend(record(&success()));
    let mut old = vec![asked("GET", &format!("/api/jobs/{RECORDED}"), Value::Null)];
    let page = json!({"status": 404, "content_type": "text/html", "text": "<html>no such page</html>"});
    old.push(json!({"dir": "server->client", "http_response": page}));
    old.extend(end("ws", "x.png"));
    old.extend(record(&Value::Null));
    let [submission, answer] = submitted(RECORDED, "me", &graph(1, "p"));
    let lost = json!({"dir": "server->client", "http_failure": "ServerDisconnectedError"});
    let run = || [begun("ws", RECORDED), end("ws", "x.png")];
    let arrived = [vec![connect("ws", "me"), submission.clone(), lost.clone()]].into_iter().chain(run());
    let again = vec![connect("ws", "me"), submission.clone(), lost, submission.clone(), answer];
    let never = [again].into_iter().chain(run());
    let large = json!({"status": 413, "content_type": "text/plain", "text": "Maximum request body size exceeded."});
    let large = vec![connect("ws", "me"), submission, json!({"dir": "server->client", "http_response": large})];
    let mut refused = badly("failed", "input_too_large", false);
    refused["progress"] = json!("none");
    vec![
        case("the record is late", after_the_first_step(race), well(0, "x.png")),
        case("no jobs, and a record without status", after_the_first_step(old), well(0, "x.png")),
        case("the answer is lost", recording(arrived), well(0, "x.png")),
        case("the submission never arrives", recording(never), well(0, "x.png")),
        case("too large", recording([large]), refused),
    ]
}

/// Somebody else's prompt runs first; ours waits, and is taken from the queue, or runs when it is its turn.
fn others() -> Vec<Case> {
    let begin = || {
        let mut events = vec![connect("theirs", "them"), connect("ws", "me")];
        events.extend(submitted(ANOTHER, "them", &graph(9, "p")));
        events.extend(begun("theirs", ANOTHER));
        events.extend(submitted(RECORDED, "me", &graph(1, "p")));
        // Of a prompt that names no client, everybody hears.
        events.push(said("ws", "progress", json!({"prompt_id": ANOTHER, "node": "a", "value": 3, "max": 4})));
        let stopped = json!({"prompt_id": ANOTHER, "node_id": "a", "node_type": "X", "executed": [], "timestamp": 2});
        events.push(said("ws", "execution_interrupted", stopped));
        events
    };
    let [mut waits, mut removed] = [begin(), begin()];
    waits.extend(begun("ws", RECORDED));
    waits.extend(end("ws", "x.png"));
    removed.extend([asked("POST", "/queue", json!({"delete": [RECORDED]})), answered(200, Value::Null)]);
    let mut lost = badly("lost", "engine_crashed", true);
    (lost["submit"], lost["progress"]) = (json!(1), json!("none"));
    vec![
        case("another prompt runs first", recording([waits]), well(1, "x.png")),
        case("somebody empties the queue", recording([removed]), lost),
    ]
}
