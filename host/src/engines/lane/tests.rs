//! The lane's promises, held by a scripted engine.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use serde_json::{Map, json};
use tokio::sync::Semaphore;

use super::*;
use crate::artifacts::Artifacts;
use crate::clock::Clock;
use crate::engines::{Job, ModelInfo, Produced, Request, WorkflowTerms};

/// Longer than anything here takes.
const CEILING: Duration = Duration::from_secs(30);

/// Does what the request's `do` says, and keeps a list of what it did.
struct Scripted {
    kind: EngineKind,
    /// `wait` jobs take one each.
    gate: Arc<Semaphore>,
    ran: Arc<Mutex<Vec<String>>>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

#[async_trait]
impl Engine for Scripted {
    fn kind(&self) -> EngineKind {
        self.kind
    }

    fn title(&self) -> String {
        "scripted".into()
    }

    async fn run(&self, job: Job<'_>) -> Result<Vec<Produced>, Failure> {
        let settings = match job.request {
            Request::Generation { settings, .. } | Request::Workflow { workflow: settings, .. } => settings.clone(),
        };
        let word = |key: &str| settings.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_string();
        assert_eq!(std::fs::read_dir(&job.folder).unwrap().count(), 0, "the folder is empty");
        self.ran.lock().unwrap().push(word("name"));
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let ended = match word("do").as_str() {
            "wait" => tokio::select! {
                permit = self.gate.acquire() => { permit.unwrap().forget(); Ok(()) }
                () = job.cancel.cancelled() => Err(Failure::cancelled("stopped")),
            },
            "never listen" => std::future::pending().await,
            "refuse" => Err(Failure::new(FailureClass::Engine, "refused", "no")),
            "crash" => Err(Failure::new(FailureClass::Engine, "engine_crashed", "gone").retryable()),
            "suspend" => match self.gate.try_acquire() {
                Ok(permit) => {
                    permit.forget();
                    Ok(())
                }
                Err(_) => Err(Failure::unavailable(SUSPENDED, "it does not start")),
            },
            "lose the GPU" => Err(Failure::new(FailureClass::Engine, "node_failed", "GPU has fallen off the bus")),
            "panic" => {
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                panic!("a defect")
            }
            _ => Ok(()),
        };
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        ended?;
        let path = job.folder.join("out.txt");
        std::fs::write(&path, word("name")).unwrap();
        Ok(vec![Produced { path, name: "out.txt".into() }])
    }

    fn suspension(&self) -> Option<Suspension> {
        let until = Clock::system().now().plus(Duration::from_millis(300));
        Some(Suspension { reason: "it does not start".into(), until: Some(until) })
    }

    async fn model_info(&self, _: &str) -> Result<ModelInfo, Failure> {
        Ok(ModelInfo { known: false, vace: false, family: None, defaults: Map::new() })
    }
}

/// A lane with a scripted engine on both sides.
struct House {
    home: tempfile::TempDir,
    lane: Arc<Lane>,
    task: TaskId,
    gate: Arc<Semaphore>,
    ran: Arc<Mutex<Vec<String>>>,
    most_at_once: Arc<AtomicUsize>,
    job_limit: Duration,
}

impl House {
    fn new() -> Self {
        Self::with_limit(CEILING)
    }

    fn with_limit(job_limit: Duration) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (gate, ran, most) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::default());
        let lane = lane(home.path(), &gate, &ran, &most, job_limit);
        Self { home, lane, task: TaskId::random(), gate, ran, most_at_once: most, job_limit }
    }

    /// The host is gone; another one opens the same home.
    fn reopened(self) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let lane = lane(self.home.path(), &gate, &self.ran, &self.most_at_once, self.job_limit);
        Self { lane, gate, ..self }
    }

    fn job(&self, seq: u64, what: &str) -> NewJob {
        let settings = json!({"name": format!("{what} {seq}"), "do": what}).as_object().unwrap().clone();
        NewJob {
            key: JobKey { task: self.task, attempt: 1, seq },
            request: Request::Generation { settings, model_overrides: Map::new() },
            label: None,
            priority: 0,
            created_at: Timestamp(0),
            report: Arc::new(|_, _| ()),
            log: Arc::new(|_, _| ()),
        }
    }

    async fn submit(&self, seq: u64, what: &str) -> JobKey {
        self.lane.submit(self.job(seq, what)).await.unwrap()
    }

    async fn wait(&self, key: JobKey) -> Ended {
        tokio::time::timeout(CEILING, self.lane.wait(key, None)).await.unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&LaneStatus) -> bool) {
        let watching = async {
            while !holds(&self.lane.status()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(CEILING, watching).await.expect(what);
    }

    fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }
}

