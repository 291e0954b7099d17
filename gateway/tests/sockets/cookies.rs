//! `cookies: Warn`: cookies that pages of other sites cannot send back are counted. The shipped
//! sample is driven too.

use crate::support::{Gateway, Http2, Http2Upstream, Process, RecordingUpstream, Response, config};

const HOST: &str = "api.acme.example";
const OWN_SITE: &str = "https://app.acme.example";
const OTHER_SITE: &str = "https://shop.example";
const METRIC: &str = "crossgate_cookies_unsendable_total";

const REST: &str = r#"
policies:
  web: { allowOrigins: ["https://app.acme.example", "https://shop.example"], allowCredentials: true, cookies: Warn }
  quiet: { allowOrigins: ["https://shop.example"], allowCredentials: true }
  groups:
    cookies: Warn
    allowOrigins: ["https://shop.example"]
    groups: [{ name: own, allowCredentials: true, allowOrigins: ["https://*.shop.example"] }]
tenants:
  - id: acme
    hosts: [api.acme.example]
    upstream: api
    policy: web
    routes: [{ pathPrefix: /quiet, policy: quiet }, { pathPrefix: /groups, policy: groups }]
  - { id: same, hosts: ["[::1]", 127.0.0.1], upstream: api, policy: web }
"#;

/// A gateway before an upstream that sets the cookie which the query names.
fn start(upstream: &str) -> Gateway {
    Gateway::start(&config(&format!("upstreams: {{ api: {{ {upstream} }} }}{REST}")), &[])
}

fn cookies(target: &str) -> Vec<(&'static str, &'static str)> {
    const LAX: &str = "a=b; Path=/; SameSite=Lax; Secure";
    const GOOD: &str = "a=b; Path=/; SameSite=None; Secure";
    match target.split_once('?').map(|(_, query)| query) {
        Some("lax") => vec![("set-cookie", LAX)],
        Some("good") => vec![("set-cookie", GOOD)],
        Some("both") => vec![("set-cookie", GOOD), ("set-cookie", LAX)],
        _ => vec![],
    }
}

/// Requests, and whether their responses are counted: the target, the origin and `Sec-Fetch-Site`.
const CASES: [(&str, &str, &str, bool); 15] = [
    ("/?lax", OTHER_SITE, "cross-site", true),
    ("/?lax", OTHER_SITE, "", true),
    ("/?both", OTHER_SITE, "", true),
    ("/?good", OTHER_SITE, "cross-site", false),
    ("/", OTHER_SITE, "cross-site", false),
    ("/?lax", OWN_SITE, "same-site", false),
    ("/?lax", OWN_SITE, "", false),
    // The browser knows more than the names: http and https are two sites.
    ("/?lax", OWN_SITE, "cross-site", true),
    ("/?lax", OTHER_SITE, "same-origin", false),
    ("/?lax", "https://evil.example", "cross-site", false),
    ("/?lax", "", "cross-site", false),
    ("/quiet?lax", OTHER_SITE, "cross-site", false),
    ("/groups?lax", OTHER_SITE, "cross-site", false),
    ("/groups?lax", "https://a.shop.example", "cross-site", true),
    ("/?lax", "http://api.acme.example", "", false),
];

fn check(gateway: &Gateway, ask: impl Fn(&str, &[(&str, &str)]) -> Response) {
    let mut expected = gateway.metric(METRIC, &[("tenant", "acme")]);
    for (target, origin, site, is_counted) in CASES {
        let fields = [("origin", origin), ("sec-fetch-site", site)];
        let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let answer = ask(target, &fields);
        let set = if origin.contains("evil") { 0 } else { cookies(target).len() };
        assert_eq!(answer.headers.all("set-cookie").len(), set, "{target} {origin}: {answer:?}");
        expected += if is_counted { 1.0 } else { 0.0 };
        assert_eq!(gateway.metric(METRIC, &[("tenant", "acme")]), expected, "{target} {origin} {site}");
    }
}

