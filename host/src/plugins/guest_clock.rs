//! The time as a handler sees it: it stands still while the handler computes, so that a replay sees the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Timestamp;

/// A clock that stands at the time of the last recorded result (at first: when the attempt began).
///
/// Sleeping is virtual: it takes no time, and afterwards the clock stands as much later as was slept. So a loop that
/// sleeps until a moment ends, at once, and ends the same way when it is replayed. A loop that only looks at the clock
/// does not end before its limit of computing time.
#[derive(Clone, Debug)]
pub struct GuestClock(Arc<AtomicU64>);

impl GuestClock {
    /// A clock that stands at a moment.
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(nanos(start))))
    }

    /// Time since 1970-01-01 UTC.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// A recorded result came in. The clock never goes back.
    pub fn advance_to(&self, moment: Timestamp) {
        self.0.fetch_max(nanos(moment), Ordering::Relaxed);
    }

    /// The handler slept until a moment of this clock, in nanoseconds.
    pub fn sleep_until(&self, moment: u64) {
        self.0.fetch_max(moment, Ordering::Relaxed);
    }

    /// The moment that lies so many nanoseconds ahead.
    pub fn ahead(&self, nanos: u64) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_add(nanos)
    }
}

fn nanos(moment: Timestamp) -> u64 {
    u64::try_from(moment.0).unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_until_a_result_or_a_sleep_moves_it_and_never_goes_back() {
        let clock = GuestClock::at(Timestamp(5_000));
        assert_eq!(clock.now(), Duration::from_secs(5));
        clock.advance_to(Timestamp(7_000));
        clock.advance_to(Timestamp(6_000));
        assert_eq!(clock.now(), Duration::from_secs(7));
        clock.sleep_until(clock.ahead(500_000_000));
        assert_eq!(clock.now(), Duration::from_millis(7_500));
        clock.sleep_until(u64::MAX);
        assert_eq!(clock.ahead(1), u64::MAX);
    }
}
