//! A ComfyUI server that plays one recorded conversation again, over real HTTP and a real WebSocket on a port of this
//! machine, to a client that the recording has never seen.
//!
//! A submission is recognised by its graph, and the client's own prompt id is written over the recorded one. From there
//! the recording is played, message by message; what belongs to prompts that the client does not make is played under
//! their own ids. Everything that can be asked over HTTP agrees with what has been played so far. Sockets end where they
//! ended, and a server that died refuses connections, until it is back where it came back.
//!
//! - `recording.rs`: what is written down.
//! - `tape.rs`, `files.rs`: what follows from it as a whole: whose message is whose, where prompts end, which files there are.
//! - `stage.rs`: where a replay stands, and what submissions, messages and interruptions do to it.
//! - `player.rs`: the recording, played at its own pace.
//! - `answers.rs`: what can be asked over HTTP.
//! - `server.rs`, `line.rs`: HTTP, sockets, and a port that can be closed.
//! - `frames.rs`, `ids.rs`: binary frames made whole, ids written over.

mod answers;
mod files;
mod frames;
mod ids;
mod line;
mod player;
mod recording;
mod server;
mod stage;
mod tape;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use recording::Recording;
use stage::Stage;
use tape::Tape;

/// How a recording is played.
#[derive(Clone, Debug)]
pub struct Options {
    /// The submissions that the client makes, counted from 0; the others are somebody else's. None: all of them.
    pub ours: Option<BTreeSet<usize>>,
    /// The first submission that a graph may stand for: equal graphs before it are not meant.
    pub from: usize,
    /// The submissions of which what follows the first progress is held back until their interruption is asked for.
    pub hold: BTreeSet<usize>,
    /// Longest time between two messages; longer ones of the recording are shortened to it.
    pub longest_gap: Duration,
    /// How long a replay that comes to the place where the client reconnected waits for that.
    pub reconnect: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ours: None,
            from: 0,
            hold: BTreeSet::new(),
            longest_gap: Duration::from_secs(3),
            reconnect: Duration::from_secs(10),
        }
    }
}

/// The server. It ends when it is dropped.
pub struct Replay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    player: JoinHandle<()>,
}

/// What the player and the handlers share.
struct Shared {
    stage: Mutex<Stage>,
    /// Something happened that the player may have waited for.
    changed: Notify,
}

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().expect("no holder of the stage panics")
    }
}

impl Replay {
    /// Starts to listen. Nothing is played before the client submits.
    ///
    /// # Errors
    /// When the recording is not one, or no port is free.
    pub async fn start(recording: &Value, options: Options) -> Result<Self> {
        let stage = Stage::new(Tape::new(Recording::parse(recording)?), options);
        let shared = Arc::new(Shared { stage: Mutex::new(stage), changed: Notify::new() });
        let mut port = line::Port::hold()?;
        let address = port.address;
        if shared.stage().up {
            port.open(server::router(shared.clone()))?;
        }
        let player = tokio::spawn(player::play(shared.clone(), port));
        Ok(Self { address, shared, player })
    }

    /// `http://127.0.0.1:PORT/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// The graph of a submission, as recorded.
    pub fn graph(&self, submission: usize) -> Option<Value> {
        self.shared.stage().tape.submissions.get(submission).map(|submission| submission.graph.clone())
    }

    /// The prompt id of a submission, as recorded. Empty: it had none.
    pub fn recorded_id(&self, submission: usize) -> Option<String> {
        self.shared.stage().tape.submissions.get(submission).map(|submission| submission.id.clone())
    }

    /// Whether a prompt is held back until its interruption is asked for.
    pub fn holding(&self) -> bool {
        self.shared.stage().holding()
    }

    /// Whether it is this submission's turn: the recording has come to it, or nothing of the client's runs.
    pub fn awaits(&self, submission: usize) -> bool {
        let stage = self.shared.stage();
        let come = stage.tape.submissions.get(submission).is_some_and(|next| next.request == stage.cursor);
        stage.up && (come || !stage.busy())
    }

    /// Whether a prompt of the client is queued or runs.
    pub fn busy(&self) -> bool {
        self.shared.stage().busy()
    }

    /// Whether the client has made this submission.
    pub fn has(&self, submission: usize) -> bool {
        self.shared.stage().runs.get(submission).is_some_and(|run| run.own)
    }

    /// What the client did that no client should, or that the recording has no answer to, in words: a graph that is not
    /// recorded, a submission without ids, a hand on somebody else's prompt.
    pub fn surprises(&self) -> Vec<String> {
        self.shared.stage().surprises.clone()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // The port goes with the task that holds it.
        self.player.abort();
    }
}
