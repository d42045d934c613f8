//! The bindings of `wit/migration.wit`, generated, and the macro that exports a step.
//!
//! The only file of the SDK with unsafe code, and all of that is generated. It must never decide anything: `step` does.

#![allow(missing_docs, clippy::all)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "migration",
    pub_export_macro: true,
    export_macro_name: "export_bindings",
    default_bindings_module: "falkirk_sdk::wire",
    runtime_path: "::falkirk_sdk::wire::rt",
    additional_derives: [PartialEq],
});

pub use exports::falkirk::migration::transform::{Guest, InputRow, OutputRow, Rejection, Value};
pub use wit_bindgen::rt;

/// Exports a step as a transform: `falkirk_sdk::export!(step);` where `step` is a `fn() -> Step`.
///
/// Write it once, in the crate that is built as a `cdylib`. Outside WebAssembly it expands to nothing, so that the same
/// crate is tested by plain `cargo test`.
#[macro_export]
macro_rules! export {
    ($step:path) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Transform;

            thread_local! {
                static STEP: $crate::Step = $step();
            }

            impl $crate::wire::Guest for Transform {
                fn describe() -> String {
                    STEP.with(|step| step.manifest())
                }

                fn forward(
                    table: String,
                    rows: Vec<$crate::wire::InputRow>,
                ) -> Vec<Result<Vec<$crate::wire::OutputRow>, $crate::wire::Rejection>> {
                    STEP.with(|step| step.call($crate::Direction::Forward, &table, rows))
                }

                fn backward(
                    table: String,
                    rows: Vec<$crate::wire::InputRow>,
                ) -> Vec<Result<Vec<$crate::wire::OutputRow>, $crate::wire::Rejection>> {
                    STEP.with(|step| step.call($crate::Direction::Backward, &table, rows))
                }
            }

    $crate::wire::export_bindings!(Transform with_types_in $crate::wire);
        };
    };
}
