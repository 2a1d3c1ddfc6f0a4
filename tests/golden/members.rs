//! What of a record is compared, and what is not, with its reason. A member that stands nowhere here fails its case.

/// How a member of `expected` is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    Compared,
    /// For this reason.
    NotCompared(&'static str),
}

use Treatment::{Compared, NotCompared};

/// The members of `expected`.
pub const MEMBERS: [(&str, Treatment); 22] = [
    ("outcome", Compared),
    ("message_kind", Compared),
    ("message_facts", Compared),
    ("error_kind", Compared),
    ("error_contains", Compared),
    ("output_location", Compared),
    ("children", Compared),
    ("orchestrator_details_in_children", Compared),
    ("deleted_tasks", Compared),
    ("media_calls", Compared),
    ("engine_request", Compared),
    ("engine_request_artifacts", Compared),
    ("wan2gp_parameters", Compared),
    ("engine_model_patch", Compared),
    ("simulated_engine_output", Compared),
    ("completion", Compared),
    ("downloads", Compared),
    ("success", Compared),
    ("frame_read", Compared),
    ("downloads_by_engine_adapter", NotCompared("the engine fetches its own LoRAs; no engine runs here")),
    ("other_status_updates", NotCompared("what becomes of a parent is the store's business, held by its own tests")),
    ("callbacks", NotCompared("reports to the backend of the old worker, which this host does not have")),
];

/// Parts of members. The text is a JSON pointer in which `*` stands for one step.
pub const PARTS: [(&str, &str); 12] = [
    ("/engine_request/parameters/lora_names", "internal double of activated_loras, which is compared"),
    ("/engine_request/parameters/lora_multipliers", "internal double of loras_multipliers, which is compared"),
    ("/completion/filename", "file names are free; the extension is compared"),
    ("/completion/thumbnail_filename", "file names are free; that there is a thumbnail is compared"),
    ("/completion/upload", "how the old worker moved files to its backend"),
    ("/engine_model_patch/model_fields_emptied", "how the old engine's definition file was changed"),
    ("/media_calls/*/images", "the stand-in gets the pictures themselves; their number is compared"),
    ("/media_calls/*/pairs", "the stand-in gets the pictures themselves; their number is compared"),
    ("/media_calls/*/source", "the stand-in gets the file itself, not its path"),
    ("/media_calls/*/configs/*/path", "the stand-in gets the file itself, not its path"),
    ("/media_calls/*/configs/*/structure_type", "the kind of the whole guidance is compared"),
    ("/media_calls/*/configs/*/motion_strength", "the strength of the whole guidance is compared"),
];

/// How a member is treated; none: nobody thought of it.
pub fn treatment(member: &str) -> Option<Treatment> {
    MEMBERS.iter().find(|(name, _)| *name == member).map(|(_, treatment)| *treatment)
}

/// Why a part is not compared, if it is not.
pub fn left_out(pointer: &str) -> Option<&'static str> {
    PARTS.iter().find(|(pattern, _)| matches(pattern, pointer)).map(|(_, reason)| *reason)
}

fn matches(pattern: &str, pointer: &str) -> bool {
    let mut steps = pointer.split('/');
    pattern.split('/').all(|want| steps.next().is_some_and(|step| want == "*" || want == step))
}
