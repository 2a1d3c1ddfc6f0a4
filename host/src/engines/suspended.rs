//! Engines that take no jobs for a while, and why: one that does not start, or a machine that is broken. Jobs of a
//! suspended engine stay in the queue; tasks that need nothing but that engine go back untouched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::{Clock, Timestamp};
use crate::task::EngineKind;

/// Why an engine takes no jobs, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// A sentence for people, with what to do.
    pub reason: String,
    /// None: until this host is started anew.
    pub until: Option<Timestamp>,
}

/// All suspensions of a host.
pub(super) struct Suspensions {
    now: watch::Sender<BTreeMap<EngineKind, Suspension>>,
}

impl Suspensions {
    pub fn none() -> Self {
        Self { now: watch::Sender::new(BTreeMap::new()) }
    }

    pub fn suspend(&self, engine: EngineKind, suspension: Suspension) {
        tracing::error!(engine = engine.title(), until = ?suspension.until, "{}", suspension.reason);
        self.now.send_modify(|now| {
            now.insert(engine, suspension);
        });
    }

    /// Ends this suspension, if it is still the one in force. Whether it was.
    pub fn lift(&self, engine: EngineKind, suspension: &Suspension) -> bool {
        let lifted =
            self.now.send_if_modified(|now| now.get(&engine) == Some(suspension) && now.remove(&engine).is_some());
        if lifted {
            tracing::info!(engine = engine.title(), "takes jobs again");
        }
        lifted
    }

    pub fn all(&self) -> BTreeMap<EngineKind, Suspension> {
        self.now.borrow().clone()
    }

    /// Returns when the engine is suspended.
    pub async fn suspended(&self, engine: EngineKind) -> Suspension {
        let mut now = self.now.subscribe();
        loop {
            if let Some(suspension) = now.borrow_and_update().get(&engine) {
                return suspension.clone();
            }
            if now.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// How long a suspension still lasts; none: no end is known.
    pub fn left(&self, suspension: &Suspension, clock: &Clock) -> Option<std::time::Duration> {
        suspension.until.map(|until| until.since(clock.now()))
    }
}
