//! The one recorded call path. Every import whose result the guest can see goes through [`CallPath::record`], and
//! nothing else writes to a task's journal.
//!
//! What if the host dies right here?
//!
//! | the host dies | what stands in the journal | after the restart |
//! |---|---|---|
//! | before the call | nothing | the call is made, for the first time |
//! | after an intent | `Intent` | the call is made again under the same key: engines, children and remote services know the key and answer with what they have ([`Effect::Once`]: `outcome_unknown`) |
//! | after the effect, before its result is written | `Intent`, or nothing for a repeatable call | the same |
//! | after the result is written | `Done` | the journal answers, nothing is called |
//!
//! The guest goes on only when the result is durable, so it never knows more than the journal.
//!
//! A refusal (a capability that is not granted) is recorded like any result: a grant that the operator changes between
//! a crash and the restart does not make a running handler diverge; the next attempt sees the new grant.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::clock::Clock;
use crate::digest::Digest;
use crate::plugins::guest_clock::GuestClock;
use crate::store::{CallState, ClaimToken, JournalEntry, SharedStore, StoreError};
use crate::task::{Failure, FailureClass, TaskId};

/// Results up to so many bytes of JSON stand in the journal's row; larger ones become artifacts, and the row names them.
const LARGEST_ROW: usize = 64 * 1024;

/// So many bytes of the arguments are kept for people; their digest is taken from all of them.
const SHOWN_ARGUMENTS: usize = 4 * 1024;

/// Names a call for ever: the idempotency key of its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallKey {
    pub task: TaskId,
    pub attempt: u32,
    pub seq: u64,
}

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.task, self.attempt, self.seq)
    }
}

/// What a call may have done when the host dies before its result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, or something inside the house that is the same when done again (a file under its digest, a child under
    /// its key). No intent is written.
    Repeatable,
    /// Something outside the store that knows the call's key and is not done twice. The intent is written first.
    Keyed,
    /// Something outside that must not be repeated. The intent is written first; found without a result, the call
    /// fails with `outcome_unknown`.
    Once,
}

/// Why an import does not return a value.
#[derive(Clone, Debug)]
pub enum Interrupt {
    /// The call failed, and the guest is told.
    Failed(Failure),
    /// The guest goes no further: its task ends with this failure.
    Stop(Failure),
}

impl From<Failure> for Interrupt {
    fn from(failure: Failure) -> Self {
        Interrupt::Failed(failure)
    }
}

/// What a call path is made of.
pub struct Journaling {
    pub store: SharedStore,
    pub artifacts: Artifacts,
    pub clock: Clock,
    pub guest_clock: GuestClock,
    pub task: TaskId,
    pub token: ClaimToken,
    pub attempt: u32,
    /// Most calls of one attempt (`plugins.limits.calls`).
    pub calls: u64,
    /// The plugin that runs, for messages: `travel_stitch 1.0.0`.
    pub running: String,
    /// The plugin that the attempt was routed to, when that is known.
    pub routed: Option<String>,
    /// Set before anything of the task is stopped (its jobs, its children): what comes back after that is not recorded.
    pub cancel: CancellationToken,
}

/// The calls of one start of a handler: answered by the journal as far as it reaches, made and recorded from there on.
pub struct CallPath {
    parts: Journaling,
    /// Calls made so far in this start; the last one's number.
    seq: u64,
    /// What is left of the journal as it was at the first call. None: no call was made yet, so nothing was read. A
    /// handler that makes no calls costs no read and no write.
    recorded: Option<VecDeque<JournalEntry>>,
}

impl CallPath {
    pub fn new(parts: Journaling) -> Self {
        Self { parts, seq: 0, recorded: None }
    }

