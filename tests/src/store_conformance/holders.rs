//! Leases, dead holders, and what a death costs.

use enginehouse::store::{Renewal, SharedStore, holder};
use enginehouse::task::{FailureClass, Status, TaskId};

use super::*;

pub async fn an_expired_lease_resumes_the_same_attempt(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let first = running(&store, "work").await;
    assert_eq!(first.task.lease_until, Some(clock.now().plus(LEASE)));
    clock.advance(LEASE - Duration::from_millis(1));
    assert!(claim(&store, 9).await.is_empty(), "the lease still runs");
    clock.advance(Duration::from_millis(1));
    let second = claim_one(&store).await;
    assert_eq!((second.task.id, second.task.attempts, second.resumed), (first.task.id, 1, true));
    assert_eq!(second.task.started_at, first.task.started_at);
}

pub async fn a_renewed_lease_does_not_expire(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let held = running(&store, "work").await;
    for _ in 0..5 {
        clock.advance(LEASE / 4 * 3);
        let renewed = store.renew(vec![(held.task.id, held.token)], LEASE).await.unwrap();
        assert_eq!(renewed, [Renewal::Held]);
        assert!(claim(&store, 9).await.is_empty());
    }
}

pub async fn a_renewal_tells_what_became_of_the_claim(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let held = running(&store, "work").await;
    let cancelled = running(&store, "work").await;
    store.cancel(cancelled.task.id, "enough".into()).await.unwrap();
    let given_back = running(&store, "work").await;
    store.release(given_back.task.id, given_back.token).await.unwrap();
    let delegated = running(&store, "parent").await;
    store.create_children(delegated.task.id, delegated.token, vec![child("a")], LIMITS).await.unwrap();
    store.delegate(delegated.task.id, delegated.token, delegation(None)).await.unwrap();
    let ask = vec![
        (cancelled.task.id, cancelled.token),
        (held.task.id, held.token),
        (given_back.task.id, given_back.token),
        (held.task.id, made_up()),
        (TaskId::random(), made_up()),
        (delegated.task.id, delegated.token),
    ];
    let answers = store.renew(ask, LEASE).await.unwrap();
    let expected =
        [Renewal::Ended(Status::Cancelled), Renewal::Held, Renewal::Lost, Renewal::Lost, Renewal::Lost, Renewal::Lost];
    assert_eq!(answers, expected);
    assert!(store.renew(Vec::new(), LEASE).await.unwrap().is_empty());
}

/// A task held by a process that has died since.
async fn orphan(store: &SharedStore) -> Claim {
    store.submit(new("work")).await.unwrap();
    let mut claims = claim_as(store, dead_holder(), 1).await;
    assert_eq!(claims.len(), 1);
    claims.remove(0)
}

pub async fn a_dead_process_on_this_machine_loses_its_tasks_at_once(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let orphan = orphan(&store).await;
    let taken = claim_one(&store).await;
    assert_eq!((taken.task.id, taken.task.attempts, taken.resumed), (orphan.task.id, 1, true));
    assert_eq!(taken.task.holder, Some(holder::this_process()));
    assert_lost(store.complete(orphan.task.id, orphan.token, text("late")).await);

    // The same pid with another start time is another process.
    store.submit(new("work")).await.unwrap();
    let me = holder::this_process();
    let before_me = Holder { started: me.started + 1, ..me };
    let orphan = claim_as(&store, before_me, 1).await.remove(0);
    assert_eq!(claim_one(&store).await.task.id, orphan.task.id);
}

pub async fn every_process_of_an_earlier_boot_has_lost_its_tasks(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let task = store.submit(new("work")).await.unwrap().id;
    claim_as(&store, Holder { boot: "an earlier boot".into(), ..holder::this_process() }, 1).await;
    let taken = claim_one(&store).await;
    assert_eq!((taken.task.id, taken.resumed), (task, true));
}

pub async fn a_living_process_and_one_elsewhere_keep_theirs(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(DEATHS).await;
    let me = holder::this_process();
    let mut neighbour = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let alive = holder::process(neighbour.id()).unwrap();
    // Nothing can be known of a pid on another machine, even one that does not exist here.
    let elsewhere = Holder { machine: "elsewhere".into(), ..dead_holder() };
    for holder in [me.clone(), alive, elsewhere] {
        store.submit(new("work")).await.unwrap();
        assert_eq!(claim_as(&store, holder, 1).await.len(), 1);
    }
    assert!(claim(&store, 9).await.is_empty());
    clock.advance(LEASE);
    let claims = claim(&store, 9).await;
    assert_eq!(claims.len(), 3);
    assert!(claims.iter().all(|claim| claim.resumed && claim.task.deaths == 0));
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
}

