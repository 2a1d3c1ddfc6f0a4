//! The one long-lived WebSocket of a client: kept connected while the client lives, and its messages handed to whoever
//! follows the prompt they are about. Nothing is trusted to arrive: followers are told of every interruption and look at
//! the server's record then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Times;
use super::events::{self, Event, News, Picture};
use super::http::Http;

/// Largest message: previews of large pictures are some MB.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;
/// Pauses between attempts to connect.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];
/// One preview of a prompt is handed on in this time.
const PREVIEWS: Duration = Duration::from_secs(1);

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a follower hears.
#[derive(Clone, Debug)]
pub(super) enum Note {
    News(News),
    Preview(Picture),
    /// The socket broke, or is back: what was said meanwhile is lost.
    Missed,
}

/// The socket. Dropping it closes it.
pub(super) struct Socket {
    shared: Arc<Shared>,
    connected: watch::Receiver<bool>,
    _stop: DropGuard,
}

/// Hears of one prompt until dropped.
pub(super) struct Listener {
    shared: Arc<Shared>,
    prompt: String,
    notes: mpsc::UnboundedReceiver<Note>,
}

#[derive(Default)]
struct Shared {
    followers: Mutex<HashMap<String, Follower>>,
}

struct Follower {
    notes: mpsc::UnboundedSender<Note>,
    running: bool,
    previewed: Option<Instant>,
}

impl Socket {
    /// Connects, and again whenever it breaks.
    pub fn open(http: Http, client_id: String, times: Times) -> Self {
        let shared = Arc::new(Shared::default());
        let (connected, watched) = watch::channel(false);
        let stop = CancellationToken::new();
        let (keeper, stopped) = (shared.clone(), stop.clone());
        tokio::spawn(async move {
            let keep = keep(http, client_id, times, keeper, connected);
            tokio::select! {
                () = keep => {}
                () = stopped.cancelled() => {}
            }
        });
        Self { shared, connected: watched, _stop: stop.drop_guard() }
    }

    /// Returns when the server has confirmed the registration.
    pub async fn registered(&self) {
        let mut connected = self.connected.clone();
        // The keeper ends with this socket alone.
        let _ = connected.wait_for(|connected| *connected).await;
    }

    /// Whether the server sends to this socket now.
    pub fn is_registered(&self) -> bool {
        *self.connected.borrow()
    }

    /// From now on, everything about a prompt.
    pub fn listen(&self, prompt: &str) -> Listener {
        let (sender, notes) = mpsc::unbounded_channel();
        let follower = Follower { notes: sender, running: false, previewed: None };
        self.shared.followers().insert(prompt.to_string(), follower);
        Listener { shared: self.shared.clone(), prompt: prompt.to_string(), notes }
    }
}

impl Listener {
    /// The next note; never, once the socket is gone.
    pub async fn next(&mut self) -> Note {
        match self.notes.recv().await {
            Some(note) => note,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.followers().remove(&self.prompt);
    }
}

impl Shared {
    /// Nothing panics while it holds the lock.
    fn followers(&self) -> MutexGuard<'_, HashMap<String, Follower>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_all(&self) {
        for follower in self.followers().values() {
            // Whoever stopped listening is about to be removed.
            let _ = follower.notes.send(Note::Missed);
        }
    }

    fn hand_on(&self, event: Event) {
        let mut followers = self.followers();
        match event {
            Event::About { prompt, news } => {
                let Some(follower) = followers.get_mut(&prompt) else { return };
                follower.running = news != News::Over;
                let _ = follower.notes.send(Note::News(news));
            }
            Event::Preview { prompt, picture } => {
                let follower = match prompt {
                    Some(prompt) => followers.get_mut(&prompt),
                    // Older frames name no prompt: it is the one that runs, and only one of a client runs at a time.
                    None => followers.values_mut().find(|follower| follower.running),
                };
                let Some(follower) = follower else { return };
                if follower.previewed.is_none_or(|at| at.elapsed() >= PREVIEWS) {
                    follower.previewed = Some(Instant::now());
                    let _ = follower.notes.send(Note::Preview(picture));
                }
            }
            Event::Status | Event::Other => {}
        }
    }
}

/// Keeps the socket connected for ever.
async fn keep(http: Http, client_id: String, times: Times, shared: Arc<Shared>, connected: watch::Sender<bool>) {
    let [first, last] = PAUSES;
    let mut pause = first;
    loop {
        match tokio::time::timeout(times.connect, connect(&http, &client_id)).await {
            Ok(Ok(stream)) => {
                let registered = follow(stream, &times, &shared, &connected).await;
                connected.send_replace(false);
                shared.tell_all();
                if registered {
                    pause = first;
                }
            }
            Ok(Err(why)) => tracing::debug!(why, "the WebSocket of ComfyUI could not be opened"),
            Err(_) => tracing::debug!("the WebSocket of ComfyUI was not open in time"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(last);
    }
}

async fn connect(http: &Http, client_id: &str) -> Result<Stream, String> {
    let (url, headers) = http.socket(client_id).ok_or("its address makes none for a WebSocket")?;
    let mut request = url.as_str().into_client_request().map_err(|e| e.to_string())?;
    request.headers_mut().extend(headers.clone());
    let config =
        WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE)).max_frame_size(Some(LARGEST_MESSAGE));
    let (mut stream, _) =
        connect_async_tls_with_config(request, Some(config), true, None).await.map_err(|e| e.to_string())?;
    // Asks for previews that say which prompt they belong to; servers that do not know the message ignore it.
    let features = r#"{"type":"feature_flags","data":{"supports_preview_metadata":true}}"#;
    stream.send(Message::text(features)).await.map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Follows a socket until it breaks, is closed or falls silent. Whether the server had registered it.
async fn follow(mut stream: Stream, times: &Times, shared: &Shared, connected: &watch::Sender<bool>) -> bool {
    let mut registered = false;
    let mut heard = Instant::now();
    let mut pinged = false;
    loop {
        let silence = heard + if pinged { times.ping + times.pong } else { times.ping };
        let frame = tokio::select! {
            frame = stream.next() => frame,
            () = tokio::time::sleep_until(silence) => {
                // A server whose interpreter is busy may take its time to answer.
                if pinged || stream.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                    break;
                }
                pinged = true;
                continue;
            }
        };
        heard = Instant::now();
        pinged = false;
        let event = match frame {
            Some(Ok(Message::Text(text))) => events::text(text.as_str()),
            Some(Ok(Message::Binary(bytes))) => events::binary(&bytes),
            Some(Ok(Message::Close(_))) | None => break,
            Some(Err(tungstenite::Error::Capacity(e))) => {
                tracing::warn!(error = %e, "a message of ComfyUI is too large; the WebSocket is opened again");
                break;
            }
            Some(Err(_)) => break,
            Some(Ok(_)) => continue,
        };
        if event == Event::Status && !registered {
            registered = true;
            connected.send_replace(true);
            // What happened before is lost to whoever follows a prompt already.
            shared.tell_all();
        }
        shared.hand_on(event);
    }
    // Seen closed before the next one is opened under the same id: the server forgets the new one otherwise.
    let _ = tokio::time::timeout(times.pong, async {
        let _ = stream.close(None).await;
        while let Some(Ok(_)) = stream.next().await {}
    })
    .await;
    registered
}
