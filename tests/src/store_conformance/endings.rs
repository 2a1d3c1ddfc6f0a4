//! How tasks end, and whom their end concerns.

use std::sync::Arc;

use enginehouse::store::AfterFailure;
use tokio::sync::Barrier;

use super::*;

/// Claims the task out of whatever is ready; the rest goes back.
async fn claim_this(store: &SharedStore, task: TaskId) -> Claim {
    let mut mine = None;
    for claim in claim(store, 99).await {
        if claim.task.id == task {
            mine = Some(claim);
        } else {
            store.release(claim.task.id, claim.token).await.unwrap();
        }
    }
    mine.unwrap_or_else(|| panic!("{task} was not granted"))
}

async fn complete_this(store: &SharedStore, task: TaskId, output: Output) {
    let claim = claim_this(store, task).await;
    store.complete(task, claim.token, output).await.unwrap();
}

async fn fail_this(store: &SharedStore, task: TaskId) {
    let claim = claim_this(store, task).await;
    assert_eq!(store.fail(task, claim.token, broken(), 1).await.unwrap(), AfterFailure::Failed);
}

pub async fn a_failure_takes_children_and_dependents_along(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = family(&store, vec![child("done"), child("runs"), child("waits")]).await;
    complete_this(&store, ids[0], text("done")).await;
    let runs = claim_this(&store, ids[1]).await;
    let below = store.create_children(ids[1], runs.token, vec![child("below")], LIMITS).await.unwrap()[0];
    let next = store.submit(waiting("next", &[parent.task.id])).await.unwrap().id;
    let after_next = store.submit(waiting("after next", &[next])).await.unwrap().id;
    let stranger = store.submit(new("stranger")).await.unwrap().id;

    store.fail(parent.task.id, parent.token, broken(), 3).await.unwrap();
    assert_eq!(end(&store, parent.task.id).await, (Status::Failed, FailureClass::Engine, "engine_broke".into()));
    assert_eq!(status(&store, ids[0]).await, Status::Complete);
    for task in [ids[1], ids[2], below] {
        assert_eq!(end(&store, task).await, failed("parent_failed"));
    }
    for task in [next, after_next] {
        assert_eq!(end(&store, task).await, failed("dependency_failed"));
    }
    let message = store.get(after_next).await.unwrap().error.unwrap().message;
    for part in [next.to_string(), parent.task.id.to_string(), "the engine broke".into()] {
        assert!(message.contains(&part), "`{message}` does not say `{part}`");
    }
    assert_eq!(status(&store, stranger).await, Status::Queued);
    assert_lost(store.complete(ids[1], runs.token, text("late")).await);
}

pub async fn a_failed_child_fails_its_delegated_parent_and_siblings(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let batch = vec![child("done"), child("bad"), child("waits"), child_after("last", &[1])];
    let (parent, ids) = delegated_family(&store, batch).await;
    let next = store.submit(waiting("next", &[parent.task.id])).await.unwrap().id;
    complete_this(&store, ids[0], text("done")).await;
    fail_this(&store, ids[1]).await;

    assert_eq!(end(&store, parent.task.id).await, failed("child_failed"));
    let message = store.get(parent.task.id).await.unwrap().error.unwrap().message;
    for part in [ids[1].to_string(), "child".into(), "the engine broke".into()] {
        assert!(message.contains(&part), "`{message}` does not say `{part}`");
    }
    assert_eq!(status(&store, ids[0]).await, Status::Complete);
    assert_eq!(end(&store, ids[2]).await, failed("parent_failed"));
    assert_eq!(end(&store, ids[3]).await, failed("dependency_failed"));
    assert_eq!(end(&store, next).await, failed("dependency_failed"));
}

pub async fn a_parent_that_works_itself_survives_a_failed_child(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = family(&store, vec![child("bad"), child("other"), child_after("last", &[0])]).await;
    fail_this(&store, ids[0]).await;
    assert_eq!(status(&store, parent.task.id).await, Status::InProgress);
    assert_eq!(status(&store, ids[1]).await, Status::Queued);
    assert_eq!(end(&store, ids[2]).await, failed("dependency_failed"));
    complete_this(&store, ids[1], text("done")).await;
    assert_eq!(status(&store, parent.task.id).await, Status::InProgress, "nobody but its handler completes it");
    store.complete(parent.task.id, parent.token, text("made do")).await.unwrap();
}

