//! The queue and the history: what waits, what runs, what is over. All of it lives in memory.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::lock;

/// Records the history keeps; the oldest goes first.
const HISTORY_LIMIT: usize = 10_000;

/// A prompt that was accepted.
pub(super) struct Item {
    /// As it is shown: a whole number, or what the client chose.
    pub number: Value,
    /// The smallest runs first.
    pub order: f64,
    /// Which submission this is: breaks ties, and tells submissions with one id apart.
    pub sequence: u64,
    pub prompt_id: String,
    pub graph: Map<String, Value>,
    /// Without secrets, with `client_id` and `create_time`.
    pub extra_data: Value,
    pub client_id: Option<String>,
    pub create_time_ms: u64,
    pub outputs: Vec<String>,
}

impl Item {
    /// `[number, id, graph, extra_data, outputs_to_execute]`.
    pub(super) fn shown(&self) -> Value {
        json!([self.number, self.prompt_id, self.graph, self.extra_data, self.outputs])
    }
}

/// How a prompt ended.
pub(super) struct Ended {
    pub success: bool,
    pub outputs: Map<String, Value>,
    pub meta: Map<String, Value>,
    /// `[type, data]` each.
    pub messages: Vec<Value>,
}

/// A prompt that is over.
pub(super) struct Record {
    pub item: Arc<Item>,
    pub ended: Ended,
}

impl Record {
    pub(super) fn status(&self) -> Value {
        json!({
            "status_str": if self.ended.success { "success" } else { "error" },
            "completed": self.ended.success,
            "messages": self.ended.messages,
        })
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "prompt": self.item.shown(),
            "outputs": self.ended.outputs,
            "status": self.status(),
            "meta": self.ended.meta,
        })
    }
}

/// What the worker is to do next.
pub(super) enum Work {
    Prompt(Arc<Item>),
    /// Drop the cached results.
    Free,
    Stop,
}

pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    next_number: u64,
    next_sequence: u64,
    pending: BinaryHeap<Waiting>,
    running: Option<Arc<Item>>,
    /// The node that runs now.
    node: Option<String>,
    free: bool,
    history: HashMap<String, (u64, Arc<Record>)>,
    /// Ids by age.
    ages: BTreeMap<u64, String>,
    next_age: u64,
}

