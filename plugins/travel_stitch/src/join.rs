//! How videos become one: which frames of which video, and where they fade into each other. Pure.
//!
//! A join with an overlap of n frames lets the last n frames of the earlier video fade into the first n of the later one, so
//! the whole is n frames shorter than its parts. An overlap of 0 is a plain cut.

use enginehouse_sdk::host::media::Curve;
use enginehouse_sdk::prelude::*;

/// A video to be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub artifact: String,
    /// Frames it really has.
    pub frames: u64,
}

/// How the whole is to look.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Frames a second. The frames of the parts are taken one for one, whatever rate they had.
    pub fps: f64,
    /// Sharpening inside the fades, against the softness of blended pictures; 0 is none.
    pub sharpen: f64,
    /// The last frame of each overlap is taken whole from the later video: it is the regenerated key picture and must not
    /// be blended with the old one.
    pub regenerate_anchors: bool,
}

/// A range of one part, and the fade that leads out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the part.
    pub part: usize,
    pub start: u64,
    pub frames: u64,
    /// Frames that fade into the next piece; 0 is a cut.
    pub fade: u64,
}

/// Cuts the parts into pieces. `overlaps[j]` belongs to the join between part j and part j+1; a missing one is 0.
///
/// No join takes more frames than the two videos have left: a video that an earlier join used up is followed by a cut.
///
/// With `regenerate_anchors` an overlap of n > 1 fades over n-1 frames and leaves frame n-1 of the later video whole. The first
/// join still takes n frames of the earlier video, so the total is unchanged; at later joins one frame more remains.
pub fn pieces(parts: &[Part], overlaps: &[u64], regenerate_anchors: bool) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(parts.len() + 1);
    // Frames at the beginning of the current part that the join before it has taken.
    let mut taken = 0;
    for (index, part) in parts.iter().enumerate() {
        let next = parts.get(index + 1).map_or(0, |next| next.frames);
        let overlap = overlaps.get(index).copied().unwrap_or(0).min(part.frames.saturating_sub(taken)).min(next);
        let anchored = regenerate_anchors && overlap > 1;
        let fade = if anchored { overlap - 1 } else { overlap };
        if anchored && index == 0 {
            let before = part.frames - overlap;
            if before > 0 {
                pieces.push(Piece { part: index, start: 0, frames: before, fade: 0 });
            }
            pieces.push(Piece { part: index, start: before + 1, frames: fade, fade });
        } else {
            pieces.push(Piece { part: index, start: 0, frames: part.frames, fade });
        }
        taken = overlap;
    }
    pieces
}

/// Frames of the whole.
pub fn length(pieces: &[Piece]) -> u64 {
    let frames: u64 = pieces.iter().map(|piece| piece.frames).sum();
    let faded: u64 = pieces.iter().map(|piece| piece.fade).sum();
    frames - faded
}

/// The timeline of the whole. Its size is that of the first part: the renderer's own default.
pub fn timeline(parts: &[Part], overlaps: &[u64], look: &Look, name: &str) -> Timeline {
    let mut timeline = Timeline::video(name).fps(look.fps);
    for (index, piece) in pieces(parts, overlaps, look.regenerate_anchors).iter().enumerate() {
        let Some(part) = parts.get(piece.part) else { continue };
        timeline = timeline.clip(Clip::video(&part.artifact).range(piece.start, piece.frames));
        if piece.fade > 0 {
            let sharpen = Some(look.sharpen).filter(|amount| *amount > 0.0);
            timeline = timeline.fade(Fade { after: index, frames: piece.fade, curve: Curve::Cosine, sharpen });
        }
    }
    timeline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(frames: &[u64]) -> Vec<Part> {
        frames.iter().enumerate().map(|(index, &frames)| Part { artifact: format!("sha256:{index}"), frames }).collect()
    }

    fn total(frames: &[u64], overlaps: &[u64], anchors: bool) -> u64 {
        length(&pieces(&parts(frames), overlaps, anchors))
    }

    #[test]
    fn the_whole_is_shorter_by_the_overlaps() {
        assert_eq!(total(&[33, 41], &[8], false), 66);
        assert_eq!(total(&[33, 41, 33], &[8, 4], false), 95);
        assert_eq!(total(&[33], &[], false), 33);
    }

    #[test]
    fn an_overlap_of_zero_is_a_cut() {
        let look = Look { fps: 16.0, sharpen: 0.3, regenerate_anchors: false };
        let timeline = timeline(&parts(&[17, 21]), &[0], &look, "output.mp4");
        assert_eq!(timeline.fades, []);
        assert_eq!(timeline.clips[1], Clip::video("sha256:1").range(0, 21));
    }

    #[test]
    fn an_overlap_is_no_longer_than_either_video() {
        assert_eq!(total(&[17, 5], &[5], false), 17);
        assert_eq!(total(&[17, 5], &[9], false), 17);
        assert_eq!(total(&[3, 20], &[8], false), 20);
    }

    #[test]
    fn a_frame_takes_part_in_one_join_alone() {
        let pieces = pieces(&parts(&[20, 6, 20]), &[4, 4], false);
        assert_eq!(pieces[0].fade, 4);
        assert_eq!(pieces[1].fade, 2);
        assert_eq!(length(&pieces), 40);
    }

    #[test]
    fn regenerated_anchors_stay_whole_and_the_first_join_keeps_its_length() {
        let pieces = pieces(&parts(&[33, 41, 33]), &[8, 8], true);
        assert_eq!(
            pieces,
            vec![
                Piece { part: 0, start: 0, frames: 25, fade: 0 },
                Piece { part: 0, start: 26, frames: 7, fade: 7 },
                Piece { part: 1, start: 0, frames: 41, fade: 7 },
                Piece { part: 2, start: 0, frames: 33, fade: 0 },
            ]
        );
        assert_eq!(length(&pieces), 33 + 41 + 33 - 16 + 1);
    }

    #[test]
    fn regenerated_anchors_need_an_overlap_of_two() {
        assert_eq!(total(&[9, 9], &[1], true), 17);
        assert_eq!(pieces(&parts(&[9, 9]), &[1], true).len(), 2);
    }

    #[test]
    fn a_missing_overlap_is_a_cut() {
        assert_eq!(total(&[25, 33, 33], &[8], false), 83);
    }

    #[test]
    fn fades_are_cosine_and_sharpened_after_their_own_piece() {
        let look = Look { fps: 24.0, sharpen: 0.3, regenerate_anchors: true };
        let timeline = timeline(&parts(&[33, 33]), &[8], &look, "output.mp4");
        assert_eq!((timeline.output.fps, timeline.output.width), (Some(24.0), None));
        assert_eq!(timeline.fades, [Fade { after: 1, frames: 7, curve: Curve::Cosine, sharpen: Some(0.3) }]);
    }
}
