//! Findings and values of upstreams and their servers.

use super::*;

#[test]
fn servers_decode_with_names_and_weights() {
    use http::uri::PathAndQuery;
    use model::{CheckRequest, HealthCheck, Resolver, ServerAddress, ServerSpec, UpstreamLimits};
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
resolver: { servers: ["127.0.0.1:53", "[::1]:5353"], timeout: 500ms }
upstreams:
  a:
    servers: ["10.0.0.1:80", Orders.Internal:9001, "db.:1", { address: "[::1]:9002", weight: 7 }, { address: x:65535, backup: true }]
    healthCheck: { path: "/healthz?full", interval: 5s, timeout: 1s, healthyAfter: 1, unhealthyAfter: 4, host: h.example }
    limits: { maxRequests: 10, maxPending: 0, pendingTimeout: 2s }
  b: { servers: ["10.0.0.1:80"], healthCheck: { path: / }, limits: { maxRequests: 3 } }
"#;
    let main = main_file(text);
    assert!(main.found.is_empty(), "{}", main.found);
    let [a, b] = &main.value.upstreams[..] else { panic!("two upstreams") };
    let at = |address: &str, weight| ServerSpec {
        address: ServerAddress::Address(address.parse().unwrap()),
        weight,
        is_backup: false,
    };
    let name = |name: &str, port| ServerSpec {
        address: ServerAddress::Name { name: name.into(), port },
        weight: 1,
        is_backup: false,
    };
    let spare = ServerSpec { is_backup: true, ..name("x", 65_535) };
    let servers = [at("10.0.0.1:80", 1), name("orders.internal", 9001), name("db.", 1), at("[::1]:9002", 7), spare];
    assert_eq!(a.servers, servers);
    let seconds = Duration::from_secs;
    let check = HealthCheck {
        request: CheckRequest::Get(PathAndQuery::from_static("/healthz?full")),
        interval: seconds(5),
        timeout: seconds(1),
        healthy_after: 1,
        unhealthy_after: 4,
        host: Some(http::HeaderValue::from_static("h.example")),
    };
    assert_eq!(a.health_check, Some(check));
    let check = b.health_check.as_ref().unwrap();
    assert_eq!((check.interval, check.timeout), (seconds(10), seconds(2)));
    assert_eq!((check.healthy_after, check.unhealthy_after, &check.host), (2, 3, &None));
    assert_eq!(a.limits, Some(UpstreamLimits { max_requests: 10, max_pending: 0, pending_timeout: seconds(2) }));
    assert_eq!(b.limits, Some(UpstreamLimits { max_requests: 3, max_pending: 3, pending_timeout: seconds(1) }));
    let servers = ["127.0.0.1:53", "[::1]:5353"].map(|server| server.parse().unwrap()).into();
    let timeout = Some(Duration::from_millis(500));
    assert_eq!(main.value.settings.resolver, Resolver { servers, timeout });
}

#[test]
fn invalid_servers_checks_and_limits_are_reported() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
resolver: { servers: ["dns.example:53", "10.0.0.2"], timeout: 1h }
upstreams:
  a:
    servers: [orders, "orders:0", "10.0.0.256:80", "1:80", "a..b:80", "http://a:80", { weight: 1 }, { address: "a:1", weight: 0 }, "[::1]"]
    healthCheck: { path: healthz, interval: 1ms, healthyAfter: 0, port: 9 }
    limits: { maxRequests: 0 }
  b: { servers: ["10.0.0.1:80"], healthCheck: { interval: 10s }, limits: { maxPending: 5 } }
  c: { servers: [{ adress: "a:1" }], healthCheck: { path: "/a b" } }
  d: { servers: ["10.0.0.1:80"], healthCheck: { path: "/<id>" } }
  e: { servers: [{ address: "10.0.0.1:80", backup: true }] }
