//! Lifts changes into operations.
