//! A guest that waits: it has the params it is given worked on by a child of type `t2v`, and is alive meanwhile.

use enginehouse_sdk::host::tasks::NewChild;
use enginehouse_sdk::prelude::*;

struct Waiter;

impl Plugin for Waiter {
    fn manifest() -> Value {
        json!({
            "name": "waiter",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "waits for a child",
            "capabilities": ["tasks"],
            "task_types": {"waiter": {"params": {"type": "object"}}}
        })
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        let child =
            NewChild { key: "film".into(), task_type: "t2v".into(), params: task.params, ..NewChild::default() };
        let ended = tasks::wait(&tasks::create(&[child])?)?;
        let statuses: Vec<&str> = ended.iter().map(|child| child.status.as_str()).collect();
        Ok(Outcome::text(format!("waited for: {}", statuses.join(", "))))
    }
}

enginehouse_sdk::plugin!(Waiter);
