//! The gateway.
pub mod config;
pub mod host;
pub mod target;
