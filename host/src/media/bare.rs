//! The measure of the render bench: segments stitched with fades by one ffmpeg command, as somebody who knows ffmpeg writes
//! it by hand, with nothing of the house around it. For two segments of 81 frames and a fade of 8:
//!
//! ```text
//! ffmpeg -i 0.mp4 -i 1.mp4 -filter_complex "
//!   nullsrc=s=16x16:r=16:d=0.5,format=yuv444p,
//!     geq='255*(1-cos(PI*(T*16+1)/8))/2':'255*(1-cos(PI*(T*16+1)/8))/2':'255*(1-cos(PI*(T*16+1)/8))/2',
//!     scale=1280:720:flags=neighbor,format=yuv420p,split=1[w1];
//!   [0:v]split=2[b0][c0];
//!   [b0]trim=start_frame=0:end_frame=73,setpts=PTS-STARTPTS[m0];
//!   [c0]trim=start_frame=73,setpts=PTS-STARTPTS[t0];
//!   [1:v]split=2[a1][b1];
//!   [a1]trim=end_frame=8,setpts=PTS-STARTPTS[h1];
//!   [b1]trim=start_frame=8:end_frame=81,setpts=PTS-STARTPTS[m1];
//!   [t0][h1][w1]maskedmerge[f1];
//!   [m0][f1][m1]concat=n=3[v]"
//!   -map [v] -c:v libx264 -preset medium -crf 18 -pix_fmt yuv420p -movflags +faststart out.mp4
//! ```
//!
//! Only the frames of the fades meet a filter that looks at pixels. `maskedmerge` takes the weights as the brightness of a
//! picture, which is computed on 16x16 pixels. The two ways that come to mind first are slower: `xfade` with an expression
//! takes three times the processor time for everything but encoding, for it works in 4:4:4 and evaluates the expression for
//! each value of each frame; `blend` with an expression takes nearly twice. `blend` with an opacity that `sendcmd` changes
//! is as fast, but cuts off what it should round.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::media::Media;
use crate::media::frames::cannot_write;
use crate::media::process::{self, Program, Run};
use crate::task::Failure;

/// What is stitched.
#[derive(Clone, Copy, Debug)]
pub struct Stitch {
    pub width: u32,
    pub height: u32,
    /// Whole frames a second.
    pub fps: u32,
    /// Of each segment.
    pub frames: u32,
    /// Of each fade: cosine, not sharpened; at most half a segment.
    pub fade: u32,
}

/// Stitches the segments into `out`: H.264, crf 18, yuv420p, as `render` does it by default.
pub async fn stitch(media: &Media, segments: &[PathBuf], shape: Stitch, out: &Path) -> Result<(), Failure> {
    let mut args: Vec<OsString> = ["-nostdin", "-v", "error", "-y"].map(Into::into).to_vec();
    for segment in segments {
        args.extend(["-i".into(), segment.into()]);
    }
    args.extend(["-filter_complex".into(), graph(segments.len(), shape).into()]);
    args.extend(["-map", "[v]", "-c:v", "libx264", "-preset", "medium", "-crf", "18"].map(Into::into));
    args.extend(["-pix_fmt", "yuv420p", "-movflags", "+faststart"].map(Into::into));
    args.push(out.into());
    let ended = Run::start(media, Program::Ffmpeg, args, false)?.end().await?;
    if ended.ok { Ok(()) } else { Err(cannot_write(&process::plain(&ended.said, out))) }
}

fn graph(segments: usize, shape: Stitch) -> String {
    let Stitch { width, height, fps, frames, fade } = shape;
    let joins = segments.saturating_sub(1);
    let seconds = f64::from(fade) / f64::from(fps);
    let weight = format!("'255*(1-cos(PI*(T*{fps}+1)/{fade}))/2'");
    let mut graph = format!(
        "nullsrc=s=16x16:r={fps}:d={seconds},format=yuv444p,geq={weight}:{weight}:{weight},\
         scale={width}:{height}:flags=neighbor,format=yuv420p,split={joins}"
    );
    for join in 1..=joins {
        let _ = write!(graph, "[w{join}]");
    }
    let mut order = String::new();
    for segment in 0..segments {
        let (first, last) = (segment == 0, segment == joins);
        let (begin, end) = (if first { 0 } else { fade }, if last { frames } else { frames - fade });
        let parts = 1 + usize::from(!first) + usize::from(!last);
        let _ = write!(graph, ";[{segment}:v]split={parts}");
        let head = if first { String::new() } else { format!("[a{segment}]") };
        let tail = if last { String::new() } else { format!("[c{segment}]") };
        let _ = write!(graph, "{head}[b{segment}]{tail}");
        let restart = "setpts=PTS-STARTPTS";
        if !first {
            let before = segment - 1;
            let _ = write!(graph, ";[a{segment}]trim=end_frame={fade},{restart}[h{segment}]");
            let _ = write!(graph, ";[t{before}][h{segment}][w{segment}]maskedmerge[f{segment}]");
            let _ = write!(order, "[f{segment}]");
        }
        let _ = write!(graph, ";[b{segment}]trim=start_frame={begin}:end_frame={end},{restart}[m{segment}]");
        let _ = write!(order, "[m{segment}]");
        if !last {
            let _ = write!(graph, ";[c{segment}]trim=start_frame={end},{restart}[t{segment}]");
        }
    }
    let _ = write!(graph, ";{order}concat=n={}[v]", segments + joins);
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_one_that_is_shown() {
        let shape = Stitch { width: 1280, height: 720, fps: 16, frames: 81, fade: 8 };
        let source = include_str!("bare.rs");
        let shown: String = source
            .lines()
            .skip_while(|line| !line.contains("-filter_complex"))
            .skip(1)
            .take_while(|line| !line.contains("-map"))
            .map(|line| line.trim_start_matches("//!").trim().trim_end_matches('"'))
            .collect();
        // The parts of a graph may come in any order.
        let parts = |graph: &str| {
            let mut parts: Vec<String> = graph.split(';').map(String::from).collect();
            parts.sort();
            parts
        };
        assert_eq!(parts(&graph(2, shape)), parts(&shown));
    }
}
