//! Rewrites, redirects and fixed responses: the shipped sample, over every path of a request.

use serde_json::Value;

use crate::support::{
    Connection, Gateway, Http2, Http2Upstream, PATIENCE, RecordingUpstream, Response, assert_denied, assert_edge_error,
    config, handshake, request, websocket,
};
use rustix::process::Signal;

const HOST: &str = "api.acme.example";
const APP: &str = "https://app.acme.example";
const EVIL: &str = "https://evil.example";

/// The shipped sample with this upstream for all routes.
fn start(upstream: &str) -> Gateway {
    start_changed(upstream, str::to_owned)
}

fn start_changed(upstream: &str, change: impl Fn(&str) -> String) -> Gateway {
    let (_, rest) = include_str!("../../../ops/config/routing.yaml").split_once("\npolicies:").unwrap();
    let upstreams = format!("upstreams: {{ shop: {{ {upstream} }}, orders: {{ {upstream} }} }}");
    Gateway::start(&config(&change(&format!("{upstreams}\npolicies:{rest}"))), &[])
}

/// An upstream that redirects to what the query says, or else answers 200.
fn redirecting() -> RecordingUpstream {
    RecordingUpstream::start(|exchange| match exchange.seen.target.split_once("?to=") {
        Some((_, to)) => {
            let to = to.to_owned();
            exchange.answer(302, &[("Location", &to)], b"")
        }
        None => exchange.answer(200, &[], b"hello"),
    })
}

/// What the client asks for and what the upstream has to get.
const TARGETS: [(&str, &str); 15] = [
    ("/orders", "/"),
    ("/orders/", "/"),
    ("/orders/7?a=/b", "/7?a=/b"),
    ("/orders/a%2Fb", "/a%2Fb"),
    ("/orders/a%20b", "/a%20b"),
    ("/orders/./a/../b", "/b"),
    ("/orders//a//b", "/a//b"),
    ("//orders/a", "/a"),
    ("/%6frders/a", "/a"),
    ("/orders?", "/?"),
    ("/v1/orders/7", "/orders/7"),
    ("/app/any/path?q", "/index.html?q"),
    ("/ordersx", "/ordersx"),
    ("/a/../orders/b", "/b"),
    ("/", "/"),
];

