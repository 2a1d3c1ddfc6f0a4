//! wasmtime, and no other room knows it: the engine and its settings, compiled artifacts, limits, one fresh instance per
//! start.
//!
//! - `engine.rs`: the engine's settings and the clock that interrupts guests.
//! - `compile.rs`: component file → compiled artifact → mapped component.
//! - `wasi.rs`: the standard library's world, empty and deterministic.
//! - `limits.rs`: memory and computing time.
//! - `traps.rs`: a guest that broke off, in words.
//! - `translate.rs`: tasks and outcomes between the contract's words and the house's.

pub mod bare;
mod compile;
mod engine;
mod limits;
mod translate;
mod traps;
mod wasi;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::OnceCell;
use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::clock::Timestamp;
use crate::config::{Grant, PluginLimits};
use crate::plugins::guest_clock::GuestClock;
use crate::plugins::imports::contract::{self, Handler, HandlerPre};
use crate::plugins::imports::log::Lines;
use crate::plugins::imports::{Reach, Start};
use crate::plugins::journal::{CallPath, Journaling};
use crate::plugins::{Run, Services};
use crate::store::progress::ProgressWriter;
use crate::task::{self, Failure, Outcome, Task};
use limits::{Gauges, Meter, Metered};
use wasi::{Seed, Wasi};

pub use limits::Usage;

/// `describe` is quick and small: it returns a text.
const DESCRIBE_MEMORY_MB: u64 = 64;
const DESCRIBE_CPU_SECONDS: f64 = 1.0;
const DESCRIBE_WALL: Duration = Duration::from_secs(10);

/// Most bytes that a guest may hand to the host in one call, besides the body of an HTTP request, which has a limit of
/// its own (`plugins.limits.http_body_mb`).
const HOSTCALL_BYTES: usize = 24 << 20;

/// The wasmtime engine of this process with its ticking epoch clock. One per process.
pub struct Sandbox {
    engine: Engine,
    linker: Linker<State>,
    gauges: Arc<Gauges>,
}

/// A component, compiled, mapped and linked: ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Loaded {
    handler: HandlerPre<State>,
}

/// What one start of a handler may do.
#[derive(Clone)]
pub struct Permits {
    /// Name of the plugin, for messages and the log.
    pub plugin: String,
    pub version: String,
    /// Capabilities that the manifest asks for.
    pub wanted: BTreeSet<String>,
    /// Of these, what the operator granted.
    pub capabilities: BTreeSet<String>,
    pub grant: Grant,
    pub settings: Map<String, Value>,
    pub limits: PluginLimits,
}

impl Sandbox {
    /// Starts the engine and its clock. Code `sandbox_unavailable`.
    pub fn new() -> Result<Arc<Self>, Failure> {
        let engine = engine::engine()?;
        engine::tick(&engine)?;
        let linker = linker(&engine)
            .map_err(|e| Failure::internal("sandbox_unavailable", format!("The imports cannot be linked: {e:#}.")))?;
        Ok(Arc::new(Self { engine, linker, gauges: Arc::default() }))
    }

    /// Compiled artifacts of another engine version or other settings must not be loaded: this text tells them apart,
    /// fit for a file name.
    pub fn compatibility(&self) -> String {
        engine::compatibility(&self.engine)
    }

    /// Compiles a component file into an artifact file (written aside, fsynced, renamed). Runs in a child process.
    /// Codes: `component_unreadable`, `component_invalid`, `artifact_not_written`.
    pub fn compile_file(component: &Path, artifact: &Path) -> Result<(), Failure> {
        compile::compile_file(&engine::engine()?, component, artifact)
    }

    /// Maps an artifact that this host compiled. Never called with a file that came from outside.
    /// Codes: `artifact_unusable` (compile it again), `contract_mismatch` (it imports or exports what this host does not
    /// know).
    pub fn load(&self, artifact: &Path) -> Result<Loaded, Failure> {
        let component = compile::map(&self.engine, artifact)?;
        let mismatch =
            |e| Failure::invalid("contract_mismatch", format!("The component does not fit this host: {e:#}."));
        let linked = self.linker.instantiate_pre(&component).map_err(mismatch)?;
        Ok(Loaded { handler: HandlerPre::new(linked).map_err(mismatch)? })
    }

    /// Calls `describe` with nothing granted: one second of computing, 64 MB, every import denied. Code
    /// `describe_failed`, in one sentence.
    pub async fn describe(&self, component: &Loaded) -> Result<String, Failure> {
        let lines = Arc::new(Lines::new(None, 0));
        let meter = Meter::new("(describe)", DESCRIBE_MEMORY_MB, DESCRIBE_CPU_SECONDS, self.gauges.clone());
        let wasi = Wasi::new(&lines, GuestClock::at(Timestamp(0)), &Seed::of_describe());
        let cpu = meter.cpu();
        let mut store = self.store(State { start: Start::sealed(lines.clone()), wasi, meter }, 0);
        let call = async {
            let instance = component.handler.instantiate_async(&mut store).await?;
            instance.enginehouse_plugin_guest().call_describe(&mut store).await
        };
        let failed = |failure: Failure| Failure {
            message: format!("The component does not say what it is (`describe`): {}", failure.message),
            code: "describe_failed".into(),
            ..failure
        };
        match tokio::time::timeout(DESCRIBE_WALL, Metered::new(call, cpu)).await {
            Ok(Ok(manifest)) => Ok(manifest),
            Ok(Err(e)) => Err(failed(traps::failure(&e, "that is being loaded", &lines.tail()))),
            Err(_) => Err(failed(Failure::denied(
                "wall_limit",
                format!("it took longer than {} seconds.", DESCRIBE_WALL.as_secs()),
            ))),
        }
    }

