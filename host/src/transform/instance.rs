//! One live instance of a transform: its store, its bounds, and what its faults mean.
//!
//! An instance that trapped is never called again: the store goes with it. Nothing here prints what a transform said,
//! only where it stood.

use wasmtime::component::InstancePre;
use wasmtime::{Engine, Store, Trap, WasmBacktrace};

use super::artifact::Artifact;
use super::limits::{HANDLES, Limits, Meter, OverLimit, ticks};
use super::room::Room;
use super::voice::Voice;
use super::wasi::Denied;
use super::wire::{InputRow, Migration, Results};
use crate::manifest::Direction;

/// After so many calls an instance makes room for a fresh one, so that what leaks stays small.
const CALLS: u32 = 1_000;

/// Frames of a backtrace that a message shows.
const FRAMES_SHOWN: usize = 6;
/// Longer names are cut.
const NAME_CHARS: usize = 80;

/// What went wrong inside a transform, before anyone knows which row is to blame.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// The problem's code.
    pub(super) code: &'static str,
    /// What happened, without any value.
    pub(super) what: String,
}

/// A live instance.
pub(super) struct Instance {
    store: Store<Room>,
    exports: Migration,
    limits: Limits,
    calls: u32,
}

impl Instance {
    /// A fresh instance of an artifact.
    pub(super) fn fresh(artifact: &Artifact, limits: &Limits) -> Result<Self, Fault> {
        Self::start(artifact.engine(), artifact.ready(), limits, artifact.voice())
    }

    pub(super) fn start(
        engine: &Engine,
        ready: &InstancePre<Room>,
        limits: &Limits,
        voice: Voice,
    ) -> Result<Self, Fault> {
        let mut store = Store::new(engine, Room { meter: Meter::new(limits), voice });
        store.limiter(|room| &mut room.meter);
        store.set_hostcall_fuel(limits.output_bytes());
        store.set_max_component_handles(HANDLES);
        // L10: armed before instantiation, since a start function is foreign code like any other.
        store.set_epoch_deadline(ticks(u64::from(limits.batch_time_ms)));
        let instance =
            ready.instantiate(&mut store).map_err(|error| match error.is::<Trap>() || error.is::<Denied>() {
                true => fault(&error, "while it started", u64::from(limits.batch_time_ms)),
                false => Fault { code: "MEMORY_LIMIT", what: format!("it cannot be started: {}", error.root_cause()) },
            })?;
        let exports = Migration::new(&mut store, &instance)
            .map_err(|error| Fault { code: "WIT_MISMATCH", what: format!("{error:#}") })?;
        Ok(Instance { store, exports, limits: *limits, calls: 0 })
    }

    /// Whether the instance has served its time or grown over half its memory: then a fresh one takes over.
    pub(super) fn is_spent(&self) -> bool {
        self.calls >= CALLS || self.store.data().meter.memory_bytes() > self.limits.memory_bytes() / 2
    }

    /// The manifest's text.
    pub(super) fn describe(&mut self) -> Result<String, Fault> {
        let time_ms = u64::from(self.limits.batch_time_ms);
        self.store.set_epoch_deadline(ticks(time_ms));
        let exports = self.exports.falkirk_migration_transform();
        exports.call_describe(&mut self.store).map_err(|error| fault(&error, "in describe", time_ms))
    }

    /// One call. After an error the instance must be dropped. What it writes reaches the log if `heard`.
    pub(super) fn call(
        &mut self,
        direction: Direction,
        table: &str,
        rows: &[InputRow],
        (time_ms, heard): (u64, bool),
    ) -> Result<Results, Fault> {
        self.calls += 1;
        self.store.data_mut().voice.begin(table, heard);
        self.store.set_epoch_deadline(ticks(time_ms));
        let exports = self.exports.falkirk_migration_transform();
        let (result, place) = match direction {
            Direction::Forward => (exports.call_forward(&mut self.store, table, rows), "in forward"),
            Direction::Backward => (exports.call_backward(&mut self.store, table, rows), "in backward"),
        };
        self.store.data_mut().voice.end();
        result.map_err(|error| fault(&error, place, time_ms))
    }
}

/// The fault behind an error of the engine.
fn fault(error: &wasmtime::Error, place: &str, time_ms: u64) -> Fault {
    let (code, what) = if let Some(over) = error.downcast_ref::<OverLimit>() {
        ("MEMORY_LIMIT", format!("it asked for {over}"))
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::Interrupt => ("TRANSFORM_TIMEOUT", format!("it did not answer within {time_ms} ms")),
            trap => ("TRANSFORM_TRAP", format!("it trapped: {}", trap.to_string().trim_start_matches("wasm trap: "))),
        }
    } else if let Some(denied) = error.downcast_ref::<Denied>() {
        ("TRANSFORM_TRAP", denied.to_string())
    } else if error.root_cause().to_string().contains("fuel allocated for hostcalls") {
        ("OUTPUT_TOO_LARGE", "its answer is larger than limits.output_mib allows".to_owned())
    } else {
        ("BAD_OUTPUT", format!("its answer cannot be read: {}", error.root_cause()))
    };
    Fault { code, what: format!("{what} {place}{}", frames(error)) }
}

/// Where the transform stood: function names, and file and line if the artifact holds them.
fn frames(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let mut shown = Vec::new();
    for frame in backtrace.frames() {
        if frame.symbols().is_empty() {
            shown.push(frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), bare));
        }
        for symbol in frame.symbols() {
            let name = bare(symbol.name().or(frame.func_name()).unwrap_or("?"));
            match (symbol.file(), symbol.line()) {
                (Some(file), Some(line)) => shown.push(format!("{name} at {}:{line}", short(file))),
                _ => shown.push(name),
            }
        }
    }
    // The panic machinery of the language stands on top and says nothing.
    let own = shown.iter().position(|frame| !is_runtime(frame)).unwrap_or(0);
    let shown: Vec<&str> = shown.iter().skip(own).take(FRAMES_SHOWN).map(String::as_str).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!("; it stood in {}", shown.join(" < ").replace(char::is_control, " ")),
    }
}

/// A function's name without what it is generic over: that fills pages, and whoever wrote the artifact chose its length.
fn bare(name: &str) -> String {
    let end = name.find('<').filter(|at| *at > 0).unwrap_or(name.len());
    name[..end].chars().take(NAME_CHARS).collect()
}

fn is_runtime(frame: &str) -> bool {
    ["std::", "core::", "alloc::", "__rust", "rust_panic", "_R", "abort"].iter().any(|start| frame.starts_with(start))
}

/// The last parts of a path: enough for the author, nothing of the machine that built it.
fn short(file: &str) -> String {
    let mut parts: Vec<&str> = file.rsplit(['/', '\\']).take(2).collect();
    parts.reverse();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::bare;

    #[test]
    fn l10_names_of_functions_are_short_whatever_the_artifact_calls_them() {
        assert_eq!(bare("call_mut<fn(a::b) -> c<d>, (e)>"), "call_mut");
        assert_eq!(bare("<a as b>::c"), "<a as b>::c");
        assert_eq!(bare(&"x".repeat(10_000)).len(), 80);
    }
}
