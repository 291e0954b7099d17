//! What a client sends before anything is known of it: a request head, and what follows.

use std::time::Duration;

use bytes::BytesMut;
use crossgate::lane::conn::Framing;
use crossgate::lane::head::{FIELDS_MAX, Head, HeadLimits, Refusal, Turn, Wait, parse_then};

/// The product's, but for fewer bytes.
const LIMITS: HeadLimits = HeadLimits {
    time: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    bytes: 2048,
    field_bytes: 512,
    fields: 32,
};

/// A head as a parser found it.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    len: usize,
    method: String,
    target: String,
    version: u8,
    lines: Vec<(String, Vec<u8>)>,
}

/// What the lane takes, Pingora's parser reads in the same way, and the framing is as ARCHITECTURE.md has it.
///
/// # Panics
/// If not.
pub fn head(bytes: &[u8]) {
    let Some(ahead) = whole(bytes) else { return };
    let theirs = as_pingora(&ahead);
    let ours = parse_then(&ahead, &LIMITS, |head, request, _| (head, parsed(head.len, request)));
    match ours {
        Ok((head, parsed)) => {
            assert_eq!(theirs.as_ref(), Some(&parsed));
            // The lane hands on no more than the head.
            assert_eq!(as_pingora(ahead.get(..head.len).unwrap_or_default()).as_ref(), Some(&parsed));
            check_limits(&parsed);
            check_host(&parsed);
            check_framing(&head, &parsed);
        }
        Err(Refusal { status, .. }) => assert!([400, 405, 431].contains(&status.as_u16()), "{status}"),
    }
}

/// The bytes from where a head begins, if they have a whole one; found alike in one piece and in two.
fn whole(bytes: &[u8]) -> Option<BytesMut> {
    let mut ahead = BytesMut::from(bytes);
    let is_over = Wait::new(Turn::First).is_over(&mut ahead, &LIMITS);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (mut wait, mut pieces) = (Wait::new(Turn::First), BytesMut::from(first));
    let is_over_early = wait.is_over(&mut pieces, &LIMITS);
    pieces.extend_from_slice(second);
    assert_eq!(is_over_early || wait.is_over(&mut pieces, &LIMITS), is_over);
    is_over.then_some(ahead)
}

/// As `pingora_core::protocols::http::v1::server` parses.
fn as_pingora(bytes: &[u8]) -> Option<Parsed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => Some(parsed(len, &request)),
        Ok(httparse::Status::Partial) | Err(_) => None,
    }
}

fn parsed(len: usize, request: &httparse::Request<'_, '_>) -> Parsed {
    Parsed {
        len,
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        version: request.version.unwrap_or_default(),
        lines: request.headers.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect(),
    }
}

fn check_limits(parsed: &Parsed) {
    assert!(parsed.len <= LIMITS.bytes && parsed.lines.len() <= LIMITS.fields);
    assert!(parsed.lines.iter().all(|(name, value)| name.len() + value.len() <= LIMITS.field_bytes));
}

/// One `Host`, and a target that names no other authority.
fn check_host(parsed: &Parsed) {
    assert!(parsed.method != "TRACE" && parsed.method != "CONNECT");
    let hosts = parsed.values("host");
    let [host] = hosts.as_slice() else { panic!("{hosts:?}") };
    assert!(!host.contains(&b'@') && !parsed.target.contains('#'));
    let is_origin_form = parsed.target.starts_with('/') || parsed.target == "*";
    if !is_origin_form {
        let authority =
            parsed.target.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
        assert_eq!(authority.map(str::as_bytes), Some(*host));
    }
}

/// One length or one coding, never both, and neither where another protocol may follow.
fn check_framing(head: &Head, parsed: &Parsed) {
    let (codings, lengths) = (parsed.values("transfer-encoding"), parsed.values("content-length"));
    let is_websocket =
        parsed.values("upgrade").concat().to_ascii_lowercase().windows(9).any(|part| part == b"websocket");
    assert!(codings.len() + lengths.len() <= 1);
    let length = lengths.first().map_or(Ok(0), |text| String::from_utf8_lossy(text).parse::<u64>());
    assert!(lengths.iter().all(|text| text.iter().all(u8::is_ascii_digit)));
    match &head.framing {
        Framing::Length(len) => assert!(codings.is_empty() && length.as_ref() == Ok(len)),
        Framing::Chunked(_) => assert!(codings.concat().eq_ignore_ascii_case(b"chunked") && parsed.version == 1),
        Framing::Upgrade => assert!(is_websocket && codings.is_empty() && length == Ok(0)),
    }
}

impl Parsed {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        self.lines.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_slice()).collect()
    }
}
