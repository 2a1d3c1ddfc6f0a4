//! Which process holds a claim, and whether it still lives. A pid alone proves nothing, as pids are used again: a
//! holder is a pid together with the start time of its process, on one machine, since one boot.

use std::path::Path;

use crate::task::Holder;

/// What this process is to a store.
pub fn this_process() -> Holder {
    let pid = std::process::id();
    Holder { machine: machine(), boot: boot(), pid, started: started(pid).unwrap_or(0) }
}

/// What another living process of this machine is to a store. None: there is none with this pid.
pub fn process(pid: u32) -> Option<Holder> {
    Some(Holder { machine: machine(), boot: boot(), pid, started: started(pid)? })
}

/// Whether `holder` is known to be dead, as far as `me` can tell: only a process of the same machine can be judged, by
/// the boot it belongs to and by what `/proc` says of its pid. Never true of `me`.
pub fn is_gone(holder: &Holder, me: &Holder) -> bool {
    if holder == me || holder.machine != me.machine || holder.machine.is_empty() {
        return false;
    }
    if holder.boot != me.boot {
        return true;
    }
    // Where processes cannot be looked up, nothing is known of them.
    Path::new("/proc/self/stat").exists() && started(holder.pid) != Some(holder.started)
}

/// When the process with this pid started, in clock ticks since boot. None: there is no such process, or only its exit
/// status is left of it.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, which may hold spaces and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    // A process that was killed and not yet waited for is as dead as one that is gone.
    if matches!(state, "Z" | "X") {
        return None;
    }
    // The state is field 3, the start time field 22.
    fields.nth(18)?.parse().ok()
}

/// Machine id, host name and pid namespace: two processes with the same text see the same pids.
fn machine() -> String {
    let id = read("/etc/machine-id");
    let name = read("/proc/sys/kernel/hostname");
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default();
    [id, name, namespace].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn boot() -> String {
    read("/proc/sys/kernel/random/boot_id")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_gone() {
        let me = this_process();
        assert!(me.started > 0 && !me.machine.is_empty() && !me.boot.is_empty(), "{me:?}");
        assert!(!is_gone(&me, &me));
        if let Some(parent) = process(std::os::unix::process::parent_id()) {
            assert!(!is_gone(&parent, &me));
        }
    }

    #[test]
    fn a_used_pid_with_another_start_time_is_another_process() {
        let me = this_process();
        assert!(is_gone(&Holder { started: me.started + 1, ..me.clone() }, &me));
    }

    #[test]
    fn every_process_of_an_earlier_boot_is_gone() {
        let me = this_process();
        assert!(is_gone(&Holder { boot: "earlier".into(), ..me.clone() }, &me));
    }

    #[test]
    fn nothing_is_known_of_another_machine() {
        let me = this_process();
        assert!(!is_gone(&Holder { machine: "elsewhere".into(), started: 1, ..me.clone() }, &me));
    }

    #[test]
    fn a_process_that_ended_is_gone_whether_or_not_it_was_waited_for() {
        let me = this_process();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let holder = process(child.id()).unwrap();
        assert!(!is_gone(&holder, &me));
        child.kill().unwrap();
        // Killed and not waited for: it turns into a zombie as soon as the kernel gets to it.
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(is_gone(&holder, &me));
        child.wait().unwrap();
        assert!(is_gone(&holder, &me));
    }
}
