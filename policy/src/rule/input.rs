//! What a rule sees of a request, and the record of what it looked at.
//!
//! Every value is written by one function, [`write_value`], for the rule to read and for the key under which its answer is kept alike:
//! they cannot differ. A getter records before it gives. What is written for a rule is only what its script names.

use std::fmt::Write as _;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderName;
use percent_encoding::percent_decode_str;

use super::{Reads, Rule, RuleInput};
use crate::names::is_token;
use crate::request::Scheme;

/// The header fields that one rule may read.
pub const RULE_HEADERS_MAX: usize = 32;
/// The query keys that one rule may read.
pub const RULE_QUERY_MAX: usize = 16;

/// The names of requested headers that a rule is shown; a longer list shows as none.
const REQUESTED_MAX: usize = 64;

/// Something that a rule may read, as a bit of [`Reads`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
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
    Header(usize),
    Query(usize),
}

const FIXED: [Part; 10] = [
    Part::Origin,
    Part::Scheme,
    Part::Host,
    Part::Port,
    Part::Tenant,
    Part::Route,
    Part::Method,
    Part::Path,
    Part::Kind,
    Part::RequestedHeaders,
];

/// How many parts there can be.
const PARTS: usize = FIXED.len() + RULE_HEADERS_MAX + RULE_QUERY_MAX;

impl Part {
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

    /// The parts among `bits`, in order.
    pub(super) fn among(mut bits: u64) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let index = usize::try_from(bits.trailing_zeros()).ok().filter(|index| *index < PARTS)?;
            bits &= bits - 1;
            Some(Self::of_index(index))
        })
    }
}

/// The values of one request that a script may ask for, and which it has asked for.
#[derive(Debug)]
pub(super) struct Values {
    text: String,
    /// Where in the text each is; none if the request has no such thing.
    places: [Option<Range<u32>>; PARTS],
    reads: AtomicU64,
    headers: Arc<[HeaderName]>,
    query: Arc<[Box<str>]>,
}

impl Values {
    /// Those that `wanted` has a bit for.
    pub(super) fn new(rule: &Rule, input: &RuleInput<'_>, wanted: u64) -> Self {
        let (mut text, mut places) = (String::new(), [const { None }; PARTS]);
        for part in Part::among(wanted) {
            let start = text.len();
            let is_there = write_value(part, rule, input, &mut text);
            let range = u32::try_from(start).ok().zip(u32::try_from(text.len()).ok());
            if let (true, Some((start, end)), Some(place)) = (is_there, range, places.get_mut(part.index())) {
                *place = Some(start..end);
            }
        }
        let (headers, query) = (Arc::clone(&rule.headers), Arc::clone(&rule.query));
        Self { text, places, reads: AtomicU64::new(0), headers, query }
    }

    /// A value, which is from now on something that the answer depends on.
    pub(super) fn read(&self, part: Part) -> Option<&str> {
        self.reads.fetch_or(part.bit(), Relaxed);
        let place = self.places.get(part.index())?.as_ref()?;
        self.text.get(place.start as usize..place.end as usize)
    }

    pub(super) fn reads(&self) -> Reads {
        Reads(self.reads.load(Relaxed))
    }

    /// Which part a listed header is.
    pub(super) fn header(&self, name: &str) -> Option<Part> {
        self.headers.iter().position(|listed| listed.as_str().eq_ignore_ascii_case(name)).map(Part::Header)
    }

    /// Which part a listed query key is.
    pub(super) fn query(&self, key: &str) -> Option<Part> {
        self.query.iter().position(|listed| **listed == *key).map(Part::Query)
    }
}

/// Appends the value of one part. Whether the request has it at all.
pub(super) fn write_value(part: Part, rule: &Rule, input: &RuleInput<'_>, out: &mut String) -> bool {
    if let Some(text) = plain(part, input) {
        out.push_str(text);
        return true;
    }
    match part {
        Part::Port => write_port(input, out),
        Part::RequestedHeaders => write_requested(input, out),
        Part::Header(index) => rule.headers.get(index).is_some_and(|name| write_header(name, input, out)),
        Part::Query(index) => rule.query.get(index).is_some_and(|key| write_query(key, input.query, out)),
        Part::Origin
        | Part::Scheme
        | Part::Host
        | Part::Tenant
        | Part::Route
        | Part::Path
        | Part::Kind
        | Part::Method => true,
    }
}

/// The value of a part that is there as it is.
fn plain<'a>(part: Part, input: &RuleInput<'a>) -> Option<&'a str> {
    Some(match part {
        Part::Origin => input.origin,
        Part::Scheme => input.scheme,
        Part::Host => input.host,
        Part::Tenant => input.tenant,
        Part::Route => input.route,
        Part::Path => input.path,
        Part::Kind => input.kind.as_str(),
        // Tokens; anything else is a method that nothing compares equal to.
        Part::Method => str::from_utf8(input.method).unwrap_or_default(),
        Part::Port | Part::RequestedHeaders | Part::Header(_) | Part::Query(_) => return None,
    })
}

/// Appends the value of one part and its length, by which absent differs from empty. Of parts that are there as they are, and of the
/// port, no text is made.
pub(super) fn write_key(part: Part, rule: &Rule, input: &RuleInput<'_>, key: &mut Vec<u8>) {
    if part == Part::Port {
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

/// The port that is meant where none is written; 0 for schemes that have none.
fn port(input: &RuleInput<'_>) -> u16 {
    let default = [Scheme::Http, Scheme::Https].into_iter().find(|scheme| scheme.as_str() == input.scheme);
    input.port.or(default.map(Scheme::default_port)).unwrap_or_default()
}

fn write_port(input: &RuleInput<'_>, out: &mut String) -> bool {
    let _written = write!(out, "{}", port(input));
    true
}

/// Names in lower case, with commas between. A list that is malformed or too long shows as empty.
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

/// All lines as one (RFC 9110, section 5.3). A value that is no text is as good as none.
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

/// The first value of a key, decoded as forms encode it (<https://url.spec.whatwg.org/#urlencoded-parsing>).
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

/// What was read, as a person would write it.
#[expect(clippy::wildcard_enum_match_arm, reason = "all others are in the list")]
pub(super) fn name(part: Part, rule: &Rule) -> String {
    match part {
        Part::Header(index) => format!("header {}", rule.headers.get(index).map_or("", HeaderName::as_str)),
        Part::Query(index) => format!("query {}", rule.query.get(index).map_or("", |key| key)),
        fixed => super::callable::FIELDS.get(fixed.index()).copied().unwrap_or_default().to_owned(),
    }
}

/// The parts of a well-formed origin: scheme, host and port.
///
/// # Errors
/// Which rule of the grammar it breaks, as the end of a sentence that begins with the origin.
pub fn split_origin(origin: &str) -> Result<(&str, &str, Option<u16>), String> {
    let parsed = crate::origin::parse(origin.as_bytes()).map_err(|flaw| flaw.to_string())?;
    let text = |bytes| str::from_utf8(bytes).unwrap_or_default();
    Ok((text(parsed.scheme), text(parsed.host), parsed.port))
}