pub async fn deaths_in_a_row_set_a_task_aside(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let task = orphan(&store).await.task.id;
    let dependent = store.submit(waiting("then", &[task])).await.unwrap().id;
    let second = claim_as(&store, dead_holder(), 9).await.remove(0);
    assert_eq!((second.task.id, second.task.deaths), (task, 1));
    assert!(claim(&store, 9).await.is_empty(), "set aside, not granted");

    let aside = store.get(task).await.unwrap();
    let error = aside.error.unwrap();
    assert_eq!((aside.status, aside.deaths), (Status::Failed, 2));
    assert_eq!((error.class, error.code.as_str()), (FailureClass::Quarantined, "quarantined"));
    let pid = second.task.holder.unwrap().pid.to_string();
    assert!(error.message.contains(&pid), "no evidence: {}", error.message);
    assert_eq!(end(&store, dependent).await, failed("dependency_failed"));
}

pub async fn an_expired_lease_is_no_death(make: impl Make) {
    let Fresh { store, clock, keep: _keep, .. } = make(1).await;
    let task = running(&store, "work").await.task.id;
    for _ in 0..5 {
        clock.advance(LEASE);
        let claim = claim_one(&store).await;
        assert_eq!((claim.task.id, claim.task.attempts, claim.task.deaths), (task, 1, 0));
    }
}

pub async fn a_new_result_makes_deaths_count_from_zero(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(DEATHS).await;
    let task = orphan(&store).await.task.id;
    for seq in 1..=4 {
        // Every second life records nothing but an intent, which is no result.
        let barren = claim_as(&store, dead_holder(), 9).await.remove(0);
        assert_eq!((barren.task.id, barren.task.deaths), (task, 1), "before result {seq}");
        store.journal_write(task, barren.token, call(1, seq, CallState::Intent)).await.unwrap();
        store.journal_write(task, barren.token, call(1, seq, CallState::Done)).await.unwrap();
        assert_eq!(store.get(task).await.unwrap().deaths, 0);
        let fruitful = claim_as(&store, dead_holder(), 9).await.remove(0);
        assert_eq!((fruitful.task.deaths, fruitful.task.attempts), (0, 1), "its holder had recorded a result");
    }
}

pub async fn a_parent_that_waits_is_never_charged(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(1).await;
    let parent = store.submit(new("parent")).await.unwrap().id;
    let mut claim = claim_as(&store, dead_holder(), 1).await.remove(0);
    let children = store.create_children(parent, claim.token, vec![child("a")], LIMITS).await.unwrap();
    let only_parents = TypeFilter::Only(BTreeSet::from(["parent".to_owned()]));
    for _ in 0..3 {
        let again = ClaimRequest { types: only_parents.clone(), ..ask(dead_holder(), 1) };
        claim = store.claim(again).await.unwrap().remove(0);
        assert_eq!((claim.task.id, claim.task.deaths), (parent, 0));
    }
    // With its children done it waits no more.
    let last = claim_type(&store, "child").await;
    assert_eq!(last.task.id, children[0]);
    store.complete(last.task.id, last.token, text("done")).await.unwrap();
    assert!(store.claim(ClaimRequest { types: only_parents, ..ask(dead_holder(), 1) }).await.unwrap().is_empty());
    assert_eq!(end(&store, parent).await.1, FailureClass::Quarantined);
}

pub async fn quarantine_can_be_switched_off(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(0).await;
    let task = orphan(&store).await.task.id;
    for deaths in 1..=5 {
        let claim = claim_as(&store, dead_holder(), 1).await.remove(0);
        assert_eq!((claim.task.id, claim.task.deaths), (task, deaths));
    }
}

pub async fn a_retry_releases_a_task_that_was_set_aside(make: impl Make) {
    let Fresh { store, keep: _keep, .. } = make(1).await;
    let task = orphan(&store).await.task.id;
    assert!(claim(&store, 1).await.is_empty());
    let released = store.retry(task).await.unwrap();
    assert_eq!((released.status, released.deaths, released.error), (Status::Queued, 0, None));
    let claim = claim_one(&store).await;
    assert_eq!((claim.task.id, claim.task.attempts, claim.resumed), (task, 2, false));
}
