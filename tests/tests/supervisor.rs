//! The supervisor's promises, held with real processes: shell scripts as engines, the built binary as guard, and hosts that
//! are killed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use enginehouse::clock::{Clock, Timestamp};
use enginehouse::engines::supervisor::{
    EngineStatus, NotRunning, Process, Record, Running, State, Supervisor, SupervisorOptions, leftovers, read_log,
};
use enginehouse::store::holder;
use enginehouse::task::Holder;
use enginehouse_tests::host::{CEILING, Host, binary, wait_for};
use enginehouse_tests::scripted::{FAMILY_SIZE, Scripted, WITH_FAMILY, options, processes_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A supervised script in a folder of its own.
struct Kept {
    folder: TempDir,
    family: String,
    supervisor: Arc<Supervisor<Scripted>>,
}

fn keep(script: &str) -> Kept {
    keep_with(script, |_| {})
}

fn keep_with(script: &str, change: impl FnOnce(&mut SupervisorOptions)) -> Kept {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut options = options(folder.path(), binary(), Clock::system());
    change(&mut options);
    let engine = Scripted::new(folder.path(), script);
    let family = engine.family.clone();
    Kept { folder, family, supervisor: Supervisor::new(engine, options) }
}

impl Kept {
    async fn ensure(&self) -> Result<Arc<Running<String>>, NotRunning> {
        self.ensure_telling(|_| {}).await
    }

    async fn ensure_telling(&self, report: impl Fn(String) + Send + Sync) -> Result<Arc<Running<String>>, NotRunning> {
        let never = CancellationToken::new();
        let asked = self.supervisor.ensure(&report, &never);
        tokio::time::timeout(CEILING, asked).await.expect("an answer in time")
    }

    /// Returns when every process of the family is there.
    fn wait_for_family(&self) {
        wait_for("the family", || (processes_of(&self.family).len() == FAMILY_SIZE).then_some(()));
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(processes_of(&self.family), []);
    }

    fn state(&self) -> State {
        self.supervisor.status().state
    }

    fn tail(&self, lines: usize) -> Vec<String> {
        self.supervisor.tail(lines).into_iter().map(|line| line.text).collect()
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("a signal");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_before_it_is_needed_and_all_who_need_it_share_one_start() {
    let kept = keep("echo x >> starts; sleep 0.3; echo http://here > ready; exec sleep 600");
    assert_eq!(kept.state(), State::Stopped);
    kept.assert_nothing_is_left();
    let (one, other) = tokio::join!(kept.ensure(), kept.ensure());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(one.ready, "http://here");
    assert!(Arc::ptr_eq(&one, &kept.ensure().await.unwrap()), "a running engine serves whoever comes later");
    assert_eq!(std::fs::read_to_string(kept.folder.path().join("starts")).unwrap(), "x\n");
    assert_eq!(kept.supervisor.status().starts, 1);
    assert!(matches!(kept.state(), State::Ready { pid, .. } if pid == one.pid));
    assert!(processes_of(&kept.family).iter().any(|(pid, command)| *pid == one.pid && command == "sleep 600 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_start_is_waited_for_and_told_once_a_second() {
    let kept = keep("sleep 2.5; touch ready; exec sleep 600");
    let told = Mutex::new(Vec::new());
    kept.ensure_telling(|words| told.lock().unwrap().push(words)).await.unwrap();
    let told = told.into_inner().unwrap();
    for second in 0..3 {
        let sentence = format!("starting Scripted ({second} s)");
        assert_eq!(told.iter().filter(|words| **words == sentence).count(), 1, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_takes_longer_than_its_limit_has_failed() {
    let kept = keep_with("exec sleep 600", |options| {
        options.limits.start = Some(Duration::from_secs(1));
        options.limits.failed_starts = 1;
    });
    let NotRunning::Unavailable { reason, .. } = kept.ensure().await.unwrap_err() else { panic!("cancelled") };
    assert!(reason.contains("it was not ready within 1 s"), "{reason}");
    kept.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_says_it_will_never_be_ready_is_ended() {
    let kept = keep_with("echo 'never: the wrong version' > ready; exec sleep 600", |options| {
        options.limits.failed_starts = 1;
    });
    let NotRunning::Unavailable { reason, .. } = kept.ensure().await.unwrap_err() else { panic!("cancelled") };
    assert!(reason.contains("did not start (never: the wrong version)"), "{reason}");
    kept.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_before_ready_is_told_with_its_last_line_and_tried_again_after_a_pause() {
    let kept = keep(
        "test -e mended && touch ready && exec sleep 600; echo Importing; echo 'No module named torch' >&2; exit 3",
    );
    let mended = kept.folder.path().join("mended");
    let mut seen = kept.supervisor.watch();
    let told = Mutex::new(Vec::new());
    let begun = Instant::now();
    kept.ensure_telling(|words| {
        if words.contains("did not start") {
            std::fs::write(&mended, "").unwrap();
        }
        told.lock().unwrap().push(words);
    })
    .await
    .unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "the pause was not kept");
    let told = told.into_inner().unwrap();
    let sentence = "Scripted did not start (exit code 3: No module named torch); next try in 1 s";
    assert!(told.iter().any(|words| words == sentence), "{told:?}");
    let status = seen.borrow_and_update().clone();
    assert_eq!(status.starts, 2);
    assert_eq!(status.last_error.unwrap().words, "did not start (exit code 3: No module named torch)");
    assert_eq!(status.last_exit.unwrap().exit.code, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_named() {
    let kept = keep_with("exec /no/such/program", |options| options.limits.failed_starts = 1);
    let NotRunning::Unavailable { reason, .. } = kept.ensure().await.unwrap_err() else { panic!("cancelled") };
    assert!(reason.contains("exit code 127") && reason.contains("/no/such/program"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failed_starts_make_it_unavailable_at_once_until_the_oldest_is_ten_minutes_old() {
    let clock = Clock::manual(Timestamp(0));
    let kept = keep_with("echo broken; exit 1", |options| {
        options.clock = clock.clone();
        options.limits.back_off = Duration::ZERO;
    });
    for _ in 0..3 {
        let NotRunning::Unavailable { reason, until } = kept.ensure().await.unwrap_err() else { panic!("cancelled") };
        assert_eq!(until, Timestamp(600_000));
        assert!(reason.contains("5 starts failed within 10 minutes"), "{reason}");
        assert!(reason.contains("exit code 1: broken"), "{reason}");
        assert!(matches!(kept.state(), State::Unavailable { .. }));
        assert_eq!(kept.supervisor.status().starts, 5, "nobody tries while it is unavailable");
    }
    clock.advance(Duration::from_secs(600));
    kept.ensure().await.unwrap_err();
    assert_eq!(kept.supervisor.status().starts, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_prints_without_end_is_never_held_up_and_its_log_stays_bounded() {
    let kept = keep_with(
        "head -c 20000000 /dev/zero | tr '\\0' x | fold -w 99; printf '\\n\\033[31mred\\033[0m\\n 10%%\\r 20%%'; \
         touch ready; exec sleep 600",
        |options| {
            options.limits.log_file_bytes = 100_000;
            options.limits.memory_log_bytes = 1000;
        },
    );
    kept.ensure().await.unwrap();
    wait_for("all of it", || (kept.tail(2) == ["red", " 20%"]).then_some(()));
    assert!(kept.tail(usize::MAX).len() < 20);
    let log = kept.folder.path().join("engines/scripted.log");
    // The file follows at the pace of the disk.
    wait_for("the end of it in the file", || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("red").then_some(())
    });
    for file in [log.clone(), log.with_extension("log.1")] {
        assert!(std::fs::metadata(file).unwrap().len() <= 100_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_reach_whoever_listens() {
    let kept = keep("touch ready; while read line < more; do echo \"$line\"; done 2>&1; sleep 600");
    let mut lines = kept.supervisor.lines();
    let pipe = kept.folder.path().join("more");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    kept.ensure().await.unwrap();
    for word in ["one", "two"] {
        std::fs::write(&pipe, format!("{word}\n")).unwrap();
        let line = tokio::time::timeout(CEILING, lines.recv()).await.unwrap().unwrap();
        assert_eq!(line.text, word);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_the_engine_finish() {
    let kept = keep("trap 'echo goodbye; exit 0' INT; touch ready; sleep 600 & wait");
    let running = kept.ensure().await.unwrap();
    kept.supervisor.stop().await;
    kept.assert_nothing_is_left();
    let exit = running.exit().unwrap();
    assert_eq!((exit.code, exit.signal, exit.asked), (Some(0), None, true));
    assert_eq!(kept.tail(1), ["goodbye"]);
    assert_eq!(kept.state(), State::Stopped);
    assert_eq!(kept.supervisor.status().last_error, None);
    assert_ne!(kept.ensure().await.unwrap().pid, running.pid, "a stopped engine starts again when it is needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_takes_no_notice_of_polite_signals_is_gone_after_stop() {
    let kept = keep("trap '' INT TERM; touch ready; while :; do sleep 600; done");
    let running = kept.ensure().await.unwrap();
    kept.supervisor.stop().await;
    kept.assert_nothing_is_left();
    assert_eq!(running.exit().unwrap().signal, Some(Signal::KILL.as_raw()));
    let written = read_log(&kept.folder.path().join("engines"), "scripted", 10).unwrap();
    assert!(written.iter().any(|line| line.contains("[enginehouse] starts sh")), "{written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_the_whole_family_and_whoever_waits() {
    let kept = keep(&WITH_FAMILY.replace("touch ready", "touch almost"));
    let asked = kept.ensure();
    let stopped = async {
        wait_for("a start", || kept.folder.path().join("almost").exists().then_some(()));
        kept.wait_for_family();
        kept.supervisor.stop().await;
    };
    let (answer, ()) = tokio::join!(asked, stopped);
    assert_eq!(answer.unwrap_err(), NotRunning::Cancelled);
    kept.assert_nothing_is_left();
    assert_eq!(kept.state(), State::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_takes_nobody_elses_start_away() {
    let kept = keep("sleep 1; touch ready; exec sleep 600");
    let cancel = CancellationToken::new();
    let leave = async {
        let first = kept.supervisor.ensure(&|_| cancel.cancel(), &cancel).await;
        assert_eq!(first.unwrap_err(), NotRunning::Cancelled);
    };
    let (stayed, ()) = tokio::join!(kept.ensure(), leave);
    stayed.unwrap();
    assert_eq!(kept.supervisor.status().starts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_replaces_the_process_without_a_pause() {
    let kept = keep_with(WITH_FAMILY, |options| options.limits.back_off = Duration::from_secs(3600));
    let before = kept.ensure().await.unwrap();
    kept.wait_for_family();
    kept.supervisor.restart("a fault of the GPU").await;
    kept.assert_nothing_is_left();
    assert!(before.gone().await.asked);
    let after = kept.ensure().await.unwrap();
    assert_ne!(before.pid, after.pid);
    let status = kept.supervisor.status();
    assert_eq!((status.starts, status.restarts), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engines_death_is_seen_and_its_family_ends_with_it() {
    let kept = keep(WITH_FAMILY);
    let running = kept.ensure().await.unwrap();
    kept.wait_for_family();
    assert_eq!(running.exit(), None);
    send(running.pid, Signal::KILL);
    let exit = tokio::time::timeout(CEILING, running.gone()).await.unwrap();
    assert_eq!((exit.signal, exit.asked), (Some(9), false));
    assert_eq!(exit.words, "ended by SIGKILL");
    wait_for("the family to end", || processes_of(&kept.family).is_empty().then_some(()));
    assert_ne!(kept.ensure().await.unwrap().pid, running.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_guard_is_killed_the_host_ends_the_family() {
    let kept = keep(WITH_FAMILY);
    let running = kept.ensure().await.unwrap();
    kept.wait_for_family();
    let record = Record::read(&kept.folder.path().join("engines"), "scripted").unwrap().unwrap();
    assert_eq!(record.engine.unwrap().pid, running.pid);
    send(record.guard.unwrap().pid, Signal::KILL);
    let exit = tokio::time::timeout(CEILING, running.gone()).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.asked), (None, None, false));
    kept.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_dropped_takes_its_engine_along() {
    let kept = keep(WITH_FAMILY);
    kept.ensure().await.unwrap();
    kept.wait_for_family();
    let Kept { folder: _folder, family, supervisor } = kept;
    drop(supervisor);
    wait_for("the family to end", || processes_of(&family).is_empty().then_some(()));
}

#[test]
fn commands_show_what_runs_and_what_it_printed() {
    let host = Host::new();
    let states = |host: &Host| {
        let said = host.run(&["engines", "ls", "--json"]).ok().json();
        said["engines"].as_array().expect("engines").clone()
    };
    let before = states(&host);
    assert_eq!(before[0]["engine"], "comfyui");
    assert_eq!(before[0]["state"], "animatic", "the stand-in serves what is not configured");
    assert!(before[0]["reason"].as_str().unwrap().contains("engines.comfyui.root"), "{before:?}");
    let without = host.run(&["engines", "ls", "--set", "engines.animatic=false"]).ok();
    assert!(without.text().contains("not configured"), "{without:?}");
    let elsewhere = host.run(&["engines", "ls", "--set", "engines.comfyui.url=http://127.0.0.1:1"]).ok();
    assert!(elsewhere.text().contains("http://127.0.0.1:1"), "{elsewhere:?}");
    let wrong = host.run(&["engines", "logs", "comfui"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("did you mean `comfyui`"), "{wrong:?}");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), binary(), Clock::system());
    options.folder = host.home().join("data/engines");
    let script = "echo first; echo second; touch ready; exec sleep 600";
    let engine = Scripted { name: "comfyui", ..Scripted::new(folder.path(), script) };
    let family = engine.family.clone();
    let supervisor = Supervisor::new(engine, options);
    let running = runtime.block_on(supervisor.ensure(&|_| {}, &CancellationToken::new())).unwrap();
    let now = states(&host);
    assert_eq!((&now[0]["state"], &now[0]["starts"]), (&json!("ready"), &json!(1)));
    assert_eq!(now[0]["pid"], json!(running.pid));
    wait_for("the log", || {
        let said = host.run(&["engines", "logs", "comfyui", "-n", "1"]).ok();
        said.text().ends_with(" second").then_some(())
    });
    send(running.pid, Signal::KILL);
    runtime.block_on(running.gone());
    wait_for("the state", || {
        let said = host.run(&["engines", "ls"]).ok();
        (said.text().contains("backing off") || said.text().contains("stopped")).then_some(said)
    });
    let after = states(&host);
    assert_eq!(after[0]["last_error"]["words"], "ended (ended by SIGKILL: second)");
    drop((supervisor, runtime));
    wait_for("its end", || processes_of(&family).is_empty().then_some(()));
}

/// A host in a process of its own; killed when the test ends.
struct OtherHost {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl OtherHost {
    fn start(folder: &Path, family: &str, script: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_supervising-host"))
            .arg(folder)
            .arg(binary())
            .args([family, script])
            .env("ENGINEHOUSE_STORE__PASSWORD", "hidden")
            .env("DATABASE_URL", "hidden")
            .env("CUDA_VISIBLE_DEVICES", "7")
            .stdout(Stdio::piped())
            .spawn()
            .expect("a host starts");
        let said = BufReader::new(child.stdout.take().expect("its output"));
        let mut host = Self { child, said };
        assert_eq!(host.line(), "up");
        host
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line of the host");
        line.trim_end().to_string()
    }

    /// Waits for the engine and gives its pid.
    fn ready(&mut self) -> u32 {
        let line = self.line();
        line.strip_prefix("ready ").and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("not ready: `{line}`"))
    }

    fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().expect("the host is reaped");
    }
}

impl Drop for OtherHost {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn an_engine_sees_the_hosts_environment_without_its_settings_and_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let family = uuid::Uuid::new_v4().to_string();
    let mut host = OtherHost::start(folder.path(), &family, "env > seen; touch ready; exec sleep 600");
    host.ready();
    let seen = std::fs::read_to_string(folder.path().join("seen")).unwrap();
    assert!(seen.contains("CUDA_VISIBLE_DEVICES=7") && seen.contains("PATH="), "{seen}");
    assert!(!seen.contains("hidden") && !seen.contains("ENGINEHOUSE_"), "{seen}");
}

/// Longest time from the death of a host to that of its engine's last process.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Random numbers that a seed repeats (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }
}

/// Half of the hosts die while they start their engine, half while it runs. `SUPERVISOR_SEED` repeats a run.
#[test]
fn no_process_of_an_engine_is_left_within_2_s_of_its_hosts_death_20_times() {
    let chosen = std::env::var("SUPERVISOR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = chosen.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        u64::from(since.subsec_nanos())
    });
    println!("SUPERVISOR_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut running = 0;
    let families: Vec<String> = (0..20).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    for (round, family) in families.iter().enumerate() {
        let mut host = OtherHost::start(folder.path(), family, WITH_FAMILY);
        if round % 2 == 1 {
            host.ready();
            wait_for("the family", || (processes_of(family).len() == FAMILY_SIZE).then_some(()));
        }
        let delay = Duration::from_micros(dice.roll(150_000));
        std::thread::sleep(delay);
        let before = processes_of(family).len();
        running += usize::from(before == FAMILY_SIZE);
        host.kill();
        let killed = Instant::now();
        let gone = loop {
            let left = processes_of(family);
            if left.is_empty() {
                break killed.elapsed();
            }
            assert!(killed.elapsed() < GONE_WITHIN, "round {round}, seed {seed}: left {left:?}");
            std::thread::yield_now();
        };
        println!("round {round}: killed after {delay:?}, {before} processes, gone after {gone:?}");
    }
    // Nor did any begin after its host's death.
    for family in &families {
        assert_eq!(processes_of(family), []);
    }
    assert!(running >= 10, "only {running} hosts had a whole family when they died");
}

#[test]
fn what_a_host_left_because_its_guard_was_killed_too_is_ended_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let family = uuid::Uuid::new_v4().to_string();
    let mut host = OtherHost::start(folder.path(), &family, WITH_FAMILY);
    host.ready();
    wait_for("the family", || (processes_of(&family).len() == FAMILY_SIZE).then_some(()));
    let engines = folder.path().join("engines");
    assert_eq!(leftovers::end(&engines), 0, "the engine of a living host is nobody's leftover");
    assert_eq!(processes_of(&family).len(), FAMILY_SIZE);

    let guard = Record::read(&engines, "scripted").unwrap().unwrap().guard.unwrap();
    // A host that cannot do anything about it any more.
    send(host.child.id(), Signal::STOP);
    send(guard.pid, Signal::KILL);
    // The engine itself is ended by the system; what it started has lost everybody who knew of it.
    wait_for("the engine to end", || (processes_of(&family).len() == FAMILY_SIZE - 2).then_some(()));
    host.kill();
    assert_eq!(leftovers::end(&engines), FAMILY_SIZE - 2);
    assert_eq!(processes_of(&family), []);
}

#[test]
fn a_recorded_process_is_ended_and_a_stranger_with_its_pid_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut left = Command::new("sh").args(["-c", "sleep 600 & echo up; wait"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = String::new();
    BufReader::new(left.stdout.take().unwrap()).read_line(&mut up).unwrap();
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let process = |child: &Child| Process::of(child.id()).unwrap();
    let record = |name: &str, engine: Process| {
        // The same machine and boot, and a process that cannot be: nothing starts before the system does.
        let host = Holder { started: 0, ..holder::this_process() };
        let status = json!({"name": name, "title": name, "state": {"is": "stopped"}, "starts": 1, "restarts": 0,
                            "last_exit": null, "last_error": null});
        let status: EngineStatus = serde_json::from_value(status).unwrap();
        let record = Record { host, written: Timestamp(0), status, guard: None, engine: Some(engine), mark: None };
        record.write(folder.path()).unwrap();
    };
    record("left", process(&left));
    let known = process(&stranger);
    record("stranger", Process { started: known.started + 1, ..known });
    // A record that nobody can read keeps nothing else back.
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();

    // The shell and what it started.
    assert_eq!(leftovers::end(folder.path()), 2);
    assert!(!left.wait().unwrap().success());
    assert!(stranger.try_wait().unwrap().is_none() && known.lives());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
