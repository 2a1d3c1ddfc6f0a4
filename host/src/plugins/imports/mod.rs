//! What a handler may reach: the interfaces of `wit/`, one file each.
//!
//! Every call whose result the guest can see goes through [`Start::call`], which knows whether it is permitted, and from
//! there through the recorded call path ([`crate::plugins::journal`]). `log` and `progress` are not recorded.
//!
//! - `contract.rs`: the generated bindings.
//! - `given.rs`: which addresses and ids were given to a task.
//! - `jobs.rs`: which engine jobs this start knows of, and their return after a restart.
//! - `http_rules.rs`: which requests the operator's rules allow.

pub mod contract;

pub(in crate::plugins) mod artifacts;
mod assist;
mod engines;
mod given;
mod http;
mod http_rules;
mod jobs;
pub mod log;
mod media;
mod progress;
mod secrets;
mod settings;
mod tasks;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use crate::digest::Digest;
use crate::plugins::Services;
use crate::plugins::journal::{CallKey, CallPath, Effect, Interrupt};
use crate::plugins::sandbox::Permits;
use crate::store::ClaimToken;
use crate::store::progress::ProgressWriter;
use crate::task::{Failure, Task};
use contract::enginehouse::plugin::types;
use jobs::Jobs;
use log::Lines;

/// Most bytes of JSON text that one argument may have: parsed, it takes many times as much of the host's memory.
const LARGEST_ARGUMENT: usize = 4 << 20;

/// Most levels of objects and lists in JSON that is kept. A row of the store stands some levels deeper than what the guest
/// gave, and JSON is read back down to 127 levels.
const LEVELS: usize = 64;

/// Larger arguments are recorded by the digest of their text.
const LARGEST_COMPARED: usize = 256 << 10;

/// What a plugin must ask for and an operator must grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    Engines,
    Tasks,
    Artifacts,
    Media,
    Assist,
    Http,
    Secrets,
}

impl Capability {
    /// The spelling in manifests and settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Engines => "engines",
            Capability::Tasks => "tasks",
            Capability::Artifacts => "artifacts",
            Capability::Media => "media",
            Capability::Assist => "assist",
            Capability::Http => "http",
            Capability::Secrets => "secrets",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What one start works with.
pub struct Reach {
    pub permits: Permits,
    pub services: Services,
    pub task: Task,
    pub token: ClaimToken,
    pub lines: Arc<Lines>,
    pub progress: ProgressWriter,
    /// Set while this start waits for other tasks.
    pub waiting: Arc<AtomicBool>,
    /// Bytes written and downloaded as artifacts so far.
    pub artifact_bytes: AtomicU64,
    /// Bytes sent and received by HTTP so far.
    pub http_bytes: AtomicU64,
    /// Made with the first request.
    pub http: OnceCell<reqwest::Client>,
}

/// [`Reach`], shared with the calls in progress.
pub type Shared = Arc<Reach>;

impl Reach {
    /// Whether a capability is there; if not, who has to do what about it.
    fn permit(&self, capability: Capability, function: &str) -> Result<(), Failure> {
        let Permits { plugin, wanted, capabilities, .. } = &self.permits;
        let name = capability.as_str();
        if capabilities.contains(name) {
            return Ok(());
        }
        let why = if wanted.contains(name) {
            format!(
                "the operator did not grant it: add \"{name}\" to `plugins.grant`, or to `capabilities` in \
                 `[plugins.grants.{plugin}]`"
            )
        } else {
            "its manifest does not ask for it: add it to `capabilities` there".to_string()
        };
        Err(Failure::denied(
            "not_granted",
            format!("The plugin {plugin} may not call `{function}`: it lacks the capability `{name}`, because {why}."),
        ))
    }

    /// Counts bytes that become artifacts. Code `artifact_limit`.
    fn count_artifact(&self, bytes: u64) -> Result<(), Failure> {
        let limit = self.permits.limits.artifact_mb;
        let before = self.artifact_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= limit << 20 {
            return Ok(());
        }
        Err(Failure::denied(
            "artifact_limit",
            format!(
                "The plugin {} made more than {limit} MB of artifacts in one start. The limit is \
                 `plugins.limits.artifact_mb`.",
                self.permits.plugin
            ),
        ))
    }
}

/// The host's side of one start of a guest.
pub struct Start {
    lines: Arc<Lines>,
    /// None: `describe`, which is called with nothing granted.
    live: Option<Live>,
}

struct Live {
    reach: Shared,
    calls: CallPath,
    jobs: Jobs,
}

impl Start {
    /// A start of `describe`: every call is denied.
    pub fn sealed(lines: Arc<Lines>) -> Self {
        Self { lines, live: None }
    }

