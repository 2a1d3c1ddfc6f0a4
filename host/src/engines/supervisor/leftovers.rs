//! What a host that died left running. Its guards end their engines within moments; this is for the case that a guard was
//! killed with its host. Ended is what is certain to be left over: processes with the recorded pid *and* start time, what
//! they started, and what carries the recorded mark.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use super::processes::{self, Entry, Process};
use super::record::Record;
use crate::clock::Stopwatch;
use crate::store::holder;

/// How long a killed process may take to be gone before this goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often this looks whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Ends what earlier hosts left, by the records in this folder (`data/engines`), and says how many processes that were.
/// What belongs to a host that lives is left alone. For the start of a host, before anything is supervised; blocks, for
/// moments if there is something to end and for at most some seconds per engine.
pub fn end(folder: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    let names = files.filter_map(|file| Some(file.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_string()));
    names.map(|name| end_one(folder, &name)).sum()
}

/// The same for one engine.
pub(super) fn end_one(folder: &Path, name: &str) -> usize {
    let record = match Record::read(folder, name) {
        Ok(Some(record)) => record,
        Ok(None) => return 0,
        Err(e) => {
            let path = Record::path(folder, name);
            tracing::warn!(path = %path.display(), error = %e, "cannot tell what an earlier host left running: its record is unreadable");
            return 0;
        }
    };
    let me = holder::this_process();
    // Nothing outlives a boot, and on another machine the numbers mean other processes.
    if record.host.machine != me.machine || record.host.boot != me.boot || !holder::is_gone(&record.host, &me) {
        return 0;
    }
    let mut ended = BTreeSet::new();
    let patience = Stopwatch::start();
    loop {
        let left = left_of(&record, &processes::all());
        if left.is_empty() {
            break;
        }
        if patience.elapsed() > PATIENCE {
            tracing::error!(
                engine = name,
                ?left,
                "processes that an earlier host left cannot be ended: they do not react to SIGKILL"
            );
            break;
        }
        // The guard last: while it lives, what it adopted is known to be its own.
        let (guard, others): (Vec<Process>, Vec<Process>) = left.iter().partition(|one| Some(**one) == record.guard);
        for process in others.into_iter().chain(guard) {
            process.signal(Signal::KILL);
        }
        ended.extend(left);
        std::thread::sleep(LOOK_EVERY);
    }
    if !ended.is_empty() {
        tracing::warn!(engine = name, processes = ended.len(), "ended what an earlier host left running");
    }
    ended.len()
}

/// What lives still of a start.
fn left_of(record: &Record, all: &[Entry]) -> BTreeSet<Process> {
    let mut left = BTreeSet::new();
    for process in [record.guard, record.engine].into_iter().flatten() {
        if all.iter().any(|entry| entry.process == process) {
            left.insert(process);
            left.extend(processes::descendants(all, process.pid));
        }
    }
    if let Some(guard) = record.guard.filter(|guard| left.contains(guard)) {
        left.extend(processes::group(all, guard.pid));
    }
    if let Some(mark) = &record.mark {
        left.extend(processes::marked(all, mark));
    }
    left
}

/// Ends whatever carries a mark: for a host whose guard was killed. Blocks, as above.
pub(super) fn end_marked(mark: &str) {
    let patience = Stopwatch::start();
    loop {
        let left = processes::marked(&processes::all(), mark);
        if left.is_empty() || patience.elapsed() > PATIENCE {
            return;
        }
        for process in left {
            process.signal(Signal::KILL);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
