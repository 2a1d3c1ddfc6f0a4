//! `enginehouse tasks …`: looking at tasks and changing their course. Works with and without a running worker.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::exit::{self, Done};
use crate::cli::house::House;
use crate::cli::view::{self, table};
use crate::store::{SharedStore, StoreError, TaskFilter};
use crate::task::{Status, Task, TaskId};
use crate::tasklog;

mod explain;

#[derive(clap::Subcommand)]
pub enum Command {
    /// List tasks, newest first
    Ls(Ls),
    /// Everything about one task
    Show { id: TaskId },
    /// Why this handler, why it runs or does not run, what it waits for
    Explain { id: TaskId },
    /// The log of a task: its handler, its engine jobs, the host
    Logs {
        id: TaskId,
        /// Go on until the task has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop tasks and everything below them
    Cancel {
        #[arg(required = true)]
        ids: Vec<TaskId>,
    },
    /// Try failed or cancelled tasks again
    Retry {
        #[arg(required = true)]
        ids: Vec<TaskId>,
    },
}

#[derive(clap::Args)]
pub struct Ls {
    /// Queued, "In Progress", Complete, Failed or Cancelled
    #[arg(long)]
    status: Option<Status>,
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// Children of this task, oldest first
    #[arg(long, value_name = "ID")]
    parent: Option<TaskId>,
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// 0: all
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

pub async fn run(global: &Global, command: Command) -> Done {
    let house = House::open(global)?;
    let store = house.store().await?;
    match command {
        Command::Ls(args) => ls(global, &store, args).await,
        Command::Show { id } => show(global, &house, &store, id).await,
        Command::Explain { id } => {
            let story = explain::explain(&house, &store, id).await?;
            if global.json {
                println!("{}", serde_json::to_string(&story)?);
            } else {
                story.lines().iter().for_each(|line| println!("{line}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Logs { id, follow } => logs(global, &house, &store, id, follow).await,
        Command::Cancel { ids } => cancel(global, &store, ids).await,
        Command::Retry { ids } => retry(global, &store, ids).await,
    }
}

async fn ls(global: &Global, store: &SharedStore, args: Ls) -> Done {
    let filter = TaskFilter {
        status: args.status,
        task_type: args.task_type,
        children_of: args.parent,
        project_id: args.project,
        limit: args.limit,
    };
    let tasks = store.list(filter).await?;
    if global.json {
        let rows: Vec<Value> = tasks.iter().map(row).collect();
        println!("{}", json!({ "tasks": rows, "counts": store.counts().await? }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["ID", "TYPE", "STATUS", "HANDLER", "CREATED", "WHAT"]);
    for task in &tasks {
        let handler = task.route.as_ref().map(|r| r.handler.kind()).unwrap_or("-");
        table.add_row([
            task.id.to_string(),
            task.task_type.clone(),
            task.status.to_string(),
            handler.to_string(),
            task.created_at.to_string(),
            what(task),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// The short form of `view::json`, without params and children.
fn row(task: &Task) -> Value {
    json!({
        "id": task.id,
        "task_type": task.task_type,
        "status": task.status,
        "handler": task.route.as_ref().map(|r| &r.handler),
        "attempts": task.attempts,
        "parent": task.parent,
        "key": task.child_key,
        "project_id": task.project_id,
        "priority": task.priority,
        "progress": task.progress,
        "error": task.error.as_ref().map(|e| json!({ "kind": e.class, "code": e.code, "message": e.message })),
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
    })
}

fn what(task: &Task) -> String {
    match (&task.error, &task.progress, &task.output) {
        (Some(e), ..) => format!("{}: {}", e.code, e.message),
        (None, _, Some(crate::task::Output::File { file, .. })) => file.name.clone(),
        (None, Some(progress), None) if task.status == Status::InProgress => progress.message.clone(),
        _ if task.delegated.is_some() && task.status == Status::InProgress => "its children work".into(),
        _ => String::new(),
    }
}

async fn show(global: &Global, house: &House, store: &SharedStore, id: TaskId) -> Done {
    let task = store.get(id).await?;
    let value = view::json(store, &house.artifacts()?, &task).await?;
    if global.json {
        println!("{value}");
    } else {
        println!("{}", serde_json::to_string_pretty(&value)?);
    }
    Ok(ExitCode::SUCCESS)
}

async fn logs(global: &Global, house: &House, store: &SharedStore, id: TaskId, follow: bool) -> Done {
    let mut shown = 0;
    loop {
        // Looked at before the lines are read, and the last ones are given a moment: what was said before the end is shown.
        let ended = store.get(id).await?.status.is_final();
        if ended && follow {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let lines = tasklog::read(&house.home.logs(), id)?;
        for line in lines.iter().skip(shown) {
            if global.json {
                println!("{}", serde_json::to_string(line)?);
            } else {
                println!("{} {:5} {:6} {}", line.at, line.level, line.source, line.message);
            }
        }
        shown = lines.len();
        if !follow || ended {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn cancel(global: &Global, store: &SharedStore, ids: Vec<TaskId>) -> Done {
    let mut answers = Vec::new();
    for id in ids {
        let stopped = store.cancel(id, "cancelled by the operator".into()).await?;
        let status = store.get(id).await?.status;
        if !global.json {
            println!("{id} {}", if stopped { "cancelled".to_string() } else { format!("was {status} already") });
        }
        answers.push(json!({ "id": id, "cancelled": stopped, "status": status }));
    }
    if global.json {
        println!("{}", json!({ "tasks": answers }));
    }
    Ok(ExitCode::SUCCESS)
}

async fn retry(global: &Global, store: &SharedStore, ids: Vec<TaskId>) -> Done {
    let mut answers = Vec::new();
    let mut code = 0;
    for id in ids {
        match store.retry(id).await {
            Ok(task) => {
                if !global.json {
                    println!("{id} {}", task.status);
                }
                answers.push(json!({ "id": id, "status": task.status }));
            }
            // Idempotent over a list: one that cannot be retried does not keep the others back.
            Err(e @ (StoreError::Transition { .. } | StoreError::Refused { .. })) => {
                code = exit::FAILURE;
                if !global.json {
                    println!("{id} not retried: {e}");
                }
                answers.push(json!({ "id": id, "refused": e.to_string() }));
            }
            Err(e) => return Err(e.into()),
        }
    }
    if global.json {
        println!("{}", json!({ "tasks": answers }));
    }
    Ok(ExitCode::from(code))
}