"#;
    check(
        text,
        &[
            "3:23 invalid name server address `dns.example:53`: write an IP address and a port, such as 10.0.0.2:53",
            "3:41 invalid name server address `10.0.0.2`: write an IP address and a port",
            "3:63 expected a duration from 10ms to 1m",
            "6:15 invalid server address `orders`: add the port",
            "6:23 invalid server address `orders:0`: invalid port; expected a number from 1 to 65535",
            "6:35 invalid server address `10.0.0.256:80`: expected an IPv4 address of four numbers",
            "6:52 invalid server address `1:80`: expected an IPv4 address of four numbers",
            "6:60 invalid server address `a..b:80`: empty host name or label",
            "6:71 invalid server address `http://a:80`: write a:80, without scheme",
            "6:86 missing key `address` in a server",
            "6:127 expected a whole number from 1 to 256, found the number 0",
            "6:132 invalid server address `[::1]`: add the port",
            "7:26 invalid health check path `healthz`: write a path that begins with a slash, such as /healthz",
            "7:45 expected a duration from 100ms to 1h",
            "7:64 expected a whole number from 1 to 100, found the number 0",
            "7:67 a health check has no key `port`",
            "8:28 expected a whole number from 1 to 1000000, found the number 0",
            "9:47 missing key `path` in a health check; write it, or `grpc: true` for a gRPC server",
            "9:74 missing key `maxRequests` in the limits of an upstream",
            "10:18 missing key `address` in a server",
            "10:20 a server has no key `adress`; did you mean `address`?",
            "10:59 invalid health check path `/a b`",
            "11:55 invalid health check path `/<id>`",
            "12:17 all servers are backups",
        ],
    );
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nresolver: { servers: [] }\n",
        &["3:22 empty list of name servers; write one"],
    );
}

#[test]
fn health_check_with_both_or_neither_of_path_and_grpc_is_refused() {
    use model::CheckRequest;
    let text = |options: &str, check: &str| {
        format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a:\n    servers: [\"127.0.0.1:9\"]\n{options}    healthCheck: {check}\n"
        )
    };
    let http2 = "    protocol: Http2\n";
    let grpc = |service: &str| CheckRequest::Grpc { service: service.into() };
    for (options, check, wanted) in [
        (http2, "{ grpc: true }", grpc("")),
        (
            "    protocol: Auto\n    tls: {}\n",
            "{ grpc: { service: orders.v1.Orders }, timeout: 1s }",
            grpc("orders.v1.Orders"),
        ),
        ("", "{ path: /x, grpc: false }", CheckRequest::Get(http::uri::PathAndQuery::from_static("/x"))),
    ] {
        let main = main_file(&text(options, check));
        assert!(main.found.is_empty(), "{}", main.found);
        assert_eq!(main.value.upstreams[0].health_check.as_ref().unwrap().request, wanted);
    }
    let long = format!("{{ grpc: {{ service: {} }} }}", "s".repeat(257));
    for (options, check, expected) in [
        ("", "{ grpc: true }", "6:26 gRPC needs HTTP/2; set `protocol: Http2`, or `protocol: Auto` with tls"),
        ("    protocol: Http1\n", "{ grpc: { service: a } }", "7:26 gRPC needs HTTP/2; set"),
        (http2, "{ path: /x, grpc: true }", "7:36 path and grpc exclude each other; keep one"),
        (
            http2,
            "{ grpc: false }",
            "7:18 missing key `path` in a health check; write it, or `grpc: true` for a gRPC server",
        ),
        (
            http2,
            "{ grpc: orders }",
            "7:26 expected a gRPC health check (a mapping), found the text `orders`; write { service: orders }",
        ),
        (http2, "{ grpc: {} }", "7:26 missing key `service` in a gRPC health check"),
        (
            http2,
            "{ grpc: { service: \"\" } }",
            "7:37 invalid gRPC service name ``: write the name that the server registers",
        ),
        (http2, "{ grpc: { service: \"a b\" } }", "7:37 invalid gRPC service name `a b`: write the name"),
        (http2, &long, "7:37 invalid gRPC service name `sss"),
    ] {
        super::check(&text(options, check), &[expected]);
    }
}

