//! Progress of a running task on its way to the store: callers never wait, the newest report wins, and at most a few a
//! second are written.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::store::{ClaimToken, SharedStore};
use crate::task::{Progress, TaskId};

/// Pause between two writes of one task.
const PAUSE: Duration = Duration::from_millis(250);

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
        self.latest.send_replace(Some(Progress { fraction, message: message.to_string(), at: self.clock.now() }));
    }
}
