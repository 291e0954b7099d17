//! What the decoder says about files, right and wrong.

use std::time::Duration;

use super::diagnostics::Diagnostic;
use super::model::Protocol;
use super::*;
use crate::ledger::LedgerLimits;

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
fn servers_have_names_and_weights() {
    use http::uri::PathAndQuery;
    use model::{HealthCheck, Resolver, ServerAddress, ServerSpec, UpstreamLimits};
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
resolver: { servers: ["127.0.0.1:53", "[::1]:5353"], timeout: 500ms }
upstreams:
  a:
    servers: ["10.0.0.1:80", Orders.Internal:9001, "db.:1", { address: "[::1]:9002", weight: 7 }, { address: x:65535 }]
    healthCheck: { path: "/healthz?full", interval: 5s, timeout: 1s, healthyAfter: 1, unhealthyAfter: 4, host: h.example }
    limits: { maxRequests: 10, maxPending: 0, pendingTimeout: 2s }
  b: { servers: ["10.0.0.1:80"], healthCheck: { path: / }, limits: { maxRequests: 3 } }
"#;
    let main = main_file(text);
    assert!(main.found.is_empty(), "{}", main.found);
    let [a, b] = &main.value.upstreams[..] else { panic!("two upstreams") };
    let at = |address: &str, weight| ServerSpec { address: ServerAddress::Address(address.parse().unwrap()), weight };
    let name = |name: &str, port| ServerSpec { address: ServerAddress::Name { name: name.into(), port }, weight: 1 };
    let servers =
        [at("10.0.0.1:80", 1), name("orders.internal", 9001), name("db.", 1), at("[::1]:9002", 7), name("x", 65_535)];
    assert_eq!(a.servers, servers);
    let seconds = Duration::from_secs;
    let check = HealthCheck {
        path: PathAndQuery::from_static("/healthz?full"),
        interval: seconds(5),
        timeout: seconds(1),
        healthy_after: 1,
        unhealthy_after: 4,
        host: Some(http::HeaderValue::from_static("h.example")),
    };
    assert_eq!(a.health_check, Some(check));
    let check = b.health_check.as_ref().unwrap();
    assert_eq!((check.interval, check.timeout), (seconds(10), seconds(2)));
    assert_eq!((check.healthy_after, check.unhealthy_after, &check.host), (2, 3, &None));
    assert_eq!(a.limits, Some(UpstreamLimits { max_requests: 10, max_pending: 0, pending_timeout: seconds(2) }));
    assert_eq!(b.limits, Some(UpstreamLimits { max_requests: 3, max_pending: 3, pending_timeout: seconds(1) }));
    let servers = ["127.0.0.1:53", "[::1]:5353"].map(|server| server.parse().unwrap()).into();
    let timeout = Some(Duration::from_millis(500));
    assert_eq!(main.value.settings.resolver, Resolver { servers, timeout });
}

#[test]
fn reports_mistakes_about_servers() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
resolver: { servers: ["dns.example:53", "10.0.0.2"], timeout: 1h }
upstreams:
  a:
    servers: [orders, "orders:0", "10.0.0.256:80", "1:80", "a..b:80", "http://a:80", { weight: 1 }, { address: "a:1", weight: 0 }, "[::1]"]
    healthCheck: { path: healthz, interval: 1ms, healthyAfter: 0, port: 9 }
    limits: { maxRequests: 0 }
  b: { servers: ["10.0.0.1:80"], healthCheck: { interval: 10s }, limits: { maxPending: 5 } }
  c: { servers: [{ adress: "a:1" }], healthCheck: { path: "/a b" } }
  d: { servers: ["10.0.0.1:80"], healthCheck: { path: "/<id>" } }
