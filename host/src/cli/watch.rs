//! Waiting for a task: progress bars on a terminal, nothing otherwise.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::exit::Stop;
use crate::store::{SharedStore, TaskFilter};
use crate::task::{Status, Task, TaskId};

/// Fewest milliseconds between two looks at the store, however busy it is.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until the task has ended and returns it.
pub async fn until_ended(store: &SharedStore, id: TaskId) -> Result<Task, Stop> {
    let mut changes = store.changes();
    let mut bars = std::io::stderr().is_terminal().then(Bars::default);
    loop {
        changes.mark_unchanged();
        let task = store.get(id).await?;
        if let Some(bars) = &mut bars {
            let children = store.list(TaskFilter { children_of: Some(id), ..TaskFilter::default() }).await?;
            bars.show(&task, 0);
            for child in &children {
                bars.show(child, 1);
            }
        }
        if task.status.is_final() {
            return Ok(task);
        }
        if changes.changed().await.is_err() {
            return Ok(task);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: HashMap<TaskId, ProgressBar>,
}

impl Bars {
    fn show(&mut self, task: &Task, indent: usize) {
        let bar = self.bars.entry(task.id).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(1000));
            if let Ok(style) = ProgressStyle::with_template("{prefix:34} {bar:24} {msg}") {
                bar.set_style(style);
            }
            let name = task.child_key.as_deref().unwrap_or(&task.task_type);
            bar.set_prefix(format!("{:indent$}{name}", "", indent = indent * 2));
            bar
        });
        let message = match (&task.progress, task.status) {
            (_, Status::Queued) => "waits".to_string(),
            (Some(progress), Status::InProgress) => progress.message.clone(),
            (_, Status::InProgress) if task.delegated.is_some() => "its children work".to_string(),
            (_, status) => status.to_string(),
        };
        let fraction = match (&task.progress, task.status) {
            (_, Status::Complete) => 1.0,
            (Some(progress), Status::InProgress) => progress.fraction.unwrap_or(0.0),
            _ => 0.0,
        };
        // Clamped to 0..=1000 before the cast.
        bar.set_position((f64::from(fraction) * 1000.0).clamp(0.0, 1000.0) as u64);
        bar.set_message(message);
        if task.status.is_final() {
            bar.abandon();
        }
    }
}