#[test]
fn protocol_and_tls_of_upstreams_are_decoded() {
    let main = |upstream: &str| {
        main_file(&format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a: {{ servers: [\"127.0.0.1:9\"]{upstream} }}\n"
        ))
    };
    let expected = |upstream: &str| {
        let found = main(upstream).found;
        found.iter().map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.message)).collect::<Vec<_>>()
    };
    let plain = main("").value.upstreams.remove(0);
    assert_eq!((plain.protocol, plain.tls), (Protocol::Http1, None));
    let whole = ", protocol: Auto, tls: { serverName: api.example, ca: ca.pem, clientCertificate: { certificate: a.pem, key: a.key } }";
    let whole = main(whole).value.upstreams.remove(0);
    let tls = whole.tls.unwrap().value;
    assert_eq!((whole.protocol, tls.server_name.as_deref()), (Protocol::Auto, Some("api.example")));
    assert_eq!(tls.files().collect::<Vec<_>>(), ["ca.pem", "a.pem", "a.key"].map(Path::new));
    assert_eq!(main(", protocol: Http2, tls: {}").value.upstreams[0].tls.as_ref().unwrap().value.files().count(), 0);
    for (upstream, wanted) in [
        (", protocol: Auto", "4:44 Auto needs tls; write Http1 or Http2, or add tls"),
        (", protocol: h2c", "4:44 unknown value `h2c`; did you mean Http2? write Http1, Http2 or Auto"),
        (", tls: true", "4:39 expected the TLS of an upstream (a mapping), found true"),
        (
            ", tls: { verify: false }",
            "4:41 the TLS of an upstream has no key `verify`; its keys are `serverName`, `ca`",
        ),
        (", tls: { serverName: \"\" }", "4:53 invalid server name ``: write the host name or the IP address"),
        (", tls: { serverName: a_b.c.example }", "4:53 invalid server name `a_b.c.example`"),
        (", tls: { serverName: \"api.example.\" }", "4:53 invalid server name `api.example.`"),
        (", tls: { serverName: \"api.example:443\" }", "4:53 invalid server name `api.example:443`"),
        (", tls: { ca: \"\" }", "4:45 empty path"),
        (", tls: { clientCertificate: { certificate: a.pem } }", "4:60 missing key `key` in a client certificate"),
    ] {
        let expected = expected(upstream);
        assert!(expected.len() == 1 && expected[0].starts_with(wanted), "{upstream}: {expected:?}");
    }
}

#[test]
fn tls_servers_with_different_names_need_a_server_name() {
    let main = |servers: &str, rest: &str| {
        main_file(&format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a: {{ servers: [{servers}], {rest} }}\n"
        ))
    };
    for (servers, name) in [
        ("\"10.0.0.1:443\", \"10.0.0.2:443\"", None),
        ("\"orders.internal:443\"", Some("orders.internal")),
        ("\"Orders.internal.:443\", \"orders.internal:8443\"", Some("orders.internal")),
    ] {
        let read = main(servers, "tls: {}");
        assert!(read.found.is_empty(), "{servers}: {:?}", read.found);
        assert_eq!(read.value.upstreams[0].tls.as_ref().unwrap().value.server_name.as_deref(), name, "{servers}");
    }
    let named = main("\"a.internal:443\", \"10.0.0.2:443\"", "tls: { serverName: api.internal }");
    assert!(named.found.is_empty(), "{:?}", named.found);
    let by_more = "the servers have different names; set serverName to a name that all their certificates contain";
    for (servers, rest, wanted) in [
        ("\"a.internal:443\", \"10.0.0.2:443\"", "tls: {}", by_more),
        ("\"10.0.0.2:443\", \"a.internal:443\"", "tls: {}", by_more),
        ("\"a.internal:443\", \"b.internal:443\"", "tls: {}", by_more),
        ("\"a_b.internal:443\"", "tls: {}", "a_b.internal cannot be in a certificate; set serverName"),
    ] {
        let found = main(servers, rest).found;
        let expected: Vec<_> = found.iter().map(|one| (one.place.line, &*one.message)).collect();
        assert!(
            expected.len() == 1 && expected[0].0 == 4 && expected[0].1.starts_with(wanted),
            "{servers} {rest}: {expected:?}"
        );
    }
}

#[test]
fn server_that_is_a_listener_of_the_gateway_is_refused() {
    let found = |listener: &str, admin: &str, server: &str| {
        let text = format!(
            "version: 1\nlisteners: [{{ address: \"{listener}\" }}]\nadmin: {{ address: \"{admin}\" }}\n\
             upstreams: {{ api: {{ servers: [\"{server}\"] }} }}\n"
        );
        main_file(&text).found
    };
    for (server, wanted) in [
        ("127.0.0.1:8080", "a listener of this gateway"),
        ("localhost:8080", "a listener of this gateway"),
        ("[::1]:8080", "a listener of this gateway"),
        ("127.0.0.1:9900", "this gateway's admin listener"),
        ("localhost:9900", "this gateway's admin listener"),
    ] {
        let found = found("[::]:8080", "127.0.0.1:9900", server);
        let messages: Vec<_> = found.iter().map(|one| one.message.clone()).collect();
        assert!(messages.iter().any(|message| message.contains(wanted)), "{server}: {messages:?}");
    }
    for server in ["127.0.0.1:8081", "10.0.0.1:8080", "api.internal:8080", "[::1]:9900"] {
        let found = found("[::]:8080", "127.0.0.1:9900", server);
        assert!(found.iter().next().is_none(), "{server}: {found:?}");
    }
}
