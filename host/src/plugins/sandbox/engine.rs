//! The wasmtime engine: how components are compiled and run, and the clock that interrupts them.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, WasmBacktraceDetails};

use crate::task::Failure;

/// How often a computing guest is interrupted: it then gives way to others, and its limits are looked at.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Address space that one memory of a guest gets at once: the default of `plugins.limits.memory_mb`. A guest that may have
/// more is moved when it outgrows this. The 4 GiB that wasmtime would reserve run out of address space with some
/// hundred waiting handlers on small machines.
const RESERVATION: u64 = 256 << 20;

/// Unmapped space around each memory; larger ones save a few bounds checks, at the price of address space.
const GUARD: u64 = 2 << 20;

/// Stack of the guest's own calls. The host's part of the fiber's stack comes on top.
const GUEST_STACK: usize = 1 << 20;
const FIBER_STACK: usize = 2 << 20;

/// An engine with the house's settings. Every setting that changes compiled code is constant here: compiled artifacts
/// of one host fit every engine of that host.
pub(super) fn engine() -> Result<Engine, Failure> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        // Equal inputs, equal results, on every processor.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(true)
        .relaxed_simd_deterministic(true)
        // The deadline for computing; fuel would cost on every block.
        .epoch_interruption(true)
        .consume_fuel(false)
        .allocation_strategy(InstanceAllocationStrategy::OnDemand)
        .memory_reservation(RESERVATION)
        .memory_reservation_for_growth(RESERVATION / 4)
        .memory_guard_size(GUARD)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(FIBER_STACK);
    Engine::new(&config).map_err(|e| {
        Failure::unavailable("sandbox_unavailable", format!("The sandbox does not work on this machine: {e:#}"))
    })
}

/// Tells compiled artifacts of another wasmtime, processor or configuration apart.
pub(super) fn compatibility(engine: &Engine) -> String {
    let mut hasher = StableHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex::encode(hasher.0.finalize().get(..8).unwrap_or_default())
}

/// Moves the engine's epoch on, for as long as the engine lives.
pub(super) fn tick(engine: &Engine) -> Result<(), Failure> {
    let engine = engine.weak();
    let ticker = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("sandbox-ticks".into()).spawn(ticker).map(drop).map_err(|e| {
        Failure::unavailable("sandbox_unavailable", format!("The sandbox's clock did not start: no thread ({e})."))
    })
}

/// The standard library's hasher may differ between two builds; file names must not.
struct StableHasher(Sha256);

impl Hasher for StableHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash = self.0.clone().finalize();
        hash.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_engines_of_one_host_take_each_others_artifacts() {
        let (a, b) = (engine().unwrap(), engine().unwrap());
        assert_eq!(compatibility(&a), compatibility(&b));
        assert_eq!(compatibility(&a).len(), 16);
    }
}
