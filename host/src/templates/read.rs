//! A template file, read strictly: whatever is not understood is refused with its place and what would be right, so that an
//! author learns of a mistake when the file is dropped in and not from a task that fails.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::graph::{self, EXPORT, Problem, token};
use super::params::{Known, Params};
use super::{Mapping, Measure, OutputKind, Promise, RequiredModel, Requires, Template};
use crate::digest::Digest;
use crate::nearest::nearest;

/// The form that this host reads.
const FORM: u64 = 1;

const KINDS: [OutputKind; 6] =
    [OutputKind::Image, OutputKind::Video, OutputKind::Audio, OutputKind::Text, OutputKind::Model, OutputKind::File];

/// Reads the bytes of a file. The type is the file's name without `.json`.
pub(super) fn read(file: &str, task_type: &str, bytes: &[u8]) -> Result<Template, Problem> {
    let document: Value = serde_json::from_slice(bytes)
        .map_err(|e| Problem::new("", format!("it is not JSON ({e}): is it cut off, or was it edited by hand?")))?;
    if document.get("enginehouse").is_none() {
        return Err(without_header(&document));
    }
    let top = At::new(&document, "");
    top.members(&["enginehouse", "workflow"])?;
    let workflow = top.required("workflow", "the workflow in API format")?;
    let workflow = graph::in_api_format(workflow.value)
        .and_then(|w| graph::linked(w).map(|()| w))
        .map_err(|problem| Problem::new(format!("/workflow{}", problem.pointer), problem.what))?;

    let header = top.required("enginehouse", "the header")?;
    header.members(&["template", "title", "description", "params", "inputs", "outputs", "requires", "licence"])?;
    let form = header.required("template", "the number of the form, 1,")?;
    if form.value.as_u64() != Some(FORM) {
        return Err(
            form.problem(format!("this host reads templates of form {FORM}: write {FORM}, or take a newer host"))
        );
    }
    let at_params = header.required("params", "the JSON Schema of the params")?;
    let params = Params::read(at_params.value)
        .map_err(|problem| Problem::new(format!("{}{}", at_params.pointer, problem.pointer), problem.what))?;
    let inputs = mappings(&header, &params, workflow)?;
    let outputs = promises(&header, &params, workflow)?;
    let requires = requires(&header, workflow)?;
    let mut template = Template {
        task_type: task_type.to_string(),
        file: file.to_string(),
        digest: Digest::of(bytes),
        title: header.text("title")?.map(String::from),
        description: header.text("description")?.map(String::from),
        licence: header.text("licence")?.map(String::from),
        params,
        inputs,
        outputs,
        requires,
        workflow: workflow.clone(),
        warnings: Vec::new(),
    };
    template.warnings = warnings(&template);
    Ok(template)
}

/// What the file is instead of a template.
fn without_header(document: &Value) -> Problem {
    if graph::is_ui_format(document) {
        let what = format!(
            "this is a workflow as the pages of ComfyUI save it (`nodes` and `links`), and no template: {EXPORT}, put the \
             result under `workflow` and write a header under `enginehouse`"
        );
        return Problem::new("", what);
    }
    if document.as_object().is_some_and(|nodes| !nodes.is_empty() && nodes.values().all(|n| graph::class(n).is_some()))
    {
        let what = "this is a bare workflow: a template is {\"enginehouse\": HEADER, \"workflow\": WORKFLOW}, and the header \
                    says which params go where";
        return Problem::new("", what);
    }
    Problem::new(
        "/enginehouse",
        "the header is missing: a template is {\"enginehouse\": HEADER, \"workflow\": WORKFLOW}",
    )
}

fn mappings(header: &At<'_>, params: &Params, workflow: &Map<String, Value>) -> Result<Vec<Mapping>, Problem> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for entry in header.list("inputs")? {
        entry.members(&["param", "node", "input"])?;
        let param = entry.required("param", "the JSON pointer of a param, as in \"/width\",")?;
        let pointer = param.known_pointer(params)?;
        let (node, inputs) = entry.node(workflow)?;
        let name = entry.required("input", "the name of an input of the node")?;
        let input = name.as_text()?;
        let Some(value) = inputs.get(input) else {
            let has: Vec<&str> = inputs.keys().map(String::as_str).collect();
            let class = graph::class_of(workflow, &node).unwrap_or_default();
            return Err(name.problem(format!(
                "node {node} ({class}) has no input `{input}` in the workflow{}; it has: {}",
                did_you_mean(input, has.iter().copied()),
                has.join(", ")
            )));
        };
        if let Some((from, _)) = graph::link(value) {
            return Err(name.problem(format!(
                "input `{input}` of node {node} is linked to node {from}: a param would cut the link; map the param to an \
                 input with a value of its own"
            )));
        }
        if mappings.iter().any(|other| other.node == node && other.input == input) {
            return Err(
                name.problem(format!("input `{input}` of node {node} is given by two params: keep one of them"))
            );
        }
        mappings.push(Mapping { param: pointer, node, input: input.to_string() });
    }
    Ok(mappings)
}

