//! One segment from its params to its product: gather, guide, ask the engine, finish.

use enginehouse_sdk::host::engines::{Finished, Options};
use enginehouse_sdk::plugin::Product;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::phase_config::Phases;
use enginehouse_sdk::rules::structure::{Guidance as Structure, Target};
use enginehouse_sdk::rules::{self, kinds};

use crate::finish::Finish;
use crate::gather::Work;
use crate::request::{self, Kind, Materials};
use crate::values::{self, Layers, Segment};

/// The type of segments that stand on their own.
pub const STANDALONE: &str = "individual_travel_segment";
/// Seconds of running time an engine may take, unless the operator sets `engine_limit_seconds`.
const ENGINE_LIMIT_SECONDS: u32 = 1800;

/// Generates a segment.
///
/// Codes: `missing_segment_index`, `missing_orchestrator_details`, `orchestrator_details_unavailable`,
/// `missing_required_field`, `invalid_field`, `invalid_resolution`, `bad_phase_config`, `predecessor_unavailable`,
/// `input_download_failed`, `guide_creation_failed`, `engine_failed`, `engine_timeout`, `engine_lost_task`, and what the
/// host answers.
pub fn generate(host: &mut dyn Host, task: &Task) -> Result<Outcome, Failure> {
    let standalone = task.task_type == STANDALONE;
    // Asked first: without a number nothing else can be told about the segment.
    values::index(&task.params, standalone)?;
    let travel = details(host, task, standalone)?;
    let own = values::own(&task.params)?;
    let segment = Segment::read(Layers { own: &own, task: &task.params, travel: &travel }, standalone)?;
    let phases = segment.phase_config.as_ref().map(Phases::parse).transpose()?;
    let structure = Structure::read(&Fields::new([&task.params, &travel]))?;
    let settings = host.settings()?;

    let guided = segment.vace_travel || structure.is_given();
    let vace = guided && host.model_info(&segment.model)?.vace;
    let kind = Kind { guided, vace, uni3c: structure.target == Target::Uni3c };
    let work = Work {
        segment: &segment,
        structure: &structure,
        travel: &travel,
        dependency: task.context.dependencies.first().map(String::as_str),
        kind,
        makes_guide: vace || (guided && segment.debug),
        masks: settings.get("mask_active_frames").and_then(Value::as_bool).unwrap_or(true),
    };
    let materials = work.materials(host)?;

    let settings_of_job = request::settings(&segment, &materials, kind, phases.as_ref(), Some(&structure));
    let options = Options {
        model_overrides: phases.as_ref().map(Phases::model_overrides).unwrap_or_default(),
        label: Some(format!("segment {}", segment.index)),
        ..Options::default()
    };
    let limit =
        settings.get("engine_limit_seconds").and_then(Value::as_u64).and_then(|limit| u32::try_from(limit).ok());
    host.progress(&format!("generating segment {}", segment.index));
    let finished = run(host, &settings_of_job, &options, limit.unwrap_or(ENGINE_LIMIT_SECONDS))?;
    let product = product(host, &segment, &materials, finished)?;
    host.with_thumbnail(product, task).map(Outcome::Product)
}

/// The details of the travel: in the task's params, or in those of the task that created it.
fn details(host: &mut dyn Host, task: &Task, standalone: bool) -> Result<Map<String, Value>, Failure> {
    if let Some(details) = rules::details(&task.params) {
        return Ok(details.clone());
    }
    let parent = Fields::new([&task.params]).truthy("orchestrator_task_id_ref").and_then(Value::as_str);
    let Some(parent) = parent.filter(|_| !standalone) else {
        return Err(Failure::invalid(
            kinds::MISSING_ORCHESTRATOR_DETAILS,
            "cannot generate the segment: the params lack `orchestrator_details`, which say what the travel is",
        ));
    };
    let unavailable = |reason: &str| {
        Failure::new(
            FailureClass::Dependency,
            kinds::ORCHESTRATOR_DETAILS_UNAVAILABLE,
            format!("cannot read what the travel is from the task that created this segment, {parent}: {reason}"),
        )
    };
    let parent_task = host.task(parent).map_err(|failure| match failure.class {
        FailureClass::Cancelled | FailureClass::Internal => failure,
        _ => unavailable(&failure.message),
    })?;
    rules::details(&parent_task.params).cloned().ok_or_else(|| unavailable("its params have no `orchestrator_details`"))
}

