//! Routes with conditions on headers and the query.

use http::{HeaderMap, HeaderValue};

use super::*;

/// The upstream that a request of tenant `x` goes to.
fn upstream(snapshot: &Snapshot, path: &str, query: &str, fields: Option<&[(&'static str, &'static str)]>) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in fields.unwrap_or_default() {
        map.append(*name, HeaderValue::from_static(value));
    }
    let request = RouteRequest { method: b"GET", fields: fields.map(|_| (&map).into()), query };
    let tenant = tenant(snapshot, "x");
    let found = tenant.route(path, &request).unwrap();
    found.upstream().unwrap().name.to_string()
}

fn file(routes: &str) -> String {
    format!("tenants: [{{ id: x, hosts: [x], policy: spa, upstream: a, routes: [{routes}] }}]\n")
}

#[test]
fn more_conditions_win_and_preflights_fulfil_those_on_headers() {
    let snapshot = good(&file(
        "{ pathPrefix: /v, headers: { x-canary: \"1\" }, upstream: b }, { pathPrefix: /v, query: { beta: { present: true } }, upstream: b }",
    ));
    for (path, query, fields, expected) in [
        ("/v", "", Some(&[("x-canary", "1")][..]), "b"),
        ("/v/w", "", Some(&[("x-canary", "1")]), "b"),
        ("/v", "", Some(&[("x-canary", "2")]), "a"),
        ("/v", "", Some(&[]), "a"),
        ("/v", "beta", Some(&[]), "b"),
        ("/v", "beta&beta", Some(&[]), "a"),
        ("/v", "", None, "b"),
        ("/vw", "", None, "a"),
    ] {
        assert_eq!(upstream(&snapshot, path, query, fields), expected, "{path}?{query} {fields:?}");
    }
}

#[test]
fn many_routes_are_found_as_few_are() {
    let one = |number: usize| {
        let upstream = if number.is_multiple_of(2) { "a" } else { "b" };
        format!("{{ pathPrefix: /r{number}, upstream: {upstream} }}, {{ pathExact: /r{number}/x, upstream: a }}")
    };
    let routes: Vec<_> = (0..1_000).map(one).collect();
    let snapshot = good(&file(&routes.join(", ")));
    for (path, expected) in
        [("/r0", "a"), ("/r1", "b"), ("/r999/y", "b"), ("/r999/x", "a"), ("/r999x", "a"), ("/r1000", "a"), ("/", "a")]
    {
        assert_eq!(upstream(&snapshot, path, "", None), expected, "{path}");
    }
    let tenant = tenant(&snapshot, "x");
    // Case, slashes and escapes that a server may ignore lead to another upstream.
    for path in ["/R1", "/x/..%2f..%2fr1", "/r1/X", "/r1/x/", "/r2;/../r1"] {
        assert!(tenant.is_ambiguous(path, &[asking(b"GET")]), "{path}");
    }
    assert!(!tenant.is_ambiguous("/r1/y", &[asking(b"GET")]));
}

#[test]
fn policies_that_a_preflight_cannot_tell_apart_are_an_error() {
    const CANARY: &str = "headers: { x-canary: \"1\" }";
    for (routes, is_good) in [
        // The route of the tenant stands in under the same policy.
        (format!("{{ pathPrefix: /v, {CANARY}, upstream: b }}"), true),
        (format!("{{ pathPrefix: /v, {CANARY}, policy: open }}"), false),
        (format!("{{ pathPrefix: /v, {CANARY}, unmatchedRequests: Reject }}"), false),
        (format!("{{ pathPrefix: /v, {CANARY}, allowOrigins: [\"https://b.example\"] }}"), false),
        (
            format!("{{ pathPrefix: /v, {CANARY}, policy: open }}, {{ pathPrefix: /v, policy: open, upstream: b }}"),
            true,
        ),
        // A longer one with the methods of the route stands in for it, and the tenant's never does.
        (
            format!(
                "{{ pathPrefix: /v, methods: [PUT], {CANARY}, policy: open }}, {{ pathPrefix: /v, methods: [PUT], policy: open }}"
            ),
            true,
        ),
        (
            format!(
                "{{ pathPrefix: /v, methods: [PUT, GET], {CANARY}, policy: open }}, {{ pathPrefix: /v, methods: [PUT], policy: open }}"
            ),
            false,
        ),
        (
            format!(
                "{{ pathPrefix: /v, {CANARY}, policy: open }}, {{ pathPrefix: /v, query: {{ q: a }}, policy: open }}"
            ),
            false,
        ),
        // Preflights have the query of their request.
        ("{ pathPrefix: /v, query: { q: a }, policy: open }".to_owned(), true),
    ] {
        let (snapshot, found) = compile(&file(&routes), None);
        assert_eq!(snapshot.is_some(), is_good, "{routes}: {found}");
        if !is_good {
            assert!(found.to_string().contains("requests without these headers take the route"), "{routes}: {found}");
        }
    }
}

#[test]
fn order_of_the_file_between_equal_conditions_is_a_warning() {
    let route = |conditions: &str| format!("{{ pathPrefix: /v, {conditions}, upstream: b }}");
    for (one, other, count) in [
        ("headers: { x-a: \"1\" }", "headers: { x-b: \"1\" }", 1),
        ("headers: { x-a: \"1\" }", "headers: { x-a: \"2\" }", 0),
        ("headers: { x-a: \"1\" }", "headers: { x-a: { present: true } }", 1),
        ("headers: { x-a: \"1\" }", "headers: { x-a: \"1\", x-b: \"1\" }", 0),
        ("query: { a: \"1\" }", "query: { b: \"1\" }", 1),
        ("query: { a: \"1\" }", "headers: { b: \"1\" }", 0),
        ("methods: [PUT], query: { a: \"1\" }", "methods: [GET], query: { b: \"1\" }", 0),
    ] {
        let (snapshot, found) = compile(&file(&format!("{}, {}", route(one), route(other))), None);
        assert!(snapshot.is_some(), "{found}");
        let warned = found.iter().filter(|found| found.code == Some(WarningCode::RouteOrder)).count();
        assert_eq!(warned, count, "{one} {other}: {found}");
    }
}
