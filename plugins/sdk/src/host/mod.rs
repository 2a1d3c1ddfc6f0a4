//! What a plugin may ask of the host: the imports of `wit/`, one file per interface, with values instead of JSON text.
//!
//! The files say what the functions are for and how they are called; limits, failure codes and schemas are documented
//! once, in `wit/`. [`calls`] has them once more as a trait, for handlers that are tested without a host.

pub mod artifacts;
pub mod assist;
pub mod calls;
pub mod engines;
pub mod http;
mod layers;
pub mod log;
pub mod media;
pub mod progress;
pub mod secrets;
pub mod settings;
pub mod tasks;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// Reads what a call returned. `call` as in `wit/`: `media.probe`.
fn read<T: DeserializeOwned>(call: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::internal("host_answer_unreadable", format!("the host's answer to {call} cannot be read: {error}"))
    })
}

/// Writes what a call takes.
fn write<T: Serialize>(call: &str, value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| {
        Failure::internal("request_unwritable", format!("the request of {call} cannot be written as JSON: {error}"))
    })
}

/// How an artifact stands in JSON: `{"$artifact": "sha256:…"}`.
pub fn reference(artifact: &str) -> Value {
    serde_json::json!({"$artifact": artifact})
}
