//! A recording as it is written down: events in order, each with what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// One recorded conversation.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub title: String,
    /// Of the server, as it was written down: `0.33.0`.
    pub version: String,
    pub events: Vec<Event>,
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Since the recording began.
    pub at: Duration,
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    Request(Request),
    /// The answer to the request at this place.
    Response {
        to: usize,
        response: Response,
    },
    /// The request at this place, if any, got no answer.
    Failure {
        to: Option<usize>,
        words: String,
    },
    /// A socket was opened under this client id.
    Connect {
        label: String,
        client: String,
    },
    /// A text frame of the server.
    Text {
        label: String,
        frame: Value,
    },
    Binary {
        label: String,
        binary: Binary,
    },
    Closed {
        label: String,
        code: Option<u16>,
    },
    /// Something done outside the protocol.
    Note(String),
    /// What the client said on its socket, and events nobody knows: nothing follows from them.
    Other,
}

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// Without `/api` where the same thing has a name without it, and without the query.
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// The body, where it is JSON.
    pub json: Option<Value>,
    /// The body, where it is recorded as text.
    pub text: Option<String>,
    /// That were chosen for the request, names in lower case.
    pub headers: BTreeMap<String, String>,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// Empty when there was none.
    pub content_type: String,
    pub headers: BTreeMap<String, String>,
    pub body: Body,
}

/// What an answer holds.
#[derive(Clone, Debug, Default)]
pub enum Body {
    Json(Value),
    Text(String),
    /// The first bytes, and how many there were.
    Bytes {
        head: Vec<u8>,
        length: usize,
    },
    #[default]
    Empty,
}

/// A binary frame.
#[derive(Clone, Debug)]
pub struct Binary {
    /// The number it begins with.
    pub event: u64,
    pub length: usize,
    pub head: Vec<u8>,
    /// Of an event 4.
    pub metadata: Option<Value>,
    /// Begins as the image did.
    pub image_head: Vec<u8>,
}

impl Recording {
    /// # Errors
    /// When an event lacks what its kind needs, with its place.
    pub fn parse(json: &Value) -> Result<Self> {
        let list = json["events"].as_array().context("a recording has a list `events`")?;
        let mut events: Vec<Event> = Vec::with_capacity(list.len());
        for (place, event) in list.iter().enumerate() {
            let what = what(event, &events).with_context(|| format!("event {place}"))?;
            events.push(Event { at: Duration::from_millis(event["t_ms"].as_u64().unwrap_or_default()), what });
        }
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_string();
        Ok(Self { title: text("title"), version: text("comfyui_version"), events })
    }
}

impl Response {
    /// The body as JSON, where it is an object or a list.
    pub fn json(&self) -> Option<&Value> {
        match &self.body {
            Body::Json(json) => Some(json),
            _ => None,
        }
    }

    /// An answer with JSON.
    pub fn of_json(status: u16, json: Value) -> Self {
        Self {
            status,
            content_type: "application/json; charset=utf-8".into(),
            body: Body::Json(json),
            ..Self::default()
        }
    }

    /// An answer with text.
    pub fn of_text(status: u16, text: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8".into(),
            body: Body::Text(text.into()),
            ..Self::default()
        }
    }

    /// An answer without anything.
    pub fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }
}

