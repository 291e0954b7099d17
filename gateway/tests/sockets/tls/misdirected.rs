//! A request for a host that the shown certificate is not for has come to the wrong connection, whoever's host it is: 421.
use super::Stage;
use crate::support::{
    HOST, ORIGIN, RecordingUpstream, Response, assert_allowed, assert_edge_error, assert_never_readable, request,
};

const REQUESTS: &str = "crossgate_requests_total";

/// Hosts of the only tenant, and of which certificates: 0 for the first two, 1 for everything below `b.test`, 2 for nobody's.
const OTHER: &str = "other.a.test";
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

/// Of the tenant's own host, on a connection that is not for it.
fn assert_misdirected(answer: &Response) {
    assert_edge_error(answer, 421);
    assert_never_readable(answer);
    assert_eq!(answer.json()["reason"], "misdirected", "{answer:?}");
}

#[test]
fn a_host_of_another_certificate_is_misdirected() {
    let stage = stage();
    for (count, bytes) in (1..).zip([get(HOST), preflight(HOST), get(&format!("{HOST}:443")), get("API.a.test.")]) {
        // The handshake asked for `x.b.test`.
        assert_misdirected(&stage.ask(BELOW, &bytes));
        stage.gateway.wait_metric(REQUESTS, &[("tenant", "none"), ("reason", "unknown_host")], f64::from(count));
    }
    assert_eq!(stage.upstream.total(), 0);
    // And the connection that it should have come on.
    assert_allowed(&stage.ask(HOST, &get(HOST)));
    assert_eq!(stage.ask(HOST, &preflight(HOST)).status, 204);
    assert_allowed(&stage.ask(HOST, &get(&format!("{HOST}.:8443"))));
}

#[test]
fn a_connection_is_for_every_host_of_its_certificate() {
    let stage = stage();
    // Nobody asked for the tenant's host by name, but it was shown.
    assert_allowed(&stage.ask(OTHER, &get(HOST)));
    // A client that asks for nobody is shown the first.
    assert_allowed(&stage.ask("127.0.0.1", &get(HOST)));
    assert_misdirected(&stage.ask("127.0.0.1", &get("unused.test")));
    // A host that the certificate is for and that nobody has is unknown, as in plain text.
    for host in [OTHER, "127.0.0.1"] {
        let answer = stage.ask(HOST, &get(host));
        assert_edge_error(&answer, 421);
        assert_eq!(answer.json()["reason"], "unknown_host");
    }
}

#[test]
fn a_star_stands_for_one_label() {
    let stage = stage();
    for (host, reason) in [("y.b.test", "unknown_host"), ("x.y.b.test", "misdirected"), ("b.test", "misdirected")] {
        let answer = stage.ask(BELOW, &get(host));
        assert_edge_error(&answer, 421);
        assert_eq!(answer.json()["reason"], reason, "{host}");
    }
}
