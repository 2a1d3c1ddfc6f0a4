//! Which videos a stitch joins and how: the params, read and checked. Pure.

use enginehouse_sdk::fields::{invalid, is_truthy, missing};
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::resolution::Resolution;
use enginehouse_sdk::rules::{self, kinds};

use crate::join::Look;
use crate::upscale::Upscale;

/// Frames a second when the run names none.
const FPS: f64 = 16.0;
/// Sharpening inside the fades when the run names none.
const SHARPEN: f64 = 0.3;

/// A run whose segments are to be joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Id of the task that made the segments.
    pub parent: String,
    /// Name of the run: segments of other runs do not count.
    pub id: String,
    /// How many segments there must be.
    pub segments: u64,
    /// One entry for each join, counted from the first video.
    pub overlaps: Vec<u64>,
    pub look: Look,
    /// Address of a video that the travel continues: it comes first.
    pub continued: Option<String>,
    /// Enlargement that was asked for, when it would change anything.
    pub upscale: Option<Upscale>,
    /// The folder of the run: older outputs name files below it.
    pub folder: Option<String>,
}

impl Run {
    /// Reads the params of a `travel_stitch` task; `parent` is the task's parent in the store, if it has one.
    ///
    /// Codes: `stitch_missing_references` (the parent's id, the run's id or the details are absent), `missing_required_field`,
    /// `invalid_field`, `invalid_resolution`.
    pub fn parse(params: &Map<String, Value>, parent: Option<&str>) -> Result<Self, Failure> {
        let details = rules::details(params);
        let own = Fields::new([params]);
        let named = |key: &str| Ok::<_, Failure>(own.text(key)?.filter(|id| !id.is_empty()));
        let (reference, id) = (named("orchestrator_task_id_ref")?, named("orchestrator_run_id")?);
        let (Some(details), Some(reference), Some(id)) = (details, reference, id) else {
            return Err(missing_references(&[
                ("orchestrator_task_id_ref", reference.is_none()),
                ("orchestrator_run_id", id.is_none()),
                ("orchestrator_details", details.is_none()),
            ]));
        };

        let stitch_first = Fields::new([params, details]);
        let run_first = Fields::new([details, params]);
        Resolution::parse(stitch_first.required_text("parsed_resolution_wh")?)?.snapped()?;
        let segments = match own.integer("num_total_segments_generated")? {
            Some(segments) => Some(segments),
            None => run_first.integer("num_new_segments_to_generate")?,
        };
        let segments = segments.ok_or_else(|| missing("num_total_segments_generated"))?.max(0).unsigned_abs();
        let continued = match own.truthy("initial_continued_video_path") {
            Some(address) => Some(address),
            None => run_first.truthy("continue_from_video_resolved_path"),
        };
        let continued = continued
            .map(|address| {
                let allowed = "the address of a video";
                let text =
                    address.as_str().ok_or_else(|| invalid("continue_from_video_resolved_path", address, allowed));
                text.map(str::to_string)
            })
            .transpose()?;

        let fps = match run_first.number("fps_helpers")? {
            Some(fps) => fps,
            None => own.number("fps_final_video")?.unwrap_or(FPS),
        };
        let look = Look {
            fps: if fps > 0.0 { fps } else { FPS },
            sharpen: run_first.number("crossfade_sharp_amt")?.unwrap_or(SHARPEN).max(0.0),
            regenerate_anchors: run_first.boolean("regenerate_anchors")?.unwrap_or(false),
        };
        // With a continued video in front there is one join more.
        let joins = if continued.is_some() { segments } else { segments.saturating_sub(1) };
        Ok(Self {
            parent: parent.unwrap_or(reference).to_string(),
            id: id.to_string(),
            segments,
            overlaps: overlaps(params, details, joins)?,
            look,
            continued,
            upscale: Upscale::read(params, details)?,
            folder: folder(params, details)?,
        })
    }
}

/// The folder of the run, without a slash at its end.
fn folder(params: &Map<String, Value>, details: &Map<String, Value>) -> Result<Option<String>, Failure> {
    let own = Fields::new([params]).text("current_run_base_output_dir")?;
    let folder = own.or(Fields::new([details]).text("main_output_dir_for_run")?);
    Ok(folder.map(|folder| folder.trim_end_matches('/').to_string()).filter(|folder| !folder.is_empty()))
}

