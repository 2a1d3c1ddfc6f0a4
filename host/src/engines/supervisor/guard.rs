//! The guard: `enginehouse guard`, a small process between the host and one engine, so that no engine outlives its host.
//!
//! It leads a process group of its own, in which the engine runs, and adopts what the engine's processes leave behind when
//! they end. Its input is a socket whose other end the host alone holds. When that closes, or the system says that the host
//! has died (SIGTERM, its parent-death signal), it ends with SIGKILL whatever descends from it, wherever that has moved to,
//! and then itself. When the engine ends, it says how and ends the rest in the same way. When the guard itself is killed, the
//! engine gets SIGKILL from the system. Nothing else lives in here: no settings, no network, no secrets.
//!
//! The engine's own parent-death signal must be set between its birth and its program. That is a second, shorter life of the
//! same command (`guard --exec`), which turns into the engine.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, getppid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};

use super::processes::{self, Process};
use super::spawn;

/// Pause between two looks at what lives still; doubled up to the second.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What a shell answers for a program that cannot be started.
const NOT_STARTED: u8 = 127;

/// What the guard tells the host, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    /// The engine's process is there.
    Started(Process),
    /// It has ended; the rest of what it started is ended now.
    Exited { code: Option<i32>, signal: Option<i32> },
    /// It could not be started.
    Failed(String),
}

/// What the host tells the guard, a line of JSON each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// SIGINT to the group.
    Interrupt,
    /// SIGTERM to the group.
    Terminate,
    /// SIGKILL to everything.
    Kill,
}

/// Guards `command` for the host with this pid. Call it while the process has one thread.
pub fn run(parent: u32, command: &[OsString]) -> ExitCode {
    let prepared = die_with_parent(Signal::TERM).and_then(|()| adopt_orphans());
    if let Err(e) = prepared {
        eprintln!("cannot guard an engine: {e}");
        return ExitCode::FAILURE;
    }
    if !is_parent(parent) {
        // Died before the system was asked to tell.
        return ExitCode::FAILURE;
    }
    // One thread: a child gets its parent-death signal when the thread ends that started it.
    let guarded = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(guard(command)));
    match guarded {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("an engine cannot be guarded: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes `command`, which the system then ends together with the guard with this pid. Returns only when that fails.
pub fn exec(parent: u32, command: &[OsString]) -> ExitCode {
    let Some((program, args)) = command.split_first() else { return ExitCode::from(NOT_STARTED) };
    if let Err(e) = die_with_parent(Signal::KILL) {
        eprintln!("cannot tie {} to its guard: {e}", program.display());
        return ExitCode::from(NOT_STARTED);
    }
    if is_parent(parent) {
        let e = Command::new(program).args(args).exec();
        eprintln!("cannot start {}: {e}", program.display());
    }
    ExitCode::from(NOT_STARTED)
}

async fn guard(command: &[OsString]) -> io::Result<()> {
    // Caught, not ignored: what is ignored stays so in the engine. All of them before there is anything to guard.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut child_ended = signal(SignalKind::child())?;
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let host = StdStream::from(input);
    host.set_nonblocking(true)?;
    let (orders, notes) = UnixStream::from_std(host)?.into_split();
    let mut orders = BufReader::new(orders).lines();

    let started = Command::new(spawn::this_program())
        .arg0("enginehouse")
        .args(["guard", "--exec", "--parent", &std::process::id().to_string(), "--"])
        .args(command)
        .stdin(Stdio::null())
        .spawn();
    let engine = match started {
        Ok(child) => child.id(),
        Err(e) => {
            let mut guard = Guard { notes, engine: None, exit: None };
            guard.tell(&Note::Failed(format!("no process for it: {e}"))).await;
            return Ok(());
        }
    };
    let mut guard = Guard { notes, engine: Process::of(engine), exit: None };
    guard.engine = guard.engine.or(Some(Process { pid: engine, started: 0 }));
    if let Some(engine) = guard.engine {
        guard.tell(&Note::Started(engine)).await;
    }
    loop {
        tokio::select! {
            order = orders.next_line() => match order {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(Order::Interrupt) => guard.signal(Signal::INT),
                    Ok(Order::Terminate) => guard.signal(Signal::TERM),
                    Ok(Order::Kill) => break,
                    Err(e) => eprintln!("the guard does not understand its host: {e}"),
                },
                // The host is gone.
                Ok(None) | Err(_) => break,
            },
            _ = terminated.recv() => break,
            // Meant for the group, or for a terminal: the host decides.
            _ = interrupted.recv() => {}
            _ = hung_up.recv() => {}
            _ = child_ended.recv() => {
                guard.reap();
                if guard.exit.is_some() {
                    break;
                }
            }
        }
    }
    guard.report().await;
    guard.end_all().await;
    guard.report().await;
    Ok(())
}

struct Guard {
    notes: OwnedWriteHalf,
    engine: Option<Process>,
    /// How the engine ended, until the host is told.
    exit: Option<Note>,
}

impl Guard {
    /// To those in the group that are not this process.
    fn signal(&self, signal: Signal) {
        let own = std::process::id();
        let mut meant = processes::group(&processes::all(), own);
        meant.extend(self.engine);
        for process in meant.into_iter().filter(|process| process.pid != own) {
            process.signal(signal);
        }
    }

    /// Takes note of every child that has ended. False: there is no child, and so nothing that descends from this process,
    /// as it adopts whatever loses its parent.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    if self.engine.is_some_and(|engine| is(pid, engine.pid)) {
                        self.exit =
                            Some(Note::Exited { code: status.exit_status(), signal: status.terminating_signal() });
                    }
                }
                Ok(None) | Err(Errno::INTR) => return true,
                Err(_) => return false,
            }
        }
    }

    /// SIGKILL to everything that descends from this process, until there is nothing.
    async fn end_all(&mut self) {
        let own = std::process::id();
        let mut pause = FIRST_LOOK;
        while self.reap() {
            for process in processes::descendants(&processes::all(), own) {
                process.signal(Signal::KILL);
            }
            if cfg!(not(target_os = "linux")) {
                // Without a list of processes: the group, this one included.
                rustix::process::kill_process_group(getpid(), Signal::KILL).ok();
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LAST_LOOK);
        }
    }

    /// Tells how the engine ended, once.
    async fn report(&mut self) {
        if let Some(exit) = self.exit.take() {
            self.tell(&exit).await;
        }
    }

    async fn tell(&mut self, note: &Note) {
        if let Ok(mut line) = serde_json::to_vec(note) {
            line.push(b'\n');
            // A host that does not hear it is gone, which is seen elsewhere.
            self.notes.write_all(&line).await.ok();
        }
    }
}

fn is_parent(pid: u32) -> bool {
    getppid().is_some_and(|parent| is(parent, pid))
}

fn is(pid: Pid, number: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(number)
}

#[cfg(target_os = "linux")]
fn die_with_parent(signal: Signal) -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(signal))?)
}

#[cfg(target_os = "linux")]
fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(getpid()))?)
}

/// Elsewhere the closing socket alone tells of the host's end.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: Signal) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn adopt_orphans() -> io::Result<()> {
    Ok(())
}
