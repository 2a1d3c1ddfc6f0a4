//! What is to be created and how the task ends.

use enginehouse_sdk::host::assist::{CaptionRequest, GuidanceRequest};
use enginehouse_sdk::host::tasks::{Dependency, NewChild, Output, TaskInfo};
use enginehouse_sdk::plugin::Product;
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;

use crate::children::{SEGMENT, STITCH, Standing};
use crate::request::Travel;
use crate::{guidance, payload, prompts};

/// What the host can do for a plan. It may refuse; a plan has a way to go on without.
pub trait Helpers {
    /// Makes a file of the outside an artifact, and returns its digest.
    fn resolve(&mut self, source: &str) -> Result<String, Failure>;
    /// Writes a prompt from pictures.
    fn caption(&mut self, request: &CaptionRequest) -> Result<String, Failure>;
    /// Makes a guidance video, and returns its digest.
    fn guidance(&mut self, request: &GuidanceRequest) -> Result<String, Failure>;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Ids of duplicates to remove.
    pub remove: Vec<String>,
    /// Children to create, all of them or none.
    pub create: Vec<NewChild>,
    /// What a person should know: what was asked for and is not as it was asked for.
    pub notes: Vec<String>,
    pub outcome: Outcome,
}

/// Decides what is to be done for a travel, given its children that exist (oldest first). Failure `children_failed`.
pub fn plan(travel: Travel, children: &[TaskInfo], helpers: &mut dyn Helpers) -> Result<Plan, Failure> {
    let standing = Standing::of(children, travel.segments, travel.mode.is_stitched());
    standing.check()?;
    let has_all = standing.segments.len() == travel.segments;
    if has_all && (standing.stitch.is_some() || !travel.mode.is_stitched()) {
        return Ok(Plan {
            remove: standing.removable().map(|child| child.id.clone()).collect(),
            create: Vec::new(),
            notes: Vec::new(),
            outcome: settled(&travel, &standing),
        });
    }
    create_missing(travel, &standing, helpers)
}

/// The outcome of a travel without segments: complete at once, since it waits for no child.
pub fn nothing_to_generate() -> Outcome {
    let message = "the travel has no segments: there is nothing to generate";
    Outcome::Delegated { output_from: None, facts: facts(kinds::NOTHING_TO_GENERATE, message, json!({})) }
}

/// The outcome when every child exists.
fn settled(travel: &Travel, standing: &Standing<'_>) -> Outcome {
    let segments_complete = standing.segments.values().filter(|child| child.is_complete()).count();
    let stitch_complete = standing.stitch.is_some_and(TaskInfo::is_complete);
    if segments_complete == travel.segments && (stitch_complete || !travel.mode.is_stitched()) {
        return complete(travel, standing);
    }
    let stitches = usize::from(standing.stitch.is_some());
    let duplicates = standing.duplicate_segments.len() + standing.duplicate_stitches.len();
    let facts = facts(
        kinds::WAITING_FOR_CHILDREN,
        &format!(
            "{segments_complete} of {} segments and {} of {stitches} stitches are complete, {duplicates} duplicates are \
             left out",
            travel.segments,
            usize::from(stitch_complete),
        ),
        json!({
            "segments_complete": segments_complete,
            "segments_total": standing.segments.len(),
            "duplicate_segments_removed": standing.duplicate_segments.len(),
            "stitch_complete": usize::from(stitch_complete),
            "stitch_total": stitches,
            "duplicate_stitch_removed": standing.duplicate_stitches.len(),
        }),
    );
    Outcome::Delegated { output_from: standing.stitch.and_then(|child| child.key.clone()), facts }
}

/// The result is that of the stitch, also of one that was not needed; else that of the last segment.
fn complete(travel: &Travel, standing: &Standing<'_>) -> Outcome {
    let stitch = standing.stitch.filter(|child| child.is_complete());
    let last = standing.segments.values().next_back().copied();
    let output = stitch.and_then(output).or_else(|| last.and_then(output));
    match output {
        Some(Output::File(file)) => Outcome::Product(Product {
            artifact: file.artifact.clone(),
            name: file.name.clone(),
            facts: facts(
                kinds::ALL_CHILDREN_COMPLETE,
                &format!("all {} segments are complete", travel.segments),
                json!({"segments_total": travel.segments}),
            ),
            ..Product::default()
        }),
        Some(Output::Text { text }) => Outcome::text(text),
        Some(Output::Other(other)) => Outcome::text(other.to_string()),
        None => Outcome::text(format!("all {} segments are complete; none of them has an output", travel.segments)),
    }
}

