//! The gRPC health checking protocol: `grpc.health.v1.Health/Check`, one unary call over HTTP/2.
//!
//! Both messages have one field, so this module encodes and decodes them without a protobuf
//! library. A server passes with the status SERVING only. Messages are not compressed, and requests
//! accept no compression. Absent on purpose: `Watch`, since each check is a new connection.

use bytes::Bytes;
use h2::RecvStream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{FailedProbe, ProbeFailure, http2_failure};

pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";
/// The content type of the request.
pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// The length of a message's prefix: a compression flag, and the length in four bytes (gRPC over
/// HTTP/2, Length-Prefixed-Message).
const PREFIX_LEN: usize = 5;
/// The maximum length of the answer's message. It has one small field; future fields have some
/// room.
const MESSAGE_LEN_MAX: usize = 1024;
/// `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;
/// The names of `grpc-status`, by number.
const STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The body of a request: `HealthCheckRequest { service }`. The empty service means the whole
/// server, and protobuf omits empty fields.
pub(super) fn request_body(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, length-delimited.
        message.push(0x0a);
        push_varint(service.len() as u64, &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(message);
    body.into()
}

fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an answer to its end.
///
/// # Errors
/// The reason why the server does not pass.
pub(super) async fn read(answer: Response<RecvStream>) -> Result<(), FailedProbe> {
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Err(FailedProbe::new(ProbeFailure::Status, head.status.as_u16()));
    }
    // An error without a message has its status in the head ("Trailers-Only").
    if head.headers.contains_key("grpc-status") {
        check_status(&head.headers)?;
    }
    if !is_grpc(&head.headers) {
        return Err(FailedProbe::new(ProbeFailure::NotGrpc, "the content type is not application/grpc"));
    }
    let message = read_body(&mut body).await?;
    let trailers = body.trailers().await.map_err(|error| http2_failure(&error))?;
    check_status(&trailers.unwrap_or(head.headers))?;
    match serving_status(unframed(&message)?)? {
        SERVING => Ok(()),
        0 => Err(FailedProbe::new(ProbeFailure::NotServing, "UNKNOWN")),
        2 => Err(FailedProbe::new(ProbeFailure::NotServing, "NOT_SERVING")),
        3 => Err(FailedProbe::new(ProbeFailure::NotServing, "SERVICE_UNKNOWN")),
        other => Err(FailedProbe::new(ProbeFailure::NotServing, other)),
    }
}

