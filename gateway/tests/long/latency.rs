//! Latency of requests during reloads: percentiles with six hundred reloads and without any.
//!
//! Only an error fails the test. Times depend on the machine, so they are only printed.
use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Connection, Gateway, HOST, ORIGIN, Sink, config, request};

const CONNECTIONS: usize = 64;
const RELOADS: u32 = 600;
const BETWEEN_RELOADS: Duration = Duration::from_millis(200);
const WITHOUT_RELOADS: Duration = Duration::from_secs(40);
/// Further tenants, so that a reload takes some time.
const TENANTS: usize = 1_000;

fn generation(upstream: SocketAddr, n: u32) -> String {
    let others = |tenant| format!("  - {{ id: t{tenant}, hosts: [t{tenant}.test], upstream: api, policy: spa }}\n");
    let others: String = (0..TENANTS).map(others).collect();
    config(&format!(
        "accessLog: {{ level: Off }}
limits: {{ keepAliveRequests: 1000000 }}
upstreams:
  api: {{ servers: [{upstream}] }}
policies:
  spa: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT], maxAge: {n} }}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}
{others}"
    ))
}

#[test]
fn six_hundred_reloads_under_load_cause_no_errors() {
    let upstream = Sink::start();
    let gateway = Gateway::start(&generation(upstream.address, 1), &[]);
    let before = gateway.metric("crossgate_config_generation", &[]);
    let quiet = under_load(gateway.data, || thread::sleep(WITHOUT_RELOADS));
    let busy = under_load(gateway.data, || reload_repeatedly(&gateway, upstream.address));
    println!("preflights: {}, and with reloads {}", quiet.0, busy.0);
    println!("GETs: {}, and with reloads {}", quiet.1, busy.1);
    // The changed file may have been detected before the request to reload it.
    assert!(gateway.metric("crossgate_config_generation", &[]) - before >= f64::from(RELOADS));
    assert_eq!(gateway.metric("crossgate_config_last_reload_successful", &[]), 1.0);
    assert_eq!(gateway.metric("crossgate_requests_total", &[("verdict", "deny")]), 0.0);
}

fn reload_repeatedly(gateway: &Gateway, upstream: SocketAddr) {
    let begun = Instant::now();
    for n in 1..=RELOADS {
        thread::sleep((begun + BETWEEN_RELOADS * n).saturating_duration_since(Instant::now()));
        fs::write(gateway.path("new"), generation(upstream, n + 1)).unwrap();
        fs::rename(gateway.path("new"), gateway.path("crossgate.yaml")).unwrap();
        let report = gateway.admin("POST", "/reload");
        assert_eq!(report.status, 200, "{report:?}");
    }
}

/// Runs `work` under load and checks every answer. Returns the times of preflights and of GETs.
fn under_load(gateway: SocketAddr, work: impl FnOnce()) -> (String, String) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| send_requests(gateway, &is_over))).collect();
        let done = catch_unwind(AssertUnwindSafe(work));
        is_over.store(true, SeqCst);
        let (mut preflights, mut gets) = (Vec::new(), Vec::new());
        for client in clients {
            let (some_preflights, some_gets) = client.join().expect("a client got a wrong answer");
            preflights.extend(some_preflights);
            gets.extend(some_gets);
        }
        done.unwrap_or_else(|panic| resume_unwind(panic));
        (summarise(preflights), summarise(gets))
    })
}

fn send_requests(gateway: SocketAddr, is_over: &AtomicBool) -> (Vec<Duration>, Vec<Duration>) {
    let fields = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PUT")];
    let (preflight, get) = (request("OPTIONS", "/", HOST, &fields, b""), request("GET", "/", HOST, &fields[..1], b""));
    let mut connection = Connection::open(gateway);
    let (mut preflights, mut gets) = (Vec::new(), Vec::new());
    while !is_over.load(SeqCst) {
        for (bytes, status, times) in [(&preflight, 204, &mut preflights), (&get, 200, &mut gets)] {
            let begun = Instant::now();
            let answer = connection.exchange(bytes).unwrap();
            times.push(begun.elapsed());
            assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (status, ORIGIN));
        }
    }
    (preflights, gets)
}

fn summarise(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1_000).min(times.len() - 1)];
    format!("{} answers, half within {:?}, 99 % within {:?}, all within {:?}", times.len(), at(500), at(990), at(1_000))
}
