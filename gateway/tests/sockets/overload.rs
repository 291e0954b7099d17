//! More clients than the limits allow: some are refused, all others are served, and the admin
//! listener answers.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, assert_allowed, config, request, tenant_config,
};

fn get() -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")
}

/// Reads the gateway's processor time, in hundredths of a second.
fn cpu_ticks(gateway: &Gateway) -> u64 {
    let stat = gateway.process.proc_file("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn low_descriptor_limit_keeps_admin_and_most_clients_served() {
    let upstream = RecordingUpstream::answering("hello");
    // The shell lowers the hard limit, which the gateway cannot raise again.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_crossgate")]);
    let gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    let mut served = 0;
    // The suspended gateway finds all connections waiting at once.
    gateway.process.signal(Signal::STOP);
    let mut clients: Vec<Connection> = (0..400).map(|_| Connection::open(gateway.data)).collect();
    gateway.process.signal(Signal::CONT);
    for client in &mut clients {
        match client.exchange(&get()) {
            Ok(answer) if answer.status == 200 => served += 1,
            Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            // Over the limit on refusals, connections are closed without an answer.
            Err(_) => {}
        }
    }
    assert_eq!(served, 64, "of 400");
    assert_eq!(gateway.metric("crossgate_accept_errors_total", &[("reason", "descriptors")]), 0.0);
    let before = (Instant::now(), cpu_ticks(&gateway));
    for _ in 0..20 {
        assert_eq!(gateway.admin("GET", "/readyz").status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let busy = Duration::from_millis((cpu_ticks(&gateway) - before.1) * 10);
    assert!(busy < before.0.elapsed() / 2, "{busy:?} of processor time while the clients are idle");
    let refused = gateway.metric("crossgate_requests_refused_total", &[("status", "503")]);
    assert!(refused > 0.0);
    let labels = [("tenant", "none"), ("class", "5xx"), ("by", "gateway")];
    assert!(
        gateway.metric("crossgate_responses_total", &labels) >= refused,
        "a refused request has no response in the metrics"
    );
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(10);
    while gateway.metric("crossgate_connections_active", &[]) > 0.0 {
        assert!(Instant::now() < deadline, "connections are still open");
    }
    for _ in 0..100 {
        assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
    }
    assert!(!gateway.process.stderr().contains("panicked"));
}

#[test]
fn listeners_accept_independently_of_each_other() {
    let upstream = RecordingUpstream::answering("hello");
    let more = "  - address: 127.0.0.1:0\n".repeat(40);
    let text = config(&tenant_config(&upstream, "")).replace("admin:", &format!("{more}admin:"));
    let gateway = Gateway::start(&text, &[]);
    let listeners = gateway.data_listeners();
    assert_eq!(listeners.len(), 41);
    // From the last to the first, then from the first to the last.
    for &address in listeners.iter().rev().chain(&listeners) {
        assert_allowed(&Connection::ask(address, &get()).unwrap());
    }
}

#[test]
fn connection_limit_applies_per_client() {
    let upstream = RecordingUpstream::answering("hello");
    let limits = "limits: { maxConnectionsPerClient: 3 }\n";
    let gateway = Gateway::start(&config(&format!("{limits}{}", tenant_config(&upstream, ""))), &[]);
    let mut open: Vec<Connection> =
        (0..3).map(|_| Connection::open_from([127, 0, 0, 2].into(), gateway.data)).collect();
    for connection in &mut open {
        assert_eq!(connection.exchange(&get()).unwrap().status, 200);
    }
    let mut one_more = Connection::open_from([127, 0, 0, 2].into(), gateway.data);
    assert_eq!(one_more.exchange(&get()).unwrap().status, 503);
    let mut other = Connection::open_from([127, 0, 0, 3].into(), gateway.data);
    assert_eq!(other.exchange(&get()).unwrap().status, 200);
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Connection::open_from([127, 0, 0, 2].into(), gateway.data).exchange(&get()).map(|answer| answer.status)
        != Ok(200)
    {
        assert!(Instant::now() < deadline, "closed connections still count");
    }
}

#[test]
fn trusted_proxy_is_exempt_from_the_connection_limit() {
    let upstream = RecordingUpstream::answering("hello");
    let text = config(&format!("limits: {{ maxConnectionsPerClient: 1 }}\n{}", tenant_config(&upstream, "")))
        .replace("  - address: 127.0.0.1:0\n", "  - { address: 127.0.0.1:0, trustedProxies: [127.0.0.1/32] }\n");
    let gateway = Gateway::start(&text, &[]);
    let mut open: Vec<Connection> = (0..5).map(|_| Connection::open(gateway.data)).collect();
    for connection in &mut open {
        assert_eq!(connection.exchange(&get()).unwrap().status, 200);
    }
}

#[test]
fn blocked_log_output_loses_only_log_lines() {
    let upstream = RecordingUpstream::answering("hello");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >/dev/full", env!("CARGO_BIN_EXE_crossgate")]);
    let gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    for _ in 0..20 {
        assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
    }
    gateway.process.stderr_line(|line| line.contains("the access log cannot be written").then_some(()));
    gateway.wait_metric("crossgate_access_log_dropped_total", &[], 20.0);
    let count = gateway.process.stderr().matches("the access log cannot be written").count();
    assert_eq!(count, 1, "expected one log line, not one per lost line");
}
