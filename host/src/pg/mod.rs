//! PostgreSQL as both kinds of connection see it: addresses, pinned settings, sessions, catalogs, faults.

pub mod address;
pub mod pins;
pub mod tls;
