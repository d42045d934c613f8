//! Backward alone works as forward alone does: the forward link's tests once more, with the sides exchanged. What a test
//! calls blue is Falkirk's green here, which the backward link reads, and the rules of its transform stand on the other
//! side of the manifest (`Way`).

#[path = "core.rs"]
mod core_promise;
#[path = "counter_examples.rs"]
mod counter_examples;
#[path = "endurance.rs"]
mod endurance;
#[path = "ensured.rs"]
mod ensured;
#[path = "forward.rs"]
mod forward;
#[path = "gate.rs"]
mod gate;
#[path = "related.rs"]
mod related;
#[path = "schema_changes.rs"]
mod schema_changes;
#[path = "sources.rs"]
mod sources;
#[path = "torture.rs"]
mod torture;
#[path = "types.rs"]
mod types;
