//! The ground under everything that talks to PostgreSQL: addresses, pinned settings, TLS, sessions for SQL, what
//! errors mean, and what a server says about itself. No policy lives here: nothing below decides what a link does.
pub mod address;
pub mod catalog;
pub mod facts;
pub mod fault;
pub mod pins;
pub mod session;
pub mod tls;
