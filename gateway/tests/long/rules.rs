//! One tenant's rules use their limits continuously; requests of other tenants are not delayed.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Connection, Gateway, HOST, ORIGIN, Sink, config, request};

const BURNERS: usize = 64;
const BURN_TIME: Duration = Duration::from_secs(20);
/// Limit on a round of ten requests, on a machine whose cores are all busy.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// Half of the paths are allowed after many operations, so that the rule is not suspended. The
/// other half reach the limit and are denied. Cached answers do not apply to other paths.
const BURN: &str = r#"fn decide(req) {
    let n = if req.path.ends_with("0") { 0 } else { -1000000 };
    while n < 600 { n += 1; }
    allow()
}
"#;
const CALM: &str = "fn decide(req) { if req.host == \"guest.test\" { allow() } else { deny(\"not a guest\") } }\n";

fn start(upstream: &Sink) -> Gateway {
    let text = config(&format!(
        "scriptsDir: scripts
accessLog: {{ level: Off }}
upstreams:
  api: {{ servers: [{}] }}
policies:
  listed: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT] }}
  calm: {{ rule: {{ script: calm.rhai }}, allowMethods: [PUT] }}
  burn: {{ rule: {{ script: burn.rhai }}, allowMethods: [PUT] }}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: listed }}
  - {{ id: b, hosts: [b.test], upstream: api, policy: calm }}
  - {{ id: c, hosts: [c.test], upstream: api, policy: burn }}
",
        upstream.address
    ));
    Gateway::start(&text, &[("scripts/burn.rhai", BURN), ("scripts/calm.rhai", CALM)])
}

#[test]
fn rules_at_their_limits_do_not_delay_other_tenants() {
    let upstream = Sink::start();
    let gateway = start(&upstream);
    let is_over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        for burner in 0..BURNERS {
            let (gateway, is_over) = (&gateway, &is_over);
            scope.spawn(move || burn(gateway, burner, is_over));
        }
        let rounds = catch_unwind(AssertUnwindSafe(|| {
            let begun = Instant::now();
            std::iter::from_fn(|| (begun.elapsed() < BURN_TIME).then(|| run_usual_round(&gateway))).collect::<Vec<_>>()
        }));
        is_over.store(true, SeqCst);
        rounds.unwrap()
    });
    let slowest = rounds.iter().max().unwrap();
    println!("{} usual rounds, the slowest took {slowest:?}", rounds.len());
    assert!(rounds.len() > 3 && *slowest < ROUND_MAX, "{} rounds, {slowest:?}", rounds.len());
    let errors =
        |tenant: &str, kind: &str| gateway.metric("crossgate_rule_errors_total", &[("tenant", tenant), ("kind", kind)]);
    assert!(errors("c", "operations") > 0.0, "no run reached its limit");
    assert!(errors("c", "budget") > 0.0, "the rule never used up its budget");
    assert_eq!(gateway.metric("crossgate_rule_errors_total", &[("tenant", "b")]), 0.0);
}

/// Requests new paths only, so that no cached answer applies.
fn burn(gateway: &Gateway, burner: usize, is_over: &AtomicBool) {
    let mut connection = Connection::open(gateway.data);
    for number in 0_usize.. {
        if is_over.load(SeqCst) {
            return;
        }
        let path = format!("/{burner}/{number}/{}", number % 2);
        let get = request("GET", &path, "c.test", &[("Origin", "https://guest.test")], b"");
        let answer = connection.exchange(&get).unwrap();
        if answer.status == 403 {
            assert_eq!(answer.json()["reason"], "rule_error", "{answer:?}");
        } else {
            assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (200, "https://guest.test"));
        }
        if answer.headers.all("connection") == ["close"] {
            connection = Connection::open(gateway.data);
        }
    }
}

/// Sends one round of the other tenants' requests, checks each answer and returns the time it took.
fn run_usual_round(gateway: &Gateway) -> Duration {
    let begun = Instant::now();
    let mut connection = Connection::open(gateway.data);
    for (host, origin) in [(HOST, ORIGIN), ("b.test", "https://guest.test")] {
        let preflight = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
        for _ in 0..3 {
            assert_eq!(connection.exchange(&request("OPTIONS", "/", host, &preflight, b"")).unwrap().status, 204);
            let answer = connection.exchange(&request("GET", "/", host, &[("Origin", origin)], b"")).unwrap();
            assert_eq!((answer.status, answer.headers.one("access-control-allow-origin")), (200, origin), "{answer:?}");
        }
        let denied = request("GET", "/", host, &[("Origin", "https://evil.test")], b"");
        assert_eq!(connection.exchange(&denied).unwrap().status, 403);
    }
    begun.elapsed()
}
