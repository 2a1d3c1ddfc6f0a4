//! What every task store promises, as tests that know nothing of the implementation. A store is held to all of it by one
//! line, `store_conformance!(make)`, where `make` is an `async fn(u32) -> Fresh` that gives an empty store which sets
//! tasks aside after that many deaths.

use std::any::Any;
use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use enginehouse::clock::Clock;
use enginehouse::digest::Digest;
use enginehouse::store::{
    CallState, ChildDependency, ChildLimits, Claim, ClaimRequest, ClaimToken, JournalEntry, NewChild, NewTask,
    SharedStore, StoreError, TypeFilter, holder,
};
use enginehouse::task::{Delegation, Failure, FailureClass, FileRef, Holder, Output, Status, Task, TaskId};
use serde_json::{Map, Value, json};

pub mod children;
pub mod claims;
pub mod endings;
pub mod holders;
pub mod records;
pub mod retries;

/// An empty store, the clock it goes by, and a way to it that shares nothing but the data, as another process would have.
pub struct Fresh {
    pub store: SharedStore,
    pub clock: Clock,
    pub another: Box<dyn Fn() -> Pin<Box<dyn Future<Output = SharedStore> + Send>> + Send + Sync>,
    /// What must live as long as the store.
    pub keep: Box<dyn Any + Send + Sync>,
}

/// One test per promise.
#[macro_export]
macro_rules! store_conformance {
    ($make:path) => {
        $crate::store_conformance! { $make =>
            claims: a_task_is_claimed_once_under_contention;
            claims: two_ways_to_one_store_never_grant_a_task_twice;
            claims: a_claim_grants_no_more_than_it_was_asked_for;
            claims: higher_priority_goes_first_then_age_then_id;
            claims: only_suitable_types_are_granted;
            claims: a_task_waits_for_all_of_its_dependencies;
            claims: an_unknown_dependency_is_refused;
            claims: a_change_outside_the_status_table_changes_nothing;
            claims: a_lost_claim_can_change_nothing;
            claims: the_route_and_the_progress_of_an_attempt_are_kept;
            claims: a_released_task_goes_on_in_the_same_attempt;
            claims: a_retryable_failure_is_tried_again_up_to_the_cap;
            holders: an_expired_lease_resumes_the_same_attempt;
            holders: a_renewed_lease_does_not_expire;
            holders: a_renewal_tells_what_became_of_the_claim;
            holders: a_dead_process_on_this_machine_loses_its_tasks_at_once;
            holders: every_process_of_an_earlier_boot_has_lost_its_tasks;
            holders: a_living_process_and_one_elsewhere_keep_theirs;
            holders: deaths_in_a_row_set_a_task_aside;
            holders: an_expired_lease_is_no_death;
            holders: a_new_result_makes_deaths_count_from_zero;
            holders: a_parent_that_waits_is_never_charged;
            holders: quarantine_can_be_switched_off;
            holders: a_retry_releases_a_task_that_was_set_aside;
            children: a_batch_is_created_whole_and_in_order;
            children: a_refused_batch_creates_nothing;
            children: the_same_batch_again_creates_nothing;
            children: limits_on_number_and_depth_hold_over_all_batches;
            children: a_parent_that_ended_gets_no_children;
            children: a_child_that_never_started_can_be_removed;
            endings: a_failure_takes_children_and_dependents_along;
            endings: a_failed_child_fails_its_delegated_parent_and_siblings;
            endings: a_parent_that_works_itself_survives_a_failed_child;
            endings: the_last_child_completes_its_delegated_parent;
            endings: parents_complete_all_the_way_up;
            endings: delegating_to_children_that_have_ended_settles_at_once;
            endings: the_output_may_only_come_from_a_child_that_exists;
            endings: two_last_children_at_the_same_moment_complete_the_parent_once;
            endings: completing_twice_is_completing_once;
            endings: a_task_can_be_cancelled_at_every_stage;
            endings: cancelling_a_parent_cancels_everything_below;
            endings: a_cancelled_child_fails_its_delegated_parent;
            endings: a_task_submitted_behind_a_failed_one_fails_at_once;
            retries: only_what_ended_badly_can_be_retried;
            retries: retrying_a_delegated_parent_keeps_what_is_complete;
            retries: retrying_a_child_reopens_its_delegated_parent;
            retries: retrying_a_working_parent_brings_its_children_back;
            retries: a_child_of_a_parent_that_failed_by_itself_is_not_retried_alone;
            retries: a_task_behind_a_failed_one_is_not_retried_alone;
            retries: what_waited_for_a_retried_task_waits_again;
            records: the_journal_keeps_order_and_brings_intents_to_done;
            records: a_journal_number_belongs_to_one_call;
            records: the_same_idempotency_key_is_the_same_task;
            records: a_refusal_undoes_only_itself;
            records: a_change_wakes_whoever_waits;
            records: a_change_made_elsewhere_wakes_whoever_waits;
            records: a_claim_that_grants_nothing_wakes_nobody;
            records: lists_and_counts_say_what_is_there;
            records: statuses_come_in_the_order_asked_for;
            records: everything_is_still_there_after_reopening;
        }
    };
    ($make:path => $($module:ident: $name:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::store_conformance::$module::$name(async |deaths| $make(deaths).await).await;
            }
        )*
    };
}

/// How tests get a store.
pub trait Make: AsyncFn(u32) -> Fresh {}
impl<M: AsyncFn(u32) -> Fresh> Make for M {}

