//! The way of one prompt: submitted, followed, and its end read from the server's record.
//!
//! The socket gives progress and hints; the record decides. Every hint — a message that says *over*, a socket that broke,
//! silence — leads to the same question, and a slow look at the record runs beside the socket all the time, so that a
//! socket that says nothing can never hang a prompt.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::{Client, Collected, Prompt, Run};
use super::events::News;
use super::http::{Place, Trouble};
use super::preview;
use super::problems::{Code, PromptFailure, node_errors, refused};
use super::progress::Progress;
use super::record::{self, Item, Verdict};
use super::socket::{Listener, Note};
use crate::digest::Digest;

/// Between two questions when the server knows nothing of a prompt, or nobody listens.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// First and longest pause while a record is awaited.
const RECORD_PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// A prompt that was told to stop is told again so often: a flag that comes between two prompts is lost.
const STOP_AGAIN: Duration = Duration::from_secs(2);

/// What is known about a prompt on its way.
struct Way<'a> {
    listener: Listener,
    progress: Progress<'a>,
    /// When it was last heard of, or was rightly silent.
    heard: Instant,
    /// When, and why, it was told to stop.
    stopped: Option<(Instant, Code)>,
    told: Instant,
    /// How often in a row the server knew nothing of it.
    nowhere: u32,
    /// Since when nobody listens.
    refused: Option<Instant>,
    next_look: Instant,
    pause: Duration,
}

impl Client {
    /// Runs a prompt to its end and fetches its files, in the order of node ids. One try: who may try again decides by the
    /// failure's code.
    pub async fn run(&self, prompt: &Prompt, run: &Run<'_>) -> Result<Vec<Collected>, PromptFailure> {
        let items = tokio::select! {
            biased;
            () = run.gone.cancelled() => Err(died()),
            items = self.execute(prompt, run) => items,
        }?;
        self.collect(items, run).await
    }

    async fn execute(&self, prompt: &Prompt, run: &Run<'_>) -> Result<Vec<Item>, PromptFailure> {
        let id = prompt.id.to_string();
        // A prompt can be over within milliseconds: we listen before it is submitted.
        let mut way = Way::new(prompt, self.socket.listen(&id), self.times.poll.0);
        let known = tokio::select! {
            biased;
            () = run.cancel.cancelled() => {
                // It may have arrived all the same.
                self.withdraw(&id).await;
                return Err(stopped_for(Code::Cancelled));
            }
            known = self.hand_over(prompt, &id) => known?,
        };
        match known {
            Known::Over(verdict) => return conclude(verdict, None),
            Known::UnderWay => (run.report)(None, "found again on the server".into()),
            Known::No => {}
        }
        self.follow(prompt, &id, run, &mut way).await
    }

    /// Makes sure that the server has the prompt: found there, or submitted.
    async fn hand_over(&self, prompt: &Prompt, id: &str) -> Result<Known, PromptFailure> {
        if prompt.seek {
            match self.seek(prompt, id).await? {
                Known::No => {}
                known => return Ok(known),
            }
        }
        // Messages go to registered sockets alone. Without one the record has to do.
        let _ = tokio::time::timeout(self.times.connect, self.socket.registered()).await;
        self.submit(prompt, id).await?;
        Ok(Known::No)
    }

