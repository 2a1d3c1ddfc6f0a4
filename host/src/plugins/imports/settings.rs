//! `settings`: what the operator set for this plugin. Needs no capability.

use serde_json::{Value, json};

use super::contract::enginehouse::plugin::settings;
use super::{Shared, Start};
use crate::plugins::journal::{Effect, Interrupt};

impl settings::Host for Start {
    // Recorded, although it is answered from memory: the operator may change a setting between a crash and the restart.
    async fn get(&mut self) -> Result<String, Interrupt> {
        let get = async |reach: Shared, _| -> Result<String, Interrupt> {
            Ok(Value::Object(reach.permits.settings.clone()).to_string())
        };
        self.call(None, "settings.get", &json!({}), Effect::Repeatable, get).await
    }
}
