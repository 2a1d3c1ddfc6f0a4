//! Who hears what: sockets, registered under the client id they came with.
//!
//! One registration per client id. A second socket with the same id takes it over; when the first one then closes, the
//! registration goes, although the second is open and hears nothing more. The real server does so, and a client must
//! live with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::extract::ws::{Message, WebSocket};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Server, lock};

/// Event number of a preview picture that says nothing of its prompt.
const PREVIEW: u32 = 1;
/// Event number of a preview picture behind a description.
const PREVIEW_WITH_METADATA: u32 = 4;

/// The kind of picture in a preview.
#[derive(Clone, Copy)]
pub(super) enum Picture {
    Jpeg,
    Png,
}

impl Picture {
    fn number(self) -> u32 {
        match self {
            Picture::Jpeg => 1,
            Picture::Png => 2,
        }
    }

    pub(super) fn mime(self) -> &'static str {
        match self {
            Picture::Jpeg => "image/jpeg",
            Picture::Png => "image/png",
        }
    }
}

#[derive(Default)]
pub(super) struct Hub {
    registered: Mutex<HashMap<String, Registered>>,
}

struct Registered {
    outbox: UnboundedSender<Message>,
    /// The client said that it understands event 4.
    metadata: bool,
}

impl Hub {
    /// To the socket of `client`; to all of them without one. Nothing is kept for a client that is not there.
    pub(super) fn send(&self, client: Option<&str>, kind: &str, data: &Value) {
        let registered = lock(&self.registered);
        if client.map_or(registered.is_empty(), |client| !registered.contains_key(client)) {
            return;
        }
        let text: axum::extract::ws::Utf8Bytes = json!({"type": kind, "data": data}).to_string().into();
        for (id, socket) in registered.iter() {
            if client.is_none_or(|client| client == id) {
                let _ = socket.outbox.send(Message::Text(text.clone()));
            }
        }
    }

    /// Whether a message to `client` (to anybody, without one) would be heard.
    pub(super) fn hears(&self, client: Option<&str>) -> bool {
        let registered = lock(&self.registered);
        client.map_or(!registered.is_empty(), |client| registered.contains_key(client))
    }

    pub(super) fn status(&self, remaining: usize) {
        self.send(None, "status", &json!({"status": {"exec_info": {"queue_remaining": remaining}}}));
    }

    /// Whether previews for this client are to be event 4.
    pub(super) fn wants_metadata(&self, client: Option<&str>) -> bool {
        client.is_some_and(|client| lock(&self.registered).get(client).is_some_and(|socket| socket.metadata))
    }

    /// Event 1.
    pub(super) fn preview(&self, client: Option<&str>, kind: Picture, picture: &[u8]) {
        let mut frame = Vec::with_capacity(picture.len() + 8);
        frame.extend(PREVIEW.to_be_bytes());
        frame.extend(kind.number().to_be_bytes());
        frame.extend(picture);
        self.send_binary(client, frame);
    }

    /// Event 4.
    pub(super) fn preview_with_metadata(&self, client: &str, metadata: &Value, picture: &[u8]) {
        let metadata = metadata.to_string();
        let mut frame = Vec::with_capacity(picture.len() + metadata.len() + 8);
        frame.extend(PREVIEW_WITH_METADATA.to_be_bytes());
        frame.extend(u32::try_from(metadata.len()).unwrap_or(0).to_be_bytes());
        frame.extend(metadata.as_bytes());
        frame.extend(picture);
        self.send_binary(Some(client), frame);
    }

    fn send_binary(&self, client: Option<&str>, frame: Vec<u8>) {
        let frame = bytes::Bytes::from(frame);
        for (id, socket) in lock(&self.registered).iter() {
            if client.is_none_or(|client| client == id) {
                let _ = socket.outbox.send(Message::Binary(frame.clone()));
            }
        }
    }

    fn register(&self, client: &str) -> UnboundedReceiver<Message> {
        let (outbox, inbox) = unbounded_channel();
        lock(&self.registered).insert(client.to_string(), Registered { outbox, metadata: false });
        inbox
    }
}

/// The life of one socket.
pub(super) async fn attend(server: Arc<Server>, mut socket: WebSocket, client: Option<String>) {
    let client = client.filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    server.seen().sockets += 1;
    // A socket that is taken over stays open: its own sender keeps the channel of its silence alive.
    let mut inbox = server.hub.register(&client);
    let welcome = json!({
        "status": {"exec_info": {"queue_remaining": server.queue.remaining()}},
        "sid": client,
    });
    server.hub.send(Some(&client), "status", &welcome);
    if let Some(node) = server.queue.running_node(&client) {
        server.hub.send(Some(&client), "executing", &json!({"node": node}));
    }
    let mut sent: u32 = 0;
    let mut first = true;
    let mut taken_over = false;
    loop {
        tokio::select! {
            message = inbox.recv(), if !taken_over => match message {
                None => taken_over = true,
                Some(message) => {
                    if silent(&server, sent) {
                        continue;
                    }
                    if socket.send(message).await.is_err() {
                        break;
                    }
                    sent += 1;
                    if cut(&server, sent) {
                        break;
                    }
                }
            },
            message = socket.recv() => match message {
                // A close is answered by the reading that follows it.
                None | Some(Err(_)) => break,
                Some(Ok(Message::Text(text))) => {
                    if std::mem::take(&mut first) {
                        flags(&server, &client, &text);
                    }
                }
                Some(Ok(_)) => {}
            },
        }
    }
    lock(&server.hub.registered).remove(&client);
}

/// The first text of a client may tell what it understands; the server tells what it can in turn.
fn flags(server: &Server, client: &str, text: &str) {
    let Ok(message) = serde_json::from_str::<Value>(text) else { return };
    if message["type"] != "feature_flags" {
        return;
    }
    if let Some(socket) = lock(&server.hub.registered).get_mut(client) {
        socket.metadata = message["data"]["supports_preview_metadata"] == true;
    }
    server.hub.send(Some(client), "feature_flags", &super::routes::features(server));
}

fn silent(server: &Server, sent: u32) -> bool {
    server.faults().silence_socket_after.is_some_and(|limit| sent >= limit)
}

fn cut(server: &Server, sent: u32) -> bool {
    let mut faults = server.faults();
    match &mut faults.drop_socket {
        Some(drop) if drop.times > 0 && sent >= drop.after => {
            drop.times -= 1;
            true
        }
        _ => false,
    }
}
