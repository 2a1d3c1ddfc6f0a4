//! `progress`: what the task is doing, for people who wait. Not recorded, and written at most twice a second.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Start;
use super::contract::enginehouse::plugin::progress;
use super::log::Lines;
use crate::clock::Clock;
use crate::engines::Report;
use crate::store::{ClaimToken, SharedStore};
use crate::task::{Progress, TaskId};

/// Between two writes to the store. What is reported meanwhile is overtaken by the last word.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest message that is kept, in characters.
const LONGEST_MESSAGE: usize = 500;

/// Reports of one start, on their way into the store.
pub struct Reports {
    clock: Clock,
    latest: watch::Sender<Option<Progress>>,
    writer: AbortHandle,
}

impl Reports {
    /// Must be called within a tokio runtime.
    pub fn new(store: SharedStore, clock: Clock, task: TaskId, token: ClaimToken) -> Self {
        let (latest, mut changes) = watch::channel(None::<Progress>);
        let writer = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                let Some(progress) = changes.borrow_and_update().clone() else { continue };
                // A claim that was lost is noticed by its renewal; here it only means that nobody listens.
                let _ = store.set_progress(task, token, progress).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { clock, latest, writer: writer.abort_handle() }
    }

    /// Notes what the task is doing now.
    pub fn say(&self, fraction: Option<f32>, message: &str) {
        say(&self.latest, &self.clock, fraction, message);
    }

    /// How an engine job of this task reports: its progress is the task's, and each new kind of step is a line in the log.
    /// The engine's lane puts the job's label in front.
    pub fn of_job(&self, lines: Arc<Lines>) -> Report {
        let (latest, clock) = (self.latest.clone(), self.clock.clone());
        let last = std::sync::Mutex::new(String::new());
        Arc::new(move |fraction, message| {
            say(&latest, &clock, fraction, &message);
            // `frame 3 of 81` and `frame 4 of 81` are the same step.
            let step = message.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
            let Ok(mut last) = last.lock() else { return };
            if *last != step {
                lines.write("engine", "info", &message);
                *last = step;
            }
        })
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

fn say(latest: &watch::Sender<Option<Progress>>, clock: &Clock, fraction: Option<f32>, message: &str) {
    let fraction = fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
    let message = message.chars().take(LONGEST_MESSAGE).collect();
    latest.send_replace(Some(Progress { fraction, message, at: clock.now() }));
}

impl progress::Host for Start {
    async fn report(&mut self, fraction: Option<f32>, message: String) -> wasmtime::Result<()> {
        if let Some(reach) = self.reach() {
            reach.reports.say(fraction, &message);
        }
        Ok(())
    }
}
