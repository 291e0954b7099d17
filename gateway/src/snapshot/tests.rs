//! What configurations compile to: whose a host is, which route applies, what is refused and what is reused.

use std::path::Path;

use super::*;
use crate::config::diagnostics::{Diagnostics, Severity};
use crate::config::{Decoded, read_main};
use crate::metrics::Metrics;
use crate::scripts::Scripts;

const HEAD: &str = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams:
  a: { servers: ["127.0.0.1:9001", "127.0.0.1:9002"] }
  b: { servers: ["127.0.0.1:9003"] }
originSets: { partners: ["https://partner.example"] }
policies:
  spa: { allowOrigins: ["https://app.example"], allowOriginSets: [partners], allowCredentials: true, unmatchedRequests: Forward }
  open: { allowOrigins: ["*"], mode: Report }
  bare: {}
"#;

/// A configuration of `HEAD` and these lines, compiled after another one.
fn compile(tenants: &str, previous: Option<&Snapshot>) -> (Option<Snapshot>, Diagnostics) {
    compile_text(&format!("{HEAD}{tenants}"), previous)
}

fn compile_text(text: &str, previous: Option<&Snapshot>) -> (Option<Snapshot>, Diagnostics) {
    let dir = tempfile::tempdir().unwrap();
    let path: Arc<Path> = dir.path().join("gateway.yaml").into();
    std::fs::write(&path, text).unwrap();
    let metrics = Metrics::new();
    let Decoded { value: main, mut found } = read_main(&path);
    let sources = Sources { scripts: &Scripts::default(), tls: &AHashMap::default() };
    let shared = Shared::compile(&main, &path, sources, previous, &metrics, &mut Vec::new(), &mut found);
    let mut builder = Builder::new(&shared, previous, &metrics);
    let mut found = builder.add(&path, &main.tenants, found);
    builder.warn_unused(&main, &path, &mut found);
    let parts = builder.finish();
    let snapshot =
        (!found.has_errors()).then(|| parts.into_snapshot(shared, Arc::clone(&main.settings), Vec::new(), 1));
    (snapshot, found)
}

fn good(tenants: &str) -> Snapshot {
    let (snapshot, found) = compile(tenants, None);
    snapshot.unwrap_or_else(|| panic!("{found}"))
}

/// Findings of one severity as `line:column message`. The first line after `HEAD` is 11.
fn findings(found: &Diagnostics, severity: Severity) -> Vec<String> {
    let matching = found.iter().filter(|one| one.severity == severity);
    matching.map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.message)).collect()
}

#[track_caller]
fn check_errors(tenants: &str, expected: &[&str]) {
    let (_, found) = compile(tenants, None);
    let found = findings(&found, Severity::Error);
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found:?} is not {expected:?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

fn tenant<'s>(snapshot: &'s Snapshot, host: &str) -> &'s Arc<Tenant> {
    match snapshot.tenant(host) {
        Some(HostMatch::Tenant(tenant)) => tenant,
        other => panic!("{host}: {other:?}"),
    }
}

