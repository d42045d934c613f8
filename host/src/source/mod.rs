//! source

pub mod copy_out;
