//! Protection against cross-site requests: the shipped sample over HTTP/1.1 and HTTP/2, the page
//! for a user, and the records in metrics, access log, denials, ledger and `explain`.
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Connection, Gateway, Http2, PATIENCE, RecordingUpstream, Response, assert_edge_error, assert_never_readable,
    config, request,
};

const HOST: &str = "api.shop.example";
const INTERNAL: &str = "internal.shop.example";
const SHOP: (&str, &str) = ("Origin", "https://shop.example");
const EVIL: (&str, &str) = ("Origin", "https://evil.example");
const FOREIGN: (&str, &str) = ("Sec-Fetch-Site", "cross-site");
const COOKIE: (&str, &str) = ("Cookie", "a=b");
const FORM: [(&str, &str); 2] = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
const IMAGE: [(&str, &str); 2] = [("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")];

/// Some fields of a request.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// A gateway with the shipped sample, changed by `change`.
fn start(change: impl Fn(&str) -> String) -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::answering("hello");
    let sample = include_str!("../../../ops/config/cross-site.yaml");
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let text = change(&format!("upstreams:{rest}").replace("10.1.0.11:9001", &upstream.address.to_string()));
    (Gateway::start(&config(&text), &[]), upstream)
}

/// The response over HTTP/1.1, which must equal that over HTTP/2. `/internal` is on its own host.
fn ask(gateway: &Gateway, method: &str, target: &str, fields: &[Fields<'_>]) -> Response {
    let fields = fields.concat();
    let host = if target.starts_with("/internal") { INTERNAL } else { HOST };
    let over_1 = Connection::ask(gateway.data, &request(method, target, host, &fields, b"")).unwrap();
    let over_2 = Http2::open(gateway.data).ask(method, target, host, &fields, b"").unwrap();
    assert_eq!((over_1.status, over_1.headers.cors()), (over_2.status, over_2.headers.cors()), "{target} {fields:?}");
    assert_eq!(over_1.headers.all("content-type"), over_2.headers.all("content-type"), "{target} {fields:?}");
    over_1
}

#[track_caller]
fn assert_refused(response: &Response) {
    assert_edge_error(response, 403);
    assert_never_readable(response);
    assert_eq!(response.json()["reason"], "cross_site", "{response:?}");
    assert_eq!(response.headers.all("cache-control"), ["no-store"]);
}

#[test]
fn sample_refuses_what_other_sites_would_do() {
    let (gateway, upstream) = start(str::to_owned);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        assert_refused(&ask(&gateway, method, "/orders", &[&[EVIL, FOREIGN, COOKIE]]));
    }
    assert_refused(&ask(&gateway, "POST", "/orders", &[&[FOREIGN, COOKIE]]));
    assert_refused(&ask(&gateway, "POST", "/saml/acs", &[&[EVIL, FOREIGN, COOKIE]]));
    assert_refused(&ask(&gateway, "POST", "/catalogue", &[&[EVIL, FOREIGN, COOKIE]]));
    assert_refused(&ask(&gateway, "GET", "/internal/logo.png", &[&[FOREIGN, COOKIE], &IMAGE]));
    assert_eq!(upstream.total(), 0);
}

