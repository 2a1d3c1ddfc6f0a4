//! Running one prompt: which nodes are needed and in which order, what is known already, what is told on the way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::hub::Picture;
use super::nodes::{self, Inputs, Ran, Stop, Value};
use super::queue::{Ended, Item};
use super::{Server, lock, now_ms};

/// Steps nearer to the last told one than this are not told.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

/// Results of nodes by what they were computed from: class, literal inputs, and the same of every node they depend on.
/// When a prompt starts, all results go that it has no node for: what is known is what the prompt before it knew.
#[derive(Default)]
pub(super) struct Cache {
    results: HashMap<String, Arc<Outcome>>,
}

/// What a node gave.
pub(super) struct Outcome {
    values: Vec<Value>,
    /// What an output node shows, and the ids it first showed it under.
    shown: Option<(Map<String, Json>, Json)>,
}

impl Cache {
    pub(super) fn clear(&mut self) {
        self.results.clear();
    }
}

/// Nothing when the server stops meanwhile.
pub(super) fn run(server: &Server, item: &Item) -> Option<Ended> {
    let mut run = Run::new(server, item);
    run.tell("execution_start", json!({"prompt_id": item.prompt_id}), false);
    run.keep_own_results();
    let cached: Vec<&String> = item.graph.keys().filter(|id| run.cached(id).is_some()).collect();
    run.tell("execution_cached", json!({"nodes": cached, "prompt_id": item.prompt_id}), false);
    for output in &item.outputs {
        run.need(output);
    }
    let success = loop {
        let Some(id) = run.pick() else { break true };
        match run.execute(&id) {
            Ok(()) => {}
            Err(Stop::Gone) => return None,
            Err(Stop::Interrupted) => {
                let class = run.nodes[&id].class.clone();
                let data =
                    json!({"prompt_id": item.prompt_id, "node_id": id, "node_type": class, "executed": run.executed});
                run.tell("execution_interrupted", data, true);
                break false;
            }
            Err(Stop::Failed { exception, message }) => {
                run.tell_failure(&id, exception, &message);
                break false;
            }
        }
    };
    if success {
        run.tell("execution_success", json!({"prompt_id": item.prompt_id}), false);
    }
    Some(Ended { success, outputs: run.outputs, meta: run.meta, messages: run.messages })
}

/// A node of the graph, or one that came in by expansion.
#[derive(Clone)]
struct Node {
    class: String,
    inputs: Map<String, Json>,
    /// The node the client knows.
    display: String,
    parent: Option<String>,
}

struct Run<'a> {
    server: &'a Server,
    item: &'a Item,
    nodes: HashMap<String, Node>,
    /// Nodes still to be run, in the order in which they were found needed.
    pending: Vec<String>,
    done: HashMap<String, Arc<Outcome>>,
    /// Results that an expanded node waits for: a link or a literal each.
    expanded: HashMap<String, Vec<Json>>,
    /// Nodes that an expanded node waits for.
    waits: HashMap<String, Vec<String>>,
    signatures: HashMap<String, String>,
    executed: Vec<String>,
    states: States,
    outputs: Map<String, Json>,
    meta: Map<String, Json>,
    messages: Vec<Json>,
}

impl<'a> Run<'a> {
    fn new(server: &'a Server, item: &'a Item) -> Self {
        let nodes = item.graph.iter().map(|(id, node)| (id.clone(), Node::read(node, id, None))).collect();
        Self {
            server,
            item,
            nodes,
            pending: Vec::new(),
            done: HashMap::new(),
            expanded: HashMap::new(),
            waits: HashMap::new(),
            signatures: HashMap::new(),
            executed: Vec::new(),
            states: States::default(),
            outputs: Map::new(),
            meta: Map::new(),
            messages: Vec::new(),
        }
    }

    /// Into the record, and to the client that sent the prompt; to everybody, if it sent none and the kind is one of
    /// those that are not held back then.
    fn tell(&mut self, kind: &str, mut data: Json, broadcast: bool) {
        data["timestamp"] = json!(now_ms());
        if broadcast || self.item.client_id.is_some() {
            self.server.hub.send(self.item.client_id.as_deref(), kind, &data);
        }
        self.messages.push(json!([kind, data]));
    }

    fn tell_client(&self, kind: &str, data: &Json) {
        if let Some(client) = &self.item.client_id {
            self.server.hub.send(Some(client), kind, data);
        }
    }

