//! What an error of Pingora says about an upstream's response head.
//!
//! What Pingora finds has become text by the time it comes here: of a head that its parser refuses,
//! the text has the bytes. They are looked at once more, to name the field. The error contains
//! nothing else of them.

use pingora::Error;

use crossgate_message::head_flaw::HeadFlaw;

/// What the error says of a head that it is about.
pub(crate) fn flaw_of(error: &Error) -> HeadFlaw {
    let root = error.root_cause();
    if let Some(cause) = root.downcast_ref::<h2::Error>() {
        return HeadFlaw::Http2(cause.reason());
    }
    let is_said = |part: &str| contexts(error).any(|context| context.contains(part));
    match root.downcast_ref::<httparse::Error>() {
        Some(cause) => HeadFlaw::of_refused(*cause, &head_in(error)),
        None if is_said("Response header larger than") => HeadFlaw::TooLong,
        None if is_said("Content-Length") => HeadFlaw::InvalidLength,
        None if is_said("Transfer-Encoding") => HeadFlaw::TransferCoding,
        None => HeadFlaw::Other,
    }
}

/// Whether the connection ended within a head, and not before it.
pub(crate) fn is_incomplete(error: &Error) -> bool {
    const READ: &str = "while reading response headers, bytes already read: ";
    let digits = |context: &str| context.split_once(READ).map(|(_, rest)| !rest.starts_with('0'));
    contexts(error).find_map(digits).unwrap_or(false)
}

/// What the error and those that led to it say.
fn contexts(error: &Error) -> impl Iterator<Item = &str> {
    fn cause(error: &Error) -> Option<&Error> {
        Some(error.cause.as_deref()?.downcast_ref::<Box<Error>>()?)
    }
    std::iter::successors(Some(error), |error| cause(error))
        .filter_map(|error| error.context.as_ref().map(|context| context.as_str()))
}

/// The bytes of the head that was refused, as far as they were read.
fn head_in(error: &Error) -> Vec<u8> {
    let escaped = contexts(error).find_map(|context| context.strip_prefix("buf: ")).unwrap_or_default();
    unescape(escaped.as_bytes())
}

/// Undoes [`slice::escape_ascii`].
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((byte, rest)) = text.split_first() {
        let (byte, rest) = match (byte, rest.split_first()) {
            (b'\\', Some((b'x', rest))) => {
                let (digits, rest) = rest.split_at_checked(2).unwrap_or((rest, b""));
                let digits = std::str::from_utf8(digits).unwrap_or_default();
                (u8::from_str_radix(digits, 16).unwrap_or_default(), rest)
            }
            (b'\\', Some((b'r', rest))) => (b'\r', rest),
            (b'\\', Some((b'n', rest))) => (b'\n', rest),
            (b'\\', Some((b't', rest))) => (b'\t', rest),
            (b'\\', Some((other, rest))) => (*other, rest),
            (byte, _) => (*byte, rest),
        };
        bytes.push(byte);
        text = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use pingora::{ErrorType, OrErr as _};

    use super::*;
    use crossgate_message::head_flaw::HEAD_FIELDS_MAX;

    /// The error of Pingora's client for this head.
    fn refused(head: &[u8]) -> Box<Error> {
        let mut fields = [httparse::EMPTY_HEADER; HEAD_FIELDS_MAX];
        let cause = httparse::Response::new(&mut fields).parse(head).expect_err("an invalid head");
        Error::because(ErrorType::InvalidHTTPHeader, format!("buf: {}", head.escape_ascii()), cause).into_up()
    }

    #[track_caller]
    fn check(head: &str, expected: &str) {
        assert_eq!(flaw_of(&refused(head.as_bytes())).to_string(), expected, "{head:?}");
    }

    #[test]
    fn what_the_parser_refuses_is_named() {
        check("HTTP/1.1 200 OK\r\nX-Good: 1\r\nX-Bad: a\0b\r\n\r\n", "invalid value of X-Bad");
        check(
            &format!("HTTP/1.1 200 OK\r\n{}: \u{1}\r\n\r\n", "n".repeat(70)),
            &format!("invalid value of {}", "n".repeat(64)),
        );
        check("HTTP/1.1 200 OK\r\nX Bad: 1\r\n\r\n", "invalid field name");
        check("HTTP/1.1 2000 OK\r\n\r\n", "invalid status line");
        check("HTTP/3.1 200 OK\r\n\r\n", "invalid status line");
        check("hello\r\n\r\n", "invalid status line");
        let many = |count: usize| format!("HTTP/1.1 200 OK\r\n{}", "x: 1\r\n".repeat(count));
        check(&(many(257) + "\r\nbody: 1\r\n"), "257 fields");
        check(&(many(1_000) + "\r\n"), "1000 fields");
        check(&many(257), "more than 256 fields");
    }

    #[test]
    fn what_pingora_says_is_found_in_any_context() {
        let said = |text: &'static str| Error::explain(ErrorType::InvalidHTTPHeader, text).into_up();
        for (text, expected) in [
            ("Response header larger than 1048575", "head over 65536 bytes"),
            ("invalid Content-Length header", "invalid Content-Length"),
            ("invalid Transfer-Encoding header", "Transfer-Encoding other than chunked"),
            ("something else", "invalid head"),
        ] {
            assert_eq!(flaw_of(&said(text)).to_string(), expected);
            let wrapped: Result<(), _> = Err(said(text));
            let wrapped = wrapped.or_err(ErrorType::InvalidHTTPHeader, "while it was read").unwrap_err();
            assert_eq!(flaw_of(&wrapped).to_string(), expected);
        }
    }

    #[test]
    fn a_head_is_incomplete_once_something_of_it_came() {
        let closed = |read: usize| {
            let text = format!("while reading response headers, bytes already read: {read}");
            Error::explain(ErrorType::ConnectionClosed, text)
        };
        assert!(!is_incomplete(&closed(0)));
        assert!(is_incomplete(&closed(10)));
        assert!(!is_incomplete(&Error::explain(ErrorType::ConnectionClosed, "otherwise")));
    }

    #[test]
    fn unescaping_undoes_what_errors_do_to_bytes() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(all.escape_ascii().to_string().as_bytes()), all);
        assert_eq!(unescape(b"\\x4"), [4]);
    }
}
