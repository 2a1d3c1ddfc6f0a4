//! Components for tests: built from the workspace, or altered copies of the `minimal` guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Bytes of the manifest block in `tests/guests/minimal`.
const MANIFEST_ROOM: usize = 4096;

/// Builds the component of a workspace package, once per process, and gives its file.
///
/// # Panics
/// When the build fails: the message is cargo's.
pub fn component(package: &str) -> PathBuf {
    let file = format!("{}.wasm", package.replace('-', "_"));
    once(package, &["--target", "wasm32-wasip2"]);
    target_folder().join("wasm32-wasip2/release").join(file)
}

/// The host program, built once per process.
///
/// # Panics
/// When the build fails: the message is cargo's.
pub fn program() -> PathBuf {
    // With the packages of `make test` beside it: alone, it would ask for other features of its crates, and half the house
    // would be built once more.
    let beside = [
        "enginehouse-sdk",
        "enginehouse-tests",
        "extract_frame",
        "travel_orchestrator",
        "travel_segment",
        "travel_stitch",
    ];
    let mut more = vec!["--bin", "enginehouse"];
    more.extend(beside.iter().flat_map(|package| ["-p", package]));
    once("enginehouse", &more);
    target_folder().join("release/enginehouse")
}

/// The `minimal` component with another manifest: a plugin of any name, version and types, without a build.
///
/// # Panics
/// When the manifest is longer than its room, or the guest was not built as expected.
pub fn with_manifest(manifest: &serde_json::Value) -> Vec<u8> {
    let mut text = serde_json::to_vec(manifest).expect("a manifest is JSON");
    assert!(text.len() <= MANIFEST_ROOM, "the manifest has {} bytes, the room {MANIFEST_ROOM}", text.len());
    text.resize(MANIFEST_ROOM, b' ');
    let mut bytes = std::fs::read(component("minimal")).expect("the minimal component is readable");
    let start = find(&bytes, br#"{"name":"minimal","#).expect("the minimal component holds its manifest");
    bytes[start..start + MANIFEST_ROOM].copy_from_slice(&text);
    bytes
}

/// Replaces a text by another of the same length wherever it stands in a component.
///
/// # Panics
/// When the lengths differ or the text does not occur.
pub fn patched(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "a component keeps its lengths");
    let mut at = 0;
    let mut count = 0;
    while let Some(offset) = find(&bytes[at..], from.as_bytes()) {
        bytes[at + offset..at + offset + to.len()].copy_from_slice(to.as_bytes());
        at += offset + to.len();
        count += 1;
    }
    assert!(count > 0, "`{from}` does not occur in the component");
    bytes
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Where cargo puts what it builds.
fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("target"),
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a package of the workspace")
}

/// One build per package and process; cargo itself holds off other processes.
fn once(package: &str, more: &[&str]) {
    static BUILT: OnceLock<Mutex<BTreeMap<String, &'static OnceLock<()>>>> = OnceLock::new();
    let cell = {
        let mut built = BUILT.get_or_init(Mutex::default).lock().expect("no build panicked under the lock");
        *built.entry(package.to_string()).or_insert_with(|| Box::leak(Box::default()))
    };
    cell.get_or_init(|| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // Build scripts watch what cargo tells a running test of its package: seen by another cargo, half the house would
        // be built anew.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"].iter().any(|told| text.starts_with(told))
            {
                command.env_remove(&name);
            }
        }
        let built = command
            .args(["build", "--release", "--locked", "--quiet", "-p", package])
            .args(more)
            .current_dir(workspace())
            .output()
            .expect("cargo starts");
        assert!(built.status.success(), "building {package}:\n{}", String::from_utf8_lossy(&built.stderr));
    });
}
