//! What must hold whatever bytes come in: a function for every place where somebody else's bytes do, which panics where it does not.
//!
//! `tests/replay.rs` runs the files of `corpus/` through them with every `make test`; `libfuzzer/` makes a program of each, which
//! `make fuzz` runs. What comes out is held against a second opinion, slow and plain: the policy crate's oracle, Pingora's parser, or a
//! few lines written here. Absent on purpose: anything that depends on time, and any network.

#![expect(clippy::panic, clippy::expect_used, reason = "a target fails by panicking")]

mod chunked;
mod config;
mod head;
mod host;
mod logged;
mod origin;
mod pattern;
mod policies;
mod proxy_header;
mod regex;
mod request_headers;
mod rule;
mod target;
mod told;

#[path = "../../policy/tests/oracle/browser.rs"]
#[expect(dead_code, reason = "the oracle is the policy crate's, which asks it for more")]
mod browser;
#[path = "../../policy/tests/oracle/matcher.rs"]
#[expect(clippy::indexing_slicing, clippy::string_slice, reason = "the oracle is slow, plain and a test's")]
mod matcher;

pub use chunked::chunked;
pub use config::config;
pub use head::head;
pub use host::host;
pub use logged::logged;
pub use origin::origin;
pub use pattern::pattern;
pub use proxy_header::proxy_header;
pub use regex::regex;
pub use request_headers::request_headers;
pub use rule::rule;
pub use target::target;

/// What holds whatever bytes it is given, and panics where it does not.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("chunked", chunked),
    ("config", config),
    ("head", head),
    ("host", host),
    ("logged", logged),
    ("origin", origin),
    ("pattern", pattern),
    ("proxy_header", proxy_header),
    ("regex", regex),
    ("request_headers", request_headers),
    ("rule", rule),
    ("target", target),
];
