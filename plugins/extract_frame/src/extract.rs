//! From the params to the picture.

use enginehouse_sdk::host::tasks::TaskInfo;
use enginehouse_sdk::plugin::Product;
use enginehouse_sdk::prelude::*;

/// Saves one frame of another task's video as PNG, at the video's own size and without alpha.
///
/// Codes: `missing_required_field`, `invalid_field`; `task_not_found`, `task_not_complete`, `no_output` (the task with the
/// video); `not_a_video`, `frame_outside_video`; and what the host answers (`download_failed`, `unreadable_media`, …).
pub fn extract(host: &mut dyn Host, task: &Task) -> Result<Outcome, Failure> {
    let params = Fields::new([&task.params]);
    let source = params.required_text("input_video_task_id")?;
    let index = params.integer("frame_index")?.unwrap_or(0);

    let of_source =
        |failure: Failure| failure.while_doing(format!("cannot take a frame of the video of task {source}"));
    let video = video(host, source).map_err(of_source)?;
    let facts = host.probe(&video.artifact).map_err(of_source)?;
    if facts.kind != "video" {
        let message = format!("its output `{}` is no video: it is a {}", video.name, facts.kind);
        return Err(of_source(Failure::invalid("not_a_video", message)));
    }
    let frame = position(index, facts.frames).map_err(of_source)?;

    // The index as it was asked for: people find the picture under the number they gave.
    let name = format!("frame_{index}.png");
    let picture = Timeline::picture(&name).lossless().clip(Clip::video(&video.artifact).range(frame, 1));
    let picture = host.render(&picture).map_err(of_source)?;
    let facts = json!({"source_task": source, "frame": frame, "frames_of_source": facts.frames});
    Ok(Outcome::Product(Product {
        artifact: picture.file.artifact,
        name,
        facts: facts.as_object().cloned().unwrap_or_default(),
        ..Product::default()
    }))
}

/// The output of the task with the video. It is not waited for: whoever wants that makes this task depend on it.
fn video(host: &mut dyn Host, source: &str) -> Result<File, Failure> {
    let found: TaskInfo = host.task(source)?;
    if !found.is_complete() {
        return Err(Failure::dependency(
            "task_not_complete",
            format!("that task is {}: submit again when it is complete, or with a dependency on it", found.status),
        ));
    }
    let nothing = || {
        let kind = &found.task_type;
        Failure::dependency(
            "no_output",
            format!("that task ({kind}) is complete, but it has neither a file nor an address"),
        )
    };
    host.output(&found)?.ok_or_else(nothing)
}

