//! A client of one ComfyUI server: its HTTP interface, its socket, and where its files lie.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::graph::Graph;
use super::http::{Address, Http, System, Trouble};
use super::socket::Socket;
use crate::engines::{Report, WorkflowTerms};
use crate::task::Failure;
use crate::templates::OutputKind;

/// The namespace of prompt ids: one for all hosts, so that any host that goes on with a task finds its prompts.
const PROMPTS: Uuid = Uuid::from_u128(0x6f0c_1f0a_4d2e_5b7a_9c53_2d1f_8a7b_e411);

/// How long a client waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// For a connection, and for the socket's registration.
    pub connect: Duration,
    /// For the answer to a small request. Servers stall for seconds while they load a model.
    pub request: Duration,
    /// For one file to be sent or fetched.
    pub transfer: Duration,
    /// Silence after which the socket is asked whether it still lives…
    pub ping: Duration,
    /// … and how long it may take to say so.
    pub pong: Duration,
    /// Between two looks at the server's record while a prompt runs: the first pause and the longest.
    pub poll: (Duration, Duration),
    /// For the record to appear once the socket has said that a prompt is over.
    pub record: Duration,
    /// How long nobody may listen before the server counts as dead.
    pub unreachable: Duration,
    /// How long a prompt that runs may say nothing.
    pub inactive: Duration,
    /// How long a prompt may take to stop once told to.
    pub cancel_grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            transfer: Duration::from_secs(600),
            ping: Duration::from_secs(20),
            pong: Duration::from_secs(30),
            poll: (Duration::from_secs(1), Duration::from_secs(5)),
            record: Duration::from_secs(5),
            unreachable: Duration::from_secs(5),
            inactive: Duration::from_secs(900),
            cancel_grace: Duration::from_secs(30),
        }
    }
}

/// One prompt: a graph under an id that is ours.
#[derive(Clone, Debug)]
pub struct Prompt {
    pub id: Uuid,
    pub graph: Graph,
    pub terms: WorkflowTerms,
    /// The server may know it already, from an earlier life of this host: it is asked first.
    pub seek: bool,
}

/// What goes with the run of a prompt.
pub struct Run<'a> {
    /// Where the outputs go. Empty.
    pub folder: &'a Path,
    /// Where the newest preview goes, if it is wanted.
    pub preview: Option<&'a Path>,
    pub report: &'a Report,
    /// Fires when the prompt must stop.
    pub cancel: &'a CancellationToken,
    /// Fires when the server's process is known to be gone.
    pub gone: &'a CancellationToken,
}

/// A file that a prompt left.
#[derive(Clone, Debug)]
pub struct Collected {
    /// As the server called it.
    pub name: String,
    pub subfolder: String,
    pub kind: OutputKind,
    pub node: String,
    /// Where it lies now.
    pub path: PathBuf,
}

/// The folders of a server on this machine: files are taken from there, without a detour through HTTP.
#[derive(Clone, Debug)]
pub struct Folders {
    pub input: PathBuf,
    pub output: PathBuf,
    /// The real one: servers make a folder `temp` in the one they are given.
    pub temp: PathBuf,
}

/// A client. Many prompts may run at once.
pub struct Client {
    pub(super) http: Http,
    pub(super) socket: Socket,
    pub(super) id: String,
    pub(super) times: Times,
    pub(super) folders: Option<Folders>,
    /// The server stops a prompt with one call.
    pub(super) cancels: AtomicBool,
}

impl Client {
    /// Makes a client and opens its socket in the background. `folders`: of a server on this machine.
    pub fn new(address: &Address, times: Times, folders: Option<Folders>) -> Result<Self, Failure> {
        let http = Http::new(address, times.connect, times.request)?;
        let id = format!("enginehouse-{}", Uuid::new_v4().simple());
        let socket = Socket::open(http.clone(), id.clone(), times);
        Ok(Self { http, socket, id, times, folders, cancels: AtomicBool::new(true) })
    }

    /// What the server is. Words for people when it does not answer.
    pub async fn system(&self) -> Result<System, String> {
        self.http.system().await.map_err(words)
    }

    /// Asks the server for memory back: models off the GPU, and with `free_memory` the results it keeps as well. It obeys
    /// between prompts.
    pub async fn free(&self, unload_models: bool, free_memory: bool) -> Result<(), String> {
        self.http.free(unload_models, free_memory).await.map_err(words)
    }

    /// What the server says about node classes; classes it does not have are left out.
    pub async fn object_info(&self, classes: impl IntoIterator<Item = &str>) -> Result<Map<String, Value>, String> {
        self.http.object_info(classes).await.map_err(words)
    }

    /// Removes a prompt's record from the server. To be called once its end is durable here.
    pub async fn forget(&self, id: Uuid) {
        if let Err(trouble) = self.http.forget(&id.to_string()).await {
            tracing::debug!(prompt = %id, why = trouble.words(), "a record of ComfyUI was not deleted");
        }
    }
}

/// The id of a prompt: UUIDv5 of the job's key `task/attempt/seq`; further tries by class append `#2`.
pub fn prompt_id(key: &str) -> Uuid {
    Uuid::new_v5(&PROMPTS, key.as_bytes())
}

fn words(trouble: Trouble) -> String {
    trouble.words().to_string()
}
