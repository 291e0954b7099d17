//! The gateway.
pub mod cli;
pub mod demo_upstream;
