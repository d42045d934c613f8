//! WASI for artifacts that import it, with nothing behind it.
//!
//! There is no file, no socket, no environment and no argument; every clock stands still, above zero because Go's runtime
//! refuses a clock at zero; every request for randomness gets the same bytes. So an answer can depend on nothing but the
//! rows (L9), and a guest that sleeps does not sleep: a wait in the host would be out of the deadline's reach (L10).
//! Standard output and standard error go to the log. All of it is written here, on no library that could reach the
//! operating system if it were configured wrongly. What is not in the list of interfaces is refused by name.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};
use wasmtime::{Engine, StoreContextMut};

use super::room::Room;
use super::voice::Way;

type Link<'a> = LinkerInstance<'a, Room>;
type Store<'a> = StoreContextMut<'a, Room>;
/// Defines one function of an interface, if it is one that has an answer.
type Define = fn(&mut Link<'_>, &str) -> wasmtime::Result<bool>;

/// The interfaces that have an answer. Sockets and HTTP have none: a transform that asks for them wants the wrong thing.
const GRANTED: [(&str, Define); 20] = [
    ("wasi:cli/environment", cli),
    ("wasi:cli/exit", cli),
    ("wasi:cli/stderr", cli),
    ("wasi:cli/stdin", cli),
    ("wasi:cli/stdout", cli),
    ("wasi:cli/terminal-input", cli),
    ("wasi:cli/terminal-output", cli),
    ("wasi:cli/terminal-stderr", cli),
    ("wasi:cli/terminal-stdin", cli),
    ("wasi:cli/terminal-stdout", cli),
    ("wasi:clocks/monotonic-clock", monotonic_clock),
    ("wasi:clocks/wall-clock", wall_clock),
    ("wasi:filesystem/preopens", filesystem),
    ("wasi:filesystem/types", filesystem),
    ("wasi:io/error", io),
    ("wasi:io/poll", io),
    ("wasi:io/streams", streams),
    ("wasi:random/insecure", random),
    ("wasi:random/insecure-seed", random),
    ("wasi:random/random", random),
];

/// 2000-01-01 00:00:00 UTC.
const WALL_SECONDS: u64 = 946_684_800;
const MONOTONIC_NS: u64 = 1_000_000_000;
/// What a request for random bytes may ask for; nobody seeds anything with more.
const RANDOM_BYTES: u64 = 64 * 1024;
/// What a stream takes at once.
const WRITE_BYTES: u64 = 64 * 1024;

/// Something that WASI's interface offers and this host does not.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Denied(String);

// What stands behind the handles: nothing.
struct Failure;
struct Pollable;
struct InputStream;
struct OutputStream;
struct TerminalInput;
struct TerminalOutput;
struct Descriptor;

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<Failure>),
    #[component(name = "closed")]
    Closed,
}

/// Whether an import is one that is answered.
pub(super) fn grants(import: &str) -> bool {
    definer(import).is_some()
}

fn definer(import: &str) -> Option<Define> {
    let (interface, version) = import.split_once('@')?;
    let granted = GRANTED.iter().find(|(name, _)| *name == interface && version.starts_with("0.2."));
    granted.map(|(_, define)| *define)
}

/// Defines what the component imports, and nothing else: for one that imports nothing the linker stays empty.
pub(super) fn link(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<Room>> {
    let mut linker = Linker::new(engine);
    let world = component.component_type();
    for (import, item) in world.imports(engine) {
        let (Some(define), ComponentItem::ComponentInstance(interface)) = (definer(import), item.ty) else { continue };
        let mut link = linker.instance(import)?;
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => link.resource(name, resource(name), |_, _| Ok(()))?,
                ComponentItem::ComponentFunc(_) if !define(&mut link, name)? => {
                    let denied = Denied(format!("it called {import} {name}, behind which there is nothing"));
                    link.func_new(name, move |_, _, _, _| Err(denied.clone().into()))?;
                }
                _ => {}
            }
        }
    }
    Ok(linker)
}

fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<Failure>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        _ => ResourceType::host::<()>(),
    }
}

fn ready() -> wasmtime::Result<(Resource<Pollable>,)> {
    Ok((Resource::new_own(0),))
}

