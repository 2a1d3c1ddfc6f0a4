//! Plugins: sandboxed components that serve task types.
//!
//! - `catalog/`: a file in the folder becomes a plugin in service, and its deletion a retirement.
//! - `sandbox/`: wasmtime: engine, compiled artifacts, limits, one fresh instance per start.
//! - `journal.rs`: the one recorded call path. No import bypasses it.
//! - `imports/`: one file per interface of `wit/`.

pub mod sandbox;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::digest::Digest;
use crate::engines::Engines;
use crate::media::Media;
use crate::media::intake::Intake;
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
}

/// State of the catalog for people and other processes: written to `data/plugins/serving.json` at each change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    pub serving: Vec<Serving>,
    /// Files that could not be taken into service, each with one sentence.
    pub rejected: Vec<Rejected>,
    /// Plugins that were in service once and whose file is gone.
    pub retired: Vec<Retired>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
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

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    pub file: String,
    pub digest: Option<Digest>,
    pub reason: String,
    /// The version that stays in service in its place, if there is one.
    pub still_serving: Option<Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// The plugin host.
pub struct Plugins {}

impl Plugins {
    /// Reads the folder once and takes what is valid into service. Needs no services: `route` and `plugin ls` use it too.
    pub async fn open(options: PluginOptions) -> Result<Arc<Self>, Failure> {
        let _ = options;
        todo!()
    }

    /// Follows the folder until cancelled: settle, hash, validate, compile, swap; retire by deletion.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let _ = stop;
    }

    /// What is in service, for the router.
    pub fn offers(&self) -> Arc<Offers> {
        todo!()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }

    /// The plugin of a digest: in service, or kept for tasks that began on it.
    pub async fn get(&self, digest: Digest) -> Result<Arc<Plugin>, Failure> {
        let _ = digest;
        todo!()
    }

    /// Runs `handle` in a fresh instance.
    pub async fn handle(&self, plugin: &Plugin, services: &Services, run: Run) -> Result<Outcome, Failure> {
        let _ = (plugin, services, run);
        todo!()
    }
}
