//! `secrets`: names of the operator's secrets become text that stands for them. The value meets the outgoing request in
//! `http.rs`, and nothing else.

use serde_json::json;

use super::contract::enginehouse::plugin::secrets;
use super::{Capability, Reach, Shared, Start};
use crate::config::SecretGrant;
use crate::plugins::journal::{Effect, Interrupt};
use crate::task::Failure;

impl secrets::Host for Start {
    async fn placeholder(&mut self, name: String) -> Result<String, Interrupt> {
        let arguments = json!({ "name": name });
        let stand_in = async move |reach: Shared, _| -> Result<String, Interrupt> {
            granted(&reach, &name)?;
            Ok(placeholder(&name))
        };
        self.call(Some(Capability::Secrets), "secrets.placeholder", &arguments, Effect::Repeatable, stand_in).await
    }
}

/// What stands for a secret. It may be guessed: it means something only to plugins that were granted the secret, in
/// requests to hosts that the secret is bound to.
pub(super) fn placeholder(name: &str) -> String {
    format!("{{{{enginehouse-secret:{name}}}}}")
}

fn granted<'a>(reach: &'a Reach, name: &str) -> Result<&'a SecretGrant, Failure> {
    reach.permits.grant.secrets.get(name).ok_or_else(|| {
        let plugin = &reach.permits.plugin;
        let name: String = name.chars().take(80).collect();
        Failure::denied(
            "secret_not_granted",
            format!(
                "The plugin {plugin} was not granted a secret `{name}`: the operator grants it in \
                 `[plugins.grants.{plugin}.secrets.{name}]`."
            ),
        )
    })
}

/// The value of a secret, read when it is needed, so that it can be renewed. Code `secret_missing`.
pub(super) async fn value(name: &str, grant: &SecretGrant) -> Result<String, Failure> {
    let (found, place) = match grant {
        SecretGrant { env: Some(variable), .. } => {
            (std::env::var(variable).map_err(|e| e.to_string()), format!("the environment variable {variable}"))
        }
        SecretGrant { file: Some(file), .. } => {
            (tokio::fs::read_to_string(file).await.map_err(|e| e.to_string()), format!("the file {file}"))
        }
        _ => (Err("neither `env` nor `file` is set".into()), "its grant".into()),
    };
    let value = found.map(|text| text.trim_end_matches(['\r', '\n']).to_string());
    match value {
        Ok(value) if !value.is_empty() => Ok(value),
        Ok(_) => Err(Failure::unavailable("secret_missing", format!("The secret `{name}` is empty ({place})."))),
        Err(e) => Err(Failure::unavailable(
            "secret_missing",
            format!("The secret `{name}` cannot be read from {place}: {e}."),
        )),
    }
}