#[test]
fn unsendable_cookies_are_counted_over_every_path() {
    let http1 = RecordingUpstream::start(|exchange| {
        let fields = cookies(&exchange.seen.target);
        exchange.answer(200, &fields, b"hello")
    });
    let http2 = Http2Upstream::start(|asked| {
        let fields = cookies(&asked.seen.target);
        async move { asked.answer(200, &fields, b"hello").await }
    });
    for upstream in
        [format!("servers: [\"{}\"]", http1.address), format!("servers: [\"{}\"], protocol: Http2", http2.address)]
    {
        let gateway = start(&upstream);
        check(&gateway, |target, fields| gateway.ask("GET", target, HOST, fields));
        let client = Http2::open(gateway.data);
        check(&gateway, |target, fields| client.ask("GET", target, HOST, fields, b"").unwrap());
        check(&gateway, |target, fields| gateway.ask("POST", target, HOST, fields));
    }
}

#[test]
fn public_responses_to_cookies_are_counted() {
    let fields = |target: &str| match target.split_once('?') {
        Some((_, "public")) => vec![("cache-control", "max-age=60, PUBLIC")],
        Some((_, "private")) => vec![("cache-control", "private, max-age=60, x=public")],
        _ => vec![],
    };
    let http1 = RecordingUpstream::start(move |exchange| {
        let fields = fields(&exchange.seen.target);
        exchange.answer(200, &fields, b"hello")
    });
    let http2 = Http2Upstream::start(move |asked| {
        let fields = fields(&asked.seen.target);
        async move { asked.answer(200, &fields, b"hello").await }
    });
    for upstream in
        [format!("servers: [\"{}\"]", http1.address), format!("servers: [\"{}\"], protocol: Http2", http2.address)]
    {
        let gateway = start(&upstream);
        let mut expected = 0.0;
        for (target, origin, cookie, is_counted) in [
            ("/?public", OWN_SITE, "a=b", true),
            ("/?public", OTHER_SITE, "a=b", true),
            ("/groups?public", "https://a.shop.example", "a=b", true),
            ("/?public", OWN_SITE, "", false),
            ("/?private", OWN_SITE, "a=b", false),
            ("/", OWN_SITE, "a=b", false),
            ("/?public", "", "a=b", false),
            ("/groups?public", OTHER_SITE, "a=b", false),
            ("/quiet?public", OTHER_SITE, "a=b", false),
        ] {
            let fields = [("Origin", origin), ("Cookie", cookie)];
            let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            assert_eq!(gateway.ask("GET", target, HOST, &fields).status, 200);
            expected += if is_counted { 1.0 } else { 0.0 };
            assert_eq!(gateway.metric("crossgate_cookies_public_total", &[("tenant", "acme")]), expected, "{target}");
        }
    }
}

#[test]
fn addresses_are_sites_of_their_own() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(200, &[("set-cookie", "a=b")], b"hello"));
    let gateway = start(&format!("servers: [\"{}\"]", upstream.address));
    for (count, host) in [(1.0, "127.0.0.1"), (2.0, "[::1]:80")] {
        gateway.ask("GET", "/", host, &[("Origin", OTHER_SITE)]);
        assert_eq!(gateway.metric(METRIC, &[("tenant", "same")]), count);
    }
}

#[test]
fn status_and_explain_name_unsendable_cookies() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(200, &[("set-cookie", "a=b")], b"hello"));
    let (_, rest) = include_str!("../../../ops/config/third-party-cookies.yaml").split_once("\nupstreams:").unwrap();
    let text = format!("upstreams:{rest}").replace("10.1.0.11:9001", &upstream.address.to_string());
    let gateway = Gateway::start(&config(&text), &[]);
    let cookies = || gateway.admin("GET", "/status").json()["unsendableCookies"].clone();
    assert_eq!(cookies(), serde_json::json!([]));
    for _ in 0..2 {
        gateway.ask("GET", "/", HOST, &[("Origin", OTHER_SITE)]);
    }
    assert_eq!(cookies(), serde_json::json!([{ "tenant": "acme", "responses": 2 }]));
    let explained =
        |origin: &str| gateway.admin("GET", &format!("/explain?host={HOST}&origin={origin}")).json().to_string();
    assert!(explained(OTHER_SITE).contains("SameSite=None; Secure"));
    assert!(!explained(OWN_SITE).contains("SameSite"));
    let admin = format!("http://{}", gateway.admin);
    let mut printed = Process::crossgate(&["status", "--admin", &admin]);
    let line = printed.stdout_line(|line| line.starts_with("cookies").then(|| line.to_owned()));
    assert!(line.contains("acme: 2 responses"), "{line}");
    printed.wait_at_most(crate::support::PATIENCE);
}
