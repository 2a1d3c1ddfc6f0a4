//! Failures that tell of a broken machine, not of a job: the driver is gone, the card fell off the bus, the process was
//! torn down. One may be chance; when they repeat, every further job would fail the same way.
//!
//! Running out of memory and illegal memory accesses are not among them: they are cured by rules of their own.

use crate::task::{Failure, FailureClass};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    Driver,
    Hardware,
    Nvml,
    /// The engine's process was torn down by the system.
    System,
}

impl Category {
    /// Consecutive failures after which the lane is paused.
    fn threshold(self) -> u32 {
        match self {
            Category::Driver | Category::Nvml => 2,
            Category::Hardware | Category::System => 1,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Category::Driver => "the GPU's driver does not work",
            Category::Hardware => "the GPU is gone or its driver failed for good",
            Category::Nvml => "the GPU's management library does not work",
            Category::System => "the engine's process was torn down by the system",
        }
    }
}

/// Words that stand in an error text, in this order, each after the one before.
const PATTERNS: [(Category, &[&str]); 12] = [
    (Category::Driver, &["cuda driver initialization failed", "might not have a cuda gpu"]),
    (Category::Driver, &["no cuda-capable device is detected"]),
    (Category::Driver, &["found no nvidia driver"]),
    (Category::Driver, &["cuda driver version is insufficient for cuda runtime version"]),
    (Category::Hardware, &["gpu has fallen off the bus"]),
    (Category::Hardware, &["catastrophic driver failure"]),
    (Category::Hardware, &["cuda error: the launch timed out and was terminated", "watchdog"]),
    (Category::Nvml, &["nvml shared library not found"]),
    (Category::Nvml, &["failed to initialize nvml", "libnvidia"]),
    (Category::System, &["bus error", "signal"]),
    (Category::System, &["segmentation fault", "core dumped"]),
    (Category::System, &["fatal python error", "core dumped"]),
];

/// What a failure tells of the machine, if it does.
pub(super) fn category(failure: &Failure) -> Option<Category> {
    if !matches!(failure.class, FailureClass::Engine | FailureClass::OutOfMemory) {
        return None;
    }
    let text = format!("{}\n{}", failure.message, failure.detail.as_deref().unwrap_or_default()).to_lowercase();
    let holds = |words: &[&str]| {
        let mut rest = text.as_str();
        words.iter().all(|word| match rest.split_once(word) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    };
    PATTERNS.iter().find(|(_, words)| holds(words)).map(|(category, _)| *category)
}

/// Counts fatal failures in a row.
#[derive(Debug, Default)]
pub(super) struct Tally {
    row: Option<(Category, u32)>,
}

/// What to do about a fatal failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// A fresh process may do.
    Restart,
    /// It does not: take no more jobs.
    Pause,
}

impl Tally {
    /// A job failed.
    pub fn failed(&mut self, category: Category) -> Advice {
        let count = match self.row {
            Some((last, count)) if last == category => count + 1,
            _ => 1,
        };
        self.row = Some((category, count));
        if count >= category.threshold() { Advice::Pause } else { Advice::Restart }
    }

    /// A job succeeded: the machine works.
    pub fn succeeded(&mut self) {
        self.row = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Category> {
        category(&Failure::new(FailureClass::Engine, "node_failed", text))
    }

    #[test]
    fn words_count_in_their_order_and_whatever_their_case() {
        assert_eq!(of("RuntimeError: Found no NVIDIA driver on your system."), Some(Category::Driver));
        assert_eq!(of("GPU has fallen off the bus"), Some(Category::Hardware));
        assert_eq!(of("Segmentation fault (core dumped)"), Some(Category::System));
        assert_eq!(of("core dumped, then a segmentation fault"), None);
        assert_eq!(of("CUDA out of memory"), None);
        assert_eq!(of("an illegal memory access was encountered"), None);
        assert_eq!(category(&Failure::invalid("bad_workflow", "Found no NVIDIA driver")), None);
    }

    #[test]
    fn only_failures_of_one_kind_in_a_row_pause_the_lane() {
        let mut tally = Tally::default();
        assert_eq!(tally.failed(Category::Driver), Advice::Restart);
        assert_eq!(tally.failed(Category::Nvml), Advice::Restart);
        assert_eq!(tally.failed(Category::Driver), Advice::Restart);
        tally.succeeded();
        assert_eq!(tally.failed(Category::Driver), Advice::Restart);
        assert_eq!(tally.failed(Category::Driver), Advice::Pause);
        assert_eq!(tally.failed(Category::Hardware), Advice::Pause);
    }
}