/// Asks the engine and waits. What the engine says is passed on in its own words.
fn run(
    host: &mut dyn Host,
    settings: &Map<String, Value>,
    options: &Options,
    limit_seconds: u32,
) -> Result<Finished, Failure> {
    let finished = host.generation(&Value::Object(settings.clone()), options, limit_seconds);
    finished.map_err(|failure| match failure.class {
        _ if [kinds::ENGINE_TIMEOUT, kinds::ENGINE_LOST_TASK].contains(&failure.code.as_str()) => failure,
        FailureClass::Engine | FailureClass::OutOfMemory => failure.with_code(kinds::ENGINE_FAILED),
        _ => failure,
    })
}

/// The finished video. A look that cannot be applied is left out; a beginning that cannot be cut off is a failure, since
/// the stitch would show it twice.
fn product(
    host: &mut dyn Host,
    segment: &Segment,
    materials: &Materials,
    finished: Finished,
) -> Result<Product, Failure> {
    let main = finished.main().cloned().map_err(|failure| failure.with_code(kinds::ENGINE_FAILED))?;
    let mut finish = Finish::look(segment);
    if materials.prefix.is_some() {
        finish = finish.trimmed(segment, host.probe(&main.artifact)?.frames);
    }
    let extension = main.name.rsplit_once('.').map_or("mp4", |(_, extension)| extension);
    let mut artifact = main.artifact.clone();
    let mut name = format!("seg{:02}_output.{extension}", segment.index);
    if !finish.is_nothing() {
        host.progress("finishing the video");
        let finished_name = format!("seg{:02}_output.mp4", segment.index);
        match host.render(&finish.timeline(&main.artifact, finished_name.clone())) {
            Ok(rendered) => (artifact, name) = (rendered.file.artifact, finished_name),
            Err(failure) if finish.keep_last.is_some() || failure.is_of_the_host() => return Err(failure),
            Err(failure) => host.warn(&format!("the look of the segment is left as it is: {}", failure.message)),
        }
    }
    let mut facts = Map::new();
    facts.insert("segment_index".into(), json!(segment.index));
    facts.insert("engine_seconds".into(), json!(finished.seconds));
    let mut extra: Vec<_> = finished.outputs.into_iter().skip(1).map(|file| (file.artifact, file.name)).collect();
    if segment.keeps_steps {
        let unfinished = Some(&main.artifact).filter(|main| **main != artifact);
        extra.extend(steps(segment, materials, unfinished));
    }
    Ok(Product { artifact, name, extra, facts })
}