#[test]
fn routes_by_the_longest_prefix_then_by_method() {
    let snapshot = good(
        r#"tenants:
  - id: acme
    hosts: [api.acme.example]
    upstream: a
    policy: spa
    routes:
      - { pathPrefix: /public, policy: open }
      - { pathPrefix: /public/forms, methods: [POST, PUT], upstream: b }
      - { pathPrefix: /public/forms, policy: open, unmatchedRequests: Reject }
"#,
    );
    let tenant = tenant(&snapshot, "api.acme.example");
    for (path, method, prefix, policy, upstream) in [
        ("/", "GET", "/", "spa", "a"),
        ("/publicity", "GET", "/", "spa", "a"),
        ("/Public", "GET", "/", "spa", "a"),
        ("/public", "GET", "/public", "open", "a"),
        ("/public/", "GET", "/public", "open", "a"),
        ("/public/formsx", "POST", "/public", "open", "a"),
        ("/public/forms", "POST", "/public/forms", "spa", "b"),
        ("/public/forms/1", "PUT", "/public/forms", "spa", "b"),
        ("/public/forms/1", "put", "/public/forms", "open", "a"),
        ("/public/forms/1", "GET", "/public/forms", "open", "a"),
    ] {
        let route = tenant.route(path, method.as_bytes()).unwrap();
        let got = (&*route.prefix, &*route.policy_name, &*route.upstream.name);
        assert_eq!(got, (prefix, policy, upstream), "{method} {path}");
    }
    let modes: Vec<_> = tenant.routes().iter().map(|route| (route.mode, route.unmatched_requests)).collect();
    use crate::config::{Mode, UnmatchedRequests};
    assert_eq!(
        modes,
        [
            (Mode::Enforce, UnmatchedRequests::Forward),
            (Mode::Report, UnmatchedRequests::Reject),
            (Mode::Report, UnmatchedRequests::Reject),
            (Mode::Enforce, UnmatchedRequests::Forward),
        ]
    );
}

#[test]
fn a_method_of_no_route_falls_to_a_shorter_one_or_none() {
    let snapshot = good(
        r#"tenants:
  - { id: acme, hosts: [acme.example], policy: spa, routes: [{ pathPrefix: /x, methods: [PUT], upstream: a }, { pathPrefix: /, methods: [GET], upstream: b }] }
  - { id: none-at-all, hosts: [b.example], routes: [{ pathPrefix: /x, policy: open, upstream: b }] }
"#,
    );
    let acme = tenant(&snapshot, "acme.example");
    let upstream = |path, method: &[u8]| acme.route(path, method).map(|route| &*route.upstream.name);
    assert_eq!(upstream("/x", b"PUT"), Some("a"));
    assert_eq!(upstream("/x", b"GET"), Some("b"));
    assert_eq!(upstream("/x", b"POST"), None);
    assert_eq!(&*acme.fallback().unwrap().policy_name, "spa");
    let other = tenant(&snapshot, "b.example");
    assert!(other.route("/y", b"GET").is_none() && other.fallback().is_none());
    assert!(snapshot.tenant("c.example").is_none());
}

#[test]
fn servers_take_turns() {
    let snapshot = good("tenants: [{ id: x, hosts: [x], upstream: a, policy: spa }]\n");
    let upstream = &tenant(&snapshot, "x").routes()[0].upstream;
    let ports: Vec<_> =
        (0..4).map(|_| upstream.server(upstream.draw_turn(), 0, None).unwrap().address.port()).collect();
    assert_eq!(ports, [9001, 9002, 9001, 9002]);
}

#[test]
fn origins_are_added_where_they_belong() {
    use crossgate_policy::{Credentials, Field, FieldLines, Outcome, OwnOrigin, Request, Upgrade};
    let snapshot = good(
        r#"tenants:
  - id: acme
    hosts: [acme.example]
    upstream: a
    policy: spa
    allowOrigins: ["https://own.example"]
    routes:
      - { pathPrefix: /added, allowOrigins: ["https://route.example"] }
      - { pathPrefix: /other, policy: bare, allowOrigins: ["https://route.example"] }
"#,
    );
    let tenant = tenant(&snapshot, "acme.example");
    let lines: &[&[u8]] = &[];
    let allows = |path: &str, origin: &str| {
        let request = Request {
            method: b"GET",
            origin: Field::One(origin.as_bytes()),
            requested_method: Field::Absent,
            requested_headers: &lines as &dyn FieldLines,
            sec_fetch_site: Field::Absent,
            own: OwnOrigin { host: "acme.example", port: None, scheme: None },
            upgrade: Upgrade::None,
            credentials: Credentials::Absent,
        };
        tenant.route(path, b"GET").unwrap().policy.decide(&request).without_asking().outcome == Outcome::Allow
    };
    let origins = ["https://app.example", "https://partner.example", "https://own.example", "https://route.example"];
    for (path, expected) in
        [("/", [true, true, true, false]), ("/added", [true; 4]), ("/other", [false, false, false, true])]
    {
        assert_eq!(origins.map(|origin| allows(path, origin)), expected, "{path}");
    }
}

