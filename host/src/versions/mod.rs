//! Versions: several steps run one after the other, with no database between them.
//!
//! ```text
//!   manifests --path--> the steps from blue's version to green's
//!   steps + both catalogs --compose--> rules from the first version to the last   (or every reason against it)
//!                                  '--> Chain: what each step does to a row, in turn
//! ```
//!
//! Pure: no I/O, no clock. A composed rule says the same as its steps run one after the other through a database of the
//! version between them. What cannot be known without that database is refused by name, never guessed.

mod compose;
mod flow;
mod path;
mod rules;
mod steps;

pub use compose::{Composed, compose};
pub use path::path;

use crate::manifest::Manifest;

/// One step: what its artifact declares.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// The artifact's label, for messages.
    pub label: &'a str,
}

impl Step<'_> {
    /// The step in words: its versions and its artifact.
    fn named(&self) -> String {
        format!("{} to {} ({})", self.manifest.from, self.manifest.to, self.label)
    }
}
