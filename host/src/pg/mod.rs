//! pg
pub mod address;
pub mod catalog;
pub mod facts;
pub mod fault;
pub mod pins;
pub mod session;
pub mod tls;
