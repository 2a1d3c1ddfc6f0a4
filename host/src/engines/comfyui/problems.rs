//! What went wrong with a prompt: from what the server says to one closed list of codes, each with the class of failure
//! it stands for and whether another try can help.

use std::fmt::Write as _;

use serde_json::Value;

use super::graph::{self, Graph};
use crate::engines::WorkflowTerms;
use crate::task::{Failure, FailureClass};
use crate::templates::is_model_file;

/// Longest message, in characters: what servers say may hold whole prompts.
const LONGEST_MESSAGE: usize = 500;
/// Longest evidence, in characters.
const LONGEST_DETAIL: usize = 8000;
/// So many refused inputs are named one by one.
const NAMED: usize = 5;

/// What went wrong, as a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// A node class that the server does not have.
    NodeMissing,
    /// A model file that the server does not have.
    ModelMissing,
    /// A node did not find its input file.
    InputMissing,
    /// The graph is not one, or the server refuses it.
    BadWorkflow,
    /// The server takes no file of this size.
    InputTooLarge,
    /// The GPU's memory did not suffice.
    VramOom,
    /// The GPU's driver is in a state that only a restart of the server cures.
    CudaFault,
    /// A node raised an exception.
    NodeFailed,
    /// We stopped it.
    Cancelled,
    /// Somebody else stopped it.
    Interrupted,
    /// It succeeded and left nothing.
    NoOutput,
    /// It succeeded, but a file that it names is not there.
    OutputLost,
    /// The server died, or forgot the prompt.
    EngineCrashed,
    /// Nothing was heard of it for too long.
    TimeoutInactive,
}

impl Code {
    /// The spelling in failures.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::NodeMissing => "node_missing",
            Code::ModelMissing => "model_missing",
            Code::InputMissing => "input_missing",
            Code::BadWorkflow => "bad_workflow",
            Code::InputTooLarge => "input_too_large",
            Code::VramOom => "vram_oom",
            Code::CudaFault => "cuda_fault",
            Code::NodeFailed => "node_failed",
            Code::Cancelled => "cancelled",
            Code::Interrupted => "interrupted",
            Code::NoOutput => "no_output",
            Code::OutputLost => "output_lost",
            Code::EngineCrashed => "engine_crashed",
            Code::TimeoutInactive => "timeout_inactive",
        }
    }

    /// Whether another try can end otherwise, when this was the first one and nothing else was resident on the GPU.
    pub fn retry(self) -> bool {
        matches!(
            self,
            Code::InputMissing
                | Code::CudaFault
                | Code::Interrupted
                | Code::OutputLost
                | Code::EngineCrashed
                | Code::TimeoutInactive
        )
    }

    fn class(self) -> FailureClass {
        match self {
            Code::BadWorkflow | Code::InputMissing | Code::InputTooLarge => FailureClass::InvalidInput,
            Code::NodeMissing | Code::ModelMissing => FailureClass::Unavailable,
            Code::VramOom => FailureClass::OutOfMemory,
            Code::Cancelled => FailureClass::Cancelled,
            _ => FailureClass::Engine,
        }
    }
}

/// How a prompt ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Failed,
    Cancelled,
    /// The server knows nothing of it: it died, or was told to forget.
    Lost,
}

/// Why a prompt did not end well.
#[derive(Clone, Debug)]
pub struct PromptFailure {
    pub outcome: Outcome,
    pub code: Code,
    /// Id of the node to blame.
    pub node: Option<String>,
    /// One line for people.
    pub message: String,
    /// What the server said beside it: a traceback, say.
    pub detail: Option<String>,
    /// The prompt was told to stop and goes on all the same: only the end of the server's process stops it.
    pub deaf: bool,
}

impl PromptFailure {
    pub(super) fn new(code: Code, message: impl AsRef<str>) -> Self {
        let outcome = match code {
            Code::Cancelled => Outcome::Cancelled,
            Code::EngineCrashed => Outcome::Lost,
            _ => Outcome::Failed,
        };
        Self { outcome, code, node: None, message: one_line(message.as_ref()), detail: None, deaf: false }
    }

    pub(super) fn at(mut self, node: &str) -> Self {
        self.node = Some(node.to_string());
        self
    }

