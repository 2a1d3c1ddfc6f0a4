//! What the operator set for this plugin. Needs no capability.

use serde::de::DeserializeOwned;

use crate::bindings::enginehouse::plugin::settings;
use crate::failure::Failure;

/// The settings, read into the plugin's own type (give its fields defaults: nothing set is `{}`).
pub fn get<T: DeserializeOwned>() -> Result<T, Failure> {
    super::read("settings.get", &settings::get()?)
}
