//! What the host keeps of plugins, in a folder that only it may read and write (mode 0700):
//!
//! | file | what |
//! |---|---|
//! | `sha256/HEX.wasm` | the bytes, by their digest: a task goes on with exactly those it began with |
//! | `sha256/HEX.json` | what the plugin said of itself, so that later starts need not run it |
//! | `compiled/HEX-COMPATIBILITY.cwasm` | native code, compiled by this host |
//! | `compiled/HEX-COMPATIBILITY.cwasm.sha256` | the digest of that native code, written when it was compiled |
//!
//! Loading native code is running it, so an artifact is loaded only if it carries the digest recorded for it. That
//! detects damage and files that were dropped in; whoever may write both files may as well replace the host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::task::{Failure, FailureClass};

/// Bytes of the compiler's stderr that are kept as evidence.
const LONGEST_STDERR: usize = 4096;

/// How components are compiled.
pub(super) struct Compiler {
    /// The program…
    pub program: PathBuf,
    /// … and its first arguments; the component and the artifact to make follow them.
    pub arguments: Vec<OsString>,
    /// Longest time one compilation may take (`plugins.compile_seconds`).
    pub limit: Duration,
    /// Compilations at once (`plugins.compilers`): one that takes long must not hold up the quick ones.
    pub at_once: usize,
}

/// The host's own copies.
pub(super) struct Keep {
    bytes: PathBuf,
    compiled: PathBuf,
    compiler: Compiler,
    compatibility: String,
    /// A permit for each compilation that may run.
    turns: Semaphore,
}

/// What a plugin said of itself, and the file name it last came under.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    pub file: String,
    /// As the plugin returned it.
    pub manifest: String,
}

impl Keep {
    /// Makes the folders, or takes other people's rights to them away.
    pub fn open(data: &Path, compiler: Compiler, compatibility: String) -> Result<Self, Failure> {
        let bytes = data.join("sha256");
        let compiled = data.join("compiled");
        for folder in [data, &bytes, &compiled] {
            private_folder(folder).map_err(|e| io_failure("make the private folder", folder, &e))?;
        }
        let turns = Semaphore::new(compiler.at_once.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self { bytes, compiled, compiler, compatibility, turns })
    }

    /// Whether the bytes of a digest are kept.
    pub fn has(&self, digest: Digest) -> bool {
        self.wasm(digest).is_file()
    }

    /// Keeps the bytes of a digest, durably.
    pub fn store(&self, digest: Digest, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.wasm(digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == bytes.len() as u64) && file_digest(&path).ok() == Some(digest) {
            return Ok(());
        }
        write_atomically(&path, bytes).map_err(|e| io_failure("keep a plugin's bytes as", &path, &e))
    }

