//! PostgreSQL as both kinds of connection see it: addresses, pinned settings, sessions, catalogs, faults.

pub mod address;
pub mod catalog;
pub mod facts;
pub mod fault;
pub mod pins;
pub mod sequences;
pub mod session;
pub mod tls;
