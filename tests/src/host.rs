//! Drives the built binary as a person would: a home in a temporary folder, commands, a running worker.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::guests;

/// Ceiling of every wait: far above what anything takes, so that a slow machine does not fail a test.
pub const CEILING: Duration = Duration::from_secs(60);

/// The binary, brought up to date once per test process.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(guests::program)
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

/// Polls until `look` gives something. Panics with `what` after the ceiling.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < CEILING, "waited {} s for: {what}", CEILING.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A home in a temporary folder.
pub struct Host {
    folder: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The last line of stdout as JSON.
    pub fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// What a person reads: stdout without the last line break.
    pub fn text(&self) -> &str {
        self.stdout.trim_end()
    }

    /// The same, for a command that must have gone well.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A fresh home.
    pub fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        host.run(&["init"]).ok();
        host
    }

    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub fn plugins(&self) -> PathBuf {
        self.home().join("plugins")
    }

    /// Replaces the settings file.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.home().join("enginehouse.toml"), toml).expect("settings written");
    }

    /// Copies a component into the plugins folder as people do: the content grows in place.
    pub fn install(&self, component: &Path) {
        let name = component.file_name().expect("a file name");
        std::fs::copy(component, self.plugins().join(name)).expect("component copied");
    }

    /// A command on this home; nothing of the caller's settings leaks in.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ENGINEHOUSE_")) {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).arg("--home").arg(self.home()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().expect("the host starts");
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts `enginehouse run` and returns once it works.
    pub fn start(&self) -> Worker {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.path().join("worker.log"))
            .expect("a log");
        // The log is that of all workers of this home: what an earlier one said does not count.
        let before = self.worker_log().len();
        let child = self.command(&["run"]).stderr(log).stdout(Stdio::null()).spawn().expect("the worker starts");
        let mut worker = Worker { child };
        wait_for("the worker to work", || {
            assert!(worker.is_alive(), "the worker ended: {}", self.worker_log());
            self.worker_log().get(before..).is_some_and(|new| new.contains("working")).then_some(())
        });
        worker
    }

    /// What the workers of this home logged.
    pub fn worker_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("worker.log")).unwrap_or_default()
    }

    /// Submits and returns the id.
    pub fn submit(&self, task_type: &str, params: &Value) -> String {
        let file = self.folder.path().join("params.json");
        std::fs::write(&file, params.to_string()).expect("params written");
        let said = self.run(&["submit", task_type, "-f", file.to_str().expect("a path")]).ok();
        said.stdout.trim().to_string()
    }

    /// Submits, works until the task has ended, and returns the task's JSON with the exit code.
    pub fn submit_and_run(&self, task_type: &str, params: &Value) -> (i32, Value) {
        let file = self.folder.path().join("params.json");
        std::fs::write(&file, params.to_string()).expect("params written");
        let said = self.run(&["submit", task_type, "-f", file.to_str().expect("a path"), "--run", "--json"]);
        (said.code, said.json())
    }

    /// The task's JSON.
    pub fn task(&self, id: &str) -> Value {
        self.run(&["tasks", "show", id, "--json"]).ok().json()
    }

    /// Waits until the task has ended and returns its JSON.
    pub fn ended(&self, id: &str) -> Value {
        wait_for(&format!("task {id} to end"), || {
            let task = self.task(id);
            let status = task["status"].as_str().unwrap_or_default().to_string();
            ["Complete", "Failed", "Cancelled"].contains(&status.as_str()).then_some(task)
        })
    }

    /// The decision for a type.
    pub fn route(&self, task_type: &str) -> Value {
        self.run(&["route", task_type, "--json"]).ok().json()
    }
}

/// A running worker; killed when the test ends.
pub struct Worker {
    child: Child,
}

impl Worker {
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        // Gone already is as good.
        self.child.kill().ok();
        self.child.wait().expect("the worker is reaped");
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.child.wait().expect("the worker ends").code().unwrap_or(-1)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
