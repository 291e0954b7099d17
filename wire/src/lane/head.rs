//! Reads one whole request head, under one deadline and one byte cap.
//!
//! Pingora restarts its 60 s at every read and buffers up to 1 MiB of head per connection; here a
//! head has one deadline from its first byte (the first one of a connection from the accept), and
//! nothing partial leaves. The head's end is found with the same parser that Pingora uses, so the
//! two cannot disagree about where a request begins. It is stricter where a request could be framed
//! in two ways: such a head is refused here, before anything routes or forwards it (RFC 9112,
//! section 6.3 and 11.2).

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::pin;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use crossgate_message::fields::RequestField;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::authority::{RawTargetAuthority, raw_target_authority};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::exchange::chunked::ChunkedDecoder;
use crate::exchange::timer::{StopSignal, Timer};
use crate::exchange::{BodyFraming, FIELDS_MAX, HeadLimits};
use crate::refusal::{FRAMING, HOST, HeadRefusal, MALFORMED, METHOD, TIMEOUT, TOO_LARGE};
use crossgate_message::content_length;
use crossgate_message::fields::{HeaderFields, KnownHeaders};
use crossgate_message::health_path::HealthPath;
use crossgate_message::hop_by_hop;

const READ_CHUNK: usize = 4096;
/// A whole head, still in the buffer it was read into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes, the empty line included.
    pub len: usize,
    /// What follows it.
    pub framing: BodyFraming,
    /// Whether its target is in origin form, and of the characters of RFC 3986 alone.
    pub has_plain_target: bool,
    /// Whether it is a health check of the listener.
    pub is_health_check: bool,
}

/// Why no head came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// The client closed the connection, or it failed.
    Closed,
    /// Nothing came, on a connection that was waiting for its first request or for its next one.
    Idle,
    /// The gateway is shutting down, and nothing had come.
    Shutdown,
    /// What came is answered with this status, and the connection closed.
    Refused(HeadRefusal),
}

/// Which head of its connection is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The first: its deadline runs from the accept.
    First,
    /// A later one: idle time first, then its deadline.
    Next,
}

/// The wait for one head.
#[derive(Debug)]
pub struct Wait {
    turn: Turn,
    deadline: Option<Instant>,
    /// Kept from the first wait on, so that empty lines do not buy time.
    idle_until: Option<Instant>,
    searched: usize,
}

impl Wait {
    /// Of a head of which nothing has been looked at.
    pub fn new(turn: Turn) -> Self {
        Wait { turn, deadline: None, idle_until: None, searched: 0 }
    }

    /// Whether `ahead` begins with a whole head, or with something that cannot become one; it is to
    /// be parsed then. Empty lines before it are dropped.
    pub fn is_over(&mut self, ahead: &mut BytesMut, limits: &HeadLimits) -> bool {
        // Nothing has been searched yet where there are any.
        skip_empty_lines(ahead);
        is_whole(ahead, &mut self.searched, limits)
    }

    /// Waits for more of it.
    ///
    /// # Errors
    /// [`NoHead`] where no more comes, or not in time.
    pub async fn more(
        &mut self,
        io: &mut Stream,
        ahead: &mut BytesMut,
        limits: &HeadLimits,
        timer: &mut Timer,
        stop: &mut StopSignal,
    ) -> Result<(), NoHead> {
        let is_idle = ahead.is_empty();
        let until = self.until(is_idle, limits, Instant::now);
        ahead.reserve(READ_CHUNK);
        let mut read = pin!(io.read_buf(ahead));
        let read = poll_fn(|cx| {
            if let Poll::Ready(read) = read.as_mut().poll(cx) {
                return Poll::Ready(Ok(read.unwrap_or(0)));
            }
            if is_idle && stop.poll_last_chance(cx).is_ready() {
                return Poll::Ready(Err(NoHead::Shutdown));
            }
            timer.poll_until(cx, until).map(|()| Err(if is_idle { NoHead::Idle } else { NoHead::Refused(TIMEOUT) }))
        });
        match read.await? {
            0 => Err(NoHead::Closed),
            _ => Ok(()),
        }
    }

