//! The one engine of the process, and its clock.
//!
//! Everything a transform has no need of is switched off, so that it cannot go wrong either. Nothing may be switched on
//! here that makes the answer depend on the machine (L9).

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::time::Duration;

use wasmtime::{Config, Engine, Strategy, WasmBacktraceDetails, WasmFeatures};

use crate::problem::{Blame, Outcome, Problem};

/// How often the engine's clock ticks; time limits are a multiple of it.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Proposals that no transform needs. Shared memory, 64-bit memory and several memories per module would each open a
/// way around the memory limit; the rest is code that would run for nobody.
const OFF: [WasmFeatures; 12] = [
    WasmFeatures::THREADS,
    WasmFeatures::SHARED_EVERYTHING_THREADS,
    WasmFeatures::MEMORY64,
    WasmFeatures::MULTI_MEMORY,
    WasmFeatures::GC,
    WasmFeatures::EXCEPTIONS,
    WasmFeatures::LEGACY_EXCEPTIONS,
    WasmFeatures::FUNCTION_REFERENCES,
    WasmFeatures::STACK_SWITCHING,
    WasmFeatures::CUSTOM_PAGE_SIZES,
    WasmFeatures::RELAXED_SIMD,
    WasmFeatures::CM_ASYNC,
];

fn config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .epoch_interruption(true)
        .max_wasm_stack(512 * 1024)
        .concurrency_support(false)
        .shared_memory(false)
        .gc_support(false)
        // L9: a NaN has one bit pattern, and relaxed operations one result, on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .guard_before_linear_memory(true)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(20))
        .native_unwind_info(false);
    for feature in OFF {
        config.wasm_features(feature, false);
    }
    config
}

/// The engine. Made on first use, together with the thread that advances its clock.
pub(super) fn engine() -> Outcome<&'static Engine> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let made = ENGINE.get_or_init(|| {
        let engine = Engine::new(&config()).map_err(|error| format!("{error:#}"))?;
        tick(engine.clone()).map_err(|error| error.to_string())?;
        Ok(engine)
    });
    made.as_ref().map_err(|error| {
        Problem::refuse(Blame::Host, "ENGINE", format!("the WebAssembly engine could not be started: {error}"))
            .remedy("run falkirk on a machine and kernel that allow executable memory and threads")
    })
}

/// Without this thread a loop in a transform would never end (L10).
fn tick(engine: Engine) -> std::io::Result<()> {
    std::thread::Builder::new().name("falkirk-ticks".into()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            engine.increment_epoch();
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn l10_the_engine_starts_with_everything_unneeded_switched_off() {
        super::engine().unwrap();
    }
}
