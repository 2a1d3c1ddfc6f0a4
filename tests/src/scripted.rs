//! An engine that is a shell script, for tests of the supervisor, and a look at what is left of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use enginehouse::clock::Clock;
use enginehouse::engines::supervisor::{Launch, Limits, Readiness, Supervised, SupervisorOptions};

/// Environment variable that the engine's processes inherit, its guard included: how a test finds them.
const FAMILY: &str = "SCRIPTED_ENGINE";

/// Is ready, with children of every kind: a plain one, one in a session of its own, one that takes no notice of polite
/// signals, and two whose parent has ended, in yet another session.
pub const WITH_FAMILY: &str = "sleep 600 & setsid sleep 600 & (trap '' INT TERM; exec sleep 600) & \
                               setsid sh -c 'sleep 600 & sleep 600 &' & touch ready; wait";

/// Processes of that script: its guard, the shell, five that sleep.
pub const FAMILY_SIZE: usize = 7;

/// The script runs in `folder` and is ready when there is a file `ready`.
pub struct Scripted {
    /// Names its log and its record.
    pub name: &'static str,
    pub folder: PathBuf,
    pub script: String,
    /// Marks its processes: a text that nothing else carries.
    pub family: String,
}

impl Scripted {
    pub fn new(folder: &Path, script: &str) -> Self {
        let family = uuid::Uuid::new_v4().to_string();
        Self { name: "scripted", folder: folder.into(), script: script.into(), family }
    }
}

#[async_trait]
impl Supervised for Scripted {
    type Ready = String;

    fn name(&self) -> &'static str {
        self.name
    }

    fn title(&self) -> String {
        "Scripted".into()
    }

    async fn launch(&self) -> Result<Launch, String> {
        let ready = self.folder.join("ready");
        if ready.exists() {
            std::fs::remove_file(&ready).map_err(|e| e.to_string())?;
        }
        Ok(Launch {
            program: "sh".into(),
            args: vec!["-c".into(), self.script.clone().into()],
            env: vec![(FAMILY.into(), self.family.clone().into())],
            folder: self.folder.clone(),
        })
    }

    async fn ready(&self) -> Readiness<String> {
        match std::fs::read_to_string(self.folder.join("ready")) {
            Ok(text) if text.starts_with("never") => Readiness::Failed(text.trim().into()),
            Ok(text) => Readiness::Ready(text.trim().into()),
            Err(_) => Readiness::NotYet,
        }
    }
}

/// Short times, the guard of the given program, logs and records in `FOLDER/engines`.
pub fn options(folder: &Path, guard: &Path, clock: Clock) -> SupervisorOptions {
    let mut options = SupervisorOptions::new(folder.join("engines"), clock);
    options.guard = guard.into();
    options.limits = Limits {
        ready_poll: Duration::from_millis(10),
        interrupt_grace: Duration::from_millis(300),
        terminate_grace: Duration::from_millis(300),
        ..Limits::default()
    };
    options
}

/// Living processes of an engine: pid and command line.
pub fn processes_of(family: &str) -> Vec<(u32, String)> {
    let wanted = format!("{FAMILY}={family}");
    let read = |pid: u32, what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(|found| found.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| read(*pid, "environ").split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
        .map(|pid| (pid, String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ")))
        .collect()
}