fn promises(header: &At<'_>, params: &Params, workflow: &Map<String, Value>) -> Result<Vec<Promise>, Problem> {
    let mut promises: Vec<Promise> = Vec::new();
    let entries = header.list("outputs")?;
    if entries.is_empty() {
        let what = "a template declares one output at least, the main one first: [{\"name\", \"node\", \"kind\"}]";
        return Err(Problem::new(format!("{}/outputs", header.pointer), what));
    }
    for entry in entries {
        entry.members(&["name", "node", "kind", "width", "height", "frames", "fps", "like"])?;
        let at_name = entry.required("name", "what the output is called")?;
        let name = at_name.as_text()?.to_string();
        if promises.iter().any(|other| other.name == name) {
            return Err(at_name.problem(format!("two outputs are called `{name}`")));
        }
        let (node, _) = entry.node(workflow)?;
        let at_kind = entry.required("kind", "the kind of file")?;
        let kind = at_kind.as_text()?;
        let Some(kind) = KINDS.into_iter().find(|known| known.as_str() == kind) else {
            let kinds = KINDS.map(OutputKind::as_str);
            let meant = did_you_mean(kind, kinds);
            return Err(at_kind.problem(format!("`{kind}` is no kind of file{meant}; those are {}", kinds.join(", "))));
        };
        let like = match entry.get("like") {
            None => None,
            Some(like) => {
                let pointer = like.known_pointer(params)?;
                if !params.files.contains(&pointer) {
                    return Err(like.problem(format!(
                        "`{pointer}` is no file: mark it in the schema with \"format\": \"{}\"",
                        super::params::FILE_FORMAT
                    )));
                }
                Some(pointer)
            }
        };
        promises.push(Promise {
            name,
            node,
            kind,
            width: entry.measure("width", params)?,
            height: entry.measure("height", params)?,
            frames: entry.measure("frames", params)?,
            fps: entry.measure("fps", params)?,
            like,
        });
    }
    Ok(promises)
}

fn requires(header: &At<'_>, workflow: &Map<String, Value>) -> Result<Requires, Problem> {
    let used: BTreeSet<String> = workflow.values().filter_map(graph::class).map(String::from).collect();
    let Some(requires) = header.get("requires") else { return Ok(Requires { nodes: used, models: Vec::new() }) };
    requires.members(&["nodes", "models"])?;
    let mut nodes = used.clone();
    if let Some(listed) = requires.get("nodes") {
        nodes.clear();
        for class in requires.list("nodes")? {
            nodes.insert(class.as_text()?.to_string());
        }
        let missing: Vec<&str> = used.difference(&nodes).map(String::as_str).collect();
        if !missing.is_empty() {
            let what = format!("the workflow uses {} too: list every class, or leave `nodes` out", missing.join(", "));
            return Err(listed.problem(what));
        }
    }
    let mut models = Vec::new();
    for model in requires.list("models")? {
        model.members(&["folder", "name", "url", "sha256"])?;
        let sha256 = model.text("sha256")?.map(String::from);
        if sha256.as_ref().is_some_and(|hex| hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit())) {
            return Err(Problem::new(format!("{}/sha256", model.pointer), "a SHA-256 has 64 hexadecimal digits"));
        }
        models.push(RequiredModel {
            folder: model.required("folder", "the folder below `models`")?.as_text()?.to_string(),
            name: model.required("name", "the name of the file")?.as_text()?.to_string(),
            url: model.text("url")?.map(String::from),
            sha256,
        });
    }
    Ok(Requires { nodes, models })
}

