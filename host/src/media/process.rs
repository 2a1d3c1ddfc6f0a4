//! One run of ffmpeg or ffprobe: guarded against what a hostile file could ask of it, bounded in time, memory and output,
//! killed and reaped when nobody waits for it any more.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use crate::media::sniff::Signature;
use crate::media::{Media, Tools};
use crate::task::Failure;

/// Demuxers that read one file and nothing beside it: no playlists, no concatenations, no captures, no patterns over
/// file names.
const CONTAINERS: &str = "mov,matroska,avi,flv,mpeg,mpegts,mpegvideo,m4v,h264,hevc,ivf,obu,asf,mxf,nut,ogg,dv,yuv4mpegpipe,\
                          apng,gif,wav,w64,aiff,au,caf,mp3,aac,ac3,eac3,amr,flac,opus,ape,tta,wv";

/// How much of what the program said is kept: its end.
const SAID_BYTES: usize = 16 * 1024;

/// What a version says that is too old for what is asked of it.
const UNKNOWN_OPTION: &str = "Unrecognized option";

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Ffmpeg,
    Ffprobe,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Ffmpeg => "ffmpeg",
            Program::Ffprobe => "ffprobe",
        }
    }

    fn path(self, tools: &Tools) -> &Path {
        match self {
            Program::Ffmpeg => &tools.ffmpeg,
            Program::Ffprobe => &tools.ffprobe,
        }
    }
}

/// The arguments that open `path` as input and nothing else: the file protocol alone, and either the one demuxer that
/// its first bytes name or a list of those that never open a second file. Frames beyond the limit are not decoded.
pub(super) fn input(tools: &Tools, path: &Path, signature: Signature) -> Vec<OsString> {
    // Decoders work on whole blocks: room for those at the border. The exact limit is held by who asks for the size.
    let most = tools.pixels.saturating_mul(2).min(i32::MAX as u64).to_string();
    let mut args: Vec<OsString> =
        ["-max_pixels", &most, "-protocol_whitelist", "file", "-format_whitelist"].map(OsString::from).to_vec();
    match signature.demuxer() {
        Some(demuxer) => args.extend([demuxer, "-f", demuxer].map(OsString::from)),
        None => args.push(CONTAINERS.into()),
    }
    let mut url = OsString::from("file:");
    url.push(path);
    args.extend(["-i".into(), url]);
    args
}

/// A running program. Dropping it kills the program and has it reaped.
pub(super) struct Run {
    program: Program,
    child: Child,
    said: JoinHandle<String>,
    limit: Pin<Box<Sleep>>,
    tools: Tools,
}

/// How a run ended.
pub(super) struct Ended {
    pub ok: bool,
    /// The end of what it said on stderr, as it was.
    pub said: String,
}

impl Run {
    /// Starts the program. `feed`: somebody writes to its stdin.
    pub fn start<A: AsRef<OsStr>>(
        media: &Media,
        program: Program,
        args: impl IntoIterator<Item = A>,
        feed: bool,
    ) -> Result<Self, Failure> {
        let tools = &media.tools;
        let mut command = Command::new(program.path(tools));
        command
            .args(args)
            .stdin(if feed { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|e| cannot_start(program, tools, &e))?;
        confine(&child, tools);
        let stderr = child.stderr.take();
        Ok(Self {
            program,
            child,
            said: tokio::spawn(tail(stderr)),
            limit: Box::pin(tokio::time::sleep(Duration::from_secs(tools.seconds))),
            tools: tools.clone(),
        })
    }

    /// Where it writes. There is one: taken once.
    pub fn stdout(&mut self) -> Result<ChildStdout, Failure> {
        self.child.stdout.take().ok_or_else(|| self.no_pipe("output"))
    }

    /// Where it reads. There is one, when the run was started with `feed`: taken once.
    pub fn stdin(&mut self) -> Result<ChildStdin, Failure> {
        self.child.stdin.take().ok_or_else(|| self.no_pipe("input"))
    }

    /// Waits for `work` no longer than the run may take in all.
    pub async fn within<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.limit.as_mut() => Err(too_long(self.program, self.tools.seconds)),
        }
    }

    /// Waits until it ends. Once.
    pub async fn end(&mut self) -> Result<Ended, Failure> {
        let program = self.program;
        let status = tokio::select! {
            status = self.child.wait() => status,
            () = self.limit.as_mut() => return Err(too_long(program, self.tools.seconds)),
        };
        let status = status
            .map_err(|e| Failure::internal("media_failed", format!("cannot wait for {}: {e}", program.name())))?;
        let said = (&mut self.said).await.unwrap_or_default();
        if !status.success() && said.contains(UNKNOWN_OPTION) {
            return Err(Failure::unavailable(
                "ffmpeg_too_old",
                format!(
                    "{name} does not know an option that is needed: install version 5.1 or later, or name such a program \
                     in the setting `media.{name}`",
                    name = program.name()
                ),
            )
            .with_detail(said));
        }
        if !status.success()
            && let Some(limit) = stopped_by(&self.tools, status, &said)
        {
            return Err(limit.with_detail(said));
        }
        Ok(Ended { ok: status.success(), said })
    }

    fn no_pipe(&self, which: &str) -> Failure {
        Failure::internal("media_failed", format!("the {which} of {} is already in use", self.program.name()))
    }
}

