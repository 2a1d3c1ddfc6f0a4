//! A recording is played to a client, and what the client concludes is written down in the shape of what is expected.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use enginehouse_tests::replay::{Options, Replay};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::case::{Case, Expected};
use super::subject::{Ask, Ended, Session, Subject};

/// A prompt is cancelled once this long nothing further comes, should no progress be reported before.
const NO_PROGRESS: Duration = Duration::from_secs(1);

/// How often a replay is asked whether it is a submission's turn.
const TURN: Duration = Duration::from_millis(5);

/// One case, in a replay of its own: the other submissions are somebody else's.
pub async fn alone(case: &Case, subject: &dyn Subject) -> Result<Value> {
    let Some(submit) = case.submit() else {
        let replay = Replay::start(&case.recording, Options::default()).await?;
        return subject.of(&replay)?.system().await;
    };
    let hold = case.is_cancelled().then_some(submit).into_iter().collect();
    let options = Options { ours: Some([submit].into()), from: submit, hold, ..Options::default() };
    let replay = Replay::start(&case.recording, options).await?;
    let mut observed = prompt(case, &replay, &*subject.of(&replay)?).await?;
    tell_surprises(&mut observed, &replay);
    Ok(observed)
}

/// The cases of one recording, in one replay and by one client, each submitted when its turn comes. What was concluded of
/// each, in their order.
pub async fn together(cases: &[&Case], subject: &dyn Subject) -> Result<Vec<Value>> {
    let first = cases.first().context("a conversation has a prompt")?;
    let ours = cases.iter().filter_map(|case| case.submit()).collect();
    let hold = cases.iter().filter(|case| case.is_cancelled()).filter_map(|case| case.submit()).collect();
    let replay = Replay::start(&first.recording, Options { ours: Some(ours), hold, ..Options::default() }).await?;
    let session = subject.of(&replay)?;
    let mut observed = vec![Value::Null; cases.len()];
    let mut running = FuturesUnordered::new();
    for (place, case) in cases.iter().enumerate() {
        let submit = case.submit().context("a conversation has prompts only")?;
        loop {
            // Once everything is over, what was concluded of it must not depend on what comes next.
            let settled = replay.busy() || running.is_empty();
            if settled && replay.awaits(submit) {
                break;
            }
            let _ = tokio::time::timeout(TURN, next(&mut running, &mut observed)).await;
        }
        let (replay, session) = (&replay, &*session);
        running.push(async move { (place, prompt(case, replay, session).await) });
        while !replay.has(submit) {
            let _ = tokio::time::timeout(TURN, next(&mut running, &mut observed)).await;
        }
    }
    while !running.is_empty() {
        next(&mut running, &mut observed).await;
    }
    if let Some(last) = observed.last_mut() {
        tell_surprises(last, &replay);
    }
    Ok(observed)
}

/// Waits for the next prompt to end, for ever when there is none.
async fn next<F: Future<Output = (usize, Result<Value>)>>(running: &mut FuturesUnordered<F>, observed: &mut [Value]) {
    match running.next().await {
        Some((place, Ok(value))) => observed[place] = value,
        Some((place, Err(e))) => observed[place] = json!({"faults": [format!("it could not be run: {e:#}")]}),
        None => std::future::pending().await,
    }
}

async fn prompt(case: &Case, replay: &Replay, session: &dyn Session) -> Result<Value> {
    let Expected::Prompt(expected) = &case.expected else { anyhow::bail!("{} is no prompt", case.name) };
    let submit = case.submit().context("an entry names its submission")?;
    let graph = replay.graph(submit).context("the recording has no such submission")?;
    let graph = graph.as_object().context("the graph that was submitted is no object")?.clone();
    let folder = TempDir::new()?;
    let fractions = Arc::new(Mutex::new(Vec::new()));
    let cancel = CancellationToken::new();
    let (seen, stop, to_cancel) = (fractions.clone(), cancel.clone(), case.is_cancelled());
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
        ended = session.run(ask) => ended?,
        () = cancel_when_held(replay, &cancel), if to_cancel => unreachable!("it waits for ever"),
    };
    let fractions = fractions.lock().expect("no report panics").clone();
    let mut observed = concluded(&ended, &fractions);
    // That the recording was counted as the list of expectations counts it.
    observed["prompt_id"] = json!(replay.recorded_id(submit));
    observed["faults"] = json!(faults(&ended, &fractions));
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

fn tell_surprises(observed: &mut Value, replay: &Replay) {
    if let Value::Array(faults) = &mut observed["faults"] {
        faults.extend(replay.surprises().into_iter().map(Value::from));
    }
}
