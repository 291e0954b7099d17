//! What the corpus cannot say: which entry answers when several could, how layers share and number them, what the limits
//! are, and what `explain` tells.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use crossgate_policy::{
    Credentials, Dangerously, Disclosure, EntryId, Explanation, Field, How, OwnOrigin, Place, Policy, PolicySpec,
    Problem, Reason, Request, Template, Upgrade, Verdict,
};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn spec(origins: &[&str]) -> PolicySpec {
    PolicySpec { allow_origins: owned(origins), ..PolicySpec::default() }
}

fn extended(spec: &PolicySpec, own: &[&str]) -> (Policy, Vec<Problem>) {
    let template = Template::compile(spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    let policy =
        Policy::extend(Arc::new(template.value), &owned(own)).unwrap_or_else(|problems| panic!("{problems:?}"));
    (policy.value, policy.warnings)
}

fn get(origin: &str) -> Request<'_> {
    Request { origin: Field::One(origin.as_bytes()), ..Request::new(b"GET", OWN) }
}

fn decide(policy: &Policy, origin: &str) -> Verdict {
    policy.decide(&get(origin)).without_asking()
}

fn explain(policy: &Policy, request: &Request<'_>) -> Explanation {
    policy.explain(policy.decide(request).without_asking(), request)
}

fn entry<'p>(policy: &'p Policy, origin: &str) -> &'p str {
    decide(policy, origin).entry.map(|entry| policy.entry_text(entry)).unwrap_or_default()
}

#[test]
fn the_narrowest_entry_answers() {
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
fn the_longest_origin_there_may_be_is_found() {
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
    spec.dangerously = Dangerously { allow_null: true, ..Dangerously::default() };
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
fn a_refused_preflight_still_names_the_entry() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let refused = |method, header: &'static [u8]| {
        let lines = [header];
        let request = Request { method: b"OPTIONS", requested_method: Field::One(method), ..get("https://a.test") };
        policy.decide(&Request { requested_headers: &lines, ..request }).without_asking()
    };
    let entry = Some(EntryId::Template(0));
    assert_eq!((refused(b"PUT", b"").reason, refused(b"PUT", b"").entry), (Reason::Method, entry));
    assert_eq!((refused(b"GET", b"x-a").reason, refused(b"GET", b"x-a").entry), (Reason::Header, entry));
}

#[test]
fn what_preflights_have_alike_is_rendered_once() {
    let full = PolicySpec {
        allow_methods: owned(&["PUT", "DELETE"]),
        allow_headers: owned(&["x-a"]),
        allow_credentials: true,
        max_age_seconds: 5,
        ..spec(&["https://a.test"])
    };
    let lines = |spec: &PolicySpec, request: Request<'_>| {
        let policy = extended(spec, &[]).0;
        let verdict = policy.decide(&request).without_asking();
        policy.preflight_lines(&verdict).map(|lines| String::from_utf8_lossy(lines).into_owned())
    };
    let preflight =
        |method| Request { method: b"OPTIONS", requested_method: Field::One(method), ..get("https://a.test") };
    let age = "access-control-max-age: 5\r\n";
    let credentials = "access-control-allow-credentials: true\r\n";
    let methods = "access-control-allow-methods: DELETE,PUT\r\n";
    let headers = "access-control-allow-headers: x-a\r\n";
    let table = [
        (full.clone(), Some([credentials, methods, headers, age].concat())),
        (PolicySpec { allow_credentials: false, ..full.clone() }, Some([methods, headers, age].concat())),
        (PolicySpec { allow_methods: Vec::new(), ..full.clone() }, Some([credentials, headers, age].concat())),
        (PolicySpec { allow_headers: Vec::new(), ..full.clone() }, Some([credentials, methods, age].concat())),
        // These depend on what was asked for.
        (PolicySpec { allow_methods: owned(&["*"]), ..full.clone() }, None),
        (PolicySpec { allow_headers: owned(&["*"]), ..full.clone() }, None),
        (PolicySpec { disclosure: Disclosure::Minimal, ..full.clone() }, None),
    ];
    for (spec, expected) in table {
        assert_eq!(lines(&spec, preflight(b"GET")), expected, "{spec:?}");
    }
    for request in [preflight(b"PATCH"), get("https://a.test"), Request::new(b"GET", OWN)] {
        assert_eq!(lines(&full, request), None, "{:?}", request.classify());
    }
}

