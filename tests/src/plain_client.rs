//! HTTP and a WebSocket without any cleverness: what a server really answers, request by request and frame by frame.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null when it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One request over a connection of its own.
///
/// # Errors
/// When nobody listens, or the connection ends without an answer.
pub async fn ask(server: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect(server).await.context("nobody listens")?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { bail!("no answer came") };
    let text = String::from_utf8_lossy(&all[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(':'));
    Ok(Answer {
        status: status.context("the answer has no status")?,
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string())).collect(),
        body: all[end + 4..].to_vec(),
    })
}

/// A WebSocket.
pub struct Ear(WebSocketStream<TcpStream>);

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Text(Value),
    Binary(Vec<u8>),
    /// A close frame with this code.
    Closed(u16),
    /// The end, without a close frame.
    Broken,
    /// Nothing, for as long as was waited.
    Silence,
}

impl Ear {
    /// # Errors
    /// When nobody listens, or it is no WebSocket.
    pub async fn open(server: SocketAddr, client: &str) -> Result<Self> {
        let stream = TcpStream::connect(server).await.context("nobody listens")?;
        let url = format!("ws://{server}/ws?clientId={client}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
        Ok(Self(socket))
    }

    /// The next frame, unless there is silence for this long.
    pub async fn hear(&mut self, limit: Duration) -> Heard {
        loop {
            let Ok(next) = tokio::time::timeout(limit, self.0.next()).await else { return Heard::Silence };
            return match next {
                Some(Ok(Message::Text(text))) => Heard::Text(serde_json::from_str(&text).unwrap_or_default()),
                Some(Ok(Message::Binary(bytes))) => Heard::Binary(bytes.to_vec()),
                Some(Ok(Message::Close(frame))) => Heard::Closed(frame.map_or(1005, |frame| frame.code.into())),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Heard::Broken,
            };
        }
    }

    /// Says something.
    ///
    /// # Errors
    /// When the socket is at its end.
    pub async fn say(&mut self, frame: &Value) -> Result<()> {
        futures::SinkExt::send(&mut self.0, Message::Text(frame.to_string().into())).await?;
        Ok(())
    }
}
