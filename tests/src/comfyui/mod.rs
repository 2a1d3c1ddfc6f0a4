//! A stand-in for a ComfyUI server: real HTTP and WebSocket, the same answers, messages, files and oddities, a handful
//! of node classes, and faults on request. Tests run the host against it where no real checkout is at hand; what holds
//! it to the real one are the recorded conversations (`tests/tests/comfyui_standin.rs`).
//!
//! As a program it is `comfyui-standin` and takes the command line of the real one. In a test it is a [`Standin`] on a
//! free port. Faults come from a file `standin.json` beside the `main.py` named on the command line, or by
//! `POST /standin/faults` ([`Faults`]); what happened is told by `GET /standin/seen` ([`Seen`]).
//!
//! One thread, the worker, runs prompts one after another; HTTP and sockets live in a runtime of their own. No lock is
//! held across a wait, and nothing sleeps unless a node or a fault asks for it, so that it also serves as the other
//! side of a throughput measurement.

mod catalog;
mod counts;
mod faults;
mod files;
mod graph;
mod hub;
mod jobs;
mod listener;
mod nodes;
mod options;
mod queue;
mod routes;
mod uploads;
mod validation;
mod worker;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use counts::take_one;
pub use faults::{Die, DropSocket, ExitAtStart, Faults, Grandchildren, Seen};
pub use options::{Options, Parsed};

/// What a running server shares between its routes, its sockets and its worker.
struct Server {
    options: Options,
    catalog: catalog::Catalog,
    hub: hub::Hub,
    queue: queue::Queue,
    cache: Mutex<graph::Cache>,
    faults: Mutex<Faults>,
    seen: Mutex<Seen>,
    /// Looked at when a node starts or reports progress; cleared when a prompt starts.
    interrupt: AtomicBool,
    stopping: AtomicBool,
    /// The next connections that are closed as soon as they are accepted.
    refusals: AtomicU32,
}

impl Server {
    fn new(options: Options) -> Self {
        let faults = options.faults.clone();
        Self {
            catalog: catalog::Catalog::load(),
            hub: hub::Hub::default(),
            queue: queue::Queue::new(),
            cache: Mutex::new(graph::Cache::default()),
            seen: Mutex::new(Seen::default()),
            interrupt: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            refusals: AtomicU32::new(faults.refuse_connections),
            faults: Mutex::new(faults),
            options,
        }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

/// The data are whole after every step, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970, as all times of the protocol are told.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A running stand-in. Dropping it ends it as a kill would: sockets end without a close frame.
pub struct Standin {
    address: SocketAddr,
    server: Arc<Server>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Standin {
    /// Makes its folders, binds `options.port` (0: a free one) and serves. Waits for the slow start if one is asked for.
    ///
    /// # Errors
    /// When a folder cannot be made or the port is taken.
    pub async fn start(options: Options) -> std::io::Result<Self> {
        let delay = std::time::Duration::from_secs_f64(options.faults.start_delay_s.max(0.0));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        options.make_folders()?;
        let listener = std::net::TcpListener::bind((options.listen, options.port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server::new(options));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let serving = server.clone();
        let listener = {
            let _inside = runtime.enter();
            listener::Listener::new(tokio::net::TcpListener::from_std(listener)?, server.clone())
        };
        runtime.spawn(async move { axum::serve(listener, routes::router(serving)).await });
        let working = server.clone();
        std::thread::Builder::new().name("prompt worker".to_string()).spawn(move || worker::work(&working))?;
        Ok(Self { address, server, runtime: Some(runtime) })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where files of type `output` land.
    pub fn output_folder(&self) -> PathBuf {
        self.server.options.output.clone()
    }

    pub fn seen(&self) -> Seen {
        self.server.seen().clone()
    }

    /// Makes known which processes were started beside the server.
    pub fn note_grandchildren(&self, ids: Vec<u32>) {
        self.server.seen().grandchildren = ids;
    }

    /// Replaces all faults from here on.
    pub fn set_faults(&self, faults: Faults) {
        self.server.refusals.store(faults.refuse_connections, Ordering::Relaxed);
        *self.server.faults() = faults;
        self.server.queue.wake();
    }

    /// The clean stop: the running prompt is dropped without a word, sockets end without a close frame, the temp folder
    /// goes.
    pub fn stop(mut self) {
        self.end();
        let _ = std::fs::remove_dir_all(self.server.options.temp_folder());
    }

    fn end(&mut self) {
        self.server.stopping.store(true, Ordering::Relaxed);
        self.server.queue.wake();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.end();
    }
}
