//! `assist`: help from models that are neither of the engines.

use serde_json::json;

use super::contract::enginehouse::plugin::assist;
use super::{Capability, Shared, Start, json_or_text};
use crate::assist::request::{CaptionRequest, GuidanceRequest};
use crate::plugins::journal::{Effect, Interrupt};

impl assist::Host for Start {
    async fn caption(&mut self, request: String) -> Result<String, Interrupt> {
        let arguments = json_or_text(&request);
        let caption = async move |reach: Shared, _| -> Result<String, Interrupt> {
            Ok(reach.services.assist.caption(CaptionRequest::parse(&request)?).await?)
        };
        self.call(Some(Capability::Assist), "assist.caption", &arguments, Effect::Repeatable, caption).await
    }

    async fn guidance(&mut self, request: String) -> Result<String, Interrupt> {
        let arguments = json_or_text(&request);
        let guidance = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let services = &reach.services;
            let file = services.assist.guidance(GuidanceRequest::parse(&request)?).await?;
            reach.count_artifact(services.artifacts.bytes(file.artifact)?)?;
            Ok(json!({ "$artifact": file.artifact, "name": file.name, "media_type": file.media_type }).to_string())
        };
        self.call(Some(Capability::Assist), "assist.guidance", &arguments, Effect::Repeatable, guidance).await
    }
}
