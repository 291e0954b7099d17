//! Tests of compiled configurations: the tenant of a host, the route of a path, errors, and reuse
//! of unchanged objects.

mod conditions;

use std::path::Path;

use super::*;
use crate::registry::GatewayMetrics;
use crate::route::RouteRequest;
use crate::scripts::{ReportedScripts, Scripts};
use crossgate_config::diagnostics::{Diagnostics, Severity};
use crossgate_config::warnings::WarningCode;
use crossgate_config::{DecodedFile, read_main};

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

/// Compiles `HEAD` with these lines, after another configuration.
fn compile(tenants: &str, previous: Option<&Snapshot>) -> (Option<Snapshot>, Diagnostics) {
    compile_text(&format!("{HEAD}{tenants}"), previous)
}

fn compile_text(text: &str, previous: Option<&Snapshot>) -> (Option<Snapshot>, Diagnostics) {
    let dir = tempfile::tempdir().unwrap();
    let path: Arc<Path> = dir.path().join("gateway.yaml").into();
    std::fs::write(&path, text).unwrap();
    let metrics = GatewayMetrics::new();
    let DecodedFile { value: main, mut found } = read_main(&path);
    let sources =
        SourceFiles { scripts: &Scripts::default(), reported: &ReportedScripts::default(), tls: &AHashMap::default() };
    let shared = SharedSections::compile(&main, &path, sources, previous, &metrics, &mut Vec::new(), &mut found);
    let mut builder = SnapshotBuilder::new(&shared, previous, &metrics);
    let mut found = builder.add(&path, &main.tenants, found);
    builder.warn_unused(&main, &path, &mut found);
    let parts = builder.finish();
    let settings = Arc::clone(&main.settings);
    let source = (Arc::new(main), path);
    let snapshot = (!found.has_errors()).then(|| parts.into_snapshot(shared, settings, Vec::new(), 1, source));
    (snapshot, found)
}

fn good(tenants: &str) -> Snapshot {
    let (snapshot, found) = compile(tenants, None);
    snapshot.unwrap_or_else(|| panic!("{found}"))
}

/// The findings of one severity as `line:column message`. The first line after `HEAD` is 11.
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

/// A request without conditions on anything but its method.
fn asking(method: &[u8]) -> RouteRequest<'_> {
    RouteRequest { method, fields: None, query: "" }
}

#[test]
fn routes_match_by_longest_prefix_then_by_method() {
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
        let route = tenant.route(path, &asking(method.as_bytes())).unwrap();
        let got = (&*route.path, &*route.policy_name, &*route.upstream().unwrap().name);
        assert_eq!(got, (prefix, policy, upstream), "{method} {path}");
    }
    let modes: Vec<_> = tenant.routes().iter().map(|route| (route.mode, route.unmatched_requests)).collect();
    use crossgate_config::{Mode, UnmatchedRequests};
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
fn d5_route_that_covers_the_health_path_is_refused() {
    let text = |prefix: &str| {
        let head = HEAD.replace("\"127.0.0.1:0\" }", "\"127.0.0.1:0\", healthPath: /api/health }");
        let route = format!("{{ pathPrefix: {prefix}, upstream: b }}");
        format!("{head}tenants:\n  - {{ id: x, hosts: [x], upstream: a, policy: spa, routes: [{route}] }}\n")
    };
    for (prefix, is_covered) in [
        ("/api/health", true),
        ("/api/health/", true),
        ("/api", true),
        ("/", false),
        ("/api/health/x", false),
        ("/api/healthy", false),
        ("/Api", false),
    ] {
        // Tenants that did not change since the previous snapshot are checked too.
        let (previous, _) = compile_text(&text(prefix).replace(", healthPath: /api/health", ""), None);
        for previous in [None, previous.as_ref()] {
            let (_, found) = compile_text(&text(prefix), previous);
            let errors = findings(&found, Severity::Error);
            assert_eq!(errors.len(), usize::from(is_covered), "{prefix} {errors:?}");
            let Some(one) = found.iter().find(|one| one.severity == Severity::Error) else { continue };
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let wanted = format!("the route `{prefix}` covers /api/health, which a listener answers as its healthPath");
            assert!(one.message.starts_with(&wanted), "{}", one.message);
            assert_eq!(one.also.as_ref().map(|place| place.line), Some(2));
        }
    }
}

