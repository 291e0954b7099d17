//! Checks behaviour that the corpus cannot express: the order of entries, their layers and numbers,
//! the limits, and the explanations.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use crossgate_policy::{
    CorsRequest, CredentialFields, DangerousSwitches, Disclosure, EntryId, OriginDifference, OwnOrigin, Policy,
    PolicyExplanation, PolicySpec, Reason, RequestField, RequestedUpgrade, SpecLocation, SpecProblem, Template,
    Verdict,
};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spec(origins: &[&str]) -> PolicySpec {
    PolicySpec { allow_origins: owned(origins), ..PolicySpec::default() }
}

fn extended(spec: &PolicySpec, own: &[&str]) -> (Policy, Vec<SpecProblem>) {
    let template = Template::compile(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    let policy =
        Policy::extend(Arc::new(template.value), &owned(own)).unwrap_or_else(|problems| panic!("{problems:?}"));
    (policy.value, policy.warnings)
}

fn get(origin: &str) -> CorsRequest<'_> {
    CorsRequest { origin: RequestField::One(origin.as_bytes()), ..CorsRequest::new(b"GET", OWN) }
}

fn decide(policy: &Policy, origin: &str) -> Verdict {
    policy.decide(&get(origin)).without_rule()
}

fn explain(policy: &Policy, request: &CorsRequest<'_>) -> PolicyExplanation {
    policy.explain(policy.decide(request).without_rule(), request)
}

fn entry<'p>(policy: &'p Policy, origin: &str) -> &'p str {
    decide(policy, origin).entry.map(|entry| policy.entry_text(entry)).unwrap_or_default()
}

#[test]
fn narrowest_entry_is_returned() {
    let origins = [
        "https://*.test",
        "https://*.a.test",
        "https://*.a.test:*",
        "https://pr-*.a.test",
        "https://pr-1-*.a.test",
        "https://x.a.test",
        "https://y.a.test:*",
        "https://*.p.test:8443",
    ];
    let (policy, _) = extended(&spec(&origins), &["https://*.b.a.test"]);
    let table = [
        ("https://x.a.test", "https://x.a.test"),
        ("https://y.a.test", "https://y.a.test:*"),
        ("https://pr-1-2.a.test", "https://pr-1-*.a.test"),
        ("https://pr-2.a.test", "https://pr-*.a.test"),
        ("https://z.a.test", "https://*.a.test"),
        ("https://z.a.test:8443", "https://*.a.test:*"),
        ("https://c.b.a.test", "https://*.b.a.test"),
        ("https://c.b.a.test:1", "https://*.a.test:*"),
        ("https://a.test", "https://*.test"),
        ("https://x.p.test:8443", "https://*.p.test:8443"),
        ("https://x.p.test:8444", ""),
        ("https://x.p.test", "https://*.test"),
    ];
    for (origin, expected) in table {
        assert_eq!(entry(&policy, origin), expected, "{origin}");
    }
}

#[test]
fn longest_valid_origin_is_found() {
    let label = "a".repeat(63);
    let host = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    let longest = format!("{}://{host}:65535", "s".repeat(64));
    let (policy, _) = extended(&spec(&[&longest]), &[]);
    assert_eq!(entry(&policy, &longest), longest);
    assert_eq!(decide(&policy, &format!("{longest}0")).reason, Reason::MalformedOrigin);
}

#[test]
fn entries_are_numbered_densely() {
    let mut spec =
        spec(&["https://a.test", "null", "https://*.a.test", "https://b.test", "https://c.test:*", "https://e.test"]);
    spec.allow_origin_regexes = owned(&[r"https://r-[0-9]\.test", r"https://s-[0-9]\.test"]);
    spec.dangerously = DangerousSwitches { allow_null: true, ..DangerousSwitches::default() };
    let (policy, _) = extended(&spec, &["https://d.test", "https://*.d.test"]);
    let counts = policy.entry_counts();
    assert_eq!((counts.template, counts.own), (8, 2));
    let ids = (0..8).map(EntryId::Template).chain((0..2).map(EntryId::Own));
    let texts: BTreeSet<&str> = ids.map(|id| policy.entry_text(id)).collect();
    let all = spec.allow_origins.iter().chain(&spec.allow_origin_regexes).map(String::as_str);
    assert_eq!(texts, all.chain(["https://d.test", "https://*.d.test"]).collect());
    assert_eq!([EntryId::Template(8), EntryId::Own(2)].map(|id| policy.entry_text(id)), ["", ""]);
    for (origin, text) in
        [("null", "null"), ("https://s-1.test", r"https://s-[0-9]\.test"), ("https://x.d.test", "https://*.d.test")]
    {
        assert_eq!(entry(&policy, origin), text);
    }
    let index_of = |origin: &str| {
        let entry = decide(&policy, origin).entry.unwrap();
        (entry.template_index(), entry.own_index())
    };
    assert_eq!([index_of("https://d.test"), index_of("https://x.d.test")], [(None, Some(0)), (None, Some(1))]);
    assert_eq!(index_of("https://s-1.test"), (Some(7), None));
}

