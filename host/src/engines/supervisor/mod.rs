//! Child processes that an engine runs in: started when first needed, known by what they report, ended with the host.
//!
//! A [`Supervisor`] keeps one process running for whoever asks ([`Supervisor::ensure`]). Between host and engine stands a
//! small *guard* process, one per engine: whatever becomes of the host, the guard ends the engine and everything that the
//! engine started.
//!
//! - `status.rs`: what is known of an engine: its state, its starts, how it ended; in words, too.
//! - `record.rs`: the same as a file, `data/engines/NAME.json`, for other processes and for the next host.
//! - `back_off.rs`: when the next start may be, by how the last ones went.
//! - `life.rs`: one process from its start to its end.
//! - `spawn.rs`: how a guard is started, and the two ways between it and the host.
//! - `guard.rs`: the guard itself, a program of its own.
//! - `processes.rs`: what the system knows of processes, and signals that cannot hit the wrong one.
//! - `leftovers.rs`: what a host that died left running.
//! - `lines.rs`, `log.rs`: what an engine prints becomes lines, kept in memory and in `data/engines/NAME.log`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::store::holder;

mod back_off;
pub mod guard;
pub mod leftovers;
mod life;
mod lines;
mod log;
mod processes;
mod record;
mod spawn;
mod status;

use back_off::{BackOff, Next};
use life::{End, Why};
use log::EngineLog;

pub use log::{EngineLine, log_path, read_log};
pub use processes::Process;
pub use record::Record;
pub use status::{EngineStatus, Exit, PastError, PastExit, State};

/// How often a wait looks at the clock: a clock that a test moves wakes nobody.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is supervised: how a process is started, and when it is ready.
#[async_trait]
pub trait Supervised: Send + Sync + 'static {
    /// What a ready process offers, such as its address.
    type Ready: Clone + Send + Sync + 'static;

    /// Short and fit for a file name: `comfyui`. Names the log, the state file and log lines.
    fn name(&self) -> &'static str;

    /// For people: `ComfyUI`.
    fn title(&self) -> String;

    /// Asked anew for each start: here a free port is chosen and folders are made. The error says why there can be no
    /// start; it counts as a failed one.
    async fn launch(&self) -> Result<Launch, String>;

    /// Asked again and again while the process lives, until it is ready. Dropped when the process ends meanwhile.
    async fn ready(&self) -> Readiness<Self::Ready>;
}

/// What a process says about being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness<R> {
    Ready(R),
    /// It is asked again ([`Limits::ready_poll`]).
    NotYet,
    /// It lives and will never be ready: it is ended, and the start has failed with these words.
    Failed(String),
}

/// A program to start. It inherits the host's environment without the host's own settings (`ENGINEHOUSE_*`) and without
/// `DATABASE_URL`, and reads nothing: its input is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// On top of what is inherited.
    pub env: Vec<(OsString, OsString)>,
    /// The folder it is started in. It must exist.
    pub folder: PathBuf,
}

/// What a supervisor needs beside its process.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// Logs and state files: `data/engines`. Made when it is not there.
    pub folder: PathBuf,
    /// The program that has the guard built in: this one.
    pub guard: PathBuf,
    pub clock: Clock,
    pub limits: Limits,
}

impl SupervisorOptions {
    /// With this program as guard, and the default limits.
    pub fn new(folder: impl Into<PathBuf>, clock: Clock) -> Self {
        Self { folder: folder.into(), guard: spawn::this_program(), clock, limits: Limits::default() }
    }
}

