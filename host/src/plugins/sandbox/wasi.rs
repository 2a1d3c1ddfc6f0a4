//! WASI 0.2 as guests find it: everything a standard library asks for is there, and empty. No folders, no sockets, no
//! names, no environment, no arguments; standard input is closed, output goes into the task's log. Clocks and randomness
//! come from the task, so that a replay sees the same.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::clocks::HostWallClock;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamResult, subscribe};
use wasmtime_wasi::{WasiCtx, WasiView};

use crate::plugins::guest_clock::GuestClock;
use crate::plugins::imports::log::Lines;
use crate::task::TaskId;

/// A line without an end is cut after so many bytes.
const LONGEST_LINE: usize = 16 * 1024;

/// Resources (streams, timers, …) that one start may hold at once.
const RESOURCES: usize = 10_000;

/// What of WASI belongs to one start.
pub(super) struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    clock: GuestClock,
    stdout: Printed,
    stderr: Printed,
}

impl Wasi {
    /// `seed` names the start: equal seeds give equal randomness.
    pub(super) fn new(lines: &Arc<Lines>, clock: GuestClock, seed: &Seed) -> Self {
        let stdout = Printed::new("stdout", "info", lines);
        let stderr = Printed::new("stderr", "error", lines);
        let ctx = WasiCtx::builder()
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .wall_clock(Wall(clock.clone()))
            .secure_random(seed.rng("secure"))
            .insecure_random(seed.rng("insecure"))
            .insecure_random_seed(seed.number("seed"))
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self { ctx, table, clock, stdout, stderr }
    }

    pub(super) fn view(&mut self) -> wasmtime_wasi::WasiCtxView<'_> {
        wasmtime_wasi::WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }

    /// Writes what stands in a line that was not ended.
    pub(super) fn end_lines(&self) {
        self.stdout.end_line();
        self.stderr.end_line();
    }
}

/// Links WASI. The monotonic clock is the house's own: sleeping moves it.
pub(super) fn link<T: WasiView>(
    linker: &mut Linker<T>,
    clocks: fn(&mut T) -> MonotonicClock<'_>,
) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<T, HasMonotonicClock>(linker, clocks)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Where a start's randomness comes from.
pub(super) struct Seed(Sha256);

impl Seed {
    /// The same in every start of an attempt.
    pub(super) fn of_attempt(task: TaskId, attempt: u32) -> Self {
        Self(Sha256::new_with_prefix(format!("enginehouse randomness of {task}/{attempt}/")))
    }

    /// The same in every call of `describe`.
    pub(super) fn of_describe() -> Self {
        Self(Sha256::new_with_prefix("enginehouse randomness of describe/"))
    }

    fn bytes(&self, purpose: &str) -> [u8; 32] {
        self.0.clone().chain_update(purpose).finalize().into()
    }

    fn rng(&self, purpose: &str) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.bytes(purpose))
    }

    fn number(&self, purpose: &str) -> u128 {
        self.bytes(purpose).iter().take(16).fold(0, |n, byte| n << 8 | u128::from(*byte))
    }
}

/// The time of day.
struct Wall(GuestClock);

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        self.0.now()
    }
}

/// The monotonic clock of one guest: the same clock, in nanoseconds.
pub(super) struct MonotonicClock<'a> {
    clock: &'a GuestClock,
    table: &'a mut ResourceTable,
}

impl Wasi {
    pub(super) fn monotonic_clock(&mut self) -> MonotonicClock<'_> {
        MonotonicClock { clock: &self.clock, table: &mut self.table }
    }
}

struct HasMonotonicClock;

impl HasData for HasMonotonicClock {
    type Data<'a> = MonotonicClock<'a>;
}

impl monotonic_clock::Host for MonotonicClock<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.ahead(0))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let sleep = self.table.push(Sleep { clock: self.clock.clone(), until: when })?;
        subscribe(self.table, sleep)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_instant(self.clock.ahead(duration))
    }
}

/// A sleep: over at once, and the clock stands later.
struct Sleep {
    clock: GuestClock,
    until: u64,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        self.clock.sleep_until(self.until);
    }
}

/// Standard output or error of one guest.
#[derive(Clone)]
struct Printed {
    source: &'static str,
    level: &'static str,
    lines: Arc<Lines>,
    /// The line that is not yet ended.
    begun: Arc<Mutex<Vec<u8>>>,
}

impl Printed {
    fn new(source: &'static str, level: &'static str, lines: &Arc<Lines>) -> Self {
        Self { source, level, lines: lines.clone(), begun: Arc::default() }
    }

    fn print(&self, bytes: &[u8]) {
        if self.source == "stderr" {
            self.lines.remember(&String::from_utf8_lossy(bytes));
        }
        let Ok(mut begun) = self.begun.lock() else { return };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || begun.len() >= LONGEST_LINE {
                self.write(&mut begun);
            }
        }
    }

    fn end_line(&self) {
        if let Ok(mut begun) = self.begun.lock()
            && !begun.is_empty()
        {
            self.write(&mut begun);
        }
    }

    fn write(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line);
        self.lines.write(self.source, self.level, text.trim_end_matches(['\r', '\n']));
        line.clear();
    }
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Printed {
    fn poll_write(self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.print(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::Rng;

    use super::*;

    #[test]
    fn randomness_follows_from_task_and_attempt() {
        let task = TaskId::random();
        let of = |task, attempt, purpose: &str| Seed::of_attempt(task, attempt).rng(purpose).next_u64();
        assert_eq!(of(task, 1, "secure"), of(task, 1, "secure"));
        assert_ne!(of(task, 1, "secure"), of(task, 2, "secure"));
        assert_ne!(of(task, 1, "secure"), of(task, 1, "insecure"));
        assert_ne!(of(task, 1, "secure"), of(TaskId::random(), 1, "secure"));
    }
}
