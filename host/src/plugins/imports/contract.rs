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

/// Codes with which the host tells itself what became of a start. A guest that could say them would steer the host.
const RESERVED: [&str; 6] =
    ["store_failed", "lost_claim", "cancelled", "journal_diverged", "quarantined", "host_defect"];

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

/// A failure as the guest gave it. Its code is made snake_case, whatever it was; one that the host keeps for itself
/// gets `plugin_` in front.
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
    let mut code = snake_case(&failure.code);
    let means_it = class == FailureClass::Cancelled && code == "cancelled";
    if RESERVED.contains(&code.as_str()) && !means_it {
        code.insert_str(0, "plugin_");
    }
    Failure { class, code, message: failure.message, retry: failure.retry, detail: None }
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
    fn codes_of_the_host_are_not_for_guests_however_they_are_written() {
        for (class, given, code) in [
            (types::FailureClass::Internal, "store_failed", "plugin_store_failed"),
            (types::FailureClass::Internal, "StoreFailed", "plugin_store_failed"),
            (types::FailureClass::Cancelled, "lost claim", "plugin_lost_claim"),
            (types::FailureClass::Internal, "journal_diverged", "plugin_journal_diverged"),
            (types::FailureClass::Internal, "quarantined", "plugin_quarantined"),
            (types::FailureClass::Internal, "host_defect", "plugin_host_defect"),
            (types::FailureClass::Engine, "cancelled", "plugin_cancelled"),
            (types::FailureClass::Cancelled, "cancelled", "cancelled"),
            (types::FailureClass::Internal, "store_failed_twice", "store_failed_twice"),
        ] {
            let failure = types::Failure { class, code: given.into(), message: String::new(), retry: true };
            assert_eq!(from_guest(failure).code, code, "{given}");
        }
    }

    #[test]
    fn a_failure_comes_back_from_the_guest_as_it_went_in() {
        let failure = Failure::denied("not_granted", "no").retryable();
        assert_eq!(from_guest(to_guest(failure.clone())), failure);
    }
}
