//! The request to explain: one exact request head, from one of three descriptions.
//!
//! The descriptions are the options of `crossgate explain`, the query of the admin listener's
//! `/explain`, and a line of the access log. All three give the same [`ExplainedRequest`]. Absent
//! on purpose: any interpretation of the request. The code of live requests does that.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crossgate_config::model::{LogField, LogFieldSet};
use crossgate_message::escape::unescape;

mod urls;

/// The maximum number of header fields: the gateway's own default limit.
const FIELDS_MAX: usize = 100;

/// One request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedRequest {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// The fields in order, `Host` first; names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    pub sender: SenderTrust,
    /// The outcome that the access log recorded, if the request comes from a log line.
    pub logged: Option<LoggedOutcome>,
}

/// Whether the sender's forwarding fields are trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderTrust {
    #[default]
    Untrusted,
    /// The sender is one of the listener's trusted proxies.
    TrustedProxy,
}

/// The outcome of a request in the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedOutcome {
    pub verdict: Option<String>,
    pub reason: Option<String>,
    /// Whether the log cut a text of the request.
    pub is_cut: bool,
}

/// The reason why a description gives no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    #[error("no host given: expected the host of a tenant, such as host=api.example.com")]
    NoHost,
    /// A value of the wrong form whose intended form is clear.
    #[error("invalid {name} `{given}`: expected {expected}")]
    Mistaken {
        /// The parameter's name.
        name: &'static str,
        given: String,
        /// The accepted form.
        expected: String,
    },
    /// Two parameters for the same part of the request.
    #[error("both `{0}` and `{1}` are given: expected only one of them")]
    Both(&'static str, &'static str),
    #[error(
        "unknown parameter `{0}`: expected url, page-url, host, origin, method, path, request-headers, header, trusted and format, or request-id"
    )]
    UnknownParameter(String),
    #[error("duplicate parameter `{0}`: only header may be repeated")]
    Repeated(&'static str),
    #[error("invalid trusted `{0}`: expected true or false")]
    Trusted(String),
    /// A field that is not `NAME:VALUE`.
    #[error("invalid header `{0}`: expected NAME:VALUE")]
    Field(String),
    /// A byte that would end a line of the head early.
    #[error("invalid request: a request head cannot contain line breaks or zero bytes in a value")]
    LineBreak,
    /// More fields than the gateway accepts.
    #[error("too many headers: expected at most {FIELDS_MAX}")]
    TooManyFields,
    /// A text that is not a line of the access log.
    #[error("not a line of the access log: {0}; expected one JSON object with host, method and path")]
    LogLine(String),
    /// A log line without fields that an explanation needs.
    #[error("the line has no {0}: add the missing fields to accessLog.fields")]
    LeftOut(String),
    /// A log line of a head that was refused before a policy could apply.
    #[error("the gateway refused the request head before a policy applied, so the line contains no request: {0}")]
    RefusedHead(String),
}

/// A request as the operator describes it. Absent parts get the values that a browser would send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestDescription {
    /// The URL of the request, instead of host and path.
    pub url: Option<Vec<u8>>,
    /// The URL of the page that sends the request, instead of the origin.
    pub page_url: Option<Vec<u8>>,
    pub host: Option<Vec<u8>>,
    pub origin: Option<Vec<u8>>,
    /// The method of the page's request; `GET` if absent.
    pub method: Option<Vec<u8>>,
    /// The path with its query; `/` if absent.
    pub path: Option<Vec<u8>>,
    /// If present, the request is a preflight for `method` and these headers.
    pub request_headers: Option<Vec<u8>>,
    /// Further fields, `NAME:VALUE` each.
    pub header: Vec<Vec<u8>>,
    pub sender: SenderTrust,
}