    /// Makes a call, or answers it from the journal.
    ///
    /// `arguments` are what makes the call this call: a replay must make it with equal ones. `permit` is the refusal, if the
    /// call is not allowed. Stops the guest with `call_limit`, `journal_diverged` (worth a new attempt), `lost_claim` or
    /// `store_failed`.
    pub async fn record<T, F>(
        &mut self,
        function: &'static str,
        arguments: &impl Serialize,
        effect: Effect,
        permit: Result<(), Failure>,
        call: impl FnOnce(CallKey) -> F,
    ) -> Result<T, Interrupt>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T, Interrupt>>,
    {
        if self.seq >= self.parts.calls {
            return Err(Interrupt::Stop(self.over_limit(function)));
        }
        self.read().await?;
        self.seq += 1;
        let arguments = canonical(&serde_json::to_value(arguments).map_err(broken)?);
        let digest = Digest::of(arguments.as_bytes());
        let key = CallKey { task: self.parts.task, attempt: self.parts.attempt, seq: self.seq };

        let recorded = self.recorded.as_mut().and_then(VecDeque::pop_front);
        let repeated = recorded.is_some();
        if let Some(entry) = recorded {
            if (entry.seq, entry.function.as_str(), entry.arguments_digest) != (self.seq, function, digest) {
                return Err(Interrupt::Stop(self.diverged(&entry, function, &arguments)));
            }
            if entry.state == CallState::Done {
                return self.answer(entry).await;
            }
        }

        let entry = |state, result, at| JournalEntry {
            attempt: key.attempt,
            seq: key.seq,
            function: function.to_string(),
            arguments_digest: digest,
            arguments: Some(shown(&arguments)),
            state,
            result,
            at,
        };
        let result = match permit {
            Err(refusal) => Err(refusal),
            Ok(()) if effect == Effect::Once && repeated => Err(outcome_unknown(function, key)),
            Ok(()) => {
                if effect != Effect::Repeatable && !repeated {
                    self.write(entry(CallState::Intent, None, self.parts.clock.now())).await?;
                }
                match call(key).await {
                    Ok(value) => Ok(value),
                    Err(Interrupt::Failed(failure)) => Err(failure),
                    // Nothing that the guest gets to know: not a result.
                    Err(stop @ Interrupt::Stop(_)) => return Err(stop),
                }
            }
        };
        // What comes back while everything is being stopped says more about the stopping than about the call. It is made
        // again when the attempt goes on; only what cannot be made again is kept.
        let keep = effect == Effect::Once && result.is_ok();
        if self.parts.cancel.is_cancelled() && !keep {
            return Err(Interrupt::Stop(Failure::cancelled(format!("The handler was stopped in `{function}`."))));
        }
        let row = match &result {
            Ok(value) => json!({ "ok": value }),
            Err(failure) => json!({ "err": failure }),
        };
        let row = self.compact(row).await?;
        let at = self.parts.clock.now();
        self.write(entry(CallState::Done, Some(row), at)).await?;
        self.parts.guest_clock.advance_to(at);
        result.map_err(Interrupt::Failed)
    }

    /// Whether the next call will be answered by the journal.
    pub async fn replaying(&mut self) -> Result<bool, Interrupt> {
        self.read().await?;
        let next = self.recorded.as_ref().and_then(VecDeque::front);
        Ok(next.is_some_and(|entry| entry.state == CallState::Done))
    }

    /// Number of the last call.
    pub fn made(&self) -> u64 {
        self.seq
    }

    /// The handler returned. A record that reaches further than it came is a divergence, too.
    pub fn finish(&self) -> Result<(), Failure> {
        match self.recorded.as_ref().and_then(VecDeque::front) {
            Some(entry) => Err(self.divergence(entry, "the handler now returns instead", None)),
            None => Ok(()),
        }
    }

    /// Reads the journal before the first call.
    async fn read(&mut self) -> Result<(), Interrupt> {
        if self.recorded.is_none() {
            let entries = self.parts.store.journal(self.parts.task, self.parts.attempt).await;
            self.recorded = Some(entries.map_err(stop)?.into());
        }
        Ok(())
    }

    async fn write(&self, entry: JournalEntry) -> Result<(), Interrupt> {
        self.parts.store.journal_write(self.parts.task, self.parts.token, entry).await.map_err(stop)
    }

