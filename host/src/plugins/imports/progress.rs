//! `progress`: what the task is doing, for people who wait. Not recorded, and written a few times a second at most.

use super::Start;
use super::contract::enginehouse::plugin::progress;

impl progress::Host for Start {
    async fn report(&mut self, fraction: Option<f32>, message: String) -> wasmtime::Result<()> {
        if let Some(reach) = self.reach() {
            reach.progress.report(fraction, &message);
        }
        Ok(())
    }
}
