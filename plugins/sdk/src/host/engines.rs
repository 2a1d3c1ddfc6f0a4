//! The two engines. Capability: `engines`.
//!
//! Submit, then wait: jobs of one GPU run one after the other, and a job that has finished is never run again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::bindings::enginehouse::plugin::engines;
use crate::failure::Failure;

use super::artifacts::File;
use super::{read, write};

/// Code of [`wait`] when the limit is over.
pub const TIMEOUT: &str = "engine_timeout";

/// How a job is to be run, apart from its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Options {
    /// Changes to the model's definition for this job alone (Wan2GP only).
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub model_overrides: Map<String, Value>,
    /// Names the job in progress reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Outputs that the server refuses are left out, the rest runs (ComfyUI only).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_partial: bool,
    /// Nodes whose preview pictures are wanted as outputs (ComfyUI only).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub temp_nodes: Vec<String>,
}

/// What a job has made.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Finished {
    /// The main output first.
    pub outputs: Vec<File>,
    /// How long the engine worked.
    #[serde(default)]
    pub seconds: f64,
}

impl Finished {
    /// The main output.
    pub fn main(&self) -> Result<&File, Failure> {
        self.outputs.first().ok_or_else(|| {
            Failure::engine("engine_no_output", "the engine reports success, but it made no file: look at its log")
        })
    }
}

/// What is known about a model of Wan2GP.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelInfo {
    /// False: nobody knows the model, and the rest is derived from its name.
    pub known: bool,
    /// Takes a guide and a mask video.
    pub vace: bool,
    pub family: Option<String>,
    pub defaults: Map<String, Value>,
}

/// Asks Wan2GP for a generation and returns the job's id. `settings`: generation parameters under their established
/// names (`prompt`, `model_name`, `resolution`, `video_length`, `seed`, …), files as references.
pub fn submit_generation(settings: &Value, options: &Options) -> Result<String, Failure> {
    const CALL: &str = "engines.submit-generation";
    engines::submit_generation(&write(CALL, settings)?, &write(CALL, options)?)
}

/// Asks ComfyUI to run a workflow in API format and returns the job's id. Files stand in it as references.
pub fn submit_workflow(workflow: &Value, options: &Options) -> Result<String, Failure> {
    const CALL: &str = "engines.submit-workflow";
    engines::submit_workflow(&write(CALL, workflow)?, &write(CALL, options)?)
}

/// Waits for a job, for at most so many seconds of its running time (none: the host's limit for the engine). Code
/// `engine_timeout` when they are over (the job goes on: cancel it), `engine_lost_task` when the engine does not know it.
pub fn wait(job: &str, limit_seconds: Option<u32>) -> Result<Finished, Failure> {
    read("engines.wait", &engines::wait(job, limit_seconds)?)
}

/// Waits until one of the jobs has ended: its position in the list, and what `wait` would have returned.
pub fn wait_any(jobs: &[String]) -> Result<(usize, Result<Finished, Failure>), Failure> {
    let ended = engines::wait_any(jobs)?;
    let outcome = ended.outcome.and_then(|text| read("engines.wait-any", &text));
    Ok((ended.index as usize, outcome))
}

/// Stops a job, running or queued. Not an error when it has ended already.
pub fn cancel(job: &str) -> Result<(), Failure> {
    engines::cancel(job)
}

/// What is known about a model of Wan2GP.
pub fn model_info(model: &str) -> Result<ModelInfo, Failure> {
    read("engines.model-info", &engines::model_info(model)?)
}
