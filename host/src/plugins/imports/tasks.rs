//! `tasks`: children.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::contract::enginehouse::plugin::tasks::{self, Dependency, NewChild as Child};
use super::{Capability, Reach, Shared, Start, given, json_or_text, nested_enough, object, text_option};
use crate::plugins::journal::{self, Effect, Interrupt};
use crate::store::{ChildDependency, ChildLimits, NewChild, StoreError, TaskFilter};
use crate::task::{Failure, FailureClass, Output, Status, Task, TaskId};

/// Every commit wakes everybody who waits: so long after a look, all that came meanwhile is one look more.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

impl tasks::Host for Start {
    // Keyed by (parent, key) in the store: made again, the call finds the children that exist. So no intent is needed.
    async fn create(&mut self, children: Vec<Child>) -> Result<Vec<String>, Interrupt> {
        let arguments = Value::Array(children.iter().map(shown).collect());
        let create = async move |reach: Shared, _| -> Result<Vec<String>, Interrupt> {
            let batch = children.into_iter().map(new_child).collect::<Result<Vec<_>, _>>()?;
            let limits = &reach.permits.limits;
            let limits = ChildLimits { children: limits.children, depth: limits.nesting };
            let created = reach.services.store.create_children(reach.task.id, reach.token, batch, limits).await;
            let ids = created.map_err(|e| not_created(&reach, e))?;
            Ok(ids.iter().map(TaskId::to_string).collect::<Vec<_>>())
        };
        self.call(Some(Capability::Tasks), "tasks.create", &arguments, Effect::Repeatable, create).await
    }

    async fn children(&mut self, of: String) -> Result<String, Interrupt> {
        let arguments = json!({ "of": of });
        let list = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let parent = of.parse::<TaskId>().ok();
            let parent = parent.filter(|id| *id == reach.task.id || Some(*id) == reach.task.parent);
            let parent = parent.ok_or_else(|| not_found(&of))?;
            let children = children_of(&reach, parent).await?;
            Ok(Value::Array(children.iter().map(row).collect()).to_string())
        };
        self.call(Some(Capability::Tasks), "tasks.children", &arguments, Effect::Repeatable, list).await
    }

    async fn get(&mut self, id: String) -> Result<String, Interrupt> {
        let arguments = json!({ "id": id });
        let get = async move |reach: Shared, _| -> Result<String, Interrupt> {
            Ok(row(&readable(&reach, &id).await?).to_string())
        };
        self.call(Some(Capability::Tasks), "tasks.get", &arguments, Effect::Repeatable, get).await
    }

    async fn wait(&mut self, ids: Vec<String>) -> Result<String, Interrupt> {
        let arguments = json!({ "ids": ids });
        let wait = async move |reach: Shared, _| wait_for_all(&reach, &ids).await;
        self.call(Some(Capability::Tasks), "tasks.wait", &arguments, Effect::Repeatable, wait).await
    }

    async fn cancel(&mut self, id: String) -> Result<(), Interrupt> {
        let arguments = json!({ "id": id });
        let cancel = async move |reach: Shared, _| -> Result<(), Interrupt> {
            let child = own_child(&reach, &id).await?.ok_or_else(|| not_found(&id))?;
            let why = format!("cancelled by its parent {} ({})", reach.task.id, reach.permits.plugin);
            reach.services.store.cancel(child.id, why).await.map(drop).map_err(refused)
        };
        self.call(Some(Capability::Tasks), "tasks.cancel", &arguments, Effect::Repeatable, cancel).await
    }

    async fn remove(&mut self, id: String) -> Result<(), Interrupt> {
        let arguments = json!({ "id": id });
        let remove = async move |reach: Shared, _| -> Result<(), Interrupt> {
            // A child that is not there is removed already: by this very call, before the host died.
            let Some(child) = own_child(&reach, &id).await? else { return Ok(()) };
            match reach.services.store.remove_child(reach.task.id, reach.token, child.id).await {
                Ok(()) | Err(StoreError::NotFound(_)) => Ok(()),
                Err(e) => Err(refused(e)),
            }
        };
        self.call(Some(Capability::Tasks), "tasks.remove", &arguments, Effect::Repeatable, remove).await
    }
}

/// A task that the guest may look at: a relative, or one whose id was given to this task. Code `task_not_found`, whether it
/// does not exist or is not its business.
pub(super) async fn readable(reach: &Shared, id: &str) -> Result<Task, Interrupt> {
    let task = found(reach, id).await?;
    if is_relative(reach, &task) || given::task(reach, id).await? { Ok(task) } else { Err(not_found(id).into()) }
}