"#;
    check(
        text,
        &[
            "3:23 `dns.example:53` is not the address of a name server; write an IP address and a port, such as 10.0.0.2:53",
            "3:41 `10.0.0.2` is not the address of a name server; write an IP address and a port",
            "3:63 expected a duration from 10ms to 1m",
            "6:15 `orders` is not the address of a server; write its port too",
            "6:23 `orders:0` is not the address of a server; a port is a number from 1 to 65535",
            "6:35 `10.0.0.256:80` is not the address of a server; it is neither an IPv4 address of four numbers",
            "6:52 `1:80` is not the address of a server; it is neither an IPv4 address of four numbers",
            "6:60 `a..b:80` is not the address of a server; a host name has no empty part",
            "6:71 `http://a:80` is not the address of a server; a port is a number",
            "6:86 a server needs the key `address`",
            "6:127 expected a whole number from 1 to 256, found the number 0",
            "6:132 `[::1]` is not the address of a server; write its port too",
            "7:26 `healthz` is not the path of a health check; write what is asked for, from the slash on, such as /healthz",
            "7:45 expected a duration from 100ms to 1h",
            "7:64 expected a whole number from 1 to 100, found the number 0",
            "7:67 a health check has no key `port`",
            "8:28 expected a whole number from 1 to 1000000, found the number 0",
            "9:47 a health check needs the key `path`",
            "9:74 the limits of an upstream needs the key `maxRequests`",
            "10:18 a server needs the key `address`",
            "10:20 a server has no key `adress`; did you mean `address`?",
            "10:59 `/a b` is not the path of a health check",
            "11:55 `/<id>` is not the path of a health check",
        ],
    );
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\nresolver: { servers: [] }\n",
        &["3:22 there is no name server; write one"],
    );
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
fn a_listener_for_balancers_names_them() {
    let text = r#"version: 1
listeners:
  - { address: "127.0.0.1:1", proxyProtocol: true }
  - { address: "127.0.0.1:2", proxyProtocol: {} }
  - { address: "127.0.0.1:3", proxyProtocol: { from: [] } }
  - { address: "127.0.0.1:4", proxyProtocol: { from: [10.0.0.1/8], optional: true } }
  - { address: "127.0.0.1:5", proxyProtocol: { from: ["10.0.0.0/8", "::/0"] } }
  - { address: "127.0.0.1:6", proxyProtocol: { from: [0.0.0.0/0] } }
"#;
    check(
        text,
        &[
            "3:46 expected the PROXY protocol (keys and values), found true",
            "4:46 the PROXY protocol needs the key `from`",
            "5:54 nobody could connect; write the addresses of the balancers, such as 10.0.0.0/8",
            "6:55 `10.0.0.1/8` is not an address range; bits after the prefix are set; write 10.0.0.0/8",
            "6:68 the PROXY protocol has no key `optional`; its keys are `from`",
            "7:54 everybody may connect, and say who they are; write the addresses of the balancers alone",
            "8:54 everybody may connect, and say who they are; write the addresses of the balancers alone",
        ],
    );
    let found = main_file(text).found;
    let warnings = found.iter().filter(|one| one.severity == diagnostics::Severity::Warning);
    assert_eq!(warnings.map(|one| one.place.line).collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn reads_how_upstreams_are_spoken_to() {
    let main = |upstream: &str| {
        main_file(&format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a: {{ servers: [\"127.0.0.1:9\"]{upstream} }}\n"
        ))
    };
    let told = |upstream: &str| {
        let found = main(upstream).found;
        found.iter().map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.message)).collect::<Vec<_>>()
    };
    let plain = main("").value.upstreams.remove(0);
    assert_eq!((plain.protocol, plain.tls), (Protocol::Http1, None));
    let whole = ", protocol: Auto, tls: { serverName: api.example, ca: ca.pem, clientCertificate: { certificate: a.pem, key: a.key } }";
    let whole = main(whole).value.upstreams.remove(0);
    let tls = whole.tls.unwrap().value;
    assert_eq!((whole.protocol, tls.server_name.as_deref()), (Protocol::Auto, Some("api.example")));
    assert_eq!(tls.files().collect::<Vec<_>>(), ["ca.pem", "a.pem", "a.key"].map(Path::new));
    assert_eq!(main(", protocol: Http2, tls: {}").value.upstreams[0].tls.as_ref().unwrap().value.files().count(), 0);
    for (upstream, wanted) in [
        (", protocol: Auto", "4:44 only TLS lets a server choose; write Http1 or Http2, or add tls"),
        (", protocol: h2c", "4:44 `h2c` is not known here; write Http1, Http2 or Auto"),
        (", tls: true", "4:39 expected the TLS of an upstream (keys and values), found true"),
        (
            ", tls: { verify: false }",
            "4:41 the TLS of an upstream has no key `verify`; its keys are `serverName`, `ca`",
        ),
        (", tls: { serverName: \"\" }", "4:53 `` is not a server name; write the host name or the IP address"),
        (", tls: { serverName: a_b.c.example }", "4:53 `a_b.c.example` is not a server name"),
        (", tls: { serverName: \"api.example.\" }", "4:53 `api.example.` is not a server name"),
        (", tls: { serverName: \"api.example:443\" }", "4:53 `api.example:443` is not a server name"),
        (", tls: { ca: \"\" }", "4:45 the path is empty"),
        (", tls: { clientCertificate: { certificate: a.pem } }", "4:60 a client certificate needs the key `key`"),
    ] {
        let told = told(upstream);
        assert!(told.len() == 1 && told[0].starts_with(wanted), "{upstream}: {told:?}");
    }
}

#[test]
fn servers_that_speak_tls_go_by_one_name() {
    let main = |servers: &str, rest: &str| {
        main_file(&format!(
            "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nupstreams:\n  a: {{ servers: [{servers}], {rest} }}\n"
        ))
    };
    for (servers, name) in [
        ("\"10.0.0.1:443\", \"10.0.0.2:443\"", None),
        ("\"orders.internal:443\"", Some("orders.internal")),
        ("\"Orders.internal.:443\", \"orders.internal:8443\"", Some("orders.internal")),
    ] {
        let read = main(servers, "tls: {}");
        assert!(read.found.is_empty(), "{servers}: {:?}", read.found);
        assert_eq!(read.value.upstreams[0].tls.as_ref().unwrap().value.server_name.as_deref(), name, "{servers}");
    }
    let named = main("\"a.internal:443\", \"10.0.0.2:443\"", "tls: { serverName: api.internal }");
    assert!(named.found.is_empty(), "{:?}", named.found);
    let by_more = "these servers go by more than one name; write the serverName that the certificates of all have";
    for (servers, rest, wanted) in [
        ("\"a.internal:443\", \"10.0.0.2:443\"", "tls: {}", by_more),
        ("\"10.0.0.2:443\", \"a.internal:443\"", "tls: {}", by_more),
        ("\"a.internal:443\", \"b.internal:443\"", "tls: {}", by_more),
        ("\"a_b.internal:443\"", "tls: {}", "no certificate is for a_b.internal; write the serverName"),
    ] {
        let found = main(servers, rest).found;
        let told: Vec<_> = found.iter().map(|one| (one.place.line, &*one.message)).collect();
        assert!(told.len() == 1 && told[0].0 == 4 && told[0].1.starts_with(wanted), "{servers} {rest}: {told:?}");
    }
}

#[test]
fn shows_the_line_and_a_caret() {
    let text = "version: 1\nlisteners:\n  - adress: \"127.0.0.1:80\"\n";
    let found = main_file(text).found;
    let expected = "error: a listener has no key `adress`; did you mean `address`?\n  \
                    --> gateway.yaml:3:5\n  |\n3 |   - adress: \"127.0.0.1:80\"\n  |     ^^^^^^";
    let first = found.iter().find(|one| one.message.contains("adress"));
    assert_eq!(first.unwrap().to_string(), expected);

    let mut control = found.clone();
    control.quote(Path::new("gateway.yaml"), "unused, since the lines are there already");
    assert_eq!(control, found);
    let mut escape = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, "m")]);
    escape.quote(Path::new("x"), "\u{1b}[2J\tred");
    assert!(escape.to_string().contains("1 | \u{fffd}[2J red"), "{escape}");

    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json[0]["severity"], "error");
    assert_eq!(json[0]["file"], "gateway.yaml");
    assert_eq!((json[0]["line"].as_u64(), json[0]["column"].as_u64()), (Some(3), Some(5)));
}

