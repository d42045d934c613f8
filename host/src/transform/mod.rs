//! Transforms: WebAssembly components that turn rows of one schema version into rows of the next (and back).
//!
//! ```text
//!   file --Artifact::load--> checked, compiled, described --Guest::new--> answers for rows, batch by batch
//! ```
//!
//! The only home of `wasmtime`. It holds L10: whatever a transform does, the host gets an answer or a problem that names
//! artifact, table and row, within bounded time and memory. And its part of L9: nothing is linked that tells two runs
//! apart, so there is nothing for an answer to depend on but the rows.

mod artifact;
mod cache;
mod calls;
mod compile;
mod engine;
mod guest;
mod instance;
pub mod limits;
mod room;
mod rows;
mod sample;
mod steps;
mod trusted;
mod value;
mod voice;
mod wasi;
mod wire;

pub use crate::manifest::Direction;
pub use artifact::Artifact;
pub use compile::{COMMAND, Compiler, NOT_A_COMPONENT, compile_for_parent};
pub use guest::{Guest, GuestFault};
pub use limits::{Limits, OnNondeterminism, cores};
