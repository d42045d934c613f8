//! The stage that reads the source: the replication connection and the reading half of the copy. Knows nothing of where
//! changes go.

pub mod copy_out;
pub mod session;
pub mod stream;
mod wire;
