//! The schema of an access log line.
//!
//! Fields without a value are left out, as are those not listed in `accessLog.fields`. Names are
//! stable: a field may be added, but none changes its meaning. A test compares the fields
//! documented in `docs/reference/access-log.md` with [`LogField::ALL`].
//! `crossgate explain --log-line -` reads such lines, so every request part that a verdict depends
//! on is here.

use std::borrow::Cow;
use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use crossgate_policy::{MESSAGE_LEN_MAX, RequestKind};
use http::HeaderName;
use serde::Serialize;

use crate::metrics::VerdictLabel;
use crossgate_config::model::{LogField, LogFieldSet};
use crossgate_message::escape::EscapedBytes;

/// The length of the longest well-formed origin.
pub(super) const ORIGIN_LEN_MAX: usize = 326;
/// Longer than any method in use.
pub(super) const METHOD_LEN_MAX: usize = 32;
/// Enough to distinguish routes.
pub(super) const PATH_LEN_MAX: usize = 256;
/// A host name of 253 bytes and a port.
pub(super) const HOST_LEN_MAX: usize = 259;
/// About a dozen header names.
pub(super) const REQUESTED_HEADERS_LEN_MAX: usize = 256;
/// A few field names.
pub(super) const CONNECTION_LEN_MAX: usize = 64;
/// Longer than any value in Fetch Metadata.
pub(super) const FETCH_SITE_LEN_MAX: usize = 16;

/// The fields of one line.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord<'a> {
    /// The time when the request head was complete: RFC 3339, UTC, milliseconds.
    pub time: SystemTime,
    /// The request id, as sent to the upstream and to the client.
    pub request_id: &'a str,
    /// The trace id: 32 hexadecimal digits from a well-formed `traceparent`.
    pub trace_id: Option<&'a str>,
    /// The id of the tenant that owns the host, or `none`.
    pub tenant: &'a str,
    /// The route's path prefix.
    pub route: Option<&'a str>,
    /// The name of the deciding policy.
    pub policy: Option<&'a str>,
    /// `preflight`, `non_cors`, `same_origin`, `websocket` or `actual`.
    pub kind: RequestKind,
    /// `allow` or `deny`; in report mode `would_allow` or `would_deny`.
    pub verdict: VerdictLabel,
    /// The reason, from a closed set. It contains the reasons of the metrics. Requests that no
    /// policy judged have `unknown_host` or `misdirected` (421), `broken_tenant` (503) or
    /// `bad_request` (400, with the fault as the note). A refused head has `head_timeout`,
    /// `head_too_large`, `head_malformed`, `host`, `framing`, `method` or `plain_http`; a
    /// connection over the limit has `connections`.
    pub reason: &'static str,
    /// The configured entry that covers the origin.
    pub entry: Option<&'a str>,
    /// The name of the group whose terms apply, if it is not the policy itself.
    pub group: Option<&'a str>,
    /// The source of the rule's answer, if a rule was needed: `cache`, `run` or `not_run`.
    pub rule_source: Option<&'static str>,
    /// The message of a denying rule, capped at 256 bytes.
    pub rule_message: Option<EscapedBytes<'a, MESSAGE_LEN_MAX>>,
    /// The error kind of a failed rule, from a closed set: the kinds of the metrics.
    pub rule_error: Option<&'static str>,
    /// The first `Origin` line, capped at 326 bytes.
    pub origin: Option<EscapedBytes<'a, ORIGIN_LEN_MAX>>,
    /// The number of `Origin` lines; left out unless more than one.
    pub origin_fields: usize,
    /// The `Host` field. The line of a refused head has no request text, as the bytes may not be
    /// HTTP at all.
    pub host: EscapedBytes<'a, HOST_LEN_MAX>,
    /// The method, capped at 32 bytes.
    pub method: EscapedBytes<'a, METHOD_LEN_MAX>,
    /// The request target. The path is logged without the query, capped at 256 bytes.
    pub target: &'a [u8],
    /// The `Access-Control-Request-Method` field of a preflight, capped at 32 bytes.
    pub requested_method: Option<EscapedBytes<'a, METHOD_LEN_MAX>>,
    /// The number of `Access-Control-Request-Method` lines; left out unless more than one.
    pub requested_method_fields: usize,
    /// The `Access-Control-Request-Headers` lines of a preflight, joined by commas and capped at
    /// 256 bytes.
    pub requested_headers: Option<EscapedBytes<'a, REQUESTED_HEADERS_LEN_MAX>>,
    /// The `Sec-Fetch-Site` field.
    pub sec_fetch_site: Option<EscapedBytes<'a, FETCH_SITE_LEN_MAX>>,
    /// The number of `Sec-Fetch-Site` lines; left out unless more than one.
    pub sec_fetch_site_fields: usize,
    /// The `Sec-Fetch-Mode` field, if the policy checks requests from other sites.
    pub sec_fetch_mode: Option<EscapedBytes<'a, FETCH_SITE_LEN_MAX>>,
    /// The number of `Sec-Fetch-Mode` lines; left out unless more than one.
    pub sec_fetch_mode_fields: usize,
    /// The `Sec-Fetch-Dest` field, if the policy checks requests from other sites.
    pub sec_fetch_dest: Option<EscapedBytes<'a, FETCH_SITE_LEN_MAX>>,
    /// The number of `Sec-Fetch-Dest` lines; left out unless more than one.
    pub sec_fetch_dest_fields: usize,
    /// The `Connection` lines, joined by commas and capped at 64 bytes. Only present if they are
    /// the cause of a refusal.
    pub connection: Option<EscapedBytes<'a, CONNECTION_LEN_MAX>>,
    /// The client's scheme, `http` or `https`, if it comes from TLS or from a trusted proxy.
    pub scheme: Option<&'static str>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`. Left out of a refused head, except over HTTP/2.
    pub protocol: Option<&'static str>,
    /// Whether the request had a `Cookie` or `Authorization` field; left out if not. Their values
    /// are never logged.
    pub has_credentials: bool,
    /// Whether the credentials are of a kind that browsers add to the requests of any page, if the
    /// policy checks requests from other sites; left out if not.
    pub has_ambient_credentials: bool,
    /// The status sent to the client; 0 if the client closed the connection first or accepted no
    /// response.
    pub status: u16,
    /// The time from the end of the request head to the last byte of the response, in milliseconds.
    pub duration: Duration,
    /// The name of the upstream that received the request, or would have but for its limits or
    /// unresolved names.
    pub upstream: Option<&'a str>,
    /// The path that the upstream receives, if the route rewrites it, without the query and capped
    /// at 256 bytes.
    pub upstream_path: Option<EscapedBytes<'a, PATH_LEN_MAX>>,
    /// The time until the end of the upstream's response head, in milliseconds.
    pub upstream_duration: Option<Duration>,
    /// The client's address, as derived from the peer and trusted forwarding fields.
    pub client: Option<std::net::IpAddr>,
    /// The generation of the configuration that served the request.
    pub generation: u64,
    /// Advice to the reader of the line.
    pub note: Option<&'a str>,
    /// The request header fields listed in `accessLog.headers`, each capped at 256 bytes. Several
    /// lines of one field are joined by commas.
    pub headers: &'a [(HeaderName, Cow<'a, [u8]>)],
}

