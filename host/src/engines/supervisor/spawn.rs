//! How a guard is started, and the two ways between it and the host: a socket that is the guard's input, for orders and
//! notes, which closes when either of them dies; and one pipe that takes what the engine prints.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::Launch;
use super::guard::{Note, Order};
use super::processes::{MARK, Process};

/// A guard that was started.
pub(super) struct Guarded {
    pub process: Process,
    child: Child,
    notes: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
}

/// This program as one that can be started even when its file has been replaced since.
pub(super) fn this_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() { link.into() } else { std::env::current_exe().unwrap_or_else(|_| link.into()) }
}

/// Starts a guard that starts the program, and gives what the engine prints. The error is words for people.
pub(super) async fn start(guard: &Path, launch: &Launch, mark: &str) -> Result<(Guarded, pipe::Receiver), String> {
    if !launch.folder.is_dir() {
        return Err(format!("the folder to start it in, {}, does not exist", launch.folder.display()));
    }
    try_start(guard, launch, mark)
        .await
        .map_err(|e| format!("its guard process, {} guard, cannot be started: {e}", guard.display()))
}

async fn try_start(guard: &Path, launch: &Launch, mark: &str) -> io::Result<(Guarded, pipe::Receiver)> {
    // Every end is closed when another program is executed, but for those that become the guard's input and output.
    let (mine, its) = StdStream::pair()?;
    let (output, printed) = io::pipe()?;
    let mut command = Command::new(guard);
    command
        .arg0("enginehouse")
        .args(["guard", "--parent", &std::process::id().to_string(), "--"])
        .arg(&launch.program)
        .args(&launch.args)
        .current_dir(&launch.folder)
        .stdin(Stdio::from(OwnedFd::from(its)))
        .stdout(printed.try_clone()?)
        .stderr(printed)
        .process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_the_hosts(name)) {
        command.env_remove(name);
    }
    command.envs(launch.env.iter().map(|(name, value)| (name, value))).env(MARK, mark);

    let child = spawn(command).await?;
    mine.set_nonblocking(true)?;
    let (notes, orders) = UnixStream::from_std(mine)?.into_split();
    // Not waited for yet, so its number is its own.
    let process = Process::of(child.id()).unwrap_or(Process { pid: child.id(), started: 0 });
    let notes = BufReader::new(notes).lines();
    Ok((Guarded { process, child, notes, orders }, pipe::Receiver::from_owned_fd(OwnedFd::from(output))?))
}

/// Settings and secrets of the host are not the engine's affair.
fn is_the_hosts(name: &OsStr) -> bool {
    name == "DATABASE_URL" || name.to_string_lossy().starts_with("ENGINEHOUSE_")
}

impl Guarded {
    /// What the guard has to say next. None: it has ended, and with it all that it guarded, unless it was killed. A call
    /// that is dropped loses nothing.
    pub async fn note(&mut self) -> Option<Note> {
        loop {
            let line = self.notes.next_line().await.ok()??;
            match serde_json::from_str(&line) {
                Ok(note) => return Some(note),
                Err(e) => tracing::warn!(line, error = %e, "a guard said something that is not understood"),
            }
        }
    }

    /// Tells the guard something. One that cannot hear it any more has ended.
    pub async fn order(&mut self, order: Order) {
        if let Ok(mut line) = serde_json::to_vec(&order) {
            line.push(b'\n');
            self.orders.write_all(&line).await.ok();
        }
    }

    /// Lets go of the guard, which then ends everything, and waits until it is gone.
    pub async fn release(self) {
        let Self { mut child, notes, orders, .. } = self;
        drop((notes, orders));
        // It ends by itself; waited for, it leaves no entry in the system's table.
        tokio::task::spawn_blocking(move || child.wait()).await.ok();
    }
}

type Request = (Command, oneshot::Sender<io::Result<Child>>);

/// Starts a program from a thread that lives as long as this process: the parent-death signal fires when the *thread* ends
/// that started the child.
async fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, queue) = channel();
        if let Err(e) = std::thread::Builder::new().name("engine-starts".into()).spawn(move || spawn_all(&queue)) {
            tracing::error!(error = %e, "engines cannot be started: no thread for it");
        }
        sender
    });
    let (sender, answer) = oneshot::channel();
    let no_thread = || io::Error::other("the thread that starts engines is gone");
    spawner.send((command, sender)).map_err(|_| no_thread())?;
    answer.await.map_err(|_| no_thread())?
}

fn spawn_all(queue: &Receiver<Request>) {
    while let Ok((mut command, answer)) = queue.recv() {
        let spawned = command.spawn();
        // With it go this process's copies of what became the child's input and output.
        drop(command);
        if let Err(Ok(mut child)) = answer.send(spawned) {
            // Nobody waits any more, nobody holds the other end of its socket: it ends by itself.
            child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_settings_stay_with_the_host() {
        for (name, hidden) in [
            ("ENGINEHOUSE_STORE__URL", true),
            ("ENGINEHOUSE_HOME", true),
            ("DATABASE_URL", true),
            ("PATH", false),
            ("CUDA_VISIBLE_DEVICES", false),
        ] {
            assert_eq!(is_the_hosts(OsStr::new(name)), hidden, "{name}");
        }
    }
}
