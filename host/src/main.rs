//! The `falkirk` command.
fn main() {}
