//! `/origins` of the running binary: exact counts of allowed and denied origins. Invalid `Origin`
//! values are not listed.
use std::fs;

use serde_json::Value;

use crate::support::{
    Connection, Gateway, HOST, Http2, ORIGIN, RecordingUpstream, config, recorded, request, tenant_config,
};

fn preflight(origin: &str, method: &str) -> Vec<u8> {
    request("OPTIONS", "/", HOST, &[("Origin", origin), ("Access-Control-Request-Method", method)], b"")
}

fn get(host: &str, origin: &str) -> Vec<u8> {
    request("GET", "/", host, &[("Origin", origin)], b"")
}

/// Sends a request several times, each time waiting until it is recorded, because the order across
/// workers is undefined.
fn ask(gateway: &Gateway, times: usize, bytes: &[u8]) {
    for _ in 0..times {
        Connection::ask(gateway.data, bytes).unwrap();
    }
    gateway.origins("limit=1");
}

/// Tenant, origin, counts by verdict, last reason.
type Row = (String, String, [u64; 4], String);

fn rows(report: &Value) -> Vec<Row> {
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    let counts = |one: &Value| ["allowed", "denied", "wouldAllow", "wouldDeny"].map(|name| one[name].as_u64().unwrap());
    let origins = report["origins"].as_array().unwrap().iter();
    origins.map(|one| (text(one, "tenant"), text(one, "origin"), counts(one), text(one, "lastReason"))).collect()
}

fn row(tenant: &str, origin: &str, counts: [u64; 4], reason: &str) -> Row {
    (tenant.to_owned(), origin.to_owned(), counts, reason.to_owned())
}

