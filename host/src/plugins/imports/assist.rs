//! `assist`: help from models that are neither of the engines. This host has none yet, and says so.

use super::contract::enginehouse::plugin::assist;
use super::{Capability, Start, json_or_text};
use crate::plugins::journal::{Effect, Interrupt};
use crate::task::Failure;

impl assist::Host for Start {
    async fn caption(&mut self, request: String) -> Result<String, Interrupt> {
        self.unavailable("assist.caption", &request, "write a prompt from pictures").await
    }

    async fn guidance(&mut self, request: String) -> Result<String, Interrupt> {
        self.unavailable("assist.guidance", &request, "make a guidance video").await
    }
}

impl Start {
    async fn unavailable(&mut self, function: &'static str, request: &str, what: &str) -> Result<String, Interrupt> {
        let message = format!("This host has no model that could {what}: go on without.");
        let answer = async |_, _| Err(Failure::unavailable("assist_not_configured", message).into());
        self.call(Some(Capability::Assist), function, &json_or_text(request), Effect::Repeatable, answer).await
    }
}