    fn tell_states(&self) {
        let client = self.item.client_id.as_deref();
        if self.server.hub.hears(client) {
            self.server.hub.send(client, "progress_state", &self.states.shown(&self.item.prompt_id));
        }
    }

    fn tell_failure(&mut self, id: &str, exception: &str, message: &str) {
        let node = self.nodes[id].clone();
        let inputs: Map<String, Json> = node
            .inputs
            .iter()
            .map(|(name, input)| {
                let value = match link(input) {
                    Some((from, slot)) => {
                        let given = self.done.get(from).and_then(|outcome| outcome.values.get(slot));
                        json!(given.map(Value::printed))
                    }
                    None => input.clone(),
                };
                (name.clone(), json!([value]))
            })
            .collect();
        let data = json!({
            "prompt_id": self.item.prompt_id,
            "node_id": id,
            "node_type": node.class,
            "executed": self.executed,
            "exception_message": message,
            "exception_type": exception,
            "traceback": [format!("  File \"nodes.py\", line 1, in {}\n", node.class)],
            "current_inputs": inputs,
            "current_outputs": self.item.graph.keys().collect::<Vec<_>>(),
        });
        self.tell("execution_error", data, false);
    }

    /// What the cache holds for a node.
    fn cached(&mut self, id: &str) -> Option<Arc<Outcome>> {
        if !self.server.options.cache {
            return None;
        }
        let signature = self.signature(id)?;
        lock(&self.server.cache).results.get(&signature).cloned()
    }

    /// Lets go of the results that belong to no node of this graph.
    fn keep_own_results(&mut self) {
        let own: HashSet<String> = self.item.graph.keys().filter_map(|id| self.signature(id)).collect();
        lock(&self.server.cache).results.retain(|signature, _| own.contains(signature));
    }

    fn signature(&mut self, id: &str) -> Option<String> {
        if let Some(known) = self.signatures.get(id) {
            return Some(known.clone());
        }
        let node = self.nodes.get(id)?.clone();
        let mut digest = Sha256::new();
        digest.update(&node.class);
        digest.update(nodes::changed(self.server, &node.class, &node.inputs));
        for (name, input) in &node.inputs {
            digest.update(format!("\0{name}\0"));
            match link(input) {
                Some((from, slot)) => digest.update(format!("{}\0{slot}", self.signature(from)?)),
                None => digest.update(input.to_string()),
            }
        }
        let signature = hex(&digest.finalize());
        self.signatures.insert(id.to_string(), signature.clone());
        Some(signature)
    }

    /// Marks a node as to be run, and what it needs. A known result is not run for its own sake, except that of an
    /// output node, which is told again.
    fn need(&mut self, id: &str) {
        if self.pending.iter().any(|pending| pending == id) {
            return;
        }
        self.pending.push(id.to_string());
        if self.cached(id).is_some() {
            return;
        }
        for from in self.ancestors(id) {
            match self.cached(&from) {
                Some(outcome) => {
                    self.done.insert(from, outcome);
                }
                None if self.done.contains_key(&from) => {}
                None => self.need(&from),
            }
        }
    }

    fn ancestors(&self, id: &str) -> Vec<String> {
        let Some(node) = self.nodes.get(id) else { return Vec::new() };
        let links = node.inputs.values().filter_map(link).map(|(from, _)| from.to_string());
        links.chain(self.waits.get(id).into_iter().flatten().cloned()).collect()
    }

    /// The next node: people want to see something soon, so an output node goes first, then what an output node waits
    /// for, then what that waits for.
    fn pick(&mut self) -> Option<String> {
        let pending = self.pending.clone();
        let mut blocked: HashMap<String, Vec<String>> = HashMap::new();
        let mut ready = Vec::new();
        for id in &pending {
            let mut free = true;
            if self.cached(id).is_none() || self.expanded.contains_key(id) {
                for from in self.ancestors(id) {
                    if !self.done.contains_key(&from) {
                        blocked.entry(from).or_default().push(id.clone());
                        free = false;
                    }
                }
            }
            if free {
                ready.push(id.clone());
            }
        }
        let output = |id: &String| {
            let class = self.nodes.get(id).and_then(|node| self.server.catalog.class(&node.class));
            class.is_some_and(|class| class.output_node)
        };
        let next_to = |id: &String| blocked.get(id).into_iter().flatten();
        let chosen = ready
            .iter()
            .find(|id| output(id))
            .or_else(|| ready.iter().find(|id| next_to(id).any(output)))
            .or_else(|| ready.iter().find(|id| next_to(id).any(|next| next_to(next).any(output))))
            .or_else(|| ready.first())?
            .clone();
        Some(chosen)
    }

