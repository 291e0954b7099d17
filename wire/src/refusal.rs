//! Refusals of request heads that reach no policy, over HTTP/1.1 and HTTP/2.
//!
//! The lane and the HTTP/2 server refuse such heads before any tenant is known. The gateway turns
//! each refusal into a problem response and counts it by its reason.

use http::StatusCode;

/// A refused request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRefusal {
    /// 400, 405, 408, 431 or 503.
    pub status: StatusCode,
    /// The reason in the access log and the response, from a closed set.
    pub reason: &'static str,
    /// The problem `detail` of the response.
    pub detail: &'static str,
}

pub const fn refusal(status: StatusCode, reason: &'static str, detail: &'static str) -> HeadRefusal {
    HeadRefusal { status, reason, detail }
}

pub const TIMEOUT: HeadRefusal =
    refusal(StatusCode::REQUEST_TIMEOUT, "head_timeout", "the request head did not arrive in time");
pub const TOO_LARGE: HeadRefusal = refusal(
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    "the request head has too many fields or bytes",
);
pub const MALFORMED: HeadRefusal =
    refusal(StatusCode::BAD_REQUEST, "head_malformed", "the request head is not valid HTTP/1.1");
pub const HOST: HeadRefusal =
    refusal(StatusCode::BAD_REQUEST, "host", "the request must have exactly one Host field that matches its target");
pub const FRAMING: HeadRefusal =
    refusal(StatusCode::BAD_REQUEST, "framing", "the length of the request body is ambiguous");
/// For a connection over the limit, or a request over HTTP/2 that counts like one.
pub const NO_ROOM: HeadRefusal =
    refusal(StatusCode::SERVICE_UNAVAILABLE, "connections", "connection limit reached; try again later");
/// For a request in plain text on a TLS listener.
pub const PLAIN_HTTP: HeadRefusal =
    refusal(StatusCode::BAD_REQUEST, "plain_http", "this port requires TLS; use an https URL");
pub const METHOD: HeadRefusal =
    refusal(StatusCode::METHOD_NOT_ALLOWED, "method", "TRACE and CONNECT are not supported");