fn lane(
    home: &Path,
    gate: &Arc<Semaphore>,
    ran: &Arc<Mutex<Vec<String>>>,
    most_at_once: &Arc<AtomicUsize>,
    job_limit: Duration,
) -> Arc<Lane> {
    let at_once = Arc::default();
    let engine = |kind| -> Arc<dyn Engine> {
        Arc::new(Scripted {
            kind,
            gate: gate.clone(),
            ran: ran.clone(),
            at_once: Arc::clone(&at_once),
            most_at_once: most_at_once.clone(),
        })
    };
    Arc::new(Lane::new(EngineOptions {
        jobs: home.join("jobs"),
        artifacts: Artifacts::open(&home.join("data"), &home.join("outputs")).unwrap(),
        clock: Clock::system(),
        comfyui: Ok(engine(EngineKind::Comfyui)),
        wan2gp: Ok(engine(EngineKind::Wan2gp)),
        job_limit,
        cancel_grace: Duration::from_millis(100),
    }))
}

#[tokio::test]
async fn a_job_ends_with_its_files_among_the_artifacts() {
    let house = House::new();
    let key = house.submit(1, "finish").await;
    let lane = house.lane.clone();
    let waiting = tokio::spawn(async move { lane.wait(key, None).await });
    let result = tokio::time::timeout(CEILING, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(result.outputs.len(), 1);
    let path = house.lane.options.artifacts.path(result.outputs[0].artifact).unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "finish 1");
    assert_eq!(house.lane.status(), LaneStatus { running: None, queued: 0 });
}