    /// Looks for a prompt that an earlier life of this host may have submitted.
    async fn seek(&self, prompt: &Prompt, id: &str) -> Result<Known, PromptFailure> {
        let since = Instant::now();
        loop {
            match self.http.locate(id).await {
                Ok(Place::Recorded(record)) => {
                    let same = is_same(record.pointer("/prompt/3"), prompt);
                    match record::read(&record, &prompt.graph, &prompt.terms.temp_nodes) {
                        // Stopped when that host stopped: no answer to what is asked now.
                        Verdict::Interrupted { .. } => {}
                        verdict if same => return Ok(Known::Over(verdict)),
                        _ => {}
                    }
                    self.forget(prompt.id).await;
                    return Ok(Known::No);
                }
                Ok(Place::Running | Place::Waiting { .. }) => {
                    if is_same(self.http.queued_extra(id).await.ok().flatten().as_ref(), prompt) {
                        return Ok(Known::UnderWay);
                    }
                    // Something else under our id: what was asked for has changed since.
                    self.stop(id).await;
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Ok(Place::Nowhere) => return Ok(Known::No),
                Err(Trouble::Refused(_)) if since.elapsed() >= self.times.unreachable => return Err(died()),
                Err(_) if since.elapsed() >= self.times.inactive => return Err(died()),
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    async fn submit(&self, prompt: &Prompt, id: &str) -> Result<(), PromptFailure> {
        let extra = json!({ MARK: digest(prompt) });
        let body = json!({ "prompt": prompt.graph, "client_id": self.id, "prompt_id": id, "extra_data": extra });
        let since = Instant::now();
        let mut sent_again = false;
        loop {
            let answer = match self.http.submit(&body).await {
                Ok(answer) => answer,
                Err(Trouble::Refused(_)) if since.elapsed() < self.times.unreachable => {
                    tokio::time::sleep(ASK_AGAIN).await;
                    continue;
                }
                Err(Trouble::Refused(_)) => return Err(died()),
                // The answer is lost; whether the prompt arrived, the server knows. It is no key that makes two
                // submissions one: sent again, it would run again.
                Err(trouble) => {
                    if self.arrived(id).await? {
                        return Ok(());
                    }
                    if sent_again {
                        return Err(PromptFailure::new(
                            Code::EngineCrashed,
                            format!("ComfyUI did not take the prompt: {}", trouble.words()),
                        ));
                    }
                    sent_again = true;
                    continue;
                }
            };
            if answer.status != 200 {
                return Err(refused(answer.status, &answer.body, &prompt.graph, &prompt.terms));
            }
            let accepted: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
            let errors = accepted.get("node_errors").unwrap_or(&Value::Null);
            return match node_errors(errors, &prompt.graph, &prompt.terms) {
                // The server drops what it refuses and runs the rest: half a result that nobody asked for.
                Some(failure) if !prompt.terms.allow_partial => {
                    self.withdraw(id).await;
                    Err(failure)
                }
                Some(failure) => {
                    tracing::warn!(prompt = id, why = failure.message, "ComfyUI leaves out a part of a workflow");
                    Ok(())
                }
                None => Ok(()),
            };
        }
    }

    /// Whether a submission without an answer arrived.
    async fn arrived(&self, id: &str) -> Result<bool, PromptFailure> {
        let since = Instant::now();
        let mut nowhere = 0;
        loop {
            match self.http.locate(id).await {
                Ok(Place::Nowhere) if nowhere > 0 => return Ok(false),
                Ok(Place::Nowhere) => nowhere += 1,
                Ok(_) => return Ok(true),
                Err(Trouble::Refused(_)) if since.elapsed() >= self.times.unreachable => return Err(died()),
                Err(_) if since.elapsed() >= self.times.inactive => return Err(died()),
                Err(_) => {}
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn follow(
        &self,
        prompt: &Prompt,
        id: &str,
        run: &Run<'_>,
        way: &mut Way<'_>,
    ) -> Result<Vec<Item>, PromptFailure> {
        let terms = &prompt.terms;
        loop {
            let grace = way.stopped.map(|(at, _)| at + self.times.cancel_grace);
            let inactive = way.heard + self.times.inactive;
            tokio::select! {
                biased;
                () = run.cancel.cancelled(), if way.stopped.is_none() => {
                    self.stop(id).await;
                    way.stop(Code::Cancelled);
                }
                note = way.listener.next() => match note {
                    Note::News(News::Over) => {
                        way.heard = Instant::now();
                        if let Some(record) = self.record_soon(id).await {
                            return conclude(record::read(&record, &prompt.graph, &terms.temp_nodes), way.reason());
                        }
                        way.look_soon();
                    }
                    Note::News(news) => {
                        way.heard = Instant::now();
                        if let Some((fraction, words)) = way.progress.hear(&news) {
                            (run.report)(Some(fraction), words);
                        }
                    }
                    Note::Preview(picture) => {
                        way.heard = Instant::now();
                        if let Some(path) = run.preview {
                            preview::keep(picture, path);
                        }
                    }
                    Note::Missed => way.look_soon(),
                },
                () = tokio::time::sleep_until(way.next_look) => {
                    if let Some(record) = self.look(id, run, way).await? {
                        return conclude(record::read(&record, &prompt.graph, &terms.temp_nodes), way.reason());
                    }
                }
                () = tokio::time::sleep_until(grace.unwrap_or(inactive)), if grace.is_some() => {
                    return Err(way.deaf(self.times.cancel_grace));
                }
                () = tokio::time::sleep_until(inactive), if way.stopped.is_none() => {
                    self.stop(id).await;
                    way.stop(Code::TimeoutInactive);
                }
            }
        }
    }

    /// Asks where a prompt is; its record, if it is over.
    async fn look(&self, id: &str, run: &Run<'_>, way: &mut Way<'_>) -> Result<Option<Value>, PromptFailure> {
        let place = self.http.locate(id).await;
        way.pause = (way.pause * 2).min(self.times.poll.1);
        way.next_look = Instant::now() + way.pause;
        if way.stopped.is_some() && way.told.elapsed() >= STOP_AGAIN {
            way.told = Instant::now();
            self.stop(id).await;
        }
        if way.stopped.is_some() {
            way.look_soon();
        }
        match place {
            Ok(Place::Recorded(record)) => return Ok(Some(record)),
            Ok(Place::Running) => {
                (way.nowhere, way.refused) = (0, None);
                // Nothing can be heard without a socket: then only the job's limit holds.
                if !self.socket.is_registered() {
                    way.heard = Instant::now();
                }
            }
            Ok(Place::Waiting { alone }) => {
                (way.nowhere, way.refused) = (0, None);
                // Behind others it is rightly silent; in front of an idle server it is not.
                if !alone {
                    way.heard = Instant::now();
                    (run.report)(None, "waiting for other prompts of the server".into());
                }
            }
            Ok(Place::Nowhere) => {
                way.refused = None;
                way.nowhere += 1;
                if way.nowhere >= 2 {
                    return Err(match way.reason() {
                        // Taken out of the queue: that leaves no record.
                        Some(code) => stopped_for(code),
                        None => PromptFailure::new(
                            Code::EngineCrashed,
                            "ComfyUI knows nothing of the prompt any more: it was restarted, or somebody emptied its queue.",
                        ),
                    });
                }
                way.look_soon();
            }
            Err(Trouble::Refused(_)) => {
                let since = *way.refused.get_or_insert_with(Instant::now);
                if since.elapsed() >= self.times.unreachable {
                    return Err(died());
                }
                way.look_soon();
            }
            Err(trouble) => {
                tracing::debug!(prompt = id, why = trouble.words(), "ComfyUI did not say where a prompt is")
            }
        }
        Ok(None)
    }

    /// The record of a prompt that is said to be over: it may appear a moment later.
    async fn record_soon(&self, id: &str) -> Option<Value> {
        let [mut pause, longest] = RECORD_PAUSES;
        let end = Instant::now() + self.times.record;
        loop {
            if let Ok(Some(record)) = self.http.record(id).await {
                return Some(record);
            }
            if Instant::now() + pause >= end {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Tells the server to stop a prompt, running or queued, and no other.
    pub(super) async fn stop(&self, id: &str) {
        if self.cancels.load(Ordering::Relaxed) {
            match self.http.cancel_job(id).await {
                Ok(true) => return,
                // Older servers have no such route.
                Ok(false) => self.cancels.store(false, Ordering::Relaxed),
                Err(trouble) => {
                    tracing::debug!(prompt = id, why = trouble.words(), "ComfyUI did not hear a cancellation")
                }
            }
        }
        // Out of the queue first: what is not there any more runs, and is interrupted by its id.
        for told in [self.http.unqueue(id).await, self.http.interrupt(id).await] {
            if let Err(trouble) = told {
                tracing::debug!(prompt = id, why = trouble.words(), "ComfyUI did not hear a cancellation");
            }
        }
    }

    /// Stops a prompt that is not wanted, and waits a moment until it is gone.
    async fn withdraw(&self, id: &str) {
        let end = Instant::now() + self.times.cancel_grace;
        while Instant::now() < end {
            self.stop(id).await;
            match self.http.locate(id).await {
                Ok(Place::Recorded(_) | Place::Nowhere) | Err(Trouble::Refused(_)) => break,
                _ => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
        let _ = self.http.forget(id).await;
    }
}

/// Under this name in `extra_data`, which the server keeps beside a prompt: the digest of the graph as it was submitted.
/// The graph that the server keeps will not do: it holds values as nodes take them, 8.0 where 8 was given.
const MARK: &str = "enginehouse_graph";

fn digest(prompt: &Prompt) -> String {
    Digest::of(Value::Object(prompt.graph.clone()).to_string().as_bytes()).to_string()
}

/// Whether what the server has under the prompt's id is this prompt. Without a mark it is: the id is nobody else's.
fn is_same(extra: Option<&Value>, prompt: &Prompt) -> bool {
    extra.and_then(|extra| extra.get(MARK)?.as_str()).is_none_or(|mark| mark == digest(prompt))
}

/// What a server knows of a prompt before it is submitted.
enum Known {
    No,
    UnderWay,
    Over(Verdict),
}

impl<'a> Way<'a> {
    fn new(prompt: &'a Prompt, listener: Listener, pause: Duration) -> Self {
        let now = Instant::now();
        Self {
            listener,
            progress: Progress::new(&prompt.graph),
            heard: now,
            stopped: None,
            told: now,
            nowhere: 0,
            refused: None,
            next_look: now + pause,
            pause,
        }
    }

    fn look_soon(&mut self) {
        self.next_look = self.next_look.min(Instant::now() + ASK_AGAIN);
    }

    fn stop(&mut self, why: Code) {
        self.told = Instant::now();
        self.stopped = Some((self.told, why));
        self.look_soon();
    }

    /// Why it was told to stop, if it was.
    fn reason(&self) -> Option<Code> {
        self.stopped.map(|(_, why)| why)
    }

    fn deaf(&self, grace: Duration) -> PromptFailure {
        let mut failure = stopped_for(self.reason().unwrap_or(Code::Cancelled));
        failure.message.push_str(&format!(" It did not stop within {} s of being told to.", grace.as_secs_f64()));
        failure.deaf = true;
        failure
    }
}

/// How a verdict ends a prompt. `stopped`: why we told it to stop, if we did.
fn conclude(verdict: Verdict, stopped: Option<Code>) -> Result<Vec<Item>, PromptFailure> {
    match (verdict, stopped) {
        (Verdict::Success(items), _) if items.is_empty() => Err(PromptFailure::new(
            Code::NoOutput,
            "The workflow ran and left no file: its branch was blocked, or its nodes only show previews. Name such nodes in \
             `temp_nodes` to get their pictures.",
        )),
        (Verdict::Success(items), _) => Ok(items),
        (Verdict::Failed(failure), _) => Err(failure),
        (Verdict::Interrupted { .. }, Some(code)) => Err(stopped_for(code)),
        (Verdict::Interrupted { node }, None) => {
            let failure =
                PromptFailure::new(Code::Interrupted, "The prompt was interrupted on the server, not by this host.");
            Err(match node {
                Some(node) => failure.at(&node),
                None => failure,
            })
        }
    }
}

fn stopped_for(code: Code) -> PromptFailure {
    PromptFailure::new(
        code,
        match code {
            Code::TimeoutInactive => {
                "The prompt said nothing for too long and was stopped (engines.comfyui.inactive_seconds)."
            }
            _ => "The prompt was cancelled.",
        },
    )
}

fn died() -> PromptFailure {
    PromptFailure::new(Code::EngineCrashed, "ComfyUI died while it had the prompt.")
}
