//! Recorded conversations with ComfyUI: each is played again to the host's client, which must come to the conclusion that
//! the recordings' own list of expectations states.
//!
//! - `case.rs`: one case for each submission that the list names, with what is expected of it.
//! - `subject.rs`: clients that can be tried: the host's, and one that trusts the socket alone, which must be caught.
//! - `observe.rs`: a recording is played to a client, and what it concludes is written down.
//! - `made.rs`: conversations that are not recorded, and could be.
//! - `compare.rs`: what a client concluded against what is expected; a member that nobody thought of fails its case.

mod case;
mod compare;
mod made;
mod observe;
mod subject;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt as _;
use serde_json::Value;

use case::Case;
use subject::Subject;

/// Cases that run at once: they spend their time waiting.
const AT_ONCE: usize = 8;

/// Longest time a case may take.
const LIMIT: Duration = Duration::from_secs(90);

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
    summary.print("comfyui", left.len());
    summary.members.iter().for_each(|(member, times)| println!("  {member}: {times} compared"));
    left.iter().for_each(|left| println!("  not compared: {} ({})", left.recording, left.reason));
    summary.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_comfyui_client_concludes_the_same_of_many_prompts_in_one_conversation() {
    let (cases, _) = case::cases().expect("recordings");
    let mut summary = Summary::default();
    let groups = case::together(&cases).into_iter().map(|group| async move {
        let observed = tokio::time::timeout(LIMIT, observe::together(&group, &subject::Host)).await;
        (group, observed.unwrap_or_else(|_| Err(too_long())))
    });
    let mut groups = futures::stream::iter(groups).buffered(AT_ONCE);
    while let Some((group, observed)) = groups.next().await {
        match observed {
            Ok(all) => group.iter().zip(all).for_each(|(case, observed)| summary.add(case, Ok(observed))),
            Err(e) => group.iter().for_each(|case| summary.add(case, Err(anyhow!("{e:#}")))),
        }
    }
    summary.print("comfyui in one conversation", 0);
    assert!(summary.failed.is_empty(), "{} cases failed", summary.failed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_comfyui_client_knows_the_traps_that_are_not_recorded() {
    let summary = run(&made::cases(), &subject::Host).await;
    summary.print("comfyui, conversations made up", 0);
    summary.check();
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
        let observed = tokio::time::timeout(LIMIT, observe::alone(case, subject)).await;
        (case, observed.unwrap_or_else(|_| Err(too_long())))
    });
    let mut summary = Summary::default();
    let mut runs = futures::stream::iter(runs).buffered(AT_ONCE);
    while let Some((case, observed)) = runs.next().await {
        summary.add(case, observed);
    }
    summary
}

fn too_long() -> anyhow::Error {
    anyhow!("no end within {} s", LIMIT.as_secs())
}

impl Summary {
    fn add(&mut self, case: &Case, observed: Result<Value>) {
        let differences = match observed {
            Ok(observed) => {
                let verdict = compare::compare(&case.expected, &observed);
                verdict.compared.iter().for_each(|member| *self.members.entry(member).or_default() += 1);
                match verdict.differences.is_empty() {
                    true => compare::unnoticed(&case.expected, &observed),
                    false => verdict.differences,
                }
            }
            Err(e) => vec![format!("the case could not be run: {e:#}")],
        };
        match differences.is_empty() {
            true => self.passed.push(case.name.clone()),
            false => self.failed.push((case.name.clone(), differences)),
        }
    }

    fn print(&self, name: &str, left: usize) {
        for (case, differences) in &self.failed {
            println!("FAILED {name}: {case}");
            differences.iter().for_each(|difference| println!("    {difference}"));
        }
        println!("golden {name}: {} passed, {} failed, {left} not compared", self.passed.len(), self.failed.len());
    }

    /// # Panics
    /// When a case failed, or none passed.
    fn check(&self) {
        assert!(!self.passed.is_empty(), "no case passed");
        assert!(self.failed.is_empty(), "{} cases failed", self.failed.len());
    }
}
