//! "WxH": width and height in pixels.

use std::fmt;

use crate::failure::Failure;

use super::kinds;

/// The models work in blocks of so many pixels.
pub const BLOCK: u32 = 16;

/// Width and height in pixels, both above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    pub width: u32,
    pub height: u32,
}

impl Resolution {
    /// Reads "902x508" (lower-case x, blanks around the numbers allowed). Failure `invalid_resolution` if it is anything
    /// else.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let side = |text: &str| text.trim().parse::<u32>().ok().filter(|side| *side > 0);
        let read = || {
            let (width, height) = text.split_once('x')?;
            Some(Self { width: side(width)?, height: side(height)? })
        };
        read().ok_or_else(|| unusable(text))
    }

    /// Each side rounded down to whole blocks. Failure `invalid_resolution` if a side has not even one.
    pub fn snapped(self) -> Result<Self, Failure> {
        if self.width < BLOCK || self.height < BLOCK {
            return Err(unusable(&self.to_string()));
        }
        Ok(Self { width: self.width / BLOCK * BLOCK, height: self.height / BLOCK * BLOCK })
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

fn unusable(text: &str) -> Failure {
    Failure::invalid(
        kinds::INVALID_RESOLUTION,
        format!(
            "the resolution {text:?} cannot be used: expected WIDTHxHEIGHT in pixels, both at least {BLOCK}, such as \
             \"832x480\""
        ),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapped(text: &str) -> Result<String, Failure> {
        Ok(Resolution::parse(text)?.snapped()?.to_string())
    }

    #[test]
    fn sides_snap_down_to_whole_blocks() {
        assert_eq!(snapped("902x508").unwrap(), "896x496");
        assert_eq!(snapped(" 832 x 480 ").unwrap(), "832x480");
        assert_eq!(snapped("16x31").unwrap(), "16x16");
    }

    #[test]
    fn anything_else_is_refused_as_it_was_given() {
        for text in ["", "832", "832X480", "832x480x3", "0x480", "-832x480", "15x480", "832x15", "axb", "832.0x480"] {
            let failure = snapped(text).unwrap_err();
            assert_eq!(failure.code, "invalid_resolution", "{text}");
            assert!(failure.message.contains(&format!("{text:?}")), "{}", failure.message);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(width in 16..10_000_u32, height in 16..10_000_u32) {
            let resolution = Resolution { width, height };
            prop_assert_eq!(Resolution::parse(&resolution.to_string()).unwrap(), resolution);
            let snapped = resolution.snapped().unwrap();
            prop_assert!(snapped.width.is_multiple_of(BLOCK) && snapped.width >= BLOCK && width - snapped.width < BLOCK);
            prop_assert_eq!(snapped.snapped().unwrap(), snapped);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,12}") {
            let _ = Resolution::parse(&text).and_then(Resolution::snapped);
        }
    }
}
