//! The smallest plugin: answers every task of type `noop` with a text. What it costs is what the host costs.

use enginehouse_sdk::prelude::*;

struct Noop;

impl Plugin for Noop {
    fn manifest() -> Value {
        json!({
            "name": "noop",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "does nothing, for measurements and first steps",
            "task_types": {"noop": {"params": {"type": "object"}}}
        })
    }

    fn handle(_task: Task) -> Result<Outcome, Failure> {
        Ok(Outcome::text("nothing done"))
    }
}

enginehouse_sdk::plugin!(Noop);
