//! The gateway.
pub mod host;
pub mod lane;
pub mod metrics;
pub mod runner;
pub mod target;
