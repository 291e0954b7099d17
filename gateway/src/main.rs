//! The command line of the gateway.
fn main() {}
