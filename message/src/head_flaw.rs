//! The flaw of an upstream's response head: the field or the limit that it breaks.
//!
//! Access logs and the `Proxy-Status` field of the 502 response name the flaw. The text never
//! contains a field's value.

use std::fmt;

use crossgate_policy::names::is_token;

/// The most fields of a response head; Pingora's own parser has this limit over HTTP/1.1.
pub const HEAD_FIELDS_MAX: usize = 256;
/// The most bytes of a response head.
pub const HEAD_LEN_MAX: usize = 64 << 10;

/// The maximum length of a field's name in the text.
const NAME_LEN_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadFlaw {
    /// The head has this many fields, over the limit.
    Fields(usize),
    /// The head has more fields than allowed, and the parser stopped before the last.
    FieldsBeyondMax,
    TooLong,
    /// The connection ended within the head.
    Incomplete,
    /// More than one `Transfer-Encoding` field.
    DuplicateTransferEncoding,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// Two `Content-Length` values that differ.
    ConflictingLengths,
    /// `Content-Length` is not a valid number.
    InvalidLength,
    /// A field name that is not a token (RFC 9110, section 5.6.2).
    FieldName,
    /// A field value with an invalid byte; the name of the field, if it was found.
    FieldValue(Option<Box<str>>),
    StatusLine,
    /// A line that does not end with CRLF.
    LineEnd,
    /// A 101 response to a request without an upgrade.
    UnrequestedUpgrade,
    /// More interim responses (1xx) than allowed.
    Interims,
    /// An error of HTTP/2, with its error code.
    Http2(Option<h2::Reason>),
    Other,
}

impl fmt::Display for HeadFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeadFlaw::Fields(count) => write!(f, "{count} fields"),
            HeadFlaw::FieldsBeyondMax => write!(f, "more than {HEAD_FIELDS_MAX} fields"),
            HeadFlaw::TooLong => write!(f, "head over {HEAD_LEN_MAX} bytes"),
            HeadFlaw::Incomplete => f.write_str("incomplete head"),
            HeadFlaw::DuplicateTransferEncoding => f.write_str("duplicate Transfer-Encoding"),
            HeadFlaw::TransferCoding => f.write_str("Transfer-Encoding other than chunked"),
            HeadFlaw::ConflictingLengths => f.write_str("conflicting Content-Length"),
            HeadFlaw::InvalidLength => f.write_str("invalid Content-Length"),
            HeadFlaw::FieldName => f.write_str("invalid field name"),
            HeadFlaw::FieldValue(Some(name)) => write!(f, "invalid value of {name}"),
            HeadFlaw::FieldValue(None) => f.write_str("invalid field value"),
            HeadFlaw::StatusLine => f.write_str("invalid status line"),
            HeadFlaw::LineEnd => f.write_str("invalid line end"),
            HeadFlaw::UnrequestedUpgrade => f.write_str("101 without an upgrade"),
            HeadFlaw::Interims => f.write_str("too many interim responses"),
            HeadFlaw::Http2(Some(reason)) => write!(f, "HTTP/2: {}", reason.description()),
            HeadFlaw::Http2(None) => f.write_str("invalid HTTP/2"),
            HeadFlaw::Other => f.write_str("invalid head"),
        }
    }
}

impl HeadFlaw {
    /// The flaw for which the parser refuses a head, of which these bytes were read.
    pub fn of_refused(cause: httparse::Error, head: &[u8]) -> Self {
        match cause {
            httparse::Error::TooManyHeaders => match fields(head) {
                (count, true) if count > HEAD_FIELDS_MAX => HeadFlaw::Fields(count),
                _ => HeadFlaw::FieldsBeyondMax,
            },
            httparse::Error::HeaderName => HeadFlaw::FieldName,
            httparse::Error::HeaderValue => HeadFlaw::FieldValue(field_with_invalid_value(head)),
            httparse::Error::NewLine => HeadFlaw::LineEnd,
            httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => HeadFlaw::StatusLine,
        }
    }
}

/// The lines of a head after the first, without their ends, the empty one included.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|byte| *byte == b'\n').skip(1).map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

/// How many fields there are, and whether these are all.
fn fields(head: &[u8]) -> (usize, bool) {
    let count = lines(head).take_while(|line| !line.is_empty()).count();
    // What follows the last line end is no line yet, unless nothing does.
    let is_whole = memchr::memmem::find(head, b"\n\r\n").or(memchr::memmem::find(head, b"\n\n")).is_some();
    (count, is_whole)
}

fn field_with_invalid_value(head: &[u8]) -> Option<Box<str>> {
    let is_invalid = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let named = lines(head).take_while(|line| !line.is_empty()).find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        (is_token(name) && value.iter().any(is_invalid)).then_some(name)
    })?;
    let name = named.get(..NAME_LEN_MAX).unwrap_or(named);
    Some(String::from_utf8_lossy(name).into())
}