#[test]
fn upstreams_get_rewritten_paths_over_http1_and_http2() {
    let upstream = redirecting();
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    for (target, sent) in TARGETS {
        assert_eq!(gateway.ask("GET", target, HOST, &[("Origin", APP)]).text(), "hello", "{target}");
        assert_eq!(http2.ask("POST", target, HOST, &[("origin", APP)], b"x").unwrap().status, 200, "{target}");
        let seen = upstream.seen();
        let last: Vec<_> = seen.iter().rev().take(2).map(|seen| &*seen.target).collect();
        assert_eq!(last, [sent, sent], "{target}");
    }
    let prefixes = |path: &str| {
        gateway.ask("GET", path, HOST, &[("x-forwarded-prefix", "/forged")]);
        let seen = upstream.seen();
        seen.last().unwrap().headers.all("x-forwarded-prefix").iter().map(|&text| text.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(prefixes("/orders/7"), ["/orders"]);
    assert_eq!(prefixes("/v1/orders/7"), ["/v1/orders"]);
    assert_eq!((prefixes("/app"), prefixes("/")), (vec![], vec![]));
}

#[test]
fn upstreams_over_http2_and_websockets_get_rewritten_paths() {
    let upstream = Http2Upstream::start(|asked| asked.answer(302, &[("location", "/8")], b""));
    let gateway = start(&format!("servers: [{}], protocol: Http2", upstream.address));
    for (target, sent) in TARGETS {
        let answer = gateway.ask("GET", target, HOST, &[("Origin", APP)]);
        assert_eq!((answer.status, &*upstream.seen().last().unwrap().target), (302, sent), "{target}");
        let location = match target.split('?').next().unwrap() {
            "/" | "/ordersx" | "/app/any/path" | "/v1/orders/7" => "/8",
            _ => "/orders/8",
        };
        assert_eq!(answer.headers.all("location"), [location], "{target}");
    }
    let upstream = RecordingUpstream::start(websocket);
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let text = String::from_utf8(handshake(APP)).unwrap();
    let old_host = text.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap();
    let old_target = text.split(' ').nth(1).unwrap();
    let sent = text.replace(old_host, HOST).replacen(old_target, "/orders/live?x", 1);
    assert_eq!(Connection::open(gateway.data).exchange(sent.as_bytes()).unwrap().status, 101);
    assert_eq!(upstream.seen().last().unwrap().target, "/live?x");
}

#[test]
fn headers_and_parameters_choose_the_route_and_are_in_vary() {
    let upstream = redirecting();
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    let target_of = |target: &str, fields: &[(&str, &str)]| {
        let one = gateway.ask("GET", target, HOST, fields);
        let two = http2.ask("GET", target, HOST, fields, b"").unwrap();
        assert_eq!((one.status, one.headers.vary()), (two.status, two.headers.vary()));
        let seen = upstream.seen();
        assert_eq!(seen[seen.len() - 2].target, seen[seen.len() - 1].target);
        (seen.last().unwrap().target.clone(), one.headers.vary().join(", "))
    };
    let origin = ("origin", APP);
    let varied = "origin, x-canary";
    // The route for the header does not rewrite, the other does.
    for (target, fields, sent) in [
        ("/v1/orders/7", &[origin, ("x-canary", "1")][..], "/v1/orders/7"),
        ("/v1/orders/7", &[origin, ("x-canary", "2")], "/orders/7"),
        ("/v1/orders/7", &[origin, ("x-canary", "1"), ("x-canary", "1")], "/orders/7"),
        ("/v1/orders/7", &[origin], "/orders/7"),
        ("/v1/orders/7?beta", &[origin], "/v1/orders/7?beta"),
        ("/v1/orders/7?b%65ta=", &[origin], "/v1/orders/7?b%65ta="),
        ("/v1/orders/7?beta&beta", &[origin], "/orders/7?beta&beta"),
    ] {
        let (target, vary) = target_of(target, fields);
        assert_eq!(target, sent, "{fields:?}");
        let mut members: Vec<&str> = vary.split(", ").collect();
        members.sort_unstable();
        assert_eq!(members.join(", "), varied, "{fields:?}");
    }
    assert_eq!(target_of("/other", &[origin, ("x-canary", "1")]).1, "origin");
    // One preflight for both, since it has neither header.
    let asked = [origin, ("access-control-request-method", "PUT"), ("access-control-request-headers", "content-type")];
    assert_eq!(ask_both(&gateway, "OPTIONS", "/v1/orders/7", &asked).status, 204);
    // Errors of the gateway depend on the header too.
    let denied = ask_both(&gateway, "GET", "/v1/orders/7", &[("origin", EVIL)]);
    assert!(denied.status == 403 && denied.headers.vary().iter().any(|member| member == "x-canary"), "{denied:?}");
    let explained = gateway.admin("GET", &format!("/explain?host={HOST}&path=/v1/orders/7&origin={APP}")).json();
    let notes = explained["notes"].to_string();
    for name in ["the header x-canary", "the query parameter beta"] {
        let note = format!("the route `/v1/orders` was left out: the request does not fulfil its condition on {name}");
        assert!(notes.contains(&note), "{notes}");
    }
    assert_eq!(explained["upstreamPath"], "/orders/7");
}

#[test]
fn locations_of_the_upstream_become_the_clients() {
    let upstream = redirecting();
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    let server = format!("http://{}/9", upstream.address);
    for (target, to, location) in [
        ("/orders/7", "/8", "/orders/8"),
        ("/orders/7", "http://api.acme.example/8?q#f", "/orders/8?q#f"),
        ("/orders/7", "//api.acme.example/8", "/orders/8"),
        ("/orders/7", &*server, "/orders/9"),
        ("/orders/7", "https://api.acme.example/8", "https://api.acme.example/orders/8"),
        ("/orders/7", "https://login.example/8", "https://login.example/8"),
        ("/orders/7", "8", "8"),
        ("/orders/7", "//evil.example/8", "//evil.example/8"),
        ("/orders/7", "/../8", "/../8"),
        ("/v1/orders/7", "/orders/8", "/v1/orders/8"),
        ("/v1/orders/7", "/login", "/login"),
        ("/app/x", "/login", "/login"),
        ("/other", "http://api.acme.example/8", "http://api.acme.example/8"),
    ] {
        let target = format!("{target}?to={to}");
        let target = target.replace('#', "%23");
        let expected = location.replace('#', "%23");
        let fields = [("origin", APP)];
        for answer in
            [gateway.ask("GET", &target, HOST, &fields), http2.ask("GET", &target, HOST, &fields, b"").unwrap()]
        {
            assert_eq!((answer.status, answer.headers.all("location")), (302, vec![&*expected]), "{target}");
            assert_eq!(answer.headers.all("access-control-allow-origin"), [APP]);
        }
    }
    let keep = |text: &str| text.replace("rewrite: { pathPrefix: / }", "rewrite: { pathPrefix: /, location: Keep }");
    let gateway = start_changed(&format!("servers: [{}]", upstream.address), keep);
    assert_eq!(gateway.ask("GET", "/orders/7?to=/8", HOST, &[]).headers.all("location"), ["/8"]);
}

#[test]
fn paths_that_a_rewrite_would_turn_into_another_host_are_refused() {
    let upstream = redirecting();
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    for target in [
        "/orders/%2fevil.example/a",
        "/orders/%5cevil.example",
        "/orders/\\evil.example",
        "/orders//%2Fevil.example",
        "/orders/..;/a",
        "/orders%2fa",
        "/docs/%2f%2fevil.example",
    ] {
        for answer in [
            gateway.ask("GET", target, HOST, &[("Origin", APP)]),
            http2.ask("GET", target, HOST, &[("origin", APP)], b"").unwrap(),
        ] {
            assert_edge_error(&answer, 400);
            assert!(!answer.headers.has("location"), "{target}: {answer:?}");
        }
    }
    assert_eq!(upstream.total(), 0);
}

/// Asks over HTTP/1.1 and HTTP/2, which has to give the same answer.
fn ask_both(gateway: &Gateway, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    let one = gateway.ask(method, target, HOST, fields);
    let two = Http2::open(gateway.data).ask(method, target, HOST, fields, b"").unwrap();
    let shown = |response: &Response| {
        let names = ["location", "content-type", "access-control-allow-origin", "vary", "cache-control"];
        let fields: Vec<_> = names.iter().map(|name| response.headers.all(name).join("|")).collect();
        // Errors have an id.
        let is_error = response.headers.all("content-type") == ["application/problem+json"];
        (response.status, response.body.clone().split_off(if is_error { response.body.len() } else { 0 }), fields)
    };
    assert_eq!(shown(&one), shown(&two), "{method} {target}");
    one
}

#[test]
fn redirects_keep_the_rest_of_the_path_and_the_query() {
    let gateway = start("servers: [\"127.0.0.1:9\"]");
    for (target, status, location) in [
        ("/old", 308, "/orders"),
        ("/old/", 308, "/orders/"),
        ("/old/7?a=b", 308, "/orders/7?a=b"),
        ("/old//evil.example", 308, "/orders//evil.example"),
        ("/old/%0d%0aSet-Cookie:x", 308, "/orders/%0d%0aSet-Cookie:x"),
        ("/old?x=%0d%0aSet-Cookie:%20x", 308, "/orders?x=%0d%0aSet-Cookie:%20x"),
        ("/docs", 302, "https://docs.acme.example/"),
        ("/docs//evil.example/..;", 400, ""),
        ("/docs//a?b", 302, "https://docs.acme.example/a?b"),
        ("/docs/@evil.example", 302, "https://docs.acme.example/@evil.example"),
    ] {
        let answer = ask_both(&gateway, "GET", target, &[("origin", APP)]);
        assert_eq!(
            (answer.status, answer.headers.all("location").join("|")),
            (status, location.to_owned()),
            "{target}"
        );
        if status != 400 {
            assert!(answer.body.is_empty() && !answer.headers.has("set-cookie"), "{answer:?}");
            // fetch follows a redirect only if it has the CORS headers.
            assert_eq!(answer.headers.all("access-control-allow-origin"), [APP]);
            assert_eq!(answer.headers.all("access-control-allow-credentials"), ["true"]);
            assert_eq!(answer.headers.all("vary"), ["Origin"]);
        }
    }
    let posted = Connection::ask(gateway.data, &request("POST", "/old/7", HOST, &[("Origin", APP)], b"body")).unwrap();
    assert_eq!((posted.status, posted.headers.one("location")), (308, "/orders/7"));
    let without_origin = ask_both(&gateway, "GET", "/old", &[]);
    assert_eq!((without_origin.status, without_origin.headers.all("vary")), (308, vec!["Origin"]));
    assert_denied(&ask_both(&gateway, "GET", "/old", &[("origin", EVIL)]), "evil");
}

#[test]
fn preflights_are_answered_on_every_kind_of_route() {
    let gateway = start("servers: [\"127.0.0.1:9\"]");
    for path in ["/old/7", "/docs", "/healthz", "/internal/x", "/orders/7", "/app/x", "/"] {
        let asked = [("origin", APP), ("access-control-request-method", "PUT")];
        let answer = ask_both(&gateway, "OPTIONS", path, &asked);
        assert_eq!((answer.status, answer.headers.all("access-control-allow-origin")), (204, vec![APP]), "{path}");
        assert!(!answer.headers.has("location"));
        let denied = [("origin", EVIL), ("access-control-request-method", "PUT")];
        assert_denied(&ask_both(&gateway, "OPTIONS", path, &denied), "evil");
    }
}

#[test]
fn fixed_responses_have_the_cors_headers_and_no_upstream() {
    let gateway = start("servers: [\"127.0.0.1:9\"]");
    for (method, path, status, kind, body) in [
        ("GET", "/healthz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("HEAD", "/healthz", 200, "text/plain; charset=utf-8", ""),
        ("PUT", "/healthz", 200, "text/plain; charset=utf-8", "ok\n"),
        ("GET", "/internal/x", 404, "application/json", "{\"error\":\"not here\"}"),
    ] {
        let answer = ask_both(&gateway, method, path, &[("origin", APP)]);
        assert_eq!((answer.status, answer.headers.all("content-type")), (status, vec![kind]), "{method} {path}");
        assert_eq!((answer.text(), answer.headers.all("access-control-allow-origin")), (body.to_owned(), vec![APP]));
        assert_eq!(answer.headers.all("x-content-type-options"), ["nosniff"]);
        assert_eq!(answer.headers.all("proxy-status"), ["crossgate; error=proxy_internal_response"]);
        assert_eq!(answer.headers.one("x-request-id").len(), 32);
    }
    assert_denied(&ask_both(&gateway, "GET", "/healthz", &[("origin", EVIL)]), "evil");
    // The path is exact.
    assert_edge_error(&ask_both(&gateway, "GET", "/healthz/x", &[]), 502);
    assert_eq!(ask_both(&gateway, "GET", "/healthz/", &[]).status, 400);
}

#[test]
fn policies_that_only_report_deny_nothing_but_send_their_headers() {
    let gateway =
        start_changed("servers: [\"127.0.0.1:9\"]", |text| text.replace("  spa:\n", "  spa:\n    mode: Report\n"));
    for (origin, allowed) in [(APP, vec![APP]), (EVIL, vec![])] {
        for (path, status) in [("/healthz", 200), ("/old", 308)] {
            let answer = ask_both(&gateway, "GET", path, &[("origin", origin)]);
            assert_eq!((answer.status, answer.headers.all("access-control-allow-origin")), (status, allowed.clone()));
        }
    }
    let labels = [("verdict", "would_deny"), ("reason", "no_match"), ("kind", "actual")];
    gateway.wait_metric("crossgate_requests_total", &labels, 4.0);
}

#[test]
fn log_and_explain_show_both_paths() {
    let upstream = redirecting();
    let mut gateway = start(&format!("servers: [{}]", upstream.address));
    gateway.ask("GET", "/orders/7?secret", HOST, &[("Origin", APP)]);
    gateway.ask("GET", "/", HOST, &[("Origin", APP)]);
    let explain = |path: &str| gateway.admin("GET", &format!("/explain?host={HOST}&path={path}&origin={APP}")).json();
    let rewritten = explain("/orders/7%3fa");
    assert_eq!((&rewritten["route"], &rewritten["upstreamPath"]), (&"/orders".into(), &"/7".into()), "{rewritten}");
    assert_eq!(explain("/")["upstreamPath"], Value::Null);
    let redirect = explain("/old/7");
    assert_eq!((&redirect["response"]["status"], &redirect["upstreamPath"]), (&308.into(), &Value::Null));
    assert!(redirect["response"]["headers"].to_string().contains("/orders/7"), "{redirect}");

    gateway.process.signal(Signal::TERM);
    gateway.process.wait_at_most(PATIENCE);
    let log = gateway.process.stdout();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let paths = |line: &Value| (line["path"].clone(), line["upstream_path"].clone());
    assert_eq!(paths(&lines[0]), ("/orders/7".into(), "/7".into()));
    assert_eq!(paths(&lines[1]), ("/".into(), Value::Null));
}
