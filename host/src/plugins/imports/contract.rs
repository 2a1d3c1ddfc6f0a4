//! The contract, generated from `wit/`, and how its words become the house's.

use crate::task::{Failure, FailureClass};

wasmtime::component::bindgen!({
    path: "../wit",
    world: "handler",
    imports: { default: async | trappable },
    exports: { default: async },
    trappable_error_type: { "enginehouse:plugin/types.failure" => crate::plugins::journal::Interrupt },
});

use enginehouse::plugin::types;

/// A failure as the guest gets it. Evidence stays in the house.
pub fn to_guest(failure: Failure) -> types::Failure {
    let class = match failure.class {
        FailureClass::InvalidInput => types::FailureClass::InvalidInput,
        FailureClass::Engine => types::FailureClass::Engine,
        FailureClass::OutOfMemory => types::FailureClass::OutOfMemory,
        FailureClass::Dependency => types::FailureClass::Dependency,
        FailureClass::Denied => types::FailureClass::Denied,
        FailureClass::Unavailable => types::FailureClass::Unavailable,
        FailureClass::Cancelled => types::FailureClass::Cancelled,
        // No class of the contract: a guest meets it only in a task that it looks at, never in a call.
        FailureClass::Internal | FailureClass::Quarantined => types::FailureClass::Internal,
    };
    types::Failure { class, code: failure.code, message: failure.message, retry: failure.retry }
}

/// A failure as the guest gave it. Its code is made snake_case, whatever it was.
pub fn from_guest(failure: types::Failure) -> Failure {
    let class = match failure.class {
        types::FailureClass::InvalidInput => FailureClass::InvalidInput,
        types::FailureClass::Engine => FailureClass::Engine,
        types::FailureClass::OutOfMemory => FailureClass::OutOfMemory,
        types::FailureClass::Dependency => FailureClass::Dependency,
        types::FailureClass::Denied => FailureClass::Denied,
        types::FailureClass::Unavailable => FailureClass::Unavailable,
        types::FailureClass::Cancelled => FailureClass::Cancelled,
        types::FailureClass::Internal => FailureClass::Internal,
    };
    Failure { class, code: snake_case(&failure.code), message: failure.message, retry: failure.retry, detail: None }
}

/// `Too few clips!` and `TooFewClips` become `too_few_clips`; nothing at all becomes `unspecified`.
fn snake_case(code: &str) -> String {
    let mut plain = String::new();
    let mut before = '_';
    for c in code.chars().take(80) {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            plain.push('_');
        }
        match c {
            c if c.is_ascii_alphanumeric() => plain.push(c.to_ascii_lowercase()),
            _ if plain.ends_with('_') || plain.is_empty() => {}
            _ => plain.push('_'),
        }
        before = c;
    }
    let plain = plain.trim_end_matches('_');
    if plain.is_empty() { "unspecified".into() } else { plain.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_snake_case_and_say_the_same() {
        for (given, code) in [
            ("too_few_clips", "too_few_clips"),
            ("Too few clips!", "too_few_clips"),
            ("TooFewClips", "too_few_clips"),
            ("HTTP 404", "http_404"),
            ("  ", "unspecified"),
            ("größe", "gr_e"),
        ] {
            assert_eq!(snake_case(given), code, "{given}");
        }
    }

    #[test]
    fn a_failure_comes_back_from_the_guest_as_it_went_in() {
        let failure = Failure::denied("not_granted", "no").retryable();
        assert_eq!(from_guest(to_guest(failure.clone())), failure);
    }
}
