//! What joining needs of the host, as a trait: the component asks the real one, tests script it.

use enginehouse_sdk::host::media::{Probe, Rendered};
use enginehouse_sdk::host::tasks::TaskInfo;
use enginehouse_sdk::prelude::*;

/// The calls of `wit/` that this plugin makes.
pub trait Host {
    fn children(&mut self, of: &str) -> Result<Vec<TaskInfo>, Failure>;
    fn resolve(&mut self, source: &str) -> Result<File, Failure>;
    fn probe(&mut self, artifact: &str) -> Result<Probe, Failure>;
    fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure>;
    fn warn(&mut self, message: &str);
    fn progress(&mut self, message: &str);
}

/// The host that runs the component.
pub struct Imports;

impl Host for Imports {
    fn children(&mut self, of: &str) -> Result<Vec<TaskInfo>, Failure> {
        tasks::children(of)
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

    fn warn(&mut self, message: &str) {
        log::warn(message);
    }

    fn progress(&mut self, message: &str) {
        progress::report(None, message);
    }
}
