//! HTTP and the WebSocket in front of the stage.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Shared;
use super::line::Connection;
use super::recording::{Body, Request, Response, split};
use super::stage::{Reply, Said};

/// Largest body that is taken, in bytes.
const LARGEST_BODY: usize = 512 << 20;

/// Everything a server answers to.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/ws", get(connect)).route("/api/ws", get(connect)).fallback(answer).with_state(shared)
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: HttpRequest,
) -> HttpResponse {
    let (head, body) = request.into_parts();
    if foreign(&head.headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Ok(body) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let (path, query) = split(target);
    let method = head.method.as_str().to_string();
    let reply = if method == "POST" && path == "/prompt" {
        submit(&shared, &body).await
    } else if method == "POST" && path.starts_with("/upload/") {
        Reply::Response(uploaded(&String::from_utf8_lossy(&body)))
    } else {
        let json = serde_json::from_slice(&body).ok();
        let headers = head.headers.iter();
        let headers: BTreeMap<String, String> = headers
            .filter_map(|(name, value)| Some((name.as_str().to_string(), value.to_str().ok()?.to_string())))
            .collect();
        let reply = shared.stage().ask(&Request { method, path, query, json, text: None, headers });
        shared.changed.notify_one();
        reply
    };
    match reply {
        Reply::Response(response) => http(response),
        Reply::Cut => {
            connection.cut();
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn submit(shared: &Shared, body: &[u8]) -> Reply {
    let receive = shared.stage().submit(body);
    shared.changed.notify_one();
    receive.await.unwrap_or(Reply::Cut)
}

/// An origin that is not the server's own is turned away, as a browser on another page would be.
fn foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (origin, host) = (text(header::ORIGIN), text(header::HOST));
    let local = host.starts_with("127.0.0.1") || host.starts_with("localhost");
    let other = !origin.is_empty() && origin.split_once("://").is_none_or(|(_, of)| of != host);
    (local && other) || headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
}

/// Files that are uploaded get the name they came with.
fn uploaded(body: &str) -> Response {
    let field = |name: &str| {
        let (_, rest) = body.split_once(&format!("name=\"{name}\""))?;
        let (_, value) = rest.split_once("\r\n\r\n")?;
        Some(value.split("\r\n").next().unwrap_or_default().to_string())
    };
    let name = body.split_once("filename=\"").and_then(|(_, rest)| rest.split_once('"')).map(|(name, _)| name);
    let Some(name) = name else { return Response::empty(400) };
    let subfolder = field("subfolder").unwrap_or_default();
    let kind = field("type").unwrap_or_else(|| "input".into());
    Response::of_json(200, json!({"name": name, "subfolder": subfolder, "type": kind}))
}

fn http(response: Response) -> HttpResponse {
    let body = match response.body {
        Body::Json(json) => json.to_string().into_bytes(),
        Body::Text(text) => text.into_bytes(),
        Body::Bytes { mut head, length } => {
            head.resize(length.max(head.len()), 0);
            head
        }
        Body::Empty => Vec::new(),
    };
    let mut http = HttpResponse::builder().status(response.status);
    if !response.content_type.is_empty() {
        http = http.header(header::CONTENT_TYPE, response.content_type);
    }
    let lengths = ["content-length", "transfer-encoding", "content-encoding", "content-range", "connection"];
    for (name, value) in response.headers.iter().filter(|(name, _)| !lengths.contains(&name.as_str())) {
        http = http.header(name, value);
    }
    http.body(body.into()).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn connect(
    State(shared): State<Arc<Shared>>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
    request: HttpRequest,
) -> HttpResponse {
    if foreign(request.headers()) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let client = split(target).1.get("clientId").cloned().unwrap_or_default();
    upgrade.on_upgrade(move |socket| attend(shared, socket, client))
}

/// One socket, to its end. When the recording ends it, it ends without a farewell.
async fn attend(shared: Arc<Shared>, mut socket: WebSocket, client: String) {
    let (send, mut said) = mpsc::unbounded_channel();
    let number = shared.stage().connect(client, send);
    shared.changed.notify_one();
    loop {
        tokio::select! {
            said = said.recv() => match said {
                Some(Said::Text(frame)) => {
                    if socket.send(Message::Text(frame.to_string().into())).await.is_err() {
                        break;
                    }
                }
                Some(Said::Binary(bytes)) => {
                    if socket.send(Message::Binary(bytes.into())).await.is_err() {
                        break;
                    }
                }
                Some(Said::Drop(Some(code))) => {
                    socket.send(Message::Close(Some(CloseFrame { code, reason: "".into() }))).await.ok();
                    break;
                }
                Some(Said::Drop(None)) | None => break,
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap_or_default();
                    if frame["type"] == "feature_flags" {
                        let features = {
                            let mut stage = shared.stage();
                            if frame["data"]["supports_preview_metadata"] == true {
                                stage.wants_metadata(number);
                            }
                            stage.features()
                        };
                        let answer = json!({"type": "feature_flags", "data": features});
                        if socket.send(Message::Text(answer.to_string().into())).await.is_err() {
                            break;
                        }
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
        }
    }
    shared.stage().disconnect(number);
    shared.changed.notify_one();
}