impl RequestDescription {
    /// Parses the query of a URL.
    ///
    /// # Errors
    /// If a parameter is unknown or given twice.
    pub fn from_query(query: &str) -> Result<Self, DescriptionError> {
        let mut description = RequestDescription::default();
        let mut trusted = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            description.set(&decode(name), decode(value), &mut trusted)?;
        }
        let sender = trusted.as_deref().map_or(Ok(SenderTrust::default()), sender)?;
        Ok(RequestDescription { sender, ..description })
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>, trusted: &mut Option<Vec<u8>>) -> Result<(), DescriptionError> {
        let (name, slot) = match name {
            b"url" => ("url", &mut self.url),
            b"page-url" => ("page-url", &mut self.page_url),
            b"host" => ("host", &mut self.host),
            b"origin" => ("origin", &mut self.origin),
            b"method" => ("method", &mut self.method),
            b"path" => ("path", &mut self.path),
            b"request-headers" => ("request-headers", &mut self.request_headers),
            b"trusted" => ("trusted", trusted),
            b"header" => {
                self.header.push(value);
                return Ok(());
            }
            unknown => return Err(DescriptionError::UnknownParameter(lossy(unknown))),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(DescriptionError::Repeated(name)),
        }
    }

    /// Builds the described request.
    ///
    /// # Errors
    /// If the host is missing, a header is malformed, or a value has the wrong form.
    pub fn into_request(self) -> Result<ExplainedRequest, DescriptionError> {
        self.check()?;
        let RequestDescription { host, origin, method, path, request_headers, header, sender, .. } =
            self.take_apart()?;
        let method = method.unwrap_or_else(|| b"GET".to_vec());
        let mut fields = vec![("host".to_owned(), host.ok_or(DescriptionError::NoHost)?)];
        fields.extend(origin.map(|origin| ("origin".to_owned(), origin)));
        let method = match request_headers {
            None => method,
            // Fetch, CORS-preflight fetch: without unsafe header names, browsers leave
            // `Access-Control-Request-Headers` out.
            Some(names) => {
                fields.push(("access-control-request-method".to_owned(), method));
                let names = Some(names).filter(|names| !names.is_empty());
                fields.extend(names.map(|names| ("access-control-request-headers".to_owned(), names)));
                b"OPTIONS".to_vec()
            }
        };
        for text in header {
            fields.push(field(&text)?);
        }
        let target = path.unwrap_or_else(|| b"/".to_vec());
        ExplainedRequest { method, target, fields, sender, logged: None }.checked()
    }
}

impl RequestDescription {
    /// Rejects values of the wrong form, with the form that would be accepted.
    fn check(&self) -> Result<(), DescriptionError> {
        let check = |value: &Option<Vec<u8>>, check: fn(&[u8]) -> Result<(), DescriptionError>| {
            value.as_deref().map_or(Ok(()), check)
        };
        check(&self.host, urls::check_host)?;
        check(&self.origin, urls::check_origin)?;
        check(&self.path, urls::check_path)?;
        check(&self.request_headers, urls::check_request_headers)
    }

    /// Replaces the URLs by their parts.
    fn take_apart(mut self) -> Result<Self, DescriptionError> {
        if let Some(url) = self.url.take() {
            let urls::ApiUrl { host, path, is_websocket } = urls::api_url(&url)?;
            for (name, is_given) in [("host", self.host.is_some()), ("path", self.path.is_some())] {
                if is_given {
                    return Err(DescriptionError::Both("url", name));
                }
            }
            (self.host, self.path) = (Some(host.into_bytes()), Some(path.into_bytes()));
            // RFC 6455, section 4.1: the opening handshake of a WebSocket.
            if is_websocket {
                self.header.extend([b"connection: upgrade".to_vec(), b"upgrade: websocket".to_vec()]);
            }
        }
        if let Some(page) = self.page_url.take() {
            if self.origin.is_some() {
                return Err(DescriptionError::Both("page-url", "origin"));
            }
            self.origin = Some(urls::page_origin(&page)?);
        }
        Ok(self)
    }
}

fn sender(text: &[u8]) -> Result<SenderTrust, DescriptionError> {
    match text {
        b"true" => Ok(SenderTrust::TrustedProxy),
        b"false" => Ok(SenderTrust::Untrusted),
        other => Err(DescriptionError::Trusted(lossy(other))),
    }
}

fn field(text: &[u8]) -> Result<(String, Vec<u8>), DescriptionError> {
    let mut parts = text.splitn(2, |byte| *byte == b':').map(<[u8]>::trim_ascii);
    let name = parts.next().and_then(|name| std::str::from_utf8(name).ok()).filter(|name| !name.is_empty());
    match (name, parts.next()) {
        (Some(name), Some(value)) => Ok((name.to_ascii_lowercase(), value.to_vec())),
        _ => Err(DescriptionError::Field(lossy(text))),
    }
}

