//! Bad input gets one clear sentence and harms only its own task; through the built binary.

use std::path::Path;

use enginehouse_tests::guests::component;
use enginehouse_tests::host::{Host, wait_for};
use enginehouse_tests::pictures;
use serde_json::{Value, json};

/// What `plugin ls` says of a file that is not in service.
fn rejection(host: &Host, file: &str) -> String {
    let listed = host.run(&["plugin", "ls", "--json"]).ok().json();
    let rejected = listed["rejected"].as_array().expect("a list");
    let found = rejected.iter().find(|r| r["file"] == file).unwrap_or_else(|| panic!("{file} is not in {listed}"));
    found["reason"].as_str().expect("a reason").to_string()
}

/// The contract version inside a component, replaced by another of the same length.
fn with_contract_version(component: &[u8], version: &str) -> Vec<u8> {
    let (old, new) = (b"@1.0.0".as_slice(), format!("@{version}"));
    assert_eq!(old.len(), new.len());
    let needle = [b"enginehouse:plugin/".as_slice(), b""].concat();
    let mut bytes = component.to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(needle.len()).position(|w| w == needle) {
        let start = at + found + needle.len();
        if let Some(tag) = bytes[start..(start + 40).min(bytes.len())].windows(old.len()).position(|w| w == old) {
            bytes[start + tag..start + tag + old.len()].copy_from_slice(new.as_bytes());
        }
        at = start;
    }
    bytes
}

#[test]
fn an_unknown_setting_is_named_with_the_nearest_known_one() {
    let host = Host::new();
    host.configure("[worker]\nleese_seconds = 5\n");
    let said = host.run(&["tasks", "ls"]);
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.stderr.contains("leese_seconds") && said.stderr.contains("lease_seconds"), "{said:?}");

    host.configure("");
    let said = host.command(&["tasks", "ls"]).env("ENGINEHOUSE_WORKER__RENEW_SECOND", "5").output().expect("runs");
    assert_eq!(said.status.code(), Some(78));
    let stderr = String::from_utf8_lossy(&said.stderr);
    assert!(
        stderr.contains("ENGINEHOUSE_WORKER__RENEW_SECOND:") && stderr.contains("ENGINEHOUSE_WORKER__RENEW_SECONDS"),
        "{stderr}"
    );
}

#[test]
fn params_that_are_no_object_are_refused_before_a_task_exists() {
    let host = Host::new();
    let file = host.home().join("params.json");
    for text in ["{", "[1]", "\"x\""] {
        std::fs::write(&file, text).expect("written");
        let said = host.run(&["submit", "t2v", "-f", file.to_str().expect("a path")]);
        assert_eq!(said.code, 2, "{text}: {said:?}");
        assert!(said.stderr.contains("params.json"), "{said:?}");
    }
    assert_eq!(host.run(&["tasks", "ls", "--json"]).ok().json()["tasks"], json!([]));
}

#[test]
fn params_that_break_the_plugins_schema_fail_with_the_place() {
    let host = Host::new();
    host.install(&component("travel_orchestrator"));
    let (code, task) = host.submit_and_run("travel_orchestrator", &json!({"orchestrator_details": 7}));
    assert_eq!(code, 1);
    assert_eq!(task["error"]["kind"], "invalid-input", "{task}");
    assert!(task["error"]["message"].as_str().is_some_and(|m| m.contains("/orchestrator_details")), "{task}");
}

#[test]
fn a_file_that_is_missing_outside_the_roots_or_cut_off_fails_its_own_task() {
    let host = Host::new();
    let inputs = host.home().join("inputs");
    let whole = inputs.join("whole.jpg");
    pictures::solid(200, 200, [9, 99, 200]).save(&whole).expect("a picture");
    let bytes = std::fs::read(&whole).expect("read");
    std::fs::write(inputs.join("half.jpg"), &bytes[..bytes.len() / 2]).expect("written");
    std::fs::write(host.home().join("secret.txt"), "outside").expect("written");
    std::os::unix::fs::symlink(host.home().join("secret.txt"), inputs.join("link.txt")).expect("a link");

    let error = |source: &Path| {
        let params = json!({
            "prompt": "x", "resolution": "64x64", "video_length": 5, "image_start": source,
        });
        let (code, task) = host.submit_and_run("i2v", &params);
        assert_eq!(code, 1, "{task}");
        task["error"].clone()
    };
    let code = |error: &Value| error["code"].as_str().map(String::from).unwrap_or_default();
    assert_eq!(code(&error(&inputs.join("missing.png"))), "input_not_found");
    assert_eq!(code(&error(&host.home().join("secret.txt"))), "path_not_allowed");
    assert_eq!(code(&error(&inputs.join("link.txt"))), "path_not_allowed");
    assert_eq!(code(&error(Path::new("/etc/hostname"))), "path_not_allowed");
    let half = error(&inputs.join("half.jpg"));
    assert!(["truncated", "unreadable_media"].contains(&code(&half).as_str()), "{half}");

    let (code, task) = host
        .submit_and_run("i2v", &json!({"prompt": "x", "resolution": "64x64", "video_length": 5, "image_start": whole}));
    assert_eq!((code, task["status"].as_str()), (0, Some("Complete")), "{task}");
}

