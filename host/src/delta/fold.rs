//! Folds operations into sets.
