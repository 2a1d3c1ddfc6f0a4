//! What is written down: the journal, submissions, changes, and the whole of it after a restart.

use enginehouse::store::TaskFilter;
use enginehouse::task::Status;
use tokio::time::timeout;

use super::*;

pub async fn the_journal_keeps_order_and_brings_intents_to_done(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let claim = running(&store, "work").await;
    let task = claim.task.id;
    let write = async |entry| store.journal_write(task, claim.token, entry).await;
    write(call(1, 1, CallState::Done)).await.unwrap();
    write(call(1, 3, CallState::Intent)).await.unwrap();
    write(call(1, 2, CallState::Done)).await.unwrap();
    let three = [call(1, 1, CallState::Done), call(1, 2, CallState::Done), call(1, 3, CallState::Intent)];
    assert_eq!(store.journal(task, 1).await.unwrap(), three);

    write(call(1, 3, CallState::Done)).await.unwrap();
    let done = [call(1, 1, CallState::Done), call(1, 2, CallState::Done), call(1, 3, CallState::Done)];
    assert_eq!(store.journal(task, 1).await.unwrap(), done);
    // Once more, as after a lost answer; and an intent does not undo what is done.
    write(call(1, 3, CallState::Done)).await.unwrap();
    write(call(1, 3, CallState::Intent)).await.unwrap();
    assert_eq!(store.journal(task, 1).await.unwrap(), done);

    // A new attempt has a journal of its own; the old one is kept.
    store.fail(task, claim.token, broken().retryable(), 3).await.unwrap();
    let second = claim_one(&store).await;
    assert!(store.journal(task, 2).await.unwrap().is_empty());
    store.journal_write(task, second.token, call(2, 1, CallState::Done)).await.unwrap();
    assert_eq!(store.journal(task, 1).await.unwrap(), done);
    let stale = store.journal_write(task, second.token, call(1, 4, CallState::Done)).await;
    assert_eq!(code(stale.unwrap_err()), "other_attempt");
}

pub async fn a_journal_number_belongs_to_one_call(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let claim = running(&store, "work").await;
    let task = claim.task.id;
    let write = async |entry| store.journal_write(task, claim.token, entry).await;
    for state in [CallState::Intent, CallState::Done] {
        write(call(1, 1, state)).await.unwrap();
        let other = JournalEntry { arguments_digest: Digest::of(b"other"), ..call(1, 1, CallState::Done) };
        assert_eq!(code(write(other).await.unwrap_err()), "effect_key_reused");
        let other = JournalEntry { function: "http.send".into(), ..call(1, 1, CallState::Done) };
        assert_eq!(code(write(other).await.unwrap_err()), "effect_key_reused");
    }
    let other = JournalEntry { result: Some(json!({ "ok": "another" })), ..call(1, 1, CallState::Done) };
    assert_eq!(code(write(other).await.unwrap_err()), "call_already_done");
    assert_eq!(store.journal(task, 1).await.unwrap(), [call(1, 1, CallState::Done)]);
}

pub async fn the_same_idempotency_key_is_the_same_task(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let order = |task_type: &str, params: Value| NewTask {
        idempotency_key: Some("order 7".into()),
        params: object(params),
        ..new(task_type)
    };
    let mut submissions = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        let order = order("work", json!({ "a": 1, "b": [2] }));
        submissions.spawn(async move { store.submit(order).await.unwrap().id });
    }
    let ids: BTreeSet<_> = submissions.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1);
    // The order of the members of an object means nothing.
    assert!(ids.contains(&store.submit(order("work", json!({ "b": [2], "a": 1 }))).await.unwrap().id));
    for other in [order("work", json!({ "a": 2 })), order("play", json!({ "a": 1, "b": [2] }))] {
        assert_eq!(code(store.submit(other).await.unwrap_err()), "idempotency_mismatch");
    }
    // Also when it has ended long since.
    let claim = claim_one(&store).await;
    store.complete(claim.task.id, claim.token, text("done")).await.unwrap();
    let again = store.submit(order("work", json!({ "a": 1, "b": [2] }))).await.unwrap();
    assert_eq!(again.status, Status::Complete);
    assert_eq!(store.list(TaskFilter::default()).await.unwrap().len(), 1);

    let chosen = NewTask { id: Some(TaskId::random()), ..new("work") };
    assert_eq!(Some(store.submit(chosen.clone()).await.unwrap().id), chosen.id);
    assert_eq!(code(store.submit(chosen).await.unwrap_err()), "duplicate_id");
}