fn missing_references(fields: &[(&str, bool)]) -> Failure {
    let missing: Vec<&str> = fields.iter().filter(|(_, missing)| *missing).map(|(field, _)| *field).collect();
    Failure::invalid(
        kinds::STITCH_MISSING_REFERENCES,
        format!("cannot tell which segments to join: the params lack {}", missing.join(" and ")),
    )
}

/// The overlaps of the joins: the stitch's own list if it has entries, else that of the run. A single number stands for
/// every join; a negative one has always meant none.
fn overlaps(params: &Map<String, Value>, details: &Map<String, Value>, joins: u64) -> Result<Vec<u64>, Failure> {
    const OWN: &str = "frame_overlap_settings_expanded";
    const RUN: &str = "frame_overlap_expanded";
    let (fields, name) = match params.get(OWN) {
        Some(own) if is_truthy(own) => (Fields::new([params]), OWN),
        _ => (Fields::new([details]), RUN),
    };
    let given = match fields.given(name) {
        None => Vec::new(),
        Some(Value::Array(_)) => fields.integers(name)?.unwrap_or_default(),
        Some(_) => {
            let overlap = fields.required_integer(name)?;
            (0..joins).map(|_| overlap).collect()
        }
    };
    Ok(given.into_iter().map(|overlap| overlap.max(0).unsigned_abs()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(more: Value) -> Map<String, Value> {
        let mut params = json!({
            "orchestrator_task_id_ref": "parent",
            "orchestrator_run_id": "run",
            "num_total_segments_generated": 3,
            "orchestrator_details": {"parsed_resolution_wh": "64x32", "frame_overlap_expanded": [8, 4]},
        });
        for (key, value) in more.as_object().unwrap() {
            params[key] = value.clone();
        }
        params.as_object().unwrap().clone()
    }

    fn run(more: Value) -> Result<Run, Failure> {
        Run::parse(&params(more), None)
    }

    #[test]
    fn a_run_is_read_with_the_usual_look() {
        let run = run(json!({})).unwrap();
        assert_eq!((run.parent.as_str(), run.id.as_str(), run.segments), ("parent", "run", 3));
        assert_eq!(run.overlaps, [8, 4]);
        assert_eq!(run.look, Look { fps: 16.0, sharpen: 0.3, regenerate_anchors: false });
        assert_eq!((run.continued, run.upscale, run.folder), (None, None, None));
    }

    #[test]
    fn the_parent_in_the_store_goes_before_the_reference() {
        assert_eq!(Run::parse(&params(json!({})), Some("stored")).unwrap().parent, "stored");
    }

    #[test]
    fn missing_references_are_named() {
        let failure = run(json!({"orchestrator_run_id": null, "orchestrator_details": {}})).unwrap_err();
        assert_eq!(failure.code, "stitch_missing_references");
        assert!(failure.message.contains("orchestrator_run_id and orchestrator_details"), "{}", failure.message);
    }

    #[test]
    fn an_empty_reference_is_none() {
        assert_eq!(run(json!({"orchestrator_task_id_ref": ""})).unwrap_err().code, "stitch_missing_references");
    }

    #[test]
    fn the_older_name_of_the_details_is_understood() {
        let details = json!({"parsed_resolution_wh": "64x32", "fps_helpers": 24});
        let run = run(json!({"orchestrator_details": null, "full_orchestrator_payload": details})).unwrap();
        assert_eq!(run.look.fps, 24.0);
    }

    #[test]
    fn a_resolution_that_cannot_be_read_fails() {
        assert_eq!(run(json!({"parsed_resolution_wh": "x"})).unwrap_err().code, "invalid_resolution");
    }

    #[test]
    fn the_stitchs_own_overlaps_go_first_unless_empty() {
        assert_eq!(run(json!({"frame_overlap_settings_expanded": [4, 4]})).unwrap().overlaps, [4, 4]);
        assert_eq!(run(json!({"frame_overlap_settings_expanded": []})).unwrap().overlaps, [8, 4]);
        assert_eq!(run(json!({"frame_overlap_settings_expanded": [-3, 4]})).unwrap().overlaps, [0, 4]);
        assert_eq!(run(json!({"frame_overlap_settings_expanded": ["x"]})).unwrap_err().code, "invalid_field");
    }

    #[test]
    fn one_overlap_stands_for_every_join_including_the_one_with_the_continued_video() {
        assert_eq!(run(json!({"frame_overlap_settings_expanded": 6})).unwrap().overlaps, [6, 6]);
        let more = json!({"frame_overlap_settings_expanded": 6, "initial_continued_video_path": "/in/a.mp4"});
        assert_eq!(run(more).unwrap().overlaps, [6, 6, 6]);
    }
}
