//! The corpus files, in the format that their README.md describes, for tests with a gateway.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

const DEFAULT_HOST: &str = "api.example.test";
pub(crate) type Lines = Vec<(String, String)>;

/// Templates, and tenants that extend one.
#[derive(Debug, Deserialize)]
pub(crate) struct Policies {
    pub(crate) templates: BTreeMap<String, serde_json::Value>,
    pub(crate) tenants: BTreeMap<String, TenantPolicy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TenantPolicy {
    pub(crate) policy: String,
    pub(crate) allow_origins: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) policy: String,
    pub(crate) request: CaseRequest,
    pub(crate) upstream: Option<UpstreamAnswer>,
    pub(crate) expect: Expect,
    /// The expectation for a request over TLS, where it differs.
    pub(crate) expect_over_tls: Option<Expect>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CaseRequest {
    pub(crate) method: String,
    #[serde(default)]
    pub(crate) headers: Vec<(String, Text)>,
}

/// A text, written out or as a repetition.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Text {
    Plain(String),
    Repeated { repeat: String, times: usize },
}

impl Text {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Repeated { repeat, times } => repeat.repeat(*times),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct UpstreamAnswer {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: Lines,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Expect {
    #[serde(default)]
    pub(crate) verdict: String,
    #[serde(default)]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    pub(crate) upstream: usize,
    /// The request contains bytes that HTTP forbids, so it gets 400 before a policy decides.
    #[serde(default)]
    pub(crate) http400: bool,
    /// The request head exceeds its size limit, so the gateway responds 431.
    #[serde(default)]
    pub(crate) http431: bool,
}

/// A field on one line, or on several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn ok() -> u16 {
    200
}

pub(crate) fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/tests/corpus"))
}

pub(crate) fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let path = corpus().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Policies {
    /// A policy as YAML, and the origins that a tenant adds to it.
    pub(crate) fn of(&self, name: &str) -> (&serde_json::Value, &[serde_json::Value]) {
        match self.tenants.get(name) {
            Some(tenant) => (&self.templates[&tenant.policy], &tenant.allow_origins),
            None => (&self.templates[name], &[]),
        }
    }
}

impl Case {
    /// The id and the title, for a failure message.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.id, self.title)
    }

    /// The expectation for a request over `scheme`.
    pub(crate) fn expect_over(&self, scheme: &str) -> &Expect {
        self.expect_over_tls.as_ref().filter(|_| scheme == "https").unwrap_or(&self.expect)
    }

    /// The request as bytes, with `more` fields after `Host`.
    pub(crate) fn bytes(&self, target: &str, more: &[(&str, &str)]) -> Vec<u8> {
        let lines: Lines = self.request.headers.iter().map(|(name, value)| (name.clone(), value.text())).collect();
        let is_host = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("host");
        let host = lines.iter().find(is_host).map_or(DEFAULT_HOST, |(_, value)| value);
        let more = more.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let lines = lines.iter().filter(|line| !is_host(line)).map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields: String = more.chain(lines).collect();
        latin1(&format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n", self.request.method))
    }
}

/// Nearly twice the limit of a request head. The HTTP/2 library answers larger heads itself, or not
/// at all.
const HTTP2_FIELDS_LEN_MAX: usize = 60 * 1024;

impl Case {
    /// The request over HTTP/2, or `None` where HTTP/2 cannot express it or the head is too long.
    /// White space around a value is not part of it.
    pub(crate) fn http2(&self, more: (&str, &str), scheme: &str) -> Option<http::Request<()>> {
        let connection_fields = ["connection", "upgrade", "transfer-encoding", "keep-alive", "te"];
        let mut host = DEFAULT_HOST.to_owned();
        if self.request.headers.iter().map(|(_, value)| value.text().len()).sum::<usize>() > HTTP2_FIELDS_LEN_MAX {
            return None;
        }
        let mut request = http::Request::builder().method(self.request.method.as_str()).header(more.0, more.1);
        for (name, value) in &self.request.headers {
            let (name, value) = (name.to_ascii_lowercase(), value.text());
            if connection_fields.contains(&name.as_str()) {
                return None;
            }
            match name.as_str() {
                "host" => host = value,
                _ => request = request.header(name, latin1(value.trim_matches([' ', '\t']))),
            }
        }
        request.uri(format!("{scheme}://{host}/")).body(()).ok()
    }
}

/// One byte per character, U+0000 to U+00FF.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect()
}
