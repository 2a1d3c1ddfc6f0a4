//! What may go wrong on request, and what happened.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Faults, all off by default. `standin.json` and `POST /standin/faults` hold any of them; a posted object replaces
/// the fields it names and leaves the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Seconds before the port is bound: until then connections are refused.
    pub start_delay_s: f64,
    /// Of the program only.
    pub exit_at_start: Option<ExitAtStart>,
    /// Of the program only: this many starts end with exit code 1 as if the port were taken.
    pub port_in_use_times: u32,
    /// This many connections are accepted and closed at once.
    pub refuse_connections: u32,
    pub drop_socket: Option<DropSocket>,
    /// Every socket falls silent, without closing, after this many messages.
    pub silence_socket_after: Option<u32>,
    /// Milliseconds between `execution_success` (or another last message) and the record in the history.
    pub history_delay_ms: u64,
    /// This many records are never written.
    pub lose_records: u32,
    /// The worker takes no prompt.
    pub hang: bool,
    /// Milliseconds every node waits before it runs.
    pub node_delay_ms: u64,
    /// Of the program only, since it is the process that dies.
    pub die: Option<Die>,
    /// Files are deleted right after they were saved.
    pub vanish_outputs: bool,
    /// Of the program only.
    pub grandchildren: Grandchildren,
    /// Of the program only: lines written to stderr at the start.
    pub noise_lines: u32,
}

/// The program ends before it listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitAtStart {
    pub code: u8,
    /// How many starts; counted in `standin.counts.json` beside `standin.json`, over processes.
    pub times: u32,
}

/// A socket is cut, without a close frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropSocket {
    /// After this many messages.
    pub after: u32,
    /// How many sockets.
    pub times: u32,
}

/// The process kills itself (SIGKILL) when a node of this class starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Die {
    pub class: String,
    /// How many times; counted as in [`ExitAtStart`].
    pub times: u32,
}

/// Processes that the server starts and does not end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grandchildren {
    /// In the group of the server.
    pub plain: u32,
    /// In a session, and so in a group, of their own.
    pub own_session: u32,
}

impl Faults {
    /// These faults with the members of `changes` in place of theirs.
    ///
    /// # Errors
    /// When `changes` is no object, or a member is unknown or has a wrong type.
    pub fn changed(&self, changes: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let changes: serde_json::Map<String, serde_json::Value> = serde_json::from_value(changes.clone())?;
        let mut whole = serde_json::to_value(self)?;
        for (name, value) in changes {
            whole[name] = value;
        }
        serde_json::from_value(whole)
    }
}

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Accepted submissions by prompt id.
    pub prompts: BTreeMap<String, u32>,
    /// Submissions that were refused.
    pub refused: u32,
    /// Prompts that the worker took, by id.
    pub executions: BTreeMap<String, u32>,
    /// Nodes that really ran, by class.
    pub nodes: BTreeMap<String, u32>,
    /// Requests for interruption: the prompt id, or null for whatever runs.
    pub interrupts: Vec<Option<String>>,
    /// Names that uploads were given.
    pub uploads: Vec<String>,
    /// Ids whose record was deleted by request.
    pub history_deletes: Vec<String>,
    /// Requests to free memory.
    pub frees: u32,
    /// Sockets that were opened.
    pub sockets: u32,
    /// Process ids of the grandchildren.
    pub grandchildren: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posted_faults_replace_the_members_they_name() {
        let faults = Faults { hang: true, lose_records: 2, ..Faults::default() };
        let changed = faults.changed(&serde_json::json!({"hang": false, "history_delay_ms": 5})).unwrap();
        assert_eq!(changed, Faults { lose_records: 2, history_delay_ms: 5, ..Faults::default() });
        assert!(faults.changed(&serde_json::json!({"no_such_fault": 1})).is_err());
        assert!(faults.changed(&serde_json::json!([])).is_err());
    }
}