fn output(child: &TaskInfo) -> Option<&Output> {
    child.output.as_ref().filter(|output| !matches!(output, Output::Text { text } if text.is_empty()))
}

fn create_missing(mut travel: Travel, standing: &Standing<'_>, helpers: &mut dyn Helpers) -> Result<Plan, Failure> {
    let mut notes = Vec::new();
    let guidance = guidance::make(&mut travel, helpers);
    let guidance = without(guidance, "the segments go without structure guidance", &mut notes)?.flatten();
    let enhanced = prompts::enhance(&mut travel, helpers);
    without(enhanced, "prompts that were not improved yet stay as they were given", &mut notes)?;

    let mut create: Vec<NewChild> = Vec::new();
    // What the next child of a sequence waits for.
    let mut previous: Option<Dependency> = None;
    for index in 0..travel.segments {
        previous = Some(match standing.segments.get(&index) {
            Some(child) => Dependency::Task(child.id.clone()),
            None => {
                let block = guidance.as_ref().map_or(Value::Null, |guidance| guidance.block(index));
                let waits = previous.filter(|_| travel.mode.is_sequential());
                let params = payload::segment(&travel, index, block);
                create.push(child(format!("segment-{index:03}"), SEGMENT, params, waits, &travel));
                Dependency::Sibling(create.len() - 1)
            }
        });
    }
    let created_segments = create.len();
    let mut output_from = standing.stitch.and_then(|child| child.key.clone());
    if travel.mode.is_stitched() && standing.stitch.is_none() {
        create.push(child("stitch".into(), STITCH, payload::stitch(&travel), previous, &travel));
        output_from = Some("stitch".into());
    }

    let total = travel.segments;
    let (kind, message) = match created_segments {
        0 => (kinds::NOTHING_NEW_CREATED, format!("all {total} segments exist already")),
        created => (kinds::ENQUEUED, format!("created {created} of the {total} segments")),
    };
    let mut facts = facts(kind, &message, json!({"created_segments": created_segments, "total_segments": total}));
    if !notes.is_empty() {
        facts.insert("notes".into(), json!(notes));
    }
    Ok(Plan {
        remove: standing.removable().map(|child| child.id.clone()).collect(),
        create,
        notes,
        outcome: Outcome::Delegated { output_from, facts },
    })
}

/// Goes on without what help could not give, and notes why; not when the task was cancelled meanwhile.
fn without<T>(help: Result<T, Failure>, what: &str, notes: &mut Vec<String>) -> Result<Option<T>, Failure> {
    match help {
        Ok(given) => Ok(Some(given)),
        Err(failure) if failure.class == FailureClass::Cancelled => Err(failure),
        Err(failure) => {
            notes.push(format!("{what}: {}", failure.message));
            Ok(None)
        }
    }
}

fn child(
    key: String,
    task_type: &str,
    params: Map<String, Value>,
    waits: Option<Dependency>,
    travel: &Travel,
) -> NewChild {
    NewChild {
        key,
        task_type: task_type.into(),
        params,
        depends_on: waits.into_iter().collect(),
        project_id: Some(travel.project_id.clone()),
        priority: None,
    }
}

/// `message_kind` for programs, `message` for people, and the numbers of the message.
fn facts(kind: &str, message: &str, numbers: Value) -> Map<String, Value> {
    let mut facts = Map::new();
    facts.insert("message_kind".into(), json!(kind));
    facts.insert("message".into(), json!(message));
    if let Value::Object(numbers) = numbers {
        facts.extend(numbers);
    }
    facts
}

#[cfg(test)]
mod tests {
    use enginehouse_sdk::host::artifacts::File;
    use enginehouse_sdk::host::assist::CaptionMode;
    use proptest::prelude::*;

    use super::*;
    use crate::request::tests::travel;

    /// Helpers that know every file and answer unless they are told to refuse; what was asked is kept.
    #[derive(Default)]
    struct Scripted {
        refuse: bool,
        guidance: Vec<GuidanceRequest>,
        captions: Vec<CaptionRequest>,
    }

