//! How tasks come into being: submitted ones, children, and the removal of a child that never started.

use std::collections::HashSet;

use sqlx::sqlite::SqliteRow;

use super::row::{self, get, task_columns};
use super::settle::{self, Fall};
use super::writer::Tx;
use super::{claim, refused};
use crate::store::{ChildDependency, ChildLimits, ClaimToken, NewChild, NewTask, Result, StoreError};
use crate::task::{Status, TaskId};

/// A submitted task whose JSON is written out already, so that the writer need not do it.
pub(super) struct PreparedTask {
    new: NewTask,
    params: String,
}

impl PreparedTask {
    pub fn new(new: NewTask) -> Result<Self> {
        let params = row::text(&new.params)?;
        Ok(Self { new, params })
    }
}

/// Creates a task, or finds the one that the same key created before.
pub(super) async fn submit(tx: &mut Tx, PreparedTask { new, params }: PreparedTask) -> Result<SqliteRow> {
    if let Some(key) = &new.idempotency_key
        && let Some(found) = by_key(tx, key).await?
    {
        let task = row::task(&found)?;
        return if task.task_type == new.task_type && task.params == new.params {
            Ok(found)
        } else {
            Err(refused(
                "idempotency_mismatch",
                format!(
                    "the idempotency key `{key}` already belongs to task {} of type {}, which differs from this one: use \
                     a fresh key for a different task",
                    task.id, task.task_type
                ),
            ))
        };
    }
    let draft = Draft {
        id: new.id.unwrap_or_else(TaskId::random),
        task_type: new.task_type,
        params,
        project_id: new.project_id,
        priority: new.priority,
        child_of: None,
        depth: 0,
        depends_on: new.depends_on,
        idempotency_key: new.idempotency_key,
    };
    if new.id.is_some() && exists(tx, draft.id).await? {
        return Err(refused("duplicate_id", format!("there is already a task {}: choose another id", draft.id)));
    }
    insert(tx, &draft).await?;
    read(tx, draft.id).await
}

/// A child whose JSON is written out already.
pub(super) struct PreparedChild {
    new: NewChild,
    params: String,
}

impl PreparedChild {
    pub fn new(new: NewChild) -> Result<Self> {
        let params = row::text(&new.params)?;
        Ok(Self { new, params })
    }
}

/// Creates the children of a batch that are not there yet; the ids of all, in the batch's order.
pub(super) async fn create_children(
    tx: &mut Tx,
    parent: TaskId,
    token: ClaimToken,
    batch: Vec<PreparedChild>,
    limits: ChildLimits,
) -> Result<Vec<TaskId>> {
    let family = Family::of(tx, parent, token).await?;
    refuse_repeated_keys(&batch)?;

    // Children are created in one moment, and among equally old tasks the smaller id goes first: sorted ids keep the
    // batch's order.
    let mut fresh: Vec<TaskId> = batch.iter().map(|_| TaskId::random()).collect();
    fresh.sort_unstable();

    let mut ids: Vec<TaskId> = Vec::with_capacity(batch.len());
    let mut drafts = Vec::new();
    for (position, (child, fresh)) in batch.into_iter().zip(fresh).enumerate() {
        let PreparedChild { new, params } = child;
        let depends_on = resolve(&new, position, &ids)?;
        if let Some(known) = child_by_key(tx, parent, &new.key).await? {
            ids.push(known);
            continue;
        }
        ids.push(fresh);
        drafts.push(Draft {
            id: fresh,
            task_type: new.task_type,
            params,
            project_id: new.project_id.or_else(|| family.project_id.clone()),
            priority: new.priority.unwrap_or(family.priority),
            child_of: Some((parent, new.key)),
            depth: family.depth + 1,
            depends_on,
            idempotency_key: None,
        });
    }
    if drafts.is_empty() {
        return Ok(ids);
    }
    family.refuse_too_many(parent, drafts.len(), limits)?;
    let above = ancestors(tx, parent).await?;
    for draft in &drafts {
        if let Some(waits) = draft.depends_on.iter().find(|task| above.contains(task)) {
            let key = draft.child_of.as_ref().map(|(_, key)| key.as_str()).unwrap_or_default();
            return Err(refused(
                "dependency_cycle",
                format!(
                    "child `{key}` cannot wait for task {waits}, which stands above it and may wait for it in turn"
                ),
            ));
        }
        insert(tx, draft).await?;
    }
    Ok(ids)
}

