//! What plugin authors depend on.
//!
//! A handler is ordinary sequential code:
//!
//! ```ignore
//! use enginehouse_sdk::prelude::*;
//!
//! struct Hello;
//! impl Plugin for Hello {
//!     fn manifest() -> Value { json!({"name": "hello", "version": "1.0.0", "task_types": {"hello": {}}}) }
//!     fn handle(task: Task) -> Result<Outcome, Failure> { Ok(Outcome::Text(format!("hello {}", task.id))) }
//! }
//! enginehouse_sdk::plugin!(Hello);
//! ```
//!
//! - `bindings`: the contract of `wit/`, generated.
//! - `host`: the imports as an author wants them: JSON values instead of text.

/// The contract, generated from `wit/`.
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler",
        pub_export_macro: true,
        default_bindings_module: "enginehouse_sdk::bindings",
        generate_all,
    });
}