/// Bounds what a program may use, where the system lets its parent do so: memory that it writes to, and the length of the
/// file that it writes. It has hardly begun by then.
#[cfg(target_os = "linux")]
fn confine(child: &Child, tools: &Tools) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    for (resource, bytes) in [(Resource::Data, tools.memory), (Resource::Fsize, tools.result)] {
        // No more than this process may have itself.
        let most = getrlimit(resource).maximum.map_or(bytes, |most| most.min(bytes));
        if let Err(e) = prlimit(Some(pid), resource, Rlimit { current: Some(most), maximum: Some(most) })
            && e != rustix::io::Errno::SRCH
        {
            tracing::warn!(error = %e, "a run of ffmpeg is not bounded in memory and in the length of its file");
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn confine(_: &Child, _: &Tools) {}

/// The failure of a program that ran into one of its bounds.
fn stopped_by(tools: &Tools, status: ExitStatus, said: &str) -> Option<Failure> {
    let too_large = |what: &str, bytes: u64, setting: &str| {
        let megabytes = bytes >> 20;
        let message = format!("{what} more than the {megabytes} MB that the setting `{setting}` allows");
        Some(Failure::denied("media_too_large", message))
    };
    if status.signal() == Some(Signal::XFSZ.as_raw()) || said.contains("File too large") {
        return too_large("the result takes", tools.result, "media.result_mb");
    }
    if said.contains("Cannot allocate memory") || said.contains("malloc") {
        return too_large("working on the file takes", tools.memory, "media.memory_mb");
    }
    None
}

/// What a program said, in one line fit for people: without addresses in memory and without the path of `file`, which
/// means nothing to those who read it.
pub(super) fn plain(said: &str, file: &Path) -> String {
    let file = file.to_string_lossy();
    let mut lines: Vec<String> = Vec::new();
    for line in said.lines() {
        let mut line = line.trim();
        // `[mov,mp4 @ 0x55d0c3] moov atom not found`
        if let Some((_, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            line = rest;
        }
        let line = line.replace(&format!("file:{file}"), "").replace(&*file, "");
        let line = line.trim_matches([':', ' ', '.', '\'']).to_string();
        if !line.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
    }
    // The first complaint is nearest to the cause, the last is what the program made of it.
    match lines.as_slice() {
        [] => "it gave no reason".to_string(),
        [only] => only.clone(),
        [first, .., last] => format!("{first}; {last}"),
    }
}

fn too_long(program: Program, seconds: u64) -> Failure {
    Failure::denied(
        "media_too_slow",
        format!(
            "{} was stopped after {seconds} s, the longest time one run may take: raise the setting `media.run_seconds` \
             if the file is worth it",
            program.name()
        ),
    )
}

fn cannot_start(program: Program, tools: &Tools, error: &std::io::Error) -> Failure {
    let name = program.name();
    let path = program.path(tools).display();
    if error.kind() == std::io::ErrorKind::NotFound {
        return Failure::unavailable(
            "ffmpeg_missing",
            format!(
                "{name} is not installed (looked for `{path}`): run `apt-get install ffmpeg` (Debian, Ubuntu) or \
                 `brew install ffmpeg` (macOS), or name the program in the setting `media.{name}`"
            ),
        );
    }
    Failure::unavailable(
        "ffmpeg_missing",
        format!("cannot start {name} (`{path}`): {error}. Name a working program in the setting `media.{name}`"),
    )
}

/// Reads to the end, so that the program never blocks on a full pipe, and keeps the last of it.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        kept.extend(chunk.iter().take(n));
        if kept.len() > 2 * SAID_BYTES {
            kept.drain(..kept.len() - SAID_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ffmpeg_said_is_told_without_paths_and_addresses() {
        let said = "[mov,mp4,m4a,3gp,3g2,mj2 @ 0x55d0c3] moov atom not found\n\
                    file:/data/ab/cdef: Invalid data found when processing input\n";
        assert_eq!(
            plain(said, Path::new("/data/ab/cdef")),
            "moov atom not found; Invalid data found when processing input"
        );
        assert_eq!(plain("", Path::new("/x")), "it gave no reason");
    }
}
