//! One stitch from its params to its product.

use enginehouse_sdk::fields::integer;
use enginehouse_sdk::host::tasks::{Output, TaskInfo};
use enginehouse_sdk::plugin::Product;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;

use crate::join::{Part, timeline};
use crate::run::Run;
use crate::upscale::Upscale;

/// Seconds of running time that enlarging may take, unless the travel or the operator (`upscale_limit_seconds`) says.
pub const UPSCALE_LIMIT_SECONDS: u32 = 3600;
/// Name of the product, for people.
const NAME: &str = "output.mp4";

/// Joins the segments of a run.
///
/// Codes: those of [`Run::parse`]; `stitch_no_segments`, `stitch_segments_missing`, `segment_unreadable`,
/// `predecessor_unavailable` (the continued video), and what the host answers.
pub fn stitch(host: &mut dyn Host, task: &Task) -> Result<Outcome, Failure> {
    let run = Run::parse(&task.params, task.context.parent.as_deref())?;
    let mut videos = Vec::new();
    if let Some(address) = &run.continued {
        videos.push(continued(host, address)?);
    }
    videos.extend(segments(host, &run)?);

    let (artifact, frames) = match videos.as_slice() {
        // One video is the whole already: copied, not encoded once more.
        [only] => (only.artifact.clone(), only.frames),
        _ => {
            host.progress(&format!("joining {} videos", videos.len()));
            if run.overlaps.len() + 1 < videos.len() {
                host.warn(&format!(
                    "{} videos have {} joins, but the run names {} overlaps: the joins without one are plain cuts",
                    videos.len(),
                    videos.len() - 1,
                    run.overlaps.len()
                ));
            }
            let rendered = host.render(&timeline(&videos, &run.overlaps, &run.look, NAME))?;
            (rendered.file.artifact, rendered.frames)
        }
    };
    let mut facts = Map::new();
    facts.insert("segments".into(), json!(run.segments));
    facts.insert("frames".into(), json!(frames));
    facts.insert("upscaled".into(), json!(false));
    let plain = Product { artifact, name: NAME.into(), facts, ..Product::default() };
    let product = match &run.upscale {
        Some(upscale) => upscaled(host, upscale, plain)?,
        None => plain,
    };
    host.with_thumbnail(product, task).map(Outcome::Product)
}

/// The video, enlarged. Where that does not work it stays as it is, and the log says why: joined it is worth more than not
/// at all.
fn upscaled(host: &mut dyn Host, upscale: &Upscale, plain: Product) -> Result<Product, Failure> {
    let settings = host.settings()?;
    let limit = settings.get("upscale_limit_seconds").and_then(Value::as_u64);
    let limit = limit.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(UPSCALE_LIMIT_SECONDS);
    match upscale.enlarged(host, &plain.artifact, limit) {
        Ok(artifact) => {
            let mut product = Product { artifact, name: upscale.name(), ..plain };
            product.facts.insert("upscaled".into(), json!(true));
            product.facts.insert("upscale_factor".into(), json!(upscale.factor));
            Ok(product)
        }
        Err(failure) if failure.class == FailureClass::Cancelled => Err(failure),
        Err(failure) => {
            host.warn(&format!("the video is not enlarged by {}: {}", upscale.factor, failure.message));
            Ok(plain)
        }
    }
}