#[test]
fn cuts_long_lines_around_the_caret() {
    let gap = " ".repeat(5_000);
    let text = format!("version: 1\nlisteners: []\npolicies: {{ a: {{}}, {gap}b: {{ maxAge: x }} }}\n");
    let shown = main_file(&text).found.to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
    let caret = shown.lines().rev().find(|line| line.contains('^')).unwrap().find('^').unwrap();
    let line = shown.lines().rev().find(|line| line.contains("maxAge")).unwrap();
    assert_eq!(line.chars().nth(caret), Some('x'), "{shown}");
}

#[test]
fn a_syntax_error_is_one_message_at_its_place() {
    check("version: 1\nlisteners: [1", &["2:12 this cannot be read as YAML: unclosed bracket"]);
    check("a: b: c", &["1:5 this cannot be read as YAML: mapping values are not allowed"]);
    check("a: *x", &["1:4 this cannot be read as YAML: an alias repeats nothing; write its anchor"]);
    check("a: 1\n---\nb: 2", &["2:1 this cannot be read as YAML: there is a second document; put each into a file"]);
    check("? [1]\n: 2", &["1:3 this cannot be read as YAML"]);
    check("a: !secret x", &["1:12 this cannot be read as YAML: this tag is not known; leave it out"]);
    check("a: &x [*x]", &["1:8 this cannot be read as YAML: an alias stands inside what it repeats; repeat something"]);
    check("~: 1", &["1:1 this cannot be read as YAML: a key is empty; write a text before the colon"]);
    let deep = format!("a: {}1{}", "[".repeat(40), "]".repeat(40));
    check(&"[".repeat(5_000), &["1:256 this cannot be read as YAML: it is nested too deeply; at most 32 levels"]);
    check("version: !!int x", &["1:16 this cannot be read as YAML: this is not what its tag says; leave the tag out"]);
    check(&deep, &["1:35 this cannot be read as YAML: it is nested too deeply; at most 32 levels are read"]);
    check("", &["1:1 this file is empty; a configuration has the keys version"]);
    check("- 1", &["1:1 expected a configuration (keys and values), found a list"]);
}

