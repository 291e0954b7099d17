//! The usual site: one tenant with one allowed origin and one recording upstream, and assertions on
//! its answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::gateway::{Gateway, config};
use super::upstream::{Exchange, RecordingUpstream, Then};
use super::wire::{Connection, Response, WireError};

/// The tenant's host.
pub(crate) const HOST: &str = "api.a.test";
/// The only allowed origin.
pub(crate) const ORIGIN: &str = "https://app.a.test";
/// The `policies` section.
const POLICY: &str = r#"
policies:
  spa:
    allowOrigins: ["https://app.a.test"]
    allowMethods: [PUT]
    allowHeaders: [content-type, x-api]
    exposeHeaders: [x-req]
    allowCredentials: true
"#;

/// A gateway and its upstream.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: RecordingUpstream,
}

impl Site {
    /// Starts a site whose upstream answers every request with 200 and `hello`.
    pub(crate) fn start() -> Self {
        Self::with_upstream(RecordingUpstream::answering("hello"), "")
    }

    /// Starts a site whose upstream runs `script` for every request.
    pub(crate) fn scripted(script: impl Fn(&mut Exchange) -> Then + Send + Sync + 'static) -> Self {
        Self::with_upstream(RecordingUpstream::start(script), "")
    }

    /// Starts a gateway in front of `upstream`, with `more` top-level keys.
    pub(crate) fn with_upstream(upstream: RecordingUpstream, more: &str) -> Self {
        let gateway = Gateway::start(&config(&format!("{}{more}", tenant_config(&upstream, ""))), &[]);
        Self { gateway, upstream }
    }

    /// Sends one request with the allowed origin on a new connection.
    pub(crate) fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Response {
        let headers = [&[("Origin", ORIGIN)], headers].concat();
        self.gateway.ask(method, target, HOST, &headers)
    }

    /// Sends raw bytes on a new connection.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<Response, WireError> {
        Connection::ask(self.gateway.data, bytes)
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.gateway.data)
    }

    /// The value of the only line with that name in the last request at the upstream.
    pub(crate) fn upstream_saw(&self, name: &str) -> String {
        let seen = self.upstream.seen();
        seen.last().expect("a request").headers.one(name).to_owned()
    }
}

/// The upstream, policy and tenant of the site. `upstream_options` are added to the upstream.
pub(crate) fn tenant_config(upstream: &RecordingUpstream, upstream_options: &str) -> String {
    tenant_config_at(upstream.address, upstream_options)
}

/// Like [`tenant_config`], with the address of a server.
pub(crate) fn tenant_config_at(server: SocketAddr, upstream_options: &str) -> String {
    format!(
        "upstreams:\n  api: {{ servers: [{server}]{upstream_options} }}\n{POLICY}\
         tenants:\n  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}\n"
    )
}

/// Asserts the exact CORS fields of the answer to an actual request of the allowed origin.
pub(crate) fn assert_allowed(response: &Response) {
    let wanted: BTreeMap<String, Vec<String>> = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", ORIGIN),
        ("access-control-expose-headers", "x-req"),
        ("vary", "origin"),
    ]
    .map(|(name, value)| (name.to_owned(), vec![value.to_owned()]))
    .into();
    assert_eq!(response.headers.cors(), wanted, "{response:?}");
}

/// Asserts a denial at the edge: 403, `Vary`, a problem, no CORS header, and no echo of the origin.
pub(crate) fn assert_denied(response: &Response, origin: &str) {
    assert_edge_error(response, 403);
    assert_never_readable(response);
    assert!(response.headers.vary().contains(&"origin".to_owned()), "{response:?}");
    let lines: Vec<String> = response.headers.0.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert!(!(lines.join("\n") + &response.text()).contains(origin), "the origin is echoed: {response:?}");
}

/// Asserts that the answer has no CORS header.
pub(crate) fn assert_never_readable(response: &Response) {
    assert_eq!(response.headers.access_control(), Vec::<String>::new(), "{response:?}");
}

/// Asserts an answer of the gateway: a problem with `no-store`, `nosniff` and a request id.
pub(crate) fn assert_edge_error(response: &Response, status: u16) {
    assert_eq!(response.status, status, "{response:?}");
    let fixed = [
        ("content-type", "application/problem+json"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];
    for (name, value) in fixed {
        assert_eq!(response.headers.one(name), value, "{response:?}");
    }
    assert!(!response.headers.one("x-request-id").is_empty());
    assert!(response.headers.one("proxy-status").starts_with("crossgate; error="), "{response:?}");
    response.headers.one("date");
    if !response.body.is_empty() {
        assert_eq!(response.json()["status"], status);
    }
}
