//! Findings and values of whole files.

use std::time::Duration;

use super::diagnostics::Diagnostic;
use super::model::{LedgerLimits, LogAlways, LogRotation, Protocol};
use super::*;

mod listeners;
mod messages;
mod reference;
mod routes;
mod text;
mod upstreams;

fn main_file(text: &str) -> DecodedFile<MainFile> {
    decode_text(Path::new("gateway.yaml"), text, |decoder, root| decoder.main(root))
}

/// Compares a generated file of the repository, or writes it.
#[track_caller]
pub(super) fn assert_current(path: &str, generated: &str) {
    const WRITE: &str = "CROSSGATE_WRITE_GENERATED";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, generated).unwrap();
    }
    let is_current = std::fs::read_to_string(&file).is_ok_and(|text| text == generated);
    assert!(is_current, "{path} is not current; run `{WRITE}=1 cargo nextest run -p crossgate-config current`");
}

/// Findings as `line:column message`.
fn findings(text: &str) -> Vec<String> {
    let found = main_file(text).found;
    found.iter().map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.message)).collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = findings(text);
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn every_mistake_of_a_file_is_reported_at_its_position() {
    let text = r#"version: 2
listeners:
  - address: localhost:8080
    trustedProxys: [10.0.0.0/8]
  - { address: "127.0.0.1:80", trustedProxies: [10.0.0.1/8, ten] }
limits: { head: 10 minutes, headFields: many, headBytes: 64KB }
accessLog: { level: Everything, sample: 2 }
upstreams:
  orders: { servers: [orders.internal/80], servers: [], timeouts: {} }
policies:
  spa:
    allowMethods: GET
    maxAge: soon
    <<: {a: b}
tenants:
  - hosts: [api.acme.example:443, a.*.b]
  - id: 12
    hosts: []
    routes:
      - { pathPrefix: /a/../b, methods: [get, "b c"] }
      - { pathPrefix: /x }
      - { pathPrefix: /x/ }
"#;
    check(
        text,
        &[
            "1:10 unsupported version; write version: 1",
            "3:14 invalid address `localhost:8080`: write an IP address and a port",
            "4:5 a listener has no key `trustedProxys`; did you mean `trustedProxies`?",
            "5:49 invalid address range `10.0.0.1/8`: bits after the prefix are set; write 10.0.0.0/8",
            "5:61 invalid address range `ten`: write one such as 10.0.0.0/8",
            "6:17 expected a duration from 100ms to 5m, such as 250ms, 30s, 10m or 1h, found the text `10 minutes`",
            "6:41 expected a whole number from 1 to 256, found the text `many`",
            "6:58 expected a size from 1KiB to 1MiB, such as 8192, 64KiB or 10MiB, found the text `64KB`",
            "7:21 unknown value `Everything`; write All, Denied or Off",
            "7:41 expected a number from 0 to 1, such as 0.1, found the number 2",
            "9:23 invalid server address `orders.internal/80`: invalid character; expected letters",
            "9:44 duplicate key `servers`; keep one",
            "12:19 expected a list of methods, found the text `GET`",
            "13:13 expected whole seconds, such as 600, 30s or 10m, found the text `soon`",
            "14:5 a policy has no key `<<`; merge keys are not supported, write the keys out",
            "16:5 missing key `id` in a tenant",
            "16:13 invalid host `api.acme.example:443`: a port is not allowed here",
            "16:35 invalid host `a.*.b`: a star must be the whole first label",
            "17:9 expected an id, found the number 12; write it in quotes",
            "18:12 empty list of hosts; write one such as",
            "20:23 invalid path prefix `/a/../b`: paths are matched in normalized form; write /b",
            "20:42 invalid method `get`: methods are case-sensitive, write GET",
            "20:47 invalid method `b c`: write one such as GET or PUT",
            "22:23 two routes have the prefix `/x` and the same methods; change one of them",
        ],
    );
}