    /// What the record says.
    async fn answer<T: DeserializeOwned>(&self, entry: JournalEntry) -> Result<T, Interrupt> {
        let (seq, at) = (entry.seq, entry.at);
        let unreadable = |why: String| {
            Interrupt::Stop(
                Failure::internal(
                    "journal_unreadable",
                    format!("The recorded result of call {seq} (`{}`) cannot be used: {why}.", entry.function),
                )
                .retryable(),
            )
        };
        let mut row = entry.result.clone().ok_or_else(|| unreadable("it is missing".into()))?;
        if let Some(digest) = row.get("stored").and_then(Value::as_str) {
            let digest: Digest = digest.parse().map_err(|e| unreadable(format!("{e}")))?;
            let path = self.parts.artifacts.path(digest).map_err(|e| unreadable(e.message))?;
            let bytes = tokio::fs::read(&path).await.map_err(|e| unreadable(e.to_string()))?;
            row = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        }
        self.parts.guest_clock.advance_to(at);
        let Value::Object(mut row) = row else { return Err(unreadable("it is no object".into())) };
        if let Some(failure) = row.remove("err") {
            let failure = serde_json::from_value(failure).map_err(|e| unreadable(e.to_string()))?;
            return Err(Interrupt::Failed(failure));
        }
        let value = row.remove("ok").ok_or_else(|| unreadable("it says neither `ok` nor `err`".into()))?;
        serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))
    }

    /// A large result becomes an artifact, and the row names it.
    async fn compact(&self, row: Value) -> Result<Value, Interrupt> {
        let text = row.to_string();
        if text.len() <= LARGEST_ROW {
            return Ok(row);
        }
        let file = self.parts.artifacts.import_bytes(text.into_bytes(), "result.json").await;
        Ok(json!({ "stored": file.map_err(Interrupt::Stop)?.artifact }))
    }

    fn over_limit(&self, function: &str) -> Failure {
        Failure::denied(
            "call_limit",
            format!(
                "The plugin {} made more than {} recorded calls in one attempt (the next was `{function}`). The limit is \
                 `plugins.limits.calls`.",
                self.parts.running, self.parts.calls
            ),
        )
    }

    fn diverged(&self, recorded: &JournalEntry, function: &str, arguments: &str) -> Failure {
        let now = if recorded.function == function {
            format!("the handler now calls `{function}` with other arguments")
        } else {
            format!("the handler now calls `{function}`")
        };
        self.divergence(recorded, &now, Some(arguments))
    }

    fn divergence(&self, recorded: &JournalEntry, now: &str, arguments: Option<&str>) -> Failure {
        let Journaling { running, routed, attempt, .. } = &self.parts;
        let detail = format!(
            "recorded: {} {}\nnow:      {}",
            recorded.function,
            recorded.arguments.as_deref().unwrap_or("(arguments not kept)"),
            arguments.map_or_else(|| now.to_string(), shown)
        );
        Failure::internal(
            "journal_diverged",
            format!(
                "Call {} of attempt {attempt} differs from its record: recorded is `{}`{}, {now} ({running}). A handler must \
                 depend on nothing but its task and what its calls return; a fresh attempt begins.",
                recorded.seq,
                recorded.function,
                routed.as_ref().map_or_else(String::new, |by| format!(" by {by}")),
            ),
        )
        .retryable()
        .with_detail(detail)
    }
}

/// JSON text that is equal for equal values: members sorted, no white space.
fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let mut names: Vec<_> = members.iter().collect();
                names.sort_by_key(|(name, _)| *name);
                Value::Object(names.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

fn shown(arguments: &str) -> String {
    if arguments.len() <= SHOWN_ARGUMENTS {
        return arguments.to_string();
    }
    let end = (0..=SHOWN_ARGUMENTS).rev().find(|i| arguments.is_char_boundary(*i)).unwrap_or(0);
    format!("{} … ({} bytes)", arguments.get(..end).unwrap_or_default(), arguments.len())
}

fn outcome_unknown(function: &str, key: CallKey) -> Failure {
    Failure::new(
        FailureClass::Dependency,
        "outcome_unknown",
        format!(
            "Whether call {} (`{function}`) took effect is not known: the host stopped before it had the answer, and the \
             call must not be repeated.",
            key.seq
        ),
    )
}

/// What the store says to a write of the guest's holder.
pub(super) fn stop(error: StoreError) -> Interrupt {
    Interrupt::Stop(match error {
        StoreError::LostClaim { .. } => Failure::new(
            FailureClass::Cancelled,
            "lost_claim",
            format!("The handler was stopped: {error}. What it did since is not counted."),
        ),
        StoreError::Refused { code, message } => Failure::internal(code, message),
        other => Failure::internal("store_failed", format!("A call could not be recorded: {other}.")).retryable(),
    })
}

fn broken(error: serde_json::Error) -> Interrupt {
    Interrupt::Stop(Failure::internal("arguments_unwritable", format!("A call's arguments are no JSON: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_arguments_have_equal_text_however_they_were_written() {
        let one: Value = serde_json::from_str(r#"{"b": [1, {"y": 2.5, "x": null}], "a": "ä"}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{ "a":"\u00e4", "b":[1,{"x":null,"y":2.50}] }"#).unwrap();
        assert_eq!(canonical(&one), canonical(&other));
        assert_eq!(canonical(&one), r#"{"a":"ä","b":[1,{"x":null,"y":2.5}]}"#);
        assert_ne!(canonical(&json!([1, 2])), canonical(&json!([2, 1])), "order in lists counts");
    }

    #[test]
    fn long_arguments_are_cut_between_characters() {
        let long = "ä".repeat(SHOWN_ARGUMENTS);
        let text = shown(&long);
        assert!(text.len() < SHOWN_ARGUMENTS + 40 && text.ends_with(&format!("({} bytes)", long.len())));
        assert_eq!(shown("short"), "short");
    }
}
