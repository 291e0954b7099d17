//! Liveness and readiness probes depend only on the process and its drain, not on upstreams or
//! load.
use std::thread;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, RefusedAddress, assert_edge_error, assert_never_readable,
    config, request, tenant_config,
};

/// Starts a gateway in front of an upstream that is down.
fn start_before_down_upstream(down: &RefusedAddress) -> Gateway {
    let placeholder = RecordingUpstream::answering("");
    let text = tenant_config(&placeholder, "").replace(&placeholder.address.to_string(), &down.address.to_string());
    Gateway::start(&config(&text), &[])
}

fn assert_probes_pass(gateway: &Gateway) {
    for probe in ["/livez", "/readyz"] {
        let answer = gateway.admin("GET", probe);
        assert_eq!(answer.status, 200, "{probe}: {answer:?}");
        assert_never_readable(&answer);
    }
}

#[test]
fn probes_pass_while_every_upstream_is_down() {
    let down = RefusedAddress::new();
    let gateway = start_before_down_upstream(&down);
    assert_probes_pass(&gateway);
    for _ in 0..50 {
        assert_edge_error(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]), 502);
        assert_probes_pass(&gateway);
    }
}

#[test]
fn probes_pass_during_a_flood() {
    const CLIENTS: usize = 16;
    const ROUNDS: usize = 40;
    let down = RefusedAddress::new();
    let gateway = start_before_down_upstream(&down);
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
            assert_probes_pass(&gateway);
        }
    });
}
