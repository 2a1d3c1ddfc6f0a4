//! How a plugin ends badly, in one line: `return Err(Failure::invalid("too_few_clips", "…"))`.
//!
//! The code is for programs: stable, snake_case. The message is for people: what was attempted, on what, why it failed,
//! what to do. The class decides what the host does next; see `wit/types.wit`.

pub use crate::bindings::enginehouse::plugin::types::{Failure, FailureClass};

impl Failure {
    /// A failure that a new attempt would only repeat.
    pub fn new(class: FailureClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class, code: code.into(), message: message.into(), retry: false }
    }

    /// The params or files of the task are wrong.
    pub fn invalid(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::InvalidInput, code, message)
    }

    /// Something the task builds on failed: a child, a predecessor, a remote service.
    pub fn dependency(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Dependency, code, message)
    }

    /// An engine refused or broke the job.
    pub fn engine(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Engine, code, message)
    }

    /// This host cannot do it.
    pub fn unavailable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Unavailable, code, message)
    }

    /// A defect of the plugin or of the host.
    pub fn internal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Internal, code, message)
    }

    /// It tells of the host and says nothing about the task's params and files: cancelled, unavailable, a defect. Such a
    /// failure is passed on as it is.
    pub fn is_of_the_host(&self) -> bool {
        matches!(self.class, FailureClass::Cancelled | FailureClass::Unavailable | FailureClass::Internal)
    }

    /// The same failure, worth a new attempt.
    pub fn retryable(mut self) -> Self {
        self.retry = true;
        self
    }

    /// The same failure under another code: what is a `download_failed` to the host may be an `input_download_failed` to
    /// the people who wait for the task.
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = code.into();
        self
    }

    /// The same failure, its message led in by what was attempted: `segment 3: …`.
    pub fn while_doing(mut self, what: impl AsRef<str>) -> Self {
        self.message = format!("{}: {}", what.as_ref(), self.message);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_class_while_it_is_told_better() {
        let failure = Failure::dependency("download_failed", "no answer")
            .retryable()
            .with_code("input_download_failed")
            .while_doing("image 2");
        assert_eq!(failure.class, FailureClass::Dependency);
        assert_eq!(failure.code, "input_download_failed");
        assert_eq!(failure.message, "image 2: no answer");
        assert!(failure.retry);
    }
}
