//! The 17 cases of the conformance test `HTTPRouteCORS` of the Kubernetes Gateway API, on the
//! shipped sample, over HTTP/1.1 and HTTP/2.
//!
//! The cases are facts of kubernetes-sigs/gateway-api at 4564255ac2c3, conformance/tests
//! (httproute-cors.go and .yaml). As there, header lines are joined by commas, the headers of a 403
//! are not compared, and lists may be in any order.
use crate::support::{Connection, Gateway, Http2, ReceivedRequest, RecordingUpstream, Response, config, request};

const ORIGIN: &str = "access-control-allow-origin";
const METHODS: &str = "access-control-allow-methods";
const HEADERS: &str = "access-control-allow-headers";
const EXPOSED: &str = "access-control-expose-headers";
const MAX_AGE: &str = "access-control-max-age";
const CREDENTIALS: &str = "access-control-allow-credentials";

const TWO_HEADERS: &str = "x-header-1, x-header-2";

/// One request, and what its response must have.
struct Case {
    number: u8,
    path: &'static str,
    method: &'static str,
    origin: &'static str,
    requested_method: Option<&'static str>,
    requested_headers: Option<&'static str>,
    statuses: &'static [u16],
    /// Each field with the lists of names that it may have. Without any, it must be absent.
    fields: &'static [(&'static str, &'static [&'static str])],
}

const PREFLIGHT: &[u16] = &[200, 204];
const FOO: &str = "https://www.foo.com";
const OTHER: &str = "https://other.foo.com";
const FOOBAR: &str = "https://foobar.com";
const FOOBAR_PORT: &str = "https://foobar.com:12345";

/// The fields of the first three cases besides the origin.
macro_rules! first_route {
    ($origin:literal) => {
        &[
            (ORIGIN, &[$origin]),
            (METHODS, &["GET, OPTIONS"]),
            (HEADERS, &[TWO_HEADERS]),
            (EXPOSED, &["x-header-3, x-header-4"]),
            (MAX_AGE, &["3600"]),
            (CREDENTIALS, &["true"]),
        ]
    };
}

#[rustfmt::skip]
const CASES: [Case; 17] = [
    Case { number: 1, path: "/cors-1", method: "OPTIONS", origin: FOO, requested_method: Some("GET"), requested_headers: Some(TWO_HEADERS), statuses: PREFLIGHT, fields: first_route!("https://www.foo.com") },
    Case { number: 2, path: "/cors-1", method: "OPTIONS", origin: "https://www.bar.com", requested_method: Some("GET"), requested_headers: Some(TWO_HEADERS), statuses: PREFLIGHT, fields: first_route!("https://www.bar.com") },
    Case { number: 3, path: "/cors-1", method: "OPTIONS", origin: "https://xpto.www.bar.com", requested_method: Some("GET"), requested_headers: Some(TWO_HEADERS), statuses: PREFLIGHT, fields: first_route!("https://xpto.www.bar.com") },
    Case { number: 4, path: "/cors-1", method: "OPTIONS", origin: FOOBAR, requested_method: Some("GET"), requested_headers: None, statuses: &[200, 204, 403], fields: &[(ORIGIN, &[])] },
    Case { number: 5, path: "/cors-1", method: "GET", origin: FOO, requested_method: Some("GET"), requested_headers: Some(TWO_HEADERS), statuses: &[200], fields: &[(ORIGIN, &[FOO])] },
    Case { number: 6, path: "/cors-1", method: "GET", origin: "https://www.bar.com", requested_method: Some("GET"), requested_headers: Some(TWO_HEADERS), statuses: &[200], fields: &[(ORIGIN, &["https://www.bar.com"])] },
    Case { number: 7, path: "/cors-1", method: "GET", origin: FOOBAR, requested_method: Some("GET"), requested_headers: None, statuses: &[200], fields: &[(ORIGIN, &[])] },
    Case { number: 8, path: "/cors-2", method: "OPTIONS", origin: FOO, requested_method: Some("POST"), requested_headers: None, statuses: PREFLIGHT, fields: &[(METHODS, &["POST", "*"]), (ORIGIN, &[FOO]), (CREDENTIALS, &[])] },
    Case { number: 9, path: "/cors-2", method: "OPTIONS", origin: FOO, requested_method: Some("POST"), requested_headers: None, statuses: PREFLIGHT, fields: &[(CREDENTIALS, &[])] },
    Case { number: 10, path: "/cors-wildcard-origin", method: "OPTIONS", origin: FOOBAR, requested_method: Some("PUT"), requested_headers: None, statuses: PREFLIGHT, fields: &[(ORIGIN, &[FOOBAR, "*"]), (METHODS, &["PUT"]), (CREDENTIALS, &[])] },
    Case { number: 11, path: "/cors-wildcard-origin", method: "OPTIONS", origin: FOOBAR_PORT, requested_method: Some("PUT"), requested_headers: None, statuses: PREFLIGHT, fields: &[(ORIGIN, &[FOOBAR_PORT, "*"]), (METHODS, &["PUT"]), (CREDENTIALS, &[])] },
    Case { number: 12, path: "/cors-wildcard-origin", method: "PUT", origin: FOOBAR_PORT, requested_method: None, requested_headers: None, statuses: &[200], fields: &[(ORIGIN, &[FOOBAR_PORT, "*"])] },
    Case { number: 13, path: "/cors-wildcard-origin", method: "PUT", origin: FOOBAR, requested_method: None, requested_headers: None, statuses: &[200], fields: &[(ORIGIN, &[FOOBAR, "*"]), (CREDENTIALS, &[])] },
    Case { number: 14, path: "/cors-wildcard-methods-headers", method: "OPTIONS", origin: OTHER, requested_method: Some("PUT"), requested_headers: Some(TWO_HEADERS), statuses: PREFLIGHT, fields: &[(ORIGIN, &[OTHER]), (METHODS, &["PUT"]), (HEADERS, &[TWO_HEADERS]), (CREDENTIALS, &["true"])] },
    Case { number: 15, path: "/cors-wildcard-methods-headers-unauth", method: "OPTIONS", origin: OTHER, requested_method: Some("PUT"), requested_headers: Some(TWO_HEADERS), statuses: PREFLIGHT, fields: &[(ORIGIN, &[OTHER, "*"]), (METHODS, &["PUT", "*"]), (HEADERS, &[TWO_HEADERS, "*"]), (CREDENTIALS, &[])] },
    Case { number: 16, path: "/cors-wildcard-methods-headers", method: "GET", origin: OTHER, requested_method: None, requested_headers: None, statuses: &[200], fields: &[(ORIGIN, &[OTHER]), (CREDENTIALS, &["true"])] },
    Case { number: 17, path: "/cors-wildcard-methods-headers-unauth", method: "GET", origin: OTHER, requested_method: None, requested_headers: None, statuses: &[200], fields: &[(ORIGIN, &[OTHER, "*"]), (CREDENTIALS, &[])] },
];