#[test]
fn method_without_a_route_uses_a_shorter_route_or_none() {
    let snapshot = good(
        r#"tenants:
  - { id: acme, hosts: [acme.example], policy: spa, routes: [{ pathPrefix: /x, methods: [PUT], upstream: a }, { pathPrefix: /, methods: [GET], upstream: b }] }
  - { id: none-at-all, hosts: [b.example], routes: [{ pathPrefix: /x, policy: open, upstream: b }] }
"#,
    );
    let acme = tenant(&snapshot, "acme.example");
    let upstream =
        |path, method: &[u8]| acme.route(path, &asking(method)).map(|route| &*route.upstream().unwrap().name);
    assert_eq!(upstream("/x", b"PUT"), Some("a"));
    assert_eq!(upstream("/x", b"GET"), Some("b"));
    assert_eq!(upstream("/x", b"POST"), None);
    assert_eq!(&*acme.fallback().unwrap().policy_name, "spa");
    let other = tenant(&snapshot, "b.example");
    assert!(other.route("/y", &asking(b"GET")).is_none() && other.fallback().is_none());
    assert!(snapshot.tenant("c.example").is_none());
}

#[test]
fn servers_are_used_in_turn() {
    let snapshot = good("tenants: [{ id: x, hosts: [x], upstream: a, policy: spa }]\n");
    let upstream = tenant(&snapshot, "x").routes()[0].upstream().unwrap();
    let ports: Vec<_> =
        (0..4).map(|_| upstream.server(upstream.draw_turn(), 0, None).unwrap().address.port()).collect();
    assert_eq!(ports, [9001, 9002, 9001, 9002]);
}

#[test]
fn added_origins_apply_only_to_their_tenant_or_route() {
    use crossgate_policy::{
        CorsRequest, CredentialFields, FieldLines, Outcome, OwnOrigin, RequestField, RequestedUpgrade,
    };
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
        let request = CorsRequest {
            method: b"GET",
            origin: RequestField::One(origin.as_bytes()),
            requested_method: RequestField::Absent,
            requested_headers: &lines as &dyn FieldLines,
            sec_fetch_site: RequestField::Absent,
            sec_fetch_mode: RequestField::Absent,
            sec_fetch_dest: RequestField::Absent,
            own: OwnOrigin { host: "acme.example", port: None, scheme: None },
            upgrade: RequestedUpgrade::None,
            credentials: CredentialFields::Absent,
        };
        tenant.route(path, &asking(b"GET")).unwrap().policy.decide(&request).without_rule().outcome == Outcome::Allow
    };
    let origins = ["https://app.example", "https://partner.example", "https://own.example", "https://route.example"];
    for (path, expected) in
        [("/", [true, true, true, false]), ("/added", [true; 4]), ("/other", [false, false, false, true])]
    {
        assert_eq!(origins.map(|origin| allows(path, origin)), expected, "{path}");
    }
}

#[test]
fn undefined_names_are_errors() {
    check_errors(
        r#"  strange: { allowOriginSets: [partner, missing] }
tenants:
  - { id: a, hosts: [a.example], upstream: c, policy: spas }
  - { id: b, hosts: [b.example], upstream: a, policy: spa, routes: [{ pathPrefix: /, policy: opn }, { pathPrefix: /x, upstream: zzz }] }
"#,
        &[
            "11:32 there is no origin set `partner`; did you mean `partners`?",
            "11:41 there is no origin set `missing`; define it under originSets, or name an existing one",
            "13:44 there is no upstream `c`; define it under upstreams",
            "13:55 there is no policy `spas`; did you mean `spa`?",
            "14:94 there is no policy `opn`; did you mean `open`?",
            "14:129 there is no upstream `zzz`",
        ],
    );
}

