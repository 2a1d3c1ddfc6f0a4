//! How far a prompt is, in words and as a fraction, from what nodes report.

use std::collections::{BTreeMap, BTreeSet};

use super::events::News;
use super::graph::{self, Graph};

/// Follows one prompt.
pub(super) struct Progress<'a> {
    graph: &'a Graph,
    /// Nodes that are needed.
    total: BTreeSet<String>,
    done: BTreeSet<String>,
    /// Running nodes: steps done and steps in all.
    running: BTreeMap<String, (f64, f64)>,
    /// The node of the workflow that is shown.
    current: Option<String>,
    fraction: f32,
}

impl<'a> Progress<'a> {
    pub fn new(graph: &'a Graph) -> Self {
        let total = graph::needed(graph, graph::ends(graph)).into_iter().map(String::from).collect();
        Self { graph, total, done: BTreeSet::new(), running: BTreeMap::new(), current: None, fraction: 0.0 }
    }

    /// Takes news in; what to say, when there is something to say.
    pub fn hear(&mut self, news: &News) -> Option<(f32, String)> {
        match news {
            News::Cached(nodes) => {
                self.done.extend(nodes.iter().cloned());
                // A run that is answered from the cache has no progress of its own.
                return None;
            }
            News::Executing(node) => {
                self.current = Some(node.clone());
                self.total.insert(node.clone());
            }
            News::Steps { node, value, max } => {
                self.running.insert(node.clone(), (*value, *max));
                self.total.insert(node.clone());
            }
            News::Nodes(nodes) => {
                for node in nodes {
                    // Nodes that come into being on the way make the whole larger.
                    self.total.insert(node.id.clone());
                    if node.finished {
                        self.running.remove(&node.id);
                        self.done.insert(node.id.clone());
                    } else if node.running {
                        self.running.insert(node.id.clone(), (node.value, node.max));
                        self.current = Some(node.shown_as.clone());
                    }
                }
            }
            News::Started | News::Executed | News::Over | News::Alive => return None,
        }
        let part: f64 = self.running.values().map(|(value, max)| share(*value, *max)).sum();
        let whole = self.total.len().max(1) as f64;
        let fraction = ((self.done.len() as f64 + part) / whole).clamp(0.0, 1.0) as f32;
        // Never backwards, though the whole grows.
        self.fraction = self.fraction.max(fraction);
        Some((self.fraction, self.words()))
    }

    fn words(&self) -> String {
        let place = (self.done.len() + 1).min(self.total.len());
        let mut words = format!("node {place} of {}", self.total.len());
        let Some(current) = &self.current else { return words };
        words.push_str(": ");
        words.push_str(graph::class(self.graph, current).unwrap_or(current));
        if let Some((value, max)) = self.running.get(current).filter(|(_, max)| *max > 1.0) {
            words.push_str(&format!(" {value}/{max}"));
        }
        words
    }
}

fn share(value: f64, max: f64) -> f64 {
    if max > 0.0 { (value / max).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::events::NodeState;
    use super::*;

    fn state(id: &str, shown_as: &str, value: f64, max: f64, finished: bool) -> NodeState {
        NodeState { id: id.into(), shown_as: shown_as.into(), value, max, running: !finished, finished }
    }

    #[test]
    fn cached_nodes_count_as_done_and_steps_count_by_share() {
        let graph = json!({"1": {"class_type": "Load"}, "2": {"class_type": "KSampler", "inputs": {"x": ["1", 0]}},
            "3": {"class_type": "Save", "inputs": {"x": ["2", 0]}}, "4": {"class_type": "Save", "inputs": {"x": ["2", 0]}}});
        let graph = graph.as_object().unwrap();
        let mut progress = Progress::new(graph);
        assert_eq!(progress.hear(&News::Cached(vec!["1".into()])), None);
        let said = progress.hear(&News::Nodes(vec![state("2", "2", 10.0, 20.0, false)]));
        assert_eq!(said, Some((0.375, "node 2 of 4: KSampler 10/20".into())));
        let said =
            progress.hear(&News::Nodes(vec![state("2", "2", 20.0, 20.0, true), state("3", "3", 0.0, 1.0, false)]));
        assert_eq!(said, Some((0.5, "node 3 of 4: Save".into())));
    }

    #[test]
    fn a_whole_that_grows_never_makes_progress_go_back() {
        let graph = json!({"1": {"class_type": "A"}, "2": {"class_type": "Grow", "inputs": {"x": ["1", 0]}}});
        let graph = graph.as_object().unwrap();
        let mut progress = Progress::new(graph);
        let mut last = 0.0;
        for news in [
            News::Nodes(vec![state("1", "1", 1.0, 1.0, true), state("2", "2", 0.5, 1.0, false)]),
            News::Nodes(vec![state("2.0.0.1", "2", 0.0, 1.0, false), state("2.0.0.2", "2", 0.0, 1.0, false)]),
            News::Nodes(vec![state("2.0.0.1", "2", 1.0, 1.0, true)]),
        ] {
            let (fraction, words) = progress.hear(&news).unwrap();
            assert!(fraction >= last && fraction <= 1.0, "{fraction} after {last}");
            assert!(words.ends_with(": Grow"), "{words}");
            last = fraction;
        }
    }
}