pub async fn a_refusal_undoes_only_itself(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, _) = family(&store, Vec::new()).await;
    let (task, token) = (parent.task.id, parent.token);
    // All at once, so that good and bad ones meet in the same transaction. The bad ones are refused at their second
    // child, when the first is written already.
    let mut work = tokio::task::JoinSet::new();
    for number in 0..60 {
        let store = store.clone();
        work.spawn(async move {
            let mut second = child(&format!("second {number}"));
            if number % 2 == 1 {
                second.depends_on.push(ChildDependency::Task(TaskId::random()));
            }
            let batch = vec![child(&format!("first {number}")), second];
            let created = store.create_children(task, token, batch, ChildLimits { children: 1000, ..LIMITS }).await;
            assert_eq!(created.is_ok(), number % 2 == 0, "{number}: {created:?}");
            created.unwrap_or_default()
        });
    }
    let mut acknowledged: Vec<_> = work.join_all().await.into_iter().flatten().collect();
    let children = store.list(TaskFilter { children_of: Some(task), ..TaskFilter::default() }).await.unwrap();
    let mut present: Vec<_> = children.into_iter().map(|child| child.id).collect();
    acknowledged.sort();
    present.sort();
    assert_eq!(present, acknowledged);
}

/// Waits for work the way a claimer does; gives the task that was granted.
async fn wait_for_work(store: SharedStore) -> TaskId {
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        if let Some(claim) = claim(&store, 1).await.pop() {
            return claim.task.id;
        }
        changes.changed().await.unwrap();
    }
}

pub async fn a_change_wakes_whoever_waits(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    for _ in 0..20 {
        let waiter = tokio::spawn(wait_for_work(store.clone()));
        tokio::task::yield_now().await;
        let task = store.submit(new("work")).await.unwrap().id;
        assert_eq!(timeout(CEILING, waiter).await.expect("nobody woke").unwrap(), task);
    }
}

pub async fn a_change_made_elsewhere_wakes_whoever_waits(make: impl Make) {
    let fresh = make(DEATHS).await;
    let other = (fresh.another)().await;
    for _ in 0..5 {
        let mut changes = fresh.store.changes();
        changes.mark_unchanged();
        let waiter = tokio::spawn(wait_for_work(fresh.store.clone()));
        let task = other.submit(new("work")).await.unwrap().id;
        timeout(CEILING, changes.changed()).await.expect("the change was not noticed").unwrap();
        assert_eq!(timeout(CEILING, waiter).await.expect("nobody woke").unwrap(), task);
    }
}

pub async fn a_claim_that_grants_nothing_wakes_nobody(make: impl Make) {
    let fresh = make(DEATHS).await;
    let other = (fresh.another)().await;
    let held = running(&fresh.store, "work").await;
    // Two waiters that woke each other with fruitless claims would go on for ever. What wakes them here can only be
    // the echo of what was written before; it dies away.
    let mut changes = fresh.store.changes();
    let mut quiet = 0;
    let deadline = tokio::time::Instant::now() + CEILING;
    while quiet < 3 {
        assert!(tokio::time::Instant::now() < deadline, "fruitless claims are taken for changes");
        changes.mark_unchanged();
        assert!(claim(&fresh.store, 9).await.is_empty());
        assert!(claim(&other, 9).await.is_empty());
        let woken = timeout(Duration::from_millis(250), changes.changed()).await.is_ok();
        quiet = if woken { 0 } else { quiet + 1 };
    }
    fresh.store.complete(held.task.id, held.token, text("done")).await.unwrap();
    timeout(CEILING, changes.changed()).await.expect("a real change is noticed").unwrap();
}

