//! A workflow in API format: `{"NODE": {"class_type": …, "inputs": {…}}}`, read without trusting it.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// A workflow.
pub type Graph = Map<String, Value>;

/// Class of a node.
pub fn class<'a>(graph: &'a Graph, node: &str) -> Option<&'a str> {
    graph.get(node)?.get("class_type")?.as_str()
}

/// What a node is called in messages: `3 (KSampler)`. An expanded node (`2.0.0.1`) is called by the node it came from.
pub fn described(graph: &Graph, node: &str) -> String {
    let known = class(graph, node).or_else(|| class(graph, node.split('.').next().unwrap_or_default()));
    match known {
        Some(class) => format!("{node} ({class})"),
        None => node.to_string(),
    }
}

/// The order of node ids: split at the dots, parts compared as numbers where both are numbers, numbers before text.
pub fn by_id(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(l), Some(r)) => match (l.parse::<u64>(), r.parse::<u64>()) {
                (Ok(l), Ok(r)) => l.cmp(&r),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => l.cmp(r),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// The node that an input is linked to.
pub fn link(value: &Value) -> Option<&str> {
    match value.as_array()?.as_slice() {
        [Value::String(node), Value::Number(_)] => Some(node),
        _ => None,
    }
}

/// Inputs of a node.
pub fn inputs(node: &Value) -> impl Iterator<Item = (&String, &Value)> {
    node.get("inputs").and_then(Value::as_object).into_iter().flatten()
}

/// The nodes that some nodes need, themselves included.
pub fn needed<'a>(graph: &'a Graph, by: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<&str> = by.into_iter().collect();
    while let Some(id) = open.pop() {
        let Some((id, node)) = graph.get_key_value(id) else { continue };
        if needed.insert(id.as_str()) {
            open.extend(inputs(node).filter_map(|(_, value)| link(value)));
        }
    }
    needed
}

/// The nodes that nothing else takes from: its outputs are among them.
pub fn ends(graph: &Graph) -> Vec<&str> {
    let taken: BTreeSet<&str> =
        graph.values().flat_map(|node| inputs(node).filter_map(|(_, value)| link(value))).collect();
    graph.keys().map(String::as_str).filter(|id| !taken.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ids_are_ordered_as_numbers_part_by_part() {
        let mut ids = ["10", "9", "a", "2.0.0.1", "2", "2.0.0.10", "2.0.0.2", "b:1"];
        ids.sort_by(|a, b| by_id(a, b));
        assert_eq!(ids, ["2", "2.0.0.1", "2.0.0.2", "2.0.0.10", "9", "10", "a", "b:1"]);
    }

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
