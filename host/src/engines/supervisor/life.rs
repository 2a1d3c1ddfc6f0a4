//! One process from its start to its end: started behind its guard, asked whether it is ready, told to end, cleared away.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::guard::{self, Note};
use super::processes::Process;
use super::spawn::{self, Guarded};
use super::{Core, Exit, Launch, Limits, Order, Readiness, Running, State, Supervised, Trace, leftovers};
use crate::clock::Timestamp;

/// How long what an engine printed last may take to arrive after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a guard may take to end everything with SIGKILL before it is taken for dead itself.
const GUARD_GRACE: Duration = Duration::from_secs(5);

/// How a life ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub why: Why,
    /// None: there was no process.
    pub exit: Option<Exit>,
    /// From its start on.
    pub lived: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Why {
    /// It never got ready.
    Failed(String),
    /// It was ready, and ended by itself.
    Died,
    /// The host ended it.
    Asked(Order),
}

impl End {
    pub fn failed(words: String) -> Self {
        Self { why: Why::Failed(words), exit: None, lived: Duration::ZERO }
    }
}

/// Lives one life, which began at `since`.
pub(super) async fn live<S: Supervised>(
    core: Arc<Core<S>>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    since: Timestamp,
) {
    let end = match begin(&core, &mut orders).await {
        Ok(process) => process.live(orders, since).await,
        Err(end) => end,
    };
    core.over(end);
}

/// Starts the guard.
async fn begin<S: Supervised>(
    core: &Arc<Core<S>>,
    orders: &mut mpsc::UnboundedReceiver<Order>,
) -> Result<Alive<S>, End> {
    let launch = tokio::select! {
        biased;
        Some(order) = orders.recv() => return Err(End { why: Why::Asked(order), exit: None, lived: Duration::ZERO }),
        launch = core.supervised.launch() => launch.map_err(End::failed)?,
    };
    // Its record is about to be replaced: the last moment to end what it tells of.
    let (folder, name) = (core.options.folder.clone(), core.supervised.name());
    tokio::task::spawn_blocking(move || leftovers::end_one(&folder, name)).await.ok();
    let mark = Uuid::new_v4().to_string();
    let (guard, output) = spawn::start(&core.options.guard, &launch, &mark).await.map_err(End::failed)?;
    core.trace(Trace { guard: Some(guard.process), engine: None, mark: Some(mark.clone()) });
    core.record();
    core.log.begin(&format!("starts {}", named(&launch)));
    let (log, drained) = (core.log.clone(), CancellationToken::new());
    let done = drained.clone().drop_guard();
    tokio::spawn(async move {
        log.drain(output).await;
        drop(done);
    });
    Ok(Alive {
        core: core.clone(),
        guard,
        mark,
        drained,
        engine: None,
        running: None,
        ending: None,
        steps: Steps::none(),
        exit: None,
    })
}

fn named(launch: &Launch) -> String {
    format!("{} in {}", launch.program.display(), launch.folder.display())
}

/// A process while there is something of it.
struct Alive<S: Supervised> {
    core: Arc<Core<S>>,
    guard: Guarded,
    mark: String,
    /// Cancelled when all it printed has been taken.
    drained: CancellationToken,
    engine: Option<Process>,
    /// From ready on: tells those who use it how it ended.
    running: Option<watch::Sender<Option<Exit>>>,
    /// Why it is being ended.
    ending: Option<Why>,
    steps: Steps,
    exit: Option<Exit>,
}

impl<S: Supervised> Alive<S> {
    async fn live(mut self, mut orders: mpsc::UnboundedReceiver<Order>, since: Timestamp) -> End {
        let core = self.core.clone();
        let limits = core.options.limits.clone();
        let mut readiness = Box::pin(readiness(&core.supervised, limits.ready_poll));
        let mut too_long = Box::pin(after(limits.start));
        loop {
            let waits = self.engine.is_some() && self.running.is_none() && self.ending.is_none() && self.exit.is_none();
            tokio::select! {
                note = self.guard.note() => match note {
                    Some(Note::Started(engine)) => self.started(engine),
                    Some(Note::Exited { code, signal }) => self.exited(code, signal).await,
                    Some(Note::Failed(words)) => self.ending = Some(Why::Failed(words)),
                    None => break,
                },
                answer = &mut readiness, if waits => match answer {
                    Ok(ready) => self.ready(ready, since),
                    Err(words) => self.end(Why::Failed(words), Steps::soon(&limits)).await,
                },
                () = &mut too_long, if waits => {
                    let seconds = limits.start.unwrap_or_default().as_secs();
                    let words = format!("it was not ready within {seconds} s");
                    self.end(Why::Failed(words), Steps::soon(&limits)).await;
                }
                Some(order) = orders.recv() => match order {
                    Order::Stop => self.end(Why::Asked(order), Steps::orderly(&limits)).await,
                    Order::Restart(_) => self.end(Why::Asked(order), Steps::soon(&limits)).await,
                    Order::Abandon => {
                        self.ending = Some(Why::Asked(order));
                        break;
                    }
                },
                () = self.steps.due() => self.step().await,
            }
        }
        self.clear_away(since).await
    }

    fn started(&mut self, engine: Process) {
        self.engine = Some(engine);
        self.core.trace(Trace { guard: Some(self.guard.process), engine: Some(engine), mark: Some(self.mark.clone()) });
        self.core.record();
        tracing::info!(engine = self.core.supervised.name(), pid = engine.pid, "started");
    }

