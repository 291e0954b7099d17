//! What routes do: rewrites, redirects and fixed responses, and the mistakes in them.

use super::*;
use crate::model::RouteActionSpec;

const HEAD: &str = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\n";

fn file(routes: &str) -> String {
    format!("{HEAD}tenants:\n  - id: a\n    hosts: [a.test, b.test]\n    routes: [{routes}]\n")
}

/// The only finding about a route with these keys, without its place.
#[track_caller]
fn only(route: &str) -> String {
    let found = findings(&file(&format!("{{ {route} }}")));
    let [message] = &found[..] else { panic!("{route}: {found:#?}") };
    message.split_once(' ').unwrap().1.to_owned()
}

#[test]
fn mistakes_in_what_a_route_does_name_the_remedy() {
    for (route, expected) in [
        ("redirect: { status: 307, path: /b }, upstream: u", "a route has either `redirect` or `upstream`"),
        ("redirect: { status: 307, path: /b }, respond: { status: 200 }", "a route has either `redirect` or `respond`"),
        ("redirect: { status: 307, path: /b }, rewrite: { path: /c }", "`rewrite` has no effect"),
        ("respond: { status: 200 }, requestHeaders: {}", "`requestHeaders` has no effect"),
        ("redirect: { path: /b }", "missing key `status` in a redirect"),
        ("redirect: { status: 304, path: /b }", "not a status of a redirect; write 301, 302, 303, 307 or 308"),
        ("redirect: { status: 200, path: /b }", "expected a whole number from 301 to 308"),
        ("redirect: { status: 307 }", "this redirect leads to itself; write `pathPrefix`"),
        ("redirect: { status: 307, host: \"*.b.test\" }", "invalid host `*.b.test`: write one host, without a star"),
        ("redirect: { status: 307, host: \"b.test:81\" }", "invalid host `b.test:81`: write the port as `port`"),
        ("redirect: { status: 307, scheme: ftp }", "unknown value `ftp`; write http or https"),
        ("redirect: { status: 307, port: 0 }", "expected a whole number from 1 to 65535"),
        ("redirect: { status: 307, path: /b, pathPrefix: /c }", "either `pathPrefix` or `path` can be meant"),
        ("redirect: { status: 307, path: //b.test }", "invalid path `//b.test`"),
        ("redirect: { status: 307, path: \"/\\\\b.test\" }", "it could be read as another host"),
        ("redirect: { status: 307, path: /%2Fb.test }", "it could be read as another host"),
        ("redirect: { status: 307, path: https://b.test/ }", "write only the path"),
        ("redirect: { status: 307, path: \"/b?c\" }", "the query of the request stays; write only the path"),
        ("redirect: { status: 307, path: /b$1 }", "a path has no patterns"),
        ("redirect: { status: 307, path: \"/b c\" }", "invalid byte in the request target"),
        ("redirect: { status: 307, path: \"/b\\r\\nx: y\" }", "invalid byte in the request target"),
        ("redirect: { status: 307, path: /b/../c }", "write it in normalized form: /c"),
        ("rewrite: {}", "a rewrite that changes nothing"),
        ("rewrite: { pathPrefix: /a/ }", "this is the path of the route, so nothing changes"),
        ("rewrite: { pathPrefix: a }", "invalid path `a`"),
        ("rewrite: { path: /b, location: map }", "unknown value `map`; did you mean Map?"),
        ("rewrite: /", "expected a rewrite (a mapping), found the text `/`; write { pathPrefix: / }"),
        ("headers: { origin: x }", "no route can depend on `origin`: the policy decides about origins; remove it"),
        ("headers: { sec-fetch-mode: cors }", "no route can depend on `sec-fetch-mode`: the policy decides by it"),
        ("headers: { x-forwarded-for: \"1\" }", "no route can depend on `x-forwarded-for`: clients can forge it"),
        ("headers: { cookie: a }", "no route can depend on `cookie`: no route may depend on secrets"),
        ("headers: { \"x a\": \"1\" }", "invalid header name `x a`: write one such as x-canary"),
        ("headers: { x-a: 1 }", "expected a value, found the number 1; write it in quotes"),
        ("headers: { x-a: \"1\", X-A: \"2\" }", "`X-A` is here twice; remove one"),
        ("headers: { x-a: \"1\\r\\nx: y\" }", "write it without control characters"),
        ("headers: { x-a: { present: false } }", "a route cannot depend on an absent one"),
        ("headers: { x-a: {} }", "missing key `present` in a condition"),
        ("headers: [x-a]", "expected header names with a value each (a mapping), found a list"),
        ("query: { \"\": \"1\" }", "expected a name of 1 to 256 bytes"),
        ("respond: {}", "missing key `status` in a fixed response"),
        ("respond: { status: 101 }", "expected a whole number from 200 to 599"),
        ("respond: { status: 302 }", "302 is no status of a fixed response; use `redirect` instead"),
        ("respond: { status: 204, body: x }", "a response with status 204 has no body; remove it"),
        ("respond: { status: 200, body: x, bodyFile: y }", "a response has either `body` or `bodyFile`"),
        ("respond: { status: 200, bodyFile: no-such-file }", "cannot read the body"),
        ("respond: { status: 200, contentType: html }", "invalid media type `html`: write one such as"),
        ("respond: { status: 200, contentType: \"text/html\\nx: y\" }", "invalid media type"),
    ] {
        let found = only(&format!("pathPrefix: /a, {route}"));
        assert!(found.contains(expected), "{route}: {found}");
    }
    let long = "x".repeat((64 << 10) + 1);
    let found = only(&format!("pathPrefix: /a, respond: {{ status: 200, body: {long} }}"));
    assert!(found.contains("65537 bytes are too many for a body, expected at most 65536"), "{found}");
}

