//! Which policy speaks for a request, and what `unmatchedRequests: Forward` and `mode: Report` change.
use crate::support::{
    Gateway, HOST, ORIGIN, RecordingUpstream, assert_allowed, assert_denied, assert_edge_error, assert_never_readable,
    config,
};

const EVIL: &str = "https://evil.test";

struct Stage {
    gateway: Gateway,
    upstream: RecordingUpstream,
    other: RecordingUpstream,
}

fn start() -> Stage {
    let upstream = RecordingUpstream::start(|exchange| {
        let own = [("Access-Control-Allow-Origin", EVIL), ("Vary", "Accept"), ("X-Own", "1")];
        exchange.answer(200, &own, b"hello")
    });
    let other = RecordingUpstream::answering("other");
    let text = format!(
        r#"
upstreams:
  api: {{ servers: [{}] }}
  other: {{ servers: [{}] }}
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
"#,
        upstream.address, other.address
    );
    Stage { gateway: Gateway::start(&config(&text), &[]), upstream, other }
}

impl Stage {
    /// Whether the open policy spoke: `*` for anybody.
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
    let stage = start();
    for open in ["/public", "/public/", "/public/x", "/public?x", "//public//x", "/x/../public", "/%70ublic"] {
        assert!(stage.is_open(open), "{open}");
    }
    for closed in ["/", "/publicity", "/Public", "/public/private", "/public/private/x", "/public/../x", "/x/public"] {
        assert!(!stage.is_open(closed), "{closed}");
    }
    assert!(stage.is_open("/public/privateer"));
}

#[test]
fn a_preflight_is_judged_by_the_route_of_the_method_it_asks_for() {
    let stage = start();
    let delete = stage.preflight("/orders", "DELETE", EVIL);
    assert_eq!((delete.status, delete.headers.one("access-control-allow-origin")), (204, "*"));
    assert_denied(&stage.preflight("/orders", "PUT", EVIL), "evil");
    assert_eq!(stage.preflight("/orders", "PUT", ORIGIN).status, 204);
    assert_eq!(stage.gateway.ask("DELETE", "/orders", HOST, &[("Origin", EVIL)]).text(), "other");
    assert_eq!((stage.other.total(), stage.upstream.total()), (1, 0));
}

#[test]
fn hosts_match_exactly_before_by_suffix() {
    let stage = start();
    assert_eq!(stage.gateway.ask("GET", "/only", "b.test", &[]).text(), "other");
    assert_eq!(stage.gateway.ask("GET", "/only", "x.y.b.test", &[]).text(), "other");
    assert_eq!(stage.gateway.ask("GET", "/only", "C.b.test", &[]).text(), "hello");
    assert_eq!(stage.gateway.ask("GET", "/only", "xb.test", &[]).status, 421);
}

#[test]
fn a_missing_route_is_a_404_that_an_allowed_page_may_read() {
    let stage = start();
    let allowed = stage.gateway.ask("GET", "/nothing", "b.test", &[("Origin", ORIGIN)]);
    assert_edge_error(&allowed, 404);
    assert_allowed(&allowed);
    assert_denied(&stage.gateway.ask("GET", "/nothing", "b.test", &[("Origin", EVIL)]), "evil");
    let own = stage.gateway.ask("GET", "/nothing", "b.test", &[]);
    assert_edge_error(&own, 404);
    assert_never_readable(&own);
    assert_eq!(stage.other.total(), 0);
}

#[test]
fn forward_passes_what_is_denied_without_any_cors_field() {
    let stage = start();
    for origin in [EVIL, "null", "garbage"] {
        let answer = stage.gateway.ask("POST", "/saml/acs", HOST, &[("Origin", origin)]);
        assert_eq!((answer.status, answer.text().as_str(), answer.headers.one("x-own")), (200, "hello", "1"));
        assert_never_readable(&answer);
        assert_eq!(answer.headers.vary(), ["accept", "origin"]);
    }
    assert_denied(&stage.preflight("/saml/acs", "PUT", EVIL), "evil");
    let websocket = [("Origin", EVIL), ("Connection", "Upgrade"), ("Upgrade", "websocket")];
    assert_denied(&stage.gateway.ask("GET", "/saml/acs", HOST, &websocket), "evil");
    assert_eq!(stage.upstream.total(), 3);
    let allowed = stage.gateway.ask("POST", "/saml/acs", HOST, &[("Origin", ORIGIN)]);
    assert_eq!(allowed.headers.one("access-control-allow-origin"), ORIGIN);
}

#[test]
fn a_policy_that_reports_changes_nothing_and_counts() {
    let stage = start();
    for origin in [EVIL, ORIGIN] {
        for method in ["GET", "OPTIONS"] {
            let headers = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
            let answer = stage.gateway.ask(method, "/watched", HOST, &headers);
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
            assert_eq!(answer.headers.one("access-control-allow-origin"), EVIL, "the upstream's own");
            assert_eq!(answer.headers.vary(), ["accept"]);
        }
    }
    assert_eq!((stage.upstream.count("GET"), stage.upstream.count("OPTIONS")), (2, 2));
    stage.gateway.wait_metric("crossgate_requests_total", &[], 4.0);
    let count = |verdict| stage.gateway.metric("crossgate_requests_total", &[("tenant", "a"), ("verdict", verdict)]);
    assert_eq!(["allow", "deny", "would_allow", "would_deny"].map(count), [0.0, 0.0, 1.0, 3.0]);
    assert!(stage.gateway.metric("crossgate_report_disagreements_total", &[("tenant", "a")]) >= 2.0);
}
