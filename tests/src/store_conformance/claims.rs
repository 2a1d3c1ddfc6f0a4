//! Who gets which task, and who may say what of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use enginehouse::clock::Timestamp;
use enginehouse::store::{AfterFailure, ClaimRequest, NewTask, SharedStore, StoreError, TypeFilter, holder};
use enginehouse::task::{Handler, Progress, Route, Status, TaskId};
use tokio::sync::Barrier;

use super::*;

const TASKS: usize = 300;

/// Claims from all of `ways` at once, each in tasks of its own, until nothing is left; how often each was granted.
async fn drained(ways: Vec<SharedStore>) -> HashMap<TaskId, usize> {
    let start = Arc::new(Barrier::new(ways.len()));
    let mut claimers = tokio::task::JoinSet::new();
    for (number, store) in ways.into_iter().enumerate() {
        let start = start.clone();
        claimers.spawn(async move {
            start.wait().await;
            let mut granted = Vec::new();
            loop {
                let claims = claim(&store, 1 + number % 3).await;
                if claims.is_empty() {
                    return granted;
                }
                granted.extend(claims.into_iter().map(|claim| claim.task.id));
            }
        });
    }
    let mut times = HashMap::new();
    for task in claimers.join_all().await.into_iter().flatten() {
        *times.entry(task).or_default() += 1;
    }
    times
}

