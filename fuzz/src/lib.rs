//! Properties that must hold for all input bytes: one function, a target, for each place where
//! untrusted bytes arrive.
//!
//! A target panics if its property does not hold. `tests/replay.rs` runs the inputs of `corpus/`
//! with every `make test`. `libfuzzer/` builds a program of each target for `make fuzz`. The
//! targets compare results with a slow and plain reference: the oracle of the policy crate,
//! Pingora's parser, or a few lines here. Absent on purpose: anything that depends on time, and any
//! network except the loopback of one target.

#![expect(clippy::panic, clippy::expect_used, reason = "a target fails by panicking")]

mod chunked;
mod config;
mod diagnostics;
mod exchange;
mod head;
mod host;
mod http2_uploads;
mod logged;
mod origin;
mod pattern;
mod policies;
mod proxy_header;
mod regex;
mod request_headers;
mod response_head;
mod rule;
mod target;

#[path = "../../policy/tests/oracle/browser.rs"]
#[expect(dead_code, reason = "the oracle belongs to the policy crate, which uses more of it")]
mod browser;
#[path = "../../policy/tests/oracle/matcher.rs"]
#[expect(clippy::indexing_slicing, clippy::string_slice, reason = "the oracle is slow and plain test code")]
mod matcher;

pub use chunked::chunked;
pub use config::config;
pub use exchange::exchange;
pub use head::head;
pub use host::host;
pub use http2_uploads::http2_uploads;
pub use logged::logged;
pub use origin::origin;
pub use pattern::pattern;
pub use proxy_header::proxy_header;
pub use regex::regex;
pub use request_headers::request_headers;
pub use response_head::response_head;
pub use rule::rule;
pub use target::target;

/// A property that must hold for all input bytes. It panics if it does not hold.
pub type Target = fn(&[u8]);

/// All targets, by the names of their archives in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunked", chunked),
    ("config", config),
    ("exchange", exchange),
    ("head", head),
    ("host", host),
    ("http2_uploads", http2_uploads),
    ("logged", logged),
    ("origin", origin),
    ("pattern", pattern),
    ("proxy_header", proxy_header),
    ("regex", regex),
    ("request_headers", request_headers),
    ("response_head", response_head),
    ("rule", rule),
    ("target", target),
];
