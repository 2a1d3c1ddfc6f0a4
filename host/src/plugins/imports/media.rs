//! `media`: pictures and videos, worked on by the host.

use serde_json::{Value, json};

use super::artifacts::digest;
use super::contract::enginehouse::plugin::media;
use super::{Capability, Shared, Start, json_or_text, object};
use crate::artifacts::Take;
use crate::plugins::journal::{Effect, Interrupt};

impl media::Host for Start {
    async fn probe(&mut self, artifact: String) -> Result<String, Interrupt> {
        let arguments = json!({ "artifact": artifact });
        let probe = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let path = reach.services.artifacts.path(digest(&artifact)?)?;
            Ok(json!(reach.services.media.probe(&path).await?).to_string())
        };
        self.call(Some(Capability::Media), "media.probe", &arguments, Effect::Repeatable, probe).await
    }

    async fn render(&mut self, timeline: String) -> Result<String, Interrupt> {
        let arguments = json!({ "timeline": json_or_text(&timeline) });
        let render = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let timeline = Value::Object(object(&timeline, "The timeline")?);
            let services = &reach.services;
            let folder = services.artifacts.scratch()?;
            let source = |digest| services.artifacts.path(digest);
            let made = services.media.render(&timeline, &source, folder.path()).await?;
            let bytes = tokio::fs::metadata(&made.path).await.map_or(0, |file| file.len());
            reach.count_artifact(bytes)?;
            let file = services.artifacts.import_file(&made.path, &made.name, Take::Move).await?;
            Ok(json!({
                "$artifact": file.artifact,
                "name": file.name,
                "media_type": file.media_type,
                "frames": made.frames,
                "fps": made.fps,
                "width": made.width,
                "height": made.height,
            })
            .to_string())
        };
        self.call(Some(Capability::Media), "media.render", &arguments, Effect::Repeatable, render).await
    }
}
