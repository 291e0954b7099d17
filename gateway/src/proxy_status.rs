//! `Proxy-Status` (RFC 9209) of the gateway's own answers, with the error type.
//!
//! The field distinguishes a refusal of the gateway from one of the upstream. If an upstream's
//! answer has the field, the gateway appends its name as the last intermediary (section 2);
//! otherwise it adds none. Details contain fixed texts and, if a preflight was refused for a method
//! or a header, that token. Absent on purpose: origins, configured entries, file names and anything
//! else of the policy.

use crossgate_policy::names::is_token;
use crossgate_policy::{EditValue, Outcome, Reason, RequestField};
use http::header::ACCESS_CONTROL_REQUEST_HEADERS;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::judge::PolicyMatch;
use crate::metrics::{UpstreamError, UpstreamRefusal};
use crate::request_head::RequestHead;
use crossgate_message::field_sink::FieldSink;
use crossgate_message::fields::NamedField;
use crossgate_message::head_flaw::HeadFlaw;

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The field of an allowed preflight's answer, as an HTTP/1.1 field line.
pub const ALLOWED_LINE: &[u8] = b"proxy-status: crossgate; error=proxy_internal_response\r\n";

/// The maximum length of a refused token in the details.
const TOKEN_LEN_MAX: usize = 64;

const ALLOWED: HeaderValue = HeaderValue::from_static("crossgate; error=proxy_internal_response");

static HANDLED: HeaderValue = HeaderValue::from_static("crossgate");

/// The error types of RFC 9209, section 2.3, that occur here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// A name of the upstream's servers did not resolve.
    DnsError,
    /// No tenant or route matches the request.
    DestinationNotFound,
    /// The server's address is the gateway's own admin listener.
    DestinationIpProhibited,
    /// The upstream cannot be reached.
    DestinationUnavailable,
    /// The upstream's server refuses connections.
    ConnectionRefused,
    /// The connection ended before any byte of the response.
    ConnectionTerminated,
    /// The connection was not established in time.
    ConnectionTimeout,
    /// No more data arrived in time.
    ConnectionReadTimeout,
    /// The upstream's limits on requests are reached.
    ConnectionLimitReached,
    TlsProtocolError,
    /// The server's certificate is not trusted.
    TlsCertificateError,
    /// The client's request cannot be served.
    HttpRequestError,
    /// Configuration or policy denies the request.
    HttpRequestDenied,
    /// The connection ended within the response head.
    HttpResponseIncomplete,
    HttpResponseHeaderSectionSize,
    /// The response has an unsupported transfer coding.
    HttpResponseTransferCoding,
    /// No response head arrived in time.
    HttpResponseTimeout,
    HttpUpgradeFailed,
    /// The response is not valid HTTP.
    HttpProtocolError,
    /// The gateway generated the answer, and there is no error.
    ProxyInternalResponse,
    ProxyInternalError,
    ProxyConfigurationError,
    /// The request has passed through this gateway before.
    ProxyLoopDetected,
}

impl ProxyError {
    /// The type's name in the field.
    pub fn as_str(self) -> &'static str {
        match self {
            ProxyError::DnsError => "dns_error",
            ProxyError::DestinationNotFound => "destination_not_found",
            ProxyError::DestinationIpProhibited => "destination_ip_prohibited",
            ProxyError::DestinationUnavailable => "destination_unavailable",
            ProxyError::ConnectionRefused => "connection_refused",
            ProxyError::ConnectionTerminated => "connection_terminated",
            ProxyError::ConnectionTimeout => "connection_timeout",
            ProxyError::ConnectionReadTimeout => "connection_read_timeout",
            ProxyError::ConnectionLimitReached => "connection_limit_reached",
            ProxyError::TlsProtocolError => "tls_protocol_error",
            ProxyError::TlsCertificateError => "tls_certificate_error",
            ProxyError::HttpRequestError => "http_request_error",
            ProxyError::HttpRequestDenied => "http_request_denied",
            ProxyError::HttpResponseIncomplete => "http_response_incomplete",
            ProxyError::HttpResponseHeaderSectionSize => "http_response_header_section_size",
            ProxyError::HttpResponseTransferCoding => "http_response_transfer_coding",
            ProxyError::HttpResponseTimeout => "http_response_timeout",
            ProxyError::HttpUpgradeFailed => "http_upgrade_failed",
            ProxyError::HttpProtocolError => "http_protocol_error",
            ProxyError::ProxyInternalResponse => "proxy_internal_response",
            ProxyError::ProxyInternalError => "proxy_internal_error",
            ProxyError::ProxyConfigurationError => "proxy_configuration_error",
            ProxyError::ProxyLoopDetected => "proxy_loop_detected",
        }
    }
}

/// The reason why an upstream's answer could not be forwarded.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamFault<'a> {
    /// The failure of the last attempt.
    pub error: Option<UpstreamError>,
    /// The flaw of the response head.
    pub flaw: Option<&'a HeadFlaw>,
    /// The reason why there was no attempt.
    pub refusal: Option<UpstreamRefusal>,
}

