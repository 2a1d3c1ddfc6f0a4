//! The worker: one prompt after another, from the queue into the history.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::nodes::{self, Stop};
use super::queue::Work;
use super::{Server, graph, lock};

/// Until the server stops.
pub(super) fn work(server: &Server) {
    loop {
        let stop = || server.stopping.load(Ordering::Relaxed);
        let held = || server.faults().hang;
        let started = |remaining| {
            server.interrupt.store(false, Ordering::Relaxed);
            server.hub.status(remaining);
        };
        match server.queue.take(stop, held, started) {
            Work::Stop => return,
            Work::Free => lock(&server.cache).clear(),
            Work::Prompt(item) => {
                *server.seen().executions.entry(item.prompt_id.clone()).or_default() += 1;
                let Some(ended) = graph::run(server, &item) else { return };
                let (delay, lost) = {
                    let mut faults = server.faults();
                    let lost = faults.lose_records > 0;
                    faults.lose_records = faults.lose_records.saturating_sub(1);
                    (faults.history_delay_ms, lost)
                };
                if delay > 0 {
                    std::thread::sleep(Duration::from_millis(delay));
                }
                server.queue.finish((!lost).then_some(ended), |remaining| server.hub.status(remaining));
                if let Some(client) = &item.client_id {
                    server.hub.send(Some(client), "executing", &json!({"node": null, "prompt_id": item.prompt_id}));
                }
            }
        }
    }
}

/// What the faults have in store for a node of this class.
pub(super) fn misfortune(server: &Server, class: &str) -> Result<(), Stop> {
    let (delay, dies) = {
        let faults = server.faults();
        let dies = faults.die.as_ref().filter(|die| die.class == class).map(|die| die.times);
        (faults.node_delay_ms, dies)
    };
    if delay > 0 {
        nodes::sleep(server, Duration::from_millis(delay))?;
    }
    if let Some(times) = dies
        && super::counts::take_one(server.options.counts.as_deref(), "die", times)
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    Ok(())
}
