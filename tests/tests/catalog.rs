//! What happens to files in the plugins folder, with real components, the real compiler process and the real sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enginehouse::clock::Clock;
use enginehouse::config::Config;
use enginehouse::digest::Digest;
use enginehouse::home::Home;
use enginehouse::plugins::{Plugin, PluginOptions, Plugins, Snapshot};
use enginehouse_tests::guests;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Longest wait for anything; the machine may be busy.
const CEILING: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_served_and_a_later_start_needs_neither_compiler_nor_code() {
    let house = House::new(json!({}));
    let digest = house.put("greet.wasm", &greeter("1.0.0"));
    for i in 1..12 {
        house.put(&format!("more{i}.wasm"), &plugin(&format!("more{i}"), "1.0.0", &[&format!("type{i}")]));
    }
    let plugins = house.open().await;
    let offered = plugins.offers().plugins["greet"].clone();
    assert_eq!((offered.name.as_str(), offered.version.as_str(), offered.digest), ("greeter", "1.0.0", digest));
    let snapshot = plugins.snapshot();
    assert_eq!(Snapshot::read(&house.data()).unwrap().as_ref(), Some(&*snapshot), "others can read it");
    assert_eq!((snapshot.serving.len(), snapshot.rejected.len(), snapshot.retired.len()), (12, 0, 0));
    drop(plugins);

    fs::remove_dir_all(house.data().join("compiled")).unwrap();
    let begun = Instant::now();
    let later = house.open_with("/nonexistent/compiler").await;
    println!("12 known plugins were in service after {} ms", begun.elapsed().as_millis());
    assert_eq!(later.snapshot(), snapshot, "since is the same too: it never was out of service");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_serves_soon_and_running_tasks_keep_their_version() {
    let house = House::new(json!({}));
    let old = house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    let running: Arc<Plugin> = worker.plugins.get(old).await.unwrap();

    let bytes = greeter("1.1.0");
    let begun = Instant::now();
    let new = house.put("greet.wasm", &bytes);
    worker.until(|s| s.serving.iter().any(|p| p.digest == new)).await;
    println!("a changed file served after {} ms, {} of them quiet", begun.elapsed().as_millis(), house.quiet());
    assert_eq!(running.manifest.version, "1.0.0");
    assert_eq!(worker.plugins.get(old).await.unwrap().manifest.version, "1.0.0", "kept for tasks that began on it");
    assert_eq!(worker.plugins.offers().plugins["greet"].version, "1.1.0");

    let unknown = worker.plugins.get(Digest::of(b"never seen")).await.err().unwrap();
    assert_eq!(unknown.code, "plugin_bytes_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_serve_is_told_in_one_sentence_and_leaves_the_previous_version_in_service() {
    let house = House::new(json!({}));
    let good = house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    let whole = greeter("2.0.0");
    let host = format!("this host (enginehouse {})", env!("CARGO_PKG_VERSION"));
    let versioned = |to: &str| guests::patched(greeter("2.0.0"), "/guest@1.0.0", to);
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("text", b"<html>404</html>".to_vec(), "`greet.wasm` is not WebAssembly: ".into()),
        (
            "core module",
            b"\0asm\x01\0\0\0".to_vec(),
            "`greet.wasm` is a core WebAssembly module, not a component: ".into(),
        ),
        ("cut in half", whole[..whole.len() / 2].to_vec(), "`greet.wasm` is incomplete or damaged at byte ".into()),
        ("native code", b"\x7fELF\x02\x01\x01\0forged".to_vec(), "`greet.wasm` is compiled native code, ".into()),
        (
            "newer contract",
            versioned("/guest@1.7.0"),
            format!(
                "`greet.wasm` is built against contract 1.7, and {host} speaks contract 1.0: it needs a newer host"
            ),
        ),
        (
            "other contract",
            versioned("/guest@3.0.0"),
            format!("`greet.wasm` is built against contract 3.0, and {host} speaks contract 1.0: it needs a host with"),
        ),
        (
            "unknown import",
            guests::patched(greeter("2.0.0"), "wasi:io/poll@0.2.6", "wasi:gp/poll@0.2.6"),
            format!("`greet.wasm` imports `wasi:gp/poll@0.2.6`, which {host} does not offer: "),
        ),
        (
            "bad manifest",
            guests::with_manifest(&json!({"name": "Greeter!", "version": "2.0.0", "task_types": {"greet": {}}})),
            "`greet.wasm` describes itself wrongly: its manifest at `/name`: ".into(),
        ),
        (
            "bad schema",
            guests::with_manifest(&json!({"name": "greeter", "version": "2.0.0", "task_types": {
                "greet": {"params": {"required": "prompt"}}
            }})),
            "`greet.wasm` describes itself wrongly: its manifest at `/task_types/greet/params/required`: ".into(),
        ),
    ];
    for (case, bytes, sentence) in cases {
        let bad = house.put("greet.wasm", &bytes);
        worker.until(|s| s.rejected.iter().any(|r| r.digest == Some(bad))).await;
        let snapshot = worker.plugins.snapshot();
        let rejected = &snapshot.rejected[0];
        assert!(rejected.reason.starts_with(&sentence), "{case}: {}", rejected.reason);
        assert!(!rejected.reason.contains('\n'), "{case}: {}", rejected.reason);
        assert_eq!((rejected.file.as_str(), rejected.still_serving), ("greet.wasm", Some(good)), "{case}");
        assert_eq!(worker.plugins.offers().plugins["greet"].digest, good, "{case}");
    }
    let before = worker.plugins.snapshot();
    worker.stop().await;

    let restarted = house.open().await;
    assert_eq!(restarted.snapshot(), before, "a restart does not take the previous version out of service either");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_progress_is_not_taken_for_a_file() {
    let house = House::new(json!({"quiet_milliseconds": 2000}));
    let old = house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    let bytes = greeter("2.0.0");
    for end in (1..=20).map(|part| bytes.len() * part / 20) {
        // As a slow copy does: in place, a piece at a time.
        fs::write(house.folder().join("greet.wasm"), &bytes[..end]).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let snapshot = worker.plugins.snapshot();
        assert_eq!((snapshot.serving[0].digest, snapshot.rejected.len()), (old, 0), "after {end} bytes");
    }
    worker.until(|s| s.serving[0].digest == Digest::of(&bytes)).await;
    assert!(worker.plugins.snapshot().rejected.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_that_claim_one_type_the_first_by_name_serves_and_the_other_follows_when_it_goes() {
    let house = House::new(json!({}));
    let first = house.put("a.wasm", &plugin("alpha", "1.0.0", &["greet", "wave"]));
    let second = house.put("b.wasm", &plugin("beta", "1.0.0", &["greet"]));
    house.put("c.wasm", &plugin("alpha", "1.0.0", &["bow"]));
    let worker = house.watch().await;
    let snapshot = worker.plugins.snapshot();
    assert_eq!(snapshot.serving.iter().map(|s| s.digest).collect::<Vec<_>>(), [first]);
    let reasons: Vec<_> = snapshot.rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "`b.wasm` claims task type `greet`, which `a.wasm` (plugin `alpha`) holds: delete one of the two",
            "`c.wasm` is a plugin named `alpha`, and so is `a.wasm`, which came first: delete one of the two, or give \
             one another name in its manifest",
        ]
    );
    fs::remove_file(house.folder().join("a.wasm")).unwrap();
    worker.until(|s| s.serving.len() == 2 && s.rejected.is_empty()).await;
    let offers = worker.plugins.offers();
    assert_eq!(offers.plugins["greet"].digest, second);
    assert_eq!(offers.retired["wave"].name, "alpha");
    assert!(!offers.retired.contains_key("greet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_retired_for_good_and_comes_back_when_it_is_put_back() {
    let house = House::new(json!({}));
    let digest = house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    fs::remove_file(house.folder().join("greet.wasm")).unwrap();
    worker.until(|s| s.serving.is_empty() && s.retired.len() == 1).await;
    let retired = worker.plugins.offers().retired["greet"].clone();
    assert_eq!((retired.name.as_str(), retired.file.as_str(), retired.digest), ("greeter", "greet.wasm", digest));
    assert!(worker.plugins.get(digest).await.is_ok(), "tasks that began on it go on");
    let before = worker.plugins.snapshot();
    worker.stop().await;

    let worker = house.watch().await;
    assert_eq!(worker.plugins.snapshot(), before, "it is remembered");
    house.put("greet.wasm", &greeter("1.0.0"));
    worker.until(|s| s.serving.len() == 1 && s.retired.is_empty()).await;
    worker.stop().await;

    fs::remove_file(house.folder().join("greet.wasm")).unwrap();
    let offers = house.open().await.offers();
    assert!(offers.plugins.is_empty() && offers.retired.contains_key("greet"), "deleted while the host was down");
}

#[tokio::test(flavor = "multi_thread")]
async fn renaming_copying_and_deploying_by_delete_and_copy_leave_no_gap_in_service() {
    let house = House::new(json!({"quiet_milliseconds": 1200}));
    house.put("a.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    let path = |name: &str| house.folder().join(name);
    let gapless = |s: &Snapshot, file: &str, version: &str| {
        assert!(!s.serving.is_empty() && s.retired.is_empty(), "out of service for a moment: {s:?}");
        s.rejected.is_empty() && s.serving[0].file == file && s.serving[0].version == version
    };

    fs::rename(path("a.wasm"), path("b.wasm")).unwrap();
    worker.until(|s| gapless(s, "b.wasm", "1.0.0")).await;

    fs::copy(path("b.wasm"), path("c.wasm")).unwrap();
    fs::remove_file(path("b.wasm")).unwrap();
    worker.until(|s| gapless(s, "c.wasm", "1.0.0")).await;

    // Missing for a moment, as in `rm` and then `cp`.
    fs::remove_file(path("c.wasm")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    house.put("c.wasm", &greeter("1.0.1"));
    worker.until(|s| gapless(s, "c.wasm", "1.0.1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_code_from_elsewhere_is_never_loaded() {
    let house = House::new(json!({}));
    house.put("greet.wasm", &greeter("1.0.0"));
    let forged = fs::read(guests::program()).unwrap();
    house.put("evil.cwasm", &forged[..4096]);
    let plugins = house.open().await;
    let reason = plugins.snapshot().rejected[0].reason.clone();
    assert!(reason.starts_with("`evil.cwasm` is compiled native code, which no host takes from a file "), "{reason}");
    drop(plugins);

    let artifact = fs::read_dir(house.data().join("compiled"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "cwasm"))
        .expect("the plugin was compiled");
    let ours = Digest::of(&fs::read(&artifact).unwrap());
    fs::write(&artifact, &forged).unwrap();
    let worker = house.watch().await;
    // The watcher loads what serves: it compiles anew instead.
    until(|| fs::read(&artifact).is_ok_and(|bytes| Digest::of(&bytes) == ours)).await;
    assert_eq!(worker.plugins.snapshot().serving.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn params_are_held_against_the_schema_and_capabilities_against_the_grant() {
    let house = House::new(json!({"grant": ["engines"], "settings": {"strict": {"rate": 16}}}));
    let manifest = json!({
        "name": "strict", "version": "1.0.0", "summary": "checks", "capabilities": ["engines", "http"],
        "task_types": {"strict": {"params": {"properties": {"n": {"type": "integer"}}, "required": ["n"]}}},
        "settings": {"properties": {"rate": {"type": "integer"}}, "required": ["rate"]},
    });
    let digest = house.put("strict.wasm", &guests::with_manifest(&manifest));
    let plugins = house.open().await;
    let serving = plugins.snapshot().serving[0].clone();
    assert_eq!((serving.capabilities, serving.denied), (strings(&["engines", "http"]), strings(&["http"])));
    assert_eq!(serving.summary.as_deref(), Some("checks"));
    let plugin = plugins.get(digest).await.unwrap();
    let params = |value: Value| value.as_object().cloned().unwrap();
    plugin.check_params("strict", &params(json!({"n": 3}))).unwrap();
    let failure = plugin.check_params("strict", &params(json!({"n": "three"}))).unwrap_err();
    assert_eq!(failure.code, "invalid_params");
    assert!(failure.message.contains("`/n`: \"three\" is not of type \"integer\""), "{failure}");
    drop((plugins, plugin));

    let other = house.reconfigured(json!({"settings": {"strict": {"rate": "fast"}}}));
    let reason = other.open().await.snapshot().rejected[0].reason.clone();
    assert_eq!(
        reason,
        "`strict.wasm` does not get the settings it asks for, because `[plugins.settings.strict]` of enginehouse.toml \
         is wrong at `/rate`: \"fast\" is not of type \"integer\""
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_collected_once_nobody_needs_them() {
    let house = House::new(json!({}));
    let first = house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    let held = worker.plugins.get(first).await.unwrap();
    let mut digests = vec![first];
    for version in ["1.0.1", "1.0.2", "1.0.3"] {
        let next = house.put("greet.wasm", &greeter(version));
        worker.until(|s| s.serving[0].digest == next).await;
        digests.push(next);
    }
    let is_kept = |digest: &Digest| house.data().join(format!("sha256/{}.wasm", digest.hex())).exists();
    let kept = || digests.iter().map(is_kept).collect::<Vec<_>>();
    assert_eq!(worker.plugins.collect(&BTreeSet::from([digests[1]])), 0);
    assert_eq!(kept(), [true, true, true, true], "under a task, wanted by a journal, the previous one, in service");
    drop(held);
    assert_eq!(worker.plugins.collect(&BTreeSet::from([digests[1]])), 1);
    assert_eq!(kept(), [false, true, true, true]);
    assert_eq!(worker.plugins.collect(&BTreeSet::new()), 1);
    assert_eq!(kept(), [false, false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_sees_the_same_and_does_not_disturb_the_first() {
    let house = House::new(json!({}));
    house.put("greet.wasm", &greeter("1.0.0"));
    let worker = house.watch().await;
    house.put("greet.wasm", b"broken");
    worker.until(|s| s.rejected.len() == 1).await;
    let other = house.open().await;
    assert_eq!(other.snapshot(), worker.plugins.snapshot());
    assert_eq!(other.offers().plugins, Snapshot::read(&house.data()).unwrap().unwrap().offers().plugins);
}

/// A home with a plugins folder.
struct House {
    home: Arc<tempfile::TempDir>,
    config: Arc<Config>,
}

/// A running watcher over it.
struct Worker {
    plugins: Arc<Plugins>,
    watching: JoinHandle<()>,
}

impl House {
    /// With these values in `[plugins]`.
    fn new(plugins: Value) -> Self {
        let house = Self { home: Arc::new(tempfile::tempdir().unwrap()), config: config(plugins) };
        fs::create_dir(house.folder()).unwrap();
        house
    }

    fn reconfigured(&self, plugins: Value) -> Self {
        Self { home: self.home.clone(), config: config(plugins) }
    }

    fn folder(&self) -> PathBuf {
        Home::new(self.home.path()).plugins()
    }

    fn data(&self) -> PathBuf {
        Home::new(self.home.path()).plugin_data()
    }

    fn quiet(&self) -> u64 {
        self.config.plugins.quiet_milliseconds
    }

    fn put(&self, file: &str, bytes: &[u8]) -> Digest {
        fs::write(self.folder().join(file), bytes).unwrap();
        Digest::of(bytes)
    }

    async fn open(&self) -> Arc<Plugins> {
        self.open_with(guests::program()).await
    }

    async fn open_with(&self, compiler: impl Into<PathBuf>) -> Arc<Plugins> {
        let options = PluginOptions {
            folder: self.folder(),
            data: self.data(),
            compiler: compiler.into(),
            config: self.config.clone(),
            clock: Clock::system(),
        };
        Plugins::open(options).await.unwrap()
    }

    async fn watch(&self) -> Worker {
        let plugins = self.open().await;
        let watching = tokio::spawn(plugins.clone().watch(Default::default()));
        Worker { plugins, watching }
    }
}

impl Worker {
    async fn until(&self, condition: impl Fn(&Snapshot) -> bool) {
        until(|| condition(&self.plugins.snapshot())).await;
    }

    /// Ends as a process would: nothing is left that holds its lock.
    async fn stop(self) {
        self.watching.abort();
        let _ = self.watching.await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < CEILING, "it did not happen within {} s", CEILING.as_secs());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn config(plugins: Value) -> Arc<Config> {
    Arc::new(serde_json::from_value(json!({"plugins": plugins})).unwrap())
}

fn plugin(name: &str, version: &str, types: &[&str]) -> Vec<u8> {
    let types: serde_json::Map<_, _> = types.iter().map(|t| (t.to_string(), json!({}))).collect();
    guests::with_manifest(&json!({"name": name, "version": version, "task_types": types}))
}

fn greeter(version: &str) -> Vec<u8> {
    plugin("greeter", version, &["greet"])
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}