// Browsers removed Private Network Access. The keys are its name in the standard and other
// spellings.
#[test]
fn key_for_private_network_access_is_refused() {
    for key in [
        "allowPrivateNetwork",
        "allowPrivateNetworkAccess",
        "privateNetworkAccess",
        "dangerouslyAllowPrivateNetwork",
        "allow_private_network",
        "Access-Control-Allow-Private-Network",
        "allowLocalNetwork",
    ] {
        let policy = format!(
            "version: 1\nlisteners: [{{ address: 127.0.0.1:0 }}]\npolicies:\n  spa:\n    allowOrigins: []\n    {key}: true\n"
        );
        let withdrawn = "; browsers removed Private Network Access and ask the user instead, so remove the key";
        check(&policy, &[&format!("6:5 a policy has no key `{key}`{withdrawn}")]);
    }
}

#[test]
fn negative_max_age_is_refused() {
    for age in ["-1", "-1s", "-86400"] {
        let policy =
            format!("version: 1\nlisteners: [{{ address: 127.0.0.1:0 }}]\npolicies: {{ spa: {{ maxAge: {age} }} }}\n");
        check(&policy, &["3:28 expected whole seconds, such as 600, 30s or 10m, found"]);
    }
}

#[test]
fn tenant_id_reserved_by_metrics_is_refused() {
    for id in ["none", "other"] {
        let text = format!(
            "version: 1\nlisteners: [{{ address: 127.0.0.1:0 }}]\ntenants:\n  - {{ id: {id}, hosts: [a.test] }}\n"
        );
        check(&text, &[&format!("4:11 reserved id `{id}`")]);
    }
}

#[test]
fn conflicting_settings_are_reported() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:8080" }, { address: "127.0.0.1:8080" }, { address: "[::1]:0" }, { address: "[::1]:0" }]
admin: { address: "0.0.0.0:9900", hosts: ["a:1", "b c"] }
limits: { headFieldBytes: 64KiB }
runtime: { threads: 0 }
upstreams:
  a: { servers: [] }
  a: {}
  "b c": { servers: ["127.0.0.1:0"], attempts: 0, host: "x y" }
"#;
    check(
        text,
        &[
            "2:55 two listeners have the address 127.0.0.1:8080; give each its own",
            "3:19 other machines can reach the admin listener; set tokenFile",
            "3:43 invalid host name `a:1`: write it without the port",
            "3:50 invalid host name `b c`: invalid character; expected letters",
            "4:27 headFieldBytes is larger than headBytes; write at most headBytes",
            "5:21 expected a whole number from 1 to 1024, found the number 0",
            "7:17 empty list of servers; write one such as 127.0.0.1:9001",
            "8:3 two upstreams have the name `a`; rename one",
            "9:3 invalid name `b c`: expected 1 to 64 letters",
        ],
    );
    let clash = main_file(text).found.iter().next().unwrap().also.clone().unwrap();
    assert_eq!((clash.line, clash.column), (2, 24));
}

#[test]
fn valid_file_decodes_to_its_values() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:8080", trustedProxies: ["10.0.0.0/8", "::1/128"], http2: false }]
admin: { address: "0.0.0.0:9900", tokenFile: secrets/token, readTokenFile: secrets/read-token, openMetrics: true, hosts: [Admin.example.] }
runtime: { threads: 3 }
limits: { head: 5, headBytes: 16KiB, maxRequestBody: 10MiB, keepAliveRequests: 10, http2Streams: 7 }
shutdown: { grace: 1m }
accessLog: { level: Denied, sample: 0.5 }
ledger: { origins: 1000 }
upstreams: { orders: { servers: ["127.0.0.1:9001", "[::1]:9002"], timeouts: { head: 1500ms }, attempts: 1, host: o.example } }
originSets: { partners: ["https://a.example"] }
policies:
  spa: { allowOrigins: ["*"], allowCredentials: true, maxAge: 10m, disclosure: Minimal, unmatchedRequests: Forward, preflightFailures: Reject, mode: Report, dangerouslyAllowNull: true }
tenants:
  - { id: acme, hosts: [API.acme.example, "*"], upstream: orders, policy: spa, allowOrigins: [b], routes: [{ pathPrefix: /x/, methods: [PUT], preflightFailures: Explain }] }