    /// When it has to be there; or, while nothing of a later head has come, when the wait for its
    /// first byte is over.
    fn until(&mut self, is_idle: bool, limits: &HeadLimits, now: impl Fn() -> Instant) -> Instant {
        if self.deadline.is_none() && (self.turn == Turn::First || !is_idle) {
            self.deadline = Some(now() + limits.time);
        }
        self.deadline.unwrap_or_else(|| *self.idle_until.get_or_insert_with(|| now() + limits.idle))
    }
}

/// Reads until `ahead` begins with the first head of its connection, whole.
///
/// # Errors
/// [`NoHead`] if no head arrives.
pub async fn read(
    io: &mut Stream,
    ahead: &mut BytesMut,
    limits: &HeadLimits,
    stop: &mut StopSignal,
) -> Result<Head, NoHead> {
    let mut wait = Wait::new(Turn::First);
    let mut timer = Timer::default();
    while !wait.is_over(ahead, limits) {
        wait.more(io, ahead, limits, &mut timer, stop).await?;
    }
    parse(ahead, limits).map_err(NoHead::Refused)
}

/// RFC 9112, section 2.2: empty lines before a request line are ignored.
fn skip_empty_lines(ahead: &mut BytesMut) {
    let skip = ahead.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    ahead.advance(skip);
}

/// Whether the head at the beginning of `ahead` is whole, too large or clearly not HTTP. Only bytes
/// after `searched` are looked at, so that a head that comes byte by byte is not read again and
/// again.
fn is_whole(ahead: &[u8], searched: &mut usize, limits: &HeadLimits) -> bool {
    let from = searched.saturating_sub(2);
    *searched = ahead.len();
    // A TLS handshake or other binary on a plaintext port need not wait for its deadline.
    let is_odd = ahead.first().is_some_and(|byte| !byte.is_ascii_graphic());
    // Nearly every read brings one head and nothing else.
    is_odd
        || ahead.len() > limits.bytes
        || ahead.ends_with(b"\r\n\r\n")
        || ends_head(ahead.get(from..).unwrap_or_default())
}

/// Whether an empty line is in these bytes, ended by CRLF or, as the parser has it, by LF alone.
fn ends_head(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let rest = bytes.get(at + 1..).unwrap_or_default();
        rest.starts_with(b"\n") || rest.starts_with(b"\r\n")
    })
}

/// Checks a head that is whole.
///
/// # Errors
/// The refusal, if it is not served.
pub fn parse(ahead: &[u8], limits: &HeadLimits) -> Result<Head, HeadRefusal> {
    parse_then(ahead, limits, |head, _, _| head)
}

