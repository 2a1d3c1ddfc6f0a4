//! Questions that following a prompt raises about its graph.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::templates::graph::links;

pub use crate::templates::graph::{by_id, class_of as class};

/// A workflow in API format.
pub type Graph = Map<String, Value>;

/// What a node is called in messages: `3 (KSampler)`. An expanded node (`2.0.0.1`) is called by the node it came from.
pub fn described(graph: &Graph, node: &str) -> String {
    let known = class(graph, node).or_else(|| class(graph, node.split('.').next().unwrap_or_default()));
    match known {
        Some(class) => format!("{node} ({class})"),
        None => node.to_string(),
    }
}

/// The nodes that some nodes need, themselves included.
pub fn needed<'a>(graph: &'a Graph, by: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<&str> = by.into_iter().collect();
    while let Some(id) = open.pop() {
        let Some((id, node)) = graph.get_key_value(id) else { continue };
        if needed.insert(id.as_str()) {
            open.extend(links(node).map(|(_, from)| from));
        }
    }
    needed
}

/// The nodes that nothing else takes from: its outputs are among them.
pub fn ends(graph: &Graph) -> Vec<&str> {
    let taken: BTreeSet<&str> = graph.values().flat_map(|node| links(node).map(|(_, from)| from)).collect();
    graph.keys().map(String::as_str).filter(|id| !taken.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_output_needs_is_followed_upstream_and_circles_end() {
        let graph = json!({
            "1": {"class_type": "A", "inputs": {"x": ["2", 0]}},
            "2": {"class_type": "B", "inputs": {"x": ["1", 0], "y": 3}},
            "3": {"class_type": "C", "inputs": {"x": ["1", 0]}},
            "4": {"class_type": "D"},
            "5": "no node",
        });
        let graph = graph.as_object().unwrap();
        assert_eq!(needed(graph, ["3"]), BTreeSet::from(["1", "2", "3"]));
        assert_eq!(ends(graph), ["3", "4", "5"]);
        assert_eq!(described(graph, "2.0.0.1"), "2.0.0.1 (B)");
    }
}
