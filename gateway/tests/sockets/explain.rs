//! `explain` compared with live requests: equal status and headers for a thousand generated
//! requests.
//!
//! Requests are combined from the inputs of decisions: hosts, paths, methods, origins, preflight
//! fields, fetch metadata, credentials and upgrades. The seed is fixed, so failures are
//! reproducible.
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Connection, Gateway, RecordingUpstream, Response, config, request};
use rustix::process::Signal;
use serde_json::Value;

const REQUESTS: usize = 1_000;
/// Requests to a gateway that trusts every sender.
const TRUSTED_REQUESTS: usize = 400;
/// Access log lines to explain, with one process each.
const LOG_LINES: usize = 250;
const BY_COMMAND_LINE: usize = 10;

fn gateway_config(upstream: &RecordingUpstream) -> String {
    config(&format!(
        r#"
upstreams:
  api: {{ servers: [{}] }}
originSets:
  partners: ["https://partner.test", "https://*.partner.test"]
policies:
  spa:
    allowOrigins: ["https://app.a.test", "https://*.shop.test", "http://localhost:*", "https://pr-*.preview.a.test"]
    allowOriginSets: [partners]
    allowMethods: [PUT, DELETE]
    allowHeaders: [authorization, content-type, x-api]
    exposeHeaders: [x-req]
    allowCredentials: true
  minimal: {{ allowOrigins: ["https://app.a.test"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true, disclosure: Minimal }}
  open: {{ allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*", authorization], exposeHeaders: ["*"] }}
  watched: {{ allowOrigins: ["https://app.a.test"], mode: Report }}
tenants:
  - id: a
    hosts: [api.a.test, "*.api.a.test"]
    upstream: api
    policy: spa
    allowOrigins: ["https://own.a.test"]
    routes:
      - {{ pathPrefix: /public, policy: open }}
      - {{ pathPrefix: /saml/acs, unmatchedRequests: Forward }}
      - {{ pathPrefix: /minimal, policy: minimal }}
      - {{ pathPrefix: /watched, policy: watched }}
      - {{ pathPrefix: /methods, methods: [PUT], policy: open }}
  - {{ id: b, hosts: [b.test], routes: [{{ pathPrefix: /only, upstream: api, policy: spa }}] }}
"#,
        upstream.address
    ))
}

const HOSTS: [&str; 8] =
    ["api.a.test", "api.a.test", "API.a.test:8080", "x.api.a.test", "b.test", "b.test", "unknown.test", "bad host"];
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "OPTIONS"];
const PATHS: [&str; 12] = [
    "/",
    "/orders?x=1",
    "/public",
    "/public/x",
    "/publicity",
    "/saml/acs",
    "/minimal/x",
    "/watched",
    "/methods",
    "/only/x",
    "/a/../public//x",
    "/a%2f..%2fb",
];
const ORIGINS: [&str; 18] = [
    "",
    "https://app.a.test",
    "https://app.a.test",
    "https://own.a.test",
    "https://x.shop.test",
    "https://shop.test",
    "https://x.y.partner.test",
    "https://partner.test:444",
    "http://localhost:3000",
    "https://pr-12.preview.a.test",
    "https://evil.test",
    "null",
    "https://app.a.test/",
    "https://APP.a.test",
    "http://api.a.test",
    "https://api.a.test",
    "http://b.test",
    "http://api.a.test:8080",
];
const REQUESTED_METHODS: [&str; 7] = ["", "GET", "PUT", "DELETE", "PATCH", "put", "P UT"];
const REQUESTED_HEADERS: [&str; 7] =
    ["", "authorization", "authorization,content-type", "X-Api, authorization", "x-evil", "x y", ",,x-api"];
const EXTRA: [&[(&str, &str)]; 17] = [
    &[],
    &[],
    &[],
    &[("cookie", "a=b")],
    &[("authorization", "Bearer x")],
    &[("sec-fetch-site", "same-origin")],
    &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
    &[("connection", "Upgrade"), ("upgrade", "websocket")],
    &[("connection", "origin")],
    &[("connection", "close, cookie"), ("connection", "x")],
    &[("x-forwarded-proto", "https")],
    &[("x-forwarded-proto", "http"), ("x-request-id", "given")],
    &[("x-forwarded-proto", "https"), ("x-forwarded-proto", "https")],
    &[("origin", "https://app.a.test")],
    &[("access-control-request-method", "PUT")],
    &[("access-control-request-headers", "x-evil")],
    &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
];

/// One generated request.
#[derive(Debug)]
struct Probe {
    host: &'static str,
    method: &'static str,
    path: &'static str,
    fields: Vec<(&'static str, &'static str)>,
}

/// A small number generator (xorshift), which gives the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from[usize::try_from(self.0 % from.len() as u64).unwrap()]
    }
}