    /// As a job's end. `retry` is left to the caller, who knows what has been tried.
    pub fn failure(&self) -> Failure {
        let failure = match self.code {
            Code::Cancelled => Failure::cancelled(&self.message),
            code => Failure::new(code.class(), code.as_str(), &self.message),
        };
        match &self.detail {
            Some(detail) => failure.with_detail(detail),
            None => failure,
        }
    }
}

/// The answer that refuses a prompt: status and body of POST `/prompt`.
pub(super) fn refused(status: u16, body: &str, graph: &Graph, terms: &WorkflowTerms) -> PromptFailure {
    let answer: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    if status == 413 {
        return PromptFailure::new(
            Code::InputTooLarge,
            "The workflow is larger than ComfyUI takes (--max-upload-size). Give large inputs as files.",
        );
    }
    if status >= 500 {
        return PromptFailure::new(
            Code::BadWorkflow,
            format!(
                "ComfyUI broke over the workflow (HTTP {status}): it is not in API format (an object of node id → \
                 {{class_type, inputs}}). Export it with \"Export (API)\"."
            ),
        );
    }
    let error = answer.get("error").cloned().unwrap_or(Value::Null);
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    match text("type").as_str() {
        kind @ ("missing_node_type" | "invalid_prompt") => {
            let extra = |key: &str| error.pointer(&format!("/extra_info/{key}")).and_then(Value::as_str);
            let named = text("details").rsplit('#').next().map(|id| id.trim_end_matches('\'').to_string());
            let node = extra("node_id").map(String::from).or(named).filter(|node| graph.contains_key(node));
            // Before missing classes had a type of their own, any broken prompt was called invalid.
            if kind == "invalid_prompt" && !text("message").contains("not found") && !text("message").contains("exist")
            {
                let failure =
                    PromptFailure::new(Code::BadWorkflow, format!("ComfyUI refuses the workflow: {}", text("message")));
                return node.map_or(failure.clone(), |node| failure.at(&node));
            }
            let class = node.as_deref().and_then(|node| graph::class(graph, node)).or(extra("class_type"));
            let message = match (class, &node) {
                (Some(class), Some(node)) => format!(
                    "ComfyUI has no node class `{class}`, which node {node} of the workflow names. Install the custom node \
                     that brings it, or run the task where it is installed."
                ),
                (None, Some(node)) => format!("Node {node} of the workflow has no class_type (workflow/{node})."),
                _ => format!("ComfyUI lacks a node class of the workflow: {}", text("message")),
            };
            let failure = PromptFailure::new(Code::NodeMissing, message);
            node.map_or(failure.clone(), |node| failure.at(&node))
        }
        "prompt_outputs_failed_validation" => {
            let errors = answer.get("node_errors").unwrap_or(&Value::Null);
            node_errors(errors, graph, terms).unwrap_or_else(|| {
                PromptFailure::new(Code::BadWorkflow, format!("ComfyUI refuses the workflow: {}", text("details")))
            })
        }
        "prompt_no_outputs" => PromptFailure::new(
            Code::BadWorkflow,
            "The workflow has no output: none of its nodes saves or shows anything. Add a node such as SaveImage.",
        ),
        "" => PromptFailure::new(
            Code::BadWorkflow,
            format!("ComfyUI refuses the workflow (HTTP {status}): {}", cut(body.trim(), 200)),
        ),
        _ => PromptFailure::new(Code::BadWorkflow, format!("ComfyUI refuses the workflow: {}", text("message"))),
    }
}

/// One refused input.
struct Refusal<'a> {
    node: &'a str,
    code: Code,
    words: String,
}

/// What `node_errors` say; none: they say nothing. Of several errors the gravest counts, and of its nodes the first.
pub(super) fn node_errors(errors: &Value, graph: &Graph, terms: &WorkflowTerms) -> Option<PromptFailure> {
    let mut refusals: Vec<Refusal<'_>> = Vec::new();
    for (node, errors) in errors.as_object()? {
        for error in errors.get("errors").and_then(Value::as_array).into_iter().flatten() {
            let text = |pointer: &str| error.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let input = text("/extra_info/input_name");
            let received = error.pointer("/extra_info/received_value");
            let code = refusal_code(text("/type"), text("/details"), input, received);
            refusals.push(Refusal { node, code, words: refusal_words(error, node, input, received, graph, terms) });
        }
    }
    refusals.sort_by(|a, b| a.code.cmp(&b.code).then_with(|| graph::by_id(a.node, b.node)));
    let first = refusals.first()?;
    let mut message = match first.code {
        Code::ModelMissing => "ComfyUI lacks a model of the workflow: ".to_string(),
        Code::InputMissing => "ComfyUI does not find an input file of the workflow: ".to_string(),
        _ => "ComfyUI refuses the workflow: ".to_string(),
    };
    let shown: Vec<&str> = refusals.iter().take(NAMED).map(|refusal| refusal.words.as_str()).collect();
    message.push_str(&shown.join("; "));
    if refusals.len() > NAMED {
        let _ = write!(message, "; and {} more", refusals.len() - NAMED);
    }
    Some(PromptFailure::new(first.code, message).at(first.node))
}