#[test]
fn refused_preflight_keeps_its_entry() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let refused = |method, header: &'static [u8]| {
        let lines = [header];
        let request =
            CorsRequest { method: b"OPTIONS", requested_method: RequestField::One(method), ..get("https://a.test") };
        policy.decide(&CorsRequest { requested_headers: &lines, ..request }).without_rule()
    };
    let entry = Some(EntryId::Template(0));
    assert_eq!((refused(b"PUT", b"").reason, refused(b"PUT", b"").entry), (Reason::Method, entry));
    assert_eq!((refused(b"GET", b"x-a").reason, refused(b"GET", b"x-a").entry), (Reason::Header, entry));
}

#[test]
fn shared_preflight_lines_are_rendered_once() {
    let full = PolicySpec {
        allow_methods: owned(&["PUT", "DELETE"]),
        allow_headers: owned(&["x-a"]),
        allow_credentials: true,
        max_age_seconds: 5,
        ..spec(&["https://a.test"])
    };
    let lines = |spec: &PolicySpec, request: CorsRequest<'_>| {
        let policy = extended(spec, &[]).0;
        let verdict = policy.decide(&request).without_rule();
        policy.preflight_lines(&verdict).map(|lines| String::from_utf8_lossy(lines).into_owned())
    };
    let preflight = |method| CorsRequest {
        method: b"OPTIONS",
        requested_method: RequestField::One(method),
        ..get("https://a.test")
    };
    let age = "access-control-max-age: 5\r\n";
    let credentials = "access-control-allow-credentials: true\r\n";
    let methods = "access-control-allow-methods: DELETE,PUT\r\n";
    let headers = "access-control-allow-headers: x-a\r\n";
    let table = [
        (full.clone(), Some([credentials, methods, headers, age].concat())),
        (PolicySpec { allow_credentials: false, ..full.clone() }, Some([methods, headers, age].concat())),
        (PolicySpec { allow_methods: Vec::new(), ..full.clone() }, Some([credentials, headers, age].concat())),
        (PolicySpec { allow_headers: Vec::new(), ..full.clone() }, Some([credentials, methods, age].concat())),
        // These depend on the requested method or headers.
        (PolicySpec { allow_methods: owned(&["*"]), ..full.clone() }, None),
        (PolicySpec { allow_headers: owned(&["*"]), ..full.clone() }, None),
        (PolicySpec { disclosure: Disclosure::Minimal, ..full.clone() }, None),
    ];
    for (spec, expected) in table {
        assert_eq!(lines(&spec, preflight(b"GET")), expected, "{spec:?}");
    }
    for request in [preflight(b"PATCH"), get("https://a.test"), CorsRequest::new(b"GET", OWN)] {
        assert_eq!(lines(&full, request), None, "{:?}", request.classify());
    }
}

#[test]
fn a_tenant_may_allow_every_origin() {
    let (policy, _) = extended(&spec(&[]), &["*"]);
    assert!(!policy.depends_on_origin());
    let verdict = decide(&policy, "garbage");
    assert_eq!((verdict.reason, entry(&policy, "garbage")), (Reason::Any, "*"));
    // `*` matches even if another entry covers the origin.
    let with_others =
        ["https://a.test", "*", "https://b.test", "https://*.a.test", "https://*.b.test", "https://c.test"];
    assert_eq!(entry(&extended(&spec(&with_others), &[]).0, "https://a.test"), "*");
    let with_credentials = PolicySpec { allow_credentials: true, ..PolicySpec::default() };
    let template = Arc::new(Template::compile(&with_credentials).unwrap().value);
    for (own, places) in [
        (&["*"][..], [SpecLocation::AllowOrigins(0)]),
        (&["https://a.test", "http://b.test"], [SpecLocation::AllowOrigins(1)]),
    ] {
        let problems = Policy::extend(Arc::clone(&template), &owned(own)).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.location).collect::<Vec<_>>(), places);
    }
}

