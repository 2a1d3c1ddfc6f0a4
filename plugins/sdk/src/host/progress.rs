//! What the task is doing, for people who wait. Needs no capability.

use crate::bindings::enginehouse::plugin::progress;

/// `fraction` 0 to 1 (none: unknown); `message` a few words: `joining 8 segments`.
pub fn report(fraction: Option<f32>, message: impl AsRef<str>) {
    progress::report(fraction, message.as_ref());
}