/// What works and is probably not meant.
fn warnings(template: &Template) -> Vec<String> {
    let mut warnings = Vec::new();
    let measured = |pointer: &str| template.outputs.iter().any(|output| output.names(pointer));
    for name in template.params.names() {
        let pointer = format!("/{}", token(name));
        let within = |used: &str| used == pointer || used.starts_with(&format!("{pointer}/"));
        if !template.inputs.iter().any(|mapping| within(&mapping.param)) && !measured(&pointer) {
            warnings.push(format!("the param `{pointer}` goes nowhere: no entry of `inputs` names it"));
        }
    }
    let used: BTreeSet<&str> = template.workflow.values().filter_map(graph::class).collect();
    for class in template.requires.nodes.iter().filter(|class| !used.contains(class.as_str())) {
        warnings.push(format!("`requires.nodes` lists {class}, which the workflow does not use"));
    }
    warnings
}

/// A value with its place.
struct At<'a> {
    value: &'a Value,
    pointer: String,
}

impl<'a> At<'a> {
    fn new(value: &'a Value, pointer: impl Into<String>) -> Self {
        Self { value, pointer: pointer.into() }
    }

    fn problem(&self, what: impl Into<String>) -> Problem {
        Problem::new(self.pointer.clone(), what)
    }

    /// It is an object and has no other members.
    fn members(&self, known: &[&str]) -> Result<(), Problem> {
        let Some(members) = self.value.as_object() else {
            return Err(self.problem(format!("an object was expected, with {}", known.join(", "))));
        };
        match members.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let meant = did_you_mean(key, known.iter().copied());
                let what = format!("there is no member `{key}` here{meant}; those are {}", known.join(", "));
                Err(Problem::new(format!("{}/{}", self.pointer, token(key)), what))
            }
        }
    }

    /// A member; null counts as absent.
    fn get(&self, name: &str) -> Option<At<'a>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(At::new(value, format!("{}/{name}", self.pointer)))
    }

    fn required(&self, name: &str, what: &str) -> Result<At<'a>, Problem> {
        self.get(name).ok_or_else(|| Problem::new(format!("{}/{name}", self.pointer), format!("{what} is missing")))
    }

    fn as_text(&self) -> Result<&'a str, Problem> {
        self.value.as_str().filter(|text| !text.is_empty()).ok_or_else(|| self.problem("text was expected"))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Problem> {
        self.get(name).map(|at| at.as_text()).transpose()
    }

    /// The items of a member; none where it is absent.
    fn list(&self, name: &str) -> Result<Vec<At<'a>>, Problem> {
        let Some(list) = self.get(name) else { return Ok(Vec::new()) };
        let Some(items) = list.value.as_array() else { return Err(list.problem("a list was expected")) };
        Ok(items.iter().enumerate().map(|(i, item)| At::new(item, format!("{}/{i}", list.pointer))).collect())
    }

    /// The member `node`, which names a node of the workflow: its id and its inputs.
    fn node(&self, workflow: &'a Map<String, Value>) -> Result<(String, &'a Map<String, Value>), Problem> {
        static NO_INPUTS: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        let at = self.required("node", "the id of a node of the workflow, as text,")?;
        let id = at.as_text()?;
        match workflow.get(id) {
            Some(node) => Ok((id.to_string(), graph::inputs(node).unwrap_or(&NO_INPUTS))),
            None => {
                let ids = graph::ids(workflow).join(", ");
                Err(at.problem(format!("the workflow has no node {id}; it has {ids}")))
            }
        }
    }

    /// A JSON pointer to a param that the schema has.
    fn known_pointer(&self, params: &Params) -> Result<String, Problem> {
        let pointer = self.as_text()?;
        if !pointer.starts_with('/') {
            let what = format!("a JSON pointer into the params begins with `/`: write \"/{pointer}\"");
            return Err(self.problem(what));
        }
        match params.knows(pointer) {
            Known::Yes | Known::Perhaps => Ok(pointer.to_string()),
            Known::No(meant) => {
                let meant = meant.map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
                Err(self.problem(format!("the schema in `params` has no param `{pointer}`{meant}")))
            }
        }
    }

    /// A number above 0, or the param that gives it.
    fn measure(&self, name: &str, params: &Params) -> Result<Option<Measure>, Problem> {
        let Some(at) = self.get(name) else { return Ok(None) };
        match at.value {
            Value::Number(number) => match number.as_f64().filter(|n| n.is_finite() && *n > 0.0) {
                Some(number) => Ok(Some(Measure::Fixed(number))),
                None => Err(at.problem("a number above 0 was expected")),
            },
            Value::String(_) => Ok(Some(Measure::Param(at.known_pointer(params)?))),
            _ => Err(at.problem("a number was expected, or the JSON pointer of a param that gives it")),
        }
    }
}

fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or(String::new(), |meant| format!(" (did you mean `{meant}`?)"))
}