#[test]
fn tenant_origin_covered_by_the_policy_gets_a_warning() {
    let own = ["https://a.test", "https://x.b.test", "https://*.b.test", "https://*.c.b.test", "https://d.test"];
    let (_, warnings) = extended(&spec(&["https://a.test", "https://*.b.test"]), &own);
    let places: Vec<SpecLocation> = warnings.iter().map(|warning| warning.location).collect();
    assert_eq!(places, [0, 1, 2, 3].map(SpecLocation::AllowOrigins));
    let is_same = |warning: &SpecProblem| warning.message.contains("is in the policy already");
    assert_eq!(warnings.iter().map(is_same).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn regex_with_credentials_allows_no_plain_http() {
    let mut spec = PolicySpec { allow_credentials: true, ..spec(&["https://a.test"]) };
    spec.allow_origin_regexes = owned(&[r"https?://pr-[0-9]+\.a\.test", r"http://[a-z]+\.localhost"]);
    let (policy, _) = extended(&spec, &[]);
    assert_eq!(decide(&policy, "https://pr-1.a.test").reason, Reason::Regex);
    assert_eq!(decide(&policy, "http://pr-1.a.test").reason, Reason::NoMatch);
    assert_eq!(decide(&policy, "http://app.localhost").reason, Reason::Regex);
    assert_eq!(
        explain(&policy, &get("http://pr-1.a.test")).near_misses.first().unwrap().difference,
        OriginDifference::InsecureWithCredentials
    );
    assert_eq!(explain(&policy, &get("http://other.example")).near_misses, []);
    spec.dangerously.allow_insecure_origins = true;
    assert_eq!(decide(&extended(&spec, &[]).0, "http://pr-1.a.test").reason, Reason::Regex);
}

#[test]
fn list_over_its_limit_is_refused() {
    let numbered =
        |count: usize, text: &str| (0..count).map(|number| text.replace('#', &number.to_string())).collect::<Vec<_>>();
    let place_of_refusal = |spec: PolicySpec| match Template::compile(&spec) {
        Ok(_) => None,
        Err(problems) => Some(problems.into_iter().map(|problem| problem.location).collect::<Vec<_>>()),
    };
    let with = |count, text: &str| {
        place_of_refusal(PolicySpec { allow_origins: numbered(count, text), ..PolicySpec::default() })
    };
    assert_eq!(with(64, "https://pr-#-*.a.test"), None);
    assert_eq!(with(65, "https://pr-#-*.a.test"), Some(vec![SpecLocation::AllowOrigins(64)]));
    assert_eq!(with(65, "https://pr-*.a#.test"), None);
    let with = |count| {
        place_of_refusal(PolicySpec {
            allow_origin_regexes: numbered(count, r"https://a#\.test"),
            ..PolicySpec::default()
        })
    };
    assert_eq!((with(64), with(65)), (None, Some(vec![SpecLocation::AllowOriginRegexes(64)])));
    let with = |count| place_of_refusal(PolicySpec { allow_headers: numbered(count, "x-#"), ..PolicySpec::default() });
    assert_eq!((with(256), with(257)), (None, Some(vec![SpecLocation::AllowHeaders(256)])));
    let with_star_at = |at: usize| {
        let mut allow_headers = numbered(300, "x-#");
        allow_headers[at] = "*".to_owned();
        place_of_refusal(PolicySpec { allow_headers, ..PolicySpec::default() })
    };
    for at in [0, 255, 256, 257, 299] {
        assert_eq!(with_star_at(at), Some(vec![SpecLocation::AllowHeaders(256)]), "{at}");
    }
    let with_name_of =
        |len: usize| place_of_refusal(PolicySpec { allow_headers: vec!["x".repeat(len)], ..PolicySpec::default() });
    assert_eq!([256, 257].map(with_name_of), [None, Some(vec![SpecLocation::AllowHeaders(0)])]);
}

#[test]
fn near_misses_are_explained() {
    let origins = [
        "https://app.example.com",
        "https://*.example.org",
        "https://pr-*.preview.test",
        "https://pr-*-web.stage.test",
        "http://localhost:3000",
        "https://www.shop.test:*",
    ];
    let (policy, _) = extended(&spec(&origins), &["https://own.example.net:8443"]);
    let table = [
        ("https://app.example.com:8443", "https://app.example.com", OriginDifference::PortDiffers),
        ("http://app.example.com", "https://app.example.com", OriginDifference::SchemeDiffers),
        ("https://localhost", "http://localhost:3000", OriginDifference::SchemeAndPortDiffer),
        ("https://own.example.net", "https://own.example.net:8443", OriginDifference::PortDiffers),
        ("https://example.org", "https://*.example.org", OriginDifference::ApexNotCovered),
        ("http://x.example.org", "https://*.example.org", OriginDifference::SchemeDiffers),
        ("https://x.example.org:1", "https://*.example.org", OriginDifference::PortDiffers),
        ("https://pr-.preview.test", "https://pr-*.preview.test", OriginDifference::StarNotMet),
        ("https://pr-1.evil.preview.test", "https://pr-*.preview.test", OriginDifference::StarNotMet),
        ("https://pr--web.stage.test", "https://pr-*-web.stage.test", OriginDifference::StarNotMet),
        ("https://x.app.example.com", "https://app.example.com", OriginDifference::SubdomainOfExact),
        ("https://x.www.shop.test", "https://www.shop.test:*", OriginDifference::SubdomainOfExact),
        ("https://example.com", "https://app.example.com", OriginDifference::ParentOfExact),
        ("https://evilapp.example.com", "https://app.example.com", OriginDifference::Lookalike),
        ("https://app.example.com.evil.com", "https://app.example.com", OriginDifference::Lookalike),
        ("https://x.example.org.evil.com", "https://*.example.org", OriginDifference::Lookalike),
        ("https://evilexample.org", "https://*.example.org", OriginDifference::Lookalike),
    ];
    for (origin, entry, how) in table {
        let explanation = explain(&policy, &get(origin));
        let near: Vec<_> = explanation.near_misses.iter().map(|near| (near.entry.as_str(), near.difference)).collect();
        assert_eq!(near, [(entry, how)], "{origin}");
    }
    // Origins with more than one difference to every entry, and one that is covered.
    for origin in [
        "https://nothing.similar",
        "http://example.org",
        "http://x.www.shop.test",
        "https://x.preview.test",
        "https://pr-1.stage.test",
        "https://x-web.stage.test",
        "http://pr-.preview.test",
        "https://x.example.org",
    ] {
        assert_eq!(explain(&policy, &get(origin)).near_misses, [], "{origin}");
    }
    let near = explain(&policy, &get("https://example.org")).near_misses;
    assert_eq!(near[0].to_string(), "https://*.example.org: apex is not covered by the wildcard");
}

#[test]
fn denial_causes_are_explained() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let origin = |origin: &[u8]| {
        let request = CorsRequest { origin: RequestField::One(origin), ..CorsRequest::new(b"GET", OWN) };
        explain(&policy, &request).cause.unwrap_or_default()
    };
    let table: [(&[u8], &str); 8] = [
        (b"https://a.test/", "`https://a.test/` has a path"),
        (&[b'a'; 100], "aaaa` has no scheme"),
        (&[b'a'; 101], "aaaa..` has no scheme"),
        (b"https://A.test", "upper-case"),
        (b"https://a.test\xff", r"`https://a.test\xff` has non-ASCII characters"),
        (b"", "is empty"),
        (b"null", "`null`"),
        (&[b'a'; 5000], "aaaa..` is longer than an origin can be"),
    ];
    for (value, part) in table {
        assert!(origin(value).contains(part), "{}", origin(value));
    }
    assert_eq!(origin(b"https://a.test"), "");
    let preflight = |method, lines: &[&[u8]]| {
        let request = CorsRequest {
            method: b"OPTIONS",
            requested_method: method,
            requested_headers: &lines,
            ..get("https://a.test")
        };
        explain(&policy, &request).cause.unwrap()
    };
    assert_eq!(preflight(RequestField::One(b"PUT"), &[]), "the method `PUT` is not allowed");
    assert!(preflight(RequestField::Many, &[]).contains("several"));
    assert_eq!(preflight(RequestField::One(b"GET"), &[b"x a\n"]), r"`x a\n` is not a header name");
    assert_eq!(preflight(RequestField::One(b"GET"), &[b"x-a"]), "the header `x-a` is not allowed");
}

#[test]
fn b1_regex_with_credentials_allows_no_local_files() {
    let mut spec = PolicySpec { allow_credentials: true, ..spec(&["https://a.test"]) };
    spec.allow_origin_regexes = owned(&[r"file://|app://\.|https://pr-[0-9]+\.a\.test"]);
    spec.dangerously.allow_any_origin = true;
    let (policy, _) = extended(&spec, &[]);
    assert_eq!(decide(&policy, "https://pr-1.a.test").reason, Reason::Regex);
    for origin in ["file://", "app://."] {
        assert_eq!(decide(&policy, origin).reason, Reason::NoMatch, "{origin}");
        let misses = explain(&policy, &get(origin)).near_misses;
        assert_eq!(misses.first().unwrap().difference, OriginDifference::LocalFileWithCredentials, "{origin}");
    }
    spec.dangerously.allow_local_file_origins = true;
    assert_eq!(decide(&extended(&spec, &[]).0, "file://").reason, Reason::Regex);
}

#[test]
fn b2_stars_of_extensions_are_entries_of_both_layers() {
    let shared = ["https://a.test", "moz-extension://*", "https://*.b.test", "vscode-webview://*", "null"];
    let mut spec = spec(&shared);
    spec.dangerously.allow_null = true;
    let own = ["chrome-extension://*", "moz-extension://*", "file://"];
    let (policy, warnings) = extended(&spec, &own);
    let found: Vec<_> = warnings.iter().map(|warning| (warning.location, warning.message.as_str())).collect();
    let same = "`moz-extension://*` is in the policy already, expected it in one place";
    assert_eq!(found, [(SpecLocation::AllowOrigins(1), same)]);
    for (origin, text) in [
        ("moz-extension://x", "moz-extension://*"),
        ("vscode-webview://x", "vscode-webview://*"),
        ("chrome-extension://x", "chrome-extension://*"),
        ("https://x.b.test", "https://*.b.test"),
        ("file://", "file://"),
        ("null", "null"),
    ] {
        assert_eq!(entry(&policy, origin), text);
    }
    let all = (0..policy.entry_counts().template).map(|index| EntryId::Template(index as u32));
    let texts: Vec<&str> = all.map(|id| policy.entry_text(id)).collect();
    assert_eq!(texts, ["https://a.test", "https://*.b.test", "moz-extension://*", "vscode-webview://*", "null"]);
    assert_eq!(policy.entry_text(EntryId::Template(5)), "");
    let table = [
        ("moz-extension://x:1", OriginDifference::PortDiffers),
        ("moz-extension://x.y", OriginDifference::StarNotMet),
        ("safari-web-extension://x", OriginDifference::SchemeDiffers),
    ];
    for (origin, how) in table {
        assert_eq!(explain(&policy, &get(origin)).near_misses.first().unwrap().difference, how, "{origin}");
    }
    assert_eq!(explain(&policy, &get("capacitor://x")).near_misses, []);
    assert_eq!(explain(&extended(&spec, &[]).0, &get("file://")).near_misses, []);
}

#[test]
fn b3_rewritten_host_is_explained() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let cause = |origin: &'static str, site: RequestField<'static>| {
        explain(&policy, &CorsRequest { sec_fetch_site: site, ..get(origin) }).cause
    };
    let rewritten = cause("https://b.test", RequestField::One(b"same-origin")).unwrap();
    assert_eq!(
        rewritten,
        "the browser sent `Sec-Fetch-Site: same-origin`, but the request's host is `own.invalid`, so a proxy in front has \
         rewritten `Host`: have it forward the client's `Host`, or list the origin"
    );
    for site in [RequestField::Absent, RequestField::One(b"cross-site"), RequestField::One(b"none"), RequestField::Many]
    {
        assert_eq!(cause("https://b.test", site), None, "{site:?}");
    }
    assert_eq!(cause("https://a.test", RequestField::One(b"same-origin")), None);
}

#[test]
fn star_refuses_websocket_handshake_with_credentials() {
    let handshake =
        |credentials| CorsRequest { upgrade: RequestedUpgrade::WebSocket, credentials, ..get("https://a.test") };
    let cause =
        |origins: &[&str], credentials| explain(&extended(&spec(origins), &[]).0, &handshake(credentials)).cause;
    let expected =
        "`*` does not cover a WebSocket handshake with credentials, expected the origins themselves instead of it";
    assert_eq!(cause(&["*"], CredentialFields::Ambient).as_deref(), Some(expected));
    assert_eq!(cause(&["*"], CredentialFields::Absent), None);
    // Without `*` the near misses explain the denial.
    assert_eq!(cause(&["https://b.test"], CredentialFields::Ambient), None);
}