pub async fn the_last_child_completes_its_delegated_parent(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let merged = json!({ "planned": 3, "frames": 81 });
    let cases = [
        (None, file("a.mp4", json!({})), Output::Facts { facts: object(json!({ "planned": 3 })) }),
        (Some("b"), file("b.mp4", json!({ "frames": 81, "planned": 1 })), file("b.mp4", merged.clone())),
        (Some("b"), text("a poem"), text("a poem")),
        (
            Some("b"),
            Output::Facts { facts: object(json!({ "frames": 81 })) },
            Output::Facts { facts: object(merged.clone()) },
        ),
    ];
    for (output_from, child_output, expected) in cases {
        let (parent, ids) = family(&store, vec![child("a"), child("b")]).await;
        store.delegate(parent.task.id, parent.token, delegation(output_from)).await.unwrap();
        // Once more, as after a lost answer.
        store.delegate(parent.task.id, parent.token, delegation(output_from)).await.unwrap();
        let task = store.get(parent.task.id).await.unwrap();
        assert_eq!((task.status, task.holder), (Status::InProgress, None), "it waits and is held by nobody");
        let next = store.submit(waiting("next", &[parent.task.id])).await.unwrap().id;

        complete_this(&store, ids[1], child_output).await;
        assert_eq!(status(&store, parent.task.id).await, Status::InProgress);
        // A waiting parent is never granted, however long it takes.
        clock.advance(LEASE * 10);
        let claims = claim(&store, 99).await;
        assert_eq!(claims.iter().map(|claim| claim.task.id).collect::<Vec<_>>(), [ids[0]]);
        store.complete(ids[0], claims[0].token, text("done")).await.unwrap();

        let task = store.get(parent.task.id).await.unwrap();
        assert_eq!((task.status, task.output), (Status::Complete, Some(expected)));
        assert_eq!(task.finished_at, Some(clock.now()));
        complete_this(&store, next, text("done")).await;
    }
}

pub async fn parents_complete_all_the_way_up(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let mut line = vec![running(&store, "top").await];
    for _ in 0..3 {
        let above = line.last().unwrap();
        store.create_children(above.task.id, above.token, vec![child("only")], LIMITS).await.unwrap();
        store.delegate(above.task.id, above.token, delegation(Some("only"))).await.unwrap();
        line.push(claim_one(&store).await);
    }
    let last = line.last().unwrap();
    store.complete(last.task.id, last.token, file("deep.mp4", json!({}))).await.unwrap();
    let top = store.get(line[0].task.id).await.unwrap();
    assert_eq!((top.status, top.output), (Status::Complete, Some(file("deep.mp4", json!({ "planned": 3 })))));

    // And fail all the way up.
    let mut line = vec![running(&store, "top").await];
    for _ in 0..3 {
        let above = line.last().unwrap();
        store.create_children(above.task.id, above.token, vec![child("only")], LIMITS).await.unwrap();
        store.delegate(above.task.id, above.token, delegation(Some("only"))).await.unwrap();
        line.push(claim_one(&store).await);
    }
    let last = line.last().unwrap();
    store.fail(last.task.id, last.token, broken(), 1).await.unwrap();
    assert_eq!(end(&store, line[0].task.id).await, failed("child_failed"));
    let message = store.get(line[0].task.id).await.unwrap().error.unwrap().message;
    assert!(message.contains("the engine broke"), "the root of it is lost: {message}");
}

pub async fn delegating_to_children_that_have_ended_settles_at_once(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = family(&store, vec![child("a")]).await;
    complete_this(&store, ids[0], text("done")).await;
    store.delegate(parent.task.id, parent.token, delegation(Some("a"))).await.unwrap();
    assert_eq!(store.get(parent.task.id).await.unwrap().output, Some(text("done")));

    let (parent, ids) = family(&store, vec![child("bad"), child("open")]).await;
    fail_this(&store, ids[0]).await;
    store.delegate(parent.task.id, parent.token, delegation(None)).await.unwrap();
    assert_eq!(end(&store, parent.task.id).await, failed("child_failed"));
    assert_eq!(end(&store, ids[1]).await, failed("parent_failed"));

    let (parent, _) = family(&store, Vec::new()).await;
    store.delegate(parent.task.id, parent.token, delegation(None)).await.unwrap();
    let task = store.get(parent.task.id).await.unwrap();
    assert_eq!(task.status, Status::Complete);
    assert_eq!(task.output, Some(Output::Facts { facts: object(json!({ "planned": 3 })) }));
}

pub async fn the_output_may_only_come_from_a_child_that_exists(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, _) = family(&store, vec![child("a")]).await;
    let refused = store.delegate(parent.task.id, parent.token, delegation(Some("b"))).await.unwrap_err();
    assert!(refused.to_string().contains("`b`"), "{refused}");
    assert_eq!(code(refused), "unknown_child");
    // Nothing is half done: the handler still holds its task.
    store.complete(parent.task.id, parent.token, text("done")).await.unwrap();
}