/// Whether a task that the guest may look at ended with this text.
pub(super) async fn is_an_output(reach: &Shared, text: &str) -> Result<bool, Interrupt> {
    let says = |task: &Task| matches!(&task.output, Some(Output::Text { text: said }) if said.trim() == text.trim());
    let mut named = given::ids(reach).await?;
    named.extend(&reach.task.depends_on);
    for id in named {
        match reach.services.store.get(id).await {
            Ok(task) if says(&task) => return Ok(true),
            Ok(_) | Err(StoreError::NotFound(_)) => {}
            Err(e) => return Err(refused(e)),
        }
    }
    for parent in [Some(reach.task.id), reach.task.parent].into_iter().flatten() {
        if children_of(reach, parent).await?.iter().any(says) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A relative to wait for. Others that may be looked at are not waited for: this task might stand in their way.
async fn relative(reach: &Shared, id: &str) -> Result<Task, Interrupt> {
    let task = found(reach, id).await?;
    if is_relative(reach, &task) { Ok(task) } else { Err(not_found(id).into()) }
}

/// Its children, its parent, its parent's other children, what it depends on.
fn is_relative(reach: &Shared, task: &Task) -> bool {
    let own = &reach.task;
    let child = task.parent == Some(own.id);
    let parent = own.parent == Some(task.id);
    let sibling = own.parent.is_some() && task.parent == own.parent && task.id != own.id;
    let dependency = own.depends_on.contains(&task.id);
    child || parent || sibling || dependency
}

async fn found(reach: &Shared, id: &str) -> Result<Task, Interrupt> {
    let id_of = id.parse::<TaskId>().map_err(|_| not_found(id))?;
    match reach.services.store.get(id_of).await {
        Err(StoreError::NotFound(_)) => Err(not_found(id).into()),
        other => other.map_err(refused),
    }
}

/// A child of this task; none when there is no such task. Code `task_not_found` when it is somebody else's.
async fn own_child(reach: &Shared, id: &str) -> Result<Option<Task>, Interrupt> {
    let id_of = id.parse::<TaskId>().map_err(|_| not_found(id))?;
    match reach.services.store.get(id_of).await {
        Ok(task) if task.parent == Some(reach.task.id) => Ok(Some(task)),
        Ok(_) => Err(not_found(id).into()),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(e) => Err(refused(e)),
    }
}

async fn children_of(reach: &Shared, parent: TaskId) -> Result<Vec<Task>, Interrupt> {
    let filter = TaskFilter { children_of: Some(parent), ..TaskFilter::default() };
    reach.services.store.list(filter).await.map_err(refused)
}

/// Returns the tasks once all of them have ended. Holds no thread meanwhile.
async fn wait_for_all(reach: &Shared, ids: &[String]) -> Result<String, Interrupt> {
    let mut changes = reach.services.store.changes();
    let mut found = all(reach, ids).await?;
    if let Some(parent) = found.iter().find(|task| reach.task.parent == Some(task.id)) {
        let message = format!("Waiting for the parent {} would never end: it ends after its children.", parent.id);
        return Err(Failure::invalid("waits_for_parent", message).into());
    }
    // Read at the end, one of them may have been retried since it was seen to have ended.
    while !found.iter().all(|task| task.status.is_final()) {
        let ids_of: Vec<TaskId> = found.iter().map(|task| task.id).collect();
        let waiting = Waiting::begin(reach);
        all_ended(reach, &ids_of, &mut changes).await?;
        drop(waiting);
        found = all(reach, ids).await?;
    }
    Ok(Value::Array(found.iter().map(row).collect()).to_string())
}

async fn all(reach: &Shared, ids: &[String]) -> Result<Vec<Task>, Interrupt> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        found.push(relative(reach, id).await?);
    }
    Ok(found)
}

/// Looks at once, and again when something in the store has changed, until all have ended.
async fn all_ended(reach: &Shared, ids: &[TaskId], changes: &mut watch::Receiver<u64>) -> Result<(), Interrupt> {
    loop {
        changes.mark_unchanged();
        let statuses = reach.services.store.statuses(ids).await.map_err(refused)?;
        if let Some((gone, _)) = ids.iter().zip(&statuses).find(|(_, status)| status.is_none()) {
            return Err(not_found(&gone.to_string()).into());
        }
        if statuses.into_iter().flatten().all(Status::is_final) {
            return Ok(());
        }
        let (changed, ()) = tokio::join!(changes.changed(), tokio::time::sleep(BETWEEN_LOOKS));
        if changed.is_err() {
            let failure = Failure::internal("store_failed", "The task store was closed.").retryable();
            return Err(Interrupt::Stop(failure));
        }
    }
}

/// Says that this start waits for other tasks, as long as it lives: it is dropped also with a call that is stopped.
struct Waiting<'a>(&'a AtomicBool);