fn refusal_code(kind: &str, details: &str, input: &str, received: Option<&Value>) -> Code {
    match kind {
        "value_not_in_list" if names_model(input, received) => Code::ModelMissing,
        "custom_validation_failed" => {
            let details = details.to_ascii_lowercase();
            if details.contains("invalid") && details.contains("file") { Code::InputMissing } else { Code::BadWorkflow }
        }
        _ => Code::BadWorkflow,
    }
}

/// Whether an input holds the name of a model's file.
fn names_model(input: &str, received: Option<&Value>) -> bool {
    const INPUTS: [&str; 15] = [
        "ckpt_name",
        "checkpoint",
        "lora_name",
        "vae_name",
        "unet_name",
        "clip_name",
        "control_net_name",
        "controlnet_name",
        "style_model_name",
        "upscale_model_name",
        "gligen_name",
        "hypernetwork_name",
        "diffusion_model_name",
        "audio_encoder_name",
        "model_name",
    ];
    received.and_then(Value::as_str).is_some_and(is_model_file)
        || INPUTS.contains(&input.trim_end_matches(|c: char| c.is_ascii_digit()))
}

/// `node 1 (EmptyImage), input height (workflow/1/inputs/height, from the param /height): Value 9 bigger than …`.
fn refusal_words(
    error: &Value,
    node: &str,
    input: &str,
    received: Option<&Value>,
    graph: &Graph,
    terms: &WorkflowTerms,
) -> String {
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    let (message, details) = (text("message"), text("details"));
    let mut words = format!("node {}", graph::described(graph, node));
    if input.is_empty() {
        let _ = write!(words, " (workflow/{node})");
    } else {
        let _ = write!(words, ", input {input} (workflow/{node}/inputs/{input}");
        if let Some(param) = terms.sources.get(&format!("{node}/{input}")) {
            let _ = write!(words, ", from the param {param}");
        }
        words.push(')');
    }
    let _ = write!(words, ": {message}");
    // The details often say no more than the input's name, and sometimes a whole list of choices.
    if !details.is_empty() && details != input && !message.contains(details) {
        let _ = write!(words, " ({})", cut(details, 160));
    } else if let Some(received) = received.filter(|_| !message.contains(char::is_numeric)) {
        let _ = write!(words, " (given: {})", cut(&received.to_string(), 80));
    }
    words
}

/// The `execution_error` message of a prompt.
pub(super) fn raised(data: &Value, graph: &Graph) -> PromptFailure {
    let text = |key: &str| data.get(key).and_then(Value::as_str).unwrap_or_default();
    let (kind, said) = (text("exception_type"), text("exception_message"));
    let lower = said.to_ascii_lowercase();
    let code = if kind.contains("OutOfMemory") || lower.contains("out of memory") {
        Code::VramOom
    } else if CUDA_FAULTS.iter().any(|words| lower.contains(words)) {
        Code::CudaFault
    } else {
        Code::NodeFailed
    };
    let node = text("node_id");
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("no words");
    let place = match graph::class(graph, node) {
        Some(_) => format!("Node {}", graph::described(graph, node)),
        None if text("node_type").is_empty() => format!("Node {node}"),
        None => format!("Node {node} ({})", text("node_type")),
    };
    let message = match code {
        Code::VramOom => format!("{place} ran out of GPU memory: {first}"),
        Code::CudaFault => format!("{place} met a fault of the GPU: {first}"),
        _ => format!("{place} failed: {kind}: {first}"),
    };
    let traceback: Vec<&str> =
        data.get("traceback").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let detail = format!("{kind}: {}\n{}", said.trim_end(), traceback.concat());
    let failure = PromptFailure { detail: Some(cut(&detail, LONGEST_DETAIL)), ..PromptFailure::new(code, message) };
    if node.is_empty() { failure } else { failure.at(node) }
}

