//! Requests from client to upstream: host, target, method, hop-by-hop fields and forwarding fields.
use std::net::Ipv4Addr;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, Site, Then, assert_allowed, assert_denied, assert_edge_error,
    assert_never_readable, config, request, tenant_config,
};

/// Renders a request head from lines.
fn lines(lines: &[&str]) -> Vec<u8> {
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

#[test]
fn tenant_lookup_needs_exactly_one_valid_host() {
    let site = Site::start();
    for host in ["api.a.test", "API.A.Test", "api.a.test.", "api.a.test:8080", "API.a.test.:1"] {
        assert_eq!(site.gateway.ask("GET", "/", host, &[]).status, 200, "{host}");
    }
    for host in ["b.test", "a.test", "x.api.a.test", "api.a.test.evil.test", "127.0.0.1", "[::1]:80"] {
        let override_fields = [("X-Forwarded-Host", HOST), ("Forwarded", "host=api.a.test"), ("Origin", ORIGIN)];
        let answer = site.gateway.ask("GET", "/", host, &override_fields);
        assert_edge_error(&answer, 421);
        assert_never_readable(&answer);
    }
    for host in [
        "",
        "api.a.test:",
        "api.a.test:99999",
        "api.a.test:0x50",
        "u@api.a.test",
        "api a.test",
        "api.a.test, b.test",
        "api..a.test",
        "api.a.test/x",
    ] {
        let answer = site.raw(&lines(&["GET / HTTP/1.1", &format!("Host: {host}")])).unwrap();
        assert!([400, 421].contains(&answer.status) && answer.headers.has("x-request-id"), "{host:?}: {answer:?}");
        assert_edge_error(&answer, answer.status);
    }
    for head in [
        ["GET / HTTP/1.1", "X: y"],
        ["GET / HTTP/1.0", "X: y"],
        ["GET / HTTP/1.1", "Host: api.a.test\r\nHost: api.a.test"],
        ["GET / HTTP/1.1", "Host: api.a.test\r\nHost: b.test"],
    ] {
        assert_edge_error(&site.raw(&lines(&head)).unwrap(), 400);
    }
    assert_eq!(site.upstream.total(), 5);
}

#[test]
fn an_absolute_target_must_name_the_host() {
    let site = Site::start();
    let ask = |target: &str| site.raw(&lines(&[&format!("GET {target} HTTP/1.1"), "Host: api.a.test"])).unwrap();
    assert_eq!(ask("http://api.a.test/orders?x=1").status, 200);
    assert_eq!(site.upstream.seen()[0].target, "/orders?x=1");
    for target in
        ["http://b.test/", "http://u@api.a.test/", "http://api.a.test.evil.test/", "ftp://api.a.test/", "orders"]
    {
        assert_edge_error(&ask(target), 400);
    }
    assert_eq!(site.upstream.total(), 1);
}

#[test]
fn request_targets_are_normalised() {
    let site = Site::start();
    for (sent, seen) in [
        ("/a/../orders", "/orders"),
        ("/./orders/.", "/orders/"),
        ("/../../orders", "/orders"),
        ("/a/%2e%2E/orders", "/orders"),
        ("/%6frders", "/orders"),
        ("/a%20b%2Fc", "/a%20b%2Fc"),
        ("/a//b", "/a//b"),
        ("/orders?x=/../y%2e", "/orders?x=/../y%2e"),
    ] {
        assert_eq!(site.ask("GET", sent, &[]).status, 200, "{sent}");
        assert_eq!(site.upstream.seen().last().unwrap().target, seen, "{sent}");
    }
    let forwarded = site.upstream.total();
    for sent in ["/a%2f..%2fb", "/a/..%2fb", "/a%5c..%5cb", "/a\\..\\b", "/a/%2e%2e%2fb"] {
        assert_edge_error(&site.ask("GET", sent, &[]), 400);
    }
    assert_eq!(site.upstream.total(), forwarded);
}

#[test]
fn no_preflight_is_redirected_whatever_the_form_of_its_path() {
    let site = Site::scripted(|exchange| exchange.answer(308, &[("Location", "/orders")], b""));
    for target in ["/orders", "/orders/", "//orders", "/x/../orders", "/orders/.", "/%6frders/", "/x/%2e%2e//orders/"] {
        let preflight = site.ask("OPTIONS", target, &[("Access-Control-Request-Method", "PUT")]);
        assert_eq!((preflight.status, preflight.headers.has("location")), (204, false), "{target}: {preflight:?}");
    }
    assert_eq!(site.upstream.total(), 0);
    assert_eq!(site.ask("GET", "/orders/", &[]).status, 308);
}

#[test]
fn trace_and_connect_are_not_served() {
    let site = Site::start();
    for head in [["TRACE / HTTP/1.1", "Host: api.a.test"], ["CONNECT api.a.test:443 HTTP/1.1", "Host: api.a.test:443"]]
    {
        let answer = site.raw(&lines(&head)).unwrap();
        assert_edge_error(&answer, 405);
        assert_never_readable(&answer);
    }
    assert_eq!(site.upstream.total(), 0);
}

#[test]
fn unusual_methods_are_forwarded_unchanged() {
    let site = Site::start();
    let long = "LONG-METHOD-".repeat(6);
    for method in ["PURGE", "options", "M-SEARCH", "DELETE", "PATCH", "FOO", &long[..64]] {
        let answer = site.ask(method, "/", &[("X-HTTP-Method-Override", "TRACE")]);
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        assert_allowed(&answer);
        assert_eq!(site.upstream.count(method), 1, "{method}");
    }
}

#[test]
fn connection_header_cannot_remove_cors_headers() {
    let site = Site::start();
    for named in [
        "Origin",
        "origin",
        "close, Origin",
        "Access-Control-Request-Method",
        "access-control-request-headers",
        "Cookie",
        "Authorization",
        "Host",
        "Content-Length",
        "Content-Type",
        "Sec-Fetch-Site",
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Request-Id",
        "X-Crossgate-Tenant",
        "\"Origin\"",
        ":authority",
    ] {
        for (method, extra) in [("GET", ("X", "y")), ("OPTIONS", ("Access-Control-Request-Method", "PUT"))] {
            let answer = site.ask(method, "/", &[("Connection", named), extra]);
            assert_edge_error(&answer, 400);
            assert_never_readable(&answer);
        }
    }
    assert_eq!(site.upstream.total(), 0);
}

#[test]
fn hop_by_hop_request_headers_are_stripped() {
    let site = Site::start();
    let headers = [
        ("Connection", "close, x-app"),
        ("X-App", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("X-Kept", "2"),
    ];
    assert_allowed(&site.ask("GET", "/", &headers));
    let seen = site.upstream.seen().remove(0);
    for gone in ["x-app", "keep-alive"] {
        assert!(!seen.headers.has(gone), "{gone}: {seen:?}");
    }
    assert_eq!(seen.headers.one("x-kept"), "2");
}

/// Forged values for every field that a proxy writes.
const FORGED: [(&str, &str); 8] = [
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.test"),
    ("Forwarded", "for=6.6.6.6;proto=https"),
    ("X-Real-IP", "6.6.6.6"),
    ("X-Request-Id", "forged"),
    ("X-Crossgate-Tenant", "evil"),
    ("X-Crossgate-Other", "evil"),
];

#[test]
fn forwarded_headers_of_untrusted_clients_are_replaced() {
    let site = Site::start();
    let answer = site.gateway.ask("GET", "/", "api.a.test:1234", &FORGED);
    assert_eq!(answer.status, 200);
    let seen = site.upstream.seen().remove(0);
    assert_eq!(seen.headers.one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.headers.one("x-forwarded-proto"), "http");
    assert_eq!(seen.headers.one("x-forwarded-host"), "api.a.test:1234");
    assert_eq!(seen.headers.one("host"), "api.a.test:1234");
    assert_eq!(seen.headers.one("x-crossgate-tenant"), "a");
    assert_ne!(seen.headers.one("x-request-id"), "forged");
    for gone in ["forwarded", "x-real-ip", "x-crossgate-other"] {
        assert!(!seen.headers.has(gone), "{gone}: {seen:?}");
    }
    assert_eq!(answer.headers.one("x-request-id"), seen.headers.one("x-request-id"));
}

#[test]
fn forwarded_headers_of_a_trusted_proxy_are_used() {
    let upstream = RecordingUpstream::answering("hello");
    let listeners = "version: 1\nlisteners: [{ address: 127.0.0.1:0, trustedProxies: [127.0.0.0/8] }]\nadmin: { address: 127.0.0.1:0 }\n";
    let gateway = Gateway::start(&format!("{listeners}{}", tenant_config(&upstream, "")), &[]);
    assert_eq!(gateway.ask("GET", "/", HOST, &FORGED).status, 200);
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.headers.all("x-forwarded-for").join(", "), "6.6.6.6, 127.0.0.1");
    assert_eq!(seen.headers.one("x-forwarded-proto"), "https");
    assert_eq!(seen.headers.one("x-request-id"), "forged");
    assert_eq!(seen.headers.one("x-crossgate-tenant"), "a");
    // The scheme from a trusted proxy makes the `https` origin the request's own.
    let own = [("Origin", "https://api.a.test"), ("X-Forwarded-Proto", "https")];
    assert_eq!(gateway.ask("GET", "/", HOST, &own).status, 200);
    let other = [("Origin", "http://api.a.test"), ("X-Forwarded-Proto", "https")];
    assert_denied(&gateway.ask("GET", "/", HOST, &other), "http://api.a.test");
}

#[test]
fn address_next_to_a_trusted_range_is_untrusted() {
    let upstream = RecordingUpstream::answering("hello");
    let listeners = "version: 1\nlisteners: [{ address: 127.0.0.1:0, trustedProxies: [127.0.0.1/32] }]\nadmin: { address: 127.0.0.1:0 }\n";
    let gateway = Gateway::start(&format!("{listeners}{}", tenant_config(&upstream, "")), &[]);
    let (untrusted, proxy) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::LOCALHOST);
    // Both clients share the upstream connection.
    for (peer, forwarded_for, proto, is_trusted) in [
        (untrusted, "127.0.0.2", "http", false),
        (proxy, "6.6.6.6, 127.0.0.1", "https", true),
        (untrusted, "127.0.0.2", "http", false),
    ] {
        let mut connection = Connection::open_from(peer.into(), gateway.data);
        assert_eq!(connection.exchange(&request("GET", "/", HOST, &FORGED, b"")).unwrap().status, 200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.headers.all("x-forwarded-for").join(", "), forwarded_for);
        assert_eq!(seen.headers.one("x-forwarded-proto"), proto, "{peer}");
        assert_eq!(seen.headers.one("x-request-id") == "forged", is_trusted, "{peer}");
        assert_eq!(seen.headers.has("forwarded"), is_trusted, "{peer}");
        assert_eq!(seen.headers.one("x-crossgate-tenant"), "a", "{peer}");
    }
    // A forged scheme of an untrusted client does not make an origin the request's own.
    let own = [("Origin", "https://api.a.test"), ("X-Forwarded-Proto", "https")];
    let other = [("Origin", "http://api.a.test"), ("X-Forwarded-Proto", "https")];
    for fields in [own, other] {
        let mut connection = Connection::open_from(untrusted.into(), gateway.data);
        assert_eq!(connection.exchange(&request("GET", "/", HOST, &fields, b"")).unwrap().status, 200, "{fields:?}");
    }
}

