//! A second chance, and for whom.

use super::*;

async fn fail_child(store: &SharedStore, task: TaskId) {
    let claims = claim(store, 99).await;
    for claim in claims {
        if claim.task.id == task {
            store.fail(task, claim.token, broken(), 1).await.unwrap();
        } else {
            // It may have fallen with the other by now.
            let _ = store.release(claim.task.id, claim.token).await;
        }
    }
    assert_eq!(status(store, task).await, Status::Failed);
}

/// Completes whatever becomes ready until nothing does; in which order.
async fn drain(store: &SharedStore) -> Vec<TaskId> {
    let mut done = Vec::new();
    loop {
        let claims = claim(store, 99).await;
        if claims.is_empty() {
            return done;
        }
        for claim in claims {
            store.complete(claim.task.id, claim.token, text("done")).await.unwrap();
            done.push(claim.task.id);
        }
    }
}

pub async fn only_what_ended_badly_can_be_retried(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let claim = running(&store, "work").await;
    let task = claim.task.id;
    assert_eq!(code(store.retry(task).await.unwrap_err()), "not_retryable");
    store.release(task, claim.token).await.unwrap();
    assert_eq!(code(store.retry(task).await.unwrap_err()), "not_retryable");

    store.cancel(task, "enough".into()).await.unwrap();
    let open = store.retry(task).await.unwrap();
    assert_eq!((open.status, open.error, open.finished_at), (Status::Queued, None, None));
    let again = claim_one(&store).await;
    assert_eq!((again.task.attempts, again.resumed), (2, false));
    store.complete(task, again.token, text("done")).await.unwrap();
    assert_eq!(code(store.retry(task).await.unwrap_err()), "not_retryable");
    assert!(matches!(store.retry(TaskId::random()).await, Err(StoreError::NotFound(_))));
}

pub async fn retrying_a_delegated_parent_keeps_what_is_complete(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let batch = vec![child("a"), child_after("b", &[0]), child_after("c", &[1])];
    let (parent, ids) = family(&store, batch).await;
    store.delegate(parent.task.id, parent.token, delegation(Some("c"))).await.unwrap();
    let first = claim_one(&store).await;
    store.complete(ids[0], first.token, text("done")).await.unwrap();
    fail_child(&store, ids[1]).await;
    assert_eq!(status(&store, parent.task.id).await, Status::Failed);

    let open = store.retry(parent.task.id).await.unwrap();
    assert_eq!((open.status, open.error), (Status::InProgress, None));
    assert_eq!(open.delegated, Some(delegation(Some("c"))), "its children finish it, it does not run again");
    assert_eq!(drain(&store).await, [ids[1], ids[2]]);
    assert_eq!(status(&store, parent.task.id).await, Status::Complete);
    assert_eq!(store.get(ids[1]).await.unwrap().attempts, 2);
}

pub async fn retrying_a_child_reopens_its_delegated_parent(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = delegated_family(&store, vec![child("a"), child("b"), child_after("c", &[0, 1])]).await;
    let next = store.submit(waiting("next", &[parent.task.id])).await.unwrap().id;
    fail_child(&store, ids[0]).await;
    assert_eq!(status(&store, next).await, Status::Failed);

    assert_eq!(store.retry(ids[0]).await.unwrap().status, Status::Queued);
    assert_eq!(status(&store, parent.task.id).await, Status::InProgress);
    for task in [ids[1], ids[2], next] {
        assert_eq!(status(&store, task).await, Status::Queued, "it fell only because another did");
    }
    let done = drain(&store).await;
    assert_eq!(done[2..], [ids[2], next]);
    assert_eq!(status(&store, parent.task.id).await, Status::Complete);
}

pub async fn retrying_a_working_parent_brings_its_children_back(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let batch = || vec![child("a"), child("b")];
    let (parent, ids) = family(&store, batch()).await;
    let first = claim_type(&store, "child").await;
    store.complete(ids[0], first.token, text("done")).await.unwrap();
    fail_child(&store, ids[1]).await;
    store.fail(parent.task.id, parent.token, broken(), 1).await.unwrap();

    assert_eq!(store.retry(parent.task.id).await.unwrap().status, Status::Queued);
    let again = claim_type(&store, "parent").await;
    assert_eq!((again.task.attempts, again.resumed), (2, false));
    // A handler that creates its children by key finds the finished one finished and the other one open.
    assert_eq!(store.create_children(parent.task.id, again.token, batch(), LIMITS).await.unwrap(), ids);
    assert_eq!(status(&store, ids[0]).await, Status::Complete);
    assert_eq!(status(&store, ids[1]).await, Status::Queued);
}

pub async fn a_child_of_a_parent_that_failed_by_itself_is_not_retried_alone(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, ids) = family(&store, vec![child("a")]).await;
    store.fail(parent.task.id, parent.token, broken(), 1).await.unwrap();
    let refused = store.retry(ids[0]).await.unwrap_err();
    assert!(refused.to_string().contains(&parent.task.id.to_string()), "which one to retry: {refused}");
    assert_eq!(code(refused), "parent_ended");
    assert_eq!(status(&store, ids[0]).await, Status::Failed);
}

pub async fn a_task_behind_a_failed_one_is_not_retried_alone(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let first = running(&store, "first").await;
    let then = store.submit(waiting("then", &[first.task.id])).await.unwrap().id;
    store.fail(first.task.id, first.token, broken(), 1).await.unwrap();
    let refused = store.retry(then).await.unwrap_err();
    assert!(refused.to_string().contains(&first.task.id.to_string()), "which one to retry: {refused}");
    assert_eq!(code(refused), "dependency_failed");
    assert_eq!(status(&store, then).await, Status::Failed, "nothing is half done");
}

pub async fn what_waited_for_a_retried_task_waits_again(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let one = running(&store, "one").await;
    let two = running(&store, "two").await;
    let both = store.submit(waiting("both", &[one.task.id, two.task.id])).await.unwrap().id;
    let last = store.submit(waiting("last", &[both])).await.unwrap().id;
    store.fail(one.task.id, one.token, broken(), 1).await.unwrap();
    store.fail(two.task.id, two.token, broken(), 1).await.unwrap();

    store.retry(one.task.id).await.unwrap();
    assert_eq!(status(&store, both).await, Status::Failed, "the other one it waits for is still failed");
    store.retry(two.task.id).await.unwrap();
    assert_eq!(status(&store, both).await, Status::Queued);
    let done = drain(&store).await;
    assert_eq!(done[2..], [both, last]);
}