pub async fn a_task_is_claimed_once_under_contention(make: impl Make) {
    let fresh = make(DEATHS).await;
    for _ in 0..TASKS {
        fresh.store.submit(new("work")).await.unwrap();
    }
    let times = drained(vec![fresh.store.clone(); 6]).await;
    assert_eq!(times.len(), TASKS);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

pub async fn two_ways_to_one_store_never_grant_a_task_twice(make: impl Make) {
    let fresh = make(DEATHS).await;
    let other = (fresh.another)().await;
    for _ in 0..TASKS {
        fresh.store.submit(new("work")).await.unwrap();
    }
    let ways = [&fresh.store, &other].into_iter().cycle().take(6).cloned().collect();
    let times = drained(ways).await;
    assert_eq!(times.len(), TASKS);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

pub async fn a_claim_grants_no_more_than_it_was_asked_for(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    for _ in 0..5 {
        store.submit(new("work")).await.unwrap();
    }
    assert_eq!(claim(&store, 0).await.len(), 0);
    assert_eq!(claim(&store, 3).await.len(), 3);
    let rest = claim(&store, 10).await;
    assert_eq!(rest.len(), 2);
    let tokens: BTreeSet<_> = rest.iter().map(|claim| claim.token.0).collect();
    assert_eq!(tokens.len(), 2, "every claim has a token of its own");
    assert_eq!(claim(&store, 10).await.len(), 0);
}

pub async fn higher_priority_goes_first_then_age_then_id(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let submit = async |priority| store.submit(NewTask { priority, ..new("work") }).await.unwrap().id;
    let late_in_line = submit(-1).await;
    let mut twins = [submit(0).await, submit(0).await, submit(0).await];
    twins.sort();
    clock.advance(LEASE);
    let young = submit(0).await;
    let urgent = submit(7).await;
    let expected: Vec<_> = [&[urgent], twins.as_slice(), &[young, late_in_line]].concat();

    let mut one_by_one = vec![claim_one(&store).await.task.id];
    one_by_one.extend(claim(&store, 3).await.into_iter().map(|claim| claim.task.id));
    one_by_one.extend(claim(&store, 9).await.into_iter().map(|claim| claim.task.id));
    assert_eq!(one_by_one, expected);
}

pub async fn only_suitable_types_are_granted(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let mut ids = HashMap::new();
    for task_type in ["image", "video", "sound"] {
        ids.insert(task_type, store.submit(new(task_type)).await.unwrap().id);
    }
    let of = async |types: TypeFilter| {
        let claims = store.claim(ClaimRequest { types, ..ask(holder::this_process(), 9) }).await.unwrap();
        claims.into_iter().map(|claim| claim.task.id).collect::<BTreeSet<_>>()
    };
    let set = |types: &[&str]| types.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();

    assert!(of(TypeFilter::Only(set(&["text"]))).await.is_empty());
    assert!(of(TypeFilter::Only(set(&[]))).await.is_empty());
    assert_eq!(of(TypeFilter::Only(set(&["video", "text"]))).await, BTreeSet::from([ids["video"]]));
    assert_eq!(of(TypeFilter::Except(set(&["image"]))).await, BTreeSet::from([ids["sound"]]));
    assert_eq!(of(TypeFilter::Any).await, BTreeSet::from([ids["image"]]));

    // What was lost is taken up only by those whom it suits, too.
    clock.advance(LEASE);
    assert_eq!(of(TypeFilter::Only(set(&["sound"]))).await, BTreeSet::from([ids["sound"]]));
    assert_eq!(of(TypeFilter::Except(set(&[]))).await, BTreeSet::from([ids["image"], ids["video"]]));
}

pub async fn a_task_waits_for_all_of_its_dependencies(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    for number in [0, 1, 3] {
        let mut first = Vec::new();
        for _ in 0..number {
            first.push(store.submit(new("first")).await.unwrap().id);
        }
        let then = store.submit(waiting("then", &first)).await.unwrap();
        assert_eq!(then.depends_on, first);
        assert_eq!(then.status, Status::Queued);
        for _ in 0..number {
            let only = TypeFilter::Only(BTreeSet::from(["then".to_owned()]));
            let early = store.claim(ClaimRequest { types: only, ..ask(holder::this_process(), 9) }).await.unwrap();
            assert!(early.is_empty(), "granted with incomplete dependencies");
            let step = claim_type(&store, "first").await;
            store.complete(step.task.id, step.token, text("done")).await.unwrap();
        }
        let claim = claim_type(&store, "then").await;
        assert_eq!(claim.task.id, then.id);
        store.complete(then.id, claim.token, text("done")).await.unwrap();
    }
    // Complete before the dependent came: ready at once.
    let before = running(&store, "before").await;
    store.complete(before.task.id, before.token, text("done")).await.unwrap();
    store.submit(waiting("after", &[before.task.id])).await.unwrap();
    claim_type(&store, "after").await;
}

pub async fn an_unknown_dependency_is_refused(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let known = store.submit(new("known")).await.unwrap().id;
    let refused = store.submit(waiting("then", &[known, TaskId::random()])).await;
    assert_eq!(code(refused.unwrap_err()), "unknown_dependency");
    assert_eq!(store.list(Default::default()).await.unwrap().len(), 1, "nothing is half done");
}

pub async fn a_change_outside_the_status_table_changes_nothing(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    for from in Status::ALL {
        for to in Status::ALL {
            let (task, token) = standing(&store, from).await;
            let before = fingerprint(&store.get(task).await.unwrap());
            let refused = match to {
                Status::Queued => store.release(task, token).await.err(),
                Status::InProgress => {
                    claim(&store, 100).await;
                    None
                }
                Status::Complete => store.complete(task, token, text("another output")).await.err(),
                Status::Failed => store.fail(task, token, broken(), 3).await.err(),
                Status::Cancelled => {
                    let cancelled = store.cancel(task, "enough".into()).await.unwrap();
                    assert_eq!(cancelled, from.may_become(to), "{from} -> {to}");
                    None
                }
            };
            // The claim is the only thing that the holder of a mere token cannot refuse to a queued task.
            let by_token = matches!(to, Status::Queued | Status::Complete | Status::Failed);
            let allowed = from.may_become(to) && !(by_token && from == Status::Queued);
            let after = store.get(task).await.unwrap();
            if allowed {
                assert!(refused.is_none(), "{from} -> {to}: {refused:?}");
                assert_eq!(after.status, to, "{from} -> {to}");
            } else {
                assert_eq!(fingerprint(&after), before, "{from} -> {to}");
                if by_token {
                    assert!(matches!(refused, Some(StoreError::LostClaim { .. })), "{from} -> {to}: {refused:?}");
                }
            }
            let _ = store.cancel(task, "out of the way".into()).await;
        }
    }
}

/// A task of that status and the token of its last claim.
async fn standing(store: &SharedStore, status: Status) -> (TaskId, ClaimToken) {
    let claim = running(store, "standing").await;
    let (task, token) = (claim.task.id, claim.token);
    match status {
        Status::Queued => store.release(task, token).await.unwrap(),
        Status::InProgress => {}
        Status::Complete => store.complete(task, token, text("done")).await.unwrap(),
        Status::Failed => {
            store.fail(task, token, broken(), 3).await.unwrap();
        }
        Status::Cancelled => {
            store.cancel(task, "enough".into()).await.unwrap();
        }
    }
    (task, token)
}

pub async fn a_lost_claim_can_change_nothing(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let old = running(&store, "work").await;
    let task = old.task.id;
    clock.advance(LEASE);
    let present = claim_one(&store).await;
    assert_eq!(present.task.id, task);
    assert_ne!(present.token, old.token);
    let before = fingerprint(&store.get(task).await.unwrap());
    for token in [old.token, made_up()] {
        let progress = Progress { fraction: None, message: "still at it".into(), at: Timestamp(0) };
        assert_lost(store.complete(task, token, text("late")).await);
        assert_lost(store.fail(task, token, broken(), 3).await);
        assert_lost(store.fail(task, token, broken().retryable(), 3).await);
        assert_lost(store.release(task, token).await);
        assert_lost(store.delegate(task, token, delegation(None)).await);
        assert_lost(store.set_progress(task, token, progress).await);
        assert_lost(store.set_route(task, token, route()).await);
        assert_lost(store.create_children(task, token, vec![child("a")], LIMITS).await);
        assert_lost(store.remove_child(task, token, TaskId::random()).await);
        assert_lost(store.journal_write(task, token, call(1, 1, CallState::Done)).await);
    }
    assert_eq!(fingerprint(&store.get(task).await.unwrap()), before);
    assert_eq!(store.list(Default::default()).await.unwrap().len(), 1);
    assert!(store.journal(task, 1).await.unwrap().is_empty());
    store.complete(task, present.token, text("in time")).await.unwrap();

    let nobody = store.complete(TaskId::random(), made_up(), text("?")).await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))), "{nobody:?}");
}

