//! What the system knows of processes, and signals that cannot hit the wrong one.
//!
//! A pid alone proves nothing, as pids are used again: a process is a pid together with its start time. What the engine
//! started is found by three traces, each of which it may cover up alone: its parents, its process group, and a mark in the
//! environment that everything inherits.

use std::collections::BTreeSet;
use std::io;

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// Names the environment variable with the mark: a random text, another one for each start.
pub(super) const MARK: &str = "STARTED_BY_ENGINEHOUSE";

/// One process of this machine, since one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

impl Process {
    /// The living process with this pid.
    pub fn of(pid: u32) -> Option<Self> {
        entry(pid).map(|entry| entry.process)
    }

    /// Whether it lives still. What was killed and not yet waited for does not.
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal to it, and never to another process that has got its pid. False: there is no such process.
    pub(super) fn signal(self, signal: Signal) -> bool {
        let Some(pid) = self.pid.try_into().ok().and_then(Pid::from_raw) else { return false };
        self.signal_at(pid, signal).is_ok()
    }

    /// The handle is opened first and the start time compared afterwards: from then on the handle stands for that process.
    #[cfg(target_os = "linux")]
    fn signal_at(self, pid: Pid, signal: Signal) -> io::Result<()> {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) if self.lives() => Ok(pidfd_send_signal(handle, signal)?),
            // A kernel without such handles.
            Err(rustix::io::Errno::NOSYS) if self.lives() => Ok(rustix::process::kill_process(pid, signal)?),
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
            Err(e) => Err(e.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn signal_at(self, pid: Pid, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::kill_process(pid, signal)?)
    }
}

/// A living process and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub process: Process,
    pub parent: u32,
    pub group: u32,
}

/// Every living process. They come and go while this looks: one look may miss one whose parent has just ended.
pub(super) fn all() -> Vec<Entry> {
    let Ok(folder) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = folder.filter_map(|found| found.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(entry).collect()
}

/// Those of a group.
pub(super) fn group(all: &[Entry], group: u32) -> BTreeSet<Process> {
    all.iter().filter(|entry| entry.group == group).map(|entry| entry.process).collect()
}

/// The children of a process, their children, and so on.
pub(super) fn descendants(all: &[Entry], of: u32) -> BTreeSet<Process> {
    let mut found = BTreeSet::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for entry in all.iter().filter(|entry| entry.parent == parent) {
            if found.insert(entry.process) {
                parents.push(entry.process.pid);
            }
        }
    }
    found
}

/// Those that carry a mark in their environment, as far as this user may look.
pub(super) fn marked(all: &[Entry], mark: &str) -> BTreeSet<Process> {
    let wanted = format!("{MARK}={mark}");
    let carries = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    all.iter().filter(|entry| carries(entry.process.pid)).map(|entry| entry.process).collect()
}

fn entry(pid: u32) -> Option<Entry> {
    parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: u32, stat: &str) -> Option<Entry> {
    // The second field is the program's name in brackets, which may hold spaces and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // Field 3 of the whole line comes first here.
    let field = |number: usize| fields.get(number - 3).copied();
    // What was killed and not yet waited for is gone, unless threads of it still run without the first one.
    let threads: u32 = field(20)?.parse().ok()?;
    if matches!(field(3)?, "Z" | "X") && threads <= 1 {
        return None;
    }
    Some(Entry {
        process: Process { pid, started: field(22)?.parse().ok()? },
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_with_brackets_and_dead_leaders_are_read_right() {
        let stat = |state: &str, threads: u32| {
            format!("7 (a) b) {state} 3 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 {threads} 0 991 1 2 3\n")
        };
        let wanted = Entry { process: Process { pid: 7, started: 991 }, parent: 3, group: 5 };
        assert_eq!(parse(7, &stat("S", 1)), Some(wanted));
        assert_eq!(parse(7, &stat("Z", 1)), None);
        assert_eq!(parse(7, &stat("Z", 4)), Some(wanted));
        assert_eq!(parse(7, "nonsense"), None);
    }

    #[test]
    fn a_signal_reaches_the_process_that_is_meant_and_no_other_with_its_pid() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.lives() && !other.signal(Signal::KILL));
        assert!(process.lives() && child.try_wait().unwrap().is_none());
        assert!(process.signal(Signal::KILL));
        child.wait().unwrap();
        assert!(!process.lives() && !process.signal(Signal::KILL));
    }

    #[test]
    fn what_a_process_started_is_found_by_parents_and_by_its_mark() {
        let mark = uuid::Uuid::new_v4().to_string();
        let mut child = Command::new("sh").args(["-c", "sleep 600 & wait"]).env(MARK, &mark).spawn().unwrap();
        let grandchildren = loop {
            let all = all();
            let found = descendants(&all, child.id());
            // The second one has its environment once its program runs.
            if found.len() == 1 && marked(&all, &mark).len() == 2 {
                assert!(marked(&all, &mark).is_superset(&found));
                break found;
            }
        };
        for process in grandchildren {
            process.signal(Signal::KILL);
        }
        child.wait().unwrap();
        assert!(marked(&all(), &mark).is_empty());
    }
}
