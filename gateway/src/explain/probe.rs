//! The request that somebody wants explained: one exact request head, however it was described.
//!
//! Three descriptions give the same probe: the options of `crossgate explain`, the query of the admin listener's
//! `/explain`, and a line of the access log. Nothing here knows what the request means; the live path's own code says
//! that.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::access_log::unescape;

/// The most fields a probe may have: the gateway's own default limit.
const FIELDS_MAX: usize = 100;

/// One request, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The method.
    pub method: Vec<u8>,
    /// The request target, in origin form.
    pub target: Vec<u8>,
    /// The fields in order, `Host` first; names in lower case.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Who sends it.
    pub sender: Sender,
    /// What the access log says became of it, if it tells of the request.
    pub logged: Option<Logged>,
}

/// Whether the sender's word about the client counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sender {
    /// Its forwarding fields are ignored.
    #[default]
    Stranger,
    /// One of the listener's trusted proxies.
    TrustedProxy,
}

/// What the access log says became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The verdict, if the line has one.
    pub verdict: Option<String>,
    /// The reason, if the line has one.
    pub reason: Option<String>,
    /// Whether the log cut a text of the request.
    pub is_cut: bool,
}

/// Why a description gives no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The host is missing.
    #[error("no host given: tenants are found by it, such as host=api.example.com")]
    NoHost,
    /// A parameter that has no meaning here.
    #[error("unknown parameter `{0}`: accepted are host, origin, method, path, request-headers, header and trusted")]
    UnknownParameter(String),
    /// A parameter that may be given once is there again.
    #[error("`{0}` is given twice: only header may be repeated")]
    Repeated(&'static str),
    /// A switch that is neither on nor off.
    #[error("trusted is `{0}`: true and false are accepted")]
    Trusted(String),
    /// A field that is not `NAME:VALUE`.
    #[error("`{0}` is not a header: write NAME:VALUE")]
    Field(String),
    /// A byte that would end a line of the head early.
    #[error("a line break or a zero byte cannot be sent in a request head: leave it out")]
    LineBreak,
    /// More fields than the gateway takes.
    #[error("more than {FIELDS_MAX} headers: give at most as many")]
    TooManyFields,
    /// A text that is no line of the access log.
    #[error("not a line of the access log: {0}; one JSON object with host, method and path is accepted")]
    LogLine(String),
    /// A line of a head that was refused before anybody's policy could apply to it.
    #[error("the head was refused as such, so nothing of the request was logged and no policy was asked: {0}")]
    RefusedHead(String),
}

/// A request as somebody describes it; what is left out is as a browser would have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `Host`.
    pub host: Option<Vec<u8>>,
    /// `Origin`.
    pub origin: Option<Vec<u8>>,
    /// The method of the page's request; `GET` if left out.
    pub method: Option<Vec<u8>>,
    /// The path, and a query if it has one; `/` if left out.
    pub path: Option<Vec<u8>>,
    /// If there, the probe is the preflight that asks for the method and these headers.
    pub request_headers: Option<Vec<u8>>,
    /// Further fields, `NAME:VALUE` each.
    pub header: Vec<Vec<u8>>,
    /// Who sends it.
    pub sender: Sender,
}

impl Description {
    /// The description in the query of a URL.
    ///
    /// # Errors
    /// If a parameter is unknown or given twice.
    pub fn from_query(query: &str) -> Result<Self, ProbeError> {
        let mut description = Description::default();
        let mut trusted = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            description.set(&decode(name), decode(value), &mut trusted)?;
        }
        let sender = trusted.as_deref().map_or(Ok(Sender::default()), sender)?;
        Ok(Description { sender, ..description })
    }

    fn set(&mut self, name: &[u8], value: Vec<u8>, trusted: &mut Option<Vec<u8>>) -> Result<(), ProbeError> {
        let (name, slot) = match name {
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
            unknown => return Err(ProbeError::UnknownParameter(lossy(unknown))),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(ProbeError::Repeated(name)),
        }
    }

    /// The request it describes.
    ///
    /// # Errors
    /// If the host is missing or a header is not one.
    pub fn into_probe(self) -> Result<Probe, ProbeError> {
        let Description { host, origin, method, path, request_headers, header, sender } = self;
        let method = method.unwrap_or_else(|| b"GET".to_vec());
        let mut fields = vec![("host".to_owned(), host.ok_or(ProbeError::NoHost)?)];
        fields.extend(origin.map(|origin| ("origin".to_owned(), origin)));
        let method = match request_headers {
            None => method,
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
        Probe { method, target, fields, sender, logged: None }.checked()
    }
}