pub async fn lists_and_counts_say_what_is_there(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let mut submitted = Vec::new();
    for (task_type, project) in [("image", "p"), ("video", "p"), ("video", "q")] {
        let task = NewTask { project_id: Some(project.into()), ..new(task_type) };
        submitted.push(store.submit(task).await.unwrap().id);
        clock.advance(Duration::from_secs(1));
    }
    let list = async |filter: TaskFilter| {
        store.list(filter).await.unwrap().into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let any = TaskFilter::default;
    let [a, b, c] = submitted[..] else { panic!("three were submitted") };
    assert_eq!(list(any()).await, [c, b, a], "newest first");
    assert_eq!(list(TaskFilter { limit: 2, ..any() }).await, [c, b]);
    assert_eq!(list(TaskFilter { task_type: Some("video".into()), ..any() }).await, [c, b]);
    assert_eq!(list(TaskFilter { project_id: Some("p".into()), ..any() }).await, [b, a]);
    let both = TaskFilter { task_type: Some("video".into()), project_id: Some("p".into()), ..any() };
    assert_eq!(list(both).await, [b]);

    let first = claim_one(&store).await;
    store.complete(a, first.token, text("done")).await.unwrap();
    let second = claim_one(&store).await;
    store.fail(b, second.token, broken(), 1).await.unwrap();
    store.cancel(c, "enough".into()).await.unwrap();
    running(&store, "runs").await;
    let ready = store.submit(new("ready")).await.unwrap().id;
    let blocked = store.submit(waiting("blocked", &[ready])).await.unwrap().id;
    assert_eq!(list(TaskFilter { status: Some(Status::Failed), ..any() }).await, [b]);
    assert_eq!(list(TaskFilter { status: Some(Status::Queued), ..any() }).await.len(), 2);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.queued, counts.ready, counts.in_progress), (2, 1, 1));
    assert_eq!((counts.complete, counts.failed, counts.cancelled), (1, 1, 1));
    assert!(list(TaskFilter { children_of: Some(blocked), ..any() }).await.is_empty());
}

pub async fn statuses_come_in_the_order_asked_for(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, children) = family(&store, vec![child("a"), child("b")]).await;
    let [a, b] = children.as_slice() else { panic!("{children:?}") };
    assert!(store.cancel(*b, "not wanted".into()).await.unwrap());
    let nobody = TaskId::random();
    let asked = [*b, nobody, parent.task.id, *b, *a, nobody];
    let expected =
        [Some(Status::Cancelled), None, Some(Status::InProgress), Some(Status::Cancelled), Some(Status::Queued), None];
    assert_eq!(store.statuses(&asked).await.unwrap(), expected);
    assert_eq!(store.statuses(&[]).await.unwrap(), []);
    // Many more than a statement has parameters.
    let many = vec![*a; 50_000];
    assert_eq!(store.statuses(&many).await.unwrap(), vec![Some(Status::Queued); 50_000]);
}

pub async fn everything_is_still_there_after_reopening(make: impl Make) {
    let fresh = make(DEATHS).await;
    let store = &fresh.store;
    let (parent, ids) = family(store, vec![child("a"), child_after("b", &[0])]).await;
    store.delegate(parent.task.id, parent.token, delegation(Some("b"))).await.unwrap();
    let runs = claim_one(store).await;
    store.journal_write(ids[0], runs.token, call(1, 1, CallState::Done)).await.unwrap();
    let bad = running(store, "bad").await;
    store.fail(bad.task.id, bad.token, broken().with_detail("the log"), 1).await.unwrap();
    let good = running(store, "good").await;
    store.complete(good.task.id, good.token, file("a.mp4", json!({ "frames": 5 }))).await.unwrap();
    let snapshot = async |store: &SharedStore| {
        let tasks = store.list(TaskFilter::default()).await.unwrap();
        let journal = store.journal(ids[0], 1).await.unwrap();
        (serde_json::to_value(tasks).unwrap(), journal, store.counts().await.unwrap())
    };
    let before = snapshot(store).await;
    let Fresh { store, another, keep: _keep, .. } = fresh;
    drop(store);

    let reopened = another().await;
    assert_eq!(snapshot(&reopened).await, before);
    // The claims hold, too.
    reopened.complete(ids[0], runs.token, text("done")).await.unwrap();
    let last = claim_one(&reopened).await;
    reopened.complete(ids[1], last.token, text("the end")).await.unwrap();
    assert_eq!(reopened.get(parent.task.id).await.unwrap().output, Some(text("the end")));
}