tenantsDir: tenants.d
"#;
    let decoded = decode_text(Path::new("etc/gateway.yaml"), text, |decoder, root| decoder.main(root));
    assert!(!decoded.found.has_errors(), "{}", decoded.found);
    let main = decoded.value;
    let admin = main.settings.admin.as_ref().unwrap();
    assert_eq!(admin.token_file.as_ref().unwrap().value, Path::new("etc/secrets/token"));
    assert_eq!(admin.read_token_file.as_ref().unwrap().value, Path::new("etc/secrets/read-token"));
    assert_eq!(&*admin.hosts[0], "admin.example");
    assert!(main.settings.listeners[0].trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!main.settings.listeners[0].trusts("11.1.2.3".parse().unwrap()));
    assert_eq!(main.settings.limits.head.as_secs(), 5);
    assert_eq!(main.settings.limits.max_request_body, model::BodyMax::Bytes(10 << 20));
    assert_eq!(main.settings.limits.drain_bytes, 64 << 10);
    assert_eq!((main.settings.limits.http2_streams, main.settings.limits.http2_idle.as_secs()), (7, 60));
    assert_eq!(main.settings.listeners[0].http2, crate::model::Http2Support::Off);
    assert_eq!(main.settings.ledger, LedgerLimits { origins: 1_000, origins_per_tenant: 256 });
    assert_eq!(main.upstreams[0].timeouts.head.as_millis(), 1_500);
    assert_eq!(main.policies[0].max_age.value, 600);
    assert_eq!(main.policies[0].preflight_failures, model::PreflightFailures::Reject);
    assert_eq!(main.tenants[0].routes[0].preflight_failures, Some(model::PreflightFailures::Explain));
    assert_eq!(main.tenants[0].hosts[0].value, HostPattern::Exact("api.acme.example".into()));
    assert_eq!(&*main.tenants[0].routes[0].path.value, "/x");
    assert_eq!(main.tenants_dir.unwrap().value, Path::new("etc/tenants.d"));
}

#[test]
fn specs_with_equal_values_at_other_positions_are_equal() {
    let tenant = |text: &str| main_file(text).value.tenants[0].clone();
    let a = tenant("version: 1\nlisteners: []\ntenants: [{ id: a, hosts: [a.example] }]");
    let b = tenant("# moved\nversion: 1\nlisteners: []\n\ntenants:\n  - hosts: [A.example]\n    id: a\n");
    let c = tenant("version: 1\nlisteners: []\ntenants: [{ id: a, hosts: [b.example] }]");
    assert!(a == b && a != c);
}