    fn finish(&mut self, id: &str, outcome: Arc<Outcome>) {
        self.pending.retain(|pending| pending != id);
        self.done.insert(id.to_string(), outcome);
    }

    fn execute(&mut self, id: &str) -> Result<(), Stop> {
        if self.server.stopping.load(Ordering::Relaxed) {
            return Err(Stop::Gone);
        }
        if let Some(results) = self.expanded.remove(id) {
            let values = results.iter().map(|result| self.resolve(result)).collect::<Result<_, _>>()?;
            return self.conclude(id, Outcome { values, shown: None });
        }
        if let Some(outcome) = self.cached(id) {
            if let Some((shown, meta)) = &outcome.shown {
                self.outputs.insert(id.to_string(), Json::Object(shown.clone()));
                self.meta.insert(id.to_string(), meta.clone());
                let data = json!({
                    "node": id,
                    "display_node": meta["display_node"],
                    "output": shown,
                    "prompt_id": self.item.prompt_id,
                });
                self.tell_client("executed", &data);
            }
            let node = self.nodes[id].clone();
            self.states.start(id, &node);
            self.states.finish(id);
            self.tell_states();
            self.finish(id, outcome);
            return Ok(());
        }
        let node = self.nodes[id].clone();
        self.states.start(id, &node);
        self.tell_states();
        self.server.queue.set_node(Some(id));
        self.tell_client(
            "executing",
            &json!({"node": id, "display_node": node.display, "prompt_id": self.item.prompt_id}),
        );
        nodes::check(self.server)?;
        *self.server.seen().nodes.entry(node.class.clone()).or_default() += 1;
        super::worker::misfortune(self.server, &node.class)?;
        let given = node
            .inputs
            .iter()
            .map(|(name, input)| Ok((name.clone(), self.resolve(input)?)))
            .collect::<Result<_, Stop>>()?;
        let mut context =
            Context { server: self.server, item: self.item, id, node: &node, states: &mut self.states, told: None };
        match nodes::run(&node.class, &Inputs::new(given), &mut context)? {
            Ran::Done { values, shown } => {
                let meta = json!({
                    "node_id": id,
                    "display_node": node.display,
                    "parent_node": node.parent,
                    "real_node_id": node.display,
                });
                if let Some(shown) = &shown {
                    self.outputs.insert(id.to_string(), Json::Object(shown.clone()));
                    self.meta.insert(id.to_string(), meta.clone());
                    let data = json!({
                        "node": id,
                        "display_node": node.display,
                        "output": shown,
                        "prompt_id": self.item.prompt_id,
                    });
                    self.tell_client("executed", &data);
                }
                self.conclude(id, Outcome { values, shown: shown.map(|shown| (shown, meta)) })
            }
            Ran::Expanded { graph, results } => {
                self.expand(id, &node, &graph, results);
                Ok(())
            }
        }
    }

    /// A node is over: its state is told, its result kept.
    fn conclude(&mut self, id: &str, outcome: Outcome) -> Result<(), Stop> {
        let outcome = Arc::new(outcome);
        if let (true, Some(signature)) = (self.server.options.cache, self.signature(id)) {
            lock(&self.server.cache).results.insert(signature, outcome.clone());
        }
        self.executed.push(id.to_string());
        self.states.finish(id);
        self.tell_states();
        self.finish(id, outcome);
        Ok(())
    }

    /// Puts the nodes of an expansion into the graph; `id` waits for its results and its output nodes.
    fn expand(&mut self, id: &str, node: &Node, graph: &Map<String, Json>, results: Vec<Json>) {
        let mut waits: Vec<String> = Vec::new();
        for (inner, described) in graph {
            let made = Node::read(described, &node.display, Some(id));
            if self.server.catalog.class(&made.class).is_some_and(|class| class.output_node) {
                waits.push(inner.clone());
            }
            self.nodes.insert(inner.clone(), made);
        }
        waits.extend(results.iter().filter_map(link).map(|(from, _)| from.to_string()));
        self.waits.insert(id.to_string(), waits.clone());
        self.expanded.insert(id.to_string(), results);
        for wait in waits {
            self.need(&wait);
        }
    }