#[test]
fn names_that_stand_for_nothing_are_errors() {
    check_errors(
        r#"  strange: { allowOriginSets: [partner, nobody] }
tenants:
  - { id: a, hosts: [a.example], upstream: c, policy: spas }
  - { id: b, hosts: [b.example], upstream: a, policy: spa, routes: [{ pathPrefix: /, policy: opn }, { pathPrefix: /x, upstream: zzz }] }
"#,
        &[
            "11:32 there is no origin set `partner`; did you mean `partners`?",
            "11:41 there is no origin set `nobody`; define it under originSets, or name one that is there",
            "13:44 there is no upstream `c`; define it under upstreams",
            "13:55 there is no policy `spas`; did you mean `spa`?",
            "14:94 there is no policy `opn`; did you mean `open`?",
            "14:129 there is no upstream `zzz`",
        ],
    );
}

#[test]
fn tenants_that_lead_nowhere_are_errors() {
    check_errors(
        r#"tenants:
  - { id: a, hosts: [a.example] }
  - { id: b, hosts: [b.example], policy: spa }
  - { id: c, hosts: [c.example], upstream: a, allowOrigins: ["https://x.example"], routes: [{ pathPrefix: / }] }
  - { id: d, hosts: [d.example], upstream: a, policy: bare }
"#,
        &[
            "12:11 the tenant `a` has nowhere to send requests; give it upstream and policy, or routes",
            "13:11 the tenant `b` has nowhere to send requests; give it upstream, or routes",
            "14:62 these origins are added to the tenant's policy, which it does not have",
            "14:107 this route has no policy; name one here or at the tenant",
            "15:55 no origin is allowed",
        ],
    );
}

#[test]
fn ids_and_hosts_belong_to_one_tenant() {
    let text = r#"tenants:
  - { id: a, hosts: [a.example, "*.a.example"], upstream: a, policy: spa }
  - { id: a, hosts: [b.example, A.example., b.example], upstream: a, policy: spa }
  - { id: c, hosts: ["*.A.example"], upstream: a, policy: spa }
"#;
    check_errors(
        text,
        &[
            "13:11 there are two tenants with the id `a`; give each its own",
            "13:33 the host `a.example` is there twice; it can belong to one tenant only",
            "13:45 the host `b.example` is there twice",
            "14:22 the host `*.a.example` is there twice",
        ],
    );
    let (_, found) = compile(text, None);
    let also: Vec<_> = found.iter().filter_map(|one| one.also.as_ref()).map(|also| (also.line, also.column)).collect();
    assert_eq!(also, [(12, 11), (12, 22), (13, 22), (12, 33)]);
}

#[test]
fn mistakes_of_the_policy_engine_point_at_the_list_element() {
    check_errors(
        r#"  strange:
    allowOrigins: ["https://good.example", "https://EVIL.example"]
    allowOriginRegexes: ["("]
    allowMethods: [PUT, TRACE]
    allowHeaders: [x-a, cookie]
    exposeHeaders: ["*", set-cookie]
    maxAge: 2h
  credentials: { allowOrigins: ["*"], allowCredentials: true }
  old: { allowOrigins: ["https://a.example"], maxAge: 25h }
tenants:
  - { id: a, hosts: [a.example], upstream: a, policy: strange, allowOrigins: ["https://ok.example", "https://ok.example/"] }
"#,
        &["12:44 ", "13:26 ", "14:25 ", "15:25 ", "16:26 ", "18:33 ", "19:55 ", "21:101 "],
    );
}

