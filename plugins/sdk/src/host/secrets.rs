//! Secrets of the operator, by name. Capability: `secrets`. The plugin never sees a value.

/// Text that stands for the secret in headers and bodies of requests; the host puts the value in as it sends.
pub use crate::bindings::enginehouse::plugin::secrets::placeholder;
