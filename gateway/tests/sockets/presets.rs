//! The presets of protocols: the shipped samples with the requests that a page's client sends.
use crate::support::{Connection, Gateway, RecordingUpstream, Response, assert_edge_error, config, request};

/// A gateway with a shipped sample, and its upstream.
fn start(sample: &str) -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::answering("hello");
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let text = format!("upstreams:{rest}").replace("10.1.0.11:9001", &upstream.address.to_string());
    (Gateway::start(&config(&text), &[]), upstream)
}

fn preflight(gateway: &Gateway, host: &str, origin: &str, method: &str, headers: &str) -> Response {
    let fields =
        [("Origin", origin), ("Access-Control-Request-Method", method), ("Access-Control-Request-Headers", headers)];
    Connection::ask(gateway.data, &request("OPTIONS", "/", host, &fields, b"")).unwrap()
}

#[test]
fn grpc_web_client_may_call_and_read_the_status() {
    let (gateway, upstream) = start(include_str!("../../../ops/config/grpc-web.yaml"));
    let (host, origin) = ("grpc.acme.example", "https://app.acme.example");
    let headers = "authorization,content-type,grpc-timeout,x-grpc-web,x-tenant,x-user-agent";
    let allowed = preflight(&gateway, host, origin, "POST", headers);
    assert_eq!((allowed.status, allowed.headers.one("access-control-allow-headers")), (204, headers));
    let fields = [("Origin", origin), ("Content-Type", "application/grpc-web+proto"), ("X-Grpc-Web", "1")];
    let called = Connection::ask(gateway.data, &request("POST", "/acme.Greeter/Hello", host, &fields, b"")).unwrap();
    assert_eq!(called.status, 200);
    assert_eq!(
        called.headers.one("access-control-expose-headers"),
        "grpc-message,grpc-status,grpc-status-details-bin,x-request-id"
    );
    assert_eq!(upstream.count("POST"), 1);
    let other = preflight(&gateway, host, origin, "POST", "x-other");
    assert!(!other.headers.one("access-control-allow-headers").contains("x-other"), "{other:?}");
}

#[test]
fn mcp_client_may_call_and_other_pages_get_403() {
    let (gateway, upstream) = start(include_str!("../../../ops/config/mcp.yaml"));
    let (host, origin) = ("mcp.acme.example", "https://inspector.acme.example");
    let headers = "authorization,content-type,last-event-id,mcp-method,mcp-name,mcp-param-region,mcp-protocol-version,mcp-session-id";
    for method in ["GET", "POST", "DELETE"] {
        let allowed = preflight(&gateway, host, origin, method, headers);
        assert_eq!((allowed.status, allowed.headers.one("access-control-allow-headers")), (204, headers), "{method}");
    }
    let called = Connection::ask(gateway.data, &request("POST", "/mcp", host, &[("Origin", origin)], b"")).unwrap();
    assert_eq!(
        called.headers.one("access-control-expose-headers"),
        "mcp-protocol-version,mcp-session-id,www-authenticate"
    );
    assert_eq!(upstream.count("POST"), 1);
    // The protocol demands 403 for an invalid `Origin`. A rebound host name has a foreign one.
    for fields in [[("Origin", "https://evil.example")], [("Sec-Fetch-Site", "cross-site")], [("Origin", "null")]] {
        let refused = Connection::ask(gateway.data, &request("POST", "/mcp", host, &fields, b"")).unwrap();
        assert_edge_error(&refused, 403);
    }
    assert_eq!(upstream.count("POST"), 1);
    let explained = gateway.admin("GET", &format!("/explain?host={host}&origin={origin}&method=POST")).json();
    assert_eq!(explained["preset"], "Mcp", "{explained}");
}
