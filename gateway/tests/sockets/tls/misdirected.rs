//! A request for a host that the served certificate does not cover gets 421, whether a tenant has
//! that host or not.
use super::Stage;
use crate::support::{
    HOST, ORIGIN, RecordingUpstream, Response, assert_allowed, assert_edge_error, assert_never_readable, request,
};

const REQUESTS: &str = "crossgate_requests_total";

/// A second host in certificate 0, which no tenant has. Certificate 0 also covers `HOST`,
/// certificate 2 covers an unused host.
const OTHER: &str = "other.a.test";
/// A host that certificate 1 covers.
const BELOW: &str = "x.b.test";

fn stage() -> Stage {
    let names: [&[&str]; 3] = [&[HOST, OTHER, "127.0.0.1"], &["*.b.test"], &["unused.test"]];
    Stage::with(&names, RecordingUpstream::answering("hello"), "", "")
}

fn get(host: &str) -> Vec<u8> {
    request("GET", "/", host, &[("Origin", ORIGIN)], b"")
}

fn preflight(host: &str) -> Vec<u8> {
    request("OPTIONS", "/", host, &[("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")], b"")
}

/// Asserts the answer to a request on a connection whose certificate does not cover its host.
fn assert_misdirected(answer: &Response) {
    assert_edge_error(answer, 421);
    assert_never_readable(answer);
    assert_eq!(answer.json()["reason"], "misdirected", "{answer:?}");
}

#[test]
fn host_outside_the_served_certificate_gets_421() {
    let stage = stage();
    for (count, bytes) in (1..).zip([get(HOST), preflight(HOST), get(&format!("{HOST}:443")), get("API.a.test.")]) {
        // The server name of the connection is `x.b.test`.
        assert_misdirected(&stage.ask(BELOW, &bytes));
        stage.gateway.wait_metric(REQUESTS, &[("tenant", "none"), ("reason", "unknown_host")], f64::from(count));
    }
    assert_eq!(stage.upstream.total(), 0);
    // The same requests on the right connection.
    assert_allowed(&stage.ask(HOST, &get(HOST)));
    assert_eq!(stage.ask(HOST, &preflight(HOST)).status, 204);
    assert_allowed(&stage.ask(HOST, &get(&format!("{HOST}.:8443"))));
}

#[test]
fn connection_serves_every_host_of_its_certificate() {
    let stage = stage();
    // The server name was another one, but the certificate covers the host.
    assert_allowed(&stage.ask(OTHER, &get(HOST)));
    // Without a server name, the first certificate is served.
    assert_allowed(&stage.ask("127.0.0.1", &get(HOST)));
    assert_misdirected(&stage.ask("127.0.0.1", &get("unused.test")));
    // A covered host that no tenant has is unknown, as in plain text.
    for host in [OTHER, "127.0.0.1"] {
        let answer = stage.ask(HOST, &get(host));
        assert_edge_error(&answer, 421);
        assert_eq!(answer.json()["reason"], "unknown_host");
    }
}

#[test]
fn wildcard_certificate_covers_one_label() {
    let stage = stage();
    for (host, reason) in [("y.b.test", "unknown_host"), ("x.y.b.test", "misdirected"), ("b.test", "misdirected")] {
        let answer = stage.ask(BELOW, &get(host));
        assert_edge_error(&answer, 421);
        assert_eq!(answer.json()["reason"], reason, "{host}");
    }
}