#[test]
fn tenants_without_upstream_or_policy_are_errors() {
    check_errors(
        r#"tenants:
  - { id: a, hosts: [a.example] }
  - { id: b, hosts: [b.example], policy: spa }
  - { id: c, hosts: [c.example], upstream: a, allowOrigins: ["https://x.example"], routes: [{ pathPrefix: / }] }
  - { id: d, hosts: [d.example], upstream: a, policy: bare }
"#,
        &[
            "12:11 the tenant `a` has no upstream and no policy; set both here, or in routes",
            "13:11 the tenant `b` has no upstream; set one here, or in routes",
            "14:62 these origins extend the tenant's policy, but the tenant has no policy",
            "14:107 this route has no policy; set one here or at the tenant",
            "15:55 no origin is allowed: the policy `bare` has none, and none is added here; add allowOrigins to one of them",
        ],
    );
}

#[test]
fn duplicate_ids_and_hosts_are_errors() {
    let text = r#"tenants:
  - { id: a, hosts: [a.example, "*.a.example"], upstream: a, policy: spa }
  - { id: a, hosts: [b.example, A.example., b.example], upstream: a, policy: spa }
  - { id: c, hosts: ["*.A.example"], upstream: a, policy: spa }
"#;
    check_errors(
        text,
        &[
            "13:11 there are two tenants with the id `a`; give each its own",
            "13:33 the host `a.example` is used twice: it can belong to only one tenant",
            "13:45 the host `b.example` is used twice",
            "14:22 the host `*.a.example` is used twice",
        ],
    );
    let (_, found) = compile(text, None);
    let also: Vec<_> = found.iter().filter_map(|one| one.also.as_ref()).map(|also| (also.line, also.column)).collect();
    assert_eq!(also, [(12, 11), (12, 22), (13, 22), (12, 33)]);
}

#[test]
fn policy_engine_errors_are_located_at_the_list_element() {
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
        for switches in 0..64_u8 {
            let on = |bit: u8| switches & (1 << bit) != 0;
            let text = format!(
                "{HEAD}  x: {{ allowOrigins: [bad], allowCredentials: {credentials}, dangerouslyAllowNull: {}, \
                 dangerouslyAllowInsecureOrigins: {}, dangerouslyAllowPublicSuffixes: {}, dangerouslyAllowAnyOrigin: {}, \
                 dangerouslyAllowLocalFileOrigins: {}, dangerouslyAllowAnyExtension: {} }}\n",
                on(0),
                on(1),
                on(2),
                on(3),
                on(4),
                on(5)
            );
            let (_, found) = compile_text(&text, None);
            assert_eq!(findings(&found, Severity::Error).len(), 1, "{found}");
        }
    }
}

