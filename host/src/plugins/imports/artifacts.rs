//! `artifacts`: files, by digest.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::contract::enginehouse::plugin::artifacts;
use super::{Capability, Shared, Start, given, http_rules, tasks};
use crate::artifacts::{self as room, names, sniff};
use crate::digest::Digest;
use crate::net;
use crate::plugins::journal::{Effect, Interrupt};
use crate::plugins::sandbox::Permits;
use crate::task::{Failure, FailureClass, FileRef, Output, Status};

/// Most bytes of one `read` or `write`.
const PIECE: u32 = room::READ_BYTES;

/// Bytes in the record: hexadecimal text.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Hex(String);

impl Hex {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(bytes))
    }

    pub(super) fn bytes(self) -> Result<Vec<u8>, Interrupt> {
        hex::decode(self.0).map_err(|e| {
            let message = format!("Recorded bytes cannot be read: {e}.");
            Interrupt::Stop(Failure::internal("journal_unreadable", message).retryable())
        })
    }
}

impl artifacts::Host for Start {
    async fn resolve(&mut self, source: String) -> Result<String, Interrupt> {
        let arguments = json!({ "source": source });
        let resolve = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let file = match source.strip_prefix("task:") {
                Some(id) => output_of(&reach, id).await?,
                None => match web_address(&source) {
                    Some(url) => downloaded(&reach, &source, &url).await?,
                    None => reach.services.intake.resolve(&source).await?,
                },
            };
            let bytes = reach.services.artifacts.bytes(file.artifact)?;
            Ok(json!({
                "$artifact": file.artifact,
                "name": file.name,
                "media_type": file.media_type,
                "bytes": bytes,
            })
            .to_string())
        };
        self.call(Some(Capability::Artifacts), "artifacts.resolve", &arguments, Effect::Repeatable, resolve).await
    }

    async fn read(&mut self, artifact: String, offset: u64, length: u32) -> Result<Vec<u8>, Interrupt> {
        let arguments = json!({ "artifact": artifact, "offset": offset, "length": length });
        let read = async move |reach: Shared, _| -> Result<Hex, Interrupt> {
            let bytes = reach.services.artifacts.read(digest(&artifact)?, offset, length).await?;
            Ok(Hex::of(&bytes))
        };
        let hex: Hex =
            self.call(Some(Capability::Artifacts), "artifacts.read", &arguments, Effect::Repeatable, read).await?;
        hex.bytes()
    }

    async fn write(&mut self, bytes: Vec<u8>, name: String) -> Result<String, Interrupt> {
        let arguments = json!({ "sha256": Digest::of(&bytes), "bytes": bytes.len(), "name": name });
        let write = async move |reach: Shared, _| -> Result<String, Interrupt> {
            if bytes.len() > PIECE as usize {
                let message = format!("One write takes at most {PIECE} bytes, {} were given.", bytes.len());
                return Err(Failure::denied("too_large", message).into());
            }
            reach.count_artifact(bytes.len() as u64)?;
            let file = reach.services.artifacts.import_bytes(bytes, &name).await?;
            Ok(file.artifact.to_string())
        };
        self.call(Some(Capability::Artifacts), "artifacts.write", &arguments, Effect::Repeatable, write).await
    }

    async fn publish(&mut self, artifact: String, name: String) -> Result<String, Interrupt> {
        let arguments = json!({ "artifact": artifact, "name": name });
        let publish = async move |reach: Shared, _| -> Result<String, Interrupt> {
            let file = file_ref(&reach.services.artifacts, &artifact, &name).await?;
            let (folder, stem) = (&reach.task.task_type, reach.task.id.to_string());
            let path = reach.services.artifacts.publish(&file, folder, &stem).await?;
            Ok(room::uri(&path))
        };
        self.call(Some(Capability::Artifacts), "artifacts.publish", &arguments, Effect::Keyed, publish).await
    }
}

/// A digest as the guest writes it. Code `invalid_artifact`.
pub(super) fn digest(artifact: &str) -> Result<Digest, Failure> {
    artifact.parse().map_err(|e| Failure::invalid("invalid_artifact", format!("{e}.")))
}