fn route() -> Route {
    Route {
        task_type: "work".into(),
        handler: Handler::Wan2gp { name: None },
        reason: "nothing else serves it".into(),
        if_retired: None,
    }
}

pub async fn the_route_and_the_progress_of_an_attempt_are_kept(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let first = running(&store, "work").await;
    let progress = Progress { fraction: Some(0.5), message: "half way".into(), at: clock.now() };
    store.set_route(first.task.id, first.token, route()).await.unwrap();
    store.set_progress(first.task.id, first.token, progress.clone()).await.unwrap();
    let task = store.get(first.task.id).await.unwrap();
    assert_eq!((task.route, task.progress), (Some(route()), Some(progress)));

    store.release(first.task.id, first.token).await.unwrap();
    let resumed = claim_one(&store).await;
    assert_eq!(resumed.task.route, Some(route()), "the same attempt keeps its route");

    store.fail(resumed.task.id, resumed.token, broken().retryable(), 3).await.unwrap();
    let anew = claim_one(&store).await;
    assert_eq!((anew.task.route, anew.task.progress), (None, None), "a new attempt chooses anew");
}

pub async fn a_released_task_goes_on_in_the_same_attempt(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let first = running(&store, "work").await;
    assert_eq!((first.task.attempts, first.resumed), (1, false));
    assert_eq!(first.task.holder, Some(holder::this_process()));
    store.release(first.task.id, first.token).await.unwrap();
    let waiting = store.get(first.task.id).await.unwrap();
    assert_eq!((waiting.status, waiting.holder, waiting.lease_until), (Status::Queued, None, None));
    let again = claim_one(&store).await;
    assert_eq!((again.task.id, again.task.attempts, again.resumed), (first.task.id, 1, true));
    assert_eq!(again.task.deaths, 0);
}

pub async fn a_retryable_failure_is_tried_again_up_to_the_cap(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let task = store.submit(new("work")).await.unwrap().id;
    for attempt in 1..=3 {
        let claim = claim_one(&store).await;
        assert_eq!((claim.task.attempts, claim.resumed), (attempt, false));
        let after = store.fail(task, claim.token, broken().retryable(), 3).await.unwrap();
        let expected =
            if attempt < 3 { AfterFailure::Requeued { next_attempt: attempt + 1 } } else { AfterFailure::Failed };
        assert_eq!(after, expected);
        assert_eq!(store.get(task).await.unwrap().error, Some(broken().retryable()), "the last error is shown");
    }
    assert_eq!(status(&store, task).await, Status::Failed);

    let hopeless = running(&store, "work").await;
    assert_eq!(store.fail(hopeless.task.id, hopeless.token, broken(), 3).await.unwrap(), AfterFailure::Failed);
}