    /// The kept bytes of a digest, checked. None: they are not kept.
    pub fn read(&self, digest: Digest) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.wasm(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of(&bytes) == digest => Ok(Some(bytes)),
            Ok(_) => Err(Failure::internal(
                "plugin_bytes_damaged",
                format!(
                    "the kept bytes of plugin {digest} are no longer what they were: delete {} and put the plugin's \
                     file into the plugins folder again",
                    path.display()
                ),
            )),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_failure("read the kept plugin", &path, &e)),
        }
    }

    /// What the plugin of a digest said of itself when it was first run here.
    pub fn description(&self, digest: Digest) -> Option<Description> {
        let text = fs::read(self.json(digest)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub fn describe(&self, digest: Digest, description: &Description) -> Result<(), Failure> {
        let path = self.json(digest);
        let text = serde_json::to_vec_pretty(description)
            .map_err(|e| Failure::internal("plugin_store", format!("writing down a manifest failed: {e}")))?;
        write_atomically(&path, &text).map_err(|e| io_failure("keep a manifest as", &path, &e))
    }

    /// The native code of a kept plugin: the one compiled earlier, if it is untouched, else compiled now.
    pub async fn artifact(&self, digest: Digest) -> Result<PathBuf, Failure> {
        let path = self.cwasm(digest);
        let check = path.clone();
        match tokio::task::spawn_blocking(move || inspect(&check)).await {
            Ok(Native::Sound) => return Ok(path),
            Ok(Native::Missing) => {}
            Ok(Native::Foreign) | Err(_) => {
                tracing::warn!(
                    artifact = %path.display(),
                    "a compiled artifact is not the one this host recorded: it is thrown away and compiled anew"
                );
                self.discard(digest);
            }
        }
        self.compile(digest, &path).await?;
        Ok(path)
    }

    /// Throws the native code of a plugin away; the next use compiles it anew.
    pub fn discard(&self, digest: Digest) {
        let path = self.cwasm(digest);
        remove(&path);
        remove(&record_of(&path));
    }

    /// Removes everything that belongs to other digests than these, and what was compiled for other engines. Gives the
    /// number of plugins removed.
    pub fn retain(&self, wanted: &BTreeSet<Digest>) -> usize {
        let wanted: BTreeSet<_> = wanted.iter().map(Digest::hex).collect();
        let mut removed = BTreeSet::new();
        for folder in [&self.bytes, &self.compiled] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some((hex, rest)) = name.split_at_checked(64) else { continue };
                let ours = hex.bytes().all(|b| b.is_ascii_hexdigit());
                let stale = rest.starts_with('-') && !rest.starts_with(&format!("-{}.", self.compatibility));
                if ours && (stale || !wanted.contains(hex)) {
                    remove(&entry.path());
                    if !wanted.contains(hex) {
                        removed.insert(hex.to_string());
                    }
                }
            }
        }
        removed.len()
    }

    /// Compiles in a process of its own. The artifact appears under its name only when its digest is on record.
    async fn compile(&self, digest: Digest, artifact: &Path) -> Result<(), Failure> {
        let component = self.wasm(digest);
        if !component.is_file() {
            return Err(missing(digest));
        }
        let _turn = self.turns.acquire().await.map_err(|e| Failure::internal("plugin_compile", e.to_string()))?;
        let aside = tempfile::Builder::new()
            .prefix(".compiling-")
            .tempdir_in(&self.compiled)
            .map_err(|e| io_failure("make a folder to compile in, in", &self.compiled, &e))?;
        let fresh = aside.path().join("artifact");
        let Compiler { program, arguments, limit, .. } = &self.compiler;
        let child = Command::new(program)
            .args(arguments)
            .args([&component, &fresh])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| io_failure("start the compiler", program, &e))?;
        let output = match tokio::time::timeout(*limit, child.wait_with_output()).await {
            Ok(output) => output.map_err(|e| io_failure("wait for the compiler", program, &e))?,
            Err(_) => {
                let seconds = limit.as_secs_f64();
                return Err(compile_failure(&format!("it took more than {seconds} s (`plugins.compile_seconds`)"), ""));
            }
        };
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
            let why =
                last.map_or_else(|| format!("the compiler ended with {}", output.status), |l| l.trim().to_string());
            return Err(compile_failure(&why, &stderr));
        }
        let artifact = artifact.to_path_buf();
        let placed = tokio::task::spawn_blocking(move || {
            let native = file_digest(&fresh)?;
            write_atomically(&record_of(&artifact), native.to_string().as_bytes())?;
            fs::rename(&fresh, &artifact)?;
            sync_folder_of(&artifact)
        });
        match placed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(io_failure("put the compiled artifact into", &self.compiled, &e)),
            Err(e) => Err(Failure::internal("plugin_store", format!("placing a compiled artifact failed: {e}"))),
        }
    }

    fn wasm(&self, digest: Digest) -> PathBuf {
        self.bytes.join(format!("{}.wasm", digest.hex()))
    }

    fn json(&self, digest: Digest) -> PathBuf {
        self.bytes.join(format!("{}.json", digest.hex()))
    }

    fn cwasm(&self, digest: Digest) -> PathBuf {
        self.compiled.join(format!("{}-{}.cwasm", digest.hex(), self.compatibility))
    }
}

/// The failure of a task whose plugin's bytes are gone.
pub(super) fn missing(digest: Digest) -> Failure {
    Failure::unavailable(
        "plugin_bytes_missing",
        format!(
            "the bytes of plugin {digest} are not kept on this host: put its file into the plugins folder again, or \
             retry the task, which then runs on the version in service"
        ),
    )
}

/// Writes a file so that it is there whole or not at all, and durably.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    let mut aside = tempfile::Builder::new().prefix(".writing-").suffix(".tmp").tempfile_in(folder)?;
    aside.write_all(bytes)?;
    aside.as_file().sync_all()?;
    aside.persist(path).map_err(|e| e.error)?;
    sync_folder_of(path)
}

/// How an artifact stands to what was recorded of it.
enum Native {
    Sound,
    Missing,
    Foreign,
}

fn inspect(artifact: &Path) -> Native {
    match file_digest(artifact) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Native::Missing,
        Err(_) => Native::Foreign,
        Ok(found) => match fs::read_to_string(record_of(artifact)) {
            Ok(text) if text.trim().parse().ok() == Some(found) => Native::Sound,
            _ => Native::Foreign,
        },
    }
}

fn record_of(artifact: &Path) -> PathBuf {
    let mut name = artifact.as_os_str().to_os_string();
    name.push(".sha256");
    PathBuf::from(name)
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
}

/// A rename is durable once the folder is.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// What cannot be removed is in nobody's way: it is unused, and found again next time.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %e, "a file that is no longer needed could not be removed");
        }
        _ => {}
    }
}

