//! The recording, played: one event after the other, at its own pace, waiting for the client where the client acts.

use std::sync::Arc;
use std::time::Duration;

use super::line::Port;
use super::recording::What;
use super::stage::Stage;
use super::{Shared, server};

/// What comes next.
enum Step {
    /// Nothing, until the client does something.
    Wait,
    /// The client reconnects, or does not.
    Reconnect(Duration),
    Pause(Duration),
    Again,
    /// The server dies.
    Die,
    /// It is back after this time.
    Return(Duration),
}

/// Plays until the task is dropped.
pub async fn play(shared: Arc<Shared>, mut port: Port) {
    // The event whose pause, or wait, is over.
    let mut due = None;
    loop {
        let (step, cursor) = {
            let mut stage = shared.stage();
            (next(&mut stage, due), stage.cursor)
        };
        match step {
            Step::Wait => shared.changed.notified().await,
            Step::Reconnect(limit) => {
                if tokio::time::timeout(limit, shared.changed.notified()).await.is_err() {
                    due = Some(cursor);
                }
            }
            Step::Pause(gap) => {
                tokio::time::sleep(gap).await;
                due = Some(cursor);
            }
            Step::Again => {}
            Step::Die => {
                shared.stage().up = false;
                port.close().await.expect("the port that was held is free");
                let mut stage = shared.stage();
                let event = stage.cursor;
                stage.apply(event, true);
                stage.cursor += 1;
            }
            Step::Return(after) => {
                tokio::time::sleep(after).await;
                shared.stage().up = true;
                port.open(server::router(shared.clone())).expect("the port that was kept can be listened on");
            }
        }
    }
}

fn next(stage: &mut Stage, due: Option<usize>) -> Step {
    let event = stage.cursor;
    if !stage.up {
        return while_down(stage);
    }
    if !stage.busy() {
        // Nothing further is played while nothing of the client's runs: what comes next may be the deletion of files.
        stage.answer_all();
        return Step::Wait;
    }
    if stage.holding() {
        stage.answer_all();
        return Step::Wait;
    }
    if event >= stage.tape.len() {
        stage.answer_all();
        return Step::Wait;
    }
    let frame = match stage.tape.what(event) {
        What::Request(_) => match stage.tape.submission_at(event) {
            Some(k) if stage.options.ours.is_some() && stage.ours(k) && !stage.runs[k].own => return Step::Wait,
            _ => false,
        },
        What::Connect { client, label } => {
            let (client, label) = (client.clone(), label.clone());
            let reconnects = stage.plays(&client) && stage.tape.open_label(&client, event).is_none();
            if reconnects && due != Some(event) && !stage.attach(&client, &label) {
                return Step::Reconnect(stage.options.reconnect);
            }
            false
        }
        What::Text { .. } | What::Binary { .. } | What::Closed { .. } => true,
        _ => false,
    };
    if frame && due != Some(event) {
        return Step::Pause(stage.gap(event));
    }
    if stage.tape.deaths.contains_key(&event) {
        return Step::Die;
    }
    stage.apply(event, true);
    stage.cursor += 1;
    Step::Again
}

/// What happens while nobody listens reaches nobody.
fn while_down(stage: &mut Stage) -> Step {
    let event = stage.cursor;
    let (died, back) = match stage.tape.deaths.range(..event).next_back() {
        Some((died, back)) => (*died, *back),
        None => (0, stage.tape.late.flatten()),
    };
    match back {
        Some(back) if event >= back => {
            let events = &stage.tape.recording.events;
            let recorded = events[back].at.saturating_sub(events[died].at);
            Step::Return(recorded.min(stage.options.longest_gap))
        }
        None => Step::Wait,
        Some(_) => {
            stage.apply(event, false);
            stage.cursor += 1;
            Step::Again
        }
    }
}
