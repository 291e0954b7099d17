//! The gateway.
pub mod lane;
pub mod runner;