#[test]
fn redirects_that_lead_back_to_themselves_are_refused() {
    for (routes, count) in [
        ("{ pathPrefix: /, redirect: { status: 307, pathPrefix: /new } }", 1),
        ("{ pathPrefix: /a, redirect: { status: 307, pathPrefix: /a/b } }", 1),
        ("{ pathPrefix: /a, redirect: { status: 307, path: /a } }", 1),
        ("{ pathPrefix: /a, redirect: { status: 307, host: b.test, path: /a/x } }", 1),
        // Two that lead to each other are one mistake in each.
        (
            "{ pathPrefix: /a, redirect: { status: 307, pathPrefix: /b } }, { pathPrefix: /b, redirect: { status: 308, pathPrefix: /a } }",
            2,
        ),
        // A more particular route, another host and another scheme end the circle.
        ("{ pathPrefix: /a, redirect: { status: 307, path: /a/x } }, { pathExact: /a/x, upstream: u }", 0),
        ("{ pathPrefix: /a, redirect: { status: 307, host: c.test } }", 0),
        ("{ pathPrefix: /a, redirect: { status: 307, scheme: https } }", 0),
        ("{ pathPrefix: /a, redirect: { status: 307, pathPrefix: /b } }, { pathPrefix: /b, upstream: u }", 0),
        ("{ pathPrefix: /a, redirect: { status: 307, pathPrefix: /b } }", 0),
    ] {
        let found = findings(&file(routes));
        assert_eq!(found.len(), count, "{routes}: {found:#?}");
        assert!(found.iter().all(|found| found.contains("back to itself")), "{found:#?}");
    }
}

#[test]
fn body_files_are_read_by_the_main_file_alone() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("crossgate.yaml");
    std::fs::write(dir.path().join("down.html"), "<p>Back soon</p>").unwrap();
    let route = "{ pathPrefix: /a, respond: { status: 503, bodyFile: down.html, contentType: text/html } }";
    let decoded = decode_main(&main, &file(route));
    assert_eq!(decoded.value.body_files, [dir.path().join("down.html")]);
    let RouteActionSpec::Respond(response) = &decoded.value.tenants[0].routes[0].action else { panic!() };
    assert_eq!((&*response.body, response.status.as_u16()), (&b"<p>Back soon</p>"[..], 503));
    let tenants = format!("tenants: [{{ id: a, hosts: [a.test], routes: [{route}] }}]\n");
    let decoded = decode_text(&main, &tenants, |decoder, root| decoder.tenants_file(root));
    let found = decoded.found.to_string();
    assert!(found.contains("a tenants file names no files; write the text as `body`"), "{found}");
}
