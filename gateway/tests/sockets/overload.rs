//! More clients than there is room for: some are turned away, everybody else is served, and the admin listener answers.

use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{
    Connection, Gateway, HOST, ORIGIN, RecordingUpstream, assert_allowed, config, request, tenant_config,
};

fn get() -> Vec<u8> {
    request("GET", "/", HOST, &[("Origin", ORIGIN)], b"")
}

/// Processor time of the gateway so far, in ticks of a hundredth of a second.
fn ticks(gateway: &Gateway) -> u64 {
    let stat = gateway.process.proc_file("stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn with_hardly_any_open_files_the_admin_listener_answers_and_most_clients_are_served() {
    let upstream = RecordingUpstream::answering("hello");
    // The shell lowers the hard limit, which the gateway cannot raise again.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_crossgate")]);
    let gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    let mut served = 0;
    // They wait together, so that nothing paces their acceptance.
    gateway.process.signal(Signal::STOP);
    let mut clients: Vec<Connection> = (0..400).map(|_| Connection::open(gateway.data)).collect();
    gateway.process.signal(Signal::CONT);
    for client in &mut clients {
        match client.exchange(&get()) {
            Ok(answer) if answer.status == 200 => served += 1,
            Ok(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
            // Not everybody can be told.
            Err(_) => {}
        }
    }
    assert_eq!(served, 64, "of 400");
    assert_eq!(gateway.metric("crossgate_accept_errors_total", &[("reason", "descriptors")]), 0.0);
    let before = (Instant::now(), ticks(&gateway));
    for _ in 0..20 {
        assert_eq!(gateway.admin("GET", "/readyz").status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let busy = Duration::from_millis((ticks(&gateway) - before.1) * 10);
    assert!(busy < before.0.elapsed() / 2, "{busy:?} of processor time while everybody waits");
    assert!(gateway.metric("crossgate_requests_refused_total", &[("status", "503")]) > 0.0);
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
fn many_listeners_keep_each_other_from_nothing() {
    let upstream = RecordingUpstream::answering("hello");
    let more = "  - address: 127.0.0.1:0\n".repeat(40);
    let text = config(&tenant_config(&upstream, "")).replace("admin:", &format!("{more}admin:"));
    let gateway = Gateway::start(&text, &[]);
    let listeners = gateway.data_listeners();
    assert_eq!(listeners.len(), 41);
    // The last one first, and both ways.
    for &address in listeners.iter().rev().chain(&listeners) {
        assert_allowed(&Connection::ask(address, &get()).unwrap());
    }
}

#[test]
fn a_client_has_so_many_connections_and_another_one_its_own() {
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
        assert!(Instant::now() < deadline, "the ended connections still count");
    }
}

#[test]
fn trusted_proxies_carry_as_many_clients_as_they_like() {
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
fn a_log_that_cannot_be_written_costs_lines_and_nothing_else() {
    let upstream = RecordingUpstream::answering("hello");
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" \"$@\" >/dev/full", env!("CARGO_BIN_EXE_crossgate")]);
    let gateway = Gateway::start_by(command, &config(&tenant_config(&upstream, "")));
    for _ in 0..20 {
        assert_allowed(&gateway.ask("GET", "/", HOST, &[("Origin", ORIGIN)]));
    }
    gateway.process.stderr_line(|line| line.contains("the access log cannot be written").then_some(()));
    gateway.wait_metric("crossgate_access_log_dropped_total", &[], 20.0);
    let said = gateway.process.stderr().matches("the access log cannot be written").count();
    assert_eq!(said, 1, "once, not with every line");
}
