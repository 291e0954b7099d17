//! `Timing-Allow-Origin` and `Cross-Origin-Resource-Policy`: the shipped sample, over every path of
//! a response.
use crate::support::{Gateway, Http2, Http2Upstream, RecordingUpstream, Response, config};

const HOST: &str = "api.acme.example";
const APP: &str = "https://app.acme.example";
const SHOP: &str = "https://eu.shop.example";
const EVIL: &str = "https://evil.example";
const TIMING: &str = "timing-allow-origin";
const RESOURCE: &str = "cross-origin-resource-policy";
const OWN: [(&str, &str); 2] =
    [("Timing-Allow-Origin", "https://own.example"), ("Cross-Origin-Resource-Policy", "same-origin")];

/// The shipped sample in front of an upstream that sets both fields itself.
fn start(upstream: &str) -> Gateway {
    let (_, rest) = include_str!("../../../ops/config/embedding.yaml").split_once("\nupstreams:").unwrap();
    Gateway::start(&config(&format!("upstreams:{rest}").replace("servers: [10.1.0.11:9001]", upstream)), &[])
}

const OWN_LOWER: [(&str, &str); 2] = [(TIMING, "https://own.example"), (RESOURCE, "same-origin")];

fn values<'r>(answer: &'r Response, name: &str) -> Vec<&'r str> {
    answer.headers.all(name)
}

/// The cases of the sample: host and path, origin, and the expected values of both fields.
const CASES: [(&str, &str, &[&str], &[&str]); 10] = [
    ("api/orders", APP, &[APP], &["same-site"]),
    ("api/orders", SHOP, &[SHOP], &["same-site"]),
    ("api/orders", EVIL, &[], &["same-site"]),
    ("api/orders", "", &[], &["same-site"]),
    ("api/orders", "null", &[], &["same-site"]),
    ("api/assets/a.woff2", EVIL, &["*"], &["cross-origin"]),
    ("api/assets/a.woff2", "null", &["*"], &["cross-origin"]),
    ("api/assets/a.woff2", "", &["*"], &["cross-origin"]),
    ("media/a.jpg", "", &["https://app.acme.example, https://status.acme.example"], &["same-origin"]),
    ("media/a.jpg", EVIL, &["https://app.acme.example, https://status.acme.example"], &[]),
];

/// Splits the place of a case into the host and the path.
fn host_and_path(place: &str) -> (String, String) {
    let (name, path) = place.split_once('/').unwrap();
    (format!("{name}.acme.example"), format!("/{path}"))
}

fn fields(origin: &'static str) -> Vec<(&'static str, &'static str)> {
    if origin.is_empty() { Vec::new() } else { vec![("Origin", origin)] }
}

#[test]
fn policy_replaces_the_upstream_fields_over_http1_and_http2() {
    let upstream = RecordingUpstream::start(|exchange| exchange.answer(200, &OWN, b"hello"));
    let gateway = start(&format!("servers: [{}]", upstream.address));
    let http2 = Http2::open(gateway.data);
    for (place, origin, timing, resource) in CASES {
        let (host, path) = host_and_path(place);
        let answers = [
            gateway.ask("GET", &path, &host, &fields(origin)),
            http2.ask("GET", &path, &host, &fields(origin), b"").unwrap(),
        ];
        for answer in answers {
            assert_eq!(values(&answer, TIMING), timing, "{place} {origin}: {answer:?}");
            assert_eq!(values(&answer, RESOURCE), resource, "{place} {origin}: {answer:?}");
        }
    }
    // The fields of an upstream stay where the policy sets none.
    assert_eq!(values(&gateway.ask("GET", "/a.jpg", "media.acme.example", &[]), RESOURCE), ["same-origin"]);
}

#[test]
fn policy_replaces_the_upstream_fields_of_an_http2_upstream() {
    let upstream = Http2Upstream::start(|asked| asked.answer(200, &OWN_LOWER, b"hello"));
    let gateway = start(&format!("servers: [{}], protocol: Http2", upstream.address));
    for (place, origin, timing, resource) in CASES {
        let (host, path) = host_and_path(place);
        let answer = gateway.ask("GET", &path, &host, &fields(origin));
        assert_eq!(values(&answer, TIMING), timing, "{place} {origin}: {answer:?}");
        assert_eq!(values(&answer, RESOURCE), resource, "{place} {origin}: {answer:?}");
    }
}

#[test]
fn own_errors_have_the_fields_and_preflights_do_not() {
    let gateway = start("servers: [\"127.0.0.1:9\"]");
    let failed = gateway.ask("GET", "/orders", HOST, &[("Origin", APP)]);
    assert_eq!(
        (failed.status, values(&failed, TIMING), values(&failed, RESOURCE)),
        (502, vec![APP], vec!["same-site"])
    );
    let denied = gateway.ask("GET", "/orders", HOST, &[("Origin", EVIL)]);
    assert_eq!((denied.status, values(&denied, TIMING), values(&denied, RESOURCE)), (403, vec![], vec!["same-site"]));
    let preflight =
        gateway.ask("OPTIONS", "/orders", HOST, &[("Origin", APP), ("Access-Control-Request-Method", "GET")]);
    assert_eq!((preflight.status, values(&preflight, TIMING), values(&preflight, RESOURCE)), (204, vec![], vec![]));
    let explained = gateway.admin("GET", &format!("/explain?host={HOST}&path=/orders&origin={APP}")).json();
    let added = explained["response"]["headers"].to_string();
    assert!(added.contains(r#"["timing-allow-origin","https://app.acme.example"]"#), "{added}");
}
