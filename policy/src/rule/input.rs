//! The values of a request that a rule can read, and the record of its reads.
//!
//! One function, [`write_value`], writes the values both for the script and for the cache key of
//! its answer, so the two cannot differ. A getter records the read before it returns the value.
//! Only the parts that the script names are written.

use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderName;
use percent_encoding::percent_decode_str;

use super::{Rule, RuleInput, RuleReads};
use crate::names::is_token;
use crate::origin::scheme::Scheme;

/// The most header fields that one rule may read.
pub const RULE_HEADERS_MAX: usize = 32;
/// The most query keys that one rule may read.
pub const RULE_QUERY_MAX: usize = 16;

/// The most requested headers that a rule can read. A longer list reads as empty.
const REQUESTED_MAX: usize = 64;

/// A part of a request that a rule may read. Each has a bit in [`RuleReads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPart {
    Origin,
    Scheme,
    Host,
    Port,
    Tenant,
    Route,
    Method,
    Path,
    Kind,
    RequestedHeaders,
    ApiHost,
    Header(usize),
    Query(usize),
}

const FIXED: [RequestPart; 11] = [
    RequestPart::Origin,
    RequestPart::Scheme,
    RequestPart::Host,
    RequestPart::Port,
    RequestPart::Tenant,
    RequestPart::Route,
    RequestPart::Method,
    RequestPart::Path,
    RequestPart::Kind,
    RequestPart::RequestedHeaders,
    RequestPart::ApiHost,
];

/// The number of possible parts.
const PARTS: usize = FIXED.len() + RULE_HEADERS_MAX + RULE_QUERY_MAX;

impl RequestPart {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are in the list")]
    pub(super) fn index(self) -> usize {
        match self {
            Self::Header(index) => FIXED.len() + index,
            Self::Query(index) => FIXED.len() + RULE_HEADERS_MAX + index,
            fixed => FIXED.iter().position(|part| *part == fixed).unwrap_or_default(),
        }
    }

    pub(super) fn bit(self) -> u64 {
        1 << self.index()
    }

    fn of_index(index: usize) -> Self {
        match (FIXED.get(index), index.checked_sub(FIXED.len() + RULE_HEADERS_MAX)) {
            (Some(fixed), _) => *fixed,
            (None, Some(query)) => Self::Query(query),
            (None, None) => Self::Header(index.saturating_sub(FIXED.len())),
        }
    }

    /// Returns the parts of the set `bits`, in order.
    pub(super) fn among(mut bits: u64) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let index = usize::try_from(bits.trailing_zeros()).ok().filter(|index| *index < PARTS)?;
            bits &= bits - 1;
            Some(Self::of_index(index))
        })
    }
}

/// The values of one request that a script may read, and the parts that it has read.
#[derive(Debug)]
pub(super) struct InputValues {
    text: String,
    /// The position of each value in the text. `None` if the request does not have the part.
    ranges: [Option<Range<u32>>; PARTS],
    reads: AtomicU64,
    headers: Arc<[HeaderName]>,
    query: Arc<[Box<str>]>,
}

impl InputValues {
    /// Writes the values of the parts in `wanted`.
    pub(super) fn new(rule: &Rule, input: &RuleInput<'_>, wanted: u64) -> Self {
        let (mut text, mut ranges) = (String::new(), [const { None }; PARTS]);
        for part in RequestPart::among(wanted) {
            let start = text.len();
            let is_present = write_value(part, rule, input, &mut text);
            let range = u32::try_from(start).ok().zip(u32::try_from(text.len()).ok());
            if let (true, Some((start, end)), Some(slot)) = (is_present, range, ranges.get_mut(part.index())) {
                *slot = Some(start..end);
            }
        }
        let (headers, query) = (Arc::clone(&rule.headers), Arc::clone(&rule.query));
        Self { text, ranges, reads: AtomicU64::new(0), headers, query }
    }

    /// Records the read and returns the value.
    pub(super) fn read(&self, part: RequestPart) -> Option<&str> {
        self.reads.fetch_or(part.bit(), Relaxed);
        let range = self.ranges.get(part.index())?.as_ref()?;
        self.text.get(range.start as usize..range.end as usize)
    }

    pub(super) fn reads(&self) -> RuleReads {
        RuleReads(self.reads.load(Relaxed))
    }

    /// Returns the part of a listed header.
    pub(super) fn header(&self, name: &str) -> Option<RequestPart> {
        self.headers.iter().position(|listed| listed.as_str().eq_ignore_ascii_case(name)).map(RequestPart::Header)
    }

    /// Returns the part of a listed query key.
    pub(super) fn query(&self, key: &str) -> Option<RequestPart> {
        self.query.iter().position(|listed| **listed == *key).map(RequestPart::Query)
    }
}

/// Appends the value of one part. Returns whether the request has the part.
pub(super) fn write_value(part: RequestPart, rule: &Rule, input: &RuleInput<'_>, out: &mut String) -> bool {
    if let Some(text) = plain(part, input) {
        out.push_str(text);
        return true;
    }
    match part {
        RequestPart::Port => write_port(input, out),
        RequestPart::RequestedHeaders => write_requested(input, out),
        RequestPart::Header(index) => rule.headers.get(index).is_some_and(|name| write_header(name, input, out)),
        RequestPart::Query(index) => rule.query.get(index).is_some_and(|key| write_query(key, input.query, out)),
        RequestPart::Origin
        | RequestPart::Scheme
        | RequestPart::Host
        | RequestPart::Tenant
        | RequestPart::Route
        | RequestPart::Path
        | RequestPart::Kind
        | RequestPart::ApiHost
        | RequestPart::Method => true,
    }
}