    impl Scripted {
        fn answer(&self, text: String) -> Result<String, Failure> {
            let refused = Failure::unavailable("assist_not_configured", "no model for this is configured");
            if self.refuse { Err(refused) } else { Ok(text) }
        }
    }

    impl Helpers for Scripted {
        fn resolve(&mut self, source: &str) -> Result<String, Failure> {
            Ok(format!("sha256:{source}"))
        }

        fn caption(&mut self, request: &CaptionRequest) -> Result<String, Failure> {
            self.captions.push(request.clone());
            self.answer(format!("better {}", request.prompt))
        }

        fn guidance(&mut self, request: &GuidanceRequest) -> Result<String, Failure> {
            self.guidance.push(request.clone());
            self.answer(format!("sha256:made-{}", request.preprocessing))
        }
    }

    fn existing(id: &str, index: Option<usize>, status: &str, output: Option<Output>) -> TaskInfo {
        let mut params = Map::new();
        let (key, task_type) = match index {
            Some(index) => (format!("segment-{index:03}"), SEGMENT),
            None => ("stitch".into(), STITCH),
        };
        if let Some(index) = index {
            params.insert("segment_index".into(), json!(index));
        }
        TaskInfo {
            id: id.into(),
            key: Some(key),
            task_type: task_type.into(),
            status: status.into(),
            params,
            output,
            ..TaskInfo::default()
        }
    }

    fn planned(changes: Value, children: &[TaskInfo]) -> Plan {
        plan(travel(changes), children, &mut Scripted::default()).unwrap()
    }

    fn keys(plan: &Plan) -> Vec<&str> {
        plan.create.iter().map(|child| child.key.as_str()).collect()
    }

    fn delegated(plan: &Plan) -> (Option<&str>, &Map<String, Value>) {
        let Outcome::Delegated { output_from, facts } = &plan.outcome else { panic!("{:?}", plan.outcome) };
        (output_from.as_deref(), facts)
    }

    #[test]
    fn a_chained_travel_is_a_chain_of_segments_and_a_stitch() {
        let plan = planned(json!({}), &[]);
        assert_eq!(keys(&plan), ["segment-000", "segment-001", "stitch"]);
        let waits: Vec<_> = plan.create.iter().map(|child| child.depends_on.clone()).collect();
        assert_eq!(waits, [vec![], vec![Dependency::Sibling(0)], vec![Dependency::Sibling(1)]]);
        let (output_from, facts) = delegated(&plan);
        assert_eq!(output_from, Some("stitch"));
        let expected = json!({"message_kind": "enqueued", "message": "created 2 of the 2 segments", "created_segments": 2,
            "total_segments": 2});
        assert_eq!(json!(facts), expected);
    }

    #[test]
    fn independent_segments_wait_for_nothing_and_are_not_joined() {
        for changes in [json!({"chain_segments": false}), json!({"model_type": "i2v"})] {
            let plan = planned(changes, &[]);
            assert_eq!(keys(&plan), ["segment-000", "segment-001"]);
            assert!(plan.create.iter().all(|child| child.depends_on.is_empty()));
            assert_eq!(delegated(&plan).0, None);
        }
    }

    #[test]
    fn only_what_is_missing_is_created() {
        let plan = planned(json!({}), &[existing("s0", Some(0), "Complete", None)]);
        assert_eq!(keys(&plan), ["segment-001", "stitch"]);
        assert_eq!(plan.create[0].depends_on, [Dependency::Task("s0".into())]);
        assert_eq!(plan.create[1].depends_on, [Dependency::Sibling(0)]);
        let all = [existing("s0", Some(0), "Queued", None), existing("s1", Some(1), "Queued", None)];
        let plan = planned(json!({}), &all);
        assert_eq!(keys(&plan), ["stitch"]);
        assert_eq!(delegated(&plan).1["message_kind"], "nothing_new_created");
    }

    #[test]
    fn a_failed_child_creates_nothing() {
        let failure = plan(travel(json!({})), &[existing("s0", Some(0), "Failed", None)], &mut Scripted::default());
        assert_eq!(failure.unwrap_err().code, "children_failed");
    }

