//! The calls of a handler as a trait: the component makes the real ones, a test scripts those that it expects.
//!
//! ```ignore
//! fn backwards(host: &mut dyn Host, video: &str) -> Result<File, Failure> {
//!     Ok(host.render(&Timeline::video("backwards.mp4").clip(Clip::video(video).reversed()))?.file)
//! }
//! ```
//!
//! The handler calls it with [`Imports`]. A test has a type of its own that implements only the functions which the
//! handler is to call; on the machine of the test every other one panics.

use serde_json::{Map, Value, json};

use crate::failure::{Failure, FailureClass};
use crate::plugin::{Product, Task};

use super::artifacts::{self, File};
use super::assist::{self, GuidanceRequest};
use super::engines::{self, Finished, ModelInfo, Options};
use super::media::{self, Clip, Probe, Rendered, Timeline};
use super::tasks::{self, Output, TaskInfo};
use super::{log, progress, settings};

/// What handlers ask of the host. The functions up to [`Host::progress`] are those of `wit/`; the others are made of them.
pub trait Host {
    /// What the operator set for this plugin.
    fn settings(&mut self) -> Result<Map<String, Value>, Failure> {
        settings::get()
    }

    /// [`tasks::children`].
    fn children(&mut self, of: &str) -> Result<Vec<TaskInfo>, Failure> {
        tasks::children(of)
    }

    /// [`tasks::get`].
    fn task(&mut self, id: &str) -> Result<TaskInfo, Failure> {
        tasks::get(id)
    }

    /// [`artifacts::resolve`].
    fn resolve(&mut self, source: &str) -> Result<File, Failure> {
        artifacts::resolve(source)
    }

    /// [`media::probe`].
    fn probe(&mut self, artifact: &str) -> Result<Probe, Failure> {
        media::probe(artifact)
    }

    /// [`media::render`].
    fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
        media::render(timeline)
    }

    /// [`assist::guidance`].
    fn guidance(&mut self, request: &GuidanceRequest) -> Result<File, Failure> {
        assist::guidance(request)
    }

    /// [`engines::model_info`].
    fn model_info(&mut self, model: &str) -> Result<ModelInfo, Failure> {
        engines::model_info(model)
    }

    /// [`engines::submit_generation`].
    fn submit(&mut self, settings: &Value, options: &Options) -> Result<String, Failure> {
        engines::submit_generation(settings, options)
    }

    /// [`engines::wait`].
    fn wait(&mut self, job: &str, limit_seconds: u32) -> Result<Finished, Failure> {
        engines::wait(job, Some(limit_seconds))
    }

    /// [`engines::cancel`].
    fn cancel(&mut self, job: &str) -> Result<(), Failure> {
        engines::cancel(job)
    }

    /// [`log::warn`].
    fn warn(&mut self, message: &str) {
        log::warn(message);
    }

    /// [`progress::report`], the fraction unknown.
    fn progress(&mut self, message: &str) {
        progress::report(None, message);
    }

    /// The main output of a task as a file: the one it made, or the one that stands where its text output says (an
    /// address, or a path below one of the operator's roots). None: it has no output. Codes: those of
    /// [`artifacts::resolve`].
    fn output(&mut self, task: &TaskInfo) -> Result<Option<File>, Failure> {
        match &task.output {
            Some(Output::File(file)) => Ok(Some(file.clone())),
            Some(Output::Text { text }) if !text.trim().is_empty() => self.resolve(text.trim()).map(Some),
            _ => Ok(None),
        }
    }

    /// A generation from its settings to its files. A job that takes longer than the limit is cancelled: nobody waits for
    /// it any more, so it must not hold the GPU.
    fn generation(&mut self, settings: &Value, options: &Options, limit_seconds: u32) -> Result<Finished, Failure> {
        let job = self.submit(settings, options)?;
        let finished = self.wait(&job, limit_seconds);
        if finished.as_ref().is_err_and(|failure| failure.code == engines::TIMEOUT)
            && let Err(failure) = self.cancel(&job)
        {
            self.warn(&format!("the job that took too long could not be stopped: {}", failure.message));
        }
        finished
    }

    /// A video with its first frame as one more picture, for lists: `thumb_` and the first eight characters of the task's
    /// id. The fact `thumbnail` names it. Where it cannot be made the video goes without, and the log says so.
    fn with_thumbnail(&mut self, mut product: Product, task: &Task) -> Result<Product, Failure> {
        let short: String = task.id.chars().take(8).collect();
        let first = Clip::video(&product.artifact).range(0, 1);
        match self.render(&Timeline::picture(format!("thumb_{short}.jpg")).clip(first)) {
            Ok(Rendered { file, .. }) => {
                // The host's name for it: a host that writes another kind of picture says so in the extension.
                product.facts.insert("thumbnail".into(), json!(file.name));
                product.extra.push((file.artifact, file.name));
            }
            Err(failure) if failure.class == FailureClass::Cancelled => return Err(failure),
            Err(failure) => self.warn(&format!("the video has no thumbnail: {}", failure.message)),
        }
        Ok(product)
    }
}