/// The videos of the run's segments, in order, all of them. Of several tasks for one segment the oldest counts.
fn segments(host: &mut dyn Host, run: &Run) -> Result<Vec<Part>, Failure> {
    let children = host.children(&run.parent)?;
    let mut parts = Vec::new();
    let mut missing = Vec::new();
    for index in 0..run.segments {
        let output =
            children.iter().filter(|child| is_segment(child, run, index)).find_map(|child| child.output.as_ref());
        let found = match output {
            Some(Output::File(file)) => video(host, &file.artifact).map_err(Trouble::Unreadable),
            Some(Output::Text { text }) if !text.trim().is_empty() => fetched_twice(host, &located(text.trim(), run)),
            _ => Err(Trouble::Absent("it has no output".into())),
        };
        match found {
            Ok(part) => parts.push(part),
            Err(Trouble::Absent(reason)) => missing.push(format!("segment {index} ({reason})")),
            Err(Trouble::Unreadable(failure)) => return Err(unreadable(failure, index)),
            Err(Trouble::Host(failure)) => return Err(failure),
        }
    }
    match missing.as_slice() {
        _ if parts.is_empty() => Err(Failure::dependency(
            kinds::STITCH_NO_SEGMENTS,
            format!(
                "cannot join the segments of run `{}`: not one of its {} segments has a video, so there is nothing to \
                 join; look at the tasks of its segments",
                run.id, run.segments
            ),
        )),
        [] => Ok(parts),
        _ => Err(Failure::dependency(
            kinds::STITCH_SEGMENTS_MISSING,
            format!(
                "cannot join the segments of run `{}`: {} of {} are missing, counted from 0: {}; complete them and retry",
                run.id,
                missing.len(),
                run.segments,
                missing.join(", ")
            ),
        )),
    }
}

fn is_segment(child: &TaskInfo, run: &Run, index: u64) -> bool {
    let field = |key: &str| child.params.get(key);
    child.task_type == "travel_segment"
        && child.is_complete()
        && field("orchestrator_run_id").and_then(Value::as_str) == Some(run.id.as_str())
        && field("segment_index").and_then(|value| integer("segment_index", value).ok()) == i64::try_from(index).ok()
}

/// Where the file of an older output is: `files/a.mp4` lies in the public folder of the run.
fn located(output: &str, run: &Run) -> String {
    match &run.folder {
        Some(folder) if output.starts_with("public/files/") => format!("{folder}/{output}"),
        Some(folder) if output.starts_with("files/") => format!("{folder}/public/{output}"),
        _ => output.to_string(),
    }
}

fn unreadable(failure: Failure, index: u64) -> Failure {
    if failure.is_of_the_host() {
        return failure;
    }
    let reason = failure.message.clone();
    let mut failure = failure.with_code(kinds::SEGMENT_UNREADABLE);
    failure.message = format!(
        "cannot join the segments: the file of segment {index}, counted from 0, is no readable video: {reason}; generate \
         that segment anew"
    );
    failure
}

/// Why there is no video.
enum Trouble {
    /// There is nothing where it should be.
    Absent(String),
    /// There is something else.
    Unreadable(Failure),
    /// Says nothing about the file.
    Host(Failure),
}

/// The video behind an address. It is fetched once more when that fails: a download may have been cut off.
fn fetched_twice(host: &mut dyn Host, address: &str) -> Result<Part, Trouble> {
    match fetched(host, address) {
        Err(Trouble::Absent(_) | Trouble::Unreadable(_)) => fetched(host, address),
        first => first,
    }
}

fn fetched(host: &mut dyn Host, address: &str) -> Result<Part, Trouble> {
    let file = host.resolve(address).map_err(|failure| match failure.code.as_str() {
        _ if failure.is_of_the_host() => Trouble::Host(failure),
        "unreadable_media" | "truncated" => Trouble::Unreadable(failure),
        _ => Trouble::Absent(failure.message),
    })?;
    video(host, &file.artifact).map_err(Trouble::Unreadable)
}

/// The video that the travel goes on from.
fn continued(host: &mut dyn Host, address: &str) -> Result<Part, Failure> {
    let failure = match fetched_twice(host, address) {
        Ok(part) => return Ok(part),
        Err(Trouble::Host(failure)) => return Err(failure),
        Err(Trouble::Unreadable(failure)) if failure.is_of_the_host() => return Err(failure),
        Err(Trouble::Unreadable(failure)) => failure,
        Err(Trouble::Absent(reason)) => Failure::dependency(kinds::PREDECESSOR_UNAVAILABLE, reason),
    };
    Err(failure
        .with_code(kinds::PREDECESSOR_UNAVAILABLE)
        .while_doing("cannot put the continued video before the segments: it is not there or not readable"))
}

