//! Plugins: sandboxed components that serve task types.
//!
//! - `catalog/`: a file in the folder becomes a plugin in service, and its deletion a retirement.
//! - `sandbox/`: wasmtime: engine, compiled artifacts, limits, one fresh instance per start.
//! - `journal.rs`: the one recorded call path. No import bypasses it. `guest_clock.rs`: the time that follows from it.
//! - `imports/`: one file per interface of `wit/`.

mod catalog;
mod guest_clock;
pub mod imports;
pub mod journal;
pub mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::assist::Assist;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::digest::Digest;
use crate::engines::Engines;
use crate::media::Media;
use crate::media::intake::Intake;
use crate::plugins::sandbox::Sandbox;
use crate::router::Offers;
use crate::store::{ClaimToken, SharedStore};
use crate::task::{Failure, Outcome, Task};
use crate::tasklog::TaskLog;

/// What a plugin says of itself (`describe`); the schema is in `wit/guest.wit`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    #[serde(default)]
    pub summary: Option<String>,
    pub task_types: BTreeMap<String, TypeManifest>,
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub settings: Option<Value>,
    #[serde(default)]
    pub affinity: Option<Map<String, Value>>,
}

/// One task type of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TypeManifest {
    /// JSON Schema (draft 2020-12) for the params.
    #[serde(default)]
    pub params: Option<Value>,
}

/// A plugin in service, or one that an in-flight task still runs on.
pub struct Plugin {
    pub manifest: Manifest,
    pub digest: Digest,
    /// Name of the file in the folder.
    pub file: String,
    component: Arc<catalog::Component>,
}

/// State of the catalog for people and other processes: written to `data/plugins/serving.json` at each change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub serving: Vec<Serving>,
    /// Files that could not be taken into service, each with one sentence.
    pub rejected: Vec<Rejected>,
    /// Plugins that were in service once and whose file is gone.
    pub retired: Vec<Retired>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    pub name: String,
    pub version: String,
    pub summary: Option<String>,
    pub digest: Digest,
    pub file: String,
    pub task_types: Vec<String>,
    pub capabilities: Vec<String>,
    /// Wanted by the manifest and not granted by the operator.
    pub denied: Vec<String>,
    pub since: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    pub file: String,
    pub digest: Option<Digest>,
    pub reason: String,
    /// The version that stays in service in its place, if there is one.
    pub still_serving: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retired {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub file: String,
    pub task_types: Vec<String>,
    pub since: Timestamp,
}

/// What handlers may reach, through their imports alone.
#[derive(Clone)]
pub struct Services {
    pub store: SharedStore,
    pub engines: Arc<Engines>,
    pub assist: Arc<dyn Assist>,
    pub artifacts: Artifacts,
    pub media: Media,
    pub intake: Intake,
    pub clock: Clock,
}

/// One start of a handler.
pub struct Run {
    pub task: Task,
    pub token: ClaimToken,
    pub log: TaskLog,
    /// The task was cancelled or the claim lost: the handler is stopped.
    pub cancel: CancellationToken,
    /// Set while the handler waits for other tasks: it then needs no room in the pool.
    pub waiting: Arc<AtomicBool>,
}

/// Folders and programs of the plugin host.
pub struct PluginOptions {
    /// Where operators put files.
    pub folder: PathBuf,
    /// `data/plugins`: kept bytes, compiled artifacts, history.
    pub data: PathBuf,
    /// This program, started as `enginehouse compile-component …` so that compiling costs the host no memory.
    pub compiler: PathBuf,
    pub config: Arc<Config>,
    pub clock: Clock,
}

/// Whether some bytes are a component that this host can load: what can be told without compiling. The error is one
/// sentence for the author.
pub fn check_component(bytes: &[u8]) -> Result<(), String> {
    catalog::check_component(bytes)
}

/// The plugin host.
pub struct Plugins {
    catalog: catalog::Catalog,
    sandbox: Arc<Sandbox>,
}

impl Plugins {
    /// Reads the folder once and takes what is valid into service. Needs no services: `route` and `plugin ls` use it too.
    ///
    /// Goes on from what the last process had in service: a file that went bad meanwhile leaves its previous version in
    /// service. Plugins that ran here before are neither compiled nor loaded, until [`Self::watch`] or a task does it.
    pub async fn open(options: PluginOptions) -> Result<Arc<Self>, Failure> {
        let sandbox = Sandbox::new()?;
        let catalog = catalog::Catalog::open(options, sandbox.clone()).await?;
        Ok(Arc::new(Self { catalog, sandbox }))
    }

    /// Follows the folder until cancelled: settle, hash, validate, compile, swap; retire by deletion. One caller at a
    /// time: a second one waits until the first has stopped.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        self.catalog.watch(stop).await;
    }

    /// What is in service, for the router. Templates and presets are not the plugin host's to know: those maps are empty.
    pub fn offers(&self) -> Arc<Offers> {
        self.catalog.offers()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.snapshot()
    }

    /// The plugin of a digest: in service, or kept for tasks that began on it. Codes: `plugin_bytes_missing` when the
    /// digest is not kept here, `plugin_bytes_damaged`, `plugin_unusable` when this host cannot run it any more.
    pub async fn get(&self, digest: Digest) -> Result<Arc<Plugin>, Failure> {
        self.catalog.get(digest).await
    }

    /// Runs `handle` in a fresh instance, after the params were held against the plugin's schema (code
    /// `invalid_params`).
    pub async fn handle(&self, plugin: &Plugin, services: &Services, run: Run) -> Result<Outcome, Failure> {
        plugin.check_params(&run.task.task_type, &run.task.params)?;
        let code = self.catalog.loaded(plugin).await?;
        self.sandbox.handle(&code, self.catalog.permits(plugin), services, run).await
    }

    /// Removes kept bytes and compiled artifacts of every plugin that is neither in service, nor the version before one
    /// in service, nor wanted (by a task or a journal), nor running. Gives the number of plugins removed; 0 while a file
    /// is just being taken up. Reads and deletes files: not for an async thread.
    pub fn collect(&self, wanted: &BTreeSet<Digest>) -> usize {
        self.catalog.collect(wanted)
    }
}
