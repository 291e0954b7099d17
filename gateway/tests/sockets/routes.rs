//! Selection of the policy for a request, and the effects of `unmatchedRequests: Forward` and
//! `mode: Report`.
use crate::support::{
    Gateway, HOST, Http2, ORIGIN, RecordingUpstream, assert_allowed, assert_denied, assert_edge_error,
    assert_never_readable, config,
};

const EVIL: &str = "https://evil.test";

struct Setup {
    gateway: Gateway,
    upstream: RecordingUpstream,
    other: RecordingUpstream,
}

fn start() -> Setup {
    let upstream = RecordingUpstream::start(|exchange| {
        let own = [("Access-Control-Allow-Origin", EVIL), ("Vary", "Accept"), ("X-Own", "1")];
        exchange.answer(200, &own, b"hello")
    });
    Setup::start(
        upstream,
        &format!(
            r#"
policies:
  spa:
    allowOrigins: ["{ORIGIN}"]
    allowMethods: [PUT]
    allowHeaders: [content-type, x-api]
    exposeHeaders: [x-req]
    allowCredentials: true
  open: {{ allowOrigins: ["*"], allowMethods: [DELETE] }}
  watched: {{ allowOrigins: ["{ORIGIN}"], mode: Report }}
tenants:
  - id: a
    hosts: [{HOST}]
    upstream: api
    policy: spa
    routes:
      - {{ pathPrefix: /public, policy: open }}
      - {{ pathPrefix: /public/private, policy: spa }}
      - {{ pathPrefix: /orders, methods: [DELETE], policy: open, upstream: other }}
      - {{ pathPrefix: /saml/acs, unmatchedRequests: Forward }}
      - {{ pathPrefix: /watched, policy: watched }}
  - id: b
    hosts: ["*.b.test", b.test]
    policy: spa
    routes: [{{ pathPrefix: /only, upstream: other }}]
  - {{ id: c, hosts: [c.b.test], upstream: api, policy: open }}
"#
        ),
    )
}

impl Setup {
    /// Starts a gateway before `upstream`, which is `api`, and before one more.
    fn start(upstream: RecordingUpstream, rest: &str) -> Self {
        let other = RecordingUpstream::answering("other");
        let servers = format!(
            "upstreams: {{ api: {{ servers: [\"{}\"] }}, other: {{ servers: [\"{}\"] }} }}",
            upstream.address, other.address
        );
        Setup { gateway: Gateway::start(&config(&format!("{servers}{rest}")), &[]), upstream, other }
    }

    /// Checks whether the open policy applied, which answers `*` to every origin.
    fn is_open(&self, path: &str) -> bool {
        let answer = self.gateway.ask("GET", path, HOST, &[("Origin", EVIL)]);
        let open = answer.headers.all("access-control-allow-origin") == ["*"];
        assert_eq!(answer.status, if open { 200 } else { 403 }, "{path}: {answer:?}");
        open
    }

    fn preflight(&self, path: &str, method: &str, origin: &str) -> crate::support::Response {
        self.gateway.ask("OPTIONS", path, HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)])
    }
}

#[test]
fn routes_match_whole_segments_and_the_longest_prefix_wins() {
    let setup = start();
    for open in ["/public", "/public/", "/public/x", "/public?x", "//public//x", "/x/../public", "/%70ublic"] {
        assert!(setup.is_open(open), "{open}");
    }
    for closed in ["/", "/publicity", "/public/private", "/public/private/x", "/public/../x", "/x/public"] {
        assert!(!setup.is_open(closed), "{closed}");
    }
    assert!(setup.is_open("/public/privateer"));
}

#[test]
fn preflight_uses_the_route_of_the_requested_method() {
    let setup = start();
    let delete = setup.preflight("/orders", "DELETE", EVIL);
    assert_eq!((delete.status, delete.headers.one("access-control-allow-origin")), (204, "*"));
    assert_denied(&setup.preflight("/orders", "PUT", EVIL), "evil");
    assert_eq!(setup.preflight("/orders", "PUT", ORIGIN).status, 204);
    assert_eq!(setup.gateway.ask("DELETE", "/orders", HOST, &[("Origin", EVIL)]).text(), "other");
    assert_eq!((setup.other.total(), setup.upstream.total()), (1, 0));
}

#[test]
fn hosts_match_exactly_before_by_suffix() {
    let setup = start();
    assert_eq!(setup.gateway.ask("GET", "/only", "b.test", &[]).text(), "other");
    assert_eq!(setup.gateway.ask("GET", "/only", "x.y.b.test", &[]).text(), "other");
    assert_eq!(setup.gateway.ask("GET", "/only", "C.b.test", &[]).text(), "hello");
    assert_eq!(setup.gateway.ask("GET", "/only", "xb.test", &[]).status, 421);
}