pub async fn two_last_children_at_the_same_moment_complete_the_parent_once(make: impl Make) {
    let fresh = make(DEATHS).await;
    let other = (fresh.another)().await;
    for _ in 0..50 {
        let (parent, _) = delegated_family(&fresh.store, vec![child("a"), child("b")]).await;
        let start = Arc::new(Barrier::new(2));
        let mut pair = tokio::task::JoinSet::new();
        for (claim, store) in claim(&fresh.store, 2).await.into_iter().zip([fresh.store.clone(), other.clone()]) {
            let start = start.clone();
            pair.spawn(async move {
                start.wait().await;
                store.complete(claim.task.id, claim.token, text("done")).await.unwrap();
            });
        }
        assert_eq!(pair.len(), 2);
        pair.join_all().await;
        assert_eq!(status(&fresh.store, parent.task.id).await, Status::Complete);
    }
}

pub async fn completing_twice_is_completing_once(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let claim = running(&store, "work").await;
    let task = claim.task.id;
    store.complete(task, claim.token, file("a.mp4", json!({ "frames": 5 }))).await.unwrap();
    let before = fingerprint(&store.get(task).await.unwrap());
    clock.advance(LEASE);
    store.complete(task, claim.token, file("a.mp4", json!({ "frames": 5 }))).await.unwrap();
    assert_lost(store.complete(task, claim.token, file("b.mp4", json!({}))).await);
    assert_lost(store.fail(task, claim.token, broken(), 1).await);
    assert_lost(store.complete(task, made_up(), file("a.mp4", json!({ "frames": 5 }))).await);
    assert_eq!(fingerprint(&store.get(task).await.unwrap()), before);
}

pub async fn a_task_can_be_cancelled_at_every_stage(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let first = store.submit(new("first")).await.unwrap().id;
    let blocked = store.submit(waiting("blocked", &[first])).await.unwrap().id;
    let running = running(&store, "work").await;
    let (delegated, ids) = delegated_family(&store, vec![child("a")]).await;
    for task in [blocked, first, running.task.id, delegated.task.id] {
        assert!(store.cancel(task, "changed my mind".into()).await.unwrap());
        assert_eq!(end(&store, task).await, (Status::Cancelled, FailureClass::Cancelled, "cancelled".into()));
        assert_eq!(store.get(task).await.unwrap().error.unwrap().message, "changed my mind");
        assert!(!store.cancel(task, "again".into()).await.unwrap(), "it had ended");
    }
    assert_eq!(status(&store, ids[0]).await, Status::Cancelled);
    assert_lost(store.complete(running.task.id, running.token, text("late")).await);
    assert_lost(store.fail(running.task.id, running.token, broken(), 3).await);
    assert!(claim(&store, 99).await.is_empty());

    let nobody = store.cancel(TaskId::random(), "?".into()).await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))));
}

pub async fn cancelling_a_parent_cancels_everything_below(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = family(&store, vec![child("done"), child("runs"), child_after("waits", &[1])]).await;
    complete_this(&store, ids[0], text("done")).await;
    let runs = claim_this(&store, ids[1]).await;
    let below = store.create_children(ids[1], runs.token, vec![child("below")], LIMITS).await.unwrap()[0];
    store.delegate(ids[1], runs.token, delegation(None)).await.unwrap();
    let next = store.submit(waiting("next", &[parent.task.id])).await.unwrap().id;

    assert!(store.cancel(parent.task.id, "enough".into()).await.unwrap());
    assert_eq!(status(&store, ids[0]).await, Status::Complete);
    for task in [parent.task.id, ids[1], ids[2], below] {
        assert_eq!(end(&store, task).await, (Status::Cancelled, FailureClass::Cancelled, "cancelled".into()));
    }
    assert_eq!(end(&store, next).await, failed("dependency_failed"));
    assert_lost(store.complete(parent.task.id, parent.token, text("late")).await);
}

pub async fn a_cancelled_child_fails_its_delegated_parent(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = delegated_family(&store, vec![child("a"), child("b")]).await;
    assert!(store.cancel(ids[0], "not this one".into()).await.unwrap());
    assert_eq!(end(&store, parent.task.id).await, failed("child_cancelled"));
    assert_eq!(end(&store, ids[1]).await, failed("parent_failed"));

    let (parent, ids) = family(&store, vec![child("a"), child("b")]).await;
    assert!(store.cancel(ids[0], "not this one".into()).await.unwrap());
    assert_eq!(status(&store, parent.task.id).await, Status::InProgress, "it works itself and may do without");
    assert_eq!(status(&store, ids[1]).await, Status::Queued);
}

pub async fn a_task_submitted_behind_a_failed_one_fails_at_once(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let bad = running(&store, "work").await;
    store.fail(bad.task.id, bad.token, broken(), 1).await.unwrap();
    let late = store.submit(waiting("late", &[bad.task.id])).await.unwrap();
    assert_eq!(late.status, Status::Failed);
    assert_eq!(end(&store, late.id).await, failed("dependency_failed"));
}
