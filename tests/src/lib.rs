//! What the suites share: the built binary, components, homes, pictures and videos, the conformance suite of stores, stand-ins of engines.

pub mod comfyui;
pub mod dying_store;
pub mod guests;
pub mod handlers;
pub mod host;
pub mod numbered;
pub mod pictures;
pub mod plain_client;
pub mod played;
pub mod recordings;
pub mod replay;
pub mod scripted;
pub mod store_conformance;
pub mod web;
