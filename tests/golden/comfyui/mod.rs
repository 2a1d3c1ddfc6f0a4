//! Recorded conversations with ComfyUI: each is played again to the host's client, which must come to the conclusion that
//! the recordings' own list of expectations states.
//!
//! - `case.rs`: one case for each submission that the list names, with what is expected of it.
//! - `subject.rs`: clients that can be tried: the host's, and one that trusts the socket alone, which must be caught.
//! - `compare.rs`: what a client concluded against what is expected; a member that nobody thought of fails its case.

mod case;
mod compare;
mod subject;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use enginehouse_tests::replay::{Options, Replay};
use futures::StreamExt as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use case::{Case, Expected};
use subject::{Ask, Ended, Subject};

/// Cases that run at once: they spend their time waiting.
const AT_ONCE: usize = 8;

/// Longest time a case may take.
const LIMIT: Duration = Duration::from_secs(90);

/// A prompt is cancelled once this long nothing further comes, should no progress be reported before.
const NO_PROGRESS: Duration = Duration::from_secs(1);

/// How the cases came out.
#[derive(Default)]
struct Summary {
    passed: Vec<String>,
    failed: Vec<(String, Vec<String>)>,
    members: BTreeMap<&'static str, usize>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_comfyui_client_concludes_what_was_recorded() {
    let (cases, left) = case::cases().expect("recordings");
    let summary = run(&cases, &subject::Host).await;
    for (case, differences) in &summary.failed {
        println!("FAILED comfyui/{case}");
        differences.iter().for_each(|difference| println!("    {difference}"));
    }
    let (passed, failed) = (summary.passed.len(), summary.failed.len());
    println!("golden comfyui: {passed} passed, {failed} failed, {} not compared", left.len());
    summary.members.iter().for_each(|(member, times)| println!("  {member}: {times} compared"));
    left.iter().for_each(|(recording, reason)| println!("  not compared: {recording} ({reason})"));
    assert!(passed > 0, "no case passed");
    assert_eq!(failed, 0, "{failed} cases failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_that_trusts_the_socket_alone_is_caught() {
    let (cases, _) = case::cases().expect("recordings");
    let summary = run(&cases, &subject::SocketAlone).await;
    let caught: Vec<&str> = summary.failed.iter().map(|(name, _)| name.as_str()).collect();
    println!("golden comfyui, a client that trusts the socket alone: {} of {} caught", caught.len(), cases.len());
    // What a socket cannot tell: that it broke while the prompt went on, and that a file is gone.
    let beyond: Vec<&str> =
        cases.iter().filter(|case| case.beyond_the_socket()).map(|case| case.name.as_str()).collect();
    let missed: Vec<&&str> = beyond.iter().filter(|name| !caught.contains(name)).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

async fn run(cases: &[Case], subject: &dyn Subject) -> Summary {
    let only = std::env::var("GOLDEN_ONLY").unwrap_or_default();
    let chosen = cases.iter().filter(|case| format!("comfyui/{}", case.name).contains(&only));
    let runs = chosen.map(|case| async move {
        let observed = tokio::time::timeout(LIMIT, observe(case, subject)).await;
        (case, observed.unwrap_or_else(|_| Err(anyhow::anyhow!("no end within {} s", LIMIT.as_secs()))))
    });
    let mut summary = Summary::default();
    let mut runs = futures::stream::iter(runs).buffered(AT_ONCE);
    while let Some((case, observed)) = runs.next().await {
        let differences = match observed {
            Ok(observed) => {
                let verdict = compare::compare(&case.expected, &observed);
                verdict.compared.iter().for_each(|member| *summary.members.entry(member).or_default() += 1);
                match verdict.differences.is_empty() {
                    true => compare::unnoticed(&case.expected, &observed),
                    false => verdict.differences,
                }
            }
            Err(e) => vec![format!("the case could not be run: {e:#}")],
        };
        match differences.is_empty() {
            true => summary.passed.push(case.name.clone()),
            false => summary.failed.push((case.name.clone(), differences)),
        }
    }
    summary
}

/// Plays the recording to the client. What it concluded, in the shape of what is expected.
async fn observe(case: &Case, subject: &dyn Subject) -> Result<Value> {
    match &case.expected {
        Expected::System(_) => {
            let replay = Replay::start(&case.recording, Options::default()).await?;
            subject.system(&replay).await
        }
        Expected::Prompt(expected) => prompt(case, expected, subject).await,
    }
}

async fn prompt(case: &Case, expected: &Map<String, Value>, subject: &dyn Subject) -> Result<Value> {
    let submit = expected.get("submit").and_then(Value::as_u64).context("an entry names its submission")?;
    let submit = usize::try_from(submit)?;
    let to_cancel = expected.get("act").is_some_and(|act| act == "cancel_while_running");
    let ours = Some([submit].into());
    let replay =
        Replay::start(&case.recording, Options { ours, from: submit, hold: to_cancel, ..Options::default() }).await?;
    let graph = replay.graph(submit).context("the recording has no such submission")?;
    let graph = graph.as_object().context("the graph that was submitted is no object")?.clone();
    let folder = tempfile::tempdir()?;
    let fractions = Arc::new(Mutex::new(Vec::new()));
    let cancel = CancellationToken::new();
    let (seen, stop) = (fractions.clone(), cancel.clone());
    let ask = Ask {
        key: format!("{}/1/{submit}", case.name),
        graph,
        allow_partial: expected.get("allow_partial").is_some_and(|allow| allow == true),
        folder: folder.path().to_path_buf(),
        report: Arc::new(move |fraction: Option<f32>, _words: String| {
            let Some(fraction) = fraction else { return };
            seen.lock().expect("no report panics").push(fraction);
            if to_cancel && fraction > 0.0 {
                stop.cancel();
            }
        }),
        cancel: cancel.clone(),
    };
    let ended = tokio::select! {
        ended = subject.run(&replay, ask) => ended?,
        () = cancel_when_held(&replay, &cancel) => unreachable!("it waits for ever"),
    };
    let fractions = fractions.lock().expect("no report panics").clone();
    let mut observed = concluded(&ended, &fractions);
    let mut faults = faults(&ended, &fractions);
    faults.extend(replay.surprises());
    if !faults.is_empty() {
        observed["faults"] = json!(faults);
    }
    Ok(observed)
}

/// Where the recording lets the client compute no progress before the interruption.
async fn cancel_when_held(replay: &Replay, cancel: &CancellationToken) {
    loop {
        tokio::time::sleep(NO_PROGRESS).await;
        if replay.holding() {
            tokio::time::sleep(NO_PROGRESS).await;
            cancel.cancel();
        }
    }
}

fn concluded(ended: &Ended, fractions: &[f32]) -> Value {
    let between = fractions.iter().any(|&fraction| fraction > 0.0 && fraction < 1.0);
    let files: Vec<&Value> = ended.files.iter().map(|(file, _)| file).collect();
    json!({
        "outcome": ended.outcome,
        "class": ended.class,
        "node": ended.node,
        "files": files,
        "main": ended.main,
        "progress": if between { "some" } else { "none" },
        "retry": ended.retry,
    })
}

/// What no client may do, whatever is expected.
fn faults(ended: &Ended, fractions: &[f32]) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(pair) = fractions.windows(2).find(|pair| pair[1] < pair[0]) {
        faults.push(format!("progress went back from {} to {}", pair[0], pair[1]));
    }
    if let Some(fraction) = fractions.iter().find(|fraction| !(0.0..=1.0).contains(*fraction)) {
        faults.push(format!("progress of {fraction} is not between 0 and 1"));
    }
    for (file, path) in &ended.files {
        if std::fs::metadata(path).map_or(0, |found| found.len()) == 0 {
            faults.push(format!("{file} is not at {}, or is empty", path.display()));
        }
    }
    faults
}
