//! Preflights that the lane answers by itself: those written as browsers write them.
//!
//! Anything out of the ordinary is served like other requests: another version or target form, a
//! body or the announcement of one, an expectation, an upgrade, a `Connection` that says more than
//! whether to stay, a byte beyond ASCII. So what is decided here is strictly narrower than what a
//! parser takes, and whatever is passed over costs only time. Whether the preflight is allowed is
//! judged as usual, in [`LaneHost::answer`].
//!
//! [`LaneHost::answer`]: super::LaneHost::answer

use crossgate_message::fields::RequestField;

use super::head::Head;
use crate::exchange::{BodyFraming, ConnectionPersistence};
use crossgate_message::fields::KnownHeaders;

/// A preflight as the lane's parser left it.
#[derive(Clone, Copy, Debug)]
pub struct Preflight<'a> {
    /// In origin form.
    pub target: &'a [u8],
    /// All fields, in order.
    pub fields: &'a [httparse::Header<'a>],
    /// Those that are looked at every time.
    pub noted: KnownHeaders<'a>,
    /// What the client wants of the connection.
    pub persistence: ConnectionPersistence,
}

impl<'a> Preflight<'a> {
    /// The request as one, if it is written to the letter. `bytes` is what it was parsed from.
    pub(super) fn of(
        bytes: &[u8],
        head: &Head,
        request: &'a httparse::Request<'_, '_>,
        noted: &KnownHeaders<'a>,
    ) -> Option<Self> {
        let target = request.path?.as_bytes();
        let is_plain = request.method == Some("OPTIONS")
            && request.version == Some(1)
            && head.framing == BodyFraming::Length(0)
            && head.has_plain_target
            && bytes.is_ascii();
        if !is_plain || !noted.is_plain_preflight() {
            return None;
        }
        let persistence = match noted.connection {
            RequestField::Absent => ConnectionPersistence::KeepAlive,
            RequestField::One(option) => persistence_of(option)?,
            RequestField::Many => return None,
        };
        Some(Preflight { target, fields: request.headers, noted: *noted, persistence })
    }
}

fn persistence_of(connection: &[u8]) -> Option<ConnectionPersistence> {
    match connection {
        token if token.eq_ignore_ascii_case(b"keep-alive") => Some(ConnectionPersistence::KeepAlive),
        token if token.eq_ignore_ascii_case(b"close") => Some(ConnectionPersistence::Close),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::head::is_plain_target;
    use crossgate_message::fields::HeaderFields;

    fn is_preflight(head: &str) -> bool {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut fields);
        assert!(request.parse(head.as_bytes()).expect("valid").is_complete(), "{head:?}");
        let noted = KnownHeaders::of(HeaderFields::Lines(request.headers));
        let has_plain_target = is_plain_target(request.path.expect("a target").as_bytes());
        let parsed =
            Head { len: head.len(), framing: BodyFraming::Length(0), has_plain_target, is_health_check: false };
        Preflight::of(head.as_bytes(), &parsed, &request, &noted).is_some()
    }

    #[test]
    fn what_browsers_send_is_taken_and_its_near_misses_are_not() {
        let whole = "OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: https://b\r\nAccess-Control-Request-Method: PUT\r\n\r\n";
        assert!(is_preflight(whole));
        let with = |field: &str| whole.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"));
        for field in ["Connection: keep-alive", "connection: Close", "X-A:\t b c", "TE: trailers", "Origin: two"] {
            assert!(is_preflight(&with(field)), "{field}");
        }
        for field in [
            "Connection: keep-alive, x",
            "Connection: upgrade",
            "Connection:",
            "Connection: close\r\nConnection: close",
            "Content-Length: 0",
            "Expect: 100-continue",
            "Upgrade: websocket",
            "X-A: \u{e9}",
        ] {
            assert!(!is_preflight(&with(field)), "{field}");
        }
        for (part, other) in [
            ("OPTIONS", "GET"),
            ("HTTP/1.1", "HTTP/1.0"),
            (" /a ", " * "),
            (" /a ", " /<a "),
            (" /a ", " http://a/a "),
            ("Origin", "X-Origin"),
            ("-Method", "-Methods"),
        ] {
            assert!(!is_preflight(&whole.replace(part, other)), "{other}");
        }
    }
}