fn sender(text: &[u8]) -> Result<Sender, ProbeError> {
    match text {
        b"true" => Ok(Sender::TrustedProxy),
        b"false" => Ok(Sender::Stranger),
        other => Err(ProbeError::Trusted(lossy(other))),
    }
}

fn field(text: &[u8]) -> Result<(String, Vec<u8>), ProbeError> {
    let mut parts = text.splitn(2, |byte| *byte == b':').map(<[u8]>::trim_ascii);
    let name = parts.next().and_then(|name| std::str::from_utf8(name).ok()).filter(|name| !name.is_empty());
    match (name, parts.next()) {
        (Some(name), Some(value)) => Ok((name.to_ascii_lowercase(), value.to_vec())),
        _ => Err(ProbeError::Field(lossy(text))),
    }
}

/// `application/x-www-form-urlencoded`, as `curl --data-urlencode` and browsers write it. A byte stays a byte: what is not UTF-8
/// is sent as such.
fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// The fields of an access log line that a verdict hangs on.
#[derive(Deserialize)]
struct LogLine {
    host: String,
    method: String,
    path: String,
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
    connection: Option<String>,
    scheme: Option<String>,
    #[serde(default)]
    has_credentials: bool,
    #[serde(default)]
    cut: bool,
}

/// A line that tells of a refusal, and of no request.
#[derive(Deserialize)]
struct RefusedLine {
    #[serde(rename = "request_id")]
    _request_id: String,
    note: String,
}

impl LogLine {
    /// The fields that were there, as often as it matters: once, or more than once.
    fn fields(&self) -> Vec<(String, Vec<u8>)> {
        let is_websocket = (self.kind == "websocket").then_some("websocket");
        let logged = [
            ("host", Some(&*self.host), 1),
            ("origin", self.origin.as_deref(), self.origin_fields),
            ("access-control-request-method", self.requested_method.as_deref(), self.requested_method_fields),
            ("access-control-request-headers", self.requested_headers.as_deref(), 1),
            ("sec-fetch-site", self.sec_fetch_site.as_deref(), self.sec_fetch_site_fields),
            ("x-forwarded-proto", self.scheme.as_deref(), 1),
            ("connection", self.connection.as_deref().or(is_websocket.map(|_| "upgrade")), 1),
            ("upgrade", is_websocket, 1),
            ("cookie", self.has_credentials.then_some("not-logged"), 1),
        ];
        let lines = logged.into_iter().flat_map(|(name, value, times)| {
            let line = value.map(|value| (name.to_owned(), unescape(value)));
            std::iter::repeat_n(line, times.clamp(1, 2)).flatten()
        });
        lines.collect()
    }
}

impl Probe {
    /// The request that a line of the access log tells of. A field that the log cut short is taken as it stands.
    ///
    /// # Errors
    /// If the text is no such line.
    pub fn from_log_line(line: &str) -> Result<Self, ProbeError> {
        let refused = || serde_json::from_str(line).ok().map(|RefusedLine { note, .. }| ProbeError::RefusedHead(note));
        let line: LogLine = serde_json::from_str(line)
            .map_err(|error| refused().unwrap_or_else(|| ProbeError::LogLine(error.to_string())))?;
        let fields = line.fields();
        // Logged by a trusted proxy's word, or over TLS: both are believed.
        let sender = if line.scheme.is_some() { Sender::TrustedProxy } else { Sender::Stranger };
        let (method, target) = (unescape(&line.method), unescape(&line.path));
        let logged = Logged { verdict: line.verdict, reason: line.reason, is_cut: line.cut };
        Probe { method, target, fields, sender, logged: Some(logged) }.checked()
    }