/// The host that runs the component.
#[derive(Clone, Copy, Debug, Default)]
pub struct Imports;

impl Host for Imports {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that renders or not, and whose engine answers or not.
    struct Script {
        rendered: Result<File, Failure>,
        engine: Result<Finished, Failure>,
        cancelled: Vec<String>,
        warnings: Vec<String>,
    }

    impl Default for Script {
        fn default() -> Self {
            let file = File { artifact: "sha256:t".into(), name: "thumb_12345678.jpg.png".into(), ..File::default() };
            Self { rendered: Ok(file), engine: Ok(Finished::default()), cancelled: Vec::new(), warnings: Vec::new() }
        }
    }

    impl Host for Script {
        fn resolve(&mut self, source: &str) -> Result<File, Failure> {
            Ok(File { artifact: format!("sha256:{source}"), ..File::default() })
        }

        fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
            assert_eq!(timeline.output.name, "thumb_12345678.jpg");
            assert_eq!(timeline.clips, [Clip::video("sha256:v").range(0, 1)]);
            self.rendered.clone().map(|file| Rendered { file, ..Rendered::default() })
        }

        fn submit(&mut self, _: &Value, _: &Options) -> Result<String, Failure> {
            Ok("job".into())
        }

        fn wait(&mut self, _: &str, limit_seconds: u32) -> Result<Finished, Failure> {
            assert_eq!(limit_seconds, 60);
            self.engine.clone()
        }

        fn cancel(&mut self, job: &str) -> Result<(), Failure> {
            self.cancelled.push(job.into());
            Ok(())
        }

        fn warn(&mut self, message: &str) {
            self.warnings.push(message.into());
        }
    }

    fn with_thumbnail(host: &mut Script) -> Result<Product, Failure> {
        let product = Product { artifact: "sha256:v".into(), name: "v.mp4".into(), ..Product::default() };
        host.with_thumbnail(product, &Task { id: "12345678-9abc".into(), ..Task::default() })
    }

    #[test]
    fn a_video_gets_its_first_frame_under_the_name_that_the_host_gave_it() {
        let product = with_thumbnail(&mut Script::default()).unwrap();
        assert_eq!(product.extra, [("sha256:t".into(), "thumb_12345678.jpg.png".into())]);
        assert_eq!(product.facts["thumbnail"], "thumb_12345678.jpg.png");
    }

    #[test]
    fn a_thumbnail_that_cannot_be_made_is_left_out_and_said() {
        let mut host = Script { rendered: Err(Failure::invalid("unreadable_media", "cut off")), ..Script::default() };
        let product = with_thumbnail(&mut host).unwrap();
        assert!(product.extra.is_empty() && product.facts.is_empty());
        assert_eq!(host.warnings, ["the video has no thumbnail: cut off"]);

        let stopped = Failure::new(FailureClass::Cancelled, "cancelled", "stopped");
        let mut host = Script { rendered: Err(stopped.clone()), ..Script::default() };
        assert_eq!(with_thumbnail(&mut host).unwrap_err(), stopped);
    }

    #[test]
    fn a_job_that_takes_too_long_is_cancelled_and_no_other() {
        let cancelled = |engine: Failure| {
            let mut host = Script { engine: Err(engine.clone()), ..Script::default() };
            assert_eq!(host.generation(&json!({}), &Options::default(), 60).unwrap_err(), engine);
            host.cancelled
        };
        assert_eq!(cancelled(Failure::engine("engine_timeout", "60 s are over")), ["job"]);
        assert_eq!(cancelled(Failure::engine("cuda", "broken")), [""; 0]);
    }

    #[test]
    fn an_output_is_the_file_or_what_the_text_names() {
        let output = |output: Option<Output>| {
            let task = TaskInfo { output, ..TaskInfo::default() };
            Script::default().output(&task).unwrap().map(|file| file.artifact)
        };
        let file = File { artifact: "sha256:f".into(), ..File::default() };
        assert_eq!(output(Some(Output::File(file))).as_deref(), Some("sha256:f"));
        let text = |text: &str| Some(Output::Text { text: text.into() });
        assert_eq!(output(text(" https://h/a.mp4\n")).as_deref(), Some("sha256:https://h/a.mp4"));
        assert_eq!((output(text(" ")), output(None)), (None, None));
    }
}
