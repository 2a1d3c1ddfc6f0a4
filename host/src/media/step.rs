//! From the rate of a source to that of a clip, in whole numbers: where a moment lies right between two frames, the error of
//! a floating-point number must not decide which of them is the nearest.

/// Rates nearer than this to a whole number or to n·1000/1001 are meant to be just that: 23.976 is 24000/1001.
const NEAR: f64 = 1e-4;

/// Other rates are fractions of this.
const PARTS: f64 = 1e6;

/// Rates beyond this are no rates of frames.
const MOST: f64 = 1e9;

/// How many frames of a source go by during one frame of a clip. Above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    source: u128,
    clip: u128,
}

impl Step {
    /// Frame for frame.
    pub const ONE: Step = Step { source: 1, clip: 1 };

    /// From the rates of source and clip, in frames a second above 0.
    pub fn between(source: f64, clip: f64) -> Self {
        let ((source, source_per), (clip, clip_per)) = (fraction(source), fraction(clip));
        Self { source: source * clip_per, clip: clip * source_per }
    }

    /// The source frame nearest in time to frame `i` of the clip; the later one of two that are as near.
    pub fn nearest(self, i: u64) -> u64 {
        rounded(u128::from(i) * self.source, self.clip)
    }

    /// How many frames of the clip last as long as `frames` of the source; halves up.
    pub fn clip_frames(self, frames: u64) -> u64 {
        rounded(u128::from(frames) * self.clip, self.source)
    }
}

/// The quotient; halves up.
fn rounded(dividend: u128, divisor: u128) -> u64 {
    u64::try_from((2 * dividend + divisor) / (2 * divisor)).unwrap_or(u64::MAX)
}

/// Numerator and denominator of a rate.
fn fraction(rate: f64) -> (u128, u128) {
    let rate = rate.min(MOST);
    let (whole, ntsc) = (rate.round(), (rate * 1.001).round());
    if whole >= 1.0 && (rate - whole).abs() < NEAR {
        (whole as u128, 1)
    } else if ntsc >= 1.0 && (rate - ntsc / 1.001).abs() < NEAR {
        (ntsc as u128 * 1000, 1001)
    } else {
        ((rate * PARTS).round().max(1.0) as u128, PARTS as u128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_between_two_frames_belong_to_the_later_one() {
        // 5 frames at 10 a second last as long as 14.5 at 29; frame 54 of 12 a second is frame 58.5 of 13.
        assert_eq!(Step::between(10.0, 29.0).clip_frames(5), 15);
        assert_eq!(Step::between(13.0, 12.0).nearest(54), 59);
        assert_eq!(Step::between(30_000.0 / 1001.0, 24_000.0 / 1001.0).nearest(2), 3);
        for (source, clip) in (8..=60).flat_map(|source| (8..=60).map(move |clip| (source, clip))) {
            let step = Step::between(source as f64, clip as f64);
            for i in 0..200 {
                assert_eq!(step.nearest(i), (2 * i * source + clip) / (2 * clip), "{source} to {clip}, frame {i}");
                let frames = (2 * i * clip + source) / (2 * source);
                assert_eq!(step.clip_frames(i), frames, "{source} to {clip}, {i} frames");
            }
        }
    }

    #[test]
    fn rates_are_the_fractions_that_they_stand_for() {
        for (rate, want) in [
            (24.0, (24, 1)),
            (23.976, (24_000, 1001)),
            (24_000.0 / 1001.0, (24_000, 1001)),
            (59.94, (60_000, 1001)),
            (12.5, (12_500_000, 1_000_000)),
            (0.001, (1000, 1_000_000)),
        ] {
            assert_eq!(fraction(rate), want, "{rate}");
        }
    }

    #[test]
    fn no_rate_and_no_number_of_frames_is_too_large() {
        assert_eq!(Step::between(1e300, 0.001).nearest(u64::MAX), u64::MAX);
        assert_eq!(Step::between(0.001, 1e300).nearest(u64::MAX), 18_446_744);
        assert_eq!(Step::between(1e300, 0.001).clip_frames(u64::MAX), 18_446_744);
    }
}
