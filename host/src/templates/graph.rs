//! Workflows in API format as graphs: `{"NODE": {"class_type": …, "inputs": {"NAME": literal or ["NODE", output]}}}`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// What is wrong with a JSON document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer into the document; empty: the document itself.
    pub pointer: String,
    /// The rest of a sentence that begins with the place.
    pub what: String,
}

impl Problem {
    pub fn new(pointer: impl Into<String>, what: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), what: what.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pointer.is_empty() {
            write!(f, "at the top: {}", self.what)
        } else {
            write!(f, "at `{}`: {}", self.pointer, self.what)
        }
    }
}

/// What to do with a workflow that is not in API format.
pub const EXPORT: &str = "export it from ComfyUI with \"Export (API)\"";

/// The token of a JSON pointer for a key.
pub fn token(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Whether a value is an exported workflow as ComfyUI's own pages keep it, with positions and widgets: it cannot be queued.
pub fn is_ui_format(value: &Value) -> bool {
    value.get("nodes").is_some_and(Value::is_array) && value.get("links").is_some_and(Value::is_array)
}

/// The class of a node.
pub fn class(node: &Value) -> Option<&str> {
    node.get("class_type").and_then(Value::as_str).filter(|class| !class.is_empty())
}

/// The class of a node by its id.
pub fn class_of<'a>(workflow: &'a Map<String, Value>, id: &str) -> Option<&'a str> {
    workflow.get(id).and_then(class)
}

/// The inputs of a node; none where it has no such object.
pub fn inputs(node: &Value) -> Option<&Map<String, Value>> {
    node.get("inputs").and_then(Value::as_object)
}

/// One input of a node by its id.
pub fn input<'a>(workflow: &'a Map<String, Value>, id: &str, name: &str) -> Option<&'a Value> {
    workflow.get(id).and_then(inputs)?.get(name)
}

/// The node and the number of its output that an input is linked to.
pub fn link(value: &Value) -> Option<(&str, u64)> {
    match value.as_array()?.as_slice() {
        [Value::String(node), Value::Number(output)] => Some((node, output.as_u64()?)),
        _ => None,
    }
}

/// Every link of a node: the input and the node that it leads from.
pub fn links(node: &Value) -> impl Iterator<Item = (&str, &str)> {
    inputs(node).into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), link(value)?.0)))
}

/// The order of node ids: split at the dots, parts compared as numbers where both are, numbers before text.
pub fn by_id(one: &str, other: &str) -> Ordering {
    let part = |a: &str, b: &str| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => a.cmp(b),
    };
    let (mut ones, mut others) = (one.split('.'), other.split('.'));
    loop {
        match (ones.next(), others.next()) {
            (Some(a), Some(b)) => match part(a, b) {
                Ordering::Equal => {}
                decided => return decided,
            },
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (None, None) => return one.cmp(other),
        }
    }
}

/// The ids of a workflow in their order.
pub fn ids(workflow: &Map<String, Value>) -> Vec<&str> {
    let mut ids: Vec<&str> = workflow.keys().map(String::as_str).collect();
    ids.sort_by(|a, b| by_id(a, b));
    ids
}

/// Checks that a value is a workflow in API format with at least one node; links are not followed.
pub fn in_api_format(value: &Value) -> Result<&Map<String, Value>, Problem> {
    let Some(workflow) = value.as_object() else {
        return Err(Problem::new("", format!("a workflow is an object of nodes by id; {EXPORT}")));
    };
    if is_ui_format(value) {
        let what = format!("this is a workflow as the pages of ComfyUI save it (`nodes` and `links`); {EXPORT}");
        return Err(Problem::new("", what));
    }
    if workflow.is_empty() {
        return Err(Problem::new("", "the workflow has no node"));
    }
    for (id, node) in workflow {
        let at = format!("/{}", token(id));
        if !node.is_object() {
            let what = format!("a node is an object with `class_type` and `inputs`; if this is no node, {EXPORT}");
            return Err(Problem::new(at, what));
        }
        if class(node).is_none() {
            return Err(Problem::new(format!("{at}/class_type"), "the class of the node (text) is missing"));
        }
        if node.get("inputs").is_some_and(|inputs| !inputs.is_object()) {
            return Err(Problem::new(format!("{at}/inputs"), "the inputs of a node are an object of values by name"));
        }
    }
    Ok(workflow)
}

/// Checks that every list among the inputs is a link, and that every link leads to a node of the workflow.
pub fn linked(workflow: &Map<String, Value>) -> Result<(), Problem> {
    for (id, node) in workflow {
        for (name, value) in inputs(node).into_iter().flatten().filter(|(_, value)| value.is_array()) {
            let at = format!("/{}/inputs/{}", token(id), token(name));
            let Some((from, _)) = link(value) else {
                let what = "a list stands for a link: [\"NODE\", number of its output]; a list that is a value is written \
                            {\"__value__\": […]}";
                return Err(Problem::new(at, what));
            };
            if !workflow.contains_key(from) {
                return Err(Problem::new(at, format!("it is linked to node {from}, which the workflow does not have")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers_and_expanded_ones_behind_their_node() {
        let mut ids = ["10", "9", "2.0.1", "a", "2", "2.0.0.1"];
        ids.sort_by(|a, b| by_id(a, b));
        assert_eq!(ids, ["2", "2.0.0.1", "2.0.1", "9", "10", "a"]);
    }

    #[test]
    fn what_is_no_workflow_is_told_with_its_place() {
        for (value, pointer, word) in [
            (json!([]), "", "Export (API)"),
            (json!({"nodes": [], "links": [], "version": 0.4}), "", "as the pages of ComfyUI save it"),
            (json!({}), "", "no node"),
            (json!({"3": "x"}), "/3", "class_type"),
            (json!({"3": {"inputs": {}}}), "/3/class_type", "missing"),
            (json!({"a/b": {"class_type": "X", "inputs": []}}), "/a~1b/inputs", "object"),
        ] {
            let problem = in_api_format(&value).unwrap_err();
            assert_eq!(problem.pointer, pointer, "{value}");
            assert!(problem.what.contains(word), "{problem}");
        }
        let broken =
            |input: Value| linked(json!({"1": {"class_type": "X", "inputs": {"a": input}}}).as_object().unwrap());
        assert_eq!(broken(json!(["2", 0])).unwrap_err().pointer, "/1/inputs/a");
        assert!(broken(json!([1, 2, 3])).unwrap_err().what.contains("__value__"));
        assert_eq!(broken(json!(["1", 0])), Ok(()));
        assert_eq!(broken(json!({"__value__": [1, 2, 3]})), Ok(()));
    }
}