#[test]
fn follows_aliases_and_bounds_them() {
    let text =
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\noriginSets: { a: &a [\"https://a.example\"], b: *a }\n";
    let main = main_file(text);
    assert!(main.found.is_empty(), "{}", main.found);
    assert_eq!(main.value.origin_sets[0].origins, main.value.origin_sets[1].origins);

    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let found = findings(&bomb);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("aliases repeat too much; at most 200000 values may come from them"), "{found:?}");
}

#[test]
fn bounds_the_text_that_aliases_repeat() {
    let text = format!("version: 1\ntenants: [&a \"{}\"{}]\n", "A".repeat(1 << 20), ", *a".repeat(1_000));
    let found = findings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    let message = "this cannot be read as YAML: aliases repeat too much text; at most 16MiB may come from them";
    assert!(found[0].starts_with("2:") && found[0].ends_with(message), "{found:?}");
}

#[test]
fn one_list_may_be_repeated_by_every_tenant() {
    let tenant =
        |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p, allowOrigins: *o }}\n");
    let first = "tenants:\n  - { id: t, hosts: [t.example], allowOrigins: &o [\"https://a.example\", \"https://b.example\"] }\n";
    let text = first.to_owned() + &(0..1_000).map(tenant).collect::<String>();
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants[1_000].allow_origins.len(), 2);
}

