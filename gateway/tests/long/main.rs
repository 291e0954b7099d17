//! Tests that take minutes: the built binary under long load, thousands of reloads, aborted
//! requests and rules at their limits.
//!
//! `make test` does not run them; `make test-long` and `make soak` do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod aborts;
mod clock;
mod counts;
mod latency;
mod reloads;
mod rules;
mod soak;

/// The harness of the other suite.
#[path = "../sockets"]
mod sockets {
    #[allow(dead_code, unused_imports, reason = "parts are used only by the other suite")]
    pub(crate) mod support;
}

use sockets::support;