/// Decodes `application/x-www-form-urlencoded` as `curl --data-urlencode` and browsers write it.
/// The result is bytes: a value that is not UTF-8 is sent unchanged.
fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The fields of an access log line that a verdict depends on.
#[derive(Deserialize)]
struct LogLine {
    host: Option<String>,
    method: Option<String>,
    path: Option<String>,
    #[serde(default)]
    kind: String,
    verdict: Option<String>,
    reason: Option<String>,
    origin: Option<String>,
    #[serde(default)]
    origin_fields: usize,
    requested_method: Option<String>,
    #[serde(default)]
    requested_method_fields: usize,
    requested_headers: Option<String>,
    sec_fetch_site: Option<String>,
    #[serde(default)]
    sec_fetch_site_fields: usize,
    sec_fetch_mode: Option<String>,
    #[serde(default)]
    sec_fetch_mode_fields: usize,
    sec_fetch_dest: Option<String>,
    #[serde(default)]
    sec_fetch_dest_fields: usize,
    connection: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    has_credentials: bool,
    #[serde(default)]
    has_ambient_credentials: bool,
    #[serde(default)]
    cut: bool,
}

/// Fields that a verdict may depend on. If the configuration leaves one out, a line looks as if the
/// request had not had it.
const EXPLAINED: [LogField; 17] = [
    LogField::Kind,
    LogField::Origin,
    LogField::OriginFields,
    LogField::RequestedMethod,
    LogField::RequestedMethodFields,
    LogField::RequestedHeaders,
    LogField::SecFetchSite,
    LogField::SecFetchSiteFields,
    LogField::SecFetchMode,
    LogField::SecFetchModeFields,
    LogField::SecFetchDest,
    LogField::SecFetchDestFields,
    LogField::Connection,
    LogField::Scheme,
    LogField::HasCredentials,
    LogField::HasAmbientCredentials,
    LogField::Cut,
];

/// The fields that a verdict may depend on and that are not logged.
pub fn missing_fields(logged: LogFieldSet) -> Vec<&'static str> {
    EXPLAINED.into_iter().filter(|field| !logged.contains(*field)).map(LogField::as_str).collect()
}

/// A line for a refused head, without a request.
#[derive(Deserialize)]
struct RefusedLine {
    #[serde(rename = "request_id")]
    _request_id: String,
    note: String,
}

impl LogLine {
    /// The error for a line that does not describe a request.
    fn left_out(&self) -> Option<DescriptionError> {
        let needed = [(LogField::Host, &self.host), (LogField::Method, &self.method), (LogField::Path, &self.path)];
        let missing: Vec<_> =
            needed.iter().filter(|(_, value)| value.is_none()).map(|(field, _)| field.as_str()).collect();
        match missing.len() {
            0 => None,
            len if len == needed.len() && self.verdict.is_none() => {
                Some(DescriptionError::LogLine("no request fields".to_owned()))
            }
            _ => Some(DescriptionError::LeftOut(missing.join(", "))),
        }
    }

    /// A field with credentials of the same kind.
    fn credentials_field(&self) -> &'static str {
        if self.has_ambient_credentials { "cookie" } else { "authorization" }
    }

    /// The request's fields. A repeated field appears twice: a verdict does not depend on higher
    /// counts.
    fn fields(&self) -> Vec<(String, Vec<u8>)> {
        let is_websocket = (self.kind == "websocket").then_some("websocket");
        let logged = [
            ("host", self.host.as_deref(), 1),
            ("origin", self.origin.as_deref(), self.origin_fields),
            ("access-control-request-method", self.requested_method.as_deref(), self.requested_method_fields),
            ("access-control-request-headers", self.requested_headers.as_deref(), 1),
            ("sec-fetch-site", self.sec_fetch_site.as_deref(), self.sec_fetch_site_fields),
            ("sec-fetch-mode", self.sec_fetch_mode.as_deref(), self.sec_fetch_mode_fields),
            ("sec-fetch-dest", self.sec_fetch_dest.as_deref(), self.sec_fetch_dest_fields),
            ("x-forwarded-proto", self.scheme.as_deref(), 1),
            ("connection", self.connection.as_deref().or(is_websocket.map(|_| "upgrade")), 1),
            ("upgrade", is_websocket, 1),
            (self.credentials_field(), self.has_credentials.then_some("not-logged"), 1),
        ];
        let lines = logged.into_iter().flat_map(|(name, value, times)| {
            let line = value.map(|value| (name.to_owned(), unescape(value)));
            std::iter::repeat_n(line, times.clamp(1, 2)).flatten()
        });
        lines.collect()
    }
}