fn what(event: &Value, earlier: &[Event]) -> Result<What> {
    let label = event["socket"].as_str().unwrap_or("ws").to_string();
    let from_client = event["dir"] == "client->server";
    if let Some(request) = event.get("http_request") {
        return Ok(What::Request(parse_request(request)?));
    }
    if let Some(response) = event.get("http_response") {
        let to = unanswered(earlier).context("an answer without a request before it")?;
        return Ok(What::Response { to, response: parse_response(response)? });
    }
    if let Some(words) = event.get("http_failure") {
        return Ok(What::Failure { to: unanswered(earlier), words: words.as_str().unwrap_or_default().into() });
    }
    if let Some(connect) = event.get("ws_connect") {
        let label = connect["socket"].as_str().or(event["socket"].as_str()).unwrap_or("ws").to_string();
        let (_, query) = split(connect["path"].as_str().unwrap_or_default());
        return Ok(What::Connect { label, client: query.get("clientId").cloned().unwrap_or_default() });
    }
    if let Some(frame) = event.get("ws_text") {
        return Ok(if from_client { What::Other } else { What::Text { label, frame: frame.clone() } });
    }
    if let Some(binary) = event.get("ws_binary") {
        return Ok(if from_client { What::Other } else { What::Binary { label, binary: parse_binary(binary)? } });
    }
    if let Some(closed) = event.get("ws_closed") {
        let label = closed["socket"].as_str().map_or(label, str::to_string);
        return Ok(What::Closed { label, code: closed["code"].as_u64().and_then(|code| u16::try_from(code).ok()) });
    }
    Ok(event["note"].as_str().map_or(What::Other, |note| What::Note(note.into())))
}

/// The nearest earlier request that has no answer yet.
fn unanswered(earlier: &[Event]) -> Option<usize> {
    let answered: Vec<usize> = earlier
        .iter()
        .filter_map(|event| match event.what {
            What::Response { to, .. } => Some(to),
            What::Failure { to, .. } => to,
            _ => None,
        })
        .collect();
    (0..earlier.len()).rev().find(|&at| matches!(earlier[at].what, What::Request(_)) && !answered.contains(&at))
}

fn parse_request(json: &Value) -> Result<Request> {
    let (path, query) = split(json["path"].as_str().context("a request has a path")?);
    Ok(Request {
        method: json["method"].as_str().context("a request has a method")?.to_ascii_uppercase(),
        path,
        query,
        json: json.get("json").cloned(),
        text: json["body_text"].as_str().map(str::to_string),
        headers: headers(&json["headers"]),
    })
}

fn parse_response(json: &Value) -> Result<Response> {
    let body = if let Some(value) = json.get("json") {
        Body::Json(value.clone())
    } else if let Some(text) = json["text"].as_str() {
        Body::Text(text.into())
    } else if let Some(body) = json.get("body") {
        let head = bytes(&body["head_hex"])?;
        Body::Bytes { length: number(&body["length"]).unwrap_or(head.len()), head }
    } else {
        Body::Empty
    };
    let status = json["status"].as_u64().and_then(|status| u16::try_from(status).ok());
    Ok(Response {
        status: status.context("an answer has a status")?,
        content_type: json["content_type"].as_str().unwrap_or_default().into(),
        headers: headers(&json["headers"]),
        body,
    })
}

fn parse_binary(json: &Value) -> Result<Binary> {
    let head = bytes(&json["head_hex"])?;
    Ok(Binary {
        event: json["event_type"].as_u64().unwrap_or_default(),
        length: number(&json["length"]).unwrap_or(head.len()),
        head,
        metadata: json.get("metadata").filter(|metadata| metadata.is_object()).cloned(),
        image_head: bytes(&json["image_head_hex"])?,
    })
}

fn number(json: &Value) -> Option<usize> {
    json.as_u64().and_then(|number| usize::try_from(number).ok())
}

fn bytes(hex: &Value) -> Result<Vec<u8>> {
    let digits = hex.as_str().unwrap_or_default().as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let Some(byte) = std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()) else {
            bail!("`{hex}` is not written in hexadecimal digits");
        };
        bytes.push(byte);
    }
    Ok(bytes)
}

fn headers(json: &Value) -> BTreeMap<String, String> {
    let object = json.as_object().into_iter().flatten();
    object.filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value.as_str()?.to_string()))).collect()
}

/// Path and query. Every route also exists below `/api`; only the jobs have no name without it.
pub fn split(target: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match path.strip_prefix("/api/") {
        Some(rest) if rest != "jobs" && !rest.starts_with("jobs/") => format!("/{rest}"),
        _ => path.to_string(),
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    });
    (path, pairs.collect())
}

/// `%20` and `+` as what they stand for.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], escaped) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 3;
            }
            (b'+', _) => {
                plain.push(b' ');
                at += 1;
            }
            (byte, _) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}
