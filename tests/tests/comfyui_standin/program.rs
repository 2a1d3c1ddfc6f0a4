//! The running program and sockets to it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;

use crate::heard::Heard;
use crate::http::{Answer, ask};

/// The longest wait for anything.
pub const CEILING: Duration = Duration::from_secs(60);

/// The stand-in in a folder and on a port of its own; it ends with the test.
pub struct Program {
    root: tempfile::TempDir,
    pub address: SocketAddr,
    child: Option<Child>,
}

impl Program {
    pub fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(root.path().join("user")).expect("a folder");
        Self { root, address: free_address(), child: None }
    }

    /// With faults in `standin.json`.
    pub fn with_faults(faults: &Value) -> Self {
        let program = Self::new();
        std::fs::write(program.folder("standin.json"), faults.to_string()).expect("a file");
        program
    }

    /// Starts it, without waiting for anything.
    pub fn spawn(&mut self, more: &[&str]) {
        let child = Command::new(env!("CARGO_BIN_EXE_comfyui-standin"))
            .arg(self.folder("main.py"))
            .args(["--listen", "127.0.0.1", "--port", &self.address.port().to_string(), "--cpu"])
            .args(more)
            .stderr(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the stand-in starts");
        self.child = Some(child);
    }

    /// Starts it and waits until it is ready.
    pub async fn launch(&mut self) {
        self.spawn(&[]);
        self.ready().await;
    }

    pub async fn ready(&self) {
        until("the stand-in is ready", async || matches!(self.get("/system_stats").await, Ok(a) if a.status == 200))
            .await;
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn output(&self, subfolder: &str, name: &str) -> PathBuf {
        self.folder("output").join(subfolder).join(name)
    }

    pub async fn get(&self, path: &str) -> std::io::Result<Answer> {
        ask(self.address, "GET", path, &[], b"").await
    }

    /// The JSON of a path that answers.
    pub async fn json(&self, path: &str) -> Value {
        self.get(path).await.expect("the stand-in answers").json()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        ask(self.address, "POST", path, &[], body.to_string().as_bytes()).await.expect("the stand-in answers")
    }

    /// Submits a graph; gives the prompt id.
    pub async fn submit(&self, graph: &Value, client: Option<&str>) -> String {
        let mut body = json!({"prompt": graph});
        if let Some(client) = client {
            body["client_id"] = json!(client);
        }
        let answer = self.post("/prompt", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.json());
        answer.json()["prompt_id"].as_str().expect("a prompt has an id").to_string()
    }

    /// The record of a prompt, once it is there.
    pub async fn record(&self, id: &str) -> Value {
        until("the prompt has a record", async || self.json(&format!("/history/{id}")).await != json!({})).await;
        self.json(&format!("/history/{id}")).await[id].clone()
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        let id = id.and_then(Pid::from_raw).expect("the stand-in runs");
        rustix::process::kill_process(id, signal).expect("the stand-in can be signalled");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the stand-in was started");
        tokio::time::timeout(CEILING, child.wait()).await.expect("it ends").expect("it has a status")
    }
}

/// An address nobody listens at. Its port lies below those that the system hands out by itself, so that no other
/// connection gets it before the server does, nor while the server is restarted.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() * 61 % 10_000).expect("it is below 10000");
    loop {
        let port = 12_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + CEILING;
    while !condition().await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// A socket that remembers what it heard.
pub struct Socket {
    send: futures::stream::SplitSink<
        tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
        Message,
    >,
    heard: Arc<Mutex<Vec<Heard>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Socket {
    pub async fn open(server: SocketAddr, path: &str) -> Self {
        let (stream, _) = tokio_tungstenite::connect_async(format!("ws://{server}{path}"))
            .await
            .expect("the stand-in takes the socket");
        let (send, mut receive) = stream.split();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        let reader = tokio::spawn(async move {
            let note = |one| hears.lock().expect("nobody panicked").push(one);
            loop {
                match receive.next().await {
                    Some(Ok(Message::Text(text))) => {
                        note(Heard::Text(serde_json::from_str(&text).unwrap_or(Value::Null)));
                    }
                    Some(Ok(Message::Binary(bytes))) => note(Heard::frame(&bytes)),
                    Some(Ok(Message::Close(_))) => break,
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        note(Heard::Cut);
                        break;
                    }
                    None => break,
                }
            }
        });
        Self { send, heard, reader }
    }

    /// Opens one and waits until it is registered.
    pub async fn registered(server: SocketAddr, client: &str) -> Self {
        let socket = Self::open(server, &format!("/ws?clientId={client}")).await;
        until("the socket is registered", async || !socket.heard().is_empty()).await;
        socket
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("nobody panicked").clone()
    }

    /// Waits for a message of this type.
    pub async fn hears(&self, kind: &str) {
        until(kind, async || self.heard().iter().any(|one| one.kind() == kind)).await;
    }

    pub async fn send(&mut self, text: String) {
        self.send.send(Message::text(text)).await.expect("the socket is open");
    }

    pub async fn close(&mut self) {
        let _ = self.send.close().await;
        let _ = tokio::time::timeout(CEILING, &mut self.reader).await;
    }
}