/// Deaths that quarantine a task in most tests.
const DEATHS: u32 = 2;
const LEASE: Duration = Duration::from_secs(60);
const LIMITS: ChildLimits = ChildLimits { children: 100, depth: 4 };
/// How long anything may take that happens by itself.
const CEILING: Duration = Duration::from_secs(20);

fn new(task_type: &str) -> NewTask {
    NewTask { task_type: task_type.into(), ..NewTask::default() }
}

fn waiting(task_type: &str, depends_on: &[TaskId]) -> NewTask {
    NewTask { depends_on: depends_on.to_vec(), ..new(task_type) }
}

fn child(key: &str) -> NewChild {
    NewChild {
        key: key.into(),
        task_type: "child".into(),
        params: object(json!({ "key": key })),
        depends_on: Vec::new(),
        project_id: None,
        priority: None,
    }
}

fn child_after(key: &str, siblings: &[usize]) -> NewChild {
    NewChild { depends_on: siblings.iter().copied().map(ChildDependency::Sibling).collect(), ..child(key) }
}

fn ask(holder: Holder, limit: usize) -> ClaimRequest {
    ClaimRequest { holder, lease: LEASE, types: TypeFilter::Any, limit }
}

/// A claim of this living process.
async fn claim(store: &SharedStore, limit: usize) -> Vec<Claim> {
    claim_as(store, holder::this_process(), limit).await
}

async fn claim_as(store: &SharedStore, holder: Holder, limit: usize) -> Vec<Claim> {
    store.claim(ask(holder, limit)).await.unwrap()
}

async fn claim_one(store: &SharedStore) -> Claim {
    let mut claims = claim(store, 1).await;
    assert_eq!(claims.len(), 1, "nothing was granted");
    claims.remove(0)
}

async fn claim_type(store: &SharedStore, task_type: &str) -> Claim {
    let types = TypeFilter::Only(BTreeSet::from([task_type.to_owned()]));
    let mut claims = store.claim(ClaimRequest { types, ..ask(holder::this_process(), 1) }).await.unwrap();
    assert_eq!(claims.len(), 1, "no {task_type} was granted");
    claims.remove(0)
}

/// Submits a task and claims it.
async fn running(store: &SharedStore, task_type: &str) -> Claim {
    let task = store.submit(new(task_type)).await.unwrap();
    let claim = claim_type(store, task_type).await;
    assert_eq!(claim.task.id, task.id);
    claim
}

/// A running task and its queued children.
async fn family(store: &SharedStore, children: Vec<NewChild>) -> (Claim, Vec<TaskId>) {
    let parent = running(store, "parent").await;
    let ids = store.create_children(parent.task.id, parent.token, children, LIMITS).await.unwrap();
    (parent, ids)
}

/// The same, with the parent delegated to them.
async fn delegated_family(store: &SharedStore, children: Vec<NewChild>) -> (Claim, Vec<TaskId>) {
    let (parent, ids) = family(store, children).await;
    store.delegate(parent.task.id, parent.token, delegation(None)).await.unwrap();
    (parent, ids)
}

fn delegation(output_from: Option<&str>) -> Delegation {
    Delegation { output_from: output_from.map(Into::into), facts: object(json!({ "planned": 3 })) }
}

fn text(text: &str) -> Output {
    Output::Text { text: text.into() }
}

fn file(name: &str, facts: Value) -> Output {
    let file = FileRef { artifact: Digest::of(name.as_bytes()), name: name.into(), media_type: "video/mp4".into() };
    Output::File { file, extra: Vec::new(), facts: object(facts) }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn broken() -> Failure {
    Failure::new(FailureClass::Engine, "engine_broke", "the engine broke")
}

fn call(attempt: u32, seq: u64, state: CallState) -> JournalEntry {
    JournalEntry {
        attempt,
        seq,
        function: "engines.submit-generation".into(),
        arguments_digest: Digest::of(&seq.to_le_bytes()),
        arguments: Some(format!("{{\"seq\":{seq}}}")),
        state,
        result: (state == CallState::Done).then(|| json!({ "ok": seq })),
        at: enginehouse::clock::Timestamp(1_000 + i64::try_from(seq).unwrap()),
    }
}

async fn status(store: &SharedStore, task: TaskId) -> Status {
    store.get(task).await.unwrap().status
}

/// The task's error as (status, class, code), for comparison in one line.
async fn end(store: &SharedStore, task: TaskId) -> (Status, FailureClass, String) {
    let task = store.get(task).await.unwrap();
    let error = task.error.unwrap_or_else(|| panic!("{} is {} without an error", task.id, task.status));
    (task.status, error.class, error.code)
}

fn failed(code: &str) -> (Status, FailureClass, String) {
    (Status::Failed, FailureClass::Dependency, code.into())
}

fn code(error: StoreError) -> &'static str {
    match error {
        StoreError::Refused { code, message } => {
            assert!(message.len() > code.len(), "{code} without a sentence");
            code
        }
        other => panic!("not refused, but {other:?}"),
    }
}

#[track_caller]
fn assert_lost<T: std::fmt::Debug>(answer: Result<T, StoreError>) {
    match answer {
        Err(StoreError::LostClaim { .. }) => {}
        other => panic!("not a lost claim, but {other:?}"),
    }
}

/// A holder whose process has ended: a real one, started, killed and waited for.
fn dead_holder() -> Holder {
    let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let holder = holder::process(process.id()).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    holder
}

/// What of a task must not change behind a refusal.
fn fingerprint(task: &Task) -> Value {
    serde_json::to_value(task).unwrap()
}

/// A token that never was.
fn made_up() -> ClaimToken {
    ClaimToken(uuid::Uuid::new_v4())
}
