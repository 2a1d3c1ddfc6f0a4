//! When the next start may be, by how the last ones went. Pure.
//!
//! Two rules. After a bad end there is a pause, doubled with each further bad end in a row; a process that was ready and
//! lived for a while ends the row. And after several failed starts within some minutes nobody tries until the oldest of them
//! is that old: tasks then learn at once that there is no engine.

use std::collections::VecDeque;
use std::time::Duration;

use super::Limits;
use crate::clock::Timestamp;

/// What is remembered of the starts so far.
#[derive(Debug)]
pub(super) struct BackOff {
    first: Duration,
    longest: Duration,
    steady: Duration,
    most: usize,
    within: Duration,
    /// Bad ends in a row.
    row: u32,
    /// When the last starts failed, the oldest first; no more than make the engine unavailable.
    failed: VecDeque<Timestamp>,
    /// No start before this.
    not_before: Option<Timestamp>,
    /// What went wrong last, after the engine's name: `did not start (exit code 1)`.
    why: String,
}

/// When a start may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Now,
    /// `why` follows the engine's name.
    After {
        until: Timestamp,
        why: String,
    },
    /// `why` is a sentence.
    Unavailable {
        until: Timestamp,
        why: String,
    },
}

impl BackOff {
    pub fn new(limits: &Limits) -> Self {
        Self {
            first: limits.back_off,
            longest: limits.longest_back_off,
            steady: limits.steady,
            most: limits.failed_starts.max(1),
            within: limits.failed_starts_within,
            row: 0,
            failed: VecDeque::new(),
            not_before: None,
            why: String::new(),
        }
    }

    /// A start came to nothing.
    pub fn start_failed(&mut self, now: Timestamp, words: &str) {
        self.why = format!("did not start ({words})");
        self.failed.push_back(now);
        while self.failed.len() > self.most {
            self.failed.pop_front();
        }
        self.pause(now);
    }

    /// A process that was ready ended by itself, after so long.
    pub fn died(&mut self, now: Timestamp, lived: Duration, words: &str) {
        if lived >= self.steady {
            self.row = 0;
            self.failed.clear();
            self.not_before = None;
        } else {
            self.why = format!("ended soon after its start ({words})");
            self.pause(now);
        }
    }

    /// When the next start may be.
    pub fn next(&self, now: Timestamp) -> Next {
        if self.failed.len() >= self.most
            && let Some(oldest) = self.failed.front()
        {
            let until = oldest.plus(self.within);
            if until > now {
                let (count, minutes) = (self.failed.len(), self.within.as_secs().div_ceil(60));
                let why = format!("{count} starts failed within {minutes} minutes; at last it {}", self.why);
                return Next::Unavailable { until, why };
            }
        }
        match self.not_before {
            Some(until) if until > now => Next::After { until, why: self.why.clone() },
            _ => Next::Now,
        }
    }

    fn pause(&mut self, now: Timestamp) {
        let doublings = self.row.min(31);
        self.row = self.row.saturating_add(1);
        let pause = self.first.saturating_mul(1 << doublings).min(self.longest);
        self.not_before = Some(now.plus(pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(0).plus(Duration::from_secs(seconds))
    }

    fn until(next: Next) -> Option<Timestamp> {
        match next {
            Next::After { until, .. } => Some(until),
            _ => None,
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let limits = Limits { failed_starts: 100, ..Limits::default() };
        let mut back_off = BackOff::new(&limits);
        assert_eq!(back_off.next(at(0)), Next::Now);
        let pauses: Vec<u64> = (0..9)
            .map(|_| {
                back_off.start_failed(at(0), "x");
                until(back_off.next(at(0))).unwrap().since(at(0)).as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(back_off.next(at(60)), Next::Now);
    }

    #[test]
    fn a_steady_run_ends_the_row_and_a_short_one_goes_on_with_it() {
        let mut back_off = BackOff::new(&Limits::default());
        back_off.start_failed(at(0), "x");
        back_off.died(at(10), Duration::from_secs(9), "y");
        assert_eq!(until(back_off.next(at(10))), Some(at(12)));
        back_off.died(at(100), Duration::from_secs(60), "z");
        assert_eq!(back_off.next(at(100)), Next::Now);
        back_off.start_failed(at(200), "x");
        assert_eq!(until(back_off.next(at(200))), Some(at(201)));
    }

    #[test]
    fn five_failed_starts_in_ten_minutes_are_enough_until_the_oldest_is_ten_minutes_old() {
        let mut back_off = BackOff::new(&Limits::default());
        for start in 0..4 {
            back_off.start_failed(at(start * 100), "exit code 1");
            assert!(!matches!(back_off.next(at(start * 100)), Next::Unavailable { .. }));
        }
        back_off.start_failed(at(400), "exit code 1");
        let Next::Unavailable { until, why } = back_off.next(at(400)) else { panic!("{:?}", back_off.next(at(400))) };
        assert_eq!(until, at(600));
        assert_eq!(why, "5 starts failed within 10 minutes; at last it did not start (exit code 1)");
        assert_eq!(back_off.next(at(600)), Next::Now);
        // The next failure waits for the second oldest.
        back_off.start_failed(at(601), "exit code 1");
        assert!(matches!(back_off.next(at(601)), Next::Unavailable { until, .. } if until == at(700)));
    }

    #[test]
    fn failed_starts_that_lie_far_apart_never_add_up() {
        let mut back_off = BackOff::new(&Limits::default());
        for start in 0..20 {
            back_off.start_failed(at(start * 151), "x");
            assert!(!matches!(back_off.next(at(start * 151)), Next::Unavailable { .. }), "{start}");
        }
    }
}
