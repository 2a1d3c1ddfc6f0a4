//! How children come into being.

use enginehouse::store::{NewTask, TaskFilter};
use enginehouse::task::Status;

use super::*;

async fn children_of(store: &SharedStore, parent: TaskId) -> Vec<Task> {
    store.list(TaskFilter { children_of: Some(parent), ..TaskFilter::default() }).await.unwrap()
}

pub async fn a_batch_is_created_whole_and_in_order(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let root = NewTask { priority: 5, project_id: Some("p".into()), ..new("parent") };
    store.submit(root).await.unwrap();
    let parent = claim_one(&store).await;
    let outside = store.submit(new("outside")).await.unwrap().id;
    let own = NewChild { priority: Some(9), project_id: Some("q".into()), ..child("own") };
    let mut last = child_after("last", &[0, 1]);
    last.depends_on.push(ChildDependency::Task(outside));
    let batch = vec![child("first"), child_after("second", &[0]), last, own];
    let ids = store.create_children(parent.task.id, parent.token, batch, LIMITS).await.unwrap();

    let children = children_of(&store, parent.task.id).await;
    assert_eq!(children.iter().map(|child| child.id).collect::<Vec<_>>(), ids, "oldest first, in the batch's order");
    let keys: Vec<_> = children.iter().map(|child| child.child_key.clone().unwrap()).collect();
    assert_eq!(keys, ["first", "second", "last", "own"]);
    assert_eq!(children[0].depends_on, []);
    assert_eq!(children[1].depends_on, [ids[0]]);
    assert_eq!(children[2].depends_on, [ids[0], ids[1], outside]);
    assert!(children.iter().all(|child| child.depth == 1 && child.parent == Some(parent.task.id)));
    assert_eq!((children[0].priority, children[0].project_id.as_deref()), (5, Some("p")));
    assert_eq!((children[3].priority, children[3].project_id.as_deref()), (9, Some("q")));
    assert_eq!(children[0].params, object(json!({ "key": "first" })));

    let granted: Vec<_> = claim(&store, 9).await.into_iter().map(|claim| claim.task.id).collect();
    assert_eq!(granted, [ids[3], ids[0], outside], "the others wait");

    // Many equally old ones are claimed in the order in which they were listed.
    let many: Vec<_> = (0..20).map(|number| child(&format!("n{number}"))).collect();
    let many = store.create_children(parent.task.id, parent.token, many, LIMITS).await.unwrap();
    let granted: Vec<_> = claim(&store, 99).await.into_iter().map(|claim| claim.task.id).collect();
    assert_eq!(granted, many);
}

pub async fn a_refused_batch_creates_nothing(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let (parent, _) = family(&store, Vec::new()).await;
    let on_task = |task| NewChild { depends_on: vec![ChildDependency::Task(task)], ..child("bad") };
    let bad = [
        (on_task(TaskId::random()), "unknown_dependency"),
        (on_task(parent.task.id), "dependency_cycle"),
        (child_after("bad", &[1]), "dependency_cycle"),
        (child_after("bad", &[2]), "dependency_cycle"),
        (child("good"), "duplicate_key"),
    ];
    for (bad, expected) in bad {
        let batch = vec![child("good"), bad, child("late")];
        let refused = store.create_children(parent.task.id, parent.token, batch, LIMITS).await.unwrap_err();
        assert_eq!(code(refused), expected);
        assert!(children_of(&store, parent.task.id).await.is_empty(), "{expected}: something was created");
    }
    // A refusal is no end: the next batch is welcome.
    store.create_children(parent.task.id, parent.token, vec![child("good")], LIMITS).await.unwrap();
}

pub async fn the_same_batch_again_creates_nothing(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let batch = || vec![child("a"), child_after("b", &[0])];
    let (parent, ids) = family(&store, batch()).await;
    let again = store.create_children(parent.task.id, parent.token, batch(), LIMITS).await.unwrap();
    assert_eq!(again, ids);

    // A later attempt finds them as well, and what is new may wait for what is old.
    let done = claim_type(&store, "child").await;
    store.complete(done.task.id, done.token, text("done")).await.unwrap();
    clock.advance(LEASE);
    let later = claim_type(&store, "parent").await;
    let wider = vec![child("a"), child_after("c", &[0]), child_after("b", &[0])];
    let found = store.create_children(parent.task.id, later.token, wider, LIMITS).await.unwrap();
    assert_eq!((found[0], found[2]), (ids[0], ids[1]));
    assert_eq!(children_of(&store, parent.task.id).await.len(), 3);
    assert_eq!(status(&store, ids[0]).await, Status::Complete, "what exists is left alone");
}

pub async fn limits_on_number_and_depth_hold_over_all_batches(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let limits = ChildLimits { children: 3, depth: 2 };
    let parent = running(&store, "parent").await;
    let create = async |claim: &Claim, keys: &[&str]| {
        let batch = keys.iter().map(|key| child(key)).collect();
        store.create_children(claim.task.id, claim.token, batch, limits).await
    };
    create(&parent, &["a", "b"]).await.unwrap();
    assert_eq!(code(create(&parent, &["c", "d"]).await.unwrap_err()), "too_many_children");
    assert_eq!(children_of(&store, parent.task.id).await.len(), 2);
    create(&parent, &["a", "b", "c"]).await.unwrap();

    let first = claim_one(&store).await;
    create(&first, &["below"]).await.unwrap();
    let below = store.claim(ask(holder::this_process(), 9)).await.unwrap();
    let below = below.into_iter().find(|claim| claim.task.depth == 2).unwrap();
    assert_eq!(code(create(&below, &["too deep"]).await.unwrap_err()), "nested_too_deep");
}

pub async fn a_parent_that_ended_gets_no_children(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let parent = running(&store, "parent").await;
    store.cancel(parent.task.id, "enough".into()).await.unwrap();
    let refused = store.create_children(parent.task.id, parent.token, vec![child("late")], LIMITS).await.unwrap_err();
    assert_eq!(code(refused), "parent_ended");

    let (delegated, _) = delegated_family(&store, vec![child("a")]).await;
    assert_lost(store.create_children(delegated.task.id, delegated.token, vec![child("late")], LIMITS).await);
    assert_eq!(children_of(&store, delegated.task.id).await.len(), 1);
}

pub async fn a_child_that_never_started_can_be_removed(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let batch = vec![child("a"), child("b"), child_after("c", &[1]), child("d")];
    let (parent, ids) = family(&store, batch).await;
    let remove = async |child| store.remove_child(parent.task.id, parent.token, child).await;

    remove(ids[0]).await.unwrap();
    assert!(matches!(store.get(ids[0]).await, Err(StoreError::NotFound(_))));
    assert_eq!(code(remove(ids[1]).await.unwrap_err()), "child_awaited");
    remove(ids[2]).await.unwrap();
    remove(ids[1]).await.unwrap();

    let started = claim_type(&store, "child").await;
    assert_eq!(started.task.id, ids[3]);
    assert_eq!(code(remove(ids[3]).await.unwrap_err()), "child_started");
    store.release(ids[3], started.token).await.unwrap();
    assert_eq!(code(remove(ids[3]).await.unwrap_err()), "child_started");
    let stranger = store.submit(new("stranger")).await.unwrap().id;
    assert_eq!(code(remove(stranger).await.unwrap_err()), "not_a_child");

    // Its key is free again.
    let again = store.create_children(parent.task.id, parent.token, vec![child("a")], LIMITS).await.unwrap();
    assert_ne!(again[0], ids[0]);
}