/// Removes a child that never started and that nobody waits for.
pub(super) async fn remove_child(tx: &mut Tx, parent: TaskId, token: ClaimToken, child: TaskId) -> Result<()> {
    claim::held(tx, parent, token).await?;
    let query = sqlx::query(
        "SELECT parent_id, status, attempts, EXISTS (SELECT 1 FROM task_deps WHERE depends_on = tasks.id) AS awaited \
         FROM tasks WHERE id = ?",
    );
    let found = tx.row(query.bind(child.to_string())).await?.ok_or(StoreError::NotFound(child))?;
    if row::id_if_any(&found, "parent_id")? != Some(parent) {
        return Err(refused("not_a_child", format!("task {child} is not a child of task {parent}")));
    }
    let status = row::status(&found)?;
    if status != Status::Queued || get::<i64>(&found, "attempts")? > 0 {
        return Err(refused(
            "child_started",
            format!("child {child} is {status} and was begun: only a child that never started can be removed"),
        ));
    }
    if get(&found, "awaited")? {
        return Err(refused(
            "child_awaited",
            format!("child {child} cannot be removed: another task waits for it, and would start without it"),
        ));
    }
    tx.change(sqlx::query("DELETE FROM tasks WHERE id = ?").bind(child.to_string())).await?;
    Ok(())
}

/// A task about to be written.
struct Draft {
    id: TaskId,
    task_type: String,
    params: String,
    project_id: Option<String>,
    priority: i64,
    /// Parent and key.
    child_of: Option<(TaskId, String)>,
    depth: u32,
    depends_on: Vec<TaskId>,
    idempotency_key: Option<String>,
}

/// What children take from their parent.
struct Family {
    project_id: Option<String>,
    priority: i64,
    depth: u32,
    children: usize,
}

impl Family {
    async fn of(tx: &mut Tx, parent: TaskId, token: ClaimToken) -> Result<Self> {
        let query = sqlx::query(
            "SELECT status, claim_token, project_id, priority, depth, \
             (SELECT count(*) FROM tasks AS child WHERE child.parent_id = tasks.id) AS children FROM tasks WHERE id = ?",
        );
        let found = tx.row(query.bind(parent.to_string())).await?.ok_or(StoreError::NotFound(parent))?;
        let status = row::status(&found)?;
        if status.is_final() && get::<Option<&str>>(&found, "claim_token")? == Some(row::token(token).as_str()) {
            return Err(refused("parent_ended", format!("task {parent} is {status} and gets no more children")));
        }
        claim::held(tx, parent, token).await?;
        Ok(Self {
            project_id: get(&found, "project_id")?,
            priority: get(&found, "priority")?,
            depth: get(&found, "depth")?,
            children: usize::try_from(get::<i64>(&found, "children")?).unwrap_or(usize::MAX),
        })
    }

    fn refuse_too_many(&self, parent: TaskId, more: usize, limits: ChildLimits) -> Result<()> {
        if self.depth >= limits.depth {
            return Err(refused(
                "nested_too_deep",
                format!(
                    "task {parent} stands {} levels below a submitted task and may not have children: the limit is {}",
                    self.depth, limits.depth
                ),
            ));
        }
        if self.children.saturating_add(more) > limits.children {
            return Err(refused(
                "too_many_children",
                format!(
                    "task {parent} has {} children and may not get {more} more: the limit is {}",
                    self.children, limits.children
                ),
            ));
        }
        Ok(())
    }
}

fn refuse_repeated_keys(batch: &[PreparedChild]) -> Result<()> {
    let mut seen = HashSet::new();
    match batch.iter().find(|child| !seen.insert(child.new.key.as_str())) {
        Some(twice) => {
            Err(refused("duplicate_key", format!("the batch has two children with key `{}`", twice.new.key)))
        }
        None => Ok(()),
    }
}

/// The tasks that a child waits for; `earlier`: the ids of those before it in the batch.
fn resolve(child: &NewChild, position: usize, earlier: &[TaskId]) -> Result<Vec<TaskId>> {
    let one = |dependency: &ChildDependency| match dependency {
        ChildDependency::Task(id) => Ok(*id),
        ChildDependency::Sibling(index) => earlier.get(*index).copied().ok_or_else(|| {
            refused(
                "dependency_cycle",
                format!(
                    "child `{}` (number {position} of the batch, counted from 0) waits for number {index}: a child can \
                     only wait for one that comes before it",
                    child.key
                ),
            )
        }),
    };
    child.depends_on.iter().map(one).collect()
}