/// A file that is in the house, under a name for people. Codes: `invalid_artifact`, `artifact_not_found`.
pub(in crate::plugins) async fn file_ref(
    artifacts: &room::Artifacts,
    artifact: &str,
    name: &str,
) -> Result<FileRef, Failure> {
    let artifact = digest(artifact)?;
    let head = artifacts.read(artifact, 0, 4096).await?;
    let name = names::sanitised(name);
    let media_type = sniff::media_type(&head, &name).to_string();
    Ok(FileRef { artifact, name, media_type })
}

/// A source that the host would fetch from the network.
fn web_address(source: &str) -> Option<Url> {
    Url::parse(source).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// A file of the network, counted as made by this start. Codes: `not_granted`, `artifact_limit`, and those of the intake.
async fn downloaded(reach: &Shared, source: &str, url: &Url) -> Result<FileRef, Interrupt> {
    may_fetch(reach, source, url).await?;
    // What is over the limit already is not fetched first.
    reach.count_artifact(0)?;
    let file = reach.services.intake.resolve(source).await?;
    reach.count_artifact(reach.services.artifacts.bytes(file.artifact)?)?;
    Ok(file)
}

/// An address can carry away what the handler knows. So it is one that was given to the task, one that a task which it
/// may look at ended with, or one that the handler could ask by `http` as well. Code `not_granted`.
async fn may_fetch(reach: &Shared, source: &str, url: &Url) -> Result<(), Interrupt> {
    let Permits { plugin, grant, .. } = &reach.permits;
    let by_rule = http_rules::allowed(plugin, grant, "GET", url).is_ok();
    if by_rule || given::address(reach, source).await? || tasks::is_an_output(reach, source).await? {
        return Ok(());
    }
    let host = url.host_str().unwrap_or_default();
    let message = format!(
        "The plugin {plugin} may not fetch {}: the address stands, letter for letter, neither in the params of this task \
         nor in those of its parent, no task that this one may look at ended with it, and no rule of the operator allows \
         GET of it. Give the address in the params, or add a rule with host = \"{host}\" to `[plugins.grants.{plugin}]`, \
         `http`.",
        net::shown(url)
    );
    Err(Failure::denied("not_granted", message).into())
}

/// The main output of a readable task. Codes: `task_not_found`, `task_not_complete`, `no_file_output`.
async fn output_of(reach: &Shared, id: &str) -> Result<FileRef, Interrupt> {
    let task = tasks::readable(reach, id).await?;
    match (task.status, task.output) {
        (Status::Complete, Some(Output::File { file, .. })) => Ok(file),
        (Status::Complete, _) => Err(Failure::new(
            FailureClass::Dependency,
            "no_file_output",
            format!("The output of task {id} ({}) is no file.", task.task_type),
        )
        .into()),
        (status, _) => Err(Failure::new(
            FailureClass::Dependency,
            "task_not_complete",
            format!("Task {id} ({}) has no output: it is {status}.", task.task_type),
        )
        .into()),
    }
}

/// Files that a handler names in its facts as further outputs: `"extra": [{"$artifact": …, "name": text} …]`.
pub(in crate::plugins) async fn extra(artifacts: &room::Artifacts, list: &Value) -> Result<Vec<FileRef>, Failure> {
    let bad = || {
        Failure::internal(
            "invalid_outcome",
            "The handler's `extra` is no list of `{\"$artifact\": digest, \"name\": text}`, as the contract asks.",
        )
    };
    let mut files = Vec::new();
    for item in list.as_array().ok_or_else(bad)? {
        let artifact = item.get("$artifact").and_then(Value::as_str).ok_or_else(bad)?;
        let name = item.get("name").and_then(Value::as_str).ok_or_else(bad)?;
        files.push(file_ref(artifacts, artifact, name).await?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_network_are_held_to_the_rules_of_the_network() {
        for (source, yes) in [
            ("https://x.example/a", true),
            (" HTTP://x.example/a", true),
            ("sha256:12", false),
            ("inputs/a.png", false),
            ("file:///a.png", false),
            ("ftp://x.example/a", false),
        ] {
            assert_eq!(web_address(source).is_some(), yes, "{source}");
        }
    }
}