/// Checks a head that is whole, and shows it to `then` as it was parsed.
///
/// # Errors
/// The refusal, if it is not served.
pub fn parse_then<R>(
    ahead: &[u8],
    limits: &HeadLimits,
    then: impl FnOnce(Head, &httparse::Request<'_, '_>, &KnownHeaders<'_>) -> R,
) -> Result<R, HeadRefusal> {
    parse_with(ahead, limits, None, then)
}

/// Does the same on a listener that answers health checks at this path.
///
/// # Errors
/// The refusal, if the request is not served.
pub fn parse_with<R>(
    ahead: &[u8],
    limits: &HeadLimits,
    health_path: Option<&HealthPath>,
    then: impl FnOnce(Head, &httparse::Request<'_, '_>, &KnownHeaders<'_>) -> R,
) -> Result<R, HeadRefusal> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let slots = fields.get_mut(..limits.fields.min(FIELDS_MAX)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(ahead, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if ahead.len() > limits.bytes => return Err(TOO_LARGE),
        Ok(httparse::Status::Partial) => return Err(MALFORMED),
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(MALFORMED),
    };
    let long = |field: &httparse::Header<'_>| field.name.len() + field.value.len() > limits.field_bytes;
    if len > limits.bytes || request.headers.iter().any(long) {
        return Err(TOO_LARGE);
    }
    check_method(request.method.unwrap_or_default())?;
    let noted = KnownHeaders::of(HeaderFields::Lines(request.headers));
    let target = request.path.unwrap_or_default();
    let method = request.method.unwrap_or_default();
    let is_health_check = health_path.is_some_and(|path| path.is_health_check(method.as_bytes(), target.as_bytes()));
    if !(is_health_check && may_lack_host(&request, &noted)) {
        check_host(target, &noted)?;
    }
    let has_plain_target = check_target(target.as_bytes())?;
    let framing = framing(&request, &noted)?;
    Ok(then(Head { len, framing, has_plain_target, is_health_check }, &request, &noted))
}

/// HTTP/1.0 has no Host field, and balancers that check over it send none. Without a tenant to look
/// up nothing is missing then.
fn may_lack_host(request: &httparse::Request<'_, '_>, noted: &KnownHeaders<'_>) -> bool {
    let is_origin_form = request.path.is_some_and(|target| target.starts_with('/'));
    request.version == Some(0) && noted.host == RequestField::Absent && is_origin_form
}

fn check_method(method: &str) -> Result<(), HeadRefusal> {
    match method {
        "TRACE" | "CONNECT" => Err(METHOD),
        _ => Ok(()),
    }
}

/// RFC 9112, sections 3.2 and 3.2.2, stricter: HTTP/1.0 needs a Host too, and an absolute-form
/// target has to name the same authority, since a tenant is found by it.
fn check_host(target: &str, noted: &KnownHeaders<'_>) -> Result<(), HeadRefusal> {
    let RequestField::One(host) = noted.host else { return Err(HOST) };
    // Userinfo has no place there, RFC 9110, section 4.2.4.
    if host.contains(&b'@') {
        return Err(HOST);
    }
    // Pingora would drop a fragment without a word.
    if target.contains('#') {
        return Err(MALFORMED);
    }
    if target.starts_with('/') || target == "*" {
        return Ok(());
    }
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    let authority = rest.ok_or(MALFORMED)?.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.as_bytes() == host { Ok(()) } else { Err(HOST) }
}

/// Whether a target is plain. What Pingora would refuse, with a bare 400 and before any hook, is
/// refused here.
fn check_target(target: &[u8]) -> Result<bool, HeadRefusal> {
    let is_plain = is_plain_target(target);
    let is_ambiguous = || matches!(raw_target_authority(target), RawTargetAuthority::AmbiguousAuthority);
    if !is_plain && (is_ambiguous() || RequestHeader::build_no_case("GET", target, None).is_err()) {
        return Err(MALFORMED);
    }
    Ok(is_plain)
}

/// Whether a target is in origin form, and of the characters of RFC 3986 alone.
pub(super) fn is_plain_target(target: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(byte);
    target.first() == Some(&b'/') && target.iter().all(is_plain)
}

/// RFC 9112, section 6.3, with everything ambiguous refused.
fn framing(request: &httparse::Request<'_, '_>, noted: &KnownHeaders<'_>) -> Result<BodyFraming, HeadRefusal> {
    let framing = match (noted.transfer_encoding, noted.content_length) {
        (RequestField::Absent, RequestField::Absent) => BodyFraming::Length(0),
        (RequestField::Absent, RequestField::One(length)) => BodyFraming::Length(length_of(length)?),
        (RequestField::One(coding), RequestField::Absent)
            if request.version == Some(1) && coding.eq_ignore_ascii_case(b"chunked") =>
        {
            BodyFraming::Chunked(ChunkedDecoder::new())
        }
        _ => return Err(FRAMING),
    };
    // The one upgrade that is passed on: what follows its head may be the other protocol.
    let is_upgrade =
        noted.upgrade != RequestField::Absent && hop_by_hop::requests_websocket(HeaderFields::Lines(request.headers));
    match framing {
        _ if !is_upgrade => Ok(framing),
        BodyFraming::Length(0) => Ok(BodyFraming::Upgrade),
        BodyFraming::Length(_) | BodyFraming::Chunked(_) | BodyFraming::Upgrade => Err(FRAMING),
    }
}

/// The length that a `Content-Length` states.
///
/// # Errors
/// The refusal of an invalid one.
pub fn length_of(value: &[u8]) -> Result<u64, HeadRefusal> {
    content_length::parse(value).ok_or(FRAMING)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        time: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        bytes: 1024,
        field_bytes: 256,
        fields: 8,
    };

    fn check(head: &str, expected: Result<BodyFraming, StatusCode>) {
        assert!(is_whole(head.as_bytes(), &mut 0, &LIMITS), "{head:?}");
        let found = parse(head.as_bytes(), &LIMITS).map(|head| head.framing).map_err(|refusal| refusal.status);
        assert_eq!(found, expected, "{head:?}");
    }

    /// Asked after so many seconds, and whether nothing had come: until which second is waited.
    fn check_waits(turn: Turn, waits: &[(u64, bool, u64)]) {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut wait = Wait::new(turn);
        for (asked, is_idle, expected) in waits {
            let until = wait.until(*is_idle, &LIMITS, || after(*asked));
            assert_eq!(until - start, Duration::from_secs(*expected), "{turn:?} {asked}");
        }
    }

    #[test]
    fn a_head_has_one_deadline_and_a_later_one_has_idle_time_before() {
        check_waits(Turn::First, &[(0, true, 10), (3, true, 10), (7, false, 10), (9, false, 10)]);
        check_waits(Turn::First, &[(1, false, 11), (2, true, 11)]);
        check_waits(Turn::Next, &[(1, false, 11), (5, false, 11)]);
        // Empty lines, which are dropped, buy no time.
        check_waits(Turn::Next, &[(0, true, 75), (70, true, 75), (71, false, 81), (75, false, 81), (80, true, 81)]);
    }

    #[test]
    fn framing_is_found_or_refused() {
        let bad = Err(StatusCode::BAD_REQUEST);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(BodyFraming::Length(0)));
        check("GET / HTTP/1.1\nHost: a\n\n", Ok(BodyFraming::Length(0)));
        check("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", Ok(BodyFraming::Length(12)));
        check("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Ok(BodyFraming::Length(0)));
        check(
            "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Ok(BodyFraming::Chunked(ChunkedDecoder::new())),
        );
        check("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, WebSocket\r\n\r\n", Ok(BodyFraming::Upgrade));
        check("PUT / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n", Ok(BodyFraming::Length(3)));
        check("PUT / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n", bad);
        let longest = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", content_length::MAX);
        check(&longest, Ok(BodyFraming::Length(content_length::MAX)));
        let too_long = ["9223372036854775808", "18446744073709551615", "18446744073709551616", "99999999999999999999"];
        for length in ["+1", "-1", "010", "00", "0x10", "1_0", "", "1 1", "1,1"].into_iter().chain(too_long) {
            check(&format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"), bad);
        }
        for coding in ["xchunked", "gzip, chunked", "identity", ",chunked", "chunked\r\nTransfer-Encoding: chunked"] {
            check(&format!("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n"), bad);
        }
        check("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", bad);
        check("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", bad);
        check("PUT / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", bad);
    }

    #[test]
    fn host_is_there_once_and_agrees() {
        let bad = Err(StatusCode::BAD_REQUEST);
        check("GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", Ok(BodyFraming::Length(0)));
        check("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        check("GET ftp://a/x HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        check("GET http://u@a/x HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        check("GET a HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", bad);
        check("GET / HTTP/1.0\r\n\r\n", bad);
        check("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Err(StatusCode::METHOD_NOT_ALLOWED));
        check("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", Err(StatusCode::METHOD_NOT_ALLOWED));
    }

    #[test]
    fn d5_a_health_check_over_http_1_0_needs_no_host() {
        let path = HealthPath::parse("/health").unwrap();
        let parsed = |head: &str| {
            parse_with(head.as_bytes(), &LIMITS, Some(&path), |head, _, _| head.is_health_check)
                .map_err(|refusal| refusal.status)
        };
        let bad = Err(StatusCode::BAD_REQUEST);
        for (head, expected) in [
            ("GET /health HTTP/1.0\r\n\r\n", Ok(true)),
            ("HEAD /health?x HTTP/1.0\r\n\r\n", Ok(true)),
            ("GET /health HTTP/1.0\r\nHost: a\r\n\r\n", Ok(true)),
            ("GET /health HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n", Ok(true)),
            ("GET /health HTTP/1.1\r\nHost:\r\n\r\n", Ok(true)),
            ("GET /other HTTP/1.1\r\nHost: a\r\n\r\n", Ok(false)),
            ("POST /health HTTP/1.1\r\nHost: a\r\n\r\n", Ok(false)),
            ("GET /other HTTP/1.0\r\n\r\n", bad),
            ("POST /health HTTP/1.0\r\n\r\n", bad),
            ("GET http://a/health HTTP/1.0\r\n\r\n", bad),
            ("GET /health HTTP/1.1\r\n\r\n", bad),
            ("GET /health HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", bad),
            ("GET /health HTTP/1.1\r\nHost: u@a\r\n\r\n", bad),
            ("GET http://b/health HTTP/1.1\r\nHost: a\r\n\r\n", bad),
            ("GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", bad),
            ("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", bad),
        ] {
            assert_eq!(parsed(head), expected, "{head:?}");
        }
    }

    #[test]
    fn odd_heads_are_refused() {
        let bad = Err(StatusCode::BAD_REQUEST);
        let large = Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        check("\u{16}\u{3}\u{1}", bad);
        check("PRI * HTTP/2.0\r\n\r\n", bad);
        check("GET /\r\n\r\n", bad);
        check("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        for target in ["/<", "/`", "/>x", "/\u{7f}", "/?<", "http://a/<", "http://a\\@b/"] {
            check(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), bad);
        }
        for target in ["/?{}", "/{a}", "/\"", "/a|b", "/[1]", "/^", "*", "http://a/x?y"] {
            check(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyFraming::Length(0)));
        }
        check("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\nHost : a\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", bad);
        check("GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n", bad);
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(8)), large);
        check(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "1".repeat(256)), large);
        check(&format!("GET /{}", "1".repeat(1024)), large);
    }

    #[test]
    fn each_limit_is_sharp() {
        let field = |len: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "1".repeat(len - 1));
        check(&field(256), Ok(BodyFraming::Length(0)));
        check(&field(257), Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        let whole = |len: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\n";
            let lines = "X: 345678\r\n".repeat(2);
            format!("{start}{lines}Y: {}\r\n\r\n", "1".repeat(len - start.len() - lines.len() - 7))
        };
        let limits = HeadLimits { bytes: 128, ..LIMITS };
        let status =
            |head: &str| parse(head.as_bytes(), &limits).map(|head| head.len).map_err(|refusal| refusal.status);
        let too_large = Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert_eq!((status(&whole(128)), status(&whole(129))), (Ok(128), too_large));
        // An incomplete head is waited for until it is too large. As it is, it is malformed.
        let part = |len: usize| whole(200).split_at(len).0.to_owned();
        assert!(!is_whole(part(128).as_bytes(), &mut 0, &limits) && is_whole(part(129).as_bytes(), &mut 0, &limits));
        assert_eq!(status(&part(128)), Err(StatusCode::BAD_REQUEST));
        assert_eq!(status(&part(129)), too_large);
    }

    #[test]
    fn empty_lines_before_a_head_are_dropped_however_they_come() {
        for pieces in [
            &["\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"][..],
            &["\r", "\n\r\n", "\nGET / HTTP/1.1\r\n", "Host: a\r\n\r", "\n"],
        ] {
            let (mut wait, mut ahead) = (Wait::new(Turn::First), BytesMut::new());
            let found = pieces.iter().position(|piece| {
                ahead.extend_from_slice(piece.as_bytes());
                wait.is_over(&mut ahead, &LIMITS)
            });
            assert_eq!((found, &ahead[..]), (Some(pieces.len() - 1), &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..]));
        }
    }

    #[test]
    fn a_head_in_pieces_is_found_wherever_it_is_cut() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 1..whole.len() - 4 {
            let mut searched = 0;
            assert!(!is_whole(&whole[..cut], &mut searched, &LIMITS), "cut at {cut}");
            assert!(is_whole(whole, &mut searched, &LIMITS), "cut at {cut}");
            let head = parse(whole, &LIMITS).expect("valid");
            assert_eq!(head.len, whole.len() - 4, "cut at {cut}");
        }
    }
}
