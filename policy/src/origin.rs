//! Origins: how a request's bytes become one, how configured text becomes a pattern, and how the two meet.
//!
//! There is one grammar for both sides, the exact form in which a browser serialises an origin. On the request's way it
//! is applied by [`mod@parse`], bounded and without allocating; on the configuration's side by [`pattern`], which also
//! says what would be accepted. Nothing is normalised on the request's way: an origin that needs it is not an origin.

pub(crate) mod hash;
pub(crate) mod host;
pub(crate) mod parse;
pub(crate) mod pattern;
pub(crate) mod reach;
pub(crate) mod regexes;
pub(crate) mod risk;
pub(crate) mod set;
pub(crate) mod suffix;
pub(crate) mod table;

pub use parse::{ORIGIN_LEN_MAX, is_origin};
pub(crate) use parse::{Origin, parse};
