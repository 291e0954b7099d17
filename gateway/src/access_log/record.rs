//! The schema of an access log line.
//!
//! Fields without a value are left out. Names are stable: a field may be added, none changes its meaning.
//! `crossgate explain --log-line -` takes such a line back, which is why the fields that a verdict hangs on are here.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use crossgate_policy::{Kind, MESSAGE_LEN_MAX};
use serde::{Serialize, Serializer};

use super::escape::Escaped;
use crate::metrics::VerdictLabel;

/// The longest origin that can be a well-formed one.
pub(super) const ORIGIN_LEN_MAX: usize = 326;
/// Longer than any method in use.
pub(super) const METHOD_LEN_MAX: usize = 32;
/// Enough to tell routes apart.
pub(super) const PATH_LEN_MAX: usize = 256;
/// A host name of 253 bytes and its port.
pub(super) const HOST_LEN_MAX: usize = 259;
/// About a dozen header names.
pub(super) const REQUESTED_HEADERS_LEN_MAX: usize = 256;
/// A few field names.
pub(super) const CONNECTION_LEN_MAX: usize = 64;
/// Longer than any value of the standard.
pub(super) const FETCH_SITE_LEN_MAX: usize = 16;

/// One request, as it is logged.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Record<'a> {
    /// When the request's head was complete: RFC 3339, UTC, milliseconds.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The request id, as the upstream and the client got it.
    pub request_id: &'a str,
    /// The id of the trace that the request belongs to: 32 hexadecimal digits of a well-formed `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// The id of the tenant whose host it is, or `none`.
    pub tenant: &'a str,
    /// The route's path prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The name of the policy that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'a str>,
    /// `preflight`, `non_cors`, `same_origin`, `websocket` or `actual`.
    #[serde(serialize_with = "kind")]
    pub kind: Kind,
    /// `allow` or `deny`; in report mode `would_allow` or `would_deny`.
    pub verdict: VerdictLabel,
    /// Why, from a closed set: the reasons of the metrics, and for requests that no policy judged `unknown_host` (421),
    /// `broken_tenant` (503) or `bad_request` (400, with what is wrong as the note). Of a head that is refused as such: `head_timeout`,
    /// `head_too_large`, `head_malformed`, `host`, `framing` or `method`; of a connection too many `connections`.
    pub reason: &'static str,
    /// The configured entry that covers the origin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<&'a str>,
    /// How the rule's answer was had, where it was asked: `cache`, `run` or `not_run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_source: Option<&'static str>,
    /// What a denying rule said, capped at 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_message: Option<Escaped<'a, MESSAGE_LEN_MAX>>,
    /// Why the rule gave no answer, from a closed set: the kinds of the metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_error: Option<&'static str>,
    /// The `Origin` field, capped at 326 bytes; of several the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Escaped<'a, ORIGIN_LEN_MAX>>,
    /// How often `Origin` is there, if more than once.
    #[serde(skip_serializing_if = "is_once")]
    pub origin_fields: usize,
    /// The `Host` field. Nothing of a refused head is in its line, as it may be no HTTP at all.
    #[serde(skip_serializing_if = "Escaped::is_empty")]
    pub host: Escaped<'a, HOST_LEN_MAX>,
    /// The method, capped at 32 bytes.
    #[serde(skip_serializing_if = "Escaped::is_empty")]
    pub method: Escaped<'a, METHOD_LEN_MAX>,
    /// The request target, of which the path is logged without its query, capped at 256 bytes.
    #[serde(rename = "path", serialize_with = "path", skip_serializing_if = "<[u8]>::is_empty")]
    pub target: &'a [u8],
    /// The `Access-Control-Request-Method` field of a preflight, capped at 32 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_method: Option<Escaped<'a, METHOD_LEN_MAX>>,
    /// How often `Access-Control-Request-Method` is there, if more than once.
    #[serde(skip_serializing_if = "is_once")]
    pub requested_method_fields: usize,
    /// The `Access-Control-Request-Headers` lines of a preflight, joined by commas and capped at 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_headers: Option<Escaped<'a, REQUESTED_HEADERS_LEN_MAX>>,
    /// The `Sec-Fetch-Site` field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sec_fetch_site: Option<Escaped<'a, FETCH_SITE_LEN_MAX>>,
    /// How often `Sec-Fetch-Site` is there, if more than once.
    #[serde(skip_serializing_if = "is_once")]
    pub sec_fetch_site_fields: usize,
    /// The `Connection` lines, joined by commas and capped at 64 bytes, where they are why the request is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Escaped<'a, CONNECTION_LEN_MAX>>,
    /// The scheme the client used, `http` or `https`, where that is known: over TLS, or by a trusted proxy's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'static str>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`; left out of a head refused as such, but for one over HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// Whether there was a `Cookie` or an `Authorization` field; left out if not. Their values are never logged.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_credentials: bool,
    /// The status the client got; 0 if it went away before, or took no answer.
    pub status: u16,
    /// From the head's completion to the last byte of the answer, in milliseconds.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// The name of the upstream that was asked, or would have been but for its limits or its names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// Until the upstream's response head, in milliseconds.
    #[serde(
        rename = "upstream_duration_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_milliseconds"
    )]
    pub upstream_duration: Option<Duration>,
    /// The client's address, as the gateway believes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The number of the configuration that served the request.
    pub generation: u64,
    /// What whoever reads the line should consider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'a str>,
}

impl Record<'_> {
    /// The line with its end, or `None` if the clock cannot be written.
    pub(super) fn to_line(self) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(&Line { record: self, cut: self.is_cut() }).ok()?;
        line.push(b'\n');
        Some(line)
    }

    /// Whether a text that a verdict may hang on is longer than its cap.
    fn is_cut(&self) -> bool {
        let optional = [
            self.origin.is_some_and(|text| text.is_cut()),
            self.requested_method.is_some_and(|text| text.is_cut()),
            self.requested_headers.is_some_and(|text| text.is_cut()),
            self.sec_fetch_site.is_some_and(|text| text.is_cut()),
            self.connection.is_some_and(|text| text.is_cut()),
        ];
        let path = Escaped::<PATH_LEN_MAX>(path_of(self.target));
        self.host.is_cut() || self.method.is_cut() || path.is_cut() || optional.contains(&true)
    }
}

/// A record as it is written.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    record: Record<'a>,
    /// Whether a text of the client was cut; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// Whether a field is not there more than once.
fn is_once(fields: &usize) -> bool {
    *fields <= 1
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let time = DateTime::<Utc>::from(*time);
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn kind<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.as_str())
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_micros() as f64 / 1e3)
}

fn optional_milliseconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    milliseconds(&duration.unwrap_or_default(), serializer)
}

/// A query may hold secrets.
fn path<S: Serializer>(target: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    Escaped::<PATH_LEN_MAX>(path_of(target)).serialize(serializer)
}

fn path_of(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}
