//! Origins: the parser of a request's origin, the compiler of configured patterns, and the matcher.
//!
//! Both sides share one grammar: the exact form in which a browser serialises an origin.
//! [`mod@parse`] applies it to requests, bounded and without allocation. [`pattern`] applies it to
//! configured text, with messages that show an accepted form. Origins of requests are never
//! normalised: text that needs normalising is not an origin.

mod automaton;
pub(crate) mod extension;
pub(crate) mod hash;
pub(crate) mod host;
pub(crate) mod overlap;
pub(crate) mod parse;
pub(crate) mod pattern;
pub(crate) mod reach;
pub(crate) mod regexes;
pub(crate) mod risk;
pub(crate) mod scheme;
pub(crate) mod set;
pub(crate) mod suffix;
pub(crate) mod table;

pub use self::scheme::Scheme;
pub use parse::{ORIGIN_LEN_MAX, is_origin};
pub(crate) use parse::{Origin, parse};
