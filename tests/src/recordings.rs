//! Conversations with ComfyUI as they could have been recorded, put together from small parts.

use serde_json::{Value, json};

/// Ids as a recording has them.
pub const RECORDED: &str = "00000000-0000-4000-8000-000000000001";
pub const ANOTHER: &str = "00000000-0000-4000-8000-000000000002";

/// A socket is opened under a client id.
pub fn connect(label: &str, client: &str) -> Value {
    json!({"dir": "client->server", "ws_connect": {"path": format!("/ws?clientId={client}"), "socket": label}})
}

/// A text frame of the server.
pub fn said(label: &str, kind: &str, data: Value) -> Value {
    json!({"dir": "server->client", "socket": label, "ws_text": {"type": kind, "data": data}})
}

/// The end of a socket.
pub fn closed(label: &str, code: Value) -> Value {
    json!({"dir": "server->client", "socket": label, "ws_closed": {"code": code, "exception": null}})
}

/// A request; null: without a body.
pub fn asked(method: &str, path: &str, body: Value) -> Value {
    match body {
        Value::Null => json!({"dir": "client->server", "http_request": {"method": method, "path": path}}),
        body => json!({"dir": "client->server", "http_request": {"method": method, "path": path, "json": body}}),
    }
}

/// An answer with JSON.
pub fn answered(status: u16, body: Value) -> Value {
    let response = json!({"status": status, "content_type": "application/json; charset=utf-8", "json": body});
    json!({"dir": "server->client", "http_response": response})
}

/// Something done outside the protocol.
pub fn note(text: &str) -> Value {
    json!({"dir": "note", "note": text})
}

/// Two nodes: `a` is slow, `b` saves.
pub fn graph(nonce: u32, prefix: &str) -> Value {
    json!({
        "a": {"class_type": "SomethingSlow", "inputs": {"nonce": nonce}},
        "b": {"class_type": "SomethingThatSaves", "inputs": {"images": ["a", 0], "filename_prefix": prefix}},
    })
}

/// A submission that is queued.
pub fn submitted(id: &str, client: &str, graph: &Value) -> [Value; 2] {
    let body = json!({"prompt": graph, "prompt_id": id, "client_id": client});
    [asked("POST", "/prompt", body), answered(200, json!({"prompt_id": id, "number": 7, "node_errors": {}}))]
}

/// The first messages of a run, to the first step of node `a`.
pub fn begun(label: &str, id: &str) -> Vec<Value> {
    vec![
        said(label, "execution_start", json!({"prompt_id": id, "timestamp": 1})),
        said(label, "execution_cached", json!({"prompt_id": id, "nodes": [], "timestamp": 1})),
        said(label, "executing", json!({"prompt_id": id, "node": "a", "display_node": "a"})),
        said(
            label,
            "progress_state",
            json!({"prompt_id": id, "nodes": {"a": {"value": 1, "max": 4, "state": "running"}}}),
        ),
        said(label, "progress", json!({"prompt_id": id, "node": "a", "value": 1, "max": 4})),
    ]
}

/// Node `b` saved this picture.
pub fn saved(label: &str, id: &str, file: &str) -> Value {
    let output = json!({"images": [{"filename": file, "subfolder": "", "type": "output"}]});
    said(label, "executed", json!({"prompt_id": id, "node": "b", "display_node": "b", "output": output}))
}

/// The last messages of a run that went well.
pub fn succeeded(label: &str, id: &str) -> Vec<Value> {
    vec![
        said(label, "execution_success", json!({"prompt_id": id, "timestamp": 2})),
        said(label, "executing", json!({"prompt_id": id, "node": null})),
    ]
}

/// A run from its submission to its end.
pub fn run(id: &str, client: &str, graph: &Value, file: &str) -> Vec<Value> {
    let mut events = submitted(id, client, graph).to_vec();
    events.extend(begun("ws", id));
    events.push(saved("ws", id, file));
    events.extend(succeeded("ws", id));
    events
}

/// The whole, in the form of the recorded ones.
pub fn recording(parts: impl IntoIterator<Item = Vec<Value>>) -> Value {
    let events: Vec<Value> = parts.into_iter().flatten().collect();
    json!({"title": "made for a test", "comfyui_version": "0.33.0", "notes": "", "events": events})
}