    #[test]
    fn a_travel_whose_children_run_waits_for_them_without_their_duplicates() {
        let children = [
            existing("s0", Some(0), "Complete", None),
            existing("s1", Some(1), "Queued", None),
            existing("s1b", Some(1), "Queued", None),
            existing("st", None, "Queued", None),
        ];
        let plan = planned(json!({}), &children);
        assert_eq!((plan.remove.as_slice(), plan.create.len()), (["s1b".to_owned()].as_slice(), 0));
        let (output_from, facts) = delegated(&plan);
        assert_eq!((output_from, &facts["message_kind"]), (Some("stitch"), &json!("waiting_for_children")));
        assert_eq!((&facts["segments_complete"], &facts["duplicate_segments_removed"]), (&json!(1), &json!(1)));
    }

    #[test]
    fn a_travel_whose_children_are_complete_has_their_output() {
        let file = File { artifact: "sha256:f".into(), name: "final.mp4".into(), ..File::default() };
        let text = |text: &str| Some(Output::Text { text: text.into() });
        let segments = [existing("s0", Some(0), "Complete", text("a")), existing("s1", Some(1), "Complete", text("b"))];
        let with =
            |stitch: Option<Output>| [segments.to_vec(), vec![existing("st", None, "Complete", stitch)]].concat();

        let Outcome::Product(product) = planned(json!({}), &with(Some(Output::File(file)))).outcome else { panic!() };
        assert_eq!((product.artifact.as_str(), product.name.as_str()), ("sha256:f", "final.mp4"));
        assert_eq!(product.facts["message_kind"], "all_children_complete");
        assert_eq!(planned(json!({}), &with(text(""))).outcome, Outcome::text("b"));
        assert_eq!(planned(json!({"chain_segments": false}), &segments).outcome, Outcome::text("b"));
        assert_eq!(planned(json!({"chain_segments": false}), &with(text("c"))).outcome, Outcome::text("c"));
    }

    #[test]
    fn pairs_of_pictures_improve_the_prompts_that_were_not_yet() {
        let mut helpers = Scripted::default();
        let travel = travel(json!({"enhance_prompt": true, "enhanced_prompts_expanded": ["mine"]}));
        let plan = plan(travel, &[], &mut helpers).unwrap();
        assert_eq!(plan.create[0].params["base_prompt"], "mine");
        assert_eq!(plan.create[1].params["base_prompt"], "better b");
        let details = &plan.create[1].params["orchestrator_details"];
        assert_eq!(details["enhanced_prompts_expanded"], json!(["mine", "better b"]));
        assert_eq!(helpers.captions.len(), 1);
        assert_eq!((helpers.captions[0].mode, helpers.captions[0].frames), (CaptionMode::Transition, 81));
        assert_eq!(helpers.captions[0].images[1], json!({"$artifact": "sha256:2.png"}));
    }

    #[test]
    fn without_a_model_the_prompts_stay_as_they_were_given_and_the_travel_says_so() {
        let mut helpers = Scripted { refuse: true, ..Scripted::default() };
        let travel = travel(json!({"enhance_prompt": true, "enhanced_prompts_expanded": ["mine", ""]}));
        let plan = plan(travel, &[], &mut helpers).unwrap();
        assert_eq!(plan.create[0].params["base_prompt"], "mine");
        assert_eq!(plan.create[1].params["base_prompt"], "b");
        assert!(plan.notes[0].contains("no model for this is configured"), "{:?}", plan.notes);
        assert_eq!(delegated(&plan).1["notes"], json!(plan.notes));
    }

