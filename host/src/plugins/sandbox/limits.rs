//! What one start may use, and what it does use: memory, computing time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::clock;
use crate::task::Failure;

/// Elements of all tables of one start: function references, in effect.
const TABLE_ELEMENTS: usize = 1_000_000;

/// Core instances, tables and memories that one component may consist of.
const PARTS: usize = 1_000;

/// What the starts of one plugin use and have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Handlers alive now, waiting ones included.
    pub live: u64,
    /// Memory of these, in bytes.
    pub live_bytes: u64,
    /// Most memory that one start has used, in bytes.
    pub peak_bytes: u64,
    /// Starts so far.
    pub starts: u64,
    /// Their computing time.
    pub cpu: Duration,
}

/// Usage by plugin name, since the process began.
#[derive(Default)]
pub(super) struct Gauges(Mutex<BTreeMap<String, Usage>>);

impl Gauges {
    pub(super) fn read(&self) -> BTreeMap<String, Usage> {
        self.0.lock().map(|usage| usage.clone()).unwrap_or_default()
    }

    fn change(&self, plugin: &str, change: impl FnOnce(&mut Usage)) {
        let Ok(mut usage) = self.0.lock() else { return };
        match usage.get_mut(plugin) {
            Some(usage) => change(usage),
            None => change(usage.entry(plugin.to_string()).or_default()),
        }
    }
}

/// The limits of one start and how far they are used up.
pub(super) struct Meter {
    plugin: String,
    gauges: Arc<Gauges>,
    /// Bytes of all memories of the guest.
    memory: usize,
    memory_limit: usize,
    table_elements: usize,
    cpu: Arc<CpuTime>,
    cpu_limit: Duration,
}

impl Meter {
    pub(super) fn new(plugin: &str, memory_mb: u64, cpu_seconds: f64, gauges: Arc<Gauges>) -> Self {
        gauges.change(plugin, |usage| {
            usage.live += 1;
            usage.starts += 1;
        });
        Self {
            plugin: plugin.to_string(),
            gauges,
            memory: 0,
            memory_limit: usize::try_from(memory_mb << 20).unwrap_or(usize::MAX),
            table_elements: 0,
            cpu: Arc::default(),
            cpu_limit: Duration::try_from_secs_f64(cpu_seconds).unwrap_or(Duration::MAX),
        }
    }

    pub(super) fn cpu(&self) -> Arc<CpuTime> {
        self.cpu.clone()
    }

    /// Looked at with every tick while the guest computes. Code `cpu_limit`.
    pub(super) fn check_cpu(&self) -> Result<(), Failure> {
        if self.cpu.used() < self.cpu_limit {
            return Ok(());
        }
        Err(Failure::denied(
            "cpu_limit",
            format!(
                "The plugin {} computed for {:.1} seconds, which is as long as it may; waiting does not count. The limit is \
                 `plugins.limits.cpu_seconds`.",
                self.plugin,
                self.cpu_limit.as_secs_f64()
            ),
        ))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let cpu = self.cpu.used();
        self.gauges.change(&self.plugin, |usage| {
            usage.live = usage.live.saturating_sub(1);
            usage.live_bytes = usage.live_bytes.saturating_sub(self.memory as u64);
            usage.cpu += cpu;
        });
    }
}

impl ResourceLimiter for Meter {
    // A guest that gets no memory mostly ends itself, with a message about something else: it is stopped here, with
    // the reason.
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let memory = self.memory.saturating_sub(current).saturating_add(desired);
        if memory > self.memory_limit {
            return Err(wasmtime::Error::new(Failure::denied(
                "memory_limit",
                format!(
                    "The plugin {} asked for {} MB of memory; it may have {} MB. The limit is `plugins.limits.memory_mb`.",
                    self.plugin,
                    memory.div_ceil(1 << 20),
                    self.memory_limit >> 20
                ),
            )));
        }
        let before = std::mem::replace(&mut self.memory, memory);
        self.gauges.change(&self.plugin, |usage| {
            usage.live_bytes = usage.live_bytes.saturating_sub(before as u64) + memory as u64;
            usage.peak_bytes = usage.peak_bytes.max(memory as u64);
        });
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.table_elements = self.table_elements.saturating_sub(current).saturating_add(desired);
        if self.table_elements > TABLE_ELEMENTS {
            let message =
                format!("The plugin {} asked for tables of more than {TABLE_ELEMENTS} elements.", self.plugin);
            return Err(wasmtime::Error::new(Failure::denied("memory_limit", message)));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }
}

/// Computing time of a guest: what the threads that ran it spent on it. Time in which it waited, or in which others had
/// the processor, does not count.
#[derive(Default)]
pub(super) struct CpuTime {
    /// Nanoseconds of the turns that are over.
    spent: AtomicU64,
    /// The running thread's own time when this turn began. 0: the guest waits.
    began: AtomicU64,
}

impl CpuTime {
    /// Asked by the guest's thread, or while the guest waits.
    pub(super) fn used(&self) -> Duration {
        let began = self.began.load(Ordering::Relaxed);
        let turn = if began == 0 { 0 } else { thread_time().saturating_sub(began) };
        Duration::from_nanos(self.spent.load(Ordering::Relaxed).saturating_add(turn))
    }
}

fn thread_time() -> u64 {
    u64::try_from(clock::thread_cpu_time().as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// A future whose turns are counted as computing time.
pub(super) struct Metered<F> {
    future: Pin<Box<F>>,
    cpu: Arc<CpuTime>,
}

impl<F: Future> Metered<F> {
    pub(super) fn new(future: F, cpu: Arc<CpuTime>) -> Self {
        Self { future: Box::pin(future), cpu }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let began = thread_time();
        self.cpu.began.store(began, Ordering::Relaxed);
        let polled = self.future.as_mut().poll(context);
        self.cpu.began.store(0, Ordering::Relaxed);
        self.cpu.spent.fetch_add(thread_time().saturating_sub(began), Ordering::Relaxed);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(gauges: &Arc<Gauges>) -> Meter {
        Meter::new("p", 2, 1.0, gauges.clone())
    }

    #[test]
    fn memory_is_counted_over_all_memories_and_refused_past_the_limit() {
        let gauges = Arc::new(Gauges::default());
        let mut meter = meter(&gauges);
        assert!(meter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(meter.memory_growing(0, 1 << 19, None).unwrap());
        let refused = meter.memory_growing(1 << 20, 2 << 20, None).unwrap_err();
        let failure = refused.downcast_ref::<Failure>().unwrap();
        assert_eq!(failure.code, "memory_limit");
        assert!(failure.message.contains("plugins.limits.memory_mb"));
        assert_eq!(gauges.read()["p"].live_bytes, 3 << 19);
        drop(meter);
        let usage = gauges.read()["p"];
        assert_eq!((usage.live, usage.live_bytes, usage.peak_bytes, usage.starts), (0, 0, 3 << 19, 1));
    }

    #[tokio::test]
    async fn waiting_is_not_computing() {
        let cpu = Arc::new(CpuTime::default());
        Metered::new(tokio::time::sleep(Duration::from_millis(300)), cpu.clone()).await;
        assert!(cpu.used() < Duration::from_millis(100), "{:?}", cpu.used());
        let spin = async { while cpu.used() < Duration::from_millis(30) {} };
        Metered::new(spin, cpu.clone()).await;
        assert!(cpu.used() >= Duration::from_millis(30));
    }
}