#[test]
fn a_policy_without_lists_compiles_with_any_switches() {
    for credentials in [false, true] {
        for switches in 0..16_u8 {
            let on = |bit: u8| switches & (1 << bit) != 0;
            let text = format!(
                "{HEAD}  x: {{ allowOrigins: [bad], allowCredentials: {credentials}, dangerouslyAllowNull: {}, \
                 dangerouslyAllowInsecureOrigins: {}, dangerouslyAllowPublicSuffixes: {}, dangerouslyAllowAnyOrigin: {} }}\n",
                on(0),
                on(1),
                on(2),
                on(3)
            );
            let (_, found) = compile_text(&text, None);
            assert_eq!(findings(&found, Severity::Error).len(), 1, "{found}");
        }
    }
}

#[test]
fn warns_about_what_protects_nothing_or_is_unused() {
    let (_, found) = compile("tenants: [{ id: a, hosts: [a.example], upstream: a, policy: spa }]\n", None);
    let warnings = findings(&found, Severity::Warning);
    assert!(
        warnings.iter().any(|one| one.starts_with("9:38 a policy in Report mode protects nothing")),
        "{warnings:?}"
    );
    for unused in ["upstream `b`", "policy `open`", "policy `bare`"] {
        assert!(
            warnings.iter().any(|one| one.contains(&format!("nothing uses the {unused}"))),
            "{unused}: {warnings:?}"
        );
    }
    assert!(!warnings.iter().any(|one| one.contains("origin set")), "{warnings:?}");
}

const THREE: &str = r#"tenants:
  - { id: one, hosts: [one.example], upstream: a, policy: spa, allowOrigins: ["https://one.example"] }
  - { id: two, hosts: [two.example], upstream: b, policy: spa }
  - { id: three, hosts: [three.example], upstream: b, policy: open }
"#;

/// Which of the tenants of `THREE` are the same objects after this edit of the text.
fn kept(edit: (&str, &str)) -> Vec<&'static str> {
    let text = format!("{HEAD}{THREE}");
    let old = compile_text(&text, None).0.unwrap();
    assert!(text.contains(edit.0));
    let (new, found) = compile_text(&text.replace(edit.0, edit.1), Some(&old));
    let new = new.unwrap_or_else(|| panic!("{found}"));
    let same = |id: &&str| match (old.tenant_by_id(id), new.tenant_by_id(id)) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        _ => false,
    };
    ["one", "two", "three"].into_iter().filter(same).collect()
}

#[test]
fn what_says_the_same_is_the_same_object() {
    assert_eq!(kept(("version: 1", "# moved\nversion: 1")), ["one", "two", "three"]);
    assert_eq!(kept(("https://one.example", "https://uno.example")), ["two", "three"]);
    assert_eq!(kept(("hosts: [two.example]", "hosts: [two.example, zwei.example]")), ["one", "three"]);
    assert_eq!(kept(("127.0.0.1:9003", "127.0.0.1:9004")), ["one"]);
    assert_eq!(kept(("https://partner.example", "https://other.example")), ["three"]);
    assert_eq!(kept(("https://app.example", "https://web.example")), ["three"]);
    assert_eq!(kept(("mode: Report", "mode: Enforce")), ["one", "two"]);
    assert_eq!(kept(("unmatchedRequests: Forward", "unmatchedRequests: Reject")), ["three"]);
    assert_eq!(kept(("bare: {}", "bare: { maxAge: 1 }")), ["one", "two", "three"]);
}

#[test]
fn a_worker_whose_turn_has_not_come_is_given_the_new_one() {
    let first = Arc::new(good(""));
    let second = Arc::new(Snapshot { generation: 2, ..good("") });
    let current = CurrentSnapshot::new(&first, &Metrics::new(), 2);
    let workers = |expected: u64| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!((current.load().generation, current.pin().generation), (expected, expected)));
            }
        });
        assert_eq!(current.latest().generation, expected);
    };
    workers(1);
    current.announce(&second);
    workers(2);
    current.store(&second);
    workers(2);
}
