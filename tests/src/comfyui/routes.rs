//! Every path the server answers, and how.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State, WebSocketUpgrade};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::queue::Item;
use super::{Faults, Server, files, hub, jobs, now_ms, uploads, validation};

/// Version the answers are those of.
const VERSION: &str = "0.33.0";
/// Keys of `extra_data` that nodes may see and nobody else.
const SECRETS: [&str; 2] = ["auth_token_comfy_org", "api_key_comfy_org"];
/// Bytes of memory that `/system_stats` tells.
const MEMORY: (u64, u64) = (16 << 30, 12 << 30);

/// Everything, with and without `/api`, behind the origin check.
pub(super) fn router(server: Arc<Server>) -> Router {
    let plain = || {
        Router::new()
            .route("/ws", get(socket))
            .route("/system_stats", get(system_stats))
            .route("/features", get(|State(server): State<Arc<Server>>| async move { ok(&features(&server)) }))
            .route("/object_info", get(object_info_all))
            .route("/object_info/{class}", get(object_info))
            .route("/prompt", get(waiting).post(submit))
            .route("/history", get(history_all).post(change_history))
            .route("/history/{id}", get(history))
            .route("/queue", get(queue).post(change_queue))
            .route("/interrupt", post(interrupt))
            .route("/free", post(free))
            .route("/upload/image", post(uploads::image))
            .route("/upload/mask", post(uploads::mask))
            .route("/view", get(files::view))
    };
    let prefixed = plain()
        .route("/jobs", get(jobs::list))
        .route("/jobs/cancel", post(jobs::cancel_many))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .method_not_allowed_fallback(wrong_method);
    plain()
        .nest("/api", prefixed)
        .route("/standin/faults", get(faults).post(set_faults))
        .route("/standin/seen", get(seen))
        .method_not_allowed_fallback(wrong_method)
        .fallback(absent)
        .layer(middleware::from_fn_with_state(server.clone(), check_origin))
        .layer(DefaultBodyLimit::disable())
        .with_state(server)
}

/// What no route takes is looked for among the files of the web page, and is not there.
async fn absent() -> Response {
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "application/octet-stream")], Body::empty()).into_response()
}

async fn wrong_method(method: Method) -> Response {
    if method == Method::GET || method == Method::HEAD {
        return absent().await;
    }
    (StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed").into_response()
}

/// A JSON answer as this server writes it.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], value.to_string()).into_response()
}

fn ok(value: &Value) -> Response {
    json(StatusCode::OK, value)
}

/// No body, no content type.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// What the framework of the real server says when a handler raises.
pub(super) fn fault() -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n\nServer got itself in trouble").into_response()
}

/// The whole body. One above the limit is read to its end all the same, so that its sender gets to see the 413.
pub(super) async fn body(server: &Server, headers: &HeaderMap, sent: Body) -> Result<Bytes, Response> {
    let limit = server.options.upload_limit_bytes;
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut whole = Vec::with_capacity(usize::try_from(told.unwrap_or(0).min(limit)).unwrap_or(0));
    let mut length: u64 = 0;
    let mut chunks = sent.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| empty(StatusCode::BAD_REQUEST))?;
        length += chunk.len() as u64;
        if length <= limit {
            whole.extend_from_slice(&chunk);
        } else {
            whole = Vec::new();
        }
    }
    if length > limit {
        let text = format!("Maximum request body size {limit} exceeded.");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, text).into_response());
    }
    Ok(whole.into())
}

async fn json_body(server: &Server, headers: &HeaderMap, sent: Body) -> Result<Value, Response> {
    let bytes = body(server, headers, sent).await?;
    serde_json::from_slice(&bytes).map_err(|_| fault())
}

async fn check_origin(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    if server.options.origin_check && foreign(request.headers()) {
        return empty(StatusCode::FORBIDDEN);
    }
    if request.method() == Method::OPTIONS {
        return empty(StatusCode::OK);
    }
    next.run(request).await
}

/// Pages of other origins must not reach a server on this machine.
fn foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site") == Some("cross-site") {
        return true;
    }
    let (Some(host), Some(origin)) = (text("host"), text("origin")) else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let own = origin.split_once("://").map_or(origin, |(_, rest)| rest).trim_end_matches('/');
    ["127.0.0.1", "localhost", "[::1]"].contains(&name) && own != host
}

async fn socket(
    State(server): State<Arc<Server>>,
    Query(query): Query<HashMap<String, String>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let client = query.get("clientId").cloned();
    upgrade.on_upgrade(move |socket| hub::attend(server, socket, client))
}

