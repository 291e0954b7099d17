//! What the decoder says about files, right and wrong.

use std::time::Duration;

use super::diagnostics::Diagnostic;
use super::model::Protocol;
use super::*;
use crate::ledger::LedgerLimits;

mod listeners;
mod text;
mod upstreams;

fn main_file(text: &str) -> Decoded<Main> {
    decode_text(Path::new("gateway.yaml"), text, |decoder, root| decoder.main(root))
}

/// Findings as `line:column message`, and the text under the carets.
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
fn reports_every_mistake_of_a_file_at_its_place() {
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
            "1:10 this version is not known; write version: 1",
            "3:14 `localhost:8080` is not an address; write an IP address and a port",
            "4:5 a listener has no key `trustedProxys`; did you mean `trustedProxies`?",
            "5:49 `10.0.0.1/8` is not an address range; bits after the prefix are set; write 10.0.0.0/8",
            "5:61 `ten` is not an address range; write one such as 10.0.0.0/8",
            "6:17 expected a duration from 100ms to 5m, such as 250ms, 30s, 10m or 1h, found the text `10 minutes`",
            "6:41 expected a whole number from 1 to 256, found the text `many`",
            "6:58 expected a size from 1KiB to 1MiB, such as 8192, 64KiB or 10MiB, found the text `64KB`",
            "7:21 `Everything` is not known here; write All, Denied or Off",
            "7:41 expected a number from 0 to 1, such as 0.1, found the number 2",
            "9:23 `orders.internal/80` is not the address of a server; a host name is made of letters",
            "9:44 the key `servers` is there twice; keep one",
            "12:19 expected a list of methods, found the text `GET`",
            "13:13 expected whole seconds, such as 600, 30s or 10m, found the text `soon`",
            "14:5 a policy has no key `<<`; merge keys are not supported, write the keys out",
            "16:5 a tenant needs the key `id`",
            "16:13 `api.acme.example:443` is not a host; a host has no port here",
            "16:35 `a.*.b` is not a host; a star is the whole first label",
            "17:9 expected an id, found the number 12; put it in quotes if it is meant",
            "18:12 there is no host; write one such as",
            "20:23 `/a/../b` is not a path prefix; requests are matched in another form; write /b",
            "20:42 `get` is no method, which are case-sensitive; write GET",
            "20:47 `b c` is no method; write one such as GET or PUT",
            "22:23 two routes are for `/x` and the same methods; give each its own prefix or methods",
        ],
    );
}

// Private network access is withdrawn from browsers; its name in the standard, and what others call it.
#[test]
fn a_policy_has_no_key_for_private_networks() {
    for key in
        ["allowPrivateNetwork", "allowPrivateNetworkAccess", "privateNetworkAccess", "dangerouslyAllowPrivateNetwork"]
    {
        let policy = format!(
            "version: 1\nlisteners: [{{ address: 127.0.0.1:0 }}]\npolicies:\n  spa:\n    allowOrigins: []\n    {key}: true\n"
        );
        check(&policy, &[&format!("6:5 a policy has no key `{key}`")]);
    }
}

#[test]
fn a_max_age_is_no_negative_number() {
    for age in ["-1", "-1s", "-86400"] {
        let policy =
            format!("version: 1\nlisteners: [{{ address: 127.0.0.1:0 }}]\npolicies: {{ spa: {{ maxAge: {age} }} }}\n");
        check(&policy, &["3:28 expected whole seconds, such as 600, 30s or 10m, found"]);
    }
}

#[test]
fn reports_clashes_in_settings() {
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
            "3:19 the admin listener can be reached from other machines; give it a tokenFile",
            "3:43 `a:1` is not a host name; write it without its port",
            "3:50 `b c` is not a host name; a host name is made of letters",
            "4:27 one field may be larger than a whole head; headFieldBytes is at most headBytes",
            "5:21 expected a whole number from 1 to 1024, found the number 0",
            "7:17 there is no server; write one such as 127.0.0.1:9001",
            "8:3 there are two upstreams called `a`; rename one",
            "9:3 `b c` is no name; a name has 1 to 64 letters",
        ],
    );
    let clash = main_file(text).found.iter().next().unwrap().also.clone().unwrap();
    assert_eq!((clash.line, clash.column), (2, 24));
}

#[test]
fn keeps_what_the_file_says() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:8080", trustedProxies: ["10.0.0.0/8", "::1/128"], http2: false }]
admin: { address: "0.0.0.0:9900", tokenFile: secrets/token, openMetrics: true, hosts: [Admin.example.] }
runtime: { threads: 3 }
limits: { head: 5, headBytes: 16KiB, maxRequestBody: 10MiB, keepAliveRequests: 10, http2Streams: 7 }
shutdown: { grace: 1m }
accessLog: { level: Denied, sample: 0.5 }
ledger: { origins: 1000 }
upstreams: { orders: { servers: ["127.0.0.1:9001", "[::1]:9002"], timeouts: { head: 1500ms }, attempts: 1, host: o.example } }
originSets: { partners: ["https://a.example"] }
policies:
  spa: { allowOrigins: ["*"], allowCredentials: true, maxAge: 10m, disclosure: Minimal, unmatchedRequests: Forward, mode: Report, dangerouslyAllowNull: true }