    /// Calls `handle` in a fresh instance.
    ///
    /// Besides the plugin's own failures: `trap` (internal, with the backtrace as detail), `memory_limit`, `cpu_limit`,
    /// `wall_limit`, `call_limit` (denied), `cancelled`, `lost_claim`, `journal_diverged` (worth a new attempt),
    /// `invalid_outcome`, `artifact_not_found`.
    pub async fn handle(
        &self,
        component: &Loaded,
        permits: Permits,
        services: &Services,
        run: Run,
    ) -> Result<Outcome, Failure> {
        let Run { task, token, log, cancel, waiting } = run;
        let limits = permits.limits.clone();
        let plugin = permits.plugin.clone();
        let guest_task = translate::task(&task);
        let lines = Arc::new(Lines::new(Some(log), limits.log_kb << 10));
        let clock = GuestClock::at(task.started_at.unwrap_or(task.created_at));
        let meter = Meter::new(&plugin, limits.memory_mb, limits.cpu_seconds, self.gauges.clone());
        let wasi = Wasi::new(&lines, clock.clone(), &Seed::of_attempt(task.id, task.attempts));
        let calls = CallPath::new(Journaling {
            store: services.store.clone(),
            artifacts: services.artifacts.clone(),
            clock: services.clock.clone(),
            guest_clock: clock,
            task: task.id,
            token,
            attempt: task.attempts,
            calls: limits.calls,
            running: format!("{plugin} {}", permits.version),
            routed: routed(&task),
            cancel: cancel.clone(),
        });
        let progress = ProgressWriter::new(services.store.clone(), services.clock.clone(), task.id, token);
        let reach = Reach {
            permits,
            services: services.clone(),
            task,
            token,
            lines: lines.clone(),
            progress,
            waiting,
            artifact_bytes: AtomicU64::new(0),
            http_bytes: AtomicU64::new(0),
            http: OnceCell::new(),
        };
        let cpu = meter.cpu();
        let mut store = self.store(State { start: Start::open(reach, calls), wasi, meter }, limits.http_body_mb);

        let call = async {
            let instance = component.handler.instantiate_async(&mut store).await?;
            instance.enginehouse_plugin_guest().call_handle(&mut store, &guest_task).await
        };
        // Dropping the call stops the guest wherever it is: it gives way with every tick and whenever it waits.
        let returned = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(stopped(&plugin)),
            () = tokio::time::sleep(Duration::from_secs(limits.wall_seconds)) => Err(over_wall(&plugin, limits.wall_seconds)),
            returned = Metered::new(call, cpu) => returned.map_err(|e| traps::failure(&e, &plugin, &lines.tail())),
        };
        store.data().wasi.end_lines();
        let returned = returned?;
        store.data().start.finish()?;
        drop(store);
        match returned {
            Ok(outcome) => translate::outcome(outcome, &services.artifacts).await,
            Err(failure) => Err(contract::from_guest(failure)),
        }
    }

    /// What the starts of each plugin use and have used, by plugin name; all calls of `describe` are `(describe)`.
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        self.gauges.read()
    }

    /// A store whose guest is held to its limits; with `body_mb` more to hand over than other calls need.
    fn store(&self, state: State, body_mb: u64) -> Store<State> {
        let body = usize::try_from(body_mb.saturating_mul(1 << 20)).unwrap_or(usize::MAX);
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(HOSTCALL_BYTES.saturating_add(body));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|guest: StoreContextMut<'_, State>| {
            guest.data().meter.check_cpu().map_err(wasmtime::Error::new)?;
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }
}

/// What belongs to one instance.
struct State {
    start: Start,
    wasi: Wasi,
    meter: Meter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.view()
    }
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi::link(&mut linker, |state: &mut State| state.wasi.monotonic_clock())?;
    Handler::add_to_linker::<State, HasSelf<Start>>(&mut linker, |state| &mut state.start)?;
    Ok(linker)
}

/// The plugin that the attempt was routed to.
fn routed(task: &Task) -> Option<String> {
    match &task.route.as_ref()?.handler {
        task::Handler::Plugin { name, version, digest } => Some(format!("{name} {version}, {}", digest.short())),
        _ => None,
    }
}

fn stopped(plugin: &str) -> Failure {
    Failure::cancelled(format!("The plugin {plugin} was stopped: its task was cancelled, or is no longer held here."))
}

fn over_wall(plugin: &str, seconds: u64) -> Failure {
    Failure::denied(
        "wall_limit",
        format!(
            "The plugin {plugin} was not done after {seconds} seconds, waiting included. The limit is \
             `plugins.limits.wall_seconds`."
        ),
    )
}
