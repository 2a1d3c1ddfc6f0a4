//! ComfyUI's HTTP interface, as far as the host uses it. Every answer is read with care: control endpoints answer with
//! nothing, errors may be plain text, and `{}` may mean anything.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Client, Method, RequestBuilder, Response, StatusCode, multipart, redirect};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use url::Url;

use super::problems::cut;
use super::record::Item;
use crate::net::innermost;
use crate::task::Failure;

/// Where a server is, and what it wants to see on every request.
#[derive(Clone)]
pub struct Address {
    /// `http://127.0.0.1:8188/`; a path in it is kept in front of every route.
    pub url: Url,
    /// Sent with every request and with the WebSocket's handshake: authentication in front of an operator's server.
    pub headers: Vec<(String, String)>,
}

/// What the server is.
#[derive(Clone, Debug, PartialEq)]
pub struct System {
    pub version: String,
    /// `cuda`, `cpu`, … of the primary device.
    pub device_type: Option<String>,
    pub device_name: Option<String>,
    /// Bytes; of a CPU device these are the machine's.
    pub vram_total: Option<u64>,
    pub vram_free: Option<u64>,
}

/// Where a prompt is, as the server says.
#[derive(Debug)]
pub(super) enum Place {
    Recorded(Value),
    /// `alone`: no other prompt runs before it.
    Waiting {
        alone: bool,
    },
    Running,
    Nowhere,
}

/// A request that brought no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nobody listens: the process is gone, or not yet there.
    Refused(String),
    /// The connection broke, or nothing came in time: it may or may not have arrived.
    Broken(String),
    /// Some answer, but not one that was expected.
    Odd(String),
}

impl Trouble {
    pub fn words(&self) -> &str {
        match self {
            Trouble::Refused(words) | Trouble::Broken(words) | Trouble::Odd(words) => words,
        }
    }
}

/// The answer to a prompt.
pub(super) struct Submitted {
    pub status: u16,
    pub body: String,
}

/// The endpoints of one server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    base: Url,
    headers: HeaderMap,
    /// Longest time one small request may take.
    request: Duration,
}