    /// The request head as it goes over the wire.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = [&self.method[..], b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        for (name, value) in &self.fields {
            head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        head
    }

    fn checked(self) -> Result<Self, ProbeError> {
        if self.fields.len() > FIELDS_MAX {
            return Err(ProbeError::TooManyFields);
        }
        if self.breaks_line() { Err(ProbeError::LineBreak) } else { Ok(self) }
    }

    fn breaks_line(&self) -> bool {
        let fields = self.fields.iter().flat_map(|(name, value)| [name.as_bytes(), value]);
        let mut texts = fields.chain([&self.method[..], &self.target[..]]);
        texts.any(|text| text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(method: &str, target: &str, fields: &[(&str, &str)]) -> Probe {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Probe {
            method: method.into(),
            target: target.into(),
            fields: fields.collect(),
            sender: Sender::Stranger,
            logged: None,
        }
    }

    #[track_caller]
    fn check(query: &str, expected: Result<Probe, ProbeError>) {
        assert_eq!(Description::from_query(query).and_then(Description::into_probe), expected);
    }

    #[test]
    fn a_query_describes_a_request() {
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
    fn a_byte_stays_a_byte() {
        let mut expected = probe("GET", "/", &[("host", "a"), ("origin", "")]);
        expected.fields[1].1 = b"https://b\xff".to_vec();
        check("host=a&origin=https://b%ff", Ok(expected.clone()));
        check("host=a&header=origin:https://b%ff", Ok(expected));
    }

    #[test]
    fn a_sender_is_trusted_where_that_is_said() {
        let expected = probe("GET", "/", &[("host", "a")]);
        check("host=a&trusted=true", Ok(Probe { sender: Sender::TrustedProxy, ..expected.clone() }));
        check("host=a&trusted=false", Ok(expected));
        check("host=a&trusted=yes", Err(ProbeError::Trusted("yes".into())));
        check("host=a&trusted=true&trusted=true", Err(ProbeError::Repeated("trusted")));
    }

    #[test]
    fn request_headers_make_it_a_preflight() {
        let common = [("host", "a"), ("origin", "https://b"), ("access-control-request-method", "PUT")];
        let [host, origin, method] = common;
        check("host=a&origin=https://b&method=PUT&request-headers=", Ok(probe("OPTIONS", "/", &common)));
        check(
            "host=a&origin=https://b&method=PUT&request-headers=x-a,x-b",
            Ok(probe("OPTIONS", "/", &[host, origin, method, ("access-control-request-headers", "x-a,x-b")])),
        );
    }

    #[test]
    fn a_wrong_query_says_what_is_wrong() {
        check("", Err(ProbeError::NoHost));
        check("host=a&hots=b", Err(ProbeError::UnknownParameter("hots".into())));
        check("host=a&host=b", Err(ProbeError::Repeated("host")));
        check("host=a&header=x", Err(ProbeError::Field("x".into())));
        check("host=a&origin=b%0d%0ax-evil:1", Err(ProbeError::LineBreak));
        check("host=a&path=/%0a", Err(ProbeError::LineBreak));
        check(&format!("host=a{}", "&header=a:b".repeat(100)), Err(ProbeError::TooManyFields));
    }

    #[test]
    fn a_log_line_tells_its_request() {
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
        expected.logged = Some(Logged { verdict: None, reason: None, is_cut: false });
        assert_eq!(Probe::from_log_line(line), Ok(expected));
    }

    #[test]
    fn a_log_line_tells_how_often_and_under_which_scheme() {
        let line = r#"{"host":"a","method":"GET","path":"/","verdict":"deny","reason":"x","origin":"b","origin_fields":9,
            "connection":"origin","scheme":"https","cut":true}"#;
        let fields =
            [("host", "a"), ("origin", "b"), ("origin", "b"), ("x-forwarded-proto", "https"), ("connection", "origin")];
        let logged = Logged { verdict: Some("deny".into()), reason: Some("x".into()), is_cut: true };
        let expected = Probe { sender: Sender::TrustedProxy, logged: Some(logged), ..probe("GET", "/", &fields) };
        assert_eq!(Probe::from_log_line(line), Ok(expected));
    }

    #[test]
    fn a_logged_websocket_is_an_upgrade() {
        let line = r#"{"host":"a","method":"GET","path":"/","kind":"websocket","has_credentials":true}"#;
        let fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket"), ("cookie", "not-logged")];
        let logged = Some(Logged { verdict: None, reason: None, is_cut: false });
        assert_eq!(Probe::from_log_line(line), Ok(Probe { logged, ..probe("GET", "/", &fields) }));
        assert!(matches!(Probe::from_log_line("GET / HTTP/1.1"), Err(ProbeError::LogLine(_))));
        let refused = r#"{"request_id":"1","tenant":"none","reason":"framing","status":400,"note":"ambiguous"}"#;
        assert_eq!(Probe::from_log_line(refused), Err(ProbeError::RefusedHead("ambiguous".into())));
    }
}
