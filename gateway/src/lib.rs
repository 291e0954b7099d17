//! The gateway.
pub mod host;
pub mod target;
