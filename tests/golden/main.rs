//! What the worker that this project replaces did, recorded, against what the handlers do: compiled components on a real
//! store, real artifacts and real media, with the edges scripted as the recordings say.
//!
//! ```text
//! cargo test --release -p enginehouse-tests --test golden -- --nocapture
//! ```
//!
//! The recordings are in `data/`, with a description of their own in each folder; `ENGINEHOUSE_GOLDEN=DIR` takes others,
//! in the same folders under any file names. `GOLDEN_ONLY=TEXT` runs the cases whose name holds the text.
//!
//! - `case.rs`: cases, read from their files, corrected as the recordings themselves say.
//! - `observe.rs`, `house.rs`, `edges.rs`, `files.rs`: a case is run, and what it did is written down in the recordings' shape.
//! - `compare.rs`, `same.rs`, `colours.rs`: the two against each other; nothing is left out that `members.rs` does not list.
//! - `altered.rs`: whether the comparison would notice.
//! - `scripted.rs`: whether the edges do what the recordings' description says, also where no recording needs it.
//! - `tables.rs`: pure functions.
//! - `comfyui/`: conversations with ComfyUI, played again to the host's client.

// Tests say what they expect by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod altered;
mod case;
mod colours;
mod comfyui;
mod compare;
mod edges;
mod files;
mod house;
mod members;
mod observe;
mod same;
mod scripted;
mod summary;
mod tables;

use case::Case;
use futures::StreamExt as _;
use house::Shared;
use summary::Summary;

/// Cases that run at once.
const AT_ONCE: usize = 4;

/// Share of cases, and of members, that may be left uncompared.
const LEFT_OUT: f64 = 0.05;

async fn run(cases: Vec<Case>) -> Summary {
    let only = std::env::var("GOLDEN_ONLY").unwrap_or_default();
    let shared = Shared::get();
    let runs = cases.into_iter().filter(|case| case.name.contains(&only)).map(|case| async move {
        let observed = observe::observe(&case, shared).await;
        (case, observed)
    });
    let mut summary = Summary::default();
    let mut runs = futures::stream::iter(runs).buffered(AT_ONCE);
    while let Some((case, observed)) = runs.next().await {
        summary.add(&case, observed);
    }
    summary
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_travel_family_does_what_was_recorded() {
    let summary = run(case::of_folder("travel").expect("recordings")).await;
    summary.print("travel");
    summary.check(LEFT_OUT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn extract_frame_takes_the_frame_that_was_recorded() {
    let mut cases = case::of_stage("direct", "extract_frame_index").expect("recordings");
    for case in &mut cases {
        case.task_type = "extract_frame".into();
    }
    let summary = run(cases).await;
    summary.print("extract_frame");
    summary.check(0.0);
}

#[tokio::test]
async fn the_rules_compute_what_was_recorded() {
    let tables = tables::run(&case::tables("travel").expect("recordings")).await;
    let passed: usize = tables.iter().map(|table| table.passed).sum();
    let failed: Vec<&String> = tables.iter().flat_map(|table| &table.differences).collect();
    let left: Vec<&String> = tables.iter().flat_map(|table| &table.not_compared).collect();
    println!("golden pure functions: {passed} passed, {} failed, {} not compared", failed.len(), left.len());
    for table in &tables {
        println!("  {}: {} passed, {} not compared", table.name, table.passed, table.not_compared.len());
    }
    left.iter().for_each(|why| println!("  not compared: {why}"));
    assert!(passed > 0 && failed.is_empty(), "{failed:#?}");
}