impl LogRecord<'_> {
    /// Appends the line with its line feed, and returns whether all values could be serialized.
    pub fn write_line(&self, fields: LogFieldSet, bytes: &mut Vec<u8>) -> bool {
        let mut line = JsonLine { bytes, fields, is_whole: true };
        line.bytes.push(b'{');
        self.put_verdict(&mut line);
        self.put_request(&mut line);
        self.put_outcome(&mut line);
        line.put_headers(self.headers);
        if fields.contains(LogField::Cut) {
            line.put_some(LogField::Cut, self.is_cut().then_some(true));
        }
        line.bytes.extend_from_slice(b"}\n");
        line.is_whole
    }

    fn put_verdict(&self, line: &mut JsonLine<'_>) {
        line.put_time(self.time);
        line.put(LogField::RequestId, self.request_id);
        line.put_some(LogField::TraceId, self.trace_id);
        line.put(LogField::Tenant, self.tenant);
        line.put_some(LogField::Route, self.route);
        line.put_some(LogField::Policy, self.policy);
        line.put(LogField::Kind, self.kind.as_str());
        line.put(LogField::Verdict, self.verdict.as_str());
        line.put(LogField::Reason, self.reason);
        line.put_some(LogField::Entry, self.entry);
        line.put_some(LogField::Group, self.group);
        line.put_some(LogField::RuleSource, self.rule_source);
        line.put_some(LogField::RuleMessage, self.rule_message);
        line.put_some(LogField::RuleError, self.rule_error);
    }

    fn put_request(&self, line: &mut JsonLine<'_>) {
        line.put_some(LogField::Origin, self.origin);
        line.put_some(LogField::OriginFields, repeated(self.origin_fields));
        line.put_some(LogField::Host, Some(self.host).filter(|host| !host.is_empty()));
        line.put_some(LogField::Method, Some(self.method).filter(|method| !method.is_empty()));
        // A query may contain secrets.
        line.put_some(
            LogField::Path,
            (!self.target.is_empty()).then(|| EscapedBytes::<PATH_LEN_MAX>(path_of(self.target))),
        );
        line.put_some(LogField::RequestedMethod, self.requested_method);
        line.put_some(LogField::RequestedMethodFields, repeated(self.requested_method_fields));
        line.put_some(LogField::RequestedHeaders, self.requested_headers);
        line.put_some(LogField::SecFetchSite, self.sec_fetch_site);
        line.put_some(LogField::SecFetchSiteFields, repeated(self.sec_fetch_site_fields));
        line.put_some(LogField::SecFetchMode, self.sec_fetch_mode);
        line.put_some(LogField::SecFetchModeFields, repeated(self.sec_fetch_mode_fields));
        line.put_some(LogField::SecFetchDest, self.sec_fetch_dest);
        line.put_some(LogField::SecFetchDestFields, repeated(self.sec_fetch_dest_fields));
        line.put_some(LogField::Connection, self.connection);
        line.put_some(LogField::Scheme, self.scheme);
        line.put_some(LogField::Protocol, self.protocol);
        line.put_some(LogField::HasCredentials, self.has_credentials.then_some(true));
        line.put_some(LogField::HasAmbientCredentials, self.has_ambient_credentials.then_some(true));
    }

    fn put_outcome(&self, line: &mut JsonLine<'_>) {
        line.put(LogField::Status, self.status);
        line.put(LogField::DurationMs, milliseconds(self.duration));
        line.put_some(LogField::Upstream, self.upstream);
        line.put_some(LogField::UpstreamPath, self.upstream_path);
        line.put_some(LogField::UpstreamDurationMs, self.upstream_duration.map(milliseconds));
        line.put_some(LogField::Client, self.client);
        line.put(LogField::Generation, self.generation);
        line.put_some(LogField::Note, self.note);
    }

    /// Whether a text that the verdict may depend on is longer than its cap.
    fn is_cut(&self) -> bool {
        let optional = [
            self.origin.is_some_and(|text| text.is_cut()),
            self.requested_method.is_some_and(|text| text.is_cut()),
            self.requested_headers.is_some_and(|text| text.is_cut()),
            self.sec_fetch_site.is_some_and(|text| text.is_cut()),
            self.sec_fetch_mode.is_some_and(|text| text.is_cut()),
            self.sec_fetch_dest.is_some_and(|text| text.is_cut()),
            self.connection.is_some_and(|text| text.is_cut()),
        ];
        let path = EscapedBytes::<PATH_LEN_MAX>(path_of(self.target));
        self.host.is_cut() || self.method.is_cut() || path.is_cut() || optional.contains(&true)
    }
}