#[tokio::test]
async fn jobs_of_both_engines_run_one_at_a_time_by_priority_then_age_then_order() {
    let house = House::new();
    let first = house.submit(0, "wait").await;
    house.until("the first job runs", |s| s.running.is_some()).await;
    for (seq, priority, age) in [(1, 0, 5), (2, 0, 3), (3, 9, 8), (4, 0, 5)] {
        let mut job = house.job(seq, "finish");
        if seq == 2 {
            let settings = json!({"name": "workflow 2"}).as_object().unwrap().clone();
            job.request = Request::Workflow { workflow: settings, terms: WorkflowTerms::default() };
        }
        (job.priority, job.created_at) = (priority, Timestamp(age));
        house.lane.submit(job).await.unwrap();
    }
    assert_eq!(house.lane.status().queued, 4);
    house.gate.add_permits(1);
    for seq in 0..5 {
        house.wait(JobKey { seq, ..first }).await.unwrap();
    }
    assert_eq!(house.ran(), ["wait 0", "finish 3", "workflow 2", "finish 1", "finish 4"]);
    assert_eq!(house.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn waiting_jobs_hear_their_place_and_progress_carries_the_label() {
    let house = House::new();
    let first = house.submit(0, "wait").await;
    house.until("the first job runs", |s| s.running.is_some()).await;
    house.submit(1, "finish").await;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut job = house.job(2, "finish");
    let words = heard.clone();
    job.label = Some("segment 2".into());
    job.report = Arc::new(move |_, said| words.lock().unwrap().push(said));
    let last = house.lane.submit(job).await.unwrap();
    house.gate.add_permits(1);
    house.wait(last).await.unwrap();
    house.wait(first).await.unwrap();
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.first().unwrap(), "segment 2: queued behind 2 jobs");
    assert_eq!(heard.last().unwrap(), "segment 2: started");
}

#[tokio::test]
async fn a_job_of_an_engine_that_takes_none_waits_until_it_does_and_the_other_engine_goes_on() {
    let house = House::new();
    let waiting = house.submit(1, "suspend").await;
    let suspension =
        tokio::time::timeout(CEILING, house.lane.suspensions().suspended(EngineKind::Wan2gp)).await.unwrap();
    assert_eq!(suspension.reason, "it does not start");
    let mut other = house.job(2, "make");
    let Request::Generation { settings, .. } = other.request else { panic!("a generation") };
    other.request = Request::Workflow { workflow: settings, terms: WorkflowTerms::default() };
    let other = house.lane.submit(other).await.unwrap();
    house.wait(other).await.unwrap();
    assert_eq!(house.lane.status().queued, 1, "the job is still there");
    house.gate.add_permits(1);
    house.wait(waiting).await.unwrap();
    assert_eq!(house.lane.suspensions().all().len(), 0);
}

#[test]
fn the_end_of_an_earlier_suspension_does_not_lift_a_later_one() {
    let suspensions = Suspensions::none();
    let suspension = |until| Suspension { reason: "why".into(), until };
    let (earlier, later) = (suspension(Some(Timestamp(5))), suspension(None));
    suspensions.suspend(EngineKind::Comfyui, earlier.clone());
    suspensions.suspend(EngineKind::Comfyui, later.clone());
    assert!(!suspensions.lift(EngineKind::Comfyui, &earlier));
    assert_eq!(suspensions.all().get(&EngineKind::Comfyui), Some(&later));
    assert!(suspensions.lift(EngineKind::Comfyui, &later));
}

#[tokio::test]
async fn a_broken_machine_pauses_every_engine_and_the_job_waits() {
    let house = House::new();
    house.submit(1, "lose the GPU").await;
    for engine in [EngineKind::Wan2gp, EngineKind::Comfyui] {
        let paused = tokio::time::timeout(CEILING, house.lane.suspensions().suspended(engine)).await.unwrap();
        assert!(paused.until.is_none() && paused.reason.contains("fallen off the bus"), "{paused:?}");
    }
    house.until("the job is back", |status| status.running.is_none() && status.queued == 1).await;
    // What nobody waits for any more leaves the queue all the same.
    house.lane.cancel_task(house.task).await;
    assert_eq!(house.lane.status().queued, 0);
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_never_runs() {
    let house = House::new();
    let running = house.submit(0, "wait").await;
    let waiting = house.submit(1, "finish").await;
    house.lane.cancel(waiting).await;
    assert_eq!(house.wait(waiting).await.unwrap_err().class, FailureClass::Cancelled);
    house.gate.add_permits(1);
    house.wait(running).await.unwrap();
    assert_eq!(house.ran(), ["wait 0"]);
}

#[tokio::test]
async fn cancelling_a_running_job_stops_the_engine_and_the_next_one_runs() {
    let house = House::new();
    let running = house.submit(0, "wait").await;
    house.until("it runs", |s| s.running.is_some()).await;
    let next = house.submit(1, "finish").await;
    house.lane.cancel(running).await;
    assert_eq!(house.wait(running).await.unwrap_err().code, "cancelled");
    house.wait(next).await.unwrap();
    house.lane.cancel(next).await;
    assert!(house.wait(next).await.is_ok(), "a job that has ended stays as it ended");
}

#[tokio::test]
async fn an_engine_that_does_not_listen_loses_its_job() {
    let house = House::new();
    let deaf = house.submit(0, "never listen").await;
    house.until("it runs", |s| s.running.is_some()).await;
    house.lane.cancel(deaf).await;
    assert_eq!(house.wait(deaf).await.unwrap_err().class, FailureClass::Cancelled);
    let next = house.submit(1, "finish").await;
    house.wait(next).await.unwrap();
}

#[tokio::test]
async fn a_panic_ends_the_job_and_not_the_lane() {
    let house = House::new();
    let broken = house.submit(0, "panic").await;
    let failure = house.wait(broken).await.unwrap_err();
    assert_eq!(failure.code, "engine_panicked");
    assert!(failure.message.contains("a defect"));
    let next = house.submit(1, "finish").await;
    house.wait(next).await.unwrap();
}

#[tokio::test]
async fn a_wait_ends_at_its_limit_of_running_time_and_the_job_goes_on() {
    let house = House::new();
    let first = house.submit(0, "wait").await;
    let second = house.submit(1, "wait").await;
    let limit = Some(Duration::from_millis(60));
    let waiting = house.lane.wait(second, limit);
    tokio::pin!(waiting);
    // While it queues, its time stands still.
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    house.gate.add_permits(1);
    house.wait(first).await.unwrap();
    assert_eq!(waiting.await.unwrap_err().code, "engine_timeout");
    house.gate.add_permits(1);
    house.wait(second).await.unwrap();
}

#[tokio::test]
async fn a_job_over_the_hosts_limit_is_stopped_and_stays_so() {
    let house = House::with_limit(Duration::from_millis(50));
    let key = house.submit(0, "wait").await;
    assert_eq!(house.wait(key).await.unwrap_err().code, "engine_timeout");
    let house = house.reopened();
    house.submit(0, "wait").await;
    assert_eq!(house.wait(key).await.unwrap_err().code, "engine_timeout");
    assert_eq!(house.ran(), ["wait 0"]);
}

#[tokio::test]
async fn a_finished_job_is_never_run_again() {
    let house = House::new();
    let (done, refused) = (house.submit(1, "finish").await, house.submit(2, "refuse").await);
    let (result, refusal) = (house.wait(done).await.unwrap(), house.wait(refused).await.unwrap_err());
    house.submit(1, "finish").await;
    let house = house.reopened();
    assert_eq!(house.wait(done).await.unwrap(), result, "also without being submitted again");
    house.submit(1, "finish").await;
    house.submit(2, "refuse").await;
    assert_eq!(house.wait(done).await.unwrap(), result);
    assert_eq!(house.wait(refused).await.unwrap_err(), refusal);
    assert_eq!(house.ran(), ["finish 1", "refuse 2"]);
}

#[tokio::test]
async fn an_unfinished_job_is_run_again_once() {
    let house = House::new();
    let key = house.submit(1, "wait").await;
    house.until("it runs", |s| s.running.is_some()).await;
    let left = house.home.path().join(format!("jobs/{}/1-1/output/half.mp4", house.task));
    std::fs::write(&left, "half").unwrap();
    let house = house.reopened();
    assert_eq!(house.lane.wait(key, None).await.unwrap_err().code, "engine_lost_task");
    house.submit(1, "wait").await;
    house.submit(1, "wait").await;
    house.gate.add_permits(2);
    house.wait(key).await.unwrap();
    assert_eq!(house.ran(), ["wait 1", "wait 1"]);
}

#[tokio::test]
async fn a_cancelled_or_crashed_job_is_not_inherited() {
    let house = House::new();
    let crashed = house.submit(1, "crash").await;
    assert_eq!(house.wait(crashed).await.unwrap_err().code, "engine_crashed");
    let stopped = house.submit(2, "wait").await;
    house.until("it runs", |s| s.running.is_some()).await;
    house.lane.cancel(stopped).await;
    house.submit(2, "wait").await;
    house.gate.add_permits(1);
    house.wait(stopped).await.unwrap();
    let house = house.reopened();
    house.submit(1, "crash").await;
    assert_eq!(house.wait(crashed).await.unwrap_err().code, "engine_crashed");
    assert_eq!(house.ran(), ["crash 1", "wait 2", "wait 2", "crash 1"]);
}

#[tokio::test]
async fn a_key_cannot_be_used_for_another_request() {
    let house = House::new();
    let key = house.submit(1, "finish").await;
    house.wait(key).await.unwrap();
    let failure = house.lane.submit(house.job(1, "refuse")).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Internal, "effect_key_reused"));
    let house = house.reopened();
    assert_eq!(house.lane.submit(house.job(1, "refuse")).await.unwrap_err().code, "effect_key_reused");
}