fn is_grpc(fields: &HeaderMap) -> bool {
    let mut lines = fields.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (lines.next(), lines.next()) else { return false };
    let value = value.as_bytes().to_ascii_lowercase();
    value.strip_prefix(GRPC.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn check_status(fields: &HeaderMap) -> Result<(), FailedProbe> {
    let Some(status) = fields.get("grpc-status") else {
        return Err(FailedProbe::new(ProbeFailure::NotGrpc, "the answer has no grpc-status"));
    };
    if status == "0" {
        return Ok(());
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let code = text(status);
    let name = code.parse().ok().and_then(|code: usize| STATUSES.get(code)).copied().unwrap_or("not a known status");
    let message = fields.get("grpc-message").map(|message| format!(": {}", text(message)));
    Err(FailedProbe::new(ProbeFailure::GrpcStatus, format!("{code} {name}{}", message.unwrap_or_default())))
}

async fn read_body(body: &mut RecvStream) -> Result<Vec<u8>, FailedProbe> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|error| http2_failure(&error))?;
        if whole.len() + piece.len() > PREFIX_LEN + MESSAGE_LEN_MAX {
            return Err(message_failure("the message is too large"));
        }
        body.flow_control().release_capacity(piece.len()).map_err(|error| http2_failure(&error))?;
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn message_failure(what: &'static str) -> FailedProbe {
    FailedProbe::new(ProbeFailure::GrpcMessage, what)
}

/// The single message of a body.
fn unframed(body: &[u8]) -> Result<&[u8], FailedProbe> {
    if body.is_empty() {
        return Err(message_failure("there is no message"));
    }
    let Some(([flag, length @ ..], message)) = body.split_first_chunk::<PREFIX_LEN>() else {
        return Err(message_failure("the message is cut off"));
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    match (flag, message.len()) {
        (0, len) if len == length => Ok(message),
        (0, len) if len < length => Err(message_failure("the message is cut off")),
        (0, _) => Err(message_failure("there is more than one message")),
        (_, _) => Err(message_failure("the message is compressed")),
    }
}

/// The field `status` of a `HealthCheckResponse`. Unknown fields are skipped, and the last value of
/// a repeated field counts (protobuf encoding).
fn serving_status(message: &[u8]) -> Result<u64, FailedProbe> {
    let mut rest = message;
    let mut status = 0;
    while !rest.is_empty() {
        let read = take_field(&mut rest).ok_or_else(|| message_failure("the message is not valid protobuf"))?;
        status = read.unwrap_or(status);
    }
    Ok(status)
}

/// Takes one field. Returns its value if it is the status; `None` if the bytes are not a valid
/// field.
fn take_field(rest: &mut &[u8]) -> Option<Option<u64>> {
    let tag = take_varint(rest)?;
    let (field, wire_type) = (tag >> 3, tag & 7);
    if field == 0 {
        return None;
    }
    let skipped = match wire_type {
        0 => {
            let value = take_varint(rest)?;
            return Some((field == 1).then_some(value));
        }
        1 => 8,
        2 => usize::try_from(take_varint(rest)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *rest = rest.get(skipped..)?;
    // A status of another wire type is invalid.
    (field != 1).then_some(None)
}

/// Takes a varint: up to ten bytes, seven bits each, the lowest first.
fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use http::Request;

    use super::super::{probe_http2, with_deadline};
    use super::*;

    #[test]
    fn d6_request_body_has_at_most_one_field() {
        for (service, message) in [
            (String::new(), vec![]),
            ("orders".to_owned(), b"\x0a\x06orders".to_vec()),
            ("s".repeat(127), [&b"\x0a\x7f"[..], &[b's'; 127]].concat()),
            ("s".repeat(128), [&b"\x0a\x80\x01"[..], &[b's'; 128]].concat()),
            ("s".repeat(300), [&b"\x0a\xac\x02"[..], &[b's'; 300]].concat()),
        ] {
            let len = u32::try_from(message.len()).unwrap().to_be_bytes();
            assert_eq!(request_body(&service), [&[0][..], &len, &message].concat());
        }
    }

    /// An answer: a head, and optionally a body and trailers.
    struct ServerAnswer {
        status: u16,
        fields: &'static [(&'static str, &'static str)],
        body: Option<Vec<u8>>,
        trailers: Option<&'static [(&'static str, &'static str)]>,
    }

    const FIELDS: &[(&str, &str)] = &[("content-type", "application/grpc")];
    const GOOD: &[(&str, &str)] = &[("grpc-status", "0")];

    fn message(message: &[u8]) -> Option<Vec<u8>> {
        let mut body = vec![0];
        body.put_u32(message.len() as u32);
        body.extend_from_slice(message);
        Some(body)
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    /// The reason and the log text for which a server with this answer fails; `None` if it passes.
    async fn reason(answer: ServerAnswer) -> Option<(&'static str, String)> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let server = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut head = Response::builder().status(answer.status).body(()).unwrap();
            *head.headers_mut() = fields(answer.fields);
            if answer.body.is_none() && answer.trailers.is_none() {
                respond.send_response(head, true).unwrap();
            } else {
                let mut stream = respond.send_response(head, false).unwrap();
                let body = answer.body.unwrap_or_default();
                for piece in body.chunks(body.len().div_ceil(4).max(1)) {
                    stream.send_data(Bytes::copy_from_slice(piece), false).unwrap();
                }
                match answer.trailers {
                    Some(trailers) => stream.send_trailers(fields(trailers)).unwrap(),
                    None => stream.send_data(Bytes::new(), true).unwrap(),
                }
            }
            while let Some(next) = connection.accept().await {
                next.unwrap();
            }
        };
        let request = Request::post("http://10.0.0.1/").body(()).unwrap();
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        let exchange = with_deadline(end, "no answer", probe_http2(near, request, request_body("orders"), read));
        let (exchange, ()) = tokio::join!(exchange, server);
        exchange.err().map(|failure| (failure.why.as_str(), failure.what))
    }

    #[tokio::test]
    async fn d6_only_serving_passes_and_failures_have_reasons() {
        let whole = |body, trailers| ServerAnswer { status: 200, fields: FIELDS, body, trailers: Some(trailers) };
        let alone = |fields| ServerAnswer { status: 200, fields, body: None, trailers: None };
        let long = vec![0x12; MESSAGE_LEN_MAX + 1];
        for (answer, expected) in [
            (whole(message(&[8, 1]), GOOD), None),
            (whole(message(&[8, 0]), GOOD), Some(("not_serving", "UNKNOWN"))),
            (whole(message(&[]), GOOD), Some(("not_serving", "UNKNOWN"))),
            (whole(message(&[8, 2]), GOOD), Some(("not_serving", "NOT_SERVING"))),
            (whole(message(&[8, 3]), GOOD), Some(("not_serving", "SERVICE_UNKNOWN"))),
            (whole(message(&[8, 9]), GOOD), Some(("not_serving", "9"))),
            (whole(message(&[8, 1]), &[("grpc-status", "13")]), Some(("grpc_status", "13 INTERNAL"))),
            (whole(message(&[8, 1]), &[("x", "y")]), Some(("not_grpc", "the answer has no grpc-status"))),
            (whole(None, GOOD), Some(("grpc_message", "there is no message"))),
            (whole(message(&long), GOOD), Some(("grpc_message", "the message is too large"))),
            (whole(Some(vec![1, 0, 0, 0, 2, 8, 1]), GOOD), Some(("grpc_message", "the message is compressed"))),
            (whole(Some(vec![0, 0, 0, 0, 2, 8]), GOOD), Some(("grpc_message", "the message is cut off"))),
            (whole(message(&[0xff]), GOOD), Some(("grpc_message", "the message is not valid protobuf"))),
            (
                alone(&[
                    ("content-type", "application/grpc"),
                    ("grpc-status", "5"),
                    ("grpc-message", "unknown service"),
                ]),
                Some(("grpc_status", "5 NOT_FOUND: unknown service")),
            ),
            (alone(&[("grpc-status", "12")]), Some(("grpc_status", "12 UNIMPLEMENTED"))),
            (alone(&[("grpc-status", "14")]), Some(("grpc_status", "14 UNAVAILABLE"))),
            (alone(&[("grpc-status", "99")]), Some(("grpc_status", "99 not a known status"))),
            (alone(&[("grpc-status", "00")]), Some(("grpc_status", "00 OK"))),
            (alone(FIELDS), Some(("not_grpc", "the answer has no grpc-status"))),
            (
                alone(&[("content-type", "application/grpc"), ("grpc-status", "0")]),
                Some(("grpc_message", "there is no message")),
            ),
            (
                ServerAnswer { fields: &[("content-type", "text/html")], ..whole(message(&[8, 1]), GOOD) },
                Some(("not_grpc", "the content type is not application/grpc")),
            ),
            (
                ServerAnswer { fields: &[], ..whole(message(&[8, 1]), GOOD) },
                Some(("not_grpc", "the content type is not")),
            ),
            (ServerAnswer { status: 503, ..whole(message(&[8, 1]), GOOD) }, Some(("status", "503"))),
            (ServerAnswer { status: 204, ..alone(&[("grpc-status", "0")]) }, Some(("status", "204"))),
            (
                ServerAnswer { status: 200, fields: FIELDS, body: message(&[8, 1]), trailers: None },
                Some(("not_grpc", "the answer has no grpc-status")),
            ),
        ] {
            let case = format!("{} {:?} {:?} {:?}", answer.status, answer.fields, answer.body, answer.trailers);
            let reason = reason(answer).await;
            match (&reason, expected) {
                (Some((why, what)), Some((wanted, start))) => {
                    assert!(*why == wanted && what.starts_with(start), "{case}: {reason:?}");
                }
                _ => assert_eq!(reason.is_some(), expected.is_some(), "{case}: {reason:?}"),
            }
        }
    }

    #[test]
    fn d6_last_value_of_field_1_is_the_status() {
        for (message, expected) in [
            (&[][..], Some(0)),
            (&[0x08, 0x01], Some(1)),
            (&[0x08, 0x02, 0x08, 0x01], Some(1)),
            // Unknown fields of every wire type around the status.
            (&[0x12, 0x02, 9, 9, 0x08, 0x01, 0x18, 0x7f, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4], Some(1)),
            (&[0x08, 0x81, 0x80, 0x00], Some(1)),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], Some(u64::MAX)),
            (&[0x08], None),
            (&[0x08, 0x80], None),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], None),
            (&[0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01], None),
            (&[0x0a, 0x01, 0x01], None),
            (&[0x00, 0x01], None),
            (&[0x0b], None),
            (&[0x12, 0x05, 1], None),
            (&[0x21, 1, 2], None),
            (&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], None),
        ] {
            let read = serving_status(message);
            assert_eq!(read.as_ref().ok().copied(), expected, "{message:?} {read:?}");
            assert!(read.err().is_none_or(|failure| failure.why == ProbeFailure::GrpcMessage));
        }
    }

    #[test]
    fn d6_body_is_one_uncompressed_message() {
        for (body, expected) in [
            (&[0, 0, 0, 0, 0][..], Ok(&[][..])),
            (&[0, 0, 0, 0, 2, 8, 1], Ok(&[8, 1])),
            (&[], Err("there is no message")),
            (&[0, 0, 0, 0], Err("the message is cut off")),
            (&[0, 0, 0, 0, 2, 8], Err("the message is cut off")),
            (&[0, 0xff, 0xff, 0xff, 0xff, 8], Err("the message is cut off")),
            (&[0, 0, 0, 0, 2, 8, 1, 0, 0, 0, 0, 0], Err("there is more than one message")),
            (&[1, 0, 0, 0, 2, 8, 1], Err("the message is compressed")),
        ] {
            let read = unframed(body).map_err(|failure| failure.what);
            assert_eq!(read, expected.map_err(str::to_owned), "{body:?}");
        }
    }

    #[test]
    fn d6_content_type_is_compared_completely() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let fields = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&fields), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