fn compile_failure(why: &str, stderr: &str) -> Failure {
    let start = stderr.len().saturating_sub(LONGEST_STDERR);
    let start = (start..=stderr.len()).find(|i| stderr.is_char_boundary(*i)).unwrap_or(stderr.len());
    let failure = Failure::internal("plugin_compile", format!("compiling it failed: {why}"));
    match stderr.get(start..).unwrap_or_default() {
        "" => failure,
        tail => failure.with_detail(tail),
    }
}

fn io_failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    let class = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            FailureClass::Unavailable
        }
        _ => FailureClass::Internal,
    };
    Failure::new(class, "plugin_store", format!("the plugin host could not {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell as the compiler: what is kept and how is the same for every compiler.
    fn keep(data: &Path, script: &str) -> Keep {
        keep_within(data, script, Duration::from_secs(60))
    }

    /// The same with a limit on each compilation.
    fn keep_within(data: &Path, script: &str, limit: Duration) -> Keep {
        let arguments = ["-c", script, "sh"].map(OsString::from).to_vec();
        let compiler = Compiler { program: "/bin/sh".into(), arguments, limit, at_once: 1 };
        Keep::open(data, compiler, "engine-1".into()).unwrap()
    }

    /// Copies, and leaves a line behind for each run.
    const COPY: &str = r#"echo run >> "${1%/sha256/*}/runs"; /bin/cp "$1" "$2""#;

    fn runs(data: &Path) -> usize {
        fs::read_to_string(data.join("runs")).unwrap_or_default().lines().count()
    }

    #[tokio::test]
    async fn compiled_code_that_is_not_what_was_recorded_is_compiled_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("plugins");
        let keep = keep(&data, COPY);
        let digest = Digest::of(b"component");
        keep.store(digest, b"component").unwrap();
        let artifact = keep.artifact(digest).await.unwrap();
        assert_eq!(keep.artifact(digest).await.unwrap(), artifact);
        assert_eq!(runs(&data), 1, "a sound artifact is used again");

        fs::write(&artifact, b"forged").unwrap();
        keep.artifact(digest).await.unwrap();
        assert_eq!(fs::read(&artifact).unwrap(), b"component");
        fs::remove_file(record_of(&artifact)).unwrap();
        keep.artifact(digest).await.unwrap();
        assert_eq!(runs(&data), 3, "neither a changed artifact nor one without a record is loaded");
    }

    #[tokio::test]
    async fn a_compiler_that_fails_is_quoted_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("plugins");
        let keep = keep(&data, "echo first >&2; echo 'the component is odd' >&2; exit 1");
        let digest = Digest::of(b"component");
        assert_eq!(keep.artifact(digest).await.unwrap_err().code, "plugin_bytes_missing");
        keep.store(digest, b"component").unwrap();
        let failure = keep.artifact(digest).await.unwrap_err();
        assert_eq!(failure.message, "compiling it failed: the component is odd");
        assert_eq!(failure.detail.as_deref(), Some("first\nthe component is odd\n"));
        assert_eq!(fs::read_dir(data.join("compiled")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_compiler_that_takes_too_long_is_ended_and_the_setting_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("plugins");
        let keep = keep_within(&data, "exec /bin/sleep 600", Duration::from_millis(50));
        let digest = Digest::of(b"component");
        keep.store(digest, b"component").unwrap();
        let failure = keep.artifact(digest).await.unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.message.as_str()),
            ("plugin_compile", "compiling it failed: it took more than 0.05 s (`plugins.compile_seconds`)")
        );
        assert_eq!(fs::read_dir(data.join("compiled")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn only_what_is_wanted_is_retained() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("plugins");
        let keep = keep(&data, COPY);
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        for (digest, bytes) in [(old, b"old"), (new, b"new")] {
            keep.store(digest, bytes).unwrap();
            keep.describe(digest, &Description { file: "a.wasm".into(), manifest: "{}".into() }).unwrap();
            keep.artifact(digest).await.unwrap();
        }
        let stale = data.join("compiled").join(format!("{}-engine-0.cwasm", new.hex()));
        fs::write(&stale, b"of another engine").unwrap();
        assert_eq!(keep.retain(&BTreeSet::from([new])), 1);
        assert!(keep.read(old).unwrap().is_none() && keep.description(old).is_none());
        assert!(!stale.exists() && keep.cwasm(new).exists() && !keep.cwasm(old).exists());
        assert_eq!(keep.read(new).unwrap().unwrap(), b"new");
        assert_eq!(keep.description(new).unwrap().file, "a.wasm");
    }

    #[test]
    fn the_folder_is_the_hosts_alone_and_damaged_bytes_are_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("plugins");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
        let keep = keep(&data, COPY);
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        let digest = Digest::of(b"component");
        keep.store(digest, b"component").unwrap();
        fs::write(keep.wasm(digest), b"c0mponent").unwrap();
        assert_eq!(keep.read(digest).unwrap_err().code, "plugin_bytes_damaged");
        keep.store(digest, b"component").unwrap();
        assert_eq!(keep.read(digest).unwrap().unwrap(), b"component");
    }
}
