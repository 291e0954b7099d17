//! What the decoder says about upstreams and their servers.

use super::*;

#[test]
fn servers_have_names_and_weights() {
    use http::uri::PathAndQuery;
    use model::{HealthCheck, Resolver, ServerAddress, ServerSpec, UpstreamLimits};
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
resolver: { servers: ["127.0.0.1:53", "[::1]:5353"], timeout: 500ms }
upstreams:
  a:
    servers: ["10.0.0.1:80", Orders.Internal:9001, "db.:1", { address: "[::1]:9002", weight: 7 }, { address: x:65535 }]
    healthCheck: { path: "/healthz?full", interval: 5s, timeout: 1s, healthyAfter: 1, unhealthyAfter: 4, host: h.example }
    limits: { maxRequests: 10, maxPending: 0, pendingTimeout: 2s }
  b: { servers: ["10.0.0.1:80"], healthCheck: { path: / }, limits: { maxRequests: 3 } }
"#;
    let main = main_file(text);
    assert!(main.found.is_empty(), "{}", main.found);
    let [a, b] = &main.value.upstreams[..] else { panic!("two upstreams") };
    let at = |address: &str, weight| ServerSpec { address: ServerAddress::Address(address.parse().unwrap()), weight };
    let name = |name: &str, port| ServerSpec { address: ServerAddress::Name { name: name.into(), port }, weight: 1 };
    let servers =
        [at("10.0.0.1:80", 1), name("orders.internal", 9001), name("db.", 1), at("[::1]:9002", 7), name("x", 65_535)];
    assert_eq!(a.servers, servers);
    let seconds = Duration::from_secs;
    let check = HealthCheck {
        path: PathAndQuery::from_static("/healthz?full"),
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
fn reports_mistakes_about_servers() {
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
"#;
    check(
        text,
        &[
            "3:23 `dns.example:53` is not the address of a name server; write an IP address and a port, such as 10.0.0.2:53",
            "3:41 `10.0.0.2` is not the address of a name server; write an IP address and a port",
            "3:63 expected a duration from 10ms to 1m",
            "6:15 `orders` is not the address of a server; write its port too",
            "6:23 `orders:0` is not the address of a server; a port is a number from 1 to 65535",
            "6:35 `10.0.0.256:80` is not the address of a server; it is neither an IPv4 address of four numbers",
            "6:52 `1:80` is not the address of a server; it is neither an IPv4 address of four numbers",
            "6:60 `a..b:80` is not the address of a server; a host name has no empty part",
            "6:71 `http://a:80` is not the address of a server; a port is a number",
            "6:86 a server needs the key `address`",
            "6:127 expected a whole number from 1 to 256, found the number 0",
            "6:132 `[::1]` is not the address of a server; write its port too",
            "7:26 `healthz` is not the path of a health check; write what is asked for, from the slash on, such as /healthz",
            "7:45 expected a duration from 100ms to 1h",
            "7:64 expected a whole number from 1 to 100, found the number 0",
            "7:67 a health check has no key `port`",
            "8:28 expected a whole number from 1 to 1000000, found the number 0",
            "9:47 a health check needs the key `path`",
            "9:74 the limits of an upstream needs the key `maxRequests`",
            "10:18 a server needs the key `address`",
            "10:20 a server has no key `adress`; did you mean `address`?",
            "10:59 `/a b` is not the path of a health check",
            "11:55 `/<id>` is not the path of a health check",
        ],
    );
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nresolver: { servers: [] }\n",
        &["3:22 there is no name server; write one"],
    );
}

#[test]
fn reads_how_upstreams_are_spoken_to() {
    let main = |upstream: &str| {
        main_file(&format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a: {{ servers: [\"127.0.0.1:9\"]{upstream} }}\n"
        ))
    };
    let told = |upstream: &str| {
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
        (", protocol: Auto", "4:44 only TLS lets a server choose; write Http1 or Http2, or add tls"),
        (", protocol: h2c", "4:44 `h2c` is not known here; write Http1, Http2 or Auto"),
        (", tls: true", "4:39 expected the TLS of an upstream (keys and values), found true"),
        (
            ", tls: { verify: false }",
            "4:41 the TLS of an upstream has no key `verify`; its keys are `serverName`, `ca`",
        ),
        (", tls: { serverName: \"\" }", "4:53 `` is not a server name; write the host name or the IP address"),
        (", tls: { serverName: a_b.c.example }", "4:53 `a_b.c.example` is not a server name"),
        (", tls: { serverName: \"api.example.\" }", "4:53 `api.example.` is not a server name"),
        (", tls: { serverName: \"api.example:443\" }", "4:53 `api.example:443` is not a server name"),
        (", tls: { ca: \"\" }", "4:45 the path is empty"),
        (", tls: { clientCertificate: { certificate: a.pem } }", "4:60 a client certificate needs the key `key`"),
    ] {
        let told = told(upstream);
        assert!(told.len() == 1 && told[0].starts_with(wanted), "{upstream}: {told:?}");
    }
}

#[test]
fn servers_that_speak_tls_go_by_one_name() {
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
    let by_more = "these servers go by more than one name; write the serverName that the certificates of all have";
    for (servers, rest, wanted) in [
        ("\"a.internal:443\", \"10.0.0.2:443\"", "tls: {}", by_more),
        ("\"10.0.0.2:443\", \"a.internal:443\"", "tls: {}", by_more),
        ("\"a.internal:443\", \"b.internal:443\"", "tls: {}", by_more),
        ("\"a_b.internal:443\"", "tls: {}", "no certificate is for a_b.internal; write the serverName"),
    ] {
        let found = main(servers, rest).found;
        let told: Vec<_> = found.iter().map(|one| (one.place.line, &*one.message)).collect();
        assert!(told.len() == 1 && told[0].0 == 4 && told[0].1.starts_with(wanted), "{servers} {rest}: {told:?}");
    }
}
