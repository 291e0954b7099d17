//! The gateway.
pub mod host;
pub mod lane;
pub mod runner;
pub mod target;
