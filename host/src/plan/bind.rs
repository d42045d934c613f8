//! Binds a manifest to two catalogs.