/// The value for the answer to a preflight, allowed or denied.
pub fn of_preflight(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> HeaderValue {
    match judged.verdict.outcome {
        Outcome::Allow => ALLOWED,
        Outcome::Deny => of_denial(judged, refused_token(judged, head).as_deref()),
    }
}

/// The value for an answer that the gateway generates without an error.
pub fn of_own_answer() -> HeaderValue {
    ALLOWED
}

/// The value for a denial: its reason, and the refused method or header.
pub fn of_denial(judged: &PolicyMatch<'_>, refused: Option<&str>) -> HeaderValue {
    let reason = judged.reason().as_str();
    match refused {
        Some(token) => value(ProxyError::HttpRequestDenied, &format!("{reason} {token}")),
        None => value(ProxyError::HttpRequestDenied, reason),
    }
}

/// The value for an answer with this status and reason that is not a policy's verdict.
pub fn of_error(status: StatusCode, reason: &str, fault: UpstreamFault<'_>) -> HeaderValue {
    match (status.as_u16(), fault.refusal) {
        (502 | 503, Some(refusal)) => value(of_refusal(refusal), refusal.as_str()),
        (502 | 504, _) => of_upstream_error(status, reason, fault),
        _ => value(error_type(status, reason), reason),
    }
}

fn type_of_flaw(flaw: &HeadFlaw) -> ProxyError {
    match flaw {
        HeadFlaw::Fields(_) | HeadFlaw::FieldsBeyondMax | HeadFlaw::TooLong => {
            ProxyError::HttpResponseHeaderSectionSize
        }
        HeadFlaw::Incomplete => ProxyError::HttpResponseIncomplete,
        HeadFlaw::DuplicateTransferEncoding | HeadFlaw::TransferCoding => ProxyError::HttpResponseTransferCoding,
        HeadFlaw::UnrequestedUpgrade => ProxyError::HttpUpgradeFailed,
        HeadFlaw::ConflictingLengths
        | HeadFlaw::InvalidLength
        | HeadFlaw::FieldName
        | HeadFlaw::FieldValue(_)
        | HeadFlaw::StatusLine
        | HeadFlaw::LineEnd
        | HeadFlaw::Interims
        | HeadFlaw::Http2(_)
        | HeadFlaw::Other => ProxyError::HttpProtocolError,
    }
}

fn error_type(status: StatusCode, reason: &str) -> ProxyError {
    match (status.as_u16(), reason) {
        (404, _) | (421, "unknown_host") => ProxyError::DestinationNotFound,
        (501, _) => ProxyError::HttpUpgradeFailed,
        (503, "broken_tenant") => ProxyError::ProxyConfigurationError,
        (503, "connections") => ProxyError::HttpRequestDenied,
        (503, "draining") => ProxyError::ProxyInternalResponse,
        (503, _) => ProxyError::DestinationUnavailable,
        (400..=499, _) => ProxyError::HttpRequestError,
        _ => ProxyError::ProxyInternalError,
    }
}

fn of_refusal(refusal: UpstreamRefusal) -> ProxyError {
    match refusal {
        UpstreamRefusal::Limit | UpstreamRefusal::PendingTimeout => ProxyError::ConnectionLimitReached,
        UpstreamRefusal::NoAddress => ProxyError::DnsError,
        UpstreamRefusal::Loop => ProxyError::ProxyLoopDetected,
        UpstreamRefusal::OwnAdmin => ProxyError::DestinationIpProhibited,
    }
}

fn of_upstream_error(status: StatusCode, reason: &str, fault: UpstreamFault<'_>) -> HeaderValue {
    if let Some(flaw) = fault.flaw {
        return value(type_of_flaw(flaw), &flaw.to_string());
    }
    let error = match fault.error {
        Some(UpstreamError::ConnectRefused) => ProxyError::ConnectionRefused,
        Some(UpstreamError::ConnectTimeout) => ProxyError::ConnectionTimeout,
        Some(UpstreamError::TlsHandshake | UpstreamError::TlsAlpn) => ProxyError::TlsProtocolError,
        Some(UpstreamError::TlsCertificate) => ProxyError::TlsCertificateError,
        Some(UpstreamError::HeadTimeout) => ProxyError::HttpResponseTimeout,
        Some(UpstreamError::IdleTimeout) => ProxyError::ConnectionReadTimeout,
        Some(UpstreamError::Reset) => ProxyError::ConnectionTerminated,
        Some(UpstreamError::Invalid) => ProxyError::HttpProtocolError,
        None if status == StatusCode::GATEWAY_TIMEOUT => ProxyError::HttpResponseTimeout,
        Some(UpstreamError::ConnectFailed | UpstreamError::StreamLimit | UpstreamError::Other) | None => {
            ProxyError::DestinationUnavailable
        }
    };
    value(error, fault.error.map_or(reason, |error| error.as_str()))
}

/// Appends the gateway to the intermediaries of an upstream's answer that has the field (RFC 9209,
/// section 2).
pub fn append_to_others(sink: &mut impl FieldSink) {
    sink.own(&PROXY_STATUS, EditValue::Fixed(&HANDLED));
}

/// The refused method or header of a preflight, cut to `TOKEN_LEN_MAX`. `None` if it is not a
/// token.
pub fn refused_token(judged: &PolicyMatch<'_>, head: &RequestHead<'_>) -> Option<String> {
    let shortened = |token: &[u8]| {
        let cut = token.get(..TOKEN_LEN_MAX).unwrap_or(token);
        is_token(token).then(|| String::from_utf8_lossy(cut).into_owned())
    };
    match (judged.reason(), head.known.requested_method) {
        (Reason::Method, RequestField::One(method)) => shortened(method),
        (Reason::Header, _) => {
            let lines = NamedField { fields: head.headers, name: ACCESS_CONTROL_REQUEST_HEADERS };
            judged.policy()?.refused_header(&judged.verdict, &lines).and_then(shortened)
        }
        _ => None,
    }
}

/// A structured field (RFC 8941): the gateway's name with parameters. Bytes that are invalid in its
/// strings are dropped.
fn value(error: ProxyError, details: &str) -> HeaderValue {
    let is_plain = |char: &char| matches!(char, ' '..='~') && !matches!(char, '"' | '\\');
    let details: String = details.chars().filter(is_plain).collect();
    let text = format!("crossgate; error={}; details=\"{details}\"", error.as_str());
    // Printable ASCII is always a valid field value.
    HeaderValue::from_str(&text).unwrap_or(ALLOWED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, reason: &str, fault: UpstreamFault<'_>, expected: &str) {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(of_error(status, reason, fault), format!("crossgate; error={expected}"));
    }

    #[test]
    fn errors_of_the_gateway_carry_their_reason() {
        let fault = UpstreamFault::default();
        check(400, "bad_request", fault, "http_request_error; details=\"bad_request\"");
        check(404, "unknown_route", fault, "destination_not_found; details=\"unknown_route\"");
        check(405, "method", fault, "http_request_error; details=\"method\"");
        check(408, "head_timeout", fault, "http_request_error; details=\"head_timeout\"");
        check(413, "body_too_large", fault, "http_request_error; details=\"body_too_large\"");
        check(421, "unknown_host", fault, "destination_not_found; details=\"unknown_host\"");
        check(421, "misdirected", fault, "http_request_error; details=\"misdirected\"");
        check(431, "head_too_large", fault, "http_request_error; details=\"head_too_large\"");
        check(500, "internal_error", fault, "proxy_internal_error; details=\"internal_error\"");
        check(501, "no_websockets", fault, "http_upgrade_failed; details=\"no_websockets\"");
        check(503, "broken_tenant", fault, "proxy_configuration_error; details=\"broken_tenant\"");
        check(503, "connections", fault, "http_request_denied; details=\"connections\"");
    }

    #[test]
    fn every_upstream_fault_has_an_error_type() {
        for (error, expected) in [
            (UpstreamError::ConnectRefused, "connection_refused"),
            (UpstreamError::ConnectTimeout, "connection_timeout"),
            (UpstreamError::ConnectFailed, "destination_unavailable"),
            (UpstreamError::TlsHandshake, "tls_protocol_error"),
            (UpstreamError::TlsCertificate, "tls_certificate_error"),
            (UpstreamError::TlsAlpn, "tls_protocol_error"),
            (UpstreamError::HeadTimeout, "http_response_timeout"),
            (UpstreamError::IdleTimeout, "connection_read_timeout"),
            (UpstreamError::StreamLimit, "destination_unavailable"),
            (UpstreamError::Reset, "connection_terminated"),
            (UpstreamError::Invalid, "http_protocol_error"),
            (UpstreamError::Other, "destination_unavailable"),
        ] {
            let fault = UpstreamFault { error: Some(error), ..UpstreamFault::default() };
            check(502, "upstream_error", fault, &format!("{expected}; details=\"{}\"", error.as_str()));
            check(413, "body_too_large", fault, "http_request_error; details=\"body_too_large\"");
        }
        for (refusal, expected) in [
            (UpstreamRefusal::Limit, "connection_limit_reached; details=\"limit\""),
            (UpstreamRefusal::PendingTimeout, "connection_limit_reached; details=\"pending_timeout\""),
            (UpstreamRefusal::NoAddress, "dns_error; details=\"no_address\""),
        ] {
            let fault = UpstreamFault { refusal: Some(refusal), ..UpstreamFault::default() };
            check(503, "upstream_unavailable", fault, expected);
        }
        check(504, "upstream_timeout", UpstreamFault::default(), "http_response_timeout; details=\"upstream_timeout\"");
        let flaw = UpstreamFault { flaw: Some(&HeadFlaw::Fields(257)), ..UpstreamFault::default() };
        check(502, "upstream_error", flaw, "http_response_header_section_size; details=\"257 fields\"");
    }

    #[test]
    fn details_drop_bytes_that_end_a_structured_string() {
        let value = value(ProxyError::HttpProtocolError, "a\"b\\c\r\nd\u{e9}");
        assert_eq!(value, "crossgate; error=http_protocol_error; details=\"abcd\"");
    }
}
