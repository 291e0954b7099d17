//! What takes minutes: the built binary under long load, beside thousands of reloads, of clients that leave, and of rules that run on.
//! Nothing here runs with the other tests; `make test-long` and `make soak` do.
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

/// Of the other suite, the harness.
#[path = "../sockets"]
mod sockets {
    #[allow(dead_code, unused_imports, reason = "some of it is for the other suite alone")]
    pub(crate) mod support;
}

use sockets::support;