impl<'a> Waiting<'a> {
    fn begin(reach: &'a Reach) -> Self {
        reach.waiting.store(true, Ordering::Release);
        Self(&reach.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A task as `wit/tasks.wit` documents it.
fn row(task: &Task) -> Value {
    let output = match &task.output {
        Some(Output::File { file, .. }) => json!(file),
        Some(Output::Text { text }) => json!({ "text": text }),
        Some(Output::Facts { .. }) | None => Value::Null,
    };
    let error = task.error.as_ref().map(|e| json!({ "class": e.class, "code": e.code, "message": e.message }));
    json!({
        "id": task.id,
        "key": task.child_key,
        "task_type": task.task_type,
        "status": task.status,
        "params": task.params,
        "output": output,
        "error": error,
        "depends_on": task.depends_on,
        "created_at": task.created_at,
    })
}

/// A child for the record.
fn shown(child: &Child) -> Value {
    let depends_on = child.depends_on.iter().map(|dependency| match dependency {
        Dependency::Sibling(index) => json!(index),
        Dependency::Task(id) => json!(id),
    });
    json!({
        "key": child.key,
        "task_type": child.task_type,
        "params": json_or_text(&child.params),
        "depends_on": depends_on.collect::<Vec<_>>(),
        "options": json_or_text(&child.options),
    })
}

fn new_child(child: Child) -> Result<NewChild, Failure> {
    let what = |part: &str| format!("`{part}` of the child `{}`", child.key.chars().take(80).collect::<String>());
    for (part, text) in [("params", &child.params), ("options", &child.options)] {
        nested_enough(text).map_err(|why| {
            let message = format!("No child was created: {} cannot be kept: {why}.", what(part));
            Failure::invalid("child_creation_failed", message)
        })?;
    }
    let options = object(&child.options, &what("options"))?;
    let priority = match options.get("priority") {
        None | Some(Value::Null) => None,
        Some(number) => Some(number.as_i64().ok_or_else(|| {
            Failure::invalid("invalid_json", format!("{}: `priority` must be a whole number.", what("options")))
        })?),
    };
    let depends_on = child.depends_on.iter().map(|dependency| match dependency {
        Dependency::Sibling(index) => Ok(ChildDependency::Sibling(*index as usize)),
        Dependency::Task(id) => id.parse().map(ChildDependency::Task).map_err(|_| {
            let message = format!("{} names `{id}`, which is no id of a task.", what("depends-on"));
            Failure::invalid("child_creation_failed", message)
        }),
    });
    Ok(NewChild {
        depends_on: depends_on.collect::<Result<_, _>>()?,
        params: object(&child.params, &what("params"))?,
        project_id: text_option(&options, "project_id")?,
        priority,
        key: child.key,
        task_type: child.task_type,
    })
}

fn not_found(id: &str) -> Failure {
    let id: String = id.chars().take(80).collect();
    Failure::new(
        FailureClass::Dependency,
        "task_not_found",
        format!(
            "There is no task {id}, or it is neither child, parent, sibling nor dependency of this one and its id was not \
             given to this one."
        ),
    )
}

/// What the store said to a new batch. Limits keep their own code; everything else is `child_creation_failed`.
fn not_created(reach: &Shared, error: StoreError) -> Interrupt {
    let limits = &reach.permits.limits;
    let failure = match error {
        StoreError::Refused { code: "too_many_children", message } => {
            Failure::denied("too_many_children", over(&message, "children", limits.children as u64))
        }
        StoreError::Refused { code: "nested_too_deep", message } => {
            Failure::denied("nested_too_deep", over(&message, "nesting", limits.nesting.into()))
        }
        StoreError::Refused { code, message } => {
            Failure::invalid("child_creation_failed", format!("No child was created: {message} ({code})."))
        }
        other => return refused(other),
    };
    Interrupt::Failed(failure)
}

fn over(message: &str, limit: &str, value: u64) -> String {
    format!("No child was created: {message}. The limit is {value} (`plugins.limits.{limit}`).")
}

/// What the store said: an answer for the guest, or the end of this start.
pub(super) fn refused(error: StoreError) -> Interrupt {
    let failure = match error {
        StoreError::Refused { code, message } => Failure::invalid(code, message),
        error @ StoreError::Transition { .. } => Failure::invalid("wrong_status", format!("{error}.")),
        error @ StoreError::NotFound(_) => {
            Failure::new(FailureClass::Dependency, "task_not_found", format!("{error}."))
        }
        error @ (StoreError::LostClaim { .. } | StoreError::Backend(_)) => return journal::stop(error),
    };
    Interrupt::Failed(failure)
}