#[test]
fn report_mode_and_unused_definitions_warn() {
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

/// The tenants of `THREE` that are the same objects after this edit of the text.
fn unchanged(edit: (&str, &str)) -> Vec<&'static str> {
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
fn unchanged_tenants_are_the_same_objects() {
    assert_eq!(unchanged(("version: 1", "# moved\nversion: 1")), ["one", "two", "three"]);
    assert_eq!(unchanged(("https://one.example", "https://uno.example")), ["two", "three"]);
    assert_eq!(unchanged(("hosts: [two.example]", "hosts: [two.example, zwei.example]")), ["one", "three"]);
    assert_eq!(unchanged(("127.0.0.1:9003", "127.0.0.1:9004")), ["one"]);
    assert_eq!(unchanged(("https://partner.example", "https://other.example")), ["three"]);
    assert_eq!(unchanged(("https://app.example", "https://web.example")), ["three"]);
    assert_eq!(unchanged(("mode: Report", "mode: Enforce")), ["one", "two"]);
    assert_eq!(unchanged(("unmatchedRequests: Forward", "unmatchedRequests: Reject")), ["three"]);
    let reject = "allowOrigins: [\"*\"], preflightFailures: Reject,";
    assert_eq!(unchanged(("allowOrigins: [\"*\"],", reject)), ["one", "two"]);
    assert_eq!(unchanged(("bare: {}", "bare: { maxAge: 1 }")), ["one", "two", "three"]);
}

#[test]
fn route_overrides_preflight_failures_of_its_policy() {
    use crossgate_config::PreflightFailures::{Explain, Reject};
    let strict = "bare: { allowOrigins: [\"https://app.example\"], preflightFailures: Reject }";
    let text = HEAD.replace("bare: {}", strict)
        + r#"tenants:
  - id: acme
    hosts: [api.acme.example]
    upstream: a
    policy: spa
    routes:
      - { pathPrefix: /a, preflightFailures: Reject }
      - { pathPrefix: /bb, policy: bare }
      - { pathPrefix: /ccc, policy: bare, preflightFailures: Explain }
"#;
    let snapshot = compile_text(&text, None).0.unwrap();
    let routes = tenant(&snapshot, "api.acme.example").routes();
    let failures: Vec<_> = routes.iter().map(|route| (&*route.path, route.preflight_failures)).collect();
    assert_eq!(failures, [("/ccc", Explain), ("/bb", Reject), ("/a", Reject), ("/", Explain)]);
}

#[test]
fn route_overrides_cross_site_navigations_of_its_policy() {
    use crossgate_policy::CrossSiteNavigations::{Allow, Deny};
    let policies = "bare: { allowOrigins: [\"https://app.example\"], crossSite: Protect }\n  \
         sso: { allowOrigins: [\"https://app.example\"], crossSite: Protect, crossSiteNavigations: Allow }";
    let text = |routes: &str| {
        let tenant = "tenants: [{ id: acme, hosts: [api.acme.example], upstream: a, policy: bare, routes:";
        format!("{}{tenant} [{routes}] }}]\n", HEAD.replace("bare: {}", policies))
    };
    let routes = "{ pathPrefix: /a, crossSiteNavigations: Allow }, { pathPrefix: /bb, policy: sso }, \
         { pathPrefix: /ccc, policy: sso, crossSiteNavigations: Deny }";
    let snapshot = compile_text(&text(routes), None).0.unwrap();
    let routes = tenant(&snapshot, "api.acme.example").routes();
    let navigations: Vec<_> = routes.iter().map(|route| (&*route.path, route.cross_site_navigations)).collect();
    assert_eq!(navigations, [("/ccc", Deny), ("/bb", Allow), ("/a", Allow), ("/", Deny)]);

    let forwards = "{ pathPrefix: /a, unmatchedRequests: Forward }";
    let (refused, found) = compile_text(&text(forwards), None);
    assert!(refused.is_none() && found.to_string().contains("write `crossSiteNavigations: Allow`"), "{found}");
    let says = "{ pathPrefix: /a, unmatchedRequests: Forward, crossSiteNavigations: Deny }";
    assert!(compile_text(&text(says), None).0.is_some());
    let open = "{ pathPrefix: /a, policy: sso, unmatchedRequests: Forward }";
    assert!(compile_text(&text(open), None).0.is_some());
}

#[test]
fn worker_with_an_old_pin_uses_the_newest_snapshot() {
    let first = Arc::new(good(""));
    let second = Arc::new(Snapshot { generation: 2, ..good("") });
    let current = CurrentSnapshot::new(&first, &GatewayMetrics::new(), 2);
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

/// Checks which prefixes get the warning for stricter routes, for a tenant with these fields.
#[track_caller]
fn stricter(tenant: &str, expected: &[&str]) {
    let text = format!(
        r#"version: 1
listeners: [{{ address: "127.0.0.1:8080" }}]
upstreams: {{ a: {{ servers: ["127.0.0.1:9001"] }} }}
policies:
  wide: {{ allowOrigins: ["https://a.example", "https://b.example", "https://*.c.example"], allowCredentials: true }}
  same: {{ allowOrigins: ["https://*.c.example", "https://b.example", "https://a.example"], allowCredentials: true }}
  more: {{ allowOrigins: ["https://*.a.example", "https://a.example", "https://b.example", "https://*.c.example"], allowCredentials: true }}
  narrow: {{ allowOrigins: ["https://a.example"], allowCredentials: true }}
  bare: {{ allowOrigins: ["https://a.example", "https://b.example", "https://*.c.example"] }}
  lax: {{ allowOrigins: ["https://a.example"], allowCredentials: true, unmatchedRequests: Forward }}
  seen: {{ allowOrigins: ["https://a.example"], allowCredentials: true, mode: Report }}
  open: {{ allowOrigins: ["*"] }}
tenants: [{{ id: t, hosts: [t.example], upstream: a, {tenant} }}]
"#
    );
    let (_, found) = compile_text(&text, None);
    assert!(!found.has_errors(), "{found}");
    let stricter = found.iter().filter(|one| one.code == Some(WarningCode::StricterRoute));
    let prefixes: Vec<&str> = stricter.filter_map(|one| one.message.split('`').nth(1)).collect();
    assert_eq!(prefixes, expected, "{tenant}\n{found}");
}

/// The case warnings of a tenant's routes, with the policies `a` and `b`.
fn case_warnings(routes: &str) -> Vec<String> {
    let text = format!(
        r#"version: 1
listeners: [{{ address: "127.0.0.1:8080" }}]
upstreams: {{ a: {{ servers: ["127.0.0.1:9001"] }} }}
policies: {{ a: {{ allowOrigins: ["https://a.example"] }}, b: {{ allowOrigins: ["https://b.example"] }} }}
tenants: [{{ id: t, hosts: [t.example], upstream: a, policy: a, routes: [{routes}] }}]
"#
    );
    let (_, found) = compile_text(&text, None);
    assert!(!found.has_errors(), "{found}");
    let twins = found.iter().filter(|found| found.code == Some(WarningCode::CaseTwins));
    twins.map(|found| found.message.clone()).collect()
}

#[test]
fn a4_routes_that_differ_only_in_case_warn() {
    let twins = case_warnings("{ pathPrefix: /API }, { pathPrefix: /api, policy: b }");
    let names_twin = |warning: &String| warning.contains("`/API`") && warning.contains("differ only in case");
    assert!(matches!(&*twins, [warning] if names_twin(warning)), "{twins:?}");
    let added = r#"allowOrigins: ["https://c.example"]"#;
    for fine in [
        "{ pathPrefix: /API }, { pathPrefix: /api }",
        "{ pathPrefix: /API, methods: [GET] }, { pathPrefix: /api, methods: [POST], policy: b }",
        "{ pathPrefix: /API }, { pathPrefix: /apis, policy: b }",
        &format!("{{ pathPrefix: /API, {added} }}, {{ pathPrefix: /api, {added} }}"),
    ] {
        assert_eq!(case_warnings(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a4_routes_stricter_than_the_route_above_warn() {
    let route = |default: &str, policy: &str| {
        format!("policy: {default}, routes: [{{ pathPrefix: /admin, policy: {policy} }}]")
    };
    for (default, policy) in [
        ("wide", "narrow"),
        ("wide", "bare"),
        ("more", "wide"),
        ("lax", "narrow"),
        ("seen", "narrow"),
        ("open", "wide"),
    ] {
        stricter(&route(default, policy), &["/admin"]);
    }
    for (default, policy) in [
        ("wide", "wide"),
        ("wide", "same"),
        ("wide", "more"),
        ("narrow", "wide"),
        ("bare", "wide"),
        ("narrow", "lax"),
        ("narrow", "seen"),
        ("wide", "open"),
    ] {
        stricter(&route(default, policy), &[]);
    }
    // The tenant's own origins do not extend a route that names its policy.
    let own = "policy: wide, allowOrigins: [\"https://own.example\"]";
    stricter(&format!("{own}, routes: [{{ pathPrefix: /x, policy: wide }}]"), &["/x"]);
    stricter(&format!("{own}, routes: [{{ pathPrefix: /x, allowOrigins: [\"https://more.example\"] }}]"), &[]);
    // Each route is compared with the next one above it, and never with itself for other methods.
    let nested = "{ pathPrefix: /a, policy: narrow }, { pathPrefix: /a/b, policy: narrow }";
    stricter(&format!("policy: wide, routes: [{nested}]"), &["/a"]);
    stricter("policy: wide, routes: [{ pathPrefix: /, methods: [PUT], policy: narrow }]", &[]);
    stricter("policy: lax, routes: [{ pathPrefix: /x, unmatchedRequests: Reject }]", &["/x"]);
}

#[test]
fn mistakes_in_groups_are_reported_at_the_group() {
    let text = r#"version: 1
listeners: [{ address: "127.0.0.1:0" }]
upstreams: { a: { servers: ["127.0.0.1:9001"] } }
originSets: { partners: ["https://partner.example", "https://*.partner.example"] }
policies:
  api:
    allowOrigins: ["https://app.example"]
    groups:
      - { name: one, allowOriginSets: [partners], tenantsMayAdd: true }
      - name: two
        allowOrigins: ["https://app.example", "https://a.example/"]
        allowOriginSets: [missing, partners]
        allowMethods: [TRACE]
        maxAge: 48h
      - { name: one, allowCredentials: true }
      - { allowOrigins: ["https://b.example"] }
  open: { allowOrigins: ["*"], groups: [{ name: front, allowOrigins: ["https://front.example"], allowCredentials: true }] }
tenants:
  - id: acme
    hosts: [acme.example]
    upstream: a
    policy: api
    allowOrigins: [{ group: three, origins: ["https://c.example"] }]
"#;
    let errors = findings(&compile_text(text, None).1, Severity::Error);
    let expected = [
        "12:27 there is no origin set `missing`",
        "11:24 `https://app.example` is in the policy outside of groups too",
        "11:47 `https://a.example/` has a path",
        "12:36 `partners` is a set of the group `one` too",
        "13:24 `TRACE` is a method that browsers never send",
        "14:17 172800 seconds is too long",
        "15:17 `one` is the name of a group already",
        "16:9 missing key `name`",
        "17:26 `*` next to origins with credentials",
    ];
    for expected in expected {
        assert!(errors.iter().any(|found| found.starts_with(expected)), "{expected} is not in {errors:#?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
}

#[test]
fn tenant_adds_only_to_groups_that_let_it() {
    let policy = "policies:\n  api: { groups: [{ name: one, tenantsMayAdd: true }, { name: two, allowOrigins: [\"https://two.example\"] }] }\n";
    let head = HEAD.split_once("policies:").unwrap().0;
    let tenants = |origins: &str| {
        format!(
            "{head}{policy}tenants: [{{ id: a, hosts: [a.example], upstream: a, policy: api, allowOrigins: [{origins}] }}]\n"
        )
    };
    let errors = |origins: &str| findings(&compile_text(&tenants(origins), None).1, Severity::Error);
    let columns = tenants("").lines().last().unwrap().find("allowOrigins: [").unwrap() + "allowOrigins: [".len();
    let at = |within: usize| format!("9:{} ", columns + within + 1);
    assert_eq!(errors("{ group: one, origins: [\"https://own.example\"] }, https://plain.example"), [""; 0]);
    for (origins, within, message) in [
        (
            "{ group: two, origins: [\"https://x.example\", \"https://y.example\"] }",
            9,
            "`two` is a group to which tenants may not add",
        ),
        (
            "{ group: six, origins: [\"https://x.example\"] }",
            9,
            "`six` is no group of the policy, expected one of `one`, `two`",
        ),
        ("{ group: one, origins: [\"https://x.example/\"] }", 24, "`https://x.example/` has a path"),
        ("{ group: one }", 0, "missing key `origins`"),
        ("{ group: one, origins: [], x: 1 }", 27, "an addition to a group has no key `x`"),
    ] {
        let errors = errors(origins);
        let expected = at(within) + message;
        assert!(matches!(errors.as_slice(), [only] if only.starts_with(&expected)), "{expected}: {errors:#?}");
    }
}
