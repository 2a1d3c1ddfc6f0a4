//! `travel_orchestrator`: splits a travel into segment tasks and a stitch task, exactly once even if it runs again.
//!
//! A *travel* is a video that moves through a list of pictures: one segment between each pair of neighbours. Everything
//! is checked before anything is created; then all children are created in one batch, and the task is handed to them.
//! What the handler decides is a pure function of the params, the children that exist and what a few helpers answer.
//!
//! - `request.rs`: the params, checked and understood: a [`Travel`](request::Travel).
//! - `children.rs`: which children exist already, and which of them count.
//! - `prompts.rs`: a prompt per segment, on request improved by a model that looks at the pictures.
//! - `guidance.rs`: the guidance video that all segments share.
//! - `payload.rs`: the params of the children.
//! - `plan.rs`: what is to be created and how the task ends.

// Tests say what they expect by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod children;
pub mod guidance;
pub mod payload;
pub mod plan;
pub mod prompts;
pub mod request;

use enginehouse_sdk::host::assist::{CaptionRequest, GuidanceRequest};
use enginehouse_sdk::prelude::*;
use enginehouse_sdk::rules::kinds;

use plan::{Helpers, Plan};
use request::Settings;

/// The plugin.
pub struct TravelOrchestrator;

impl Plugin for TravelOrchestrator {
    fn manifest() -> Value {
        json!({
            "name": "travel_orchestrator",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "splits a travel through pictures into segment tasks and a stitch task",
            "task_types": {"travel_orchestrator": {"params": request::schema()}},
            "capabilities": ["tasks", "artifacts", "assist", "media"],
            "settings": Settings::schema(),
            "affinity": {"model": "/orchestrator_details/model_name"}
        })
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        let travel = request::read(&task, &settings::get()?)?;
        let Some(travel) = travel else { return Ok(plan::nothing_to_generate()) };
        let children = tasks::children(&task.id)?;
        match carry_out(plan::plan(travel, &children, &mut Help)?)? {
            // Only the child's file is known here, not what it had beside it.
            Outcome::Product(product) => Imports.with_thumbnail(product, &task).map(Outcome::Product),
            outcome => Ok(outcome),
        }
    }
}

enginehouse_sdk::plugin!(TravelOrchestrator);

fn carry_out(plan: Plan) -> Result<Outcome, Failure> {
    for note in &plan.notes {
        log::warn(note);
    }
    for id in &plan.remove {
        // One that has started meanwhile stays; the one that counts was chosen without it.
        if let Err(failure) = tasks::remove(id) {
            log::warn(format!("the duplicate child {id} stays: {}", failure.message));
        }
    }
    if !plan.create.is_empty() {
        let refused = |failure: Failure| {
            failure.with_code(kinds::CHILD_CREATION_FAILED).while_doing("none of the travel's children was created")
        };
        tasks::create(&plan.create).map_err(refused)?;
    }
    if let Outcome::Delegated { facts, .. } = &plan.outcome
        && let Some(message) = facts.get("message").and_then(Value::as_str)
    {
        log::info(message);
        progress::report(None, message);
    }
    Ok(plan.outcome)
}

/// The helpers of the host.
struct Help;

impl Helpers for Help {
    fn resolve(&mut self, source: &str) -> Result<String, Failure> {
        Ok(artifacts::resolve(source)?.artifact)
    }

    fn caption(&mut self, request: &CaptionRequest) -> Result<String, Failure> {
        progress::report(None, "writing prompts from the pictures");
        assist::caption(request)
    }

    fn guidance(&mut self, request: &GuidanceRequest) -> Result<String, Failure> {
        progress::report(None, "making the guidance video");
        Ok(assist::guidance(request)?.artifact)
    }
}
