//! The head of a response over HTTP/1.1, parsed strictly: RFC 9112, sections 4 to 6.
//!
//! Folded lines and space before a colon are errors, since recipients read them differently. Values
//! keep bytes above ASCII (obs-text). The reason phrase is dropped: section 4 makes it optional,
//! and clients read the status alone.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

use crate::content_length;
use crate::fields::HeaderFields;
use crate::head_flaw::{HEAD_FIELDS_MAX, HEAD_LEN_MAX, HeadFlaw};
use crate::hop_by_hop;

/// Room for the fields that a gateway adds.
const FIELDS_ADDED: usize = 8;

#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    pub fields: HeaderMap,
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

/// Parses the head at the beginning of `bytes`. Returns it with its length, `None` if it is not
/// complete yet.
///
/// # Errors
/// Returns the flaw of a head that is not valid or larger than the limits.
pub fn parse(bytes: &Bytes) -> Result<Option<(ResponseHead, usize)>, HeadFlaw> {
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
    let mut fields = HeaderMap::with_capacity(parsed.headers.len() + FIELDS_ADDED);
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| HeadFlaw::FieldName)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value));
        fields.append(name, value.map_err(|_| HeadFlaw::FieldValue(None))?);
    }
    Ok(Some((ResponseHead { status, version, fields }, len)))
}

impl ResponseHead {
    /// How the body of the response to a request with this method is delimited. Reduces a repeated
    /// `Content-Length` to one value, and removes it next to `Transfer-Encoding`.
    ///
    /// # Errors
    /// Returns the flaw of a head whose recipients could find different ends of the body.
    pub fn delimit(&mut self, request_method: &http::Method) -> Result<BodyDelimiter, HeadFlaw> {
        let has_coding = self.fields.contains_key(header::TRANSFER_ENCODING);
        if has_coding {
            // RFC 9112, section 6.3: the coding has priority.
            self.fields.remove(header::CONTENT_LENGTH);
        }
        let length = self.length()?;
        if let Some(length) = length
            && HeaderFields::from(&self.fields).elements(&header::CONTENT_LENGTH).nth(1).is_some()
        {
            self.fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        if has_coding {
            self.check_coding()?;
        }
        if self.status == StatusCode::RESET_CONTENT {
            // RFC 9110, section 15.3.6: there is no body, and the head says so.
            self.fields.remove(header::TRANSFER_ENCODING);
            self.fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let has_no_body = self.status.is_informational()
            || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
            || request_method == http::Method::HEAD;
        Ok(match length {
            _ if has_no_body => BodyDelimiter::NoBody,
            _ if has_coding => BodyDelimiter::Chunked,
            Some(length) => BodyDelimiter::Length(length),
            None => BodyDelimiter::Close,
        })
    }

    fn check_coding(&self) -> Result<(), HeadFlaw> {
        let mut codings = self.fields.get_all(header::TRANSFER_ENCODING).iter();
        match (codings.next(), codings.next()) {
            (Some(_), Some(_)) => Err(HeadFlaw::DuplicateTransferEncoding),
            // Section 6.1: the framing of an HTTP/1.0 message with a coding is faulty.
            (Some(coding), None)
                if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && self.version == Version::HTTP_11 =>
            {
                Ok(())
            }
            (Some(_), None) => Err(HeadFlaw::TransferCoding),
            (None, _) => Ok(()),
        }
    }

    /// RFC 9110, section 8.6: equal values are one value.
    fn length(&self) -> Result<Option<u64>, HeadFlaw> {
        let name = header::CONTENT_LENGTH;
        let mut values = HeaderFields::from(&self.fields).elements(&name);
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|value| value != first) {
            return Err(HeadFlaw::ConflictingLengths);
        }
        let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
        let length = std::str::from_utf8(first).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
        length.filter(|length| *length <= content_length::MAX).map(Some).ok_or(HeadFlaw::InvalidLength)
    }

    /// Whether the server keeps the connection after the response, RFC 9112, section 9.3.
    pub fn keeps_connection(&self) -> bool {
        // A server that announces a body of a 205 may send one.
        let is_ambiguous = self.status == StatusCode::RESET_CONTENT
            && self.fields.get(header::CONTENT_LENGTH).is_none_or(|len| len != "0");
        !is_ambiguous && hop_by_hop::keeps_connection(self.version, (&self.fields).into())
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn parsed(head: &str) -> Result<Option<(ResponseHead, usize)>, HeadFlaw> {
        parse(&Bytes::copy_from_slice(head.as_bytes()))
    }

    fn head(lines: &str) -> ResponseHead {
        let text = format!("{lines}\r\n");
        let (head, len) = parsed(&text).unwrap().unwrap();
        assert_eq!(len, text.len());
        head
    }

    fn delimited(lines: &str, method: &Method) -> Result<BodyDelimiter, HeadFlaw> {
        head(lines).delimit(method)
    }

    #[test]
    fn a_head_is_found_wherever_it_is_cut() {
        let text = "HTTP/1.1 200 Fine\r\nX-A: \u{e9}\r\nx-a:2\r\n\r\n";
        for cut in 0..text.len() {
            let part = Bytes::copy_from_slice(&text.as_bytes()[..cut]);
            assert!(parse(&part).unwrap().is_none(), "{cut}");
        }
        let (head, len) = parsed(&format!("{text}body")).unwrap().unwrap();
        assert_eq!((head.status, head.version, len), (StatusCode::OK, Version::HTTP_11, text.len()));
        let values: Vec<&[u8]> = head.fields.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, ["\u{e9}".as_bytes(), b"2"]);
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
        let mut repeated = head("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n");
        assert_eq!(repeated.delimit(&Method::GET), Ok(D::Length(5)));
        assert_eq!(repeated.fields.get_all("content-length").iter().collect::<Vec<_>>(), ["5"]);
        let old = format!("HTTP/1.0 200 OK\r\n{chunked}");
        assert_eq!(delimited(&old, &Method::GET), Err(HeadFlaw::TransferCoding));
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
            assert_eq!(head(lines).keeps_connection(), expected, "{lines:?}");
        }
    }
}
