//! The probes hang on nothing but the process and its drain: not on upstreams that are down, nor on how much there is to do.
use std::thread;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, RefusedAddress, assert_edge_error, assert_never_readable,
    config, request, tenant_config,
};

/// A gateway before an upstream that is down.
fn before_nobody(down: &RefusedAddress) -> Gateway {
    let nobody = RecordingUpstream::answering("");
    let text = tenant_config(&nobody, "").replace(&nobody.address.to_string(), &down.address.to_string());
    Gateway::start(&config(&text), &[])
}

fn assert_well(gateway: &Gateway) {
    for probe in ["/livez", "/readyz"] {
        let answer = gateway.admin("GET", probe);
        assert_eq!(answer.status, 200, "{probe}: {answer:?}");
        assert_never_readable(&answer);
    }
}

#[test]
fn probes_are_well_while_every_upstream_is_down() {
    let down = RefusedAddress::new();
    let gateway = before_nobody(&down);
    assert_well(&gateway);
    for _ in 0..50 {
        assert_edge_error(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]), 502);
        assert_well(&gateway);
    }
}

#[test]
fn probes_are_well_in_a_flood() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 40;
    let down = RefusedAddress::new();
    let gateway = before_nobody(&down);
    let preflight = |origin: &str| {
        request("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", "PUT")], b"")
    };
    let batch = [preflight(ORIGIN), preflight("https://evil.test")].concat().repeat(50);
    let flood = || {
        for _ in 0..ROUNDS {
            let mut connection = Connection::open(gateway.data);
            connection.send(&batch).unwrap();
            for wanted in [204, 403].repeat(50) {
                assert_eq!(connection.answer_to(b"OPTIONS").unwrap().status, wanted);
            }
            assert_edge_error(&connection.exchange(&request("GET", "/", HOST, &[], b"")).unwrap(), 502);
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(flood)).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            assert_well(&gateway);
        }
    });
}
