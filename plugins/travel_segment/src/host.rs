//! What a segment needs of the host, as a trait: the component asks the real one, tests script it.

use enginehouse_sdk::host::assist::GuidanceRequest;
use enginehouse_sdk::host::engines::{Finished, ModelInfo, Options};
use enginehouse_sdk::host::media::{Probe, Rendered};
use enginehouse_sdk::host::tasks::TaskInfo;
use enginehouse_sdk::prelude::*;

/// The calls of `wit/` that this plugin makes.
pub trait Host {
    fn settings(&mut self) -> Result<Map<String, Value>, Failure>;
    fn task(&mut self, id: &str) -> Result<TaskInfo, Failure>;
    fn resolve(&mut self, source: &str) -> Result<File, Failure>;
    fn probe(&mut self, artifact: &str) -> Result<Probe, Failure>;
    fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure>;
    fn guidance(&mut self, request: &GuidanceRequest) -> Result<File, Failure>;
    fn model_info(&mut self, model: &str) -> Result<ModelInfo, Failure>;
    fn submit(&mut self, settings: &Value, options: &Options) -> Result<String, Failure>;
    fn wait(&mut self, job: &str, limit_seconds: u32) -> Result<Finished, Failure>;
    fn cancel(&mut self, job: &str) -> Result<(), Failure>;
    fn warn(&mut self, message: &str);
    fn progress(&mut self, message: &str);
}

/// The host that runs the component.
pub struct Imports;

impl Host for Imports {
    fn settings(&mut self) -> Result<Map<String, Value>, Failure> {
        settings::get()
    }

    fn task(&mut self, id: &str) -> Result<TaskInfo, Failure> {
        tasks::get(id)
    }

    fn resolve(&mut self, source: &str) -> Result<File, Failure> {
        artifacts::resolve(source)
    }

    fn probe(&mut self, artifact: &str) -> Result<Probe, Failure> {
        media::probe(artifact)
    }

    fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
        media::render(timeline)
    }

    fn guidance(&mut self, request: &GuidanceRequest) -> Result<File, Failure> {
        assist::guidance(request)
    }

    fn model_info(&mut self, model: &str) -> Result<ModelInfo, Failure> {
        engines::model_info(model)
    }

    fn submit(&mut self, settings: &Value, options: &Options) -> Result<String, Failure> {
        engines::submit_generation(settings, options)
    }

    fn wait(&mut self, job: &str, limit_seconds: u32) -> Result<Finished, Failure> {
        engines::wait(job, Some(limit_seconds))
    }

    fn cancel(&mut self, job: &str) -> Result<(), Failure> {
        engines::cancel(job)
    }

    fn warn(&mut self, message: &str) {
        log::warn(message);
    }

    fn progress(&mut self, message: &str) {
        progress::report(None, message);
    }
}
