//! The head of a response over HTTP/1.1, parsed strictly: RFC 9112, sections 4 to 6.
//!
//! Folded lines and space before a colon are errors, since recipients read them differently. Values
//! keep bytes above ASCII (obs-text). The reason phrase is dropped: section 4 makes it optional,
//! and clients read the status alone.

use std::mem::MaybeUninit;

use crossgate_policy::EditValue;
use http::{Method, StatusCode, Version, header};

use crate::content_length;
use crate::field_sink::FieldSink;
use crate::fields::{HeaderFields, RequestField, is_named};
use crate::head_flaw::{HEAD_FIELDS_MAX, HEAD_LEN_MAX, HeadFlaw};
use crate::hop_by_hop;

/// A response's head, in the bytes that it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    pub fields: HeaderFields<'a>,
    /// The first `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    pub has_connection: bool,
    pub has_vary: bool,
    pub has_proxy_status: bool,
    has_keep_alive: bool,
    length: RequestField<'a>,
    coding: RequestField<'a>,
}

/// How the body of a response is delimited, RFC 9112, section 6.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyDelimiter {
    /// There is no body, whatever the fields announce.
    NoBody,
    /// This many bytes follow.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// The end of the connection.
    Close,
}

/// What the fields of a response say about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFraming {
    pub delimiter: BodyDelimiter,
    /// The `Content-Length` for the client.
    length: Option<u64>,
}

/// Parses the head at the beginning of `bytes`. Returns what `then` makes of it and its length;
/// `None` if it is not complete yet.
///
/// # Errors
/// Returns the flaw of a head that is not valid or larger than the limits.
pub fn parse<R>(bytes: &[u8], then: impl FnOnce(&ResponseHead<'_>, usize) -> R) -> Result<Option<R>, HeadFlaw> {
    let mut lines = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEAD_FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut lines) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_LEN_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_LEN_MAX => return Ok(None),
        Ok(httparse::Status::Complete(_) | httparse::Status::Partial) => return Err(HeadFlaw::TooLong),
        Err(error) => return Err(HeadFlaw::of_refused(error, bytes)),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(HeadFlaw::StatusLine)?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    Ok(Some(then(&ResponseHead::new(status, version, HeaderFields::Lines(parsed.headers)), len)))
}

impl<'a> ResponseHead<'a> {
    fn new(status: StatusCode, version: Version, fields: HeaderFields<'a>) -> Self {
        let mut head = ResponseHead {
            status,
            version,
            fields,
            content_type: None,
            has_connection: false,
            has_vary: false,
            has_proxy_status: false,
            has_keep_alive: false,
            length: RequestField::Absent,
            coding: RequestField::Absent,
        };
        fields.for_each(|line| head.note(line.name(), line.value()));
        head
    }

    fn note(&mut self, name: &[u8], value: &'a [u8]) {
        let is = |other: &str| is_named(name, other);
        match name.len() {
            4 => self.has_vary |= is("vary"),
            10 => {
                self.has_connection |= is("connection");
                self.has_keep_alive |= is("keep-alive");
            }
            12 if is("content-type") => drop(self.content_type.get_or_insert(value)),
            12 => self.has_proxy_status |= is("proxy-status"),
            14 if is("content-length") => self.length = self.length.with_line(value),
            17 if is("transfer-encoding") => self.coding = self.coding.with_line(value),
            _ => {}
        }
    }

    /// How the body of the response to a request with this method is delimited. A repeated
    /// `Content-Length` with one value counts once, and not at all next to `Transfer-Encoding`.
    ///
    /// # Errors
    /// Returns the flaw of a head whose recipients could find different ends of the body.
    pub fn framing(&self, request_method: &Method) -> Result<ResponseFraming, HeadFlaw> {
        // RFC 9112, section 6.3: the coding has priority.
        let has_coding = self.has_coding()?;
        let length = if has_coding { None } else { self.length()? };
        let has_no_body = self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
            || request_method == Method::HEAD;
        let delimiter = match length {
            _ if has_no_body => BodyDelimiter::NoBody,
            _ if has_coding => BodyDelimiter::Chunked,
            Some(length) => BodyDelimiter::Length(length),
            None => BodyDelimiter::Close,
        };
        let length = match self.status {
            // RFC 9110, section 8.6: 1xx and 204 have none.
            status if status.is_informational() || status == StatusCode::NO_CONTENT => None,
            // RFC 9110, section 15.3.6: there is no body, and the head says so.
            StatusCode::RESET_CONTENT => Some(0),
            _ => length,
        };
        Ok(ResponseFraming { delimiter, length })
    }

