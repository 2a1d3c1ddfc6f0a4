//! A minimal client of ComfyUI, for comparison: submit, wait for the socket's word, read the record, fetch the outputs. It
//! trusts every message and survives nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::graph::Graph;
use super::http::{Address, Http};
use super::record::{self, Verdict};

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// The client.
pub struct Bare {
    http: Http,
    id: String,
    waiting: Waiting,
    _reading: AbortOnDropHandle<()>,
}

impl Bare {
    /// Opens the socket.
    ///
    /// # Errors
    /// In words, when the server does not answer.
    pub async fn connect(address: &Address) -> Result<Self, String> {
        let limit = Duration::from_secs(30);
        let http = Http::new(address, limit, limit).map_err(|failure| failure.message)?;
        let id = Uuid::new_v4().to_string();
        let (url, _) = http.socket(&id).ok_or("no address for a WebSocket")?;
        let (mut stream, _) =
            tokio_tungstenite::connect_async_with_config(url.as_str(), None, true).await.map_err(|e| e.to_string())?;
        // The first message confirms the registration.
        let _ = stream.next().await;
        let waiting = Waiting::default();
        let told = waiting.clone();
        let reading = tokio::spawn(async move {
            while let Some(Ok(message)) = stream.next().await {
                let Message::Text(text) = message else { continue };
                let Ok(message) = serde_json::from_str::<Value>(text.as_str()) else { continue };
                if message.get("type").and_then(Value::as_str) == Some("executing")
                    && message.pointer("/data/node") == Some(&Value::Null)
                    && let Some(prompt) = message.pointer("/data/prompt_id").and_then(Value::as_str)
                    && let Some(over) = lock(&told).remove(prompt)
                {
                    // Whoever waited may have left.
                    let _ = over.send(());
                }
            }
        });
        Ok(Self { http, id, waiting, _reading: AbortOnDropHandle::new(reading) })
    }

    /// Runs a graph and writes its outputs into a folder; how many there were.
    ///
    /// # Errors
    /// In words, at the first thing that goes wrong.
    pub async fn run(&self, graph: &Graph, folder: &Path) -> Result<usize, String> {
        let prompt = Uuid::new_v4().to_string();
        let (over, told) = oneshot::channel();
        lock(&self.waiting).insert(prompt.clone(), over);
        let body = json!({ "prompt": graph, "client_id": self.id, "prompt_id": prompt });
        let answer = self.http.submit(&body).await.map_err(|trouble| trouble.words().to_string())?;
        if answer.status != 200 {
            return Err(format!("HTTP {}: {}", answer.status, answer.body));
        }
        told.await.map_err(|_| "the socket broke".to_string())?;
        let record = self.http.record(&prompt).await.map_err(|trouble| trouble.words().to_string())?;
        let record = record.ok_or("there is no record")?;
        let Verdict::Success(items) = record::read(&record, graph, &std::collections::BTreeSet::new()) else {
            return Err("the prompt failed".into());
        };
        for (index, item) in items.iter().enumerate() {
            let there = self.http.fetch(item, &folder.join(index.to_string()), Duration::from_secs(30)).await;
            if !there.map_err(|trouble| trouble.words().to_string())? {
                return Err(format!("{} is not there", item.name));
            }
        }
        Ok(items.len())
    }
}

/// Nothing panics while it holds the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