fn cli(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-environment" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Vec::<(String, String)>::new(),)))?,
        "get-arguments" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Vec::<String>::new(),)))?,
        "initial-cwd" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((None::<String>,)))?,
        "exit" => link.func_wrap(name, |_: Store<'_>, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            Err(Denied("it called exit".to_owned()).into())
        })?,
        "get-stdin" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Resource::<InputStream>::new_own(0),)))?,
        "get-stdout" => {
            link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Resource::<OutputStream>::new_own(Way::Out as u32),)))?;
        }
        "get-stderr" => {
            link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Resource::<OutputStream>::new_own(Way::Err as u32),)))?;
        }
        "get-terminal-stdin" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((None::<Resource<TerminalInput>>,)))?,
        "get-terminal-stdout" | "get-terminal-stderr" => {
            link.func_wrap(name, |_: Store<'_>, (): ()| Ok((None::<Resource<TerminalOutput>>,)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn monotonic_clock(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "now" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((MONOTONIC_NS,)))?,
        "resolution" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((1_000_000_u64,)))?,
        "subscribe-instant" | "subscribe-duration" => link.func_wrap(name, |_: Store<'_>, (_,): (u64,)| ready())?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn wall_clock(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    let time = match name {
        "now" => Datetime { seconds: WALL_SECONDS, nanoseconds: 0 },
        "resolution" => Datetime { seconds: 0, nanoseconds: 1_000_000 },
        _ => return Ok(false),
    };
    link.func_wrap(name, move |_: Store<'_>, (): ()| Ok((time,)))?;
    Ok(true)
}

fn filesystem(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    if name != "get-directories" {
        // Without a directory nobody ever holds a descriptor to call anything on.
        return Ok(false);
    }
    link.func_wrap(name, |_: Store<'_>, (): ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))?;
    Ok(true)
}

fn io(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "[method]error.to-debug-string" => {
            link.func_wrap(name, |_: Store<'_>, (_,): (Resource<Failure>,)| Ok((String::new(),)))?;
        }
        "[method]pollable.ready" => {
            link.func_wrap(name, |_: Store<'_>, (_,): (Resource<Pollable>,)| Ok((true,)))?;
        }
        "[method]pollable.block" => link.func_wrap(name, |_: Store<'_>, (_,): (Resource<Pollable>,)| Ok(()))?,
        "poll" => link.func_wrap(name, |_: Store<'_>, (all,): (Vec<Resource<Pollable>>,)| {
            Ok(((0..all.len() as u32).collect::<Vec<u32>>(),))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn streams(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    type In = Resource<InputStream>;
    type Out = Resource<OutputStream>;
    match name.strip_prefix("[method]").unwrap_or(name) {
        "input-stream.read" | "input-stream.blocking-read" => {
            link.func_wrap(name, |_: Store<'_>, _: (In, u64)| Ok((Err::<Vec<u8>, _>(StreamError::Closed),)))?;
        }
        "input-stream.skip" | "input-stream.blocking-skip" => {
            link.func_wrap(name, |_: Store<'_>, _: (In, u64)| Ok((Err::<u64, _>(StreamError::Closed),)))?;
        }
        "input-stream.subscribe" => link.func_wrap(name, |_: Store<'_>, (_,): (In,)| ready())?,
        "output-stream.subscribe" => link.func_wrap(name, |_: Store<'_>, (_,): (Out,)| ready())?,
        "output-stream.check-write" => {
            link.func_wrap(name, |_: Store<'_>, (_,): (Out,)| Ok((Ok::<_, StreamError>(WRITE_BYTES),)))?;
        }
        "output-stream.write" | "output-stream.blocking-write-and-flush" => {
            link.func_wrap(name, |mut store: Store<'_>, (out, bytes): (Out, Vec<u8>)| {
                let way = if out.rep() == Way::Out as u32 { Way::Out } else { Way::Err };
                store.data_mut().voice.write(way, &bytes);
                Ok((Ok::<_, StreamError>(()),))
            })?;
        }
        "output-stream.flush" | "output-stream.blocking-flush" => {
            link.func_wrap(name, |_: Store<'_>, (_,): (Out,)| Ok((Ok::<_, StreamError>(()),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn random(link: &mut Link<'_>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            link.func_wrap(name, |_: Store<'_>, (length,): (u64,)| {
                if length > RANDOM_BYTES {
                    return Err(Denied(format!("it asked for more than {RANDOM_BYTES} random bytes at once")).into());
                }
                Ok((same_bytes(length as usize),))
            })?;
        }
        "get-random-u64" | "get-insecure-random-u64" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok((mixed(0),)))?,
        "insecure-seed" => link.func_wrap(name, |_: Store<'_>, (): ()| Ok(((mixed(0), mixed(1)),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The same bytes at every request: a generator that went on would let an answer depend on the calls before it (L9).
fn same_bytes(length: usize) -> Vec<u8> {
    (0..length.div_ceil(8) as u64).flat_map(|at| mixed(at).to_le_bytes()).take(length).collect()
}

/// Well mixed bits out of a position (SplitMix64).
fn mixed(at: u64) -> u64 {
    let mut bits = at.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_18_only_listed_interfaces_of_wasi_0_2_are_granted() {
        for import in ["wasi:cli/stdout@0.2.6", "wasi:clocks/wall-clock@0.2.12", "wasi:filesystem/types@0.2.0"] {
            assert!(grants(import), "{import}");
        }
        for import in [
            "wasi:sockets/tcp@0.2.6",
            "wasi:http/outgoing-handler@0.2.6",
            "wasi:cli/stdout",
            "wasi:cli/stdout@0.3.0",
            "wasi:cli/run@0.2.6",
            "wasi:cli/stdout2@0.2.6",
        ] {
            assert!(!grants(import), "{import}");
        }
    }

    #[test]
    fn row_34_randomness_is_the_same_at_every_request_and_looks_like_it() {
        assert_eq!(same_bytes(20), same_bytes(20));
        assert_eq!(same_bytes(20)[..8], mixed(0).to_le_bytes());
        assert!(
            same_bytes(0).is_empty() && same_bytes(4_096).iter().collect::<std::collections::HashSet<_>>().len() > 200
        );
    }
}
