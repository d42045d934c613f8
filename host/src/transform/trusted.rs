//! Native code becomes a component. The only unsafe code of the host, and one call long (`host/tests/tidy` holds that).
//!
//! The engine runs what it is given here as it is: nothing can check machine code. So it is given nothing but what this
//! program's own compiler made: `compile.rs` hands over what the compiler answered, in a thread or over a pipe from a
//! process of the same executable, and `cache.rs` only bytes whose authentication code it has verified in this memory.
//! A file that somebody else precompiled never comes here: `artifact.rs` refuses it by its first bytes.
#![allow(unsafe_code)]

use wasmtime::Engine;
use wasmtime::component::Component;

/// Code that this program compiled.
pub(super) struct Code(Vec<u8>);

impl Code {
    /// Whoever calls this vouches that `Engine::precompile_component` of this program made the bytes.
    pub(super) fn vouched(bytes: Vec<u8>) -> Self {
        Code(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The component. The engine still refuses code of another version or configuration than its own.
    pub(super) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are what `Engine::precompile_component` returned, which is all that `deserialize` asks for;
        // they are owned here and cannot change under it, unlike a file that is mapped.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}
