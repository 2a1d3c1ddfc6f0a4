//! Settings: built-in values < `enginehouse.toml` < environment (`ENGINEHOUSE_SECTION__KEY`) < flags
//! (`--set section.key=value`). Unknown keys are errors with a suggestion. Every key that is a time or an amount has its
//! unit in its name.
//!
//! - `load.rs`: the layers put together, each value with its origin.
//! - `reference.rs`: every setting in one table, and the texts made from it.
//! - `rules.rs`: what must hold between settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use load::{ConfigError, Entry, File, Loaded, Origin, Problem, process_environment};
pub use reference::{Kind, SETTINGS, Setting, commented_toml, reference_markdown};
pub use rules::CAPABILITIES;

mod load;
mod reference;
mod rules;

/// All settings of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub routing: RoutingConfig,
    pub worker: WorkerConfig,
    pub store: StoreConfig,
    pub engines: EnginesConfig,
    pub plugins: PluginsConfig,
    pub inputs: InputsConfig,
    pub media: MediaConfig,
}

/// Whether plugins take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Plugins serve their types; everything else goes to the engines.
    #[default]
    Hybrid,
    /// Every type goes to one of the two engines, whatever lies in the plugins folder.
    Simple,
}

/// `[routing]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    pub mode: Mode,
    /// Task types that ComfyUI serves.
    pub comfy_task_types: Vec<String>,
    /// Task types that this host must not take.
    pub refuse: Vec<String>,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self { mode: Mode::Hybrid, comfy_task_types: vec!["comfy".into()], refuse: Vec::new() }
    }
}

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// A claim that is not renewed for so long is free for others.
    pub lease_seconds: u64,
    /// Claims are renewed so often.
    pub renew_seconds: u64,
    /// Attempts of a task whose failures are worth a new one.
    pub max_attempts: u32,
    /// How long SIGTERM waits for running tasks before it gives them back.
    pub drain_seconds: u64,
    /// How long work that was told to stop may take before it is left to itself.
    pub stop_grace_seconds: u64,
    /// Tasks without a plugin that are held at once: one has the engine, the others are prepared meanwhile.
    pub direct_tasks: usize,
    /// Handlers that may be alive at once, waiting ones included.
    pub max_live_instances: usize,
    /// Consecutive deaths without a new result after which a task is set aside; 0: never.
    pub quarantine_after_deaths: u32,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            lease_seconds: 60,
            renew_seconds: 15,
            max_attempts: 3,
            drain_seconds: 25,
            stop_grace_seconds: 60,
            direct_tasks: 2,
            max_live_instances: 500,
            quarantine_after_deaths: 2,
        }
    }
}

/// `[store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long an operation waits for another process that is writing.
    pub busy_timeout_seconds: u64,
    /// Connections that only read.
    pub readers: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { busy_timeout_seconds: 10, readers: 4 }
    }
}

/// `[engines]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnginesConfig {
    /// The stand-in that needs no GPU serves an engine that is not configured. Off: such tasks fail as unavailable.
    pub animatic: bool,
    /// Longest running time of one engine job.
    pub job_limit_seconds: u64,
    /// How long an engine may take to stop a job before it is left.
    pub cancel_grace_seconds: u64,
    pub comfyui: ComfyuiConfig,
    pub wan2gp: Wan2gpConfig,
}

impl Default for EnginesConfig {
    fn default() -> Self {
        Self {
            animatic: true,
            job_limit_seconds: 3600,
            cancel_grace_seconds: 90,
            comfyui: ComfyuiConfig::default(),
            wan2gp: Wan2gpConfig::default(),
        }
    }
}

/// `[engines.comfyui]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComfyuiConfig {
    /// Folder of the ComfyUI checkout: the host starts and owns a server.
    pub root: Option<String>,
    /// Its Python; none: that of a virtual environment in the checkout, else `python3`.
    pub python: Option<String>,
    /// Further arguments of the server, after the host's own.
    pub args: Vec<String>,
    /// Port of the owned server; 0: a free one.
    pub port: u16,
    pub start: Start,
    /// Longest time from start to ready; 0: as long as the process lives.
    pub start_seconds: u64,
    /// How long a server that is to stop may take before it is killed.
    pub stop_seconds: u64,
    /// Address of a server that an operator runs, instead of `root`.
    pub url: Option<String>,
    /// Headers for that server, by name.
    pub headers: BTreeMap<String, SecretSource>,
    /// Longest time a small request may take.
    pub request_seconds: u64,
    /// Longest time one file may take to be sent or fetched.
    pub transfer_seconds: u64,
    /// How long nobody may listen before the server counts as dead.
    pub unreachable_seconds: u64,
    /// How long a prompt that runs may say nothing.
    pub inactive_seconds: u64,
    /// How long a prompt may take to stop before the server is killed for it.
    pub cancel_grace_seconds: u64,
}

impl Default for ComfyuiConfig {
    fn default() -> Self {
        Self {
            root: None,
            python: None,
            args: Vec::new(),
            port: 0,
            start: Start::Lazy,
            start_seconds: 0,
            stop_seconds: 10,
            url: None,
            headers: BTreeMap::new(),
            request_seconds: 30,
            transfer_seconds: 600,
            unreachable_seconds: 10,
            inactive_seconds: 900,
            cancel_grace_seconds: 30,
        }
    }
}

/// When an engine that the host owns is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the first job that needs it.
    #[default]
    Lazy,
    /// With the host.
    Eager,
}

/// Where a secret text is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSource {
    /// Name of the environment variable that holds it…
    #[serde(default)]
    pub env: Option<String>,
    /// … or the file.
    #[serde(default)]
    pub file: Option<String>,
}