    fn has_coding(&self) -> Result<bool, HeadFlaw> {
        match self.coding {
            RequestField::Absent => Ok(false),
            RequestField::Many => Err(HeadFlaw::DuplicateTransferEncoding),
            // Section 6.1: the framing of an HTTP/1.0 message with a coding is faulty.
            RequestField::One(coding)
                if coding.eq_ignore_ascii_case(b"chunked") && self.version == Version::HTTP_11 =>
            {
                Ok(true)
            }
            RequestField::One(_) => Err(HeadFlaw::TransferCoding),
        }
    }

    /// RFC 9110, section 8.6: equal values are one value.
    fn length(&self) -> Result<Option<u64>, HeadFlaw> {
        match self.length {
            RequestField::Absent => Ok(None),
            RequestField::One(length) if !length.contains(&b',') => number(length).map(Some),
            RequestField::One(_) | RequestField::Many => {
                let mut values = self.fields.elements(&header::CONTENT_LENGTH);
                let first = values.next().unwrap_or_default();
                if values.any(|value| value != first) {
                    return Err(HeadFlaw::ConflictingLengths);
                }
                number(first).map(Some)
            }
        }
    }

    /// Whether the server keeps the connection after the response, RFC 9112, section 9.3.
    pub fn keeps_connection(&self) -> bool {
        // A server that announces a body of a 205 may send one.
        let is_ambiguous = self.status == StatusCode::RESET_CONTENT && self.length != RequestField::One(b"0");
        match (is_ambiguous, self.has_connection) {
            (true, _) => false,
            (false, false) => self.version != Version::HTTP_10,
            (false, true) => hop_by_hop::keeps_connection(self.version, self.fields),
        }
    }

    /// How long the server keeps the connection when it is idle, if it says so.
    pub fn keep_alive_seconds(&self) -> Option<u64> {
        if self.has_keep_alive { hop_by_hop::keep_alive_seconds(self.fields) } else { None }
    }
}

fn number(value: &[u8]) -> Result<u64, HeadFlaw> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    length.filter(|length| *length <= content_length::MAX).ok_or(HeadFlaw::InvalidLength)
}

impl ResponseFraming {
    /// Writes the `Content-Length` for the client, if there is one.
    pub fn write_length(&self, sink: &mut impl FieldSink) {
        if let Some(length) = self.length {
            let mut digits = itoa::Buffer::new();
            sink.own(&header::CONTENT_LENGTH, EditValue::Request(digits.format(length).as_bytes()));
        }
    }
}