/// What the server can do, as `/features` and the message tell it.
pub(super) fn features(server: &Server) -> Value {
    json!({
        "supports_preview_metadata": true,
        "supports_model_type_tags": true,
        "max_upload_size": server.options.upload_limit_bytes,
        "extension": {"manager": {"supports_v4": true}},
        "node_replacements": true,
        "assets": false,
    })
}

async fn system_stats(State(server): State<Arc<Server>>) -> Response {
    let (total, free) = MEMORY;
    ok(&json!({
        "system": {
            "os": std::env::consts::OS,
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": VERSION,
            "required_frontend_version": "1.49.6",
            "installed_templates_version": "0.11.44",
            "required_templates_version": "0.11.44",
            "comfy_package_versions": [],
            "python_version": "none: this is a stand-in",
            "pytorch_version": "none",
            "embedded_python": false,
            "deploy_environment": "local-git",
            "argv": server.options.argv,
        },
        "devices": [{
            "name": "cpu",
            "type": "cpu",
            "index": null,
            "vram_total": total,
            "vram_free": free,
            "torch_vram_total": total,
            "torch_vram_free": free,
        }],
    }))
}

async fn object_info_all(State(server): State<Arc<Server>>) -> Response {
    ok(&server.catalog.described_all(&server.options.input))
}

async fn object_info(State(server): State<Arc<Server>>, Path(class): Path<String>) -> Response {
    ok(&server.catalog.described(&class, &server.options.input))
}

async fn waiting(State(server): State<Arc<Server>>) -> Response {
    ok(&json!({"exec_info": {"queue_remaining": server.queue.remaining()}}))
}

/// Whether this is a UUID as it is written: lower case, with hyphens.
pub(super) fn is_prompt_id(text: &str) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|id| id.hyphenated().to_string() == text)
}

async fn submit(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    match json_body(&server, &headers, sent).await {
        Ok(asked) => submitted(&server, asked).unwrap_or_else(fault),
        Err(answer) => answer,
    }
}

fn refused(server: &Server, error: &Value, node_errors: &Value) -> Response {
    server.seen().refused += 1;
    json(StatusCode::BAD_REQUEST, &json!({"error": error, "node_errors": node_errors}))
}

/// Nothing where the real server raises.
fn submitted(server: &Server, asked: Value) -> Option<Response> {
    let error = |kind: &str, message: &str, details: &str| json!({"type": kind, "message": message, "details": details, "extra_info": {}});
    if !asked.is_object() && !asked.is_array() && !asked.is_string() {
        return None;
    }
    // Told by the program, as the real one does: tests count how often a server was asked.
    if server.options.counts.is_some() {
        eprintln!("\u{1b}[32m[INFO]\u{1b}[0m got prompt");
    }
    let (number, order) = match asked.get("number") {
        Some(number) => {
            let number = number.as_f64().or_else(|| number.as_str()?.trim().parse().ok())?;
            (json!(number), number)
        }
        None => {
            let number = i64::try_from(server.queue.number()).ok()?;
            let number = if asked.get("front").is_some_and(truthy) { -number } else { number };
            (json!(number), number as f64)
        }
    };
    let Some(graph) = asked.get("prompt") else {
        let error = error("no_prompt", "No prompt provided", "No prompt provided");
        return Some(refused(server, &error, &json!({})));
    };
    let prompt_id = match asked.get("prompt_id") {
        None | Some(Value::Null) => uuid::Uuid::new_v4().to_string(),
        Some(Value::String(id)) if is_prompt_id(id) => id.clone(),
        Some(_) => {
            let details = "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the \
                           server generate one";
            return Some(refused(
                server,
                &error("invalid_prompt_id", "prompt_id must be a valid UUID", details),
                &json!({}),
            ));
        }
    };
    let targets: Option<Vec<&str>> =
        asked["partial_execution_targets"].as_array().map(|targets| targets.iter().filter_map(Value::as_str).collect());
    let mut graph = graph.as_object()?.clone();
    let checked = validation::check(server, &mut graph, targets.as_deref())?;
    let (outputs, node_errors) = match checked {
        Ok(accepted) => (accepted.outputs, accepted.node_errors),
        Err(rejected) => return Some(refused(server, &rejected.error, &rejected.node_errors)),
    };
    let mut extra = match asked.get("extra_data") {
        None => Map::new(),
        Some(extra) => extra.as_object()?.clone(),
    };
    for secret in SECRETS {
        extra.remove(secret);
    }
    if let Some(client) = asked.get("client_id") {
        extra.insert("client_id".to_string(), client.clone());
    }
    let create_time_ms = now_ms();
    extra.insert("create_time".to_string(), json!(create_time_ms));
    let item = Item {
        number: number.clone(),
        order,
        sequence: server.queue.sequence(),
        prompt_id: prompt_id.clone(),
        graph,
        client_id: extra.get("client_id").and_then(Value::as_str).map(str::to_string),
        extra_data: Value::Object(extra),
        create_time_ms,
        outputs,
    };
    *server.seen().prompts.entry(prompt_id.clone()).or_default() += 1;
    server.queue.put(item, |remaining| server.hub.status(remaining));
    Some(ok(&json!({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})))
}