    /// A start of `handle`.
    pub fn open(reach: Reach, calls: CallPath) -> Self {
        Self { lines: reach.lines.clone(), live: Some(Live { reach: Arc::new(reach), calls, jobs: Jobs::default() }) }
    }

    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    fn reach(&self) -> Option<&Reach> {
        self.live.as_ref().map(|live| &*live.reach)
    }

    /// The handler returned: whether its journal agrees.
    pub fn finish(&self) -> Result<(), Failure> {
        self.live.as_ref().map_or(Ok(()), |live| live.calls.finish())
    }

    /// Recorded calls made so far.
    pub fn calls_made(&self) -> u64 {
        self.live.as_ref().map_or(0, |live| live.calls.made())
    }

    /// The one way of every call whose result the guest can see.
    async fn call<T, F>(
        &mut self,
        capability: Option<Capability>,
        function: &'static str,
        arguments: &impl Serialize,
        effect: Effect,
        work: impl FnOnce(Shared, CallKey) -> F,
    ) -> Result<T, Interrupt>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, Interrupt>>,
    {
        let Some(live) = &mut self.live else {
            return Err(Interrupt::Failed(Failure::denied(
                "not_granted",
                format!("`{function}` cannot be called in `describe`: nothing is granted there."),
            )));
        };
        let replaying = live.calls.replaying().await?;
        self.lines.set_quiet(replaying);
        if !replaying {
            live.jobs.return_open(&live.reach).await;
        }
        let permit = capability.map_or(Ok(()), |capability| live.reach.permit(capability, function));
        let reach = live.reach.clone();
        let result = live.calls.record(function, arguments, effect, permit, |key| work(reach, key)).await;
        self.lines.set_quiet(live.calls.replaying().await?);
        result
    }
}

impl types::Host for Start {
    fn convert_failure(&mut self, interrupt: Interrupt) -> wasmtime::Result<types::Failure> {
        match interrupt {
            Interrupt::Failed(failure) => Ok(contract::to_guest(failure)),
            Interrupt::Stop(failure) => Err(wasmtime::Error::new(failure)),
        }
    }
}

/// An argument for the record: equal JSON is an equal argument, however it is written (up to a size).
fn json_or_text(text: &str) -> Value {
    if text.len() > LARGEST_COMPARED {
        return json!({ "sha256": Digest::of(text.as_bytes()), "bytes": text.len() });
    }
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string()))
}

/// An argument that must be a JSON object. Codes: `invalid_json`, `too_large`.
fn object(text: &str, what: &str) -> Result<Map<String, Value>, Failure> {
    if text.len() > LARGEST_ARGUMENT {
        let message = format!("{what} has {} bytes of JSON; one argument has at most {LARGEST_ARGUMENT}.", text.len());
        return Err(Failure::invalid("too_large", message));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Failure::invalid("invalid_json", format!("{what} must be a JSON object."))),
        Err(e) => Err(Failure::invalid("invalid_json", format!("{what} is no JSON: {e}."))),
    }
}

/// Whether JSON text that is to be kept is nested no deeper than can be read back. The error ends a sentence.
pub(in crate::plugins) fn nested_enough(text: &str) -> Result<(), String> {
    let levels = levels(text);
    if levels <= LEVELS {
        return Ok(());
    }
    Err(format!("it is nested {levels} levels deep; the host keeps {LEVELS} at most"))
}

/// How many objects and lists stand within each other. Counted in the text, because the parser gives up on the deepest.
fn levels(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                open += 1;
                most = most.max(open);
            }
            b'}' | b']' if !in_text => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// A member of options that is text, or absent. Code `invalid_json`.
fn text_option(options: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Failure::invalid("invalid_json", format!("The option `{name}` must be text."))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_counted_outside_of_texts() {
        for (text, count) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a": [], "b": {"c": [[]]}}"#, 4),
            (r#"{"[[[": "{{{\"[[["}"#, 1),
            (r#"["\\", []]"#, 2),
            ("]]][", 1),
        ] {
            assert_eq!(levels(text), count, "{text}");
        }
        assert!(nested_enough(&"[".repeat(LEVELS)).is_ok());
        assert!(nested_enough(&"[".repeat(LEVELS + 1)).is_err());
    }
}