#[test]
fn a_missing_route_is_a_404_that_an_allowed_page_may_read() {
    let setup = start();
    let allowed = setup.gateway.ask("GET", "/nothing", "b.test", &[("Origin", ORIGIN)]);
    assert_edge_error(&allowed, 404);
    assert_allowed(&allowed);
    assert_denied(&setup.gateway.ask("GET", "/nothing", "b.test", &[("Origin", EVIL)]), "evil");
    let own = setup.gateway.ask("GET", "/nothing", "b.test", &[]);
    assert_edge_error(&own, 404);
    assert_never_readable(&own);
    assert_eq!(setup.other.total(), 0);
}

#[test]
fn forward_mode_passes_denied_requests_without_cors_headers() {
    let setup = start();
    for origin in [EVIL, "null", "garbage"] {
        let answer = setup.gateway.ask("POST", "/saml/acs", HOST, &[("Origin", origin)]);
        assert_eq!((answer.status, answer.text().as_str(), answer.headers.one("x-own")), (200, "hello", "1"));
        assert_never_readable(&answer);
        assert_eq!(answer.headers.vary(), ["accept", "origin"]);
    }
    assert_denied(&setup.preflight("/saml/acs", "PUT", EVIL), "evil");
    let websocket = [("Origin", EVIL), ("Connection", "Upgrade"), ("Upgrade", "websocket")];
    assert_denied(&setup.gateway.ask("GET", "/saml/acs", HOST, &websocket), "evil");
    assert_eq!(setup.upstream.total(), 3);
    let allowed = setup.gateway.ask("POST", "/saml/acs", HOST, &[("Origin", ORIGIN)]);
    assert_eq!(allowed.headers.one("access-control-allow-origin"), ORIGIN);
}

#[test]
fn report_mode_only_counts_denials() {
    let setup = start();
    for origin in [EVIL, ORIGIN] {
        for method in ["GET", "OPTIONS"] {
            let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
            let answer = setup.gateway.ask(method, "/watched", HOST, &headers);
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
            assert_eq!(answer.headers.one("access-control-allow-origin"), EVIL, "the field of the upstream");
            assert_eq!(answer.headers.vary(), ["accept"]);
        }
    }
    assert_eq!((setup.upstream.count("GET"), setup.upstream.count("OPTIONS")), (2, 2));
    setup.gateway.wait_metric("crossgate_requests_total", &[], 4.0);
    let count = |verdict| setup.gateway.metric("crossgate_requests_total", &[("tenant", "a"), ("verdict", verdict)]);
    assert_eq!(["allow", "deny", "would_allow", "would_deny"].map(count), [0.0, 0.0, 1.0, 3.0]);
    assert!(setup.gateway.metric("crossgate_report_disagreements_total", &[("tenant", "a")]) >= 2.0);
}

/// Starts a tenant with a policy for partners and a stricter one for `/admin`.
fn start_with_admin() -> Setup {
    Setup::start(
        RecordingUpstream::answering("hello"),
        &format!(
            r#"
policies:
  partner: {{ allowOrigins: ["{ORIGIN}", "https://partner.test"], allowMethods: [PUT], allowCredentials: true }}
  staff: {{ allowOrigins: ["{ORIGIN}"], allowCredentials: true }}
tenants:
  - id: a
    hosts: [{HOST}]
    upstream: api
    policy: partner
    routes:
      - {{ pathPrefix: /admin, policy: staff }}
      - {{ pathPrefix: /Reports/Daily, upstream: other }}
      - {{ pathPrefix: /same }}
  - id: b
    hosts: [b.test]
    policy: partner
    routes: [{{ pathPrefix: /only, upstream: other }}]
  - {{ id: c, hosts: [c.test], upstream: api, policy: partner }}
"#
        ),
    )
}

#[test]
fn a4_path_ambiguous_between_routes_is_refused() {
    let site = start_with_admin();
    let partner = [("Origin", "https://partner.test")];
    let over_http2 = Http2::open(site.gateway.data);
    for path in [
        "/%2561dmin/users",
        "/admin%25%2532%46users",
        "/admin%2Fusers",
        "/admin%2fusers?x=/public",
        "/admin%5cusers",
        "/admin%5Cusers",
        "/admin\\users",
        "/admin%252fusers",
        "/admin%25252Fusers",
        "/admin;x/users",
        "/admin;/users",
        "/admin%3bx/users",
        "/admin./users",
        "/admin%20/users",
        "/admin%00/users",
        "/ADMIN/users",
        "/Admin",
        "/aDmin%2Fusers",
        "/x/..%252fadmin",
        "/%2Fadmin/users",
        "//%2fadmin",
        "/reports/daily",
        "/Reports%2FDaily/x",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = site.gateway.ask(method, path, HOST, &partner);
            assert_eq!(answer.status, 400, "{method} {path}");
            assert_edge_error(&answer, 400);
            assert_never_readable(&answer);
        }
        let preflight = [partner[0], ("Access-Control-Request-Method", "PUT")];
        let answer = site.gateway.ask("OPTIONS", path, HOST, &preflight);
        assert_edge_error(&answer, 400);
        assert_never_readable(&answer);
        if !path.contains('\\') {
            let answer = over_http2.ask("GET", path, HOST, &partner, b"").unwrap();
            assert_eq!(answer.status, 400, "{path}");
        }
    }
    assert_eq!((site.upstream.total(), site.other.total()), (0, 0));
}