#[test]
fn heeds_the_tags_of_yaml_itself() {
    let main = main_file("version: !!int 1\nlisteners: [{ address: !!str 127.0.0.1:0 }]\n");
    assert!(main.found.is_empty(), "{}", main.found);
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
fn reads_more_tenants_than_the_parser_allows_by_itself() {
    let tenant = |n: usize| format!("  - {{ id: t{n}, hosts: [t{n}.example], upstream: a, policy: p }}\n");
    let text = format!("tenants:\n{}", (0..30_000).map(tenant).collect::<String>());
    let decoded = decode_text(Path::new("many.yaml"), &text, |decoder, root| decoder.tenants_file(root));
    assert!(decoded.found.is_empty(), "{}", decoded.found);
    assert_eq!(decoded.value.tenants.len(), 30_000);
}

#[test]
fn tells_at_most_a_thousand_findings() {
    let text = format!("version: 1\nlisteners: [{}]\n", "x, ".repeat(60));
    let lists = "tenants:\n".to_owned() + &"  - {}\n".repeat(3_000);
    let found = main_file(&(text + &lists)).found;
    assert_eq!(found.len(), 1_001);
    assert!(found.to_string().contains("there are more than 1000 findings"));
}

#[test]
fn warnings_are_never_an_error_and_make_place_for_errors() {
    let at = |line| At { line, ..At::START };
    let warning = |line| Diagnostic::warning(Path::new("x"), at(line), "w");
    let error = |line| Diagnostic::error(Path::new("x"), at(line), "e");
    let mut found: Diagnostics = (1..=3_000).map(warning).collect();
    assert!(!found.has_errors() && found.len() == 1_001);
    found.push(error(4_000));
    assert!(found.iter().any(|one| one.message == "e"));
    assert_eq!(found.iter().last().unwrap().severity, diagnostics::Severity::Warning, "only warnings were dropped");
    found.extend((1..=1_001).map(error));
    assert_eq!(found.iter().filter(|one| one.message == "e").count(), 1_000);
    assert_eq!(found.iter().last().unwrap().severity, diagnostics::Severity::Error);
    assert_eq!(found.clone().into_iter().collect::<Diagnostics>().len(), found.len());
}

#[test]
fn many_mistakes_in_one_long_line_cost_little() {
    let text = format!("{{\"version\": 1, \"listeners\": [], \"tenants\": [{}]}}", "{}, ".repeat(20_000));
    let found = main_file(&text).found;
    assert_eq!(found.len(), 1_001);
    assert!(serde_json::to_string(&found).unwrap().len() < 1_000_000);
    let late = found.iter().nth(900).unwrap();
    let caret = (late.place.column - late.source_column) as usize;
    assert_eq!(late.source_line.as_ref().unwrap().get(caret..caret + 6), Some("{}, {}"), "{late}");
    assert!(late.to_string().ends_with(&format!("{}^", " ".repeat(40))), "{late}");
}

#[test]
fn two_listeners_of_one_address_are_a_clash_in_every_spelling() {
    for (first, second, clash) in [
        ("127.0.0.1:80", "0.0.0.0:80", true),
        ("0.0.0.0:80", "127.0.0.1:80", true),
        ("[::1]:80", "[::]:80", true),
        ("0.0.0.0:80", "[::]:80", true),
        ("127.0.0.1:80", "[::]:80", true),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "127.0.0.1:81", false),
        ("127.0.0.1:80", "127.0.0.2:80", false),
        ("127.0.0.1:80", "[::1]:80", false),
        ("0.0.0.0:80", "[::1]:80", false),
        ("0.0.0.0:0", "0.0.0.0:0", false),
    ] {
        for other in [format!("listeners: [{{ address: \"{first}\" }}, {{ address: \"{second}\" }}]"), {
            format!("listeners: [{{ address: \"{first}\" }}]\nadmin: {{ address: \"{second}\", tokenFile: t }}")
        }] {
            let found = findings(&format!("version: 1\n{other}\n"));
            assert_eq!(found.len(), usize::from(clash), "{first} {second} {found:?}");
            assert!(!clash || found[0].contains("; give each its own"), "{found:?}");
        }
    }
}

#[test]
fn a_listener_speaks_tls_with_certificates() {
    let text = |tls: &str| format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", tls: {tls} }}]\n");
    let good = main_file(&text("{ certificates: [{ certificate: a.crt, key: /b.key }], minVersion: Tls13 }"));
    assert!(good.found.is_empty(), "{}", good.found);
    let tls = good.value.settings.listeners[0].tls.as_ref().unwrap();
    let pair = tls.certificates.first().unwrap();
    assert_eq!((pair.certificate.value.as_path(), pair.key.value.as_path()), (Path::new("a.crt"), Path::new("/b.key")));
    assert_eq!(tls.min_version, model::TlsVersion::Tls13);
    for (tls, expected) in [
        ("true", "2:44 expected the TLS of a listener (keys and values), found true"),
        ("{}", "2:44 the TLS of a listener needs the key `certificates`"),
        (
            "{ certificates: [] }",
            "2:60 there is no certificate; write one such as { certificate: tls.crt, key: tls.key }",
        ),
        ("{ certificates: [{ certificate: a.crt }] }", "2:61 a certificate needs the key `key`"),
        ("{ certificates: [{ certificate: 1, key: b }] }", "2:76 expected a path, found the number 1"),
        ("{ certificates: [{ certificate: a, key: '' }] }", "2:84 the path is empty; write one, relative to this file"),
        (
            "{ certificates: [{ certificate: a, key: b, cert: c }] }",
            "2:87 a certificate has no key `cert`; its keys are `certificate`, `key`",
        ),
        (
            "{ certificates: [{ certificate: a, key: b }], minVersion: Tls11 }",
            "2:102 `Tls11` is not known here; write Tls12 or Tls13",
        ),
    ] {
        check(&text(tls), &[expected]);
    }
}