#[test]
fn sample_lets_pass_what_it_is_for() {
    let (gateway, upstream) = start(str::to_owned);
    let form = [("Origin", "https://idp.example"), FOREIGN, COOKIE];
    let passing: [(&str, &str, &[Fields<'_>], Option<&str>); 7] = [
        ("POST", "/orders", &[&[SHOP, FOREIGN, COOKIE]], Some("https://shop.example")),
        ("POST", "/orders", &[&[("Sec-Fetch-Site", "same-origin"), COOKIE]], None),
        ("POST", "/orders", &[], None),
        ("POST", "/saml/acs", &[&form, &FORM], None),
        ("POST", "/catalogue", &[&[EVIL, FOREIGN]], Some("*")),
        ("GET", "/catalogue", &[&[EVIL, FOREIGN, COOKIE]], Some("*")),
        ("GET", "/internal", &[&[FOREIGN, COOKIE], &FORM], None),
    ];
    for (method, target, fields, allowed) in passing {
        let response = ask(&gateway, method, target, fields);
        assert_eq!((response.status, &*response.text()), (200, "hello"), "{method} {target} {fields:?}");
        let expected: Vec<&str> = allowed.into_iter().collect();
        assert_eq!(response.headers.all("access-control-allow-origin"), expected, "{method} {target} {fields:?}");
    }
    assert_eq!(upstream.total(), 2 * passing.len());
    let varied = ask(&gateway, "GET", "/internal", &[&[("Sec-Fetch-Site", "none")]]);
    assert_eq!(varied.headers.all("vary"), ["Origin, Sec-Fetch-Site, Sec-Fetch-Mode, Sec-Fetch-Dest"]);
}

#[test]
fn user_who_would_see_the_refusal_gets_a_page() {
    let (gateway, _) = start(str::to_owned);
    let html = ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
    let page = ask(&gateway, "POST", "/orders", &[&[EVIL, FOREIGN, html], &FORM]);
    assert_eq!((page.status, page.headers.one("content-type")), (403, "text/html; charset=utf-8"));
    assert_eq!(page.headers.all("cache-control"), ["no-store"]);
    assert_eq!(page.headers.one("x-content-type-options"), "nosniff");
    assert!(page.headers.one("content-security-policy").starts_with("default-src 'none'"));
    assert!(page.text().contains(page.headers.one("x-request-id")) && !page.text().contains("evil"), "{page:?}");
    assert_never_readable(&page);
    // A script, and a program that takes no page, get the problem as JSON.
    assert_refused(&ask(&gateway, "POST", "/orders", &[&[EVIL, FOREIGN, html]]));
    assert_refused(&ask(&gateway, "POST", "/orders", &[&[EVIL, FOREIGN, ("Accept", "*/*")], &FORM]));
    // An origin that CORS denies gets it as well.
    let denied = ask(&gateway, "GET", "/orders", &[&[EVIL, FOREIGN, html], &FORM]);
    assert_eq!((denied.status, &denied.json()["reason"]), (403, &"no_match".into()));
}

#[test]
fn refusal_is_counted_logged_and_explained() {
    let (mut gateway, _) = start(str::to_owned);
    let fields = [EVIL, FOREIGN, COOKIE, ("Accept", "*/*")];
    let refused = Connection::ask(gateway.data, &request("POST", "/orders", HOST, &[&fields[..], &FORM].concat(), b""));
    let id = refused.unwrap().headers.one("x-request-id").to_owned();
    let labels = [("tenant", "shop"), ("kind", "actual"), ("verdict", "deny"), ("reason", "cross_site")];
    gateway.wait_metric("crossgate_requests_total", &labels, 1.0);
    let report = gateway.origins("tenant=shop");
    assert_eq!(
        (&report["origins"][0]["denied"], &report["origins"][0]["lastReason"]),
        (&1.into(), &"cross_site".into())
    );

    let explained = gateway.admin("GET", &format!("/explain?request-id={id}")).json();
    assert_eq!((&explained["verdict"], &explained["reason"]), (&"deny".into(), &"cross_site".into()), "{explained}");
    assert_eq!((&explained["crossSite"], &explained["response"]["status"]), (&"Protect".into(), &403.into()));
    assert_eq!(explained["cause"], "the browser reports another site (`Sec-Fetch-Site: cross-site`)");
    assert!(explained["notes"].to_string().contains("crossSiteNavigations: Allow"), "{explained}");

    gateway.process.signal(Signal::TERM);
    gateway.process.wait_at_most(PATIENCE);
    let log = gateway.process.stdout();
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&line["reason"], &line["sec_fetch_mode"]), (&"cross_site".into(), &"navigate".into()), "{line}");
    assert_eq!((&line["sec_fetch_dest"], &line["has_ambient_credentials"]), (&"document".into(), &true.into()));
    assert!(line["note"].as_str().unwrap().contains("crossSiteNavigations: Allow"), "{line}");
}

#[test]
fn report_counts_what_protection_would_refuse() {
    let (gateway, upstream) = start(|text| text.replace("crossSite: Protect", "crossSite: Report"));
    assert_eq!(ask(&gateway, "POST", "/orders", &[&[FOREIGN, COOKIE]]).status, 200);
    assert_eq!(ask(&gateway, "GET", "/internal", &[&[FOREIGN], &IMAGE]).status, 200);
    assert_eq!(upstream.total(), 4);
    for tenant in ["shop", "internal"] {
        let labels = [("tenant", tenant), ("kind", "non_cors"), ("verdict", "would_deny"), ("reason", "cross_site")];
        gateway.wait_metric("crossgate_requests_total", &labels, 2.0);
    }
    // A denial by CORS stays one.
    let denied = ask(&gateway, "POST", "/orders", &[&[EVIL, FOREIGN, COOKIE]]);
    assert_eq!((denied.status, &denied.json()["reason"]), (403, &"no_match".into()));
    let plain = ask(&gateway, "GET", "/internal", &[&[("Sec-Fetch-Site", "none")]]);
    assert_eq!(plain.headers.all("vary"), ["Origin"]);
}

#[test]
fn websocket_is_left_to_cors() {
    let (gateway, upstream) = start(str::to_owned);
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
    let fields = [&[EVIL, FOREIGN][..], &upgrade].concat();
    let denied = Connection::ask(gateway.data, &request("GET", "/orders", HOST, &fields, b"")).unwrap();
    assert_eq!((denied.status, &denied.json()["reason"]), (403, &"no_match".into()));
    assert_eq!(upstream.total(), 0);
}
