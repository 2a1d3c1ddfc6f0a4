//! Lengths, overlaps, targets and time lines, all in frames.
//!
//! The video models work in steps of four frames: every length is 4k + 1. Neighbouring segments share an overlap, an
//! even number of frames that are cross-faded when the segments are joined.

use std::ops::Range;

/// The nearest length of the form 4k + 1 as the models count: multiples of four go up (80 → 81), others down (83 → 81).
pub fn quantise(frames: i64) -> i64 {
    frames.div_euclid(4).saturating_mul(4).saturating_add(1)
}

/// Lengths of all segments and the overlaps at all joins.
///
/// When the travel continues a video that exists already, join 0 lies between that video and segment 0, and join i
/// before segment i. Otherwise join i lies between segments i and i + 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    /// One per segment, each 4k + 1.
    pub lengths: Vec<i64>,
    /// One per join, each even, not negative and no longer than the segments it joins.
    pub overlaps: Vec<i64>,
    /// Whether join 0 is the one with a video that exists already.
    pub continues_video: bool,
}

impl Frames {
    /// Quantises what was asked for. Missing overlaps are 0, surplus ones are left out. Giving the result again changes
    /// nothing.
    pub fn plan(lengths: &[i64], overlaps: &[i64], continues_video: bool) -> Self {
        let lengths: Vec<i64> = lengths.iter().copied().map(quantise).collect();
        let first = continues_video.then(|| lengths.first().copied()).flatten();
        let inner = lengths.windows(2).map(|pair| pair.iter().copied().min().unwrap_or(0));
        let caps: Vec<i64> = first.into_iter().chain(inner).collect();
        let even = |frames: i64| frames.div_euclid(2) * 2;
        let overlaps = caps
            .iter()
            .enumerate()
            // A cap is odd, like every length: round down after capping, too.
            .map(|(join, cap)| even(overlaps.get(join).copied().unwrap_or(0).min(*cap)).max(0))
            .collect();
        Self { lengths, overlaps, continues_video }
    }

    /// One overlap for all joins, as the list that [`Frames::plan`] takes.
    pub fn repeat(overlap: i64, segments: usize, continues_video: bool) -> Vec<i64> {
        vec![overlap; if continues_video { segments } else { segments.saturating_sub(1) }]
    }

    /// Frames that segment i shares with what comes before it; 0 for the first one of a travel that starts anew.
    pub fn overlap_before(&self, segment: usize) -> i64 {
        if self.continues_video {
            self.overlaps.get(segment).copied().unwrap_or(0)
        } else {
            segment.checked_sub(1).and_then(|join| self.overlaps.get(join)).copied().unwrap_or(0)
        }
    }

    /// Frames that segment i shares with the next one; 0 for the last.
    pub fn overlap_after(&self, segment: usize) -> i64 {
        self.overlap_before(segment.saturating_add(1))
    }

    /// Frames to ask the engine for. A segment that continues its predecessor's video shows the shared frames again, on
    /// top of its own length.
    pub fn target(&self, segment: usize, continues_predecessor: bool) -> i64 {
        let length = self.lengths.get(segment).copied().unwrap_or(0);
        let context = if segment > 0 && continues_predecessor { self.overlap_before(segment) } else { 0 };
        let target = length.saturating_add(context);
        if target.rem_euclid(4) == 1 { target } else { quantise(target.saturating_sub(1)) }
    }

    /// Where each segment lies in the stitched video, the shared frames counted once. Starts with 0, also when the travel
    /// continues a video.
    pub fn stitched(&self) -> Vec<Range<i64>> {
        let mut end = 0_i64;
        let place = |(segment, length): (usize, &i64)| {
            let start = if segment == 0 { 0 } else { end.saturating_sub(self.overlap_before(segment)) };
            end = start.saturating_add(*length);
            start..end
        };
        self.lengths.iter().enumerate().map(place).collect()
    }

