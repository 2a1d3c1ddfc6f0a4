//! Codes of failures and kinds of progress: stable, for programs. The comment says what the message has to get across.

/// Failure: the task belongs to no project.
pub const MISSING_PROJECT_ID: &str = "missing_project_id";
/// Failure: the task lacks its details.
pub const MISSING_ORCHESTRATOR_DETAILS: &str = "missing_orchestrator_details";
/// Failure: the parent task could not be read, with its id.
pub const ORCHESTRATOR_DETAILS_UNAVAILABLE: &str = "orchestrator_details_unavailable";
/// Failure: the name of the field.
pub const MISSING_REQUIRED_FIELD: &str = "missing_required_field";
/// Failure: the segment has no number.
pub const MISSING_SEGMENT_INDEX: &str = "missing_segment_index";
/// Failure: field, value, what is allowed.
pub const INVALID_FIELD: &str = "invalid_field";
/// Failure: the resolution as given and the expected form.
pub const INVALID_RESOLUTION: &str = "invalid_resolution";
/// Failure: which list, its length, the length needed.
pub const LIST_TOO_SHORT: &str = "list_too_short";
/// Failure: which rule `phase_config` breaks.
pub const BAD_PHASE_CONFIG: &str = "bad_phase_config";
/// Failure: how many segments and stitches failed.
pub const CHILDREN_FAILED: &str = "children_failed";
/// Failure: no child was created, and the reason.
pub const CHILD_CREATION_FAILED: &str = "child_creation_failed";
/// Failure: the address without its query part, and the reason.
pub const INPUT_DOWNLOAD_FAILED: &str = "input_download_failed";
/// Failure: which predecessor, and what is wrong with it.
pub const PREDECESSOR_UNAVAILABLE: &str = "predecessor_unavailable";
/// Failure: which picture or video was the cause.
pub const GUIDE_CREATION_FAILED: &str = "guide_creation_failed";
/// Failure: the engine's own message, unchanged.
pub const ENGINE_FAILED: &str = "engine_failed";
/// Failure: the engine lost the job.
pub const ENGINE_LOST_TASK: &str = "engine_lost_task";
/// Failure: how long was waited.
pub const ENGINE_TIMEOUT: &str = crate::host::engines::TIMEOUT;
/// Failure: which of orchestrator id, run id and details is missing.
pub const STITCH_MISSING_REFERENCES: &str = "stitch_missing_references";
/// Failure: there is nothing to join.
pub const STITCH_NO_SEGMENTS: &str = "stitch_no_segments";
/// Failure: the numbers of the missing segments.
pub const STITCH_SEGMENTS_MISSING: &str = "stitch_segments_missing";
/// Failure: the number of the segment that is no readable video.
pub const SEGMENT_UNREADABLE: &str = "segment_unreadable";

/// Progress: how many segments were created now, how many the run has.
pub const ENQUEUED: &str = "enqueued";
/// Progress: all segments exist already.
pub const NOTHING_NEW_CREATED: &str = "nothing_new_created";
/// Progress: how many segments and stitches are complete, exist, were removed as duplicates.
pub const WAITING_FOR_CHILDREN: &str = "waiting_for_children";
/// Success: the output.
pub const ALL_CHILDREN_COMPLETE: &str = "all_children_complete";
/// Success: there was nothing to do.
pub const NOTHING_TO_GENERATE: &str = "nothing_to_generate";