#[tokio::test]
async fn wait_any_names_the_job_that_ended() {
    let house = House::new();
    let (slow, quick) = (house.submit(1, "wait").await, house.submit(2, "finish").await);
    let unknown = JobKey { seq: 99, ..slow };
    assert_eq!(house.lane.wait_any(&[]).await.unwrap_err().code, "no_jobs");
    assert_eq!(house.lane.wait_any(&[slow, unknown]).await.unwrap(), 1);
    let any = [slow, quick];
    let waiting = house.lane.wait_any(&any);
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(Duration::from_millis(30), &mut waiting).await.is_err());
    house.lane.cancel(quick).await;
    assert_eq!(waiting.await.unwrap(), 1);
    house.lane.cancel(slow).await;
}

#[tokio::test]
async fn the_jobs_of_a_task_are_stopped_and_forgotten_together() {
    let house = House::new();
    let running = house.submit(1, "wait").await;
    house.submit(2, "finish").await;
    let mut other = house.job(1, "finish");
    other.key.task = TaskId::random();
    let other = house.lane.submit(other).await.unwrap();
    house.until("it runs", |s| s.running.is_some()).await;
    house.lane.cancel_task(house.task).await;
    assert_eq!(house.lane.wait(running, None).await.unwrap_err().code, "engine_lost_task");
    house.wait(other).await.unwrap();
    assert_eq!(house.ran(), ["wait 1", "finish 1"]);
}

#[tokio::test]
async fn an_absent_engine_answers_in_its_own_words_when_a_job_is_submitted() {
    let house = House::new();
    let mut lane = lane(house.home.path(), &house.gate, &house.ran, &house.most_at_once, CEILING);
    Arc::get_mut(&mut lane).unwrap().options.wan2gp = Err("Set engines.wan2gp.root.".into());
    let failure = lane.submit(house.job(1, "finish")).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Unavailable, "engine_unavailable"));
    assert_eq!(failure.message, "Set engines.wan2gp.root.");
}