/// Times and sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest time from start to ready. None: as long as the process lives.
    pub start: Option<Duration>,
    /// Pause between two questions whether the process is ready.
    pub ready_poll: Duration,
    /// Pause after the first failure; doubled with each further one in a row…
    pub back_off: Duration,
    /// … up to this.
    pub longest_back_off: Duration,
    /// A process that was ready and lived so long ends the row of failures.
    pub steady: Duration,
    /// So many failed starts (at least 1)…
    pub failed_starts: usize,
    /// … within this time make the engine unavailable.
    pub failed_starts_within: Duration,
    /// How long [`Supervisor::stop`] waits after SIGINT before it sends SIGTERM…
    pub interrupt_grace: Duration,
    /// … and after SIGTERM before it sends SIGKILL.
    pub terminate_grace: Duration,
    /// How long [`Supervisor::restart`] waits between SIGTERM and SIGKILL.
    pub restart_grace: Duration,
    /// Bytes of log lines kept in memory.
    pub memory_log_bytes: usize,
    /// Bytes after which the log file is moved to `NAME.log.1` and begun anew.
    pub log_file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: None,
            ready_poll: Duration::from_millis(250),
            back_off: Duration::from_secs(1),
            longest_back_off: Duration::from_secs(60),
            steady: Duration::from_secs(60),
            failed_starts: 5,
            failed_starts_within: Duration::from_secs(600),
            interrupt_grace: Duration::from_secs(10),
            terminate_grace: Duration::from_secs(5),
            restart_grace: Duration::from_secs(1),
            memory_log_bytes: 256 * 1024,
            log_file_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Why there is no running process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRunning {
    /// The caller's token was cancelled, or [`Supervisor::stop`] was called meanwhile.
    #[error("cancelled while waiting for the engine")]
    Cancelled,
    /// Too many starts failed. Until `until`, nobody needs to ask again.
    #[error("{reason}")]
    Unavailable { reason: String, until: Timestamp },
}

/// A process that got ready. It may have ended since: see [`Running::gone`].
#[derive(Debug)]
pub struct Running<R> {
    pub ready: R,
    /// Of the engine, not of its guard.
    pub pid: u32,
    /// When it was started.
    pub started: Timestamp,
    gone: watch::Receiver<Option<Exit>>,
}

impl<R> Running<R> {
    /// Waits until the process has ended, and says how.
    pub async fn gone(&self) -> Exit {
        let mut gone = self.gone.clone();
        match gone.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(Exit::unknown),
            Err(_) => Exit::unknown(),
        }
    }

    /// How it ended, if it has.
    pub fn exit(&self) -> Option<Exit> {
        self.gone.borrow().clone()
    }
}

/// Keeps one process. Dropping it ends the process at once, as the end of the host does.
pub struct Supervisor<S: Supervised> {
    core: Arc<Core<S>>,
}

/// What the supervisor and the life of its process share.
struct Core<S: Supervised> {
    supervised: S,
    options: SupervisorOptions,
    log: EngineLog,
    shared: Mutex<Shared<S::Ready>>,
    /// Changed with `shared` locked, so that the two tell the same.
    status: watch::Sender<EngineStatus>,
    /// Held while the record is written: the newest state is written last.
    recording: Mutex<()>,
}

struct Shared<R> {
    back_off: BackOff,
    /// The process, from the decision to start it until nothing is left of it.
    life: Option<Life<R>>,
    /// How often `stop` was called: whoever waited before it does not wait on.
    stops: u64,
}

struct Life<R> {
    orders: mpsc::UnboundedSender<Order>,
    since: Timestamp,
    /// From ready on, until it has ended or is to end.
    running: Option<Arc<Running<R>>>,
    /// It is to end, or has ended and is being cleared away.
    ending: bool,
    trace: Trace,
}

/// By what the processes of a start are found again.
#[derive(Clone, Debug, Default)]
struct Trace {
    guard: Option<Process>,
    engine: Option<Process>,
    mark: Option<String>,
}

/// What the life of a process is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    /// In order: SIGINT, SIGTERM, SIGKILL.
    Stop,
    /// At once: SIGTERM, SIGKILL.
    Restart(String),
    /// Nobody is there any more.
    Abandon,
}

/// What somebody finds who needs the process.
enum Found<R> {
    Ready(Arc<Running<R>>),
    NotRunning(NotRunning),
    /// The sentence for people who wait.
    Waiting(String),
}

impl<S: Supervised> Supervisor<S> {
    /// Nothing is started yet.
    pub fn new(supervised: S, options: SupervisorOptions) -> Arc<Self> {
        let log = EngineLog::open(&options.folder, supervised.name(), options.clock.clone(), &options.limits);
        let status = EngineStatus::new(supervised.name(), supervised.title());
        let back_off = BackOff::new(&options.limits);
        let core = Core {
            supervised,
            log,
            shared: Mutex::new(Shared { back_off, life: None, stops: 0 }),
            status: watch::Sender::new(status),
            recording: Mutex::new(()),
            options,
        };
        Arc::new(Self { core: Arc::new(core) })
    }

