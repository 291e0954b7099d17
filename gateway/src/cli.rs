//! The command line.
pub mod check;
pub mod demo_upstream;
pub mod schema;
