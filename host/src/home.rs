//! The home folder: everything a worker owns lies in it. One place says where.

use std::path::{Path, PathBuf};

/// A home, by its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The folder need not exist yet. Relative paths count from the current folder.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self(std::path::absolute(folder.as_ref()).unwrap_or_else(|_| folder.as_ref().to_path_buf()))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The settings file.
    pub fn config(&self) -> PathBuf {
        self.0.join("enginehouse.toml")
    }

    /// Where operators put plugins.
    pub fn plugins(&self) -> PathBuf {
        self.0.join("plugins")
    }

    /// ComfyUI templates and Wan2GP presets.
    pub fn templates(&self) -> PathBuf {
        self.0.join("templates")
    }

    /// ComfyUI templates: `TYPE.json`.
    pub fn comfyui_templates(&self) -> PathBuf {
        self.templates().join("comfyui")
    }

    /// Copies of the ComfyUI templates in service.
    pub fn comfyui_templates_kept(&self) -> PathBuf {
        self.data().join("templates/comfyui")
    }

    /// Files that tasks may name by path.
    pub fn inputs(&self) -> PathBuf {
        self.0.join("inputs")
    }

    /// Results, for people.
    pub fn outputs(&self) -> PathBuf {
        self.0.join("outputs")
    }

    /// What the host keeps for itself.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The embedded task store.
    pub fn store(&self) -> PathBuf {
        self.data().join("store.sqlite")
    }

    /// Task logs.
    pub fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    /// Engine jobs and their durable results.
    pub fn jobs(&self) -> PathBuf {
        self.data().join("jobs")
    }

    /// Logs and states of the processes that engines run in.
    pub fn engines(&self) -> PathBuf {
        self.data().join("engines")
    }

    /// Bytes of plugins in use, compiled artifacts, the catalog's memory.
    pub fn plugin_data(&self) -> PathBuf {
        self.data().join("plugins")
    }

    /// Intermediate files; emptied at start.
    pub fn scratch(&self) -> PathBuf {
        self.data().join("scratch")
    }

    /// Held (flock) by the running worker; holds its pid as text.
    pub fn worker_lock(&self) -> PathBuf {
        self.data().join("worker.lock")
    }
}