impl Case {
    fn fields(&self) -> Vec<(&'static str, &'static str)> {
        let requested = [
            ("Access-Control-Request-Method", self.requested_method),
            ("Access-Control-Request-Headers", self.requested_headers),
        ];
        let requested = requested.into_iter().filter_map(|(name, value)| Some((name, value?)));
        [("Origin", self.origin)].into_iter().chain(requested).collect()
    }

    fn check(&self, response: &Response, seen: &[ReceivedRequest], protocol: &str) {
        let name = format!("case {} over {protocol}", self.number);
        assert!(self.statuses.contains(&response.status), "{name}: {response:?}");
        let reached = usize::from(self.method != "OPTIONS");
        assert_eq!(seen.len(), reached, "{name}: {seen:?}");
        for asked in seen {
            assert_eq!((&*asked.method, &*asked.target), (self.method, self.path), "{name}");
            assert_eq!(asked.headers.all("origin"), [self.origin], "{name}");
        }
        if !matches!(response.status, 200 | 204) {
            return;
        }
        for (field, allowed) in self.fields {
            let found = names(&response.headers.all(field).join(","));
            let expected: Vec<_> = allowed.iter().map(|list| names(list)).collect();
            let is_expected = if expected.is_empty() { found.is_empty() } else { expected.contains(&found) };
            assert!(is_expected, "{name}: {field}: {found:?} is not one of {expected:?}");
        }
    }
}

/// The elements of a list, in order of the alphabet.
fn names(list: &str) -> Vec<String> {
    let mut names: Vec<String> =
        list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    names.sort();
    names
}

#[test]
fn every_case_of_httproute_cors_passes_on_the_sample() {
    let upstream = RecordingUpstream::answering("hello");
    let sample = include_str!("../../../ops/config/gateway-api-cors.yaml");
    let (_, rest) = sample.split_once("\nupstreams:").unwrap();
    let text = format!("upstreams:{rest}").replace("10.1.0.11:9001", &upstream.address.to_string());
    let gateway = Gateway::start(&config(&text), &[]);
    let host = gateway.data.to_string();
    let over_2 = Http2::open(gateway.data);
    for case in &CASES {
        let asked = request(case.method, case.path, &host, &case.fields(), b"");
        let before = upstream.total();
        case.check(&Connection::ask(gateway.data, &asked).unwrap(), &upstream.seen()[before..], "HTTP/1.1");
        let before = upstream.total();
        let response = over_2.ask(case.method, case.path, &host, &case.fields(), b"").unwrap();
        case.check(&response, &upstream.seen()[before..], "HTTP/2");
    }
}