#[test]
fn request_ids_are_unique() {
    let site = Site::start();
    let mut ids = Vec::new();
    for _ in 0..10 {
        site.ask("GET", "/", &[]);
        ids.push(site.upstream_saw("x-request-id"));
        let denied = site.gateway.ask("GET", "/", HOST, &[("Origin", "https://evil.test")]);
        assert_denied(&denied, "evil");
        assert_eq!(denied.json()["requestId"], denied.headers.one("x-request-id"));
        ids.push(denied.headers.one("x-request-id").to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

#[test]
fn head_is_answered_without_a_body() {
    let site = Site::start();
    let head = |origin: &str| request("HEAD", "/", HOST, &[("Origin", origin)], b"");
    let mut connection = site.connect();
    let allowed = connection.exchange(&head(ORIGIN)).unwrap();
    assert_allowed(&allowed);
    assert_eq!(allowed.headers.one("content-length"), "5");
    let denied = connection.exchange(&head("https://evil.test")).unwrap();
    assert_denied(&denied, "evil");
    assert!(denied.headers.one("content-length").parse::<usize>().unwrap() > 0);
    // A body would come before this answer.
    assert_eq!(connection.exchange(&request("GET", "/", HOST, &[], b"")).unwrap().text(), "hello");
}

#[test]
fn upstream_cors_headers_are_stripped() {
    let upstream = RecordingUpstream::start(|exchange| {
        exchange.read_body();
        let own = "Access-Control-Allow-Origin: *\r\naccess-control-allow-origin: https://evil.test\r\n\
                   ACCESS-CONTROL-ALLOW-CREDENTIALS: true\r\nAccess-Control-Expose-Headers: x-secret\r\n\
                   Access-Control-Allow-Private-Network: true\r\nVary: Accept-Encoding\r\nVary: x-origin, ORIGIN\r\n";
        exchange.write(format!("HTTP/1.1 103 Early Hints\r\n{own}Link: </a>\r\n\r\n").as_bytes());
        let head = format!(
            "HTTP/1.1 200 OK\r\n{own}Trailer: access-control-allow-origin\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        exchange.write(head.as_bytes());
        exchange.write(format!("2\r\nok\r\n0\r\n{own}\r\n").as_bytes());
        Then::KeepAlive
    });
    let forwards =
        tenant_config(&upstream, "").replace("allowCredentials:", "unmatchedRequests: Forward\n    allowCredentials:");
    let site = Site { gateway: Gateway::start(&config(&forwards), &[]), upstream };
    let allowed = site.ask("GET", "/", &[]);
    let mut expected = allowed.headers.cors();
    assert_eq!(expected.remove("vary").unwrap(), ["accept-encoding", "origin", "x-origin"], "{allowed:?}");
    assert_eq!(
        expected.into_values().flatten().collect::<Vec<_>>(),
        ["true", ORIGIN, "x-req"],
        "expected only the fields of the policy: {allowed:?}"
    );
    let unasked = site.gateway.ask("GET", "/", HOST, &[]);
    let denied = site.gateway.ask("GET", "/", HOST, &[("Origin", "https://evil.test")]);
    for answer in [&unasked, &denied] {
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{answer:?}");
        assert_never_readable(answer);
        assert_eq!(answer.headers.vary(), ["accept-encoding", "origin", "x-origin"]);
    }
    for answer in [allowed, unasked, denied] {
        let [(103, hints)] = &answer.interim[..] else { panic!("expected one interim response: {answer:?}") };
        assert_eq!((hints.one("link"), hints.access_control().len()), ("</a>", 0), "{answer:?}");
        assert_eq!(answer.trailers.access_control().len(), 0, "{answer:?}");
    }
}

#[test]
fn admin_paths_are_not_served_on_data_listeners() {
    let site = Site::start();
    for path in ["/metrics", "/livez", "/readyz", "/status", "/explain", "/reload"] {
        let answer = site.ask("GET", path, &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{path} was not forwarded to the tenant");
    }
    for path in ["/metrics", "/livez", "/readyz", "/status"] {
        assert_never_readable(&site.gateway.admin("GET", path));
        let of_a_page = request("GET", path, &site.gateway.admin.to_string(), &[("Origin", ORIGIN)], b"");
        assert_never_readable(&crate::support::Connection::ask(site.gateway.admin, &of_a_page).unwrap());
        let foreign = request("GET", path, "evil.test", &[], b"");
        let answer = crate::support::Connection::ask(site.gateway.admin, &foreign).unwrap();
        let probe = path.ends_with('z');
        assert_eq!(answer.status == 200, probe, "{path} under a foreign host: {answer:?}");
    }
    assert_eq!(site.gateway.admin("GET", "/reload").status, 405);
    assert_eq!(site.gateway.admin("GET", "/nothing").status, 404);
}