/// What was made on the way, for those who look for a mistake.
fn steps(segment: &Segment, materials: &Materials, unfinished: Option<&String>) -> Vec<(String, String)> {
    let index = segment.index;
    [
        ("guide", &materials.guide.as_ref()),
        ("mask", &materials.mask.as_ref()),
        ("prefix", &materials.prefix.as_ref()),
        ("generated", &unfinished),
    ]
    .into_iter()
    .filter_map(|(step, artifact)| Some(((*artifact)?.clone(), format!("seg{index:02}_{step}.mp4"))))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use enginehouse_sdk::host::assist::GuidanceRequest;
    use enginehouse_sdk::host::engines::ModelInfo;
    use enginehouse_sdk::host::media::{Probe, Rendered};
    use enginehouse_sdk::host::tasks::{Output, TaskInfo};

    use super::*;

    /// A host where every address is there unless it holds the word `gone`. Artifacts are named after where they come
    /// from; what is rendered is named after its file.
    struct Script {
        settings: Value,
        tasks: BTreeMap<String, TaskInfo>,
        /// Frames of videos, by digest; others are pictures.
        videos: BTreeMap<String, u64>,
        /// What the engine answers.
        engine: Result<u64, Failure>,
        guidance: Result<File, Failure>,
        rendered: BTreeMap<String, Timeline>,
        /// Name of a file that cannot be rendered.
        unrenderable: &'static str,
        submitted: Option<(Value, Options)>,
        limit_seconds: Option<u32>,
        cancelled: Vec<String>,
        warnings: Vec<String>,
    }

    impl Default for Script {
        fn default() -> Self {
            Self {
                settings: json!({}),
                tasks: BTreeMap::new(),
                videos: BTreeMap::new(),
                engine: Ok(33),
                guidance: Err(Failure::unavailable("assist_not_configured", "no helper")),
                rendered: BTreeMap::new(),
                unrenderable: "",
                submitted: None,
                limit_seconds: None,
                cancelled: Vec::new(),
                warnings: Vec::new(),
            }
        }
    }

    fn file(artifact: &str) -> File {
        File { artifact: artifact.into(), name: artifact.into(), ..File::default() }
    }

    impl Host for Script {
        fn settings(&mut self) -> Result<Map<String, Value>, Failure> {
            Ok(map(self.settings.clone()))
        }

        fn task(&mut self, id: &str) -> Result<TaskInfo, Failure> {
            self.tasks.get(id).cloned().ok_or_else(|| Failure::invalid("task_not_found", "there is no such task"))
        }

        fn resolve(&mut self, source: &str) -> Result<File, Failure> {
            if source.contains("gone") {
                return Err(Failure::dependency("download_failed", "404 Not Found").retryable());
            }
            Ok(file(source))
        }

        fn probe(&mut self, artifact: &str) -> Result<Probe, Failure> {
            match self.videos.get(artifact) {
                Some(&frames) => Ok(Probe { kind: "video".into(), frames, ..Probe::default() }),
                None => Ok(Probe { kind: "picture".into(), frames: 1, ..Probe::default() }),
            }
        }

        fn render(&mut self, timeline: &Timeline) -> Result<Rendered, Failure> {
            let name = timeline.output.name.clone();
            if name == self.unrenderable {
                return Err(Failure::invalid("unreadable_media", format!("{name} cannot be rendered")));
            }
            self.rendered.insert(name.clone(), timeline.clone());
            Ok(Rendered { file: file(&name), ..Rendered::default() })
        }

        fn guidance(&mut self, _: &GuidanceRequest) -> Result<File, Failure> {
            self.guidance.clone()
        }

        fn model_info(&mut self, model: &str) -> Result<ModelInfo, Failure> {
            Ok(ModelInfo { vace: model == "takes-a-guide", ..ModelInfo::default() })
        }

        fn submit(&mut self, settings: &Value, options: &Options) -> Result<String, Failure> {
            self.submitted = Some((settings.clone(), options.clone()));
            Ok("job".into())
        }

        fn wait(&mut self, job: &str, limit_seconds: u32) -> Result<Finished, Failure> {
            assert_eq!(job, "job");
            self.limit_seconds = Some(limit_seconds);
            let frames = self.engine.clone()?;
            self.videos.insert("generated.mkv".into(), frames);
            Ok(Finished { outputs: vec![file("generated.mkv")], seconds: 7.0 })
        }

        fn cancel(&mut self, job: &str) -> Result<(), Failure> {
            self.cancelled.push(job.into());
            Ok(())
        }

        fn warn(&mut self, message: &str) {
            self.warnings.push(message.into());
        }

        fn progress(&mut self, _: &str) {}
    }

    impl Script {
        /// With a predecessor `before` whose video has so many frames.
        fn after(frames: u64) -> Self {
            let mut script = Self::default();
            let output = Some(Output::File(file("before.mp4")));
            let task = TaskInfo { status: "Complete".into(), output, ..TaskInfo::default() };
            script.tasks.insert("before".into(), task);
            script.videos.insert("before.mp4".into(), frames);
            script
        }

        fn asked(&self) -> &Value {
            &self.submitted.as_ref().expect("nothing was submitted").0
        }
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// Segment 1 of a chained travel with a model that takes a guide; `more` and `travel` change params and details.
    fn task(more: Value, travel: Value) -> Task {
        let mut details = map(json!({"input_image_paths_resolved": ["i0", "i1", "i2"], "model_type": "vace"}));
        details.extend(map(travel));
        let mut params = map(json!({
            "segment_index": 1,
            "is_first_segment": false,
            "model_name": "takes-a-guide",
            "parsed_resolution_wh": "100x60",
            "segment_frames_target": 33,
            "frame_overlap_from_previous": 8,
            "base_prompt": "a walk",
            "orchestrator_details": details,
        }));
        params.extend(map(more));
        let mut task = Task { task_type: "travel_segment".into(), params, ..Task::default() };
        task.context.dependencies = vec!["before".into()];
        task
    }

    fn standalone(more: Value, travel: Value) -> Task {
        let mut task = Task { task_type: STANDALONE.into(), ..task(more, travel) };
        task.context.dependencies.clear();
        task
    }

    fn product(outcome: Result<Outcome, Failure>) -> Product {
        match outcome.unwrap() {
            Outcome::Product(product) => product,
            other => panic!("{other:?}"),
        }
    }

    fn artifact(name: &str) -> Value {
        json!({"$artifact": name})
    }

    #[test]
    fn a_chained_segment_goes_on_from_its_predecessor() {
        let mut host = Script::after(41);
        let product = product(generate(&mut host, &task(json!({}), json!({}))));
        assert_eq!(
            *host.asked(),
            json!({
                "prompt": "a walk", "model_name": "takes-a-guide", "negative_prompt": " ", "resolution": "96x48",
                "video_length": 33, "seed": 12345, "image_start": artifact("i1"), "image_end": artifact("i2"),
                "video_guide": artifact("seg01_guide.mp4"), "video_mask": artifact("seg01_mask.mp4"),
                "video_prompt_type": "VM", "_source_task_type": "travel_segment",
            })
        );
        let guide = &host.rendered["seg01_guide.mp4"];
        assert_eq!(guide.clips[0], Clip::video("before.mp4").range(33, 8));
        assert_eq!((guide.output.width, guide.output.height, guide.output.fps), (Some(96), Some(48), Some(16.0)));
        assert_eq!(host.rendered["seg01_mask.mp4"].clips[0], Clip::color("#000000", 8));
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("generated.mkv", "seg01_output.mkv"));
        assert_eq!(host.limit_seconds, Some(1800));
        assert!(host.warnings.is_empty(), "{:?}", host.warnings);
    }

    #[test]
    fn without_its_predecessors_video_a_segment_fails() {
        let failure = generate(&mut Script::default(), &task(json!({}), json!({}))).unwrap_err();
        assert_eq!(failure.code, "predecessor_unavailable");
        let mut host = Script::after(41);
        host.tasks.get_mut("before").unwrap().output = None;
        let failure = generate(&mut host, &task(json!({}), json!({}))).unwrap_err();
        assert_eq!(failure.code, "predecessor_unavailable");
        assert!(failure.message.contains("task before"), "{}", failure.message);
        assert_eq!(host.submitted, None);
    }

    #[test]
    fn an_independent_segment_starts_from_its_own_picture() {
        let mut host = Script::default();
        product(generate(&mut host, &task(json!({}), json!({"chain_segments": false}))));
        assert_eq!(host.rendered["seg01_guide.mp4"].clips[0], Clip::still("i1", 1));
    }

    #[test]
    fn a_model_without_a_guide_gets_none() {
        let mut host = Script::default();
        product(generate(&mut host, &task(json!({"model_name": "plain-lightning"}), json!({}))));
        assert!(host.rendered.keys().all(|name| name.starts_with("thumb_")), "{:?}", host.rendered.keys());
        assert_eq!(host.asked()["video_prompt_type"], json!("U"));
        let mut host = Script::default();
        product(generate(&mut host, &task(json!({}), json!({"model_type": "i2v"}))));
        assert_eq!(host.asked().get("video_prompt_type"), None);
    }

    #[test]
    fn the_operator_may_switch_masks_off() {
        let mut host = Script { settings: json!({"mask_active_frames": false}), ..Script::after(41) };
        product(generate(&mut host, &task(json!({}), json!({}))));
        assert_eq!(host.asked()["video_prompt_type"], json!("V"));
        assert_eq!(host.asked().get("video_mask"), None);
    }

    #[test]
    fn a_guide_without_an_end_picture_is_not_made() {
        let travel = json!({"input_image_paths_resolved": ["i0", "i1"], "chain_segments": false});
        let failure = generate(&mut Script::default(), &task(json!({}), travel)).unwrap_err();
        assert_eq!(failure.code, "guide_creation_failed");
        assert!(failure.message.contains("no end image"), "{}", failure.message);
    }

    #[test]
    fn a_single_picture_has_no_end() {
        let travel = json!({"input_image_paths_resolved": ["i0"]});
        let more = json!({"segment_index": 0, "is_first_segment": true, "is_last_segment": true});
        let mut host = Script::default();
        product(generate(&mut host, &task(more, travel)));
        assert_eq!(host.rendered["seg00_guide.mp4"].clips, [Clip::still("i0", 1), Clip::color("#808080", 32)]);
    }

    #[test]
    fn a_picture_that_cannot_be_fetched_fails_the_segment() {
        let more = json!({"individual_segment_params": {"start_image_url": "https://cdn.example/gone.png?key=k"}});
        let failure = generate(&mut Script::default(), &standalone(more, json!({}))).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("input_download_failed", true));
    }

    #[test]
    fn an_svi_segment_grows_from_the_end_of_its_predecessor_and_is_trimmed() {
        let mut host = Script { engine: Ok(42), ..Script::after(33) };
        let more = json!({"model_name": "plain", "use_svi": true, "guidance_phases": 2});
        let product = product(generate(&mut host, &task(more, json!({"model_type": "i2v"}))));
        let asked = host.asked();
        assert_eq!(asked["video_source"], artifact("seg01_prefix.mp4"));
        assert_eq!((&asked["video_length"], &asked["image_prompt_type"]), (&json!(37), &json!("SV")));
        assert_eq!((&asked["svi2pro"], &asked["sliding_window_overlap"]), (&json!(true), &json!(4)));
        assert_eq!(asked["image_refs_paths"], json!([artifact("last_frame.png")]));
        assert_eq!((asked.get("image_start"), &asked["guidance_phases"]), (None, &json!(2)));
        assert_eq!(asked["activated_loras"].as_array().unwrap().len(), 4);
        assert_eq!(host.rendered["seg01_prefix.mp4"].clips, [Clip::video("before.mp4").last(9)]);
        assert_eq!(host.rendered["seg01_output.mp4"].clips, [Clip::video("generated.mkv").last(37)]);
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("seg01_output.mp4", "seg01_output.mp4"));
    }

    #[test]
    fn a_predecessor_whose_end_cannot_be_cut_off_is_grown_from_whole() {
        let mut host = Script { engine: Ok(66), unrenderable: "seg01_prefix.mp4", ..Script::after(33) };
        product(generate(&mut host, &task(json!({"use_svi": true}), json!({"model_type": "i2v"}))));
        assert_eq!(host.asked()["video_source"], artifact("before.mp4"));
        assert_eq!(host.rendered["seg01_output.mp4"].clips, [Clip::video("generated.mkv").last(37)]);
        assert!(host.warnings[0].contains("seg01_prefix.mp4 cannot be rendered"), "{:?}", host.warnings);
    }

    #[test]
    fn a_segment_shows_its_first_frame_in_lists() {
        let mut host = Script::default();
        let task = Task { id: "5ba17c2e-1".into(), ..task(json!({}), json!({"model_type": "i2v"})) };
        let made = product(generate(&mut host, &task));
        assert_eq!(made.extra, [("thumb_5ba17c2e.jpg".into(), "thumb_5ba17c2e.jpg".into())]);
        assert_eq!(made.facts["thumbnail"], "thumb_5ba17c2e.jpg");

        let mut host = Script { unrenderable: "thumb_5ba17c2e.jpg", ..Script::default() };
        let made = product(generate(&mut host, &task));
        assert_eq!((made.artifact.as_str(), made.extra.len()), ("generated.mkv", 0));
        assert!(host.warnings[0].contains("no thumbnail"), "{:?}", host.warnings);
    }

    #[test]
    fn who_looks_for_a_mistake_gets_what_was_made_on_the_way() {
        let extra = |more: Value| -> Vec<String> {
            let travel = json!({"after_first_post_generation_saturation": 0.5});
            let made = product(generate(&mut Script::after(41), &task(more, travel)));
            made.extra.into_iter().map(|(artifact, _)| artifact).collect()
        };
        assert_eq!(extra(json!({})), ["thumb_.jpg"]);
        let all = ["seg01_guide.mp4", "seg01_mask.mp4", "generated.mkv", "thumb_.jpg"];
        assert_eq!(extra(json!({"debug_mode_enabled": true})), all);
        assert_eq!(extra(json!({"skip_cleanup_enabled": true})), all);
    }

    #[test]
    fn a_travel_that_continues_a_video_starts_at_its_end() {
        let mut host = Script::default();
        host.videos.insert("/in/a.mp4".into(), 25);
        let more = json!({"segment_index": 0, "is_first_segment": true});
        product(generate(&mut host, &task(more, json!({"continue_from_video_resolved_path": "/in/a.mp4"}))));
        assert_eq!(host.asked()["image_start"], artifact("last_frame.png"));
        assert_eq!(host.asked()["image_end"], artifact("i0"));
        let guide = &host.rendered["seg00_guide.mp4"].clips;
        assert_eq!((&guide[0], &guide[2]), (&Clip::video("/in/a.mp4").range(17, 8), &Clip::still("i0", 1)));
    }

    #[test]
    fn phases_go_to_the_engine_with_a_patch_for_this_job_alone() {
        let phases = json!({"num_phases": 2, "steps_per_phase": [3, 3], "phases": [
            {"guidance_scale": 1.5, "loras": [{"url": "https://h/a.safetensors", "multiplier": "1.2"}]},
            {"guidance_scale": 1, "loras": [{"url": "https://h/b.safetensors", "multiplier": "0.5"}]}]});
        let mut host = Script::default();
        product(generate(&mut host, &task(json!({"phase_config": phases}), json!({"model_type": "i2v"}))));
        let (settings, options) = host.submitted.as_ref().unwrap();
        assert_eq!(settings["activated_loras"], json!(["https://h/a.safetensors", "https://h/b.safetensors"]));
        assert_eq!(settings["loras_multipliers"], json!("1.2;0 0;0.5"));
        assert_eq!((&settings["num_inference_steps"], &settings["guidance_scale"]), (&json!(6), &json!(1.5)));
        assert_eq!(options.model_overrides["loras"], json!([]));

        let failure =
            generate(&mut Script::default(), &task(json!({"phase_config": {"num_phases": 1}}), json!({}))).unwrap_err();
        assert_eq!(failure.code, "bad_phase_config");
    }

    #[test]
    fn uni3c_guides_a_plain_model_with_the_video_as_it_is() {
        let block = json!({"target": "uni3c", "strength": 0, "_guidance_video_url": "/in/g.mp4"});
        let mut host = Script::default();
        product(generate(
            &mut host,
            &task(json!({"model_name": "plain", "structure_guidance": block}), json!({"model_type": "i2v"})),
        ));
        let asked = host.asked();
        assert_eq!((&asked["use_uni3c"], &asked["uni3c_strength"]), (&json!(true), &json!(0.0)));
        assert_eq!(asked["uni3c_guide_video"], artifact("/in/g.mp4"));
        assert_eq!(asked["uni3c_blackout_last_frame"], json!(true));
    }

    #[test]
    fn guidance_that_cannot_be_made_is_gone_on_without_and_said() {
        let videos = json!([{"path": "/in/s.mp4", "start_frame": 0, "end_frame": 66}]);
        let travel = json!({"segment_frames_expanded": [33, 33], "structure_videos": videos});
        let mut host = Script::default();
        product(generate(&mut host, &standalone(json!({}), travel.clone())));
        assert!(host.warnings[0].contains("without guidance: no helper"), "{:?}", host.warnings);
        assert_eq!(host.rendered["seg01_guide.mp4"].clips[1], Clip::color("#808080", 31));

        // What a segment renders for itself begins with it, wherever it lies in the travel.
        let block = json!({"structure_guidance": {"videos": videos, "_frame_offset": 25}});
        for more in [json!({}), block] {
            let mut host = Script { guidance: Ok(file("flow.mp4")), ..Script::default() };
            host.videos.insert("flow.mp4".into(), 33);
            product(generate(&mut host, &standalone(more, travel.clone())));
            assert_eq!(host.rendered["seg01_guide.mp4"].clips[1], Clip::video("flow.mp4").range(1, 31));
        }
    }

    #[test]
    fn the_look_is_corrected_in_one_pass() {
        let travel = json!({"model_type": "i2v", "after_first_post_generation_saturation": 0.5,
            "after_first_post_generation_brightness": 0.25});
        let mut host = Script::default();
        assert_eq!(product(generate(&mut host, &task(json!({}), travel))).artifact, "seg01_output.mp4");
        let adjust = host.rendered["seg01_output.mp4"].clips[0].adjust.unwrap();
        assert_eq!((adjust.saturation, adjust.brightness), (Some(0.5), Some(0.25)));
    }

    #[test]
    fn a_look_that_cannot_be_applied_is_left_out_and_said() {
        let travel = json!({"model_type": "i2v", "after_first_post_generation_saturation": 0.5});
        let mut host = Script { unrenderable: "seg01_output.mp4", ..Script::default() };
        assert_eq!(product(generate(&mut host, &task(json!({}), travel))).artifact, "generated.mkv");
        assert!(host.warnings[0].contains("seg01_output.mp4 cannot be rendered"), "{:?}", host.warnings);
    }

    #[test]
    fn a_repeated_beginning_that_cannot_be_cut_off_fails_the_segment() {
        let mut host = Script { engine: Ok(42), unrenderable: "seg01_output.mp4", ..Script::after(33) };
        let failure = generate(&mut host, &task(json!({"use_svi": true}), json!({"model_type": "i2v"}))).unwrap_err();
        assert_eq!(failure.code, "unreadable_media");
    }

    #[test]
    fn without_its_guide_a_model_that_takes_one_is_not_asked() {
        let mut host = Script { unrenderable: "seg01_guide.mp4", ..Script::after(41) };
        let failure = generate(&mut host, &task(json!({}), json!({}))).unwrap_err();
        assert_eq!(failure.code, "guide_creation_failed");
        assert_eq!(host.submitted, None);
    }

    #[test]
    fn what_the_engine_says_is_passed_on_unchanged() {
        let of = |failure: Failure| {
            let mut host = Script { engine: Err(failure), ..Script::default() };
            let failure = generate(&mut host, &task(json!({}), json!({"model_type": "i2v"}))).unwrap_err();
            (failure, host.cancelled)
        };
        let memory = Failure::new(FailureClass::OutOfMemory, "cuda_oom", "CUDA out of memory").retryable();
        assert_eq!(of(memory.clone()), (memory.with_code("engine_failed"), vec![]));
        let timeout = Failure::engine("engine_timeout", "1800 s are over");
        assert_eq!(of(timeout.clone()), (timeout, vec!["job".to_string()]));
        let same = [
            Failure::engine("engine_lost_task", "it does not know the job"),
            Failure::new(FailureClass::Cancelled, "cancelled", "stopped"),
            Failure::unavailable("no_engine", "Wan2GP is not configured"),
        ];
        for failure in same {
            assert_eq!(of(failure.clone()), (failure, vec![]));
        }
    }

    #[test]
    fn details_are_read_from_the_parent_where_the_params_lack_them() {
        let mut host = Script::after(41);
        let mut task = task(json!({"orchestrator_task_id_ref": "parent"}), json!({"fps_helpers": 24}));
        let details = task.params.shift_remove("orchestrator_details").unwrap();
        assert_eq!(generate(&mut host, &task).unwrap_err().code, "orchestrator_details_unavailable");
        let params = map(json!({"orchestrator_details": details}));
        host.tasks.insert("parent".into(), TaskInfo { params, ..TaskInfo::default() });
        product(generate(&mut host, &task));
        assert_eq!(host.rendered["seg01_guide.mp4"].output.fps, Some(24.0));
        task.params.shift_remove("orchestrator_task_id_ref");
        assert_eq!(generate(&mut host, &task).unwrap_err().code, "missing_orchestrator_details");
    }
}
