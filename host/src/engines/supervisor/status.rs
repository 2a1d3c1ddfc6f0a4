//! What is known of an engine: its state, its starts, how it ended.

use std::fmt;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What is known of an engine at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// `comfyui`
    pub name: String,
    /// For people: `ComfyUI`.
    pub title: String,
    pub state: State,
    /// Starts since the host began, whatever became of them.
    pub starts: u64,
    /// How often a process was ended by the host to be started anew.
    pub restarts: u64,
    /// How the last process ended that had been started.
    pub last_exit: Option<PastExit>,
    /// What went wrong last: a start that failed, a process that ended by itself.
    pub last_error: Option<PastError>,
}

impl EngineStatus {
    pub(super) fn new(name: &str, title: String) -> Self {
        Self {
            name: name.into(),
            title,
            state: State::Stopped,
            starts: 0,
            restarts: 0,
            last_exit: None,
            last_error: None,
        }
    }
}

/// Whether an engine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// It is started when it is needed.
    Stopped,
    /// Not ready yet.
    Starting { since: Timestamp },
    /// `since` is when it got ready.
    Ready { pid: u32, since: Timestamp },
    /// It is being ended, or what it left is.
    Stopping { since: Timestamp },
    /// It ended badly; from `until` on it is started again when it is needed. `why`: `it did not start (exit code 1)`.
    BackingOff { until: Timestamp, why: String },
    /// Too many starts failed; until `until` nobody tries.
    Unavailable { until: Timestamp, why: String },
}

impl State {
    /// One word, stable: `ready`.
    pub fn word(&self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting { .. } => "starting",
            State::Ready { .. } => "ready",
            State::Stopping { .. } => "stopping",
            State::BackingOff { .. } => "backing off",
            State::Unavailable { .. } => "unavailable",
        }
    }
}

/// The word, and the reason if there is one.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::BackingOff { until, why } | State::Unavailable { until, why } => {
                write!(f, "{} until {until}: {why}", self.word())
            }
            _ => f.write_str(self.word()),
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code. None: a signal ended it, or nobody saw how it ended.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The host ended it, by `restart` or `stop`.
    pub asked: bool,
    /// For people: `exit code 1: ModuleNotFoundError: No module named 'torch'`.
    pub words: String,
}

impl Exit {
    /// In words, with the last line that the process printed.
    pub(super) fn new(code: Option<i32>, signal: Option<i32>, asked: bool, last_line: Option<&str>) -> Self {
        let end = match (code, signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by {}", signal_name(signal)),
            (None, None) => "it ended together with its guard process".into(),
        };
        let words = match last_line {
            // Who ended it knows why.
            Some(line) if !asked => format!("{end}: {line}"),
            _ => end,
        };
        Self { code, signal, asked, words }
    }

    /// Nobody saw it end.
    pub(super) fn unknown() -> Self {
        Self { code: None, signal: None, asked: false, words: "nobody saw how it ended".into() }
    }
}

/// How and when a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastExit {
    pub at: Timestamp,
    pub exit: Exit,
}

/// What went wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastError {
    pub at: Timestamp,
    pub words: String,
}

fn signal_name(number: i32) -> String {
    let name = match Signal::from_named_raw(number) {
        Some(Signal::INT) => "SIGINT",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::SEGV) => "SIGSEGV, a fault of the program",
        Some(Signal::ABORT) => "SIGABRT, a fault of the program",
        Some(Signal::BUS) => "SIGBUS, a fault of the program",
        Some(Signal::ILL) => "SIGILL, a fault of the program",
        Some(Signal::FPE) => "SIGFPE, a fault of the program",
        Some(Signal::HUP) => "SIGHUP",
        _ => return format!("signal {number}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_the_last_line_unless_it_was_asked_for() {
        let exit = |code, signal, asked, line| Exit::new(code, signal, asked, line).words;
        assert_eq!(exit(Some(1), None, false, Some("no torch")), "exit code 1: no torch");
        assert_eq!(exit(None, Some(9), false, None), "ended by SIGKILL");
        assert_eq!(exit(None, Some(2), true, Some("bye")), "ended by SIGINT");
        assert_eq!(exit(None, Some(60), false, None), "ended by signal 60");
    }

    #[test]
    fn a_state_survives_json() {
        let state = State::Unavailable { until: Timestamp(0), why: "x".into() };
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["is"], "unavailable");
        assert_eq!(serde_json::from_value::<State>(json).unwrap(), state);
        assert_eq!(state.to_string(), "unavailable until 1970-01-01T00:00:00Z: x");
    }
}