#[test]
fn a_tenant_may_allow_every_origin() {
    let (policy, _) = extended(&spec(&[]), &["*"]);
    assert!(!policy.depends_on_origin());
    let verdict = decide(&policy, "garbage");
    assert_eq!((verdict.reason, entry(&policy, "garbage")), (Reason::Any, "*"));
    // Needless beside others, and still the one that answers.
    let beside = ["https://a.test", "*", "https://b.test", "https://*.a.test", "https://*.b.test", "https://c.test"];
    assert_eq!(entry(&extended(&spec(&beside), &[]).0, "https://a.test"), "*");
    let with_credentials = PolicySpec { allow_credentials: true, ..PolicySpec::default() };
    let template = Arc::new(Template::compile(&with_credentials).unwrap().value);
    for (own, places) in
        [(&["*"][..], [Place::AllowOrigins(0)]), (&["https://a.test", "http://b.test"], [Place::AllowOrigins(1)])]
    {
        let problems = Policy::extend(Arc::clone(&template), &owned(own)).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.place).collect::<Vec<_>>(), places);
    }
}

#[test]
fn a_tenant_is_told_what_the_policy_allows_already() {
    let own = ["https://a.test", "https://x.b.test", "https://*.b.test", "https://*.c.b.test", "https://d.test"];
    let (_, warnings) = extended(&spec(&["https://a.test", "https://*.b.test"]), &own);
    let told: Vec<Place> = warnings.iter().map(|warning| warning.place).collect();
    assert_eq!(told, [0, 1, 2, 3].map(Place::AllowOrigins));
    let is_same = |warning: &Problem| warning.message.contains("is in the policy already");
    assert_eq!(warnings.iter().map(is_same).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn with_credentials_a_regex_lets_no_plain_http_in() {
    let mut spec = PolicySpec { allow_credentials: true, ..spec(&["https://a.test"]) };
    spec.allow_origin_regexes = owned(&[r"https?://pr-[0-9]+\.a\.test", r"http://[a-z]+\.localhost"]);
    let (policy, _) = extended(&spec, &[]);
    assert_eq!(decide(&policy, "https://pr-1.a.test").reason, Reason::Regex);
    assert_eq!(decide(&policy, "http://pr-1.a.test").reason, Reason::NoMatch);
    assert_eq!(decide(&policy, "http://app.localhost").reason, Reason::Regex);
    assert_eq!(
        explain(&policy, &get("http://pr-1.a.test")).near_misses.first().unwrap().how,
        How::InsecureWithCredentials
    );
    assert_eq!(explain(&policy, &get("http://other.example")).near_misses, []);
    spec.dangerously.allow_insecure_origins = true;
    assert_eq!(decide(&extended(&spec, &[]).0, "http://pr-1.a.test").reason, Reason::Regex);
}

#[test]
fn every_list_has_its_limit() {
    let numbered =
        |count: usize, text: &str| (0..count).map(|number| text.replace('#', &number.to_string())).collect::<Vec<_>>();
    let place_of_refusal = |spec: PolicySpec| match Template::compile(&spec) {
        Ok(_) => None,
        Err(problems) => Some(problems.into_iter().map(|problem| problem.place).collect::<Vec<_>>()),
    };
    let with = |count, text: &str| {
        place_of_refusal(PolicySpec { allow_origins: numbered(count, text), ..PolicySpec::default() })
    };
    assert_eq!(with(64, "https://pr-#-*.a.test"), None);
    assert_eq!(with(65, "https://pr-#-*.a.test"), Some(vec![Place::AllowOrigins(64)]));
    assert_eq!(with(65, "https://pr-*.a#.test"), None);
    let with = |count| {
        place_of_refusal(PolicySpec {
            allow_origin_regexes: numbered(count, r"https://a#\.test"),
            ..PolicySpec::default()
        })
    };
    assert_eq!((with(64), with(65)), (None, Some(vec![Place::AllowOriginRegexes(64)])));
    let with = |count| place_of_refusal(PolicySpec { allow_headers: numbered(count, "x-#"), ..PolicySpec::default() });
    assert_eq!((with(256), with(257)), (None, Some(vec![Place::AllowHeaders(256)])));
    let with_star_at = |at: usize| {
        let mut allow_headers = numbered(300, "x-#");
        allow_headers[at] = "*".to_owned();
        place_of_refusal(PolicySpec { allow_headers, ..PolicySpec::default() })
    };
    for at in [0, 255, 256, 257, 299] {
        assert_eq!(with_star_at(at), Some(vec![Place::AllowHeaders(256)]), "{at}");
    }
    let with_name_of =
        |len: usize| place_of_refusal(PolicySpec { allow_headers: vec!["x".repeat(len)], ..PolicySpec::default() });
    assert_eq!([256, 257].map(with_name_of), [None, Some(vec![Place::AllowHeaders(0)])]);
}

#[test]
fn near_misses_are_told() {
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
        ("https://app.example.com:8443", "https://app.example.com", How::PortDiffers),
        ("http://app.example.com", "https://app.example.com", How::SchemeDiffers),
        ("https://localhost", "http://localhost:3000", How::SchemeAndPortDiffer),
        ("https://own.example.net", "https://own.example.net:8443", How::PortDiffers),
        ("https://example.org", "https://*.example.org", How::ApexNotCovered),
        ("http://x.example.org", "https://*.example.org", How::SchemeDiffers),
        ("https://x.example.org:1", "https://*.example.org", How::PortDiffers),
        ("https://pr-.preview.test", "https://pr-*.preview.test", How::StarNotMet),
        ("https://pr-1.evil.preview.test", "https://pr-*.preview.test", How::StarNotMet),
        ("https://pr--web.stage.test", "https://pr-*-web.stage.test", How::StarNotMet),
        ("https://x.app.example.com", "https://app.example.com", How::SubdomainOfExact),
        ("https://x.www.shop.test", "https://www.shop.test:*", How::SubdomainOfExact),
        ("https://example.com", "https://app.example.com", How::ParentOfExact),
        ("https://evilapp.example.com", "https://app.example.com", How::Lookalike),
        ("https://app.example.com.evil.com", "https://app.example.com", How::Lookalike),
        ("https://x.example.org.evil.com", "https://*.example.org", How::Lookalike),
        ("https://evilexample.org", "https://*.example.org", How::Lookalike),
    ];
    for (origin, entry, how) in table {
        let explanation = explain(&policy, &get(origin));
        let told: Vec<_> = explanation.near_misses.iter().map(|near| (near.entry.as_str(), near.how)).collect();
        assert_eq!(told, [(entry, how)], "{origin}");
    }
    // Far from every entry, or apart from one by more than one thing; and one that is covered.
    for origin in [
        "https://nothing.alike",
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
    let told = explain(&policy, &get("https://example.org")).near_misses;
    assert_eq!(told[0].to_string(), "https://*.example.org: apex is not covered by the wildcard");
}

#[test]
fn causes_are_told() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let origin = |origin: &[u8]| {
        let request = Request { origin: Field::One(origin), ..Request::new(b"GET", OWN) };
        explain(&policy, &request).cause.unwrap_or_default()
    };
    let table: [(&[u8], &str); 8] = [
        (b"https://a.test/", "`https://a.test/` has a path"),
        (&[b'a'; 100], "aaaa` has no scheme"),
        (&[b'a'; 101], "aaaa..` has no scheme"),
        (b"https://A.test", "upper-case"),
        (b"https://a.test\xff", r"`https://a.test\xff` is not all ASCII"),
        (b"", "is empty"),
        (b"null", "`null`"),
        (&[b'a'; 5000], "aaaa..` is longer than an origin can be"),
    ];
    for (value, part) in table {
        assert!(origin(value).contains(part), "{}", origin(value));
    }
    assert_eq!(origin(b"https://a.test"), "");
    let preflight = |method, lines: &[&[u8]]| {
        let request = Request {
            method: b"OPTIONS",
            requested_method: method,
            requested_headers: &lines,
            ..get("https://a.test")
        };
        explain(&policy, &request).cause.unwrap()
    };
    assert_eq!(preflight(Field::One(b"PUT"), &[]), "the method `PUT` is not allowed");
    assert!(preflight(Field::Many, &[]).contains("several"));
    assert_eq!(preflight(Field::One(b"GET"), &[b"x a\n"]), r"`x a\n` is not a header name");
    assert_eq!(preflight(Field::One(b"GET"), &[b"x-a"]), "the header `x-a` is not allowed");
}

#[test]
fn a_star_is_told_not_to_cover_a_handshake_with_credentials() {
    let handshake = |credentials| Request { upgrade: Upgrade::WebSocket, credentials, ..get("https://a.test") };
    let cause =
        |origins: &[&str], credentials| explain(&extended(&spec(origins), &[]).0, &handshake(credentials)).cause;
    let told =
        "`*` does not cover a WebSocket handshake with credentials, expected the origins themselves instead of it";
    assert_eq!(cause(&["*"], Credentials::Present).as_deref(), Some(told));
    assert_eq!(cause(&["*"], Credentials::Absent), None);
    // Here the entries are why, and near misses tell of them.
    assert_eq!(cause(&["https://b.test"], Credentials::Present), None);
}
