//! What stands behind a [`Plugin`]: its code, loaded when it is first needed, and its params schemas, ready for use.

use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::sync::OnceCell;

use super::manifest::{self, Checked};
use crate::digest::Digest;
use crate::plugins::Plugin;
use crate::plugins::sandbox::Loaded;
use crate::task::Failure;

/// One per digest, shared by every file name that the plugin goes by.
pub(in crate::plugins) struct Component {
    pub(super) digest: Digest,
    pub(super) checked: Checked,
    /// Loading costs time and memory, and `route` needs neither: it waits for the first task, or the watcher.
    pub(super) loaded: OnceCell<Loaded>,
}

impl Plugin {
    /// A component under the name of its file.
    pub(super) fn of(component: Arc<Component>, file: &str) -> Self {
        let manifest = component.checked.manifest.clone();
        Self { manifest, digest: component.digest, file: file.to_string(), component }
    }

    /// The same plugin under another file name.
    pub(super) fn in_file(&self, file: &str) -> Self {
        Self::of(self.component.clone(), file)
    }

    /// Holds the params of a task against the schema that the plugin gives for its type. Fails with class
    /// `invalid-input`, code `invalid_params`; the message names the JSON pointers of the first errors, three at most.
    pub fn check_params(&self, task_type: &str, params: &Map<String, Value>) -> Result<(), Failure> {
        manifest::check_params(&self.component.checked, task_type, params)
    }
}