#[test]
fn route_with_pattern_or_unsupported_method_is_refused() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
tenants:
  - id: a
    hosts: [a.example]
    routes:
      - pathPrefix: /admin/*
      - pathPrefix: /users/{id}/x
      - pathPrefix: /*
      - { pathPrefix: /m, methods: [TRACE, CONNECT, trace, Get, patch] }
"#;
    check(
        text,
        &[
            "7:21 invalid path prefix `/admin/*`: a prefix has no patterns and covers all paths below it; write /admin",
            "8:21 invalid path prefix `/users/{id}/x`: a prefix has no patterns and covers all paths below it; write /users",
            "9:21 invalid path prefix `/*`: a prefix has no patterns and covers all paths below it; write /",
            "10:37 the gateway answers `TRACE` with 405 on every route; remove it",
            "10:44 the gateway answers `CONNECT` with 405 on every route; remove it",
            "10:53 the gateway answers `trace` with 405 on every route; remove it",
            "10:60 invalid method `Get`: methods are case-sensitive, write GET",
            "10:65 invalid method `patch`: methods are case-sensitive, write PATCH",
        ],
    );
}

#[test]
fn rule_with_invalid_script_header_or_query_key_is_refused() {
    let policy = |rule: &str| {
        format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nscriptsDir: scripts\npolicies:\n  p:\n    rule: {rule}\n"
        )
    };
    for (rule, message) in [
        ("{ headers: [x-plan] }", "6:11 missing key `script` in a rule"),
        ("{ script: preview }", "6:21 invalid script name `preview`: write a file in scriptsDir, such as preview.rhai"),
        (
            "{ script: ../a.rhai }",
            "6:21 invalid script name `../a.rhai`: write a file in scriptsDir, such as preview.rhai",
        ),
        (
            "{ script: a.rhai, headers: [Cookie] }",
            "6:39 rules cannot read the header `cookie`: it contains credentials of the user; remove it",
        ),
        (
            "{ script: a.rhai, headers: [origin] }",
            "6:39 rules cannot read the header `origin`: rules read it as a field of req; remove it",
        ),
        ("{ script: a.rhai, headers: [\"x y\"] }", "6:39 invalid header name `x y`: write one such as x-plan"),
        ("{ script: a.rhai, query: [\"\"] }", "6:37 invalid query key: write 1 to 64 bytes"),
        ("{ script: a.rhai, header: [x] }", "6:29 a rule has no key `header`; did you mean `headers`?"),
    ] {
        check(&policy(rule), &[message]);
    }
    check(&policy("{ script: a.rhai, headers: [X-Plan], query: [key] }"), &[]);
    let missing = policy("{ script: a.rhai }").replace("scriptsDir: scripts\n", "");
    check(&missing, &["5:21 missing key `scriptsDir`, which rules need; write scriptsDir: scripts at the top level"]);
    let limits = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nlimits: { rules: { operations: 1, time: 1h, depth: 3 } }\n";
    assert_eq!(main_file(limits).found.len(), 3);
}

#[test]
fn ledger_is_bounded_and_can_be_disabled() {
    let ledger = |text: &str| format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nledger: {text}\n");
    check(
        &ledger("{ enabled: yes, origins: 0, originsPerTenant: 5000, size: 1 }"),
        &[
            "3:20 expected true or false, found the text `yes`",
            "3:34 expected a whole number from 1 to 1000000, found the number 0",
            "3:55 expected a whole number from 1 to 4096, found the number 5000",
            "3:61 the ledger has no key `size`",
        ],
    );
    let decoded = main_file(&ledger("{ enabled: false, origins: 10 }"));
    assert_eq!(decoded.value.settings.ledger, LedgerLimits::OFF);
}

#[test]
fn access_log_decodes_to_its_values() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
accessLog:
  path: log/access.log
  rotate: { size: 1MiB, count: 3 }
  level: Denied
  sample: 0.5
  always: [error]
  fields: [time, status]
  headers: [User-Agent, referer]
"#;
    let decoded = decode_text(Path::new("etc/gateway.yaml"), text, |decoder, root| decoder.main(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    let log = &decoded.value.settings.access_log;
    assert_eq!(log.path.as_ref().unwrap().value, Path::new("etc/log/access.log"));
    assert_eq!(log.rotation, Some(LogRotation { size: 1 << 20, count: 3 }));
    assert_eq!(log.always, LogAlways { deny: false, error: true });
    assert_eq!(log.fields, [crate::model::LogField::Time, crate::model::LogField::Status].into_iter().collect());
    assert_eq!(log.headers, [http::header::USER_AGENT, http::header::REFERER]);
}

#[test]
fn access_log_with_mistakes_is_refused() {
    for (keys, expected) in [
        ("headers: [Cookie]", "the header `cookie` contains credentials"),
        ("headers: [authorization]", "the header `authorization` contains credentials"),
        ("headers: [Proxy-Authorization]", "the header `proxy-authorization` contains credentials"),
        ("headers: [set-cookie]", "the header `set-cookie` contains credentials"),
        ("headers: [referer, Referer]", "duplicate header `referer`"),
        ("headers: ['a b']", "invalid header name `a b`"),
        ("fields: []", "empty list of fields"),
        ("fields: [time, colour]", "unknown value `colour`"),
        ("always: [denied]", "unknown value `denied`"),
        ("rotate: { size: 1MiB }", "standard output cannot be rotated"),
        ("path: a, rotate: { size: 1KiB }", "expected a size from 64KiB"),
        ("path: a, rotate: { count: 3 }", "missing key `size`"),
        ("path: a, rotate: { size: 1MiB, count: 0 }", "expected"),
        ("path: ''", "empty path"),
    ] {
        let text = format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\naccessLog: {{ {keys} }}\n");
        let found = main_file(&text).found.to_string();
        assert!(found.contains(expected), "{keys}: {found}");
    }
}
