//! `tasks explain`: the decisions about one task, in words and as data.

use serde::Serialize;

use crate::cli::exit::Stop;
use crate::cli::house::House;
use crate::router;
use crate::store::{SharedStore, TaskFilter};
use crate::task::{Route, Status, Task, TaskId};

/// Why a task is where it is.
#[derive(Serialize)]
pub struct Story {
    pub id: TaskId,
    pub status: Status,
    /// The route taken; for a queued task the one it would take now.
    pub route: Route,
    /// What it waits for, or what became of it: one sentence each.
    pub because: Vec<String>,
}

impl Story {
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} {} is {}", self.route.task_type, self.id, self.status)];
        lines.push(format!("handler: {}: {}", self.route.handler.kind(), self.route.reason));
        lines.extend(self.because.iter().cloned());
        lines
    }
}

pub async fn explain(house: &House, store: &SharedStore, id: TaskId) -> Result<Story, Stop> {
    let task = store.get(id).await?;
    let route = match &task.route {
        Some(route) if task.status != Status::Queued => route.clone(),
        _ => {
            let offers = house.offers().await?;
            router::route(&task.task_type, &task.params, &offers, &house.config.routing)
        }
    };
    let because = match task.status {
        Status::Queued => why_queued(house, store, &task).await?,
        Status::InProgress => why_running(store, &task).await?,
        Status::Complete => vec![format!("it was complete after {}", attempts(&task))],
        Status::Failed | Status::Cancelled => why_ended(&task),
    };
    Ok(Story { id, status: task.status, route, because })
}

async fn why_queued(house: &House, store: &SharedStore, task: &Task) -> Result<Vec<String>, Stop> {
    let mut because = Vec::new();
    if house.config.routing.refuse.contains(&task.task_type) {
        because.push(format!(
            "this host does not take {} (setting routing.refuse): it waits for another host",
            task.task_type
        ));
    }
    for dependency in &task.depends_on {
        let other = store.get(*dependency).await?;
        if other.status != Status::Complete {
            because.push(format!("it waits for {} {dependency}, which is {}", other.task_type, other.status));
        }
    }
    if house.worker_pid().is_none() {
        because.push("no worker runs in this home: start `enginehouse run`".into());
    }
    if because.is_empty() {
        let queued = store.list(TaskFilter { status: Some(Status::Queued), ..TaskFilter::default() }).await?;
        let before = |other: &Task| {
            (std::cmp::Reverse(other.priority), other.created_at, other.id)
                < (std::cmp::Reverse(task.priority), task.created_at, task.id)
        };
        let ahead = queued.iter().filter(|other| before(other)).count();
        because.push(match ahead {
            0 => "it is next: highest priority, then oldest".into(),
            n => format!("{n} queued tasks come first: higher priority, or as high and older"),
        });
    }
    if task.attempts > 0
        && let Some(error) = &task.error
    {
        because.push(format!("{} so far; the last one failed: {}", attempts(task), error.message));
    }
    Ok(because)
}

async fn why_running(store: &SharedStore, task: &Task) -> Result<Vec<String>, Stop> {
    let mut because = Vec::new();
    if task.delegated.is_some() {
        let children = store.list(TaskFilter { children_of: Some(task.id), ..TaskFilter::default() }).await?;
        let count = |status| children.iter().filter(|c| c.status == status).count();
        because.push(format!(
            "its {} children finish it: {} complete, {} in progress, {} queued",
            children.len(),
            count(Status::Complete),
            count(Status::InProgress),
            count(Status::Queued)
        ));
        return Ok(because);
    }
    if let Some(holder) = &task.holder {
        because.push(format!("process {} on {} works on it", holder.pid, holder.machine));
    }
    if let Some(progress) = &task.progress {
        let percent = progress.fraction.map(|f| format!(" ({:.0} %)", f * 100.0)).unwrap_or_default();
        because.push(format!("{}{percent}, at {}", progress.message, progress.at));
    }
    Ok(because)
}

fn why_ended(task: &Task) -> Vec<String> {
    let Some(error) = &task.error else { return vec![format!("it ended after {}", attempts(task))] };
    let mut because = vec![format!("{} ({}): {}", error.code, error.class, error.message)];
    because.push(if error.retry {
        format!("{}, the limit; `enginehouse tasks retry {}` tries again", attempts(task), task.id)
    } else {
        "another attempt would end the same way until something changes, so none was made".into()
    });
    because
}

fn attempts(task: &Task) -> String {
    match task.attempts {
        1 => "1 attempt".into(),
        n => format!("{n} attempts"),
    }
}
