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
}

/// Why a description gives no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The host is missing.
    #[error("no host given: tenants are found by it, such as host=api.example.com")]
    NoHost,
    /// A parameter that has no meaning here.
    #[error("unknown parameter `{0}`: accepted are host, origin, method, path, request-headers and header")]
    UnknownParameter(String),
    /// A parameter that may be given once is there again.
    #[error("`{0}` is given twice: only header may be repeated")]
    Repeated(&'static str),
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
}

/// A request as somebody describes it; what is left out is as a browser would have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// `Host`.
    pub host: Option<String>,
    /// `Origin`.
    pub origin: Option<String>,
    /// The method of the page's request; `GET` if left out.
    pub method: Option<String>,
    /// The path, and a query if it has one; `/` if left out.
    pub path: Option<String>,
    /// If there, the probe is the preflight that asks for the method and these headers.
    pub request_headers: Option<String>,
    /// Further fields, `NAME:VALUE` each.
    pub header: Vec<String>,
}

impl Description {
    /// The description in the query of a URL.
    ///
    /// # Errors
    /// If a parameter is unknown or given twice.
    pub fn from_query(query: &str) -> Result<Self, ProbeError> {
        let mut description = Description::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            description.set(&decode(name), decode(value))?;
        }
        Ok(description)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), ProbeError> {
        let (name, slot) = match name {
            "host" => ("host", &mut self.host),
            "origin" => ("origin", &mut self.origin),
            "method" => ("method", &mut self.method),
            "path" => ("path", &mut self.path),
            "request-headers" => ("request-headers", &mut self.request_headers),
            "header" => {
                self.header.push(value);
                return Ok(());
            }
            unknown => return Err(ProbeError::UnknownParameter(unknown.to_owned())),
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
        let Description { host, origin, method, path, request_headers, header } = self;
        let method = method.unwrap_or_else(|| "GET".to_owned());
        let mut fields = vec![("host".to_owned(), host.ok_or(ProbeError::NoHost)?.into_bytes())];
        fields.extend(origin.map(|origin| ("origin".to_owned(), origin.into_bytes())));
        let method = match request_headers {
            None => method,
            Some(names) => {
                fields.push(("access-control-request-method".to_owned(), method.into_bytes()));
                let names = Some(names).filter(|names| !names.is_empty());
                fields.extend(names.map(|names| ("access-control-request-headers".to_owned(), names.into_bytes())));
                "OPTIONS".to_owned()
            }
        };
        for text in header {
            fields.push(field(&text)?);
        }
        let target = path.unwrap_or_else(|| "/".to_owned()).into_bytes();
        Probe { method: method.into_bytes(), target, fields }.checked()
    }
}

fn field(text: &str) -> Result<(String, Vec<u8>), ProbeError> {
    let parts = text.split_once(':').map(|(name, value)| (name.trim(), value.trim()));
    match parts {
        Some((name, value)) if !name.is_empty() => Ok((name.to_ascii_lowercase(), value.as_bytes().to_vec())),
        _ => Err(ProbeError::Field(text.to_owned())),
    }
}

/// `application/x-www-form-urlencoded`, as `curl --data-urlencode` and browsers write it.
fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

/// The fields of an access log line that a verdict hangs on.
#[derive(Deserialize)]
struct LogLine {
    host: String,
    method: String,
    path: String,
    #[serde(default)]
    kind: String,
    origin: Option<String>,
    requested_method: Option<String>,
    requested_headers: Option<String>,
    sec_fetch_site: Option<String>,
    #[serde(default)]
    has_credentials: bool,
}

impl Probe {
    /// The request that a line of the access log tells of. A field that the log cut short is taken as it stands.
    ///
    /// # Errors
    /// If the text is no such line.
    pub fn from_log_line(line: &str) -> Result<Self, ProbeError> {
        let line: LogLine = serde_json::from_str(line).map_err(|error| ProbeError::LogLine(error.to_string()))?;
        let mut fields = vec![("host".to_owned(), unescape(&line.host))];
        let logged = [
            ("origin", line.origin),
            ("access-control-request-method", line.requested_method),
            ("access-control-request-headers", line.requested_headers),
            ("sec-fetch-site", line.sec_fetch_site),
        ];
        for (name, value) in logged {
            fields.extend(value.map(|value| (name.to_owned(), unescape(&value))));
        }
        if line.kind == "websocket" {
            fields.push(("connection".to_owned(), b"upgrade".to_vec()));
            fields.push(("upgrade".to_owned(), b"websocket".to_vec()));
        }
        if line.has_credentials {
            fields.push(("cookie".to_owned(), b"not-logged".to_vec()));
        }
        Probe { method: unescape(&line.method), target: unescape(&line.path), fields }.checked()
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
        Probe { method: method.into(), target: target.into(), fields: fields.collect() }
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
        assert_eq!(Probe::from_log_line(line), Ok(expected));
    }

    #[test]
    fn a_logged_websocket_is_an_upgrade() {
        let line = r#"{"host":"a","method":"GET","path":"/","kind":"websocket","has_credentials":true}"#;
        let fields = [("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket"), ("cookie", "not-logged")];
        assert_eq!(Probe::from_log_line(line), Ok(probe("GET", "/", &fields)));
        assert!(matches!(Probe::from_log_line("GET / HTTP/1.1"), Err(ProbeError::LogLine(_))));
    }
}