#[test]
fn a_video_that_breaks_off_is_refused_by_name() {
    let host = Host::new();
    let (code, task) = host.submit_and_run("t2v", &json!({"prompt": "x", "resolution": "320x192", "video_length": 33}));
    assert_eq!(code, 0, "{task}");
    let bytes = std::fs::read(task["output"]["path"].as_str().expect("a path")).expect("read");
    let cut = host.home().join("inputs/cut.mp4");
    std::fs::write(&cut, &bytes[..bytes.len() * 2 / 3]).expect("written");
    let params = json!({"prompt": "x", "resolution": "320x192", "video_length": 9, "video_source": cut});
    let (code, task) = host.submit_and_run("t2v", &params);
    assert_eq!(code, 1, "{task}");
    let code = task["error"]["code"].as_str().expect("a code");
    assert!(["truncated", "unreadable_media"].contains(&code), "{task}");
}

#[test]
fn files_that_are_no_plugins_are_refused_in_one_sentence_each() {
    let host = Host::new();
    let good = std::fs::read(component("noop")).expect("a component");
    let put = |name: &str, bytes: &[u8]| std::fs::write(host.plugins().join(name), bytes).expect("written");
    put("a-good.wasm", &good);
    put("b-core.wasm", b"\0asm\x01\0\0\0");
    put("c-newer.wasm", &with_contract_version(&good, "1.9.0"));
    put("d-other.wasm", &with_contract_version(&good, "2.0.0"));
    put("e-forged.wasm", b"\x7fELF\x02\x01\x01\0 compiled elsewhere");
    put("f-same.wasm", &{
        let mut other = good.clone();
        other.extend_from_slice(b"\0\x06\x04noteX");
        other
    });
    let one_sentence = |file: &str, words: &[&str]| {
        let reason = rejection(&host, file);
        assert!(!reason.contains('\n'), "{reason}");
        for word in words {
            assert!(reason.contains(word), "`{word}` is not in: {reason}");
        }
    };
    one_sentence("b-core.wasm", &["component", "wasm32-wasip2"]);
    one_sentence("c-newer.wasm", &["1.9", "1.0"]);
    one_sentence("d-other.wasm", &["2.0", "1.0"]);
    one_sentence("e-forged.wasm", &["native code"]);
    one_sentence("f-same.wasm", &["a-good.wasm"]);
    assert_eq!(host.route("noop")["handler"]["kind"], "plugin");
}

#[test]
fn every_offence_of_a_plugin_is_contained_and_explained_while_others_work() {
    let host = Host::new();
    host.configure("[plugins.limits]\ncpu_seconds = 1.0\nmemory_mb = 64\nlog_kb = 64\ncalls = 500\n");
    host.install(&component("offender"));
    host.install(&component("noop"));
    let _worker = host.start();
    let offences = [
        (json!({"do": "loop"}), "denied", "cpu_limit"),
        (json!({"do": "allocate"}), "denied", "memory_limit"),
        (json!({"do": "call_flood"}), "denied", "call_limit"),
        (json!({"do": "panic"}), "internal", "trap"),
        (json!({"do": "recurse"}), "internal", "trap"),
    ];
    let submitted: Vec<_> = offences.iter().map(|(params, ..)| host.submit("offender", params)).collect();
    let noop = host.submit("noop", &json!({}));
    assert_eq!(host.ended(&noop)["status"], "Complete");
    for (id, (params, class, code)) in submitted.iter().zip(&offences) {
        let task = host.ended(id);
        let error = &task["error"];
        assert_eq!(
            (task["status"].as_str(), error["kind"].as_str(), error["code"].as_str()),
            (Some("Failed"), Some(*class), Some(*code)),
            "{params}: {task}"
        );
        let message = error["message"].as_str().expect("a message");
        assert!(message.len() > 20 && !message.contains('\n'), "{params}: {message}");
    }

    // Endless printing is cut, and the log stays small.
    let id = host.submit("offender", &json!({"do": "print"}));
    let task = host.ended(&id);
    assert!(task["status"] == "Complete" || task["error"]["code"] == "cpu_limit", "{task}");
    let log = host.home().join("data/logs").join(&id[..2]).join(format!("{id}.jsonl"));
    let size = wait_for("a log", || std::fs::metadata(&log).ok()).len();
    assert!(size < 1_000_000, "{size} bytes of log");

    // What was not granted is refused in words that name what to do.
    let calls = json!([["http.send", "GET", "http://127.0.0.1:9/", {}, ""], ["secrets.placeholder", "token"]]);
    let task = host.ended(&host.submit("offender", &json!({"do": "script", "calls": calls})));
    let answers: Value = serde_json::from_str(task["output"]["text"].as_str().expect("a text")).expect("JSON");
    for answer in answers.as_array().expect("answers") {
        let said = answer.to_string();
        assert!(said.contains("not_granted"), "{said}");
    }

    // The world of a plugin is empty.
    let task = host.ended(&host.submit("offender", &json!({"do": "world"})));
    let world: Value = serde_json::from_str(task["output"]["text"].as_str().expect("a text")).expect("JSON");
    assert_eq!((&world["environment"], &world["arguments"]), (&json!([]), &json!([])), "{world}");
    for what in ["read", "list", "write", "connect", "listen", "udp", "name"] {
        let said = world[what].to_string();
        assert!(said.contains("Err") && !said.contains("Ok"), "{what}: {said}");
    }
}