async fn insert(tx: &mut Tx, draft: &Draft) -> Result<()> {
    let id = draft.id.to_string();
    let waits_for = row::text(&draft.depends_on)?;
    if !draft.depends_on.is_empty() {
        refuse_unknown(tx, draft, &waits_for).await?;
    }
    let query = sqlx::query(
        "INSERT INTO tasks (id, task_type, params, status, ready, project_id, priority, parent_id, child_key, depth, \
         idempotency_key, created_at) VALUES (?, ?, ?, 'Queued', ?, ?, ?, ?, ?, ?, ?, ?)",
    );
    let (parent, key) = draft.child_of.clone().unzip();
    let query = query
        .bind(id.clone())
        .bind(draft.task_type.clone())
        .bind(draft.params.clone())
        .bind(draft.depends_on.is_empty())
        .bind(draft.project_id.clone())
        .bind(draft.priority)
        .bind(parent.map(|parent| parent.to_string()))
        .bind(key)
        .bind(draft.depth)
        .bind(draft.idempotency_key.clone())
        .bind(tx.now.0);
    tx.change(query).await?;
    if draft.depends_on.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(
        "INSERT INTO task_deps (task_id, position, depends_on) SELECT ?, min(key), value FROM json_each(?) GROUP BY value",
    );
    tx.change(query.bind(id.clone()).bind(waits_for)).await?;
    let query = sqlx::query(settle::READY_IF_ALL_COMPLETE).bind(id.clone());
    tx.change(query).await?;
    // A dependency that ended badly before its dependent came: the same end as if it had come later.
    if let Some(cause) = settle::failed_dependency(tx, draft.id).await? {
        let fall = Fall::dependency(draft.id, &cause);
        settle::fell(tx, fall).await?;
    }
    Ok(())
}

async fn refuse_unknown(tx: &mut Tx, draft: &Draft, waits_for: &str) -> Result<()> {
    let query = sqlx::query(
        "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.id = json_each.value) LIMIT 1",
    );
    match tx.row(query.bind(waits_for.to_owned())).await? {
        None => Ok(()),
        Some(unknown) => {
            let who = match &draft.child_of {
                Some((_, key)) => format!("child `{key}`"),
                None => format!("the task of type {}", draft.task_type),
            };
            let unknown: String = get(&unknown, "value")?;
            Err(refused("unknown_dependency", format!("{who} would wait for task {unknown}, which does not exist")))
        }
    }
}

async fn by_key(tx: &mut Tx, key: &str) -> Result<Option<SqliteRow>> {
    tx.row(
        sqlx::query(concat!("SELECT ", task_columns!(), " FROM tasks WHERE idempotency_key = ?")).bind(key.to_owned()),
    )
    .await
}

async fn child_by_key(tx: &mut Tx, parent: TaskId, key: &str) -> Result<Option<TaskId>> {
    let query = sqlx::query("SELECT id FROM tasks WHERE parent_id = ? AND child_key = ?");
    let found = tx.row(query.bind(parent.to_string()).bind(key.to_owned())).await?;
    found.map(|row| row::id(&row, "id")).transpose()
}

async fn exists(tx: &mut Tx, task: TaskId) -> Result<bool> {
    Ok(tx.row(sqlx::query("SELECT 1 FROM tasks WHERE id = ?").bind(task.to_string())).await?.is_some())
}

/// A task as it stands inside the transaction.
pub(super) async fn read(tx: &mut Tx, task: TaskId) -> Result<SqliteRow> {
    let query = sqlx::query(concat!("SELECT ", task_columns!(), " FROM tasks WHERE id = ?"));
    tx.row(query.bind(task.to_string())).await?.ok_or(StoreError::NotFound(task))
}

/// The task and all that stand above it.
async fn ancestors(tx: &mut Tx, task: TaskId) -> Result<HashSet<TaskId>> {
    let query = sqlx::query(
        "WITH RECURSIVE above (id) AS (SELECT ? UNION \
         SELECT parent_id FROM tasks JOIN above USING (id) WHERE parent_id IS NOT NULL) SELECT id FROM above",
    );
    let rows = tx.rows(query.bind(task.to_string())).await?;
    rows.iter().map(|row| row::id(row, "id")).collect()
}
