//! When the frames of a video are shown. Most videos show one every so often, and their rate says it all; phones and
//! screen recorders show one when there is something new, and then each has its own time.

use std::sync::Arc;

use crate::media::probe::unreadable;
use crate::task::Failure;

/// Rates further apart than this share belong to a track without constant rate.
const RATE_TOLERANCE: f64 = 0.02;

/// How far a time may be from its place in a constant rate, in seconds: containers that count in milliseconds round.
const TIME_TOLERANCE: f64 = 0.0015;

/// The rates there are, in frames a second.
pub(super) const RATES: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

/// Rate, length and times of a track.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Timing {
    /// Frames a second: the base rate of the track, or its average where that is something else.
    pub fps: f64,
    /// From the first frame until the last one goes.
    pub seconds: f64,
    /// Of every frame, from the first one on, in seconds; none: frame i is shown at i / `fps`.
    pub times: Option<Arc<[f64]>>,
}

/// What a container notes about one frame, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mark {
    pub time: Option<f64>,
    pub length: Option<f64>,
}

impl Timing {
    /// From the marks of all frames (at least one), in any order. `base` and `average`: the rates that the container
    /// states; 0: none.
    pub fn of(marks: &[Mark], base: f64, average: f64) -> Result<Self, Failure> {
        let stated = if base > 0.0 && (average <= 0.0 || agree(base, average)) { base } else { average };
        let count = marks.len() as f64;
        let mut sorted: Vec<(f64, Option<f64>)> =
            marks.iter().filter_map(|mark| Some((mark.time?, mark.length))).collect();
        sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let (Some(&(first, _)), Some(&(last, length))) = (sorted.first(), sorted.last()) else {
            return Self::constant(stated, count);
        };
        let span = last - first;
        if sorted.len() < marks.len() || (span <= 0.0 && marks.len() > 1) {
            // Raw streams have no times.
            return Self::constant(stated, count);
        }
        // The last frame has no successor that ends it.
        let usual = if span > 0.0 { span / (count - 1.0) } else { stated.recip() };
        let length = length.filter(|length| *length > 0.0).unwrap_or(usual);
        let seconds = span + if length.is_finite() { length } else { 0.0 };
        let measured = if seconds > 0.0 { count / seconds } else { 0.0 };
        let fps = if base > 0.0 && (measured <= 0.0 || agree(base, measured)) { base } else { measured };
        let times: Arc<[f64]> = sorted.iter().map(|(time, _)| time - first).collect();
        let even =
            fps > 0.0 && times.iter().enumerate().all(|(i, time)| (time - i as f64 / fps).abs() <= TIME_TOLERANCE);
        if even || times.len() < 2 {
            return Self::constant(fps, count);
        }
        Ok(Self { fps: checked(fps)?, seconds, times: Some(times) })
    }

    /// Every frame as long as the other; `fps` 0: not known.
    fn constant(fps: f64, count: f64) -> Result<Self, Failure> {
        let fps = checked(fps)?;
        Ok(Self { fps, seconds: if fps > 0.0 { count / fps } else { 0.0 }, times: None })
    }
}

/// Whether two rates are the same one, more or less.
fn agree(base: f64, other: f64) -> bool {
    (base - other).abs() <= RATE_TOLERANCE * base
}

fn checked(fps: f64) -> Result<f64, Failure> {
    if fps == 0.0 || RATES.contains(&fps) {
        return Ok(fps);
    }
    let (least, most) = (RATES.start(), RATES.end());
    Err(unreadable(&format!(
        "it has {fps:.6} frames a second, where {least} to {most} are possible: its times are damaged"
    )))
}

/// The frame that is nearest to `time`, the later one of two that are as near. A frame stays until the next one comes: so
/// where nothing happened for long, none is shown more than `early` seconds before its time. `times` in ascending order.
pub(super) fn nearest(times: &[f64], time: f64, early: f64) -> u64 {
    // Of sums that should be equal.
    const EQUAL: f64 = 1e-9;
    let after = times.partition_point(|at| *at <= time + EQUAL);
    let before = after.saturating_sub(1);
    let to_before = times.get(before).map_or(f64::INFINITY, |at| (time - at).abs());
    let to_after = times.get(after).map_or(f64::INFINITY, |at| at - time);
    let found = if to_after <= to_before + EQUAL && to_after <= early + EQUAL { after } else { before };
    found as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(times: &[f64], length: f64) -> Vec<Mark> {
        times.iter().map(|time| Mark { time: Some(*time), length: Some(length) }).collect()
    }

    #[test]
    fn an_even_track_is_its_rate_also_when_its_times_are_rounded_or_begin_late() {
        let times: Vec<f64> = (0..100).map(|i| 7.0 + (f64::from(i) / 30.0 * 1000.0).round() / 1000.0).collect();
        let timing = Timing::of(&marks(&times, 0.033), 30.0, 0.0).unwrap();
        assert_eq!((timing.fps, timing.times), (30.0, None));
        assert!((timing.seconds - 100.0 / 30.0).abs() < 1e-9);
    }

    #[test]
    fn an_uneven_track_has_its_average_and_its_times() {
        let timing = Timing::of(&marks(&[0.0, 0.1, 0.5, 0.6], 0.2), 10.0, 10.0).unwrap();
        assert_eq!((timing.fps, timing.seconds), (4.0 / 0.8, 0.8));
        assert_eq!(timing.times.as_deref(), Some(&[0.0, 0.1, 0.5, 0.6][..]));
        // One frame in a hundred was dropped: the rate is the one that was meant, the times are what they are.
        let times: Vec<f64> = (0..200).filter(|i| i % 100 != 50).map(|i| f64::from(i) / 25.0).collect();
        let timing = Timing::of(&marks(&times, 0.04), 25.0, 24.8).unwrap();
        assert_eq!((timing.fps, timing.times.map(|times| times.len())), (25.0, Some(198)));
    }

    #[test]
    fn a_track_without_times_has_the_rate_that_is_stated() {
        let none = vec![Mark::default(); 50];
        assert_eq!(Timing::of(&none, 25.0, 25.0).unwrap(), Timing { fps: 25.0, seconds: 2.0, times: None });
        assert_eq!(Timing::of(&none, 90_000.0, 25.0).unwrap().fps, 25.0, "the base rate is that of the clock");
        assert_eq!(Timing::of(&none, 0.0, 0.0).unwrap().fps, 0.0);
        assert_eq!(Timing::of(&[Mark::default()], 10.0, 0.0).unwrap().fps, 10.0);
    }

    #[test]
    fn times_that_nobody_can_show_are_refused() {
        let times: Vec<f64> = (0..9).map(|i| f64::from(i) / 90_000.0).collect();
        let failure = Timing::of(&marks(&times, 1.0 / 90_000.0), 90_000.0, 90_000.0).unwrap_err();
        assert!(failure.message.contains("frames a second"), "{failure}");
        assert!(Timing::of(&marks(&[0.0, 40_000.0], 0.1), 25.0, 25.0).is_err());
    }

    #[test]
    fn the_nearest_in_time_is_found_and_none_is_shown_long_before_its_time() {
        let times = [0.0, 0.1, 0.2, 3.0, 3.1];
        for (time, frame) in
            [(0.0, 0), (0.04, 0), (0.05, 1), (0.14, 1), (0.16, 2), (1.0, 2), (2.85, 2), (2.9, 3), (3.04, 3), (9.0, 4)]
        {
            assert_eq!(nearest(&times, time, 0.1), frame, "{time}");
        }
    }
}