impl Probe {
    fn generate(numbers: &mut Numbers) -> Self {
        let method = numbers.pick(&METHODS);
        let mut fields = Vec::new();
        let mut add = |name, value: &'static str| {
            if !value.is_empty() {
                fields.push((name, value));
            }
        };
        add("origin", numbers.pick(&ORIGINS));
        if method == "OPTIONS" || numbers.pick(&[true, false, false, false]) {
            add("access-control-request-method", numbers.pick(&REQUESTED_METHODS));
            add("access-control-request-headers", numbers.pick(&REQUESTED_HEADERS));
        }
        fields.extend(numbers.pick(&EXTRA));
        Self { host: numbers.pick(&HOSTS), method, path: numbers.pick(&PATHS), fields }
    }

    fn live(&self, gateway: &Gateway) -> Response {
        let bytes = request(self.method, self.path, self.host, &self.fields, b"");
        Connection::ask(gateway.data, &bytes).unwrap_or_else(|error| panic!("{self:?}: {error:?}"))
    }

    fn explain(&self, gateway: &Gateway, sender: Sender) -> Value {
        let mut query = format!("host={}&method={}&path={}", escape(self.host), self.method, escape(self.path));
        for (name, value) in &self.fields {
            query.push_str(&format!("&header={}", escape(&format!("{name}:{value}"))));
        }
        if sender == Sender::TrustedProxy {
            query.push_str("&trusted=true");
        }
        let answer = gateway.admin("GET", &format!("/explain?{query}"));
        assert_eq!(answer.status, 200, "{self:?}: {}", answer.text());
        answer.json()
    }

    fn explain_by_command(&self, gateway: &Gateway, sender: Sender) -> Value {
        let mut command = explain_command(gateway);
        if sender == Sender::TrustedProxy {
            command.arg("--trusted");
        }
        command.args(["--host", self.host, "--method", self.method, "--path", self.path]);
        for (name, value) in &self.fields {
            command.args(["--header", &format!("{name}:{value}")]);
        }
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{self:?}: {error}: {output:?}"))
    }
}

/// Trust of the gateway in the forwarding fields of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Stranger,
    TrustedProxy,
}

fn explain_command(gateway: &Gateway) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossgate"));
    command.args(["explain", "--json", "--config"]).arg(gateway.path("crossgate.yaml"));
    command
}

fn explain_log_line(gateway: &Gateway, line: &str) -> Value {
    let mut command = explain_command(gateway);
    command.args(["--log-line", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
}

/// Percent-encodes everything but letters and digits.
fn escape(text: &str) -> String {
    let escaped =
        |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escaped).collect()
}

/// Groups header lines by name, without the fields of the connection.
fn by_name<'a>(lines: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, Vec<String>> {
    let mut set: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in lines {
        let name = name.to_ascii_lowercase();
        let value = match name.as_str() {
            "date" | "connection" => continue,
            // Different in every answer.
            "x-request-id" => "some id",
            _ => value,
        };
        set.entry(name).or_default().push(value.to_owned());
    }
    set
}

/// Compares an explanation with the live answer. `forwarded` is set if the upstream got the
/// request.
fn check(probe: &Probe, explained: &Value, live: &Response, forwarded: bool) {
    let response = &explained["response"];
    let context = format!("{probe:?}\n{explained:#}\n{live:?}");
    assert_eq!(response["by"], if forwarded { "upstream" } else { "gateway" }, "{context}");
    let lines = response["headers"].as_array().expect("headers").iter();
    let headers = by_name(lines.map(|line| (line[0].as_str().unwrap(), line[1].as_str().unwrap())));
    let mut happened = by_name(live.headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    if forwarded {
        // A field of the upstream; all others are the gateway's.
        assert!(response["status"].is_null() && live.status == 200, "{context}");
        assert_eq!(happened.remove("content-length").unwrap(), ["5"]);
    } else {
        assert_eq!(response["status"], live.status, "{context}");
    }
    assert_eq!(headers, happened, "{context}");
}

#[test]
fn explain_and_the_live_path_agree() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&gateway_config(&upstream), &[]);
    let seen = compare(&gateway, &upstream, REQUESTS, Sender::Stranger);
    for status in [200, 204, 400, 403, 404, 421] {
        assert!(seen.get(&status).is_some_and(|times| *times > 10), "too few answers with {status}: {seen:?}");
    }
}

