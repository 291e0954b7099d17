//! The gateway.
pub mod config;
pub mod host;
pub mod lane;
pub mod runner;
pub mod target;