/// Ordered so that the top of the heap is what runs next.
struct Waiting(Arc<Item>);

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.order.total_cmp(&self.0.order).then(other.0.sequence.cmp(&self.0.sequence))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                next_number: 0,
                next_sequence: 0,
                pending: BinaryHeap::new(),
                running: None,
                node: None,
                free: false,
                history: HashMap::new(),
                ages: BTreeMap::new(),
                next_age: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// A number for a submission that brings none.
    pub(super) fn number(&self) -> u64 {
        let mut inner = lock(&self.inner);
        let number = inner.next_number;
        inner.next_number += 1;
        number
    }

    pub(super) fn sequence(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.next_sequence += 1;
        inner.next_sequence
    }

    /// `told` hears how many prompts wait or run now, before the worker can see the new one.
    pub(super) fn put(&self, item: Item, told: impl FnOnce(usize)) {
        let mut inner = lock(&self.inner);
        inner.pending.push(Waiting(Arc::new(item)));
        told(inner.remaining());
        self.changed.notify_all();
    }

    pub(super) fn remaining(&self) -> usize {
        lock(&self.inner).remaining()
    }

    /// Lets the worker look again at what may hold it back.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Waits for work. `stop` and `held` are asked whenever something changed; `started` is called, with the number of
    /// prompts that wait or run, before anybody can see the prompt running.
    pub(super) fn take(&self, stop: impl Fn() -> bool, held: impl Fn() -> bool, started: impl FnOnce(usize)) -> Work {
        let mut inner = lock(&self.inner);
        loop {
            if stop() {
                return Work::Stop;
            }
            if std::mem::take(&mut inner.free) {
                return Work::Free;
            }
            if !held()
                && let Some(Waiting(item)) = inner.pending.pop()
            {
                inner.running = Some(item.clone());
                started(inner.remaining());
                return Work::Prompt(item);
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The prompt is over; its record is there from now on. `told` hears how many prompts are left.
    pub(super) fn finish(&self, ended: Option<Ended>, told: impl FnOnce(usize)) {
        let mut inner = lock(&self.inner);
        inner.node = None;
        if let Some(item) = inner.running.take()
            && let Some(ended) = ended
        {
            inner.remember(Record { item, ended });
        }
        told(inner.remaining());
    }

    pub(super) fn set_node(&self, node: Option<&str>) {
        lock(&self.inner).node = node.map(str::to_string);
    }

    /// The node that runs now, if the running prompt is of this client.
    pub(super) fn running_node(&self, client: &str) -> Option<String> {
        let inner = lock(&self.inner);
        let running = inner.running.as_ref()?;
        (running.client_id.as_deref() == Some(client)).then(|| inner.node.clone()).flatten()
    }

    /// Whether this prompt runs; `act` is called while it surely does.
    pub(super) fn if_running(&self, prompt_id: &str, act: impl FnOnce()) -> bool {
        let inner = lock(&self.inner);
        let runs = inner.running.as_ref().is_some_and(|item| item.prompt_id == prompt_id);
        if runs {
            act();
        }
        runs
    }

    /// Removes a waiting prompt, if it waits: then `told` hears how many are left.
    pub(super) fn delete(&self, prompt_id: &str, told: impl FnOnce(usize)) -> bool {
        let mut inner = lock(&self.inner);
        let first = inner.pending.iter().filter(|w| w.0.prompt_id == prompt_id).map(|w| w.0.sequence).min();
        let Some(first) = first else { return false };
        inner.pending.retain(|waiting| waiting.0.sequence != first);
        told(inner.remaining());
        true
    }

    /// Removes all that wait; `told` hears how many are left.
    pub(super) fn clear(&self, told: impl FnOnce(usize)) {
        let mut inner = lock(&self.inner);
        inner.pending.clear();
        told(inner.remaining());
    }

    pub(super) fn free(&self) {
        lock(&self.inner).free = true;
        self.changed.notify_all();
    }

    /// What runs, and what waits in the order of the heap.
    pub(super) fn listed(&self) -> (Option<Arc<Item>>, Vec<Arc<Item>>) {
        let inner = lock(&self.inner);
        (inner.running.clone(), inner.pending.iter().map(|waiting| waiting.0.clone()).collect())
    }

    pub(super) fn record(&self, prompt_id: &str) -> Option<Arc<Record>> {
        lock(&self.inner).history.get(prompt_id).map(|(_, record)| record.clone())
    }

    /// All records, oldest first.
    pub(super) fn records(&self) -> Vec<Arc<Record>> {
        let inner = lock(&self.inner);
        inner.ages.values().filter_map(|id| inner.history.get(id)).map(|(_, record)| record.clone()).collect()
    }

    pub(super) fn forget(&self, prompt_id: &str) {
        let mut inner = lock(&self.inner);
        if let Some((age, _)) = inner.history.remove(prompt_id) {
            inner.ages.remove(&age);
        }
    }

    pub(super) fn forget_all(&self) {
        let mut inner = lock(&self.inner);
        inner.history.clear();
        inner.ages.clear();
    }
}

impl Inner {
    fn remaining(&self) -> usize {
        self.pending.len() + usize::from(self.running.is_some())
    }

    /// A second record of one id takes the place of the first.
    fn remember(&mut self, record: Record) {
        let id = record.item.prompt_id.clone();
        let age = match self.history.get(&id) {
            Some((age, _)) => *age,
            None => {
                self.next_age += 1;
                self.next_age
            }
        };
        self.ages.insert(age, id.clone());
        self.history.insert(id, (age, Arc::new(record)));
        while self.history.len() > HISTORY_LIMIT {
            let Some((_, oldest)) = self.ages.pop_first() else { break };
            self.history.remove(&oldest);
        }
    }
}