#[test]
fn a4_path_ambiguous_between_equal_routes_is_forwarded() {
    let site = start_with_admin();
    for (host, path) in [
        // Paths of GitLab and Matrix.
        (HOST, "/api/v4/projects/group%2Fproject"),
        (HOST, "/_matrix/client/v3/rooms/!a%3Ab.test/state/x%2Fy"),
        (HOST, "/Files/Report.PDF;v=2"),
        (HOST, "/same%2Fadmin"),
        (HOST, "/SAME/x"),
        (HOST, "/x/administration"),
        (HOST, "/admin/a%2Fb;c=D/E"),
        (HOST, "/Reports/Daily/x%2FY"),
        // One route for every reading of the path.
        ("c.test", "/admin%2fusers;x"),
        ("b.test", "/only/a%2Fb"),
    ] {
        let answer = site.gateway.ask("GET", path, host, &[("Origin", ORIGIN)]);
        assert_eq!(answer.status, 200, "{host} {path}: {answer:?}");
    }
    // Without a route no upstream can be reached.
    assert_edge_error(&site.gateway.ask("GET", "/other%2Fonly", "b.test", &[]), 404);
    // A reading outside of the only route.
    assert_edge_error(&site.gateway.ask("GET", "/only/x%252f..%252f..%252fsecret", "b.test", &[]), 400);
    let seen = site.upstream.seen();
    assert!(seen.iter().any(|seen| seen.target == "/api/v4/projects/group%2Fproject"), "{seen:?}");
}

/// A site whose exact paths have other terms than the paths around them.
fn start_with_exact_paths() -> Setup {
    Setup::start(
        RecordingUpstream::answering("hello"),
        &format!(
            r#"
policies:
  spa: {{ allowOrigins: ["{ORIGIN}"], allowMethods: [PUT], allowCredentials: true }}
  open: {{ allowOrigins: ["*"], allowMethods: [DELETE] }}
tenants:
  - id: a
    hosts: [{HOST}]
    upstream: api
    policy: spa
    routes:
      - {{ pathPrefix: /docs, policy: open }}
      - {{ pathExact: /docs, policy: spa, upstream: other }}
      - {{ pathExact: /Status, policy: open }}
      - {{ pathExact: /orders, methods: [DELETE], policy: open, upstream: other }}
      - {{ pathExact: /, policy: open, upstream: other }}
"#
        ),
    )
}

#[test]
fn exact_path_comes_before_every_prefix() {
    let site = start_with_exact_paths();
    for (path, is_open) in [
        ("/docs", false),
        ("/docs?x=1", false),
        ("/docs/intro", true),
        ("/Status", true),
        ("/Status/x", false),
        ("/Statusx", false),
        ("/orders", false),
        ("/", true),
        ("/?x", true),
        ("/x", false),
    ] {
        assert_eq!(site.is_open(path), is_open, "{path}");
    }
    let methods =
        |method: &str| site.preflight("/orders", method, ORIGIN).headers.one("access-control-allow-methods").to_owned();
    assert_eq!([methods("DELETE"), methods("PUT")], ["DELETE", "PUT"]);
    let explained = site.gateway.admin("GET", &format!("/explain?host={HOST}&origin={EVIL}&path=/docs")).json();
    assert_eq!((&explained["route"], &explained["policy"]), (&"/docs".into(), &"spa".into()), "{explained}");
}

#[test]
fn a4_path_that_a_server_may_read_as_an_exact_path_is_refused() {
    let site = start_with_exact_paths();
    let over_http2 = Http2::open(site.gateway.data);
    for path in [
        "/docs/",
        "/docs//",
        "/docs/.",
        "/docs/x/..",
        "/docs%2f",
        "/docs;x",
        "/DOCS",
        "/status",
        "/Status/",
        "/STATUS%2F",
        "/%53tatus/",
        "/Status%00",
        "/Status.",
    ] {
        for origin in [EVIL, ORIGIN] {
            let answer = site.gateway.ask("GET", path, HOST, &[("Origin", origin)]);
            assert_edge_error(&answer, 400);
            assert_never_readable(&answer);
        }
        let answer = over_http2.ask("GET", path, HOST, &[("Origin", EVIL)], b"").unwrap();
        assert_eq!(answer.status, 400, "{path}");
    }
    assert_eq!((site.upstream.total(), site.other.total()), (0, 0));
    // The method of the exact path differs, so there is no other route.
    assert_eq!(site.gateway.ask("GET", "/orders/", HOST, &[("Origin", ORIGIN)]).status, 200);
    assert_edge_error(&site.gateway.ask("DELETE", "/orders/", HOST, &[("Origin", ORIGIN)]), 400);
}
