//! The first bytes of a client: a request head and the bytes after it.

use std::time::Duration;

use bytes::BytesMut;
use crossgate_wire::exchange::BodyFraming;
use crossgate_wire::exchange::{FIELDS_MAX, HeadLimits};
use crossgate_wire::lane::head::{Head, Turn, Wait, parse_then};
use crossgate_wire::refusal::HeadRefusal;

/// The default limits, with fewer bytes.
const LIMITS: HeadLimits = HeadLimits {
    time: Duration::from_secs(10),
    idle: Duration::from_secs(75),
    bytes: 2048,
    field_bytes: 512,
    fields: 32,
};

/// The result of a parser.
#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    len: usize,
    method: String,
    target: String,
    version: u8,
    lines: Vec<(String, Vec<u8>)>,
}

/// Pingora's parser reads every head that the lane accepts in the same way, and the framing follows
/// docs/design/lane.md.
///
/// # Panics
/// If this does not hold.
pub fn head(bytes: &[u8]) {
    let Some(ahead) = whole(bytes) else { return };
    let theirs = as_pingora(&ahead);
    let ours = parse_then(&ahead, &LIMITS, |head, request, _| (head, parsed(head.len, request)));
    match ours {
        Ok((head, parsed)) => {
            assert_eq!(theirs.as_ref(), Some(&parsed));
            // The lane forwards only the head to Pingora.
            assert_eq!(as_pingora(ahead.get(..head.len).unwrap_or_default()).as_ref(), Some(&parsed));
            check_limits(&parsed);
            check_host(&parsed);
            check_framing(&head, &parsed);
        }
        Err(HeadRefusal { status, .. }) => assert!([400, 405, 431].contains(&status.as_u16()), "{status}"),
    }
}

/// The bytes from the beginning of the head, if the head is complete. The result is the same in one
/// piece and in two.
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

/// Parses like `pingora_core::protocols::http::v1::server`.
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

/// Asserts one `Host`, and a target without another authority.
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

/// Asserts one length or one transfer coding, never both, and neither before another protocol.
fn check_framing(head: &Head, parsed: &Parsed) {
    let (codings, lengths) = (parsed.values("transfer-encoding"), parsed.values("content-length"));
    let is_websocket =
        parsed.values("upgrade").concat().to_ascii_lowercase().windows(9).any(|part| part == b"websocket");
    assert!(codings.len() + lengths.len() <= 1);
    let length = lengths.first().map_or(Ok(0), |text| String::from_utf8_lossy(text).parse::<u64>());
    assert!(lengths.iter().all(|text| text.iter().all(u8::is_ascii_digit)));
    match &head.framing {
        BodyFraming::Length(len) => assert!(codings.is_empty() && length.as_ref() == Ok(len)),
        BodyFraming::Chunked(_) => assert!(codings.concat().eq_ignore_ascii_case(b"chunked") && parsed.version == 1),
        BodyFraming::Upgrade => assert!(is_websocket && codings.is_empty() && length == Ok(0)),
    }
}

impl Parsed {
    fn values(&self, name: &str) -> Vec<&[u8]> {
        self.lines.iter().filter(|(one, _)| one == name).map(|(_, value)| value.as_slice()).collect()
    }
}