/// The place of a frame among so many, from 0; negative indices count from the end.
fn position(index: i64, frames: u64) -> Result<u64, Failure> {
    let place = if index < 0 { frames.checked_sub(index.unsigned_abs()) } else { Some(index.unsigned_abs()) };
    place.filter(|place| *place < frames).ok_or_else(|| {
        Failure::invalid(
            "frame_outside_video",
            format!(
                "`frame_index` is {index}, and the video has {frames} frames: give 0 to {}, or -1 to -{frames}",
                frames.saturating_sub(1)
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use enginehouse_sdk::host::media::{Probe, Rendered};
    use enginehouse_sdk::host::tasks::Output;

    use super::*;

    /// A host with one task `source`, whose output stands for what `probe` says.
    struct Script {
        source: TaskInfo,
        probe: Probe,
        rendered: Option<Timeline>,
    }

    impl Script {
        fn with(frames: u64) -> Self {
            let file = File { artifact: "sha256:v".into(), name: "v.mp4".into(), ..File::default() };
            let output = Some(Output::File(file));
            Self {
                source: TaskInfo { status: "Complete".into(), output, ..TaskInfo::default() },
                probe: Probe { kind: "video".into(), frames, ..Probe::default() },
                rendered: None,
            }
        }
    }

    impl Host for Script {
        fn task(&mut self, id: &str) -> Result<TaskInfo, Failure> {
            let stranger = || Failure::dependency("task_not_found", format!("There is no task {id}."));
            if id == "source" { Ok(self.source.clone()) } else { Err(stranger()) }
        }

        fn resolve(&mut self, source: &str) -> Result<File, Failure> {
            Ok(File { artifact: format!("sha256:{source}"), ..File::default() })
        }

        fn probe(&mut self, _: &str) -> Result<Probe, Failure> {
            Ok(self.probe.clone())
        }

        fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
            self.rendered = Some(timeline.clone());
            let file = File { artifact: "sha256:p".into(), ..File::default() };
            Ok(Rendered { file, ..Rendered::default() })
        }
    }

    fn task(params: Value) -> Task {
        Task { params: params.as_object().unwrap().clone(), ..Task::default() }
    }

    fn failure(host: &mut Script, params: Value) -> Failure {
        extract(host, &task(params)).unwrap_err()
    }

    #[test]
    fn a_frame_is_named_by_the_index_that_was_given() {
        let mut host = Script::with(81);
        let outcome = extract(&mut host, &task(json!({"input_video_task_id": "source", "frame_index": -1}))).unwrap();
        let Outcome::Product(product) = outcome else { panic!("{outcome:?}") };
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("sha256:p", "frame_-1.png"));
        assert_eq!(json!(product.facts), json!({"source_task": "source", "frame": 80, "frames_of_source": 81}));
        let timeline = host.rendered.unwrap();
        assert_eq!((timeline.output.width, timeline.clips), (None, vec![Clip::video("sha256:v").range(80, 1)]));
    }

    #[test]
    fn indices_count_from_both_ends_and_end_there() {
        let cases = [(0, Some(0)), (80, Some(80)), (81, None), (-1, Some(80)), (-81, Some(0)), (-82, None)];
        for (index, place) in cases {
            assert_eq!(position(index, 81).ok(), place, "{index}");
        }
        for index in [i64::MIN, i64::MAX, 0, -1] {
            assert_eq!(position(index, 0).unwrap_err().code, "frame_outside_video");
        }
        let message = position(81, 81).unwrap_err().message;
        assert!(message.contains("0 to 80, or -1 to -81"), "{message}");
    }

    #[test]
    fn an_output_behind_an_address_is_fetched() {
        let mut host = Script::with(5);
        host.source.output = Some(Output::Text { text: "https://h/v.mp4".into() });
        extract(&mut host, &task(json!({"input_video_task_id": "source"}))).unwrap();
        assert_eq!(host.rendered.unwrap().clips, [Clip::video("sha256:https://h/v.mp4").range(0, 1)]);
    }

    #[test]
    fn what_is_wrong_with_the_other_task_is_told_with_its_id() {
        let named = json!({"input_video_task_id": "source"});
        let mut queued = Script::with(5);
        queued.source.status = "Queued".into();
        let mut empty = Script::with(5);
        empty.source.output = None;
        let mut picture = Script::with(1);
        picture.probe.kind = "picture".into();
        let cases = [
            (&mut queued, named.clone(), "task_not_complete", "task source: that task is Queued"),
            (&mut empty, named.clone(), "no_output", "neither a file nor an address"),
            (&mut picture, named.clone(), "not_a_video", "`v.mp4` is no video: it is a picture"),
            (
                &mut Script::with(5),
                json!({"input_video_task_id": "x"}),
                "task_not_found",
                "task x: There is no task x.",
            ),
            (
                &mut Script::with(5),
                json!({"input_video_task_id": ""}),
                "missing_required_field",
                "`input_video_task_id`",
            ),
        ];
        for (host, params, code, words) in cases {
            let failure = failure(host, params);
            assert_eq!(failure.code, code);
            assert!(failure.message.contains(words), "{}", failure.message);
            assert_eq!(host.rendered, None);
        }
    }

    #[test]
    fn an_index_is_a_whole_number() {
        let params = json!({"input_video_task_id": "source", "frame_index": 1.5});
        assert_eq!(failure(&mut Script::with(5), params).code, "invalid_field");
    }
}