    /// What is supervised.
    pub fn supervised(&self) -> &S {
        &self.core.supervised
    }

    /// The running process, started if there is none. All who ask share one start, and it goes on when they leave. Waits for
    /// as long as the process lives and is not ready, and through back-off; `report` hears about it once a second:
    /// `starting ComfyUI (12 s)`, `ComfyUI did not start (exit code 1: …); next try in 4 s`.
    ///
    /// Needs a Tokio runtime, which the process then depends on: it ends with it.
    pub async fn ensure(
        &self,
        report: &(dyn Fn(String) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<Arc<Running<S::Ready>>, NotRunning> {
        let mut status = self.core.status.subscribe();
        let stops = self.core.shared().stops;
        let mut told = String::new();
        loop {
            status.mark_unchanged();
            if cancel.is_cancelled() {
                return Err(NotRunning::Cancelled);
            }
            match self.core.find(stops) {
                Found::Ready(running) => return Ok(running),
                Found::NotRunning(why) => return Err(why),
                Found::Waiting(words) => {
                    if words != told {
                        report(words.clone());
                        told = words;
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Err(NotRunning::Cancelled),
                // The sender lives as long as `self`.
                _ = status.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Ends the process and all it started, soon (SIGTERM, then SIGKILL after [`Limits::restart_grace`]), and returns when
    /// nothing is left of it. The next `ensure` starts anew, without back-off. Nothing to do when none runs.
    pub async fn restart(&self, why: &str) {
        if self.core.end(Order::Restart(why.to_string())) {
            self.ended().await;
        }
    }

    /// Ends the process in order: SIGINT to its group, then SIGTERM, then SIGKILL to all it started. Returns when nothing is
    /// left of it. Whoever waits in `ensure` gets [`NotRunning::Cancelled`]; a later `ensure` starts anew.
    pub async fn stop(&self) {
        self.core.shared().stops += 1;
        self.core.end(Order::Stop);
        self.core.status.send_modify(|_| {});
        self.ended().await;
    }

    /// The process, if one is ready now. Starts nothing.
    pub fn running(&self) -> Option<Arc<Running<S::Ready>>> {
        self.core.shared().life.as_ref().filter(|life| !life.ending)?.running.clone()
    }

    /// What is known of the engine at this moment.
    pub fn status(&self) -> EngineStatus {
        self.core.status.borrow().clone()
    }

    /// The same, with every change.
    pub fn watch(&self) -> watch::Receiver<EngineStatus> {
        self.core.status.subscribe()
    }

    /// The last lines that the engine printed, the newest last; an unfinished one counts.
    pub fn tail(&self, lines: usize) -> Vec<EngineLine> {
        self.core.log.tail(lines)
    }

    /// Every further line as it is printed. Who is too slow loses the oldest.
    pub fn lines(&self) -> broadcast::Receiver<EngineLine> {
        self.core.log.lines()
    }

    /// Waits until there is no process.
    async fn ended(&self) {
        let mut status = self.core.status.subscribe();
        loop {
            status.mark_unchanged();
            if self.core.shared().life.is_none() || status.changed().await.is_err() {
                return;
            }
        }
    }
}

impl<S: Supervised> Drop for Supervisor<S> {
    fn drop(&mut self) {
        self.core.end(Order::Abandon);
    }
}

impl<S: Supervised> Core<S> {
    fn shared(&self) -> MutexGuard<'_, Shared<S::Ready>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody finds who needs the process and began to wait after so many stops. Starts it when it is time.
    fn find(self: &Arc<Self>, stops: u64) -> Found<S::Ready> {
        let title = self.supervised.title();
        let now = self.options.clock.now();
        let mut guard = self.shared();
        let shared = &mut *guard;
        if shared.stops != stops {
            return Found::NotRunning(NotRunning::Cancelled);
        }
        if let Some(life) = &shared.life {
            return match &life.running {
                _ if life.ending => Found::Waiting(format!("waiting for {title} to end")),
                Some(running) => Found::Ready(running.clone()),
                None => Found::Waiting(starting(&title, life.since, now)),
            };
        }
        match shared.back_off.next(now) {
            Next::Unavailable { until, why } => {
                let reason = format!("{title} is unavailable: {why}; it is tried again at {until}");
                Found::NotRunning(NotRunning::Unavailable { reason, until })
            }
            Next::After { until, why } => {
                let seconds = until.since(now).as_millis().div_ceil(1000);
                Found::Waiting(format!("{title} {why}; next try in {seconds} s"))
            }
            Next::Now => {
                let (orders, received) = mpsc::unbounded_channel();
                shared.life = Some(Life { orders, since: now, running: None, ending: false, trace: Trace::default() });
                self.status.send_modify(|status| {
                    status.starts += 1;
                    status.state = State::Starting { since: now };
                });
                let core = self.clone();
                tokio::spawn(async move {
                    // A panic of what is supervised must not leave the engine starting for ever.
                    if tokio::spawn(life::live(core.clone(), received, now)).await.is_err() {
                        core.over(End::failed("its start broke off inside the host".into()));
                    }
                });
                Found::Waiting(starting(&title, now, now))
            }
        }
    }

    /// Tells the process to end. False: there is none.
    fn end(&self, order: Order) -> bool {
        let mut shared = self.shared();
        let Some(life) = &mut shared.life else { return false };
        life.ending = true;
        // The receiver is gone only when the process has ended, which is all that is wanted.
        life.orders.send(order).ok();
        true
    }

    /// A further state of the process, and what changes with it.
    fn enter(&self, state: State, change: impl FnOnce(&mut Life<S::Ready>)) {
        let mut shared = self.shared();
        if let Some(life) = &mut shared.life {
            change(life);
            // What is to end is not called ready any more.
            if !life.ending || matches!(state, State::Stopping { .. }) {
                self.status.send_modify(|status| status.state = state);
            }
        }
    }

    /// What the present processes are found by.
    fn trace(&self, trace: Trace) {
        if let Some(life) = &mut self.shared().life {
            life.trace = trace;
        }
    }

    /// Nothing is left of the process.
    fn over(&self, end: End) {
        let now = self.options.clock.now();
        let mut shared = self.shared();
        let error = match &end.why {
            Why::Failed(words) => {
                shared.back_off.start_failed(now, words);
                Some(format!("did not start ({words})"))
            }
            Why::Died => {
                let words = end.exit.as_ref().map_or("nobody saw how", |exit| &exit.words);
                shared.back_off.died(now, end.lived, words);
                Some(format!("ended ({words})"))
            }
            Why::Asked(_) => None,
        };
        shared.life = None;
        let state = match shared.back_off.next(now) {
            Next::Now => State::Stopped,
            Next::After { until, why } => State::BackingOff { until, why: format!("it {why}") },
            Next::Unavailable { until, why } => State::Unavailable { until, why },
        };
        if let Some(words) = &error {
            tracing::warn!(engine = self.supervised.name(), "{words}");
        }
        self.status.send_modify(|status| {
            status.state = state;
            status.restarts += u64::from(matches!(end.why, Why::Asked(Order::Restart(_))));
            if let Some(exit) = end.exit {
                status.last_exit = Some(PastExit { at: now, exit });
            }
            if let Some(words) = error {
                status.last_error = Some(PastError { at: now, words });
            }
        });
        drop(shared);
        self.record();
    }

    /// Writes the state for other processes.
    fn record(&self) {
        let _newest = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let (trace, status) = {
            let shared = self.shared();
            let trace = shared.life.as_ref().map(|life| life.trace.clone()).unwrap_or_default();
            (trace, self.status.borrow().clone())
        };
        let record = Record {
            host: holder::this_process(),
            written: self.options.clock.now(),
            status,
            guard: trace.guard,
            engine: trace.engine,
            mark: trace.mark,
        };
        if let Err(e) = record.write(&self.options.folder) {
            let folder = self.options.folder.display();
            tracing::warn!(engine = self.supervised.name(), %folder, error = %e, "the state of an engine is not recorded");
        }
    }
}

fn starting(title: &str, since: Timestamp, now: Timestamp) -> String {
    format!("starting {title} ({} s)", now.since(since).as_secs())
}