impl ExplainedRequest {
    /// Parses a line of the access log. A field that the log cut is used as it is.
    ///
    /// # Errors
    /// If the text is not such a line.
    pub fn from_log_line(line: &str) -> Result<Self, DescriptionError> {
        let refused =
            || serde_json::from_str(line).ok().map(|RefusedLine { note, .. }| DescriptionError::RefusedHead(note));
        let parsed: LogLine =
            serde_json::from_str(line).map_err(|error| DescriptionError::LogLine(error.to_string()))?;
        let line = match parsed.left_out() {
            None => parsed,
            Some(left_out) => return Err(refused().unwrap_or(left_out)),
        };
        let fields = line.fields();
        // The scheme is logged if TLS or a trusted proxy's field established it.
        let sender = if line.scheme.is_some() { SenderTrust::TrustedProxy } else { SenderTrust::Untrusted };
        let text = |text: Option<&String>| unescape(text.map_or("", String::as_str));
        let (method, target) = (text(line.method.as_ref()), text(line.path.as_ref()));
        let logged = LoggedOutcome { verdict: line.verdict, reason: line.reason, is_cut: line.cut };
        ExplainedRequest { method, target, fields, sender, logged: Some(logged) }.checked()
    }

    /// The request head as HTTP/1.1 bytes.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = [&self.method[..], b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.fields {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        head
    }

    fn checked(self) -> Result<Self, DescriptionError> {
        if self.fields.len() > FIELDS_MAX {
            return Err(DescriptionError::TooManyFields);
        }
        if self.breaks_line() { Err(DescriptionError::LineBreak) } else { Ok(self) }
    }

    fn breaks_line(&self) -> bool {
        let fields = self.fields.iter().flat_map(|(name, value)| [name.as_bytes(), value]);
        // RFC 9110, section 5.5: CR, LF and NUL in a value allow header injection.
        let mut texts = fields.chain([&self.method[..], &self.target[..]]);
        texts.any(|text| text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(method: &str, target: &str, fields: &[(&str, &str)]) -> ExplainedRequest {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        ExplainedRequest {
            method: method.into(),
            target: target.into(),
            fields: fields.collect(),
            sender: SenderTrust::Untrusted,
            logged: None,
        }
    }

    #[track_caller]
    fn check(query: &str, expected: Result<ExplainedRequest, DescriptionError>) {
        assert_eq!(RequestDescription::from_query(query).and_then(RequestDescription::into_request), expected);
    }

    #[test]
    fn query_gives_the_described_request() {
        check("host=a.example", Ok(probe("GET", "/", &[("host", "a.example")])));
        check(
            "host=a.example%3A8080&origin=https%3A%2F%2Fb.example&method=PUT&path=/x%3Fy+z&header=X-A:+1&header=cookie:a=b",
            Ok(probe(
                "PUT",
                "/x?y z",
                &[("host", "a.example:8080"), ("origin", "https://b.example"), ("x-a", "1"), ("cookie", "a=b")],
            )),
        );
    }

    #[test]
    fn bytes_outside_utf8_are_kept() {
        let mut expected = probe("GET", "/", &[("host", "a"), ("origin", "")]);
        expected.fields[1].1 = b"https://b\xff".to_vec();
        check("host=a&origin=https://b%ff", Ok(expected.clone()));
        check("host=a&header=origin:https://b%ff", Ok(expected));
    }

    #[test]
    fn sender_is_trusted_only_with_trusted_true() {
        let expected = probe("GET", "/", &[("host", "a")]);
        check("host=a&trusted=true", Ok(ExplainedRequest { sender: SenderTrust::TrustedProxy, ..expected.clone() }));
        check("host=a&trusted=false", Ok(expected));
        check("host=a&trusted=yes", Err(DescriptionError::Trusted("yes".into())));
        check("host=a&trusted=true&trusted=true", Err(DescriptionError::Repeated("trusted")));
    }

    #[test]
    fn request_headers_parameter_gives_a_preflight() {
        let common = [("host", "a"), ("origin", "https://b"), ("access-control-request-method", "PUT")];
        let [host, origin, method] = common;
        check("host=a&origin=https://b&method=PUT&request-headers=", Ok(probe("OPTIONS", "/", &common)));
        check(
            "host=a&origin=https://b&method=PUT&request-headers=x-a,x-b",
            Ok(probe("OPTIONS", "/", &[host, origin, method, ("access-control-request-headers", "x-a,x-b")])),
        );
    }

    #[test]
    fn c5_urls_give_host_path_and_origin() {
        let expected = probe("GET", "/x?y=z", &[("host", "a:8080"), ("origin", "https://b")]);
        check("url=http://a:8080/x?y=z%23top&page-url=https://B:443/cart?q", Ok(expected));
        let fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")];
        check("url=wss://a/feed", Ok(probe("GET", "/feed", &fields)));
    }

    #[test]
    fn invalid_explain_query_names_the_mistake() {
        check("", Err(DescriptionError::NoHost));
        check("url=https://a/&host=a", Err(DescriptionError::Both("url", "host")));
        check("url=https://a/&path=/", Err(DescriptionError::Both("url", "path")));
        check("host=a&page-url=https://b/&origin=https://b", Err(DescriptionError::Both("page-url", "origin")));
        for wrong in ["host=https://a", "host=a&origin=https://b/", "host=a&path=x", "url=a", "host=a&page-url=b"] {
            let found = RequestDescription::from_query(wrong).and_then(RequestDescription::into_request);
            assert!(matches!(found, Err(DescriptionError::Mistaken { .. })), "{wrong}: {found:?}");
        }
        check("host=a&hots=b", Err(DescriptionError::UnknownParameter("hots".into())));
        check("host=a&host=b", Err(DescriptionError::Repeated("host")));
        check("host=a&header=x", Err(DescriptionError::Field("x".into())));
        check("host=a&origin=b%0d%0ax-evil:1", Err(DescriptionError::LineBreak));
        check("host=a&path=/%0a", Err(DescriptionError::LineBreak));
        check(&format!("host=a{}", "&header=a:b".repeat(100)), Err(DescriptionError::TooManyFields));
    }

    #[test]
    fn log_line_gives_its_request() {
        let line = r#"{"host":"a","method":"OPTIONS","path":"/x","kind":"preflight","origin":"https://b\\xff",
            "requested_method":"PUT","requested_headers":"x-a","status":204,"unknown":1}"#;
        let mut expected = probe(
            "OPTIONS",
            "/x",
            &[
                ("host", "a"),
                ("origin", ""),
                ("access-control-request-method", "PUT"),
                ("access-control-request-headers", "x-a"),
            ],
        );
        expected.fields[1].1 = b"https://b\xff".to_vec();
        expected.logged = Some(LoggedOutcome { verdict: None, reason: None, is_cut: false });
        assert_eq!(ExplainedRequest::from_log_line(line), Ok(expected));
    }

    #[test]
    fn log_line_gives_repeated_fields_and_scheme() {
        let line = r#"{"host":"a","method":"GET","path":"/","verdict":"deny","reason":"x","origin":"b","origin_fields":9,
            "connection":"origin","scheme":"https","cut":true}"#;
        let fields =
            [("host", "a"), ("origin", "b"), ("origin", "b"), ("x-forwarded-proto", "https"), ("connection", "origin")];
        let logged = LoggedOutcome { verdict: Some("deny".into()), reason: Some("x".into()), is_cut: true };
        let expected =
            ExplainedRequest { sender: SenderTrust::TrustedProxy, logged: Some(logged), ..probe("GET", "/", &fields) };
        assert_eq!(ExplainedRequest::from_log_line(line), Ok(expected));
    }

    #[test]
    fn logged_websocket_gives_an_upgrade_request() {
        let line = r#"{"host":"a","method":"GET","path":"/","kind":"websocket","has_credentials":true}"#;
        let fields =
            [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket"), ("authorization", "not-logged")];
        let logged = Some(LoggedOutcome { verdict: None, reason: None, is_cut: false });
        assert_eq!(
            ExplainedRequest::from_log_line(line),
            Ok(ExplainedRequest { logged, ..probe("GET", "/", &fields) })
        );
        assert!(matches!(ExplainedRequest::from_log_line("GET / HTTP/1.1"), Err(DescriptionError::LogLine(_))));
        let refused = r#"{"request_id":"1","tenant":"none","reason":"framing","status":400,"note":"ambiguous"}"#;
        assert_eq!(ExplainedRequest::from_log_line(refused), Err(DescriptionError::RefusedHead("ambiguous".into())));
    }

    #[test]
    fn d2_line_without_needed_fields_names_them() {
        let line = r#"{"verdict":"deny","reason":"no_match","path":"/","origin":"https://a.example"}"#;
        assert_eq!(ExplainedRequest::from_log_line(line), Err(DescriptionError::LeftOut("host, method".into())));
        assert!(matches!(ExplainedRequest::from_log_line("{}"), Err(DescriptionError::LogLine(_))));
        let logged = [LogField::Host, LogField::Origin, LogField::Kind, LogField::Cut].into_iter().collect();
        let left_out = missing_fields(logged);
        assert_eq!(left_out.len(), 14);
        assert!(left_out.contains(&"requested_method") && !left_out.contains(&"origin"));
    }
}
