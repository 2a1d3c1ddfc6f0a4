//! Requests to the outside. Capability: `http`, and a rule of the operator for host, method and path.
//!
//! [`send`] may be repeated after a crash (with the same `Idempotency-Key` header); [`send_once`] never is.

pub use crate::bindings::enginehouse::plugin::http::{Request, Response, send, send_once};

impl Request {
    /// A request without headers or body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// The same request with one header more.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The same request with a JSON body.
    pub fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }
}
