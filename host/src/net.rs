//! Connections to the outside. Whoever opens one — downloads, a plugin's HTTP request — goes through a client made
//! here: names are resolved, private, loopback and link-local addresses refused unless allowed by address, and the
//! connection is made to the very address that was checked; redirects are checked again.

use crate::task::Failure;

/// Which addresses may be reached besides public ones.
#[derive(Clone, Debug, Default)]
pub struct NetPolicy {
    /// Addresses (`127.0.0.1`) or addresses with a port (`127.0.0.1:8188`) that are allowed although private.
    pub allow: Vec<String>,
}

impl NetPolicy {
    /// A client that keeps the policy.
    pub fn client(&self) -> Result<reqwest::Client, Failure> {
        todo!()
    }
}
