//! Preflights that the lane answers by itself: those written as browsers write them.
//!
//! Anything out of the ordinary goes to Pingora, which has answered such requests all along: another version or target form, a
//! body or the announcement of one, an expectation, an upgrade, a `Connection` that says more than whether to stay, a byte
//! beyond ASCII. So what is decided here is strictly narrower than what Pingora's parser takes, and whatever is
//! passed over costs only time. Whether the preflight is allowed is judged as ever, behind [`Backstage::answer`].
//!
//! [`Backstage::answer`]: super::Backstage::answer

use std::net::SocketAddr;
use std::sync::Arc;

use crossgate_policy::Field;

use super::conn::Framing;
use crate::fields::Noted;
use crate::tls::Shown;

/// A preflight as the lane's parser left it.
#[derive(Clone, Copy, Debug)]
pub struct Preflight<'a> {
    /// In origin form.
    pub target: &'a [u8],
    /// All fields, in order.
    pub fields: &'a [httparse::Header<'a>],
    /// Those that are looked at every time.
    pub noted: Noted<'a>,
    /// What the client wants of the connection.
    pub persistence: Persistence,
}

/// Whether the client wants to send more requests on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// RFC 9112, section 9.3: it does unless it says otherwise.
    KeepAlive,
    /// It says otherwise.
    Close,
}

/// Who sent it, and through which door.
#[derive(Clone, Debug)]
pub struct Client {
    /// The connection's other end.
    pub address: Option<SocketAddr>,
    /// The index of the listener that accepted it.
    pub listener: usize,
    /// The certificate that it was shown, over TLS.
    pub shown: Option<Arc<Shown>>,
}

impl<'a> Preflight<'a> {
    /// The request as one, if it is written to the letter. `head` is what it was parsed from.
    pub(super) fn of(
        head: &[u8],
        framing: Framing,
        request: &'a httparse::Request<'_, '_>,
        noted: &Noted<'a>,
    ) -> Option<Self> {
        let target = request.path?.as_bytes();
        let is_plain = request.method == Some("OPTIONS")
            && request.version == Some(1)
            && framing == Framing::Length(0)
            && is_plain_target(target)
            && head.is_ascii();
        let asks = noted.origin != Field::Absent && noted.requested_method != Field::Absent;
        let is_odd = noted.content_length != Field::Absent || noted.upgrade != Field::Absent || noted.has_expect;
        if !is_plain || !asks || is_odd {
            return None;
        }
        let persistence = match noted.connection {
            Field::Absent => Persistence::KeepAlive,
            Field::One(option) => persistence_of(option)?,
            Field::Many => return None,
        };
        Some(Preflight { target, fields: request.headers, noted: *noted, persistence })
    }
}

/// Whether a target is in origin form, and of the characters of RFC 3986 alone: Pingora refuses others that the parser lets pass.
fn is_plain_target(target: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(byte);
    target.first() == Some(&b'/') && target.iter().all(is_plain)
}

fn persistence_of(connection: &[u8]) -> Option<Persistence> {
    match connection {
        token if token.eq_ignore_ascii_case(b"keep-alive") => Some(Persistence::KeepAlive),
        token if token.eq_ignore_ascii_case(b"close") => Some(Persistence::Close),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;

    fn is_preflight(head: &str) -> bool {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut fields);
        assert!(request.parse(head.as_bytes()).expect("valid").is_complete(), "{head:?}");
        let noted = Noted::of(Fields::Lines(request.headers));
        Preflight::of(head.as_bytes(), Framing::Length(0), &request, &noted).is_some()
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
