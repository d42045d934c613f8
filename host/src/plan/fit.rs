//! Which source types may be copied into which target types.