impl SecretSource {
    /// The text, without blanks around it. The error says what is missing, and where.
    pub fn read(&self) -> Result<String, String> {
        let (place, text) = match (&self.env, &self.file) {
            (Some(name), _) => {
                (format!("the variable {name}"), std::env::var(name).map_err(|e| format!("the variable {name}: {e}"))?)
            }
            (None, Some(file)) => (file.clone(), std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?),
            (None, None) => return Err("it names neither `env` nor `file`".into()),
        };
        match text.trim() {
            "" => Err(format!("{place} is empty")),
            text => Ok(text.to_string()),
        }
    }
}

/// `[engines.wan2gp]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wan2gpConfig {
    /// Folder of the Wan2GP checkout.
    pub root: Option<String>,
}

/// `[plugins]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginsConfig {
    /// A file is read once it has not changed for so long.
    pub quiet_milliseconds: u64,
    /// Largest file that is read.
    pub file_mb: u64,
    /// Longest time one compilation may take.
    pub compile_seconds: u64,
    /// Compilations at once, each in a process of its own.
    pub compilers: usize,
    /// What every plugin gets that asks for it.
    pub grant: Vec<String>,
    /// Per plugin name: what it gets instead of `grant`.
    pub grants: BTreeMap<String, Grant>,
    /// Per plugin name: what `settings.get` answers.
    pub settings: BTreeMap<String, Map<String, Value>>,
    pub limits: PluginLimits,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            quiet_milliseconds: 300,
            file_mb: 256,
            compile_seconds: 300,
            compilers: 3,
            grant: ["engines", "tasks", "artifacts", "media", "assist"].map(String::from).to_vec(),
            grants: BTreeMap::new(),
            settings: BTreeMap::new(),
            limits: PluginLimits::default(),
        }
    }
}

/// `[plugins.grants.NAME]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grant {
    /// None: the common `grant`.
    pub capabilities: Option<Vec<String>>,
    /// What `http` may reach.
    pub http: Vec<HttpRule>,
    /// Private addresses that `http` may reach, as `127.0.0.1` or `127.0.0.1:8188`.
    pub addresses: Vec<String>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, SecretGrant>,
}

/// One rule for outgoing requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpRule {
    /// Host name, exactly.
    pub host: String,
    /// Methods; none given: GET alone.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The path must begin so, at a segment's border.
    #[serde(default)]
    pub path: String,
}

/// A secret that a plugin may send, never see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretGrant {
    /// Name of the environment variable that holds it…
    #[serde(default)]
    pub env: Option<String>,
    /// … or the file.
    #[serde(default)]
    pub file: Option<String>,
    /// Hosts it may be sent to.
    pub hosts: Vec<String>,
}

/// `[plugins.limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginLimits {
    /// Memory of one instance.
    pub memory_mb: u64,
    /// Computing time of one start of a handler; waiting in the host does not count.
    pub cpu_seconds: f64,
    /// Whole time of one start of a handler, waiting included.
    pub wall_seconds: u64,
    /// Log lines and output of one start.
    pub log_kb: u64,
    /// Recorded host calls of one attempt.
    pub calls: u64,
    /// Children of one task.
    pub children: usize,
    /// How deep tasks may be nested.
    pub nesting: u32,
    /// Bytes that one start may write as artifacts.
    pub artifact_mb: u64,
    /// Bytes that one start may send and receive by HTTP.
    pub http_mb: u64,
    /// Largest body of one HTTP request or answer.
    pub http_body_mb: u64,
    /// Longest time of one HTTP request, its redirects and its answer included.
    pub http_seconds: u64,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_mb: 256,
            cpu_seconds: 30.0,
            wall_seconds: 86_400,
            log_kb: 1024,
            calls: 100_000,
            children: 2000,
            nesting: 8,
            artifact_mb: 1024,
            http_mb: 64,
            http_body_mb: 8,
            http_seconds: 300,
        }
    }
}

/// `[inputs]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputsConfig {
    /// Tasks may name files below these folders; relative ones count from the home.
    pub roots: Vec<String>,
    /// Largest file that is downloaded.
    pub download_mb: u64,
    /// Longest time one download may take.
    pub download_seconds: u64,
    /// Private addresses that downloads may reach, as `127.0.0.1` or `127.0.0.1:8188`.
    pub addresses: Vec<String>,
}

impl Default for InputsConfig {
    fn default() -> Self {
        Self { roots: vec!["inputs".into()], download_mb: 4096, download_seconds: 300, addresses: Vec::new() }
    }
}

impl InputsConfig {
    /// The roots as folders.
    pub fn folders(&self, home: &Path) -> Vec<PathBuf> {
        self.roots.iter().map(|root| home.join(root)).collect()
    }
}

/// `[media]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaConfig {
    /// Program; a bare name is looked up in PATH.
    pub ffmpeg: String,
    pub ffprobe: String,
    /// Longest time one run may take.
    pub run_seconds: u64,
    /// Most pixels of one frame, in millions.
    pub megapixels: u64,
    /// Most frames of one source or result.
    pub frames: u64,
    /// Memory that one run may write to.
    pub memory_mb: u64,
    /// Largest file that a run may write.
    pub result_mb: u64,
    /// Decoded frames that one clip may set aside.
    pub scratch_mb: u64,
    /// What may stand around the pixels of a picture.
    pub picture_extra_mb: u64,
    /// Renders that run at once, and as many looks at files beside them; 0: as many as there are processors.
    pub parallel_runs: usize,
}

impl Default for MediaConfig {
    fn default() -> Self {
        Self {
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
            run_seconds: 1800,
            megapixels: 100,
            frames: 200_000,
            memory_mb: 8192,
            result_mb: 32_768,
            scratch_mb: 65_536,
            picture_extra_mb: 64,
            parallel_runs: 0,
        }
    }
}
