//! The gateway.
pub mod access_log;
pub mod host;
pub mod lane;
pub mod metrics;
pub mod runner;
pub mod target;