    fn ready(&mut self, ready: S::Ready, started: Timestamp) {
        let pid = self.engine.map_or(0, |engine| engine.pid);
        let (sender, gone) = watch::channel(None);
        self.running = Some(sender);
        let now = self.core.options.clock.now();
        let running = Arc::new(Running { ready, pid, started, gone });
        self.core.enter(State::Ready { pid, since: now }, |life| life.running = Some(running));
        self.core.record();
        let seconds = now.since(started).as_secs_f64();
        tracing::info!(engine = self.core.supervised.name(), pid, seconds, "ready");
    }

    /// Begins to end it. Who is in more of a hurry than the one before is heard, and the first reason stays.
    async fn end(&mut self, why: Why, steps: Steps) {
        let name = self.core.supervised.name();
        match &why {
            Why::Asked(Order::Restart(words)) => tracing::warn!(engine = name, why = words, "is ended to start anew"),
            Why::Asked(_) => tracing::info!(engine = name, "is stopped"),
            Why::Failed(words) => tracing::warn!(engine = name, why = words, "is ended: it will not be ready"),
            Why::Died => {}
        }
        let first = self.ending.is_none();
        self.ending.get_or_insert(why);
        if first || steps.is_shorter_than(&self.steps) {
            self.steps = steps;
            self.stopping();
            self.step().await;
        }
    }

    /// Takes the next step towards its end.
    async fn step(&mut self) {
        match self.steps.next() {
            Some(order) => self.guard.order(order).await,
            // A guard that does not even that is stopped or stuck; with it the system ends the engine.
            None => {
                tracing::error!(
                    engine = self.core.supervised.name(),
                    "is not gone after SIGKILL; its guard process is killed"
                );
                self.guard.process.signal(rustix::process::Signal::KILL);
            }
        }
    }

    /// The engine's own process has ended; what it started is being ended by the guard.
    async fn exited(&mut self, code: Option<i32>, signal: Option<i32>) {
        // Its last words say why.
        tokio::time::timeout(LAST_WORDS, self.drained.cancelled()).await.ok();
        let asked = matches!(self.ending, Some(Why::Asked(_)));
        let exit = Exit::new(code, signal, asked, self.core.log.last().as_deref());
        self.core.log.note(&format!("ended: {}", exit.words));
        tracing::info!(engine = self.core.supervised.name(), how = exit.words, "ended");
        if let Some(gone) = &self.running {
            gone.send_replace(Some(exit.clone()));
        }
        self.exit = Some(exit);
        self.stopping();
    }

    fn stopping(&self) {
        let now = self.core.options.clock.now();
        self.core.enter(State::Stopping { since: now }, |life| {
            life.running = None;
            life.ending = true;
        });
        self.core.record();
    }

    /// The guard has ended, or is let go.
    async fn clear_away(mut self, since: Timestamp) -> End {
        if self.exit.is_none() && !matches!(self.ending, Some(Why::Asked(Order::Abandon))) {
            // Killed before it could end what it guarded, or it never had anything.
            let mark = self.mark.clone();
            tokio::task::spawn_blocking(move || leftovers::end_marked(&mark)).await.ok();
            if self.engine.is_some() {
                self.exited(None, None).await;
            }
        }
        self.guard.release().await;
        let why = match (self.ending, &self.exit, &self.running) {
            (Some(why), ..) => why,
            (None, _, Some(_)) => Why::Died,
            (None, Some(exit), None) => Why::Failed(exit.words.clone()),
            (None, None, None) => Why::Failed("its guard process ended at once".into()),
        };
        let lived = self.core.options.clock.now().since(since);
        End { why, exit: self.exit, lived }
    }
}

/// What a process says about being ready, once it says yes or never.
async fn readiness<S: Supervised>(supervised: &S, pause: Duration) -> Result<S::Ready, String> {
    loop {
        match supervised.ready().await {
            Readiness::Ready(ready) => return Ok(ready),
            Readiness::Failed(words) => return Err(words),
            Readiness::NotYet => tokio::time::sleep(pause).await,
        }
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Steps towards the end of a process, each with the time that it is given.
struct Steps {
    left: VecDeque<(guard::Order, Duration)>,
    /// Until the next step.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Steps {
    fn none() -> Self {
        Self { left: VecDeque::new(), timer: None }
    }

    fn orderly(limits: &Limits) -> Self {
        let left = [
            (guard::Order::Interrupt, limits.interrupt_grace),
            (guard::Order::Terminate, limits.terminate_grace),
            (guard::Order::Kill, GUARD_GRACE),
        ];
        Self { left: left.into(), timer: None }
    }

    fn soon(limits: &Limits) -> Self {
        let left = [(guard::Order::Terminate, limits.restart_grace), (guard::Order::Kill, GUARD_GRACE)];
        Self { left: left.into(), timer: None }
    }

    fn is_shorter_than(&self, other: &Self) -> bool {
        self.left.len() < other.left.len()
    }

    /// None: there is no further one.
    fn next(&mut self) -> Option<guard::Order> {
        let step = self.left.pop_front();
        self.timer = step.map(|(_, time)| Box::pin(tokio::time::sleep(time)));
        step.map(|(order, _)| order)
    }

    /// Returns when the next step is due.
    async fn due(&mut self) {
        match &mut self.timer {
            Some(timer) => timer.as_mut().await,
            None => std::future::pending().await,
        }
    }
}
