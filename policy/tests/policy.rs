//! What the corpus cannot say: which entry answers when several could, how layers share and number them, what the limits
//! are, and what `explain` tells.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use crossgate_policy::{
    Credentials, Dangerously, EntryId, Explanation, Field, How, OwnOrigin, Place, Policy, PolicySpec, Problem, Reason,
    Request, Template, Upgrade, Verdict,
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
    ];
    for (origin, expected) in table {
        assert_eq!(entry(&policy, origin), expected, "{origin}");
    }
}

#[test]
fn entries_are_numbered_densely() {
    let mut spec = spec(&["https://a.test", "null", "https://*.a.test", "https://b.test", "https://c.test:*"]);
    spec.allow_origin_regexes = owned(&[r"https://r-[0-9]\.test", r"https://s-[0-9]\.test"]);
    spec.dangerously = Dangerously { allow_null: true, ..Dangerously::default() };
    let (policy, _) = extended(&spec, &["https://d.test", "https://*.d.test"]);
    let counts = policy.entry_counts();
    assert_eq!((counts.template, counts.own), (7, 2));
    let ids = (0..7).map(EntryId::Template).chain((0..2).map(EntryId::Own));
    let texts: BTreeSet<&str> = ids.map(|id| policy.entry_text(id)).collect();
    let all = spec.allow_origins.iter().chain(&spec.allow_origin_regexes).map(String::as_str);
    assert_eq!(texts, all.chain(["https://d.test", "https://*.d.test"]).collect());
    assert_eq!([EntryId::Template(7), EntryId::Own(2)].map(|id| policy.entry_text(id)), ["", ""]);
    for (origin, text) in
        [("null", "null"), ("https://s-1.test", r"https://s-[0-9]\.test"), ("https://x.d.test", "https://*.d.test")]
    {
        assert_eq!(entry(&policy, origin), text);
    }
    let own = decide(&policy, "https://d.test").entry.unwrap();
    assert_eq!((own.template_index(), own.own_index().is_some()), (None, true));
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
fn a_tenant_may_allow_every_origin() {
    let (policy, _) = extended(&spec(&[]), &["*"]);
    assert!(!policy.depends_on_origin());
    let verdict = decide(&policy, "garbage");
    assert_eq!((verdict.reason, entry(&policy, "garbage")), (Reason::Any, "*"));
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
}

#[test]
fn near_misses_are_told() {
    let origins = [
        "https://app.example.com",
        "https://*.example.org",
        "https://pr-*.preview.test",
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
    assert!(explain(&policy, &get("https://nothing.alike")).near_misses.is_empty());
    assert!(explain(&policy, &get("https://x.example.org")).near_misses.is_empty());
}

#[test]
fn causes_are_told() {
    let (policy, _) = extended(&spec(&["https://a.test"]), &[]);
    let origin = |origin: &[u8]| {
        let request = Request { origin: Field::One(origin), ..Request::new(b"GET", OWN) };
        explain(&policy, &request).cause.unwrap_or_default()
    };
    let table: [(&[u8], &str); 6] = [
        (b"https://a.test/", "`https://a.test/` has a path"),
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