impl Http {
    /// `bad_address` when the URL or a header is none.
    pub fn new(address: &Address, connect: Duration, request: Duration) -> Result<Self, Failure> {
        // Fails when a provider is installed already: that one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let bad =
            |why: String| Failure::invalid("bad_address", format!("Cannot talk to ComfyUI at {}: {why}", address.url));
        if !matches!(address.url.scheme(), "http" | "https") || address.url.host().is_none() {
            return Err(bad("expected an address such as http://127.0.0.1:8188".into()));
        }
        let mut base = address.url.clone();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &address.headers {
            let name: HeaderName = name.parse().map_err(|_| bad(format!("`{name}` is no name of a header")))?;
            let mut value: HeaderValue = value.parse().map_err(|_| bad(format!("the value for `{name}` is none")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        // An operator's server is configured, not found in a task: private addresses are what is meant, and a proxy of
        // the environment is not. Redirects are refused, for they would carry the headers away.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(connect)
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(15))
            .user_agent(concat!("enginehouse/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers.clone())
            .build()
            .map_err(|e| bad(innermost(&e)))?;
        Ok(Self { client, base, headers, request })
    }

    /// The WebSocket's address and headers.
    pub fn socket(&self, client_id: &str) -> Option<(Url, &HeaderMap)> {
        let mut url = self.url("ws").ok()?;
        url.set_scheme(if url.scheme() == "https" { "wss" } else { "ws" }).ok()?;
        url.query_pairs_mut().append_pair("clientId", client_id);
        Some((url, &self.headers))
    }

    pub async fn system(&self) -> Result<System, Trouble> {
        let answer = self.json(self.get("system_stats")?).await?;
        let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).map(String::from);
        let bytes = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64);
        Ok(System {
            version: text("/system/comfyui_version")
                .ok_or_else(|| Trouble::Odd("its /system_stats names no `comfyui_version`".into()))?,
            device_type: text("/devices/0/type"),
            device_name: text("/devices/0/name"),
            vram_total: bytes("/devices/0/vram_total"),
            vram_free: bytes("/devices/0/vram_free"),
        })
    }

    pub async fn submit(&self, body: &Value) -> Result<Submitted, Trouble> {
        let request = self.client.post(self.url("prompt")?).timeout(self.request).json_body(body);
        let answer = request.send().await.map_err(|e| trouble(&e))?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|e| trouble(&e))?;
        Ok(Submitted { status, body })
    }

    /// The record of a prompt that is over; none: pending, running, forgotten or never known.
    pub async fn record(&self, id: &str) -> Result<Option<Value>, Trouble> {
        let mut answer = self.json(self.get(&format!("history/{id}"))?).await?;
        Ok(answer.get_mut(id).map(Value::take).filter(Value::is_object))
    }

    /// Where a prompt is. Asked in this order, so that one that moves on meanwhile is found further on.
    pub async fn locate(&self, id: &str) -> Result<Place, Trouble> {
        let queue = self.json(self.get("queue")?).await?;
        let holds = |list: &str| {
            let items = queue.get(list).and_then(Value::as_array).into_iter().flatten();
            items.filter_map(|item| item.get(1)).any(|known| known.as_str() == Some(id))
        };
        if holds("queue_running") {
            return Ok(Place::Running);
        }
        if holds("queue_pending") {
            let alone = queue.get("queue_running").and_then(Value::as_array).is_none_or(Vec::is_empty);
            return Ok(Place::Waiting { alone });
        }
        Ok(self.record(id).await?.map_or(Place::Nowhere, Place::Recorded))
    }

    /// What stands beside the prompt that the server has queued or runs under an id (`extra_data`).
    pub async fn queued_extra(&self, id: &str) -> Result<Option<Value>, Trouble> {
        let queue = self.json(self.get("queue")?).await?;
        let lists = ["queue_running", "queue_pending"].into_iter().filter_map(|list| queue.get(list)?.as_array());
        let found = lists.flatten().find(|item| item.get(1).and_then(Value::as_str) == Some(id));
        Ok(found.and_then(|item| item.get(3)).cloned())
    }

    /// Stops a prompt with one call. `Ok(false)`: the server has no such route.
    pub async fn cancel_job(&self, id: &str) -> Result<bool, Trouble> {
        let answer = self.send(self.client.post(self.url(&format!("api/jobs/{id}/cancel"))?)).await?;
        Ok(answer.status().is_success())
    }

    /// Takes a prompt out of the queue; one that runs already is not touched.
    pub async fn unqueue(&self, id: &str) -> Result<(), Trouble> {
        self.post("queue", &json!({ "delete": [id] })).await
    }

    /// Stops this prompt, if it runs, and no other.
    pub async fn interrupt(&self, id: &str) -> Result<(), Trouble> {
        self.post("interrupt", &json!({ "prompt_id": id })).await
    }

    /// Removes a record: the server keeps up to 10,000 of them with their graphs otherwise.
    pub async fn forget(&self, id: &str) -> Result<(), Trouble> {
        self.post("history", &json!({ "delete": [id] })).await
    }

    /// Asks for memory back; done between prompts, so not at once while one runs.
    pub async fn free(&self, unload_models: bool, free_memory: bool) -> Result<(), Trouble> {
        self.post("free", &json!({ "unload_models": unload_models, "free_memory": free_memory })).await
    }

    /// What the server says about node classes; classes it does not have are left out.
    pub async fn object_info(&self, classes: impl IntoIterator<Item = &str>) -> Result<Map<String, Value>, Trouble> {
        let mut known = Map::new();
        for class in classes {
            let mut url = self.url("object_info")?;
            if let Ok(mut path) = url.path_segments_mut() {
                path.push(class);
            }
            if let Value::Object(found) = self.json(self.client.get(url)).await? {
                known.extend(found);
            }
        }
        Ok(known)
    }

    /// Streams a file to the server's input folder; the name that the graph has to use.
    pub async fn upload(&self, path: &Path, name: &str, subfolder: &str, limit: Duration) -> Result<String, Upload> {
        let failed = |e: std::io::Error| Upload::File(format!("cannot read {}: {e}", path.display()));
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        let part = multipart::Part::stream_with_length(Body::wrap_stream(ReaderStream::new(file)), length)
            .file_name(name.to_string());
        let form =
            multipart::Form::new().text("subfolder", subfolder.to_string()).text("type", "input").part("image", part);
        let url = self.url("upload/image").map_err(Upload::Trouble)?;
        let answer = self.client.post(url).multipart(form).timeout(limit).send().await;
        let answer = answer.map_err(|e| Upload::Trouble(trouble(&e)))?;
        match answer.status() {
            StatusCode::PAYLOAD_TOO_LARGE => return Err(Upload::TooLarge(length)),
            status if !status.is_success() => {
                return Err(Upload::Trouble(Trouble::Odd(format!("it refused the upload of {name} (HTTP {status})"))));
            }
            _ => {}
        }
        let stored: Value = answer
            .text()
            .await
            .ok()
            .and_then(|body| serde_json::from_str(&body).ok())
            .ok_or_else(|| Upload::Trouble(Trouble::Odd(format!("it did not say where it put {name}"))))?;
        let text = |key: &str| stored.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("name").unwrap_or(name);
        Ok(text("subfolder").map_or(name.to_string(), |folder| format!("{folder}/{name}")))
    }

    /// Fetches a file that a record names. `Ok(false)`: it is not there, or empty.
    pub async fn fetch(&self, item: &Item, to: &Path, limit: Duration) -> Result<bool, Trouble> {
        let mut url = self.url("view")?;
        url.query_pairs_mut()
            .append_pair("filename", &item.name)
            .append_pair("subfolder", &item.subfolder)
            .append_pair("type", &item.folder);
        let answer = self.client.get(url).timeout(limit).send().await.map_err(|e| trouble(&e))?;
        match answer.status() {
            StatusCode::NOT_FOUND => return Ok(false),
            status if !status.is_success() => {
                return Err(Trouble::Odd(format!("it did not give {} (HTTP {status})", item.name)));
            }
            _ => {}
        }
        let written = |e: std::io::Error| Trouble::Odd(format!("cannot write {}: {e}", to.display()));
        let mut file = tokio::fs::File::create(to).await.map_err(written)?;
        let mut length = 0;
        let mut body = answer.bytes_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|e| trouble(&e))?;
            length += piece.len();
            file.write_all(&piece).await.map_err(written)?;
        }
        file.flush().await.map_err(written)?;
        Ok(length > 0)
    }

    fn get(&self, route: &str) -> Result<RequestBuilder, Trouble> {
        Ok(self.client.request(Method::GET, self.url(route)?))
    }

    fn url(&self, route: &str) -> Result<Url, Trouble> {
        self.base.join(route).map_err(|e| Trouble::Odd(format!("`{route}` makes no address: {e}")))
    }

    /// Control endpoints: done, with nothing to read.
    async fn post(&self, route: &str, body: &Value) -> Result<(), Trouble> {
        let answer = self.send(self.client.post(self.url(route)?).json_body(body)).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(Trouble::Odd(format!("it answered HTTP {status} to /{route}"))),
        }
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, Trouble> {
        let answer = self.send(request).await?;
        let status = answer.status();
        let body = answer.text().await.map_err(|e| trouble(&e))?;
        if !status.is_success() {
            return Err(Trouble::Odd(format!("it answered HTTP {status}: {}", cut(body.trim(), 200))));
        }
        serde_json::from_str(&body).map_err(|e| Trouble::Odd(format!("its answer is no JSON: {e}")))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Trouble> {
        request.timeout(self.request).send().await.map_err(|e| trouble(&e))
    }
}

/// Why an upload failed.
pub(super) enum Upload {
    /// Of this many bytes.
    TooLarge(u64),
    /// Our file, not the server.
    File(String),
    Trouble(Trouble),
}

/// A JSON body without reqwest's own feature for it: the text is made where its size is known.
trait JsonBody {
    fn json_body(self, body: &Value) -> Self;
}

impl JsonBody for RequestBuilder {
    fn json_body(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }
}

fn trouble(error: &reqwest::Error) -> Trouble {
    let words = if error.is_timeout() { "it did not answer in time".to_string() } else { innermost(error) };
    // Without a connection nothing can have arrived.
    if error.is_connect() && !error.is_timeout() && error.source().is_some() {
        Trouble::Refused(words)
    } else {
        Trouble::Broken(words)
    }
}