/// Starts a gateway with three tenants: enforcing, in report mode, and open to any origin.
fn start(more: &str) -> (Gateway, RecordingUpstream) {
    let upstream = RecordingUpstream::answering("hello");
    let server = upstream.address;
    let text = format!(
        "upstreams: {{ api: {{ servers: [{server}] }} }}
policies:
  spa: {{ allowOrigins: [\"{ORIGIN}\"], allowMethods: [PUT] }}
  watched: {{ allowOrigins: [\"{ORIGIN}\"], mode: Report }}
  open: {{ allowOrigins: [\"*\"] }}
tenants:
  - {{ id: a, hosts: [{HOST}], upstream: api, policy: spa }}
  - {{ id: w, hosts: [w.test], upstream: api, policy: watched }}
  - {{ id: o, hosts: [o.test], upstream: api, policy: open }}
{more}"
    );
    (Gateway::start(&config(&text), &[]), upstream)
}

#[test]
fn denied_origins_are_reported_and_explained() {
    let (gateway, _upstream) = start("");
    let other_port = "https://app.a.test:8443";
    ask(&gateway, 3, &preflight(ORIGIN, "PUT"));
    ask(&gateway, 2, &preflight(ORIGIN, "PATCH"));
    ask(&gateway, 4, &get(HOST, other_port));
    ask(&gateway, 1, &preflight(other_port, "PUT"));
    ask(&gateway, 1, &preflight("null", "PUT"));
    ask(&gateway, 2, &get("w.test", ORIGIN));
    ask(&gateway, 3, &get("w.test", other_port));
    ask(&gateway, 1, &get("o.test", other_port));
    // Requests that are not recorded: without an origin, same-origin, or for an unknown host.
    ask(&gateway, 1, &request("GET", "/", HOST, &[], b""));
    ask(&gateway, 1, &get(HOST, &format!("http://{HOST}")));
    ask(&gateway, 1, &get("unknown.test", other_port));

    let report = gateway.origins("tenant=a&verdict=deny");
    let denied = [
        row("a", other_port, [0, 5, 0, 0], "no_match"),
        row("a", ORIGIN, [3, 2, 0, 0], "method"),
        row("a", "null", [0, 1, 0, 0], "null_origin"),
    ];
    assert_eq!(rows(&report), denied, "{report}");
    assert_eq!((&report["enabled"], &report["dropped"], &report["forgotten"]), (&true.into(), &0.into(), &0.into()));
    let times = ["firstSeen", "lastSeen"].map(|name| report["origins"][0][name].as_str().unwrap().to_owned());
    assert!(times[0] <= times[1] && times[0].as_str() >= report["since"].as_str().unwrap(), "{report}");
    assert_eq!(
        rows(&gateway.origins("tenant=w")),
        [row("w", other_port, [0, 0, 0, 3], "no_match"), row("w", ORIGIN, [0, 0, 2, 0], "exact"),]
    );
    assert_eq!(rows(&gateway.origins("verdict=allow&limit=1")), [row("a", ORIGIN, [3, 2, 0, 0], "method")]);
    assert_eq!(recorded(&gateway.origins("")), 17);
    gateway.wait_metric("crossgate_origin_requests_total", &[], 17.0);
    assert_eq!(gateway.metric("crossgate_ledger_entries", &[]), 6.0);

    let explained = gateway.admin("GET", &format!("/explain?host={HOST}&origin={other_port}")).text();
    assert!(explained.contains("port differs"), "{explained}");
}

#[test]
fn invalid_origin_values_are_not_reported() {
    let (gateway, _upstream) = start("");
    let values = ["https://a\u{e9}.test", "\"><script>", "https://b.test/path", "HTTPS://C.TEST", "https://d.test:443"];
    for value in values {
        ask(&gateway, 1, &get(HOST, value));
        ask(&gateway, 1, &preflight(value, "PUT"));
        // The open policy allows them without parsing.
        ask(&gateway, 1, &get("o.test", value));
    }
    ask(&gateway, 1, &request("GET", "/", HOST, &[("Origin", "https://e.test"), ("Origin", "https://f.test")], b""));
    let report = gateway.origins("");
    assert_eq!(
        rows(&report),
        [row("a", "malformed", [0, 11, 0, 0], "malformed_origin"), row("o", "malformed", [5, 0, 0, 0], "any"),]
    );
    let body = gateway.admin("GET", "/origins").text();
    assert!(body.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{body}");
    assert!(!["script", "path", "C.TEST", "e.test"].iter().any(|part| body.contains(part)), "{body}");
}

#[test]
fn origins_over_http2_are_reported() {
    let (gateway, _upstream) = start("");
    let client = Http2::open(gateway.data);
    let asked = ("Access-Control-Request-Method", "PUT");
    for (times, method, host, fields) in [
        (3, "OPTIONS", HOST, &[("Origin", ORIGIN), asked][..]),
        (2, "GET", HOST, &[("Origin", "https://evil.test")]),
        (1, "OPTIONS", HOST, &[("Origin", "https://evil.test"), asked]),
        (1, "GET", HOST, &[("Origin", "null")]),
        (1, "GET", HOST, &[("Origin", "https://e.test"), ("Origin", "https://f.test")]),
        (2, "GET", "w.test", &[("Origin", "https://evil.test")]),
        // Requests that are not recorded: without an origin, or for an unknown host.
        (1, "GET", HOST, &[]),
        (1, "GET", "unknown.test", &[("Origin", ORIGIN)]),
    ] {
        for _ in 0..times {
            client.ask(method, "/", host, fields, b"").unwrap();
        }
        gateway.origins("limit=1");
    }
    let report = gateway.origins("tenant=a");
    let expected = [
        row("a", ORIGIN, [3, 0, 0, 0], "exact"),
        row("a", "https://evil.test", [0, 3, 0, 0], "no_match"),
        row("a", "malformed", [0, 1, 0, 0], "malformed_origin"),
        row("a", "null", [0, 1, 0, 0], "null_origin"),
    ];
    assert_eq!(rows(&report), expected, "{report}");
    assert_eq!(rows(&gateway.origins("tenant=w")), [row("w", "https://evil.test", [0, 0, 0, 2], "no_match")]);
    assert_eq!(recorded(&gateway.origins("")), 10);
}

#[test]
fn removed_tenant_loses_its_reported_origins() {
    let upstream = RecordingUpstream::answering("hello");
    let main = tenant_config(&upstream, "") + "tenantsDir: tenants.d\n";
    let other = "tenants: [{ id: b, hosts: [b.test], upstream: api, policy: spa }]\n";
    let gateway = Gateway::start(&config(&main), &[("tenants.d/b.yaml", other)]);
    ask(&gateway, 2, &get("b.test", "https://evil.test"));
    ask(&gateway, 1, &get(HOST, "https://evil.test"));
    assert_eq!(rows(&gateway.origins("tenant=b")), [row("b", "https://evil.test", [0, 2, 0, 0], "no_match")]);
    fs::remove_file(gateway.path("tenants.d/b.yaml")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    assert_eq!(gateway.admin("GET", "/origins?tenant=b").status, 404);
    let kept = [row("a", "https://evil.test", [0, 1, 0, 0], "no_match")];
    // The origins are dropped when no request uses the old snapshot.
    gateway.wait_level("crossgate_ledger_entries", 1.0);
    assert_eq!(rows(&gateway.origins("")), kept);
    fs::write(gateway.path("tenants.d/b.yaml"), other).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    assert_eq!(rows(&gateway.origins("tenant=b")), []);
    ask(&gateway, 1, &get("b.test", "https://evil.test"));
    assert_eq!(rows(&gateway.origins("tenant=b")), [row("b", "https://evil.test", [0, 1, 0, 0], "no_match")]);
}

#[test]
fn reload_limits_and_disables_the_ledger() {
    let (gateway, _upstream) = start("ledger: { originsPerTenant: 2 }\n");
    for number in 0..5 {
        ask(&gateway, 1, &get(HOST, &format!("https://{number}.test")));
    }
    let report = gateway.origins("tenant=a");
    assert_eq!(
        (rows(&report).len(), &report["forgotten"], &report["entriesMaxPerTenant"]),
        (2, &3.into(), &2.into()),
        "{report}"
    );
    assert_eq!(gateway.metric("crossgate_ledger_evictions_total", &[]), 3.0);
    let text = fs::read_to_string(gateway.path("crossgate.yaml")).unwrap();
    fs::write(gateway.path("crossgate.yaml"), text.replace("originsPerTenant: 2", "enabled: false")).unwrap();
    assert_eq!(gateway.admin("POST", "/reload").status, 200);
    ask(&gateway, 1, &get(HOST, "https://evil.test"));
    let report = gateway.origins("tenant=a");
    assert_eq!((&report["enabled"], rows(&report).len(), recorded(&report)), (&false.into(), 0, 0), "{report}");
    assert_eq!(gateway.metric("crossgate_ledger_entries", &[]), 0.0);
}
