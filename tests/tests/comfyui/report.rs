//! The contract held against a real checkout, and the report that is committed: `tests/reports/comfyui.json`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use enginehouse_tests::host::root;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::place::Place;

/// A case by its name.
pub type Case = (&'static str, fn(&Place));

/// Runs every case, writes the report, and fails when one did.
pub fn run(cases: &[Case]) {
    let place = Place::real().expect("COMFYUI_ROOT names a checkout");
    let versions = {
        let (server, _host) = place.operated();
        let stats = server.get("/system_stats").expect("an answer");
        let of = |key: &str| stats["system"][key].clone();
        json!({
            "comfyui": of("comfyui_version"),
            "python": of("python_version").as_str().and_then(|text| text.split_whitespace().next()).map(String::from),
            "pytorch": of("pytorch_version"),
            "device": stats["devices"][0]["type"],
            "enginehouse": env!("CARGO_PKG_VERSION"),
        })
    };
    let wanted = std::env::var("COMFYUI_CASE").ok();
    let chosen = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()));
    let mut entries: Vec<Value> = Vec::new();
    for (name, case) in cases.iter().filter(|(name, _)| chosen(name)) {
        let watch = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| case(&place)));
        let outcome = if ended.is_ok() { "passed" } else { "failed" };
        println!("comfyui {name}: {outcome} ({} s)", watch.elapsed().as_secs());
        entries.push(json!({ "name": name, "outcome": outcome }));
    }
    let failed = entries.iter().filter(|entry| entry["outcome"] != "passed").count();
    println!("comfyui contract: {} passed, {failed} failed", entries.len() - failed);
    if wanted.is_none() {
        let report = json!({ "versions": versions, "recordings_sha256": recordings(), "cases": entries });
        let folder = root().join("tests/reports");
        std::fs::create_dir_all(&folder).expect("a folder");
        let text = serde_json::to_string_pretty(&report).expect("JSON");
        std::fs::write(folder.join("comfyui.json"), text + "\n").expect("the report");
    }
    assert_eq!(failed, 0, "a real server does not keep the contract");
}

/// One digest of all recordings: name and content of each file, by name.
fn recordings() -> String {
    let folder = root().join("tests/golden/data/comfyui");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the recordings").map(|file| file.expect("an entry").path()).collect();
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.file_name().expect("a name").as_encoded_bytes());
        digest.update([0]);
        digest.update(std::fs::read(file).expect("a recording"));
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
