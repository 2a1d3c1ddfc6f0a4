//! Files, by digest. Capability: `artifacts`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::bindings::enginehouse::plugin::artifacts;
use crate::failure::Failure;

use super::read as read_answer;

/// A file that the host keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// `sha256:` and 64 hexadecimal digits.
    #[serde(rename = "$artifact")]
    pub artifact: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub media_type: String,
    /// Size; 0 where the host did not say.
    #[serde(default)]
    pub bytes: u64,
}

impl File {
    /// How the file stands in JSON: `{"$artifact": "sha256:…"}`.
    pub fn reference(&self) -> Value {
        super::reference(&self.artifact)
    }
}

/// Makes a file of the outside an artifact: an address (`https://…`), a digest (`sha256:…`), the main output of a task
/// (`task:ID`), or a path below one of the operator's roots. Pictures come out upright.
pub fn resolve(source: &str) -> Result<File, Failure> {
    read_answer("artifacts.resolve", &artifacts::resolve(source)?)
}

/// Up to `length` bytes from `offset`, at most 1 MiB: for small files such as JSON.
pub fn read(artifact: &str, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
    artifacts::read(artifact, offset, length)
}

/// Makes an artifact of at most 1 MiB and returns its digest. `name` gives the extension.
pub fn write(bytes: &[u8], name: &str) -> Result<String, Failure> {
    artifacts::write(bytes, name)
}

/// Makes an artifact readable for people and applications, and returns its address.
pub fn publish(artifact: &str, name: &str) -> Result<String, Failure> {
    artifacts::publish(artifact, name)
}