/// The cap on one header field's value.
const HEADER_LEN_MAX: usize = 256;

/// A JSON object under construction.
struct JsonLine<'b> {
    bytes: &'b mut Vec<u8>,
    fields: LogFieldSet,
    is_whole: bool,
}

impl JsonLine<'_> {
    fn put(&mut self, field: LogField, value: impl Serialize) {
        self.put_with(field, || value);
    }

    fn put_some(&mut self, field: LogField, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.put(field, value);
        }
    }

    /// Writes a value that is computed only if the field is logged.
    fn put_with<T: Serialize>(&mut self, field: LogField, value: impl FnOnce() -> T) {
        if self.fields.contains(field) {
            self.key(field.as_str());
            self.value(&value());
        }
    }

    /// Writes a time with milliseconds. Its date and second are formatted once a second.
    fn put_time(&mut self, time: SystemTime) {
        if !self.fields.contains(LogField::Time) {
            return;
        }
        self.key(LogField::Time.as_str());
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != Some(since.as_secs()) {
                *text = rfc3339_second(since.as_secs());
                *second = Some(since.as_secs());
            }
            self.bytes.push(b'"');
            self.bytes.extend_from_slice(text.as_bytes());
        });
        let milliseconds = since.subsec_millis();
        let digit = |unit: u32| b'0' + (milliseconds / unit % 10) as u8;
        self.bytes.extend_from_slice(&[b'.', digit(100), digit(10), digit(1), b'Z', b'"']);
    }

    fn put_headers(&mut self, headers: &[(HeaderName, Cow<'_, [u8]>)]) {
        if headers.is_empty() {
            return;
        }
        self.key("headers");
        self.bytes.push(b'{');
        for (name, value) in headers {
            self.key(name.as_str());
            self.value(&EscapedBytes::<HEADER_LEN_MAX>(value));
        }
        self.bytes.push(b'}');
    }

    /// Writes a name. Neither field names nor header names need escaping.
    fn key(&mut self, name: &str) {
        if self.bytes.last() != Some(&b'{') {
            self.bytes.push(b',');
        }
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn value(&mut self, value: &impl Serialize) {
        self.is_whole &= serde_json::to_writer(&mut *self.bytes, value).is_ok();
    }
}

/// The number of lines, if there is more than one.
fn repeated(fields: usize) -> Option<usize> {
    Some(fields).filter(|fields| *fields > 1)
}

thread_local! {
    /// The last second that this thread has logged, and its text.
    static SECOND: RefCell<(Option<u64>, String)> = const { RefCell::new((None, String::new())) };
}

/// Date and time without a fraction and without the zone, which is UTC.
fn rfc3339_second(second: u64) -> String {
    let time = DateTime::<Utc>::from(UNIX_EPOCH + Duration::from_secs(second));
    time.format("%Y-%m-%dT%H:%M:%S").to_string()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

fn path_of(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}
