//! The engine jobs of one start, and how they come back after a restart.
//!
//! An owned engine dies with its host. When the journal answers a submission, the job of that time is either finished
//! (its result lies in its folder, and submitting it again under its key gives that) or was cut off (then it has to be
//! submitted again). So as soon as the journal ends and the handler goes on live, every job that has no recorded end is
//! submitted again, under the key it had.

use std::collections::{BTreeMap, BTreeSet};

use super::Reach;
use crate::engines::{JobKey, NewJob};

/// Jobs by the number of the call that submitted them.
#[derive(Default)]
pub(super) struct Jobs {
    submitted: BTreeMap<u64, NewJob>,
    /// Known to the engines of this process.
    known: BTreeSet<u64>,
    /// A recorded call told the guest how they ended.
    ended: BTreeSet<u64>,
}

impl Jobs {
    /// A submission succeeded, in this life of the attempt (`live`) or in an earlier one.
    pub(super) fn submitted(&mut self, job: NewJob, live: bool) {
        let seq = job.key.seq;
        if live {
            self.known.insert(seq);
        }
        self.submitted.insert(seq, job);
    }

    /// The guest knows how the job ended, or wanted it to end.
    pub(super) fn ended(&mut self, job: JobKey) {
        self.ended.insert(job.seq);
    }

    /// Submits again what was cut off.
    pub(super) async fn return_open(&mut self, reach: &Reach) {
        let open: Vec<u64> = self
            .submitted
            .keys()
            .filter(|seq| !self.known.contains(seq) && !self.ended.contains(seq))
            .copied()
            .collect();
        for seq in open {
            self.submit_again(seq, reach).await;
        }
    }

    /// Makes sure that the engines know a job that the guest asks about once more.
    pub(super) async fn make_known(&mut self, job: JobKey, reach: &Reach) {
        if !self.known.contains(&job.seq) {
            self.submit_again(job.seq, reach).await;
        }
    }

    async fn submit_again(&mut self, seq: u64, reach: &Reach) {
        let Some(job) = self.submitted.get(&seq) else { return };
        self.known.insert(seq);
        if let Err(failure) = reach.services.engines.submit(job.clone()).await {
            // Whoever waits for it is told `engine_lost_task`.
            let message = format!("Job {} could not be submitted again: {}", job.key, failure.message);
            reach.lines.write("host", "error", &message);
        }
    }
}