    const GUIDED: &str = r#"{"frame_overlap_expanded": [8], "segment_frames_expanded": [33, 33],
        "structure_guidance": {"preprocessing": "depth", "videos": [{"path": "s.mp4", "end_frame": 20}]}}"#;

    #[test]
    fn segments_share_one_guidance_video_where_its_sources_meet_them() {
        let mut helpers = Scripted::default();
        let plan = plan(travel(serde_json::from_str(GUIDED).unwrap()), &[], &mut helpers).unwrap();
        let asked = &helpers.guidance[0];
        assert_eq!((asked.frames, asked.width, asked.height, asked.preprocessing.as_str()), (58, 896, 496, "depth"));
        assert_eq!((asked.videos[0].start_frame, asked.videos[0].end_frame), (0, 20));
        let block = &plan.create[0].params["structure_guidance"];
        assert_eq!((&block["_guidance_video_url"], &block["_frame_offset"]), (&json!("sha256:made-depth"), &json!(0)));
        assert_eq!(plan.create[1].params["structure_guidance"], Value::Null);
        assert_eq!(plan.create[2].params["parsed_resolution_wh"], "896x496");
    }

    #[test]
    fn without_help_the_segments_go_without_guidance_and_the_travel_says_so() {
        let mut helpers = Scripted { refuse: true, ..Scripted::default() };
        let plan = plan(travel(serde_json::from_str(GUIDED).unwrap()), &[], &mut helpers).unwrap();
        assert_eq!(plan.create.len(), 3);
        assert_eq!(plan.create[0].params["structure_guidance"], Value::Null);
        assert!(plan.notes[0].starts_with("the segments go without structure guidance: "), "{:?}", plan.notes);
    }

    #[test]
    fn a_travel_that_is_cancelled_while_it_is_helped_creates_nothing() {
        struct Stopped;
        impl Helpers for Stopped {
            fn resolve(&mut self, source: &str) -> Result<String, Failure> {
                Ok(source.into())
            }
            fn caption(&mut self, _: &CaptionRequest) -> Result<String, Failure> {
                Err(Failure::new(FailureClass::Cancelled, "cancelled", "stopped"))
            }
            fn guidance(&mut self, _: &GuidanceRequest) -> Result<String, Failure> {
                Err(Failure::new(FailureClass::Cancelled, "cancelled", "stopped"))
            }
        }
        for changes in [serde_json::from_str(GUIDED).unwrap(), json!({"enhance_prompt": true})] {
            assert_eq!(plan(travel(changes), &[], &mut Stopped).unwrap_err().code, "cancelled");
        }
    }

    #[test]
    fn a_guidance_video_that_exists_is_shared_by_offset() {
        let plan = planned(json!({"structure_guidance_video_url": "g.mp4"}), &[]);
        let blocks: Vec<_> = plan.create[..2].iter().map(|child| &child.params["structure_guidance"]).collect();
        assert_eq!((&blocks[1]["_guidance_video_url"], &blocks[1]["_frame_offset"]), (&json!("g.mp4"), &json!(71)));
        assert_eq!(plan.create[0].params["parsed_resolution_wh"], "902x508", "nothing is rendered, nothing snapped");
    }

    proptest! {
        /// Whatever exists already: afterwards every segment exists once, and nobody waits for a later sibling.
        #[test]
        fn existing_and_created_children_make_the_whole_travel(
            total in 1..12_usize, present in prop::collection::btree_set(0..12_usize, 0..12), stitched in any::<bool>(),
            mode in prop::sample::select(vec!["chained", "independent", "i2v", "svi"]),
        ) {
            let mut changes = json!({
                "num_new_segments_to_generate": total, "base_prompts_expanded": vec!["p"; total],
                "segment_frames_expanded": vec![81; total], "frame_overlap_expanded": 10
            });
            let (key, value) = match mode {
                "chained" => ("chain_segments", json!(true)),
                "independent" => ("chain_segments", json!(false)),
                "i2v" => ("model_type", json!("i2v")),
                _ => ("use_svi", json!(true)),
            };
            changes[key] = value;
            let mut children: Vec<TaskInfo> = present.iter().filter(|index| **index < total)
                .map(|index| existing(&format!("s{index}"), Some(*index), "Queued", None)).collect();
            children.extend(stitched.then(|| existing("st", None, "Queued", None)));
            let before = children.len();

            let plan = planned(changes.clone(), &children);
            let needs_stitch = matches!(mode, "chained" | "svi");
            prop_assert_eq!(before + plan.create.len(), total + usize::from(needs_stitch || stitched));
            for (position, child) in plan.create.iter().enumerate() {
                for dependency in &child.depends_on {
                    match dependency {
                        Dependency::Sibling(earlier) => prop_assert!(*earlier < position),
                        Dependency::Task(id) => prop_assert!(children.iter().any(|child| child.id == *id)),
                    }
                }
            }

            // The same plan again, now that its children exist, creates nothing.
            for (id, child) in plan.create.iter().enumerate() {
                children.push(TaskInfo { id: format!("new{id}"), key: Some(child.key.clone()), task_type: child.task_type.clone(),
                    status: "Queued".into(), params: child.params.clone(), ..TaskInfo::default() });
            }
            let again = planned(changes, &children);
            prop_assert!(again.create.is_empty() && again.remove.is_empty());
        }
    }
}