/// Whether the gateway frames the body of a response by this field itself. The name may be in any
/// case.
pub fn is_framing_field(name: &[u8]) -> bool {
    let is = |other: &str| is_named(name, other);
    match name.len() {
        14 => is("content-length"),
        17 => is("transfer-encoding"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn parsed(head: &str) -> Result<Option<usize>, HeadFlaw> {
        parse(head.as_bytes(), |_, len| len)
    }

    /// Parses a head of these lines.
    fn with_head<R>(lines: &str, then: impl FnOnce(&ResponseHead<'_>) -> R) -> R {
        let text = format!("{lines}\r\n");
        let of_whole = |head: &ResponseHead<'_>, len| {
            assert_eq!(len, text.len());
            then(head)
        };
        parse(text.as_bytes(), of_whole).unwrap().unwrap()
    }

    fn delimited(lines: &str, method: &Method) -> Result<BodyDelimiter, HeadFlaw> {
        with_head(lines, |head| head.framing(method).map(|framing| framing.delimiter))
    }

    #[test]
    fn a_head_is_found_wherever_it_is_cut() {
        let text = "HTTP/1.1 200 Fine\r\nX-A: \u{e9}\r\nx-a:2\r\n\r\n";
        for cut in 0..text.len() {
            assert!(parse(&text.as_bytes()[..cut], |_, _| ()).unwrap().is_none(), "{cut}");
        }
        let found = parse(format!("{text}body").as_bytes(), |head, len| {
            let values: Vec<&[u8]> = head.fields.lines(&"x-a".parse().unwrap()).collect();
            assert_eq!(values, ["\u{e9}".as_bytes(), b"2"]);
            (head.status, head.version, len)
        });
        assert_eq!(found, Ok(Some((StatusCode::OK, Version::HTTP_11, text.len()))));
    }

    #[test]
    fn a_head_that_recipients_read_differently_is_refused() {
        for (lines, flaw) in [
            ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n", HeadFlaw::FieldName),
            ("HTTP/1.1 200 OK\r\nX : a\r\n", HeadFlaw::FieldName),
            ("HTTP/1.1 200 OK\r\nX: a\0b\r\n", HeadFlaw::FieldValue(Some("X".into()))),
            ("HTTP/1.1 200 OK\r\nX: a\rb\r\n", HeadFlaw::FieldValue(Some("X".into()))),
            ("HTTP/1.1 2000 OK\r\n", HeadFlaw::StatusLine),
            ("HTTP/1.1 099 OK\r\n", HeadFlaw::StatusLine),
            ("HTTP/2 200\r\n", HeadFlaw::StatusLine),
            ("hello\r\n", HeadFlaw::StatusLine),
        ] {
            assert_eq!(parsed(&format!("{lines}\r\n")).unwrap_err(), flaw, "{lines:?}");
        }
        let many = |count: usize| parsed(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(count)));
        assert!(many(HEAD_FIELDS_MAX).unwrap().is_some());
        assert_eq!(many(HEAD_FIELDS_MAX + 1).unwrap_err(), HeadFlaw::Fields(HEAD_FIELDS_MAX + 1));
        let long = |len: usize| format!("HTTP/1.1 200 OK\r\nX: {}", "v".repeat(len - 20));
        assert!(parsed(&long(HEAD_LEN_MAX)).unwrap().is_none());
        assert_eq!(parsed(&long(HEAD_LEN_MAX + 1)).unwrap_err(), HeadFlaw::TooLong);
        assert_eq!(parsed(&format!("{}\r\n\r\n", long(HEAD_LEN_MAX))).unwrap_err(), HeadFlaw::TooLong);
    }

    #[test]
    fn bodies_are_delimited_as_the_rfc_says() {
        use BodyDelimiter as D;
        let chunked = "Transfer-Encoding: Chunked\r\n";
        for (lines, method, expected) in [
            ("HTTP/1.1 200 OK\r\n", Method::GET, Ok(D::Close)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Method::GET, Ok(D::Length(5))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n", Method::GET, Ok(D::Length(5))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Method::HEAD, Ok(D::NoBody)),
            ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n", Method::GET, Ok(D::NoBody)),
            ("HTTP/1.1 205 No\r\nContent-Length: 5\r\n", Method::GET, Ok(D::NoBody)),
            ("HTTP/1.1 304 No\r\nContent-Length: 5\r\n", Method::GET, Ok(D::NoBody)),
            ("HTTP/1.1 103 No\r\n", Method::GET, Ok(D::NoBody)),
            ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n", Method::GET, Err(HeadFlaw::InvalidLength)),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n", Method::GET, Err(HeadFlaw::InvalidLength)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n", Method::GET, Err(HeadFlaw::InvalidLength)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n", Method::HEAD, Err(HeadFlaw::ConflictingLengths)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", Method::GET, Err(HeadFlaw::TransferCoding)),
        ] {
            assert_eq!(delimited(lines, &method), expected, "{lines:?}");
        }
        let with_both = format!("HTTP/1.1 200 OK\r\nContent-Length: x\r\n{chunked}");
        assert_eq!(delimited(&with_both, &Method::GET), Ok(D::Chunked));
        let twice = format!("HTTP/1.1 200 OK\r\n{chunked}{chunked}");
        assert_eq!(delimited(&twice, &Method::GET), Err(HeadFlaw::DuplicateTransferEncoding));
        let old = format!("HTTP/1.0 200 OK\r\n{chunked}");
        assert_eq!(delimited(&old, &Method::GET), Err(HeadFlaw::TransferCoding));
    }

    #[test]
    fn the_client_gets_one_length_where_there_is_a_body() {
        for (lines, method, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n", Method::GET, Some("5")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 005\r\n", Method::HEAD, Some("5")),
            ("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n", Method::GET, Some("5")),
            ("HTTP/1.1 204 None\r\nContent-Length: 0\r\n", Method::GET, None),
            ("HTTP/1.1 103 Early\r\nContent-Length: 0\r\n", Method::GET, None),
            ("HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n", Method::GET, Some("0")),
            ("HTTP/1.1 205 Reset\r\nTransfer-Encoding: chunked\r\n", Method::GET, Some("0")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", Method::GET, None),
            ("HTTP/1.1 200 OK\r\n", Method::GET, None),
        ] {
            let mut sent = HeaderMap::new();
            with_head(lines, |head| head.framing(&method)).unwrap().write_length(&mut sent);
            let sent = sent.get("content-length").map(|value| value.to_str().unwrap());
            assert_eq!(sent, expected, "{lines:?}");
        }
    }

    #[test]
    fn connection_options_are_found_in_any_case_and_line() {
        for (lines, expected) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: a, close\r\n", false),
            ("HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n", true),
            ("HTTP/1.1 205 Reset\r\nContent-Length: 5\r\n", false),
            ("HTTP/1.1 205 Reset\r\nTransfer-Encoding: chunked\r\n", false),
            ("HTTP/1.0 200 OK\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: x, Keep-Alive\r\n", true),
        ] {
            assert_eq!(with_head(lines, |head| head.keeps_connection()), expected, "{lines:?}");
        }
    }
}
