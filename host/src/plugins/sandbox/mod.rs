//! wasmtime, and nothing else of the house knows it: the engine and its settings, compiled artifacts, limits, one fresh
//! instance per start.

use std::path::Path;
use std::sync::Arc;

use crate::config::PluginLimits;
use crate::plugins::{Run, Services};
use crate::task::{Failure, Outcome};

/// The wasmtime engine of this process with its ticking epoch clock. One per process.
pub struct Sandbox {}

/// A component, compiled, mapped and linked: ready to be instantiated. Cheap to clone.
#[derive(Clone)]
pub struct Loaded {}

/// What one start of a handler may do.
#[derive(Clone)]
pub struct Permits {
    /// Name of the plugin, for messages and the log.
    pub plugin: String,
    pub version: String,
    /// Asked for by the manifest and granted by the operator.
    pub capabilities: std::collections::BTreeSet<String>,
    pub grant: crate::config::Grant,
    pub settings: serde_json::Map<String, serde_json::Value>,
    pub limits: PluginLimits,
}

impl Sandbox {
    pub fn new() -> Result<Arc<Self>, Failure> {
        todo!()
    }

    /// Compiled artifacts of another engine version or other settings must not be loaded: this text tells them apart,
    /// fit for a file name.
    pub fn compatibility(&self) -> String {
        todo!()
    }

    /// Compiles a component file into an artifact file (written aside, fsynced, renamed). Runs in a child process.
    pub fn compile_file(component: &Path, artifact: &Path) -> Result<(), Failure> {
        let _ = (component, artifact);
        todo!()
    }

    /// Maps an artifact that this host compiled. Never called with a file that came from outside.
    pub fn load(&self, artifact: &Path) -> Result<Loaded, Failure> {
        let _ = artifact;
        todo!()
    }

    /// Calls `describe` with nothing granted.
    pub async fn describe(&self, component: &Loaded) -> Result<String, Failure> {
        let _ = component;
        todo!()
    }

    /// Calls `handle` in a fresh instance.
    pub async fn handle(
        &self,
        component: &Loaded,
        permits: Permits,
        services: &Services,
        run: Run,
    ) -> Result<Outcome, Failure> {
        let _ = (component, permits, services, run);
        todo!()
    }
}