/// Returns the value of a part that needs no conversion.
fn plain<'a>(part: RequestPart, input: &RuleInput<'a>) -> Option<&'a str> {
    Some(match part {
        RequestPart::Origin => input.origin,
        RequestPart::Scheme => input.scheme,
        RequestPart::Host => input.host,
        RequestPart::Tenant => input.tenant,
        RequestPart::Route => input.route,
        RequestPart::Path => input.path,
        RequestPart::Kind => input.kind.as_str(),
        RequestPart::ApiHost => input.api_host,
        // Methods are tokens. Bytes that are not UTF-8 read as an empty method, which equals no
        // name.
        RequestPart::Method => str::from_utf8(input.method).unwrap_or_default(),
        RequestPart::Port | RequestPart::RequestedHeaders | RequestPart::Header(_) | RequestPart::Query(_) => {
            return None;
        }
    })
}

/// Appends the value of one part and its length. The length of an absent part differs from that of
/// an empty one. Values that need no conversion, and the port, are not copied to a string first.
pub(super) fn write_key(part: RequestPart, rule: &Rule, input: &RuleInput<'_>, key: &mut Vec<u8>) {
    if part == RequestPart::Port {
        return key.extend_from_slice(&port(input).to_le_bytes());
    }
    let mut made = String::new();
    let value = match plain(part, input) {
        Some(text) => Some(text),
        None => write_value(part, rule, input, &mut made).then_some(&*made),
    };
    key.extend_from_slice(value.unwrap_or_default().as_bytes());
    let len = value.map_or(u32::MAX, |value| u32::try_from(value.len()).unwrap_or(u32::MAX - 1));
    key.extend_from_slice(&len.to_le_bytes());
}

/// Returns the port, or the default port of the scheme, or 0 for schemes without one.
fn port(input: &RuleInput<'_>) -> u16 {
    let default = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.as_str() == input.scheme);
    input.port.or(default.map(Scheme::default_port)).unwrap_or_default()
}

fn write_port(input: &RuleInput<'_>, out: &mut String) -> bool {
    let _written = write!(out, "{}", port(input));
    true
}

/// Writes the names in lower case, separated by commas. A malformed or too long list reads as
/// empty.
fn write_requested(input: &RuleInput<'_>, out: &mut String) -> bool {
    let start = out.len();
    let mut count = 0;
    let walked = input.requested_headers.try_each(&mut |line| {
        for name in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            let (true, true, Ok(name)) = (count < REQUESTED_MAX, is_token(name), str::from_utf8(name)) else {
                return ControlFlow::Break(());
            };
            if count > 0 {
                out.push(',');
            }
            out.extend(name.chars().map(|character| character.to_ascii_lowercase()));
            count += 1;
        }
        ControlFlow::Continue(())
    });
    if walked.is_break() {
        out.truncate(start);
    }
    true
}

/// Writes all lines as one (RFC 9110, section 5.3). A value that is not UTF-8 counts as absent.
fn write_header(name: &HeaderName, input: &RuleInput<'_>, out: &mut String) -> bool {
    let start = out.len();
    let mut count = 0;
    let walked = input.headers.try_each_of(name, &mut |line| {
        let Ok(line) = str::from_utf8(line) else { return ControlFlow::Break(()) };
        if count > 0 {
            out.push_str(", ");
        }
        out.push_str(line);
        count += 1;
        ControlFlow::Continue(())
    });
    if walked.is_break() {
        out.truncate(start);
    }
    walked.is_continue() && count > 0
}

/// Writes the first value of a key, decoded by <https://url.spec.whatwg.org/#urlencoded-parsing>. A
/// value that is not UTF-8 counts as absent.
fn write_query(key: &str, query: &str, out: &mut String) -> bool {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = pairs.into_iter().find(|(name, _)| decoded(name).as_deref() == Some(key));
    match found.and_then(|(_, value)| decoded(value)) {
        Some(value) => {
            out.push_str(&value);
            true
        }
        None => false,
    }
}

fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// Returns the name of a part for messages.
#[expect(clippy::wildcard_enum_match_arm, reason = "all others are in the list")]
pub(super) fn name(part: RequestPart, rule: &Rule) -> String {
    match part {
        RequestPart::Header(index) => format!("header {}", rule.headers.get(index).map_or("", HeaderName::as_str)),
        RequestPart::Query(index) => format!("query {}", rule.query.get(index).map_or("", |key| key)),
        fixed => super::callable::FIELDS.get(fixed.index()).copied().unwrap_or_default().to_owned(),
    }
}

/// Splits a well-formed origin into scheme, host and port. The port is `None` for the default port.
///
/// # Errors
/// The rule of the grammar that the origin breaks, as a message that follows the quoted origin.
pub fn split_origin(origin: &str) -> Result<(&str, &str, Option<u16>), String> {
    let parsed = crate::origin::parse(origin.as_bytes()).map_err(|flaw| flaw.to_string())?;
    let text = |bytes| str::from_utf8(bytes).unwrap_or_default();
    Ok((text(parsed.scheme), text(parsed.host), parsed.port))
}