#[test]
fn an_admin_listener_on_loopback_needs_no_token() {
    for (address, count) in [("127.0.0.1:1", 0), ("[::1]:1", 0), ("[::ffff:127.0.0.1]:1", 0), ("[::]:1", 1)] {
        let text =
            format!("version: 1\nlisteners: [{{ address: \"127.0.0.1:0\" }}]\nadmin: {{ address: \"{address}\" }}\n");
        assert_eq!(findings(&text).len(), count, "{address}");
    }
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
fn guesses_cost_little_however_much_is_wrong() {
    let text = format!("version: 1\nlisteners: []\npolicies: {{ p: {{ {} }} }}\n", "allowOrigin: 1, ".repeat(2_000));
    let found = main_file(&text).found;
    assert_eq!(found.iter().filter(|one| one.message.contains("did you mean")).count(), 99);

    let names: Vec<String> = (0..300).map(|n| format!("policy-{n:03}")).collect();
    let among = |count: usize| similar("policy-0OO", names[..count].iter().map(String::as_str));
    assert_eq!(among(200), Some("policy-000"));
    assert_eq!(among(300), None);
    assert_eq!(similar(&"x".repeat(1 << 20), ["x"].into_iter()), None);
}

#[test]
fn names_things_as_one_speaks_of_them() {
    check(
        "version: 1\nlisteners: [{ address: \"127.0.0.1:0\" }]\npolicies: { a: { allowOrigins: [1] }, a: {} }\n",
        &["3:33 expected an origin, found the number 1", "3:39 there are two policies called `a`; rename one"],
    );
}

#[test]
fn a_message_is_bounded() {
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, "é".repeat(1 << 20))]);
    assert!(found.to_string().len() < 3_000);
}

#[test]
fn a_message_has_no_control_characters() {
    let message = "there is no table `a\u{1b}[31m\r\nb\u{85}`";
    let found = Diagnostics::from_iter([Diagnostic::error(Path::new("x"), At::START, message)]);
    let expected = "error: there is no table `a\u{fffd}[31m\u{fffd}\u{fffd}b\u{fffd}`\n  --> x:1:1";
    assert_eq!(found.to_string(), expected);
}

#[test]
fn every_line_end_of_yaml_ends_a_line() {
    for end in ["\n", "\r\n", "\r"] {
        let found = main_file(&["version: 1", "listeners: []", "adress: x", ""].join(end)).found;
        let shown: Vec<_> = found.iter().map(|one| one.source_line.as_deref()).collect();
        assert_eq!(shown, [Some("listeners: []"), Some("adress: x")], "{end:?}");
    }
}

proptest::proptest! {
    /// Whatever is wrong with a file, every finding says where.
    #[test]
    fn damage_anywhere_is_located(from in 0..900_usize, len in 0..40_usize, with in "[a-z:{}\\[\\]\"'#&*!|>%@, \n\t-]{0,6}") {
        let sample = include_str!("../../../ops/config/demo.yaml");
        let text: String = sample.chars().take(from).chain(with.chars()).chain(sample.chars().skip(from + len)).collect();
        let lines: Vec<&str> = text.lines().collect();
        for one in main_file(&text).found.iter() {
            let line = lines.get(one.place.line as usize - 1).copied();
            let shown = one.source_line.as_deref();
            proptest::prop_assert!(shown == line || line.is_some_and(|line| line.len() > 160 && line.contains(shown.unwrap_or("\n"))));
            proptest::prop_assert!(one.place.column as usize <= line.map_or(0, |line| line.chars().count()) + 1, "{}", one);
        }
    }
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
