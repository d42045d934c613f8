//! Falkirk moves a live application from the schema of one release to the schema of the next, and back, while both
//! releases serve users. `ARCHITECTURE.md` holds the picture, the laws and the decisions.
//!
//! The modules by floor; imports point down only (`tests/tidy.rs`).
#![deny(unsafe_code)]

pub mod catalog;
pub mod change;
pub mod cluster;
pub mod delta;
pub mod live;
pub mod lsn;
pub mod manifest;
pub mod marker;
pub mod names;
pub mod plan;
pub mod problem;
pub mod versions;

pub mod apply;
pub mod build;
pub mod decode;
pub mod pg;
pub mod source;
pub mod transform;

pub mod check;
pub mod clean;
pub mod config;
pub mod conflicts;
pub mod copy;
pub mod link;
pub mod recopy;
pub mod sequences;
pub mod status;
pub mod stream;
pub mod supervisor;
pub mod swap;
pub mod verify;

pub mod admin;
pub mod cli;
pub mod demo;
pub mod show;