    /// The older time line of guidance videos that are given beforehand: each segment starts its overlap before the sum of
    /// all full lengths so far, so that the guidance drifts by the earlier overlaps.
    pub fn guidance(&self) -> Vec<Range<i64>> {
        let mut total = 0_i64;
        let place = |(segment, length): (usize, &i64)| {
            let start = if segment == 0 { 0 } else { total.saturating_sub(self.overlap_before(segment)) };
            total = total.saturating_add(*length);
            start..start.saturating_add(*length)
        };
        self.lengths.iter().enumerate().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn multiples_of_four_go_up_and_others_down() {
        let cases = [(0, 1), (1, 1), (3, 1), (4, 5), (5, 5), (50, 49), (80, 81), (81, 81), (83, 81), (84, 85)];
        for (frames, quantised) in cases {
            assert_eq!(quantise(frames), quantised, "{frames}");
        }
    }

    #[test]
    fn a_travel_of_three_segments() {
        let frames = Frames::plan(&[77, 80, 50], &[11, 7], false);
        assert_eq!(frames.lengths, [77, 81, 49]);
        assert_eq!(frames.overlaps, [10, 6]);
        assert_eq!([0, 1, 2].map(|i| frames.target(i, true)), [77, 89, 53]);
        assert_eq!([0, 1, 2].map(|i| frames.target(i, false)), [77, 81, 49]);
        assert_eq!([0, 1, 2].map(|i| frames.overlap_before(i)), [0, 10, 6]);
        assert_eq!([0, 1, 2].map(|i| frames.overlap_after(i)), [10, 6, 0]);
        assert_eq!(frames.stitched(), [0..77, 67..148, 142..191]);
        assert_eq!(frames.guidance(), [0..77, 67..148, 152..201]);
    }

    #[test]
    fn when_continuing_a_video_the_first_overlap_belongs_to_that_join() {
        let frames = Frames::plan(&[81, 81], &[11, 7, 4], true);
        assert_eq!(frames.overlaps, [10, 6]);
        assert_eq!((frames.overlap_before(0), frames.overlap_after(0)), (10, 6));
        assert_eq!((frames.overlap_before(1), frames.overlap_after(1)), (6, 0));
        assert_eq!(frames.target(0, true), 81, "the first segment replaces no frames of its own");
        assert_eq!(Frames::plan(&[5], &[30], true).overlaps, [4], "capped by the first segment alone");
    }

    #[test]
    fn an_overlap_is_capped_by_the_shorter_neighbour_and_stays_even() {
        assert_eq!(Frames::plan(&[81, 13], &[40], false).overlaps, [12]);
        assert_eq!(Frames::plan(&[1, 81], &[8], false).overlaps, [0]);
        assert_eq!(Frames::plan(&[81, 81], &[-4], false).overlaps, [0]);
    }

    #[test]
    fn one_number_stands_for_every_join() {
        assert_eq!(Frames::repeat(10, 3, false), [10, 10]);
        assert_eq!(Frames::repeat(10, 3, true), [10, 10, 10]);
        assert_eq!(Frames::repeat(10, 0, false), [0_i64; 0]);
    }

    fn travels() -> impl Strategy<Value = (Vec<i64>, Vec<i64>, bool)> {
        (prop::collection::vec(0..400_i64, 0..8), prop::collection::vec(-20..500_i64, 0..10), any::<bool>())
    }

    proptest! {
        #[test]
        fn quantised_lengths_are_4k_plus_1_and_near(frames in -1_000_000..1_000_000_i64) {
            let quantised = quantise(frames);
            prop_assert_eq!(quantised.rem_euclid(4), 1);
            prop_assert!((quantised - frames).abs() <= 2);
            prop_assert_eq!(quantise(quantised), quantised);
        }

        #[test]
        fn nothing_overflows(frames in any::<i64>(), overlap in any::<i64>()) {
            let plan = Frames::plan(&[frames, frames], &[overlap], false);
            let _ = (plan.target(1, true), plan.stitched(), plan.guidance());
        }

        #[test]
        fn a_plan_is_even_capped_complete_and_stable((lengths, overlaps, continues) in travels()) {
            let plan = Frames::plan(&lengths, &overlaps, continues);
            let joins = if continues { lengths.len() } else { lengths.len().saturating_sub(1) };
            prop_assert_eq!(plan.overlaps.len(), joins);
            for (i, length) in plan.lengths.iter().enumerate() {
                for overlap in [plan.overlap_before(i), plan.overlap_after(i)] {
                    prop_assert!(overlap >= 0 && overlap % 2 == 0 && overlap <= *length);
                }
                prop_assert_eq!(plan.target(i, true).rem_euclid(4), 1);
                prop_assert!(plan.target(i, true) >= *length);
                prop_assert_eq!(plan.target(i, false), *length);
            }
            prop_assert_eq!(&Frames::plan(&plan.lengths, &plan.overlaps, continues), &plan);
        }

        #[test]
        fn the_stitched_video_is_the_sum_of_lengths_less_inner_overlaps((lengths, overlaps, continues) in travels()) {
            let plan = Frames::plan(&lengths, &overlaps, continues);
            let inner: i64 = (1..plan.lengths.len()).map(|i| plan.overlap_before(i)).sum();
            let end = plan.stitched().last().map_or(0, |range| range.end);
            prop_assert_eq!(end, plan.lengths.iter().sum::<i64>() - inner);
        }
    }
}