#[test]
fn explain_live_path_and_log_agree_behind_a_trusted_proxy() {
    let upstream = RecordingUpstream::answering("hello");
    let listener = "- address: 127.0.0.1:0";
    let trusting = format!("{listener}\n    trustedProxies: [127.0.0.0/8]");
    let mut gateway = Gateway::start(&gateway_config(&upstream).replacen(listener, &trusting, 1), &[]);
    compare(&gateway, &upstream, TRUSTED_REQUESTS, Sender::TrustedProxy);
    gateway.process.signal(Signal::TERM);
    assert!(gateway.process.wait_at_most(Duration::from_secs(30)).success());
    let log = gateway.process.stdout();
    assert!(log.lines().count() > LOG_LINES, "{log}");
    for line in log.lines().take(LOG_LINES) {
        let logged: Value = serde_json::from_str(line).unwrap();
        let explanation = explain_log_line(&gateway, line);
        for name in ["verdict", "reason", "kind"] {
            assert_eq!(explanation[name], logged[name], "{line}\n{explanation:#}");
        }
    }
}

/// Sends generated requests and explains each. Returns how often each status occurred.
fn compare(gateway: &Gateway, upstream: &RecordingUpstream, requests: usize, sender: Sender) -> BTreeMap<u16, usize> {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    for round in 0..requests {
        let probe = Probe::generate(&mut numbers);
        let before = upstream.total();
        let live = probe.live(gateway);
        let forwarded = upstream.total() > before;
        check(&probe, &probe.explain(gateway, sender), &live, forwarded);
        if round % (REQUESTS / BY_COMMAND_LINE) == 0 {
            check(&probe, &probe.explain_by_command(gateway, sender), &live, forwarded);
        }
        *seen.entry(live.status).or_default() += 1;
    }
    seen
}

#[test]
fn c5_explain_accepts_urls_and_suggests_configuration() {
    let upstream = RecordingUpstream::answering("hello");
    let gateway = Gateway::start(&gateway_config(&upstream), &[]);
    let ask_admin = |query: &str| gateway.admin("GET", &format!("/explain?{query}"));
    let page = format!("page-url={}", escape("https://app.a.test/cart?x#top"));
    let url = format!("url={}", escape("https://api.a.test/orders?x=1"));
    let explanation = ask_admin(&format!("{url}&{page}&method=patch&request-headers=")).json();
    assert_eq!(
        (&explanation["verdict"], &explanation["reason"]),
        (&"deny".into(), &"method".into()),
        "{explanation:#}"
    );
    let refused = &explanation["refused"];
    assert_eq!(refused["names"], serde_json::json!(["patch"]), "{explanation:#}");
    assert_eq!(refused["allowed"], serde_json::json!(["PUT", "DELETE", "GET", "HEAD", "POST"]), "{explanation:#}");
    assert_eq!(refused["write"], "allowMethods: [PUT, DELETE, PATCH]", "{explanation:#}");
    assert!(refused["hint"].as_str().unwrap().contains("case-sensitive"), "{explanation:#}");
    for place in ["/policyAt", "/entryAt", "/refused/writeAt"] {
        let at = explanation.pointer(place).and_then(Value::as_str).unwrap_or_default();
        assert!(at.contains("crossgate.yaml:"), "{place} is {at} in {explanation:#}");
    }
    let explanation = ask_admin(&format!("url={}&{page}", escape("https://api.a.test/methods/x"))).json();
    let notes = explanation["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|note| note.as_str().unwrap().contains("the route /methods matches only the methods PUT")),
        "{explanation:#}"
    );

    for (query, message) in [
        ("host=https://api.a.test", "expected the host alone, api.a.test"),
        ("host=api.a.test&origin=https://app.a.test:8443/", "expected https://app.a.test:8443"),
    ] {
        let answer = ask_admin(query);
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().contains(message), "{query}: {}", answer.text());
    }
}