fn truthy(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value != 0 && value != ""
}

async fn history_all(State(server): State<Arc<Server>>, Query(query): Query<HashMap<String, String>>) -> Response {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<i64>().ok());
    let records = server.queue.records();
    let most = number("max_items").and_then(|most| usize::try_from(most).ok()).unwrap_or(records.len());
    // Without an offset the newest ones are given.
    let skip = match number("offset") {
        Some(offset) if offset >= 0 => usize::try_from(offset).unwrap_or(usize::MAX),
        _ => records.len().saturating_sub(most),
    };
    let page = records.iter().skip(skip).take(most);
    ok(&Value::Object(page.map(|record| (record.item.prompt_id.clone(), record.shown())).collect()))
}

async fn history(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    let mut found = Map::new();
    if let Some(record) = server.queue.record(&id) {
        found.insert(id, record.shown());
    }
    ok(&Value::Object(found))
}

async fn change_history(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let asked = match json_body(&server, &headers, sent).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if asked["clear"] == true {
        server.queue.forget_all();
    }
    for id in asked["delete"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        server.queue.forget(id);
        server.seen().history_deletes.push(id.to_string());
    }
    empty(StatusCode::OK)
}

async fn queue(State(server): State<Arc<Server>>) -> Response {
    let (running, pending) = server.queue.listed();
    ok(&json!({
        "queue_running": running.iter().map(|item| item.shown()).collect::<Vec<_>>(),
        "queue_pending": pending.iter().map(|item| item.shown()).collect::<Vec<_>>(),
    }))
}

async fn change_queue(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let asked = match json_body(&server, &headers, sent).await {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if asked["clear"] == true {
        server.queue.clear(|remaining| server.hub.status(remaining));
    }
    for id in asked["delete"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        server.queue.delete(id, |remaining| server.hub.status(remaining));
    }
    empty(StatusCode::OK)
}

/// Interrupts this prompt if it runs, and says whether it did.
pub(super) fn interrupt_running(server: &Server, id: &str) -> bool {
    server.queue.if_running(id, || server.interrupt.store(true, Ordering::Relaxed))
}

/// A body that is not JSON counts as none; one that is no object is a fault.
async fn interrupt(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let bytes = match body(&server, &headers, sent).await {
        Ok(bytes) => bytes,
        Err(answer) => return answer,
    };
    let asked: Value = serde_json::from_slice(&bytes).unwrap_or_else(|_| json!({}));
    if !asked.is_object() {
        return fault();
    }
    let id = asked["prompt_id"].as_str();
    server.seen().interrupts.push(id.map(str::to_string));
    match id {
        Some(id) => {
            interrupt_running(&server, id);
        }
        None => server.interrupt.store(true, Ordering::Relaxed),
    }
    empty(StatusCode::OK)
}

async fn free(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let asked = match json_body(&server, &headers, sent).await {
        Ok(asked) if asked.is_object() => asked,
        Ok(_) => return fault(),
        Err(answer) => return answer,
    };
    server.seen().frees += 1;
    if asked["free_memory"] == true {
        server.queue.free();
    }
    empty(StatusCode::OK)
}

async fn faults(State(server): State<Arc<Server>>) -> Response {
    let faults = server.faults().clone();
    ok(&json!(faults))
}

async fn set_faults(State(server): State<Arc<Server>>, headers: HeaderMap, sent: Body) -> Response {
    let changes = match json_body(&server, &headers, sent).await {
        Ok(changes) => changes,
        Err(answer) => return answer,
    };
    let current: Faults = server.faults().clone();
    match current.changed(&changes) {
        Ok(faults) => {
            if changes.get("refuse_connections").is_some() {
                server.refusals.store(faults.refuse_connections, Ordering::Relaxed);
            }
            *server.faults() = faults;
            server.queue.wake();
            empty(StatusCode::OK)
        }
        Err(error) => json(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
    }
}

async fn seen(State(server): State<Arc<Server>>) -> Response {
    let seen = server.seen().clone();
    ok(&json!(seen))
}