/// What CUDA's errors say that leave the process unusable.
const CUDA_FAULTS: [&str; 8] = [
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "launch failure",
    "misaligned address",
    "cudnn_status_",
    "cublas_status_",
    "cuda driver error",
];

/// One line, not too long.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&line, LONGEST_MESSAGE)
}

pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_string();
    }
    let mut cut: String = text.chars().take(longest.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph() -> Graph {
        let graph = json!({
            "9": {"class_type": "Loader", "inputs": {"ckpt_name": "a.safetensors"}},
            "10": {"class_type": "Scale", "inputs": {"width": 0}},
            "2": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        });
        graph.as_object().unwrap().clone()
    }

    fn error(kind: &str, input: &str, message: &str, details: &str, received: Value) -> Value {
        let extra = json!({"input_name": input, "received_value": received});
        json!({"errors": [{"type": kind, "message": message, "details": details, "extra_info": extra}]})
    }

    #[test]
    fn of_several_refusals_the_gravest_counts_and_every_one_is_named_with_its_place_and_param() {
        let errors = json!({
            "10": error("value_smaller_than_min", "width", "Value 0 smaller than min of 1", "width", json!(0)),
            "2": error("custom_validation_failed", "image", "Custom validation failed for node",
                "image - Invalid image file: a.png", json!("a.png")),
            "9": error("value_not_in_list", "ckpt_name", "Value not in list", "ckpt_name: 'a' not in []",
                json!("a.safetensors")),
        });
        let terms = WorkflowTerms {
            sources: [("10/width".to_string(), "/size/w".to_string())].into(),
            ..WorkflowTerms::default()
        };
        let failure = node_errors(&errors, &graph(), &terms).unwrap();
        assert_eq!((failure.code, failure.node.as_deref()), (Code::ModelMissing, Some("9")));
        for words in [
            "node 9 (Loader), input ckpt_name (workflow/9/inputs/ckpt_name)",
            "node 2 (LoadImage)",
            "from the param /size/w): Value 0 smaller than min of 1",
        ] {
            assert!(failure.message.contains(words), "{words} in {}", failure.message);
        }
        assert_eq!(failure.failure().class, FailureClass::Unavailable);
    }

    #[test]
    fn refusals_that_are_no_json_and_those_of_older_servers_are_understood() {
        let refused = |status, body: &str| super::refused(status, body, &graph(), &WorkflowTerms::default()).code;
        assert_eq!(refused(413, "Maximum request body size exceeded"), Code::InputTooLarge);
        assert_eq!(refused(500, "500 Internal Server Error"), Code::BadWorkflow);
        assert_eq!(refused(400, "<html>"), Code::BadWorkflow);
        let older = |message: &str| {
            let error = json!({"type": "invalid_prompt", "message": message, "details": "Node ID '#10'"});
            super::refused(400, &json!({ "error": error }).to_string(), &graph(), &WorkflowTerms::default())
        };
        let missing = older("Cannot execute because node Scale does not exist.");
        assert_eq!((missing.code, missing.node.as_deref()), (Code::NodeMissing, Some("10")));
        assert_eq!(older("Cannot execute because a node is missing the class_type property.").code, Code::BadWorkflow);
    }

    #[test]
    fn what_a_node_raised_is_cut_to_one_line_and_kept_as_evidence() {
        let raised = |kind: &str, message: &str| {
            let data = json!({"node_id": "10", "node_type": "Scale", "exception_type": kind,
                "exception_message": message, "traceback": ["  File x\n"]});
            super::raised(&data, &graph())
        };
        let failure = raised("ValueError", &format!("\nfirst line {}\nsecond line\n", "x".repeat(900)));
        assert_eq!(failure.code, Code::NodeFailed);
        assert!(failure.message.starts_with("Node 10 (Scale) failed: ValueError: first line"), "{}", failure.message);
        assert!(failure.message.chars().count() <= LONGEST_MESSAGE && !failure.message.contains("second line"));
        assert!(failure.detail.unwrap().ends_with("  File x\n"));
        assert_eq!(raised("torch.OutOfMemoryError", "x").code, Code::VramOom);
        assert_eq!(
            raised("RuntimeError", "CUDA error: an illegal memory access was encountered").code,
            Code::CudaFault
        );
    }
}