fn video(host: &mut dyn Host, artifact: &str) -> Result<Part, Failure> {
    let probe = host.probe(artifact)?;
    if probe.kind != "video" || probe.frames == 0 {
        return Err(Failure::invalid("unreadable_media", format!("it is a {} without frames to play", probe.kind)));
    }
    Ok(Part { artifact: artifact.to_string(), frames: probe.frames })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use enginehouse_sdk::host::engines::{Finished, ModelInfo, Options};
    use enginehouse_sdk::host::media::{OutputKind, Probe, Rendered};

    use super::*;

    /// A host that knows some addresses and files, and notes what it is asked.
    #[derive(Default)]
    struct Script {
        children: Vec<TaskInfo>,
        /// Frames of what stands behind an address, one entry for each time it is fetched; the last one stays.
        addresses: BTreeMap<String, Vec<Option<u64>>>,
        /// Frames of a file; none: it is no video.
        files: BTreeMap<String, Option<u64>>,
        rendered: Option<Timeline>,
        /// Size of what the engine makes; none: it fails.
        engine: Option<(u32, u32)>,
        warnings: Vec<String>,
    }

    impl Host for Script {
        fn children(&mut self, of: &str) -> Result<Vec<TaskInfo>, Failure> {
            assert_eq!(of, "parent");
            Ok(self.children.clone())
        }

        fn resolve(&mut self, source: &str) -> Result<File, Failure> {
            let fetches = self
                .addresses
                .get_mut(source)
                .ok_or_else(|| Failure::invalid("input_not_found", format!("{source} is not there")))?;
            let frames = if fetches.len() > 1 { fetches.remove(0) } else { fetches[0] };
            let artifact = format!("{source}#{}", self.files.len());
            self.files.insert(artifact.clone(), frames);
            Ok(File { artifact, ..File::default() })
        }

        fn probe(&mut self, artifact: &str) -> Result<Probe, Failure> {
            let video = Probe { kind: "video".into(), frames: 17, width: 64, height: 32, ..Probe::default() };
            if let Some((width, height)) = self.engine.filter(|_| artifact == "enlarged") {
                return Ok(Probe { width, height, ..video });
            }
            let frames = self.files.get(artifact).copied().flatten();
            let frames = frames.ok_or_else(|| Failure::invalid("unreadable_media", "it is cut off"))?;
            Ok(Probe { frames, ..video })
        }

        fn settings(&mut self) -> Result<Map<String, Value>, Failure> {
            Ok(Map::new())
        }

        fn model_info(&mut self, _: &str) -> Result<ModelInfo, Failure> {
            Ok(ModelInfo::default())
        }

        fn submit(&mut self, _: &Value, _: &Options) -> Result<String, Failure> {
            Ok("job".into())
        }

        fn wait(&mut self, _: &str, limit_seconds: u32) -> Result<Finished, Failure> {
            assert_eq!(limit_seconds, 3600);
            let file = File { artifact: "enlarged".into(), ..File::default() };
            let made = Finished { outputs: vec![file], ..Finished::default() };
            self.engine.map(|_| made).ok_or_else(|| Failure::engine("cuda", "CUDA out of memory"))
        }

        fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
            if timeline.output.kind == OutputKind::Picture {
                let file =
                    File { artifact: "first frame".into(), name: timeline.output.name.clone(), ..File::default() };
                return Ok(Rendered { file, ..Rendered::default() });
            }
            let frames = timeline.clips.iter().map(|clip| clip.frames.unwrap()).sum::<u64>()
                - timeline.fades.iter().map(|fade| fade.frames).sum::<u64>();
            self.rendered = Some(timeline.clone());
            Ok(Rendered { file: File { artifact: "joined".into(), ..File::default() }, frames, ..Rendered::default() })
        }

        fn warn(&mut self, message: &str) {
            self.warnings.push(message.into());
        }

        fn progress(&mut self, _: &str) {}
    }

    impl Script {
        fn with_file(mut self, index: u64, frames: u64) -> Self {
            let artifact = format!("file-{}", self.children.len());
            self.files.insert(artifact.clone(), Some(frames));
            self.with_child(index, Output::File(File { artifact, ..File::default() }))
        }

        fn with_child(mut self, index: u64, output: Output) -> Self {
            self.children.push(TaskInfo {
                task_type: "travel_segment".into(),
                status: "Complete".into(),
                params: map(json!({"segment_index": index, "orchestrator_run_id": "run"})),
                output: Some(output),
                ..TaskInfo::default()
            });
            self
        }

        fn with_address(mut self, address: &str, fetches: &[Option<u64>]) -> Self {
            self.addresses.insert(address.into(), fetches.to_vec());
            self
        }
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn task(segments: u64, overlaps: Value) -> Task {
        let params = map(json!({
            "orchestrator_task_id_ref": "parent",
            "orchestrator_run_id": "run",
            "num_total_segments_generated": segments,
            "frame_overlap_settings_expanded": overlaps,
            "orchestrator_details": {"parsed_resolution_wh": "64x32"},
        }));
        Task { task_type: "travel_stitch".into(), params, ..Task::default() }
    }

    fn product(outcome: Result<Outcome, Failure>) -> Product {
        match outcome.unwrap() {
            Outcome::Product(product) => product,
            other => panic!("{other:?}"),
        }
    }

    fn text(address: &str) -> Output {
        Output::Text { text: address.into() }
    }

    #[test]
    fn segments_are_joined_in_order_in_one_render() {
        let mut host = Script::default().with_file(1, 41).with_file(0, 33).with_file(2, 33);
        let product = product(stitch(&mut host, &task(3, json!([8, 4]))));
        assert_eq!((product.artifact.as_str(), &product.facts["frames"]), ("joined", &json!(95)));
        assert_eq!(product.facts["upscaled"], json!(false));
        let clips = host.rendered.unwrap().clips;
        assert_eq!(clips[0], Clip::video("file-1").range(0, 33));
        assert_eq!(clips[1], Clip::video("file-0").range(0, 41));
        assert!(host.warnings.is_empty(), "{:?}", host.warnings);
    }

    #[test]
    fn one_segment_is_taken_as_it_is() {
        let mut host = Script::default().with_file(0, 21);
        assert_eq!(product(stitch(&mut host, &task(1, json!([])))).artifact, "file-0");
        assert_eq!(host.rendered, None);
    }

    #[test]
    fn a_continued_video_comes_first_and_has_the_first_overlap() {
        let mut host = Script::default().with_address("/in/a.mp4", &[Some(25)]).with_file(0, 33).with_file(1, 33);
        let mut task = task(2, json!([8, 4]));
        task.params.insert("initial_continued_video_path".into(), json!("/in/a.mp4"));
        assert_eq!(product(stitch(&mut host, &task)).facts["frames"], json!(25 + 33 + 33 - 12));
        assert_eq!(host.rendered.unwrap().fades[0].frames, 8);
    }

    #[test]
    fn a_continued_video_that_is_gone_fails_the_stitch() {
        let mut host = Script::default().with_file(0, 33);
        let mut task = task(1, json!([8]));
        task.params.insert("initial_continued_video_path".into(), json!("/in/gone.mp4"));
        let failure = stitch(&mut host, &task).unwrap_err();
        assert_eq!(failure.code, "predecessor_unavailable");
        assert!(failure.message.contains("/in/gone.mp4"), "{}", failure.message);
    }

    #[test]
    fn missing_segments_are_named_with_what_became_of_them() {
        let mut host = Script::default().with_file(0, 33).with_child(1, text("")).with_child(3, text("/in/gone.mp4"));
        let failure = stitch(&mut host, &task(4, json!([8, 8, 8]))).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("stitch_segments_missing", FailureClass::Dependency));
        for part in ["3 of 4", "segment 1 (", "segment 2 (", "segment 3 (/in/gone.mp4"] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn no_segment_at_all_is_told_apart() {
        let failure = stitch(&mut Script::default(), &task(2, json!([8]))).unwrap_err();
        assert_eq!(failure.code, "stitch_no_segments");
    }

    #[test]
    fn segments_of_other_runs_and_unfinished_ones_do_not_count() {
        let mut host = Script::default().with_file(0, 33).with_file(0, 33);
        host.children[0].status = "In Progress".into();
        host.children[1].params.insert("orchestrator_run_id".into(), json!("other"));
        assert_eq!(stitch(&mut host, &task(1, json!([]))).unwrap_err().code, "stitch_no_segments");
    }

    #[test]
    fn of_two_videos_for_one_segment_the_older_counts() {
        let mut host = Script::default().with_file(0, 33).with_file(0, 49);
        assert_eq!(product(stitch(&mut host, &task(1, json!([])))).artifact, "file-0");
    }

    #[test]
    fn a_cut_off_download_is_fetched_once_more() {
        let address = "https://cdn.example/a.mp4";
        let mut host = Script::default().with_file(0, 17).with_child(1, text(address));
        host = host.with_address(address, &[None, Some(17)]);
        assert_eq!(product(stitch(&mut host, &task(2, json!([4])))).facts["frames"], json!(30));
    }

    #[test]
    fn a_segment_that_is_no_video_is_named() {
        let address = "https://cdn.example/a.mp4";
        let mut host = Script::default().with_file(0, 17).with_child(1, text(address)).with_address(address, &[None]);
        let failure = stitch(&mut host, &task(2, json!([4]))).unwrap_err();
        assert_eq!(failure.code, "segment_unreadable");
        assert!(failure.message.contains("segment 1"), "{}", failure.message);
    }

    #[test]
    fn an_older_output_lies_in_the_public_folder_of_the_run() {
        let mut host = Script::default().with_child(0, text("files/a.mp4")).with_child(1, text("public/files/b.mp4"));
        host = host.with_address("/run/public/files/a.mp4", &[Some(17)]);
        host = host.with_address("/run/public/files/b.mp4", &[Some(17)]);
        let mut task = task(2, json!([4]));
        task.params.insert("current_run_base_output_dir".into(), json!("/run/"));
        assert_eq!(product(stitch(&mut host, &task)).facts["frames"], json!(30));
    }

    #[test]
    fn the_first_frame_is_shown_in_lists() {
        let task = Task { id: "5ba17c2e-1".into(), ..task(1, json!([])) };
        let made = product(stitch(&mut Script::default().with_file(0, 17), &task));
        assert_eq!(made.extra, [("first frame".into(), "thumb_5ba17c2e.jpg".into())]);
        assert_eq!(made.facts["thumbnail"], "thumb_5ba17c2e.jpg");
    }

    fn enlarged(mut host: Script) -> (Product, Vec<String>) {
        let mut task = task(1, json!([]));
        task.params.extend(map(json!({"upscale_factor": 2, "upscale_model_name": "up"})));
        (product(stitch(&mut host, &task)), host.warnings)
    }

    #[test]
    fn an_enlarged_video_says_so_in_name_and_facts() {
        let (product, warnings) = enlarged(Script { engine: Some((128, 64)), ..Script::default() }.with_file(0, 17));
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("enlarged", "upscaled_2.0x.mp4"));
        assert_eq!((&product.facts["upscaled"], &product.facts["upscale_factor"]), (&json!(true), &json!(2.0)));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_video_that_cannot_be_enlarged_stays_as_it_is_and_the_log_says_why() {
        let (product, warnings) = enlarged(Script::default().with_file(0, 17));
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("file-0", "output.mp4"));
        assert_eq!((&product.facts["upscaled"], product.facts.get("upscale_factor")), (&json!(false), None));
        assert_eq!(warnings, ["the video is not enlarged by 2: CUDA out of memory"]);
    }
}
