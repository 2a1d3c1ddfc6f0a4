//! Help from models that are neither of the engines: prompts written from pictures, guidance videos made from other
//! videos. A host need not have any of it: then the answer is `assist_not_configured`, and handlers go on without.
//!
//! - `request.rs`: what is asked for, parsed and checked.

use async_trait::async_trait;

use crate::task::{Failure, FileRef};

pub mod request;

use request::{CaptionRequest, GuidanceRequest};

/// Whoever helps.
#[async_trait]
pub trait Assist: Send + Sync + 'static {
    /// A prompt written from pictures. Code `assist_not_configured` (unavailable), and what the model says.
    async fn caption(&self, request: CaptionRequest) -> Result<String, Failure>;

    /// A guidance video, as an artifact. Codes `assist_not_configured` (unavailable), and those of rendering.
    async fn guidance(&self, request: GuidanceRequest) -> Result<FileRef, Failure>;
}

/// The help of a host that has no models.
pub struct Unassisted;

#[async_trait]
impl Assist for Unassisted {
    async fn caption(&self, _: CaptionRequest) -> Result<String, Failure> {
        Err(not_configured("write a prompt from pictures"))
    }

    async fn guidance(&self, request: GuidanceRequest) -> Result<FileRef, Failure> {
        Err(not_configured(&format!("make a guidance video of the kind `{}`", request.preprocessing.as_str())))
    }
}

fn not_configured(what: &str) -> Failure {
    let message = format!("This host has no model that could {what}: go on without.");
    Failure::unavailable("assist_not_configured", message)
}
