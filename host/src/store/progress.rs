//! Progress of a running task on its way to the store: callers never wait, the newest report wins, and at most a few a
//! second are written.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::store::{ClaimToken, SharedStore};
use crate::task::{Progress, TaskId};

/// Between two writes of one task. What is reported meanwhile is overtaken by the last word.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest message that is kept, in characters.
const LONGEST_MESSAGE: usize = 500;

/// Reports the progress of one attempt. Cheap to clone; the last clone to go ends it, after the last report is written.
#[derive(Clone)]
pub struct ProgressWriter {
    latest: watch::Sender<Option<Progress>>,
    clock: Clock,
}

impl ProgressWriter {
    pub fn new(store: SharedStore, clock: Clock, task: TaskId, token: ClaimToken) -> Self {
        let (latest, mut reports) = watch::channel(None::<Progress>);
        tokio::spawn(async move {
            while reports.changed().await.is_ok() {
                let report = reports.borrow_and_update().clone();
                let Some(progress) = report else { continue };
                if let Err(e) = store.set_progress(task, token, progress).await {
                    tracing::debug!(%task, error = %e, "progress was dropped");
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { latest, clock }
    }

    /// `fraction` 0 to 1; none: unknown.
    pub fn report(&self, fraction: Option<f32>, message: &str) {
        let fraction = fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
        let message = message.chars().take(LONGEST_MESSAGE).collect();
        self.latest.send_replace(Some(Progress { fraction, message, at: self.clock.now() }));
    }

    /// How an engine job reports: its progress is the task's, and each new kind of step is a line for `log`.
    pub fn of_job(
        &self,
        log: impl Fn(&str) + Send + Sync + 'static,
    ) -> impl Fn(Option<f32>, String) + Send + Sync + 'static {
        let writer = self.clone();
        let last = Mutex::new(String::new());
        move |fraction, message| {
            writer.report(fraction, &message);
            // `frame 3 of 81` and `frame 4 of 81` are the same step.
            let step: String = message.chars().filter(|c| !c.is_ascii_digit()).collect();
            let Ok(mut last) = last.lock() else { return };
            if *last != step {
                log(&message);
                *last = step;
            }
        }
    }
}