    fn resolve(&self, input: &Json) -> Result<Value, Stop> {
        let Some((from, slot)) = link(input) else { return Ok(Value::Json(input.clone())) };
        let value = self.done.get(from).and_then(|outcome| outcome.values.get(slot));
        value.cloned().ok_or_else(|| Stop::failed("IndexError", "list index out of range"))
    }
}

/// `[node id, slot]`.
pub(super) fn link(input: &Json) -> Option<(&str, usize)> {
    match input.as_array().map(Vec::as_slice) {
        Some([Json::String(from), slot]) => Some((from, usize::try_from(slot.as_u64()?).ok()?)),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Node {
    fn read(node: &Json, display: &str, parent: Option<&str>) -> Self {
        Self {
            class: node["class_type"].as_str().unwrap_or_default().to_string(),
            inputs: node["inputs"].as_object().cloned().unwrap_or_default(),
            display: display.to_string(),
            parent: parent.map(str::to_string),
        }
    }
}

/// How far the nodes are that left the state `pending`.
#[derive(Default)]
struct States {
    nodes: Vec<(String, State)>,
}

struct State {
    value: Json,
    max: Json,
    finished: bool,
    display: String,
    parent: Option<String>,
}

impl States {
    fn start(&mut self, id: &str, node: &Node) {
        let (display, parent) = (node.display.clone(), node.parent.clone());
        self.nodes
            .push((id.to_string(), State { value: json!(0.0), max: json!(1.0), finished: false, display, parent }));
    }

    fn state(&mut self, id: &str) -> Option<&mut State> {
        self.nodes.iter_mut().find(|(known, _)| known == id).map(|(_, state)| state)
    }

    fn finish(&mut self, id: &str) {
        if let Some(state) = self.state(id) {
            state.value = state.max.clone();
            state.finished = true;
        }
    }

    fn shown(&self, prompt_id: &str) -> Json {
        let nodes: Map<String, Json> = self
            .nodes
            .iter()
            .map(|(id, state)| {
                let shown = json!({
                    "value": state.value,
                    "max": state.max,
                    "state": if state.finished { "finished" } else { "running" },
                    "node_id": id,
                    "prompt_id": prompt_id,
                    "display_node_id": state.display,
                    "parent_node_id": state.parent,
                    "real_node_id": state.display,
                });
                (id.clone(), shown)
            })
            .collect();
        json!({"prompt_id": prompt_id, "nodes": nodes})
    }
}

/// What a running node has of its surroundings.
pub(super) struct Context<'r> {
    pub server: &'r Server,
    pub item: &'r Item,
    id: &'r str,
    node: &'r Node,
    states: &'r mut States,
    told: Option<Instant>,
}

impl Context<'_> {
    /// The id of a node that this one brings in by expansion.
    pub(super) fn inner_id(&self, name: &str) -> String {
        format!("{}.0.0.{name}", self.id)
    }

    /// An input as it stands in the graph.
    pub(super) fn unresolved(&self, name: &str) -> Json {
        self.node.inputs.get(name).cloned().unwrap_or_default()
    }

    /// Reports a step, which is also where an interruption takes hold. Steps that follow too quickly are not told,
    /// except the first, the last, and those with a preview.
    pub(super) fn progress(&mut self, value: u64, max: u64, preview: Option<(Picture, Vec<u8>)>) -> Result<(), Stop> {
        nodes::check(self.server)?;
        if let Some(state) = self.states.state(self.id) {
            (state.value, state.max) = (json!(value), json!(max));
        }
        let soon = self.told.is_some_and(|told| told.elapsed() < PROGRESS_PAUSE);
        let client = self.item.client_id.as_deref();
        if (soon && value < max && preview.is_none()) || !self.server.hub.hears(client) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        let hub = &self.server.hub;
        hub.send(client, "progress_state", &self.states.shown(&self.item.prompt_id));
        let metadata = preview.as_ref().filter(|_| hub.wants_metadata(client));
        if let (Some((kind, picture)), Some(client)) = (metadata, client) {
            let metadata = json!({
                "node_id": self.id,
                "prompt_id": self.item.prompt_id,
                "display_node_id": self.node.display,
                "parent_node_id": self.node.parent,
                "real_node_id": self.node.display,
                "image_type": kind.mime(),
            });
            hub.preview_with_metadata(client, &metadata, picture);
        }
        let data = json!({"value": value, "max": max, "prompt_id": self.item.prompt_id, "node": self.id});
        hub.send(client, "progress", &data);
        if let (Some((kind, picture)), None) = (&preview, metadata) {
            hub.preview(client, *kind, picture);
        }
        Ok(())
    }
}
