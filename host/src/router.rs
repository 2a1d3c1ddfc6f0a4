//! Which handler serves a task. A pure function of the task, what is on offer and the settings; every decision carries
//! its reason in words.
//!
//! Order: refuse list → plugin (hybrid mode) → ComfyUI type (listed, or a template file) → Wan2GP (preset file, or
//! default).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::RoutingConfig;
use crate::digest::Digest;
use crate::task::{Failure, Route};

/// What the folders of a home offer at one moment.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    /// By task type.
    pub plugins: BTreeMap<String, OfferedPlugin>,
    /// Task types that a plugin of this home served once, by type.
    pub retired: BTreeMap<String, RetiredPlugin>,
    /// Task types with a ComfyUI template, and the file's name.
    pub comfyui_templates: BTreeMap<String, String>,
    /// Task types with a Wan2GP preset, and the file's name.
    pub wan2gp_presets: BTreeMap<String, String>,
}

/// A plugin in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPlugin {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub file: String,
}

/// A plugin whose file is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredPlugin {
    pub name: String,
    pub file: String,
    pub digest: Digest,
}

/// Decides.
pub fn route(task_type: &str, params: &Map<String, Value>, offers: &Offers, config: &RoutingConfig) -> Route {
    let _ = (task_type, params, offers, config);
    todo!()
}

/// The failure of a task that fell through to an engine without the `prompt` the engine needs. When the type belonged to
/// a handler, the message says so and how to bring it back.
pub fn prompt_required(route: &Route, offers: &Offers) -> Failure {
    let _ = (route, offers);
    todo!()
}