tenants:
  - { id: acme, hosts: [API.acme.example, "*"], upstream: orders, policy: spa, allowOrigins: [b], routes: [{ pathPrefix: /x/, methods: [PUT] }] }
tenantsDir: tenants.d
"#;
    let decoded = decode_text(Path::new("etc/gateway.yaml"), text, |decoder, root| decoder.main(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    let main = decoded.value;
    let admin = main.settings.admin.as_ref().unwrap();
    assert_eq!(admin.token_file.as_ref().unwrap().value, Path::new("etc/secrets/token"));
    assert_eq!(&*admin.hosts[0], "admin.example");
    assert!(main.settings.listeners[0].trusts("::ffff:10.1.2.3".parse().unwrap()));
    assert!(!main.settings.listeners[0].trusts("11.1.2.3".parse().unwrap()));
    assert_eq!(main.settings.limits.head.as_secs(), 5);
    assert_eq!(main.settings.limits.max_request_body, model::BodyMax::Bytes(10 << 20));
    assert_eq!(main.settings.limits.drain_bytes, 64 << 10);
    assert_eq!((main.settings.limits.http2_streams, main.settings.limits.http2_idle.as_secs()), (7, 60));
    assert_eq!(main.settings.listeners[0].http2, crate::http2::Http2::Off);
    assert_eq!(main.settings.ledger, LedgerLimits { origins: 1_000, origins_per_tenant: 256 });
    assert_eq!(main.upstreams[0].timeouts.head.as_millis(), 1_500);
    assert_eq!(main.policies[0].max_age.value, 600);
    assert_eq!(main.tenants[0].hosts[0].value, HostPattern::Exact("api.acme.example".into()));
    assert_eq!(&*main.tenants[0].routes[0].prefix.value, "/x");
    assert_eq!(main.tenants_dir.unwrap().value, Path::new("etc/tenants.d"));
}

#[test]
fn two_specs_are_equal_when_they_say_the_same_elsewhere() {
    let tenant = |text: &str| main_file(text).value.tenants[0].clone();
    let a = tenant("version: 1\nlisteners: []\ntenants: [{ id: a, hosts: [a.example] }]");
    let b = tenant("# moved\nversion: 1\nlisteners: []\n\ntenants:\n  - hosts: [A.example]\n    id: a\n");
    let c = tenant("version: 1\nlisteners: []\ntenants: [{ id: a, hosts: [b.example] }]");
    assert!(a == b && a != c);
}

#[test]
fn a_route_is_no_pattern_and_for_methods_that_can_arrive() {
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
            "7:21 `/admin/*` is not a path prefix; a prefix covers what is below it, without patterns; write /admin",
            "8:21 `/users/{id}/x` is not a path prefix; a prefix covers what is below it, without patterns; write /users",
            "9:21 `/*` is not a path prefix; a prefix covers what is below it, without patterns; write /",
            "10:37 `TRACE` is answered with 405 here, whatever the route; leave it out",
            "10:44 `CONNECT` is answered with 405 here, whatever the route; leave it out",
            "10:53 `trace` is answered with 405 here, whatever the route; leave it out",
            "10:60 `Get` is no method, which are case-sensitive; write GET",
            "10:65 `patch` is no method, which are case-sensitive; write PATCH",
        ],
    );
}

#[test]
fn a_rule_names_a_script_and_what_it_may_read() {
    let policy = |rule: &str| {
        format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nscriptsDir: scripts\npolicies:\n  p:\n    rule: {rule}\n"
        )
    };
    for (rule, message) in [
        ("{ headers: [x-plan] }", "6:11 a rule needs the key `script`"),
        ("{ script: preview }", "6:21 `preview` is no script; write a file of scriptsDir, such as preview.rhai"),
        ("{ script: ../a.rhai }", "6:21 `../a.rhai` is no script; write a file of scriptsDir, such as preview.rhai"),
        (
            "{ script: a.rhai, headers: [Cookie] }",
            "6:39 no rule reads the header `cookie`: it is the user's secret; decide by something else",
        ),
        (
            "{ script: a.rhai, headers: [origin] }",
            "6:39 no rule reads the header `origin`: a rule sees it as a field of req; leave it out",
        ),
        ("{ script: a.rhai, headers: [\"x y\"] }", "6:39 `x y` is no header name; write one such as x-plan"),
        ("{ script: a.rhai, query: [\"\"] }", "6:37 this is no query key; write 1 to 64 bytes"),
        ("{ script: a.rhai, header: [x] }", "6:29 a rule has no key `header`; did you mean `headers`?"),
    ] {
        check(&policy(rule), &[message]);
    }
    check(&policy("{ script: a.rhai, headers: [X-Plan], query: [key] }"), &[]);
    let missing = policy("{ script: a.rhai }").replace("scriptsDir: scripts\n", "");
    check(&missing, &["5:21 there is no directory of scripts; write scriptsDir: scripts at the top"]);
    let limits = "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nlimits: { rules: { operations: 1, time: 1h, depth: 3 } }\n";
    assert_eq!(main_file(limits).found.len(), 3);
}

#[test]
fn a_ledger_has_bounds_and_can_be_switched_off() {
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
