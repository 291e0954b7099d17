//! Compares the engine with a simple oracle, for generated policies and origins similar to their
//! entries. Also calls every function with arbitrary bytes.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

#[path = "oracle/matcher.rs"]
mod matcher;
#[path = "oracle/site.rs"]
mod site;

use std::sync::Arc;

use crossgate_policy::{
    CorsRequest, CredentialFields, CrossSiteNavigations, CrossSiteOutcome, CrossSiteProtection, CrossSiteReads,
    CrossSiteTerms, DangerousSwitches, Disclosure, OwnOrigin, Policy, PolicySpec, Reason, RequestField, RequestKind,
    RequestedUpgrade, Template,
};
use http::HeaderName;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

/// Few and similar labels, so that hosts overlap and share prefixes and suffixes.
const LABELS: [&str; 12] = ["a", "b", "aa", "ab", "foo", "bar", "foobar", "pr-", "pr-1", "-", "_x", "0a"];
const TOPS: [&str; 4] = ["com", "test", "xcom", "co"];
const PORTS: [&str; 5] = ["", "", "", ":8443", ":1"];
const HOSTILE: [&str; 26] = [
    ".",
    "..",
    "/",
    "\\",
    "@",
    ":",
    "#",
    "?",
    "*",
    "%00",
    "%2e",
    " ",
    "\t",
    "\0",
    ",",
    "{",
    "`",
    "~",
    "[",
    "]",
    "\u{fc}",
    "A",
    "_",
    "-",
    ":443",
    ".evil.test",
];

fn scheme() -> impl Strategy<Value = &'static str> {
    select(&["https", "https", "https", "http"][..])
}

fn host() -> impl Strategy<Value = String> {
    (vec(select(&LABELS[..]), 0..4), select(&TOPS[..])).prop_map(|(labels, top)| [labels, vec![top]].concat().join("."))
}

fn exact() -> impl Strategy<Value = String> {
    let web =
        (scheme(), host(), select(&PORTS[..])).prop_map(|(scheme, host, port)| format!("{scheme}://{host}{port}"));
    let others = [
        "http://127.0.0.1:8443",
        "https://10.0.0.1",
        "https://[2001:db8::1]",
        "http://[::1]:1",
        "capacitor://a.com",
        "app://0a",
        "file://",
        "app://.",
        "moz-extension://a",
        "moz-extension://a.b",
        "moz-extension://a:1",
        "vscode-webview://0a",
    ];
    prop_oneof![9 => web, 2 => select(others.to_vec()).prop_map(str::to_owned)]
}

fn starred() -> impl Strategy<Value = String> {
    let star = select(&["*.", "*.", "pr-*.", "a*.", "*-1.", "f*r.", "pr-*-1."][..]);
    let port = select(&["", "", ":*", ":8443"][..]);
    let in_host =
        (scheme(), star, host(), port).prop_map(|(scheme, star, host, port)| format!("{scheme}://{star}{host}{port}"));
    let in_port = (scheme(), host()).prop_map(|(scheme, host)| format!("{scheme}://{host}:*"));
    let extension =
        select(&["moz-extension://*", "chrome-extension://*", "safari-web-extension://*", "vscode-webview://*"][..]);
    prop_oneof![8 => in_host, 2 => in_port, 1 => extension.prop_map(str::to_owned)]
}

/// Generates origins of extensions.
fn extension() -> impl Strategy<Value = String> {
    let scheme =
        select(&["moz-extension", "chrome-extension", "safari-web-extension", "vscode-webview", "extension"][..]);
    (scheme, "[a-p0-9-]{0,40}[.:]?[a-p0-9]{0,3}").prop_map(|(scheme, host)| format!("{scheme}://{host}"))
}

fn entries() -> impl Strategy<Value = Vec<String>> {
    vec(prop_oneof![2 => exact(), 1 => starred()], 1..200)
}

/// An origin similar to one or two entries, for the mistakes that matchers make.
#[derive(Debug, Clone)]
enum Near {
    Entry(prop::sample::Index),
    Filled(prop::sample::Index, &'static str),
    Joined(prop::sample::Index, prop::sample::Index),
    Truncated(prop::sample::Index, prop::sample::Index),
    Spoilt(prop::sample::Index, prop::sample::Index, &'static str),
    Prefixed(prop::sample::Index, &'static str),
    Suffixed(prop::sample::Index, &'static str),
    Fresh(String),
    Bytes(Vec<u8>),
}

fn near() -> impl Strategy<Value = Near> {
    let index = any::<prop::sample::Index>;
    let filler =
        select(&["x", "a.b", "", "1", "-1", "pr-1", "aaaa.foo.bar", "x.", ".x", "A", "a/b", "a@b", "*", "a:1"][..]);
    prop_oneof![
        2 => index().prop_map(Near::Entry),
        4 => (index(), filler.clone()).prop_map(|(entry, text)| Near::Filled(entry, text)),
        2 => (index(), index()).prop_map(|(one, other)| Near::Joined(one, other)),
        2 => (index(), index()).prop_map(|(entry, at)| Near::Truncated(entry, at)),
        3 => (index(), index(), select(&HOSTILE[..])).prop_map(|(entry, at, text)| Near::Spoilt(entry, at, text)),
        2 => (index(), filler).prop_map(|(entry, text)| Near::Prefixed(entry, text)),
        2 => (index(), select(&HOSTILE[..])).prop_map(|(entry, text)| Near::Suffixed(entry, text)),
        4 => exact().prop_map(Near::Fresh),
        1 => extension().prop_map(Near::Fresh),
        1 => vec(any::<u8>(), 0..400).prop_map(Near::Bytes),
    ]
}

impl Near {
    fn origin(&self, entries: &[String]) -> Vec<u8> {
        let filled = |index: &prop::sample::Index, text: &str| {
            index.get(entries).replacen(":*", ":77", 1).replacen('*', text, 1)
        };
        let host = |origin: &str| origin.split_once("://").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        match self {
            Self::Entry(index) => index.get(entries).clone().into_bytes(),
            Self::Filled(index, text) => filled(index, text).into_bytes(),
            Self::Joined(one, other) => (filled(one, "x") + &host(&filled(other, "x"))).into_bytes(),
            Self::Truncated(index, at) => {
                let text = filled(index, "x");
                text.as_bytes()[..at.index(text.len() + 1)].to_vec()
            }
            Self::Spoilt(index, at, hostile) => {
                let mut text = filled(index, "x");
                text.insert_str(at.index(text.len() + 1), hostile);
                text.into_bytes()
            }
            Self::Prefixed(index, text) => filled(index, "x").replacen("://", &format!("://{text}"), 1).into_bytes(),
            Self::Suffixed(index, hostile) => (filled(index, "x") + hostile).into_bytes(),
            Self::Fresh(origin) => origin.clone().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// Creates a policy with the entries spread over the template, an origin set and the tenant.
fn spread(entries: &[String]) -> Policy {
    let part = |which: usize| entries.iter().skip(which).step_by(3).cloned().collect::<Vec<_>>();
    let origin_sets = vec![crossgate_policy::OriginSetSpec { name: "set".to_owned(), origins: part(1) }];
    let spec = PolicySpec { allow_origins: part(0), origin_sets, ..PolicySpec::default() };
    let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::extend(Arc::new(template.value), &part(2)).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

fn check_origin(policy: &Policy, entries: &[String], origin: &[u8]) -> Result<(), TestCaseError> {
    let verdict = policy
        .decide(&CorsRequest { origin: RequestField::One(origin), ..CorsRequest::new(b"GET", OWN) })
        .without_rule();
    let entry = verdict.entry.map(|entry| policy.entry_text(entry).to_owned());
    let shown = origin.escape_ascii();
    if origin == b"null" {
        prop_assert_eq!(verdict.reason, Reason::NullOrigin);
    } else if !matcher::is_origin(origin) {
        prop_assert_eq!((verdict.reason, verdict.is_allowed()), (Reason::MalformedOrigin, false), "{}", shown);
    } else {
        let text = std::str::from_utf8(origin).unwrap();
        let covering: Vec<&String> = entries.iter().filter(|entry| matcher::covers(entry, text)).collect();
        let reason = match covering.first() {
            None => Reason::NoMatch,
            Some(_) if entries.iter().any(|entry| entry == text) => Reason::Exact,
            Some(_) => Reason::Wildcard,
        };
        prop_assert_eq!((verdict.reason, verdict.is_allowed()), (reason, !covering.is_empty()), "{}", shown);
        prop_assert_eq!(entry.is_some(), verdict.is_allowed());
        prop_assert!(entry.is_none_or(|entry| covering.contains(&&entry)), "{}", shown);
    }
    Ok(())
}

/// Generates arbitrary bytes, and sequences of meaningful pieces.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces =
        ["https://", "a", ".", "test", "null", "PUT", "x-a", ",", " ", "authorization", ":8443", "*", "same-origin"];
    let known = vec(prop_oneof![select(pieces.to_vec()), select(&HOSTILE[..])], 0..12);
    prop_oneof![vec(any::<u8>(), 0..400), known.prop_map(|pieces| pieces.concat().into_bytes())]
}

/// Generates a policy with one entry of each kind, with or without `*` in its lists, or a policy
/// with the entry `*` alone.
fn total_policy() -> impl Strategy<Value = Policy> {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let lists = select(vec![["*", "*"], ["PUT", "x-a"]]);
    (any::<bool>(), lists, select(&[Disclosure::Full, Disclosure::Minimal][..])).prop_map(
        move |(is_any, [method, header], disclosure)| {
            let origins = ["https://a.test", "https://*.a.test", "https://a-*.test.a:*"];
            let spec = PolicySpec {
                allow_origins: owned(if is_any { &["*"] } else { &origins }),
                allow_origin_regexes: if is_any { Vec::new() } else { owned(&[r"https://.+\.a\.a"]) },
                allow_methods: owned(&[method]),
                allow_headers: owned(&[header]),
                disclosure,
                ..PolicySpec::default()
            };
            let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
            Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
        },
    )
}

/// Checks that every call returns a result, always the same one, and no CORS field for a denied
/// request.
fn check_total(policy: &Policy, request: &CorsRequest<'_>) -> Result<(), TestCaseError> {
    let verdict = policy.decide(request).without_rule();
    prop_assert_eq!(verdict, policy.decide(request).without_rule());
    prop_assert_eq!(verdict.kind, request.classify());
    let edits: Vec<_> =
        policy.edits(&verdict, request).map(|edit| (edit.name, edit.value.as_bytes().to_vec())).collect();
    if let Some(lines) = policy.preflight_lines(&verdict) {
        let line = |(name, value): &(HeaderName, Vec<u8>)| [name.as_str().as_bytes(), b": ", value, b"\r\n"].concat();
        prop_assert_eq!(lines, edits.iter().skip(1).flat_map(line).collect::<Vec<_>>());
    }
    for (name, value) in edits {
        prop_assert!(verdict.is_allowed(), "{}", name);
        // Echoed values have been checked, so no byte can end the field (response splitting).
        prop_assert!(
            !value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'),
            "{}: {}",
            name,
            value.escape_ascii()
        );
    }
    Ok(())
}

/// Generates lines of a field: mostly one, sometimes none or two.
fn lines_of(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => vec(select(values), 1), 1 => vec(select(values), 0..3)]
}

/// A policy with one listed origin, `null` or `*`, and terms for requests from other sites.
#[derive(Debug, Clone, Copy)]
struct SiteTerms {
    entry: &'static str,
    reads: CrossSiteReads,
    navigations: CrossSiteNavigations,
}

fn site_terms() -> impl Strategy<Value = SiteTerms> {
    const READS: [CrossSiteReads; 3] = [CrossSiteReads::Allow, CrossSiteReads::NavigationsOnly, CrossSiteReads::Deny];
    const NAVIGATIONS: [CrossSiteNavigations; 2] = [CrossSiteNavigations::Deny, CrossSiteNavigations::Allow];
    let entry = select(&["https://app.test", "null", "*"][..]);
    (entry, select(&READS[..]), select(&NAVIGATIONS[..])).prop_map(|(entry, reads, navigations)| SiteTerms {
        entry,
        reads,
        navigations,
    })
}

impl SiteTerms {
    fn policy(self, protection: CrossSiteProtection) -> Policy {
        let spec = PolicySpec {
            allow_origins: vec![self.entry.to_owned()],
            cross_site: CrossSiteTerms { protection, reads: self.reads },
            dangerously: DangerousSwitches { allow_null: true, ..DangerousSwitches::default() },
            ..PolicySpec::default()
        };
        let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
        Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
    }

    fn of_table(self) -> site::SitePolicy {
        site::SitePolicy {
            has_star: self.entry == "*",
            reads: match self.reads {
                CrossSiteReads::Allow => "Allow",
                CrossSiteReads::NavigationsOnly => "NavigationsOnly",
                CrossSiteReads::Deny => "Deny",
            },
            allows_navigations: self.navigations == CrossSiteNavigations::Allow,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_matcher_agrees_with_the_oracle((entries, nears) in (entries(), vec(near(), 100))) {
        let policy = spread(&entries);
        for near in nears {
            check_origin(&policy, &entries, &near.origin(&entries))?;
        }
    }

    #[test]
    fn the_cross_site_check_agrees_with_its_table(
        terms in site_terms(),
        method in select(&["GET", "HEAD", "OPTIONS", "POST", "PUT", "get", ""][..]),
        origins in lines_of(&["https://app.test", "https://evil.test", "null", "https://own.invalid", "x"]),
        sites in lines_of(&["same-origin", "none", "same-site", "cross-site", "", "Cross-Site", "none "]),
        modes in lines_of(&["navigate", "cors", "no-cors", "", "Navigate"]),
        dests in lines_of(&["document", "iframe", "object", "embed", "empty", "image", ""]),
        credentials in lines_of(&["Basic x", "Bearer x", "NEGOTIATE", "digest\tx", "ntlm", "Basics x", ""]),
        (has_cookie, asks_method, is_websocket) in (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1)),
    ) {
        fn field<'a>(lines: &[&'a str]) -> RequestField<'a> {
            RequestField::from_lines(lines.iter().map(|line| line.as_bytes()))
        }
        let bytes = |lines: &[&'static str]| lines.iter().map(|line| line.as_bytes()).collect::<Vec<_>>();
        let named = credentials.iter().map(|line| CredentialFields::of_authorization(line.as_bytes()));
        let stored = has_cookie.then_some(CredentialFields::Ambient);
        let request = CorsRequest {
            origin: field(&origins),
            requested_method: if asks_method { RequestField::One(b"PUT") } else { RequestField::Absent },
            sec_fetch_site: field(&sites),
            sec_fetch_mode: field(&modes),
            sec_fetch_dest: field(&dests),
            upgrade: if is_websocket { RequestedUpgrade::WebSocket } else { RequestedUpgrade::None },
            credentials: stored.into_iter().chain(named).max().unwrap_or(CredentialFields::Absent),
            ..CorsRequest::new(method.as_bytes(), OWN)
        };
        let origin = match origins.as_slice() {
            [] => site::SiteOrigin::Absent,
            [origin] if *origin == terms.entry => site::SiteOrigin::Listed,
            ["https://own.invalid"] => site::SiteOrigin::Own,
            _ => site::SiteOrigin::Other,
        };
        let kind = request.classify();
        let by_table = site::outcome(
            &site::SiteRequest {
                method,
                site: bytes(&sites),
                mode: bytes(&modes),
                dest: bytes(&dests),
                has_cookie,
                authorization: bytes(&credentials),
                origin,
                is_preflight_or_websocket: matches!(kind, RequestKind::Preflight | RequestKind::WebSocket),
            },
            &terms.of_table(),
        );
        let policy = terms.policy(CrossSiteProtection::Protect);
        let verdict = policy.decide(&request).without_rule();
        let outcome = policy.check_cross_site(&request, &verdict, terms.navigations);
        let expected = match by_table {
            site::SiteOutcome::Passes => CrossSiteOutcome::Passes,
            site::SiteOutcome::Navigation => CrossSiteOutcome::Navigation,
            site::SiteOutcome::Refused => CrossSiteOutcome::Denied,
        };
        prop_assert_eq!(outcome, expected);
        let mut checked = verdict;
        outcome.apply(&mut checked);
        match by_table {
            site::SiteOutcome::Passes => prop_assert_eq!(checked, verdict),
            site::SiteOutcome::Navigation => prop_assert_eq!((checked.reason, checked.is_allowed()), (Reason::Navigation, true)),
            site::SiteOutcome::Refused => prop_assert_eq!((checked.reason, checked.is_allowed()), (Reason::CrossSite, false)),
        }
        if checked != verdict {
            prop_assert_eq!(policy.edits(&checked, &request).count(), 0);
        }
        let check = |protection| terms.policy(protection).check_cross_site(&request, &verdict, terms.navigations);
        let is_refused = by_table == site::SiteOutcome::Refused;
        let reported = if is_refused { CrossSiteOutcome::WouldDeny } else { CrossSiteOutcome::Passes };
        prop_assert_eq!(check(CrossSiteProtection::Report), reported);
        let mut kept = verdict;
        reported.apply(&mut kept);
        prop_assert_eq!(kept, verdict);
        prop_assert_eq!(check(CrossSiteProtection::Off), CrossSiteOutcome::Passes);
    }

    #[test]
    fn any_bytes_get_a_verdict(
        (policy, origins, methods) in (total_policy(), vec(bytes(), 0..3), vec(bytes(), 0..3)),
        (lines, site, is_options, credentials) in (vec(bytes(), 0..4), vec(bytes(), 0..3), any::<bool>(), any::<bool>()),
    ) {
        fn field(lines: &[Vec<u8>]) -> RequestField<'_> {
            RequestField::from_lines(lines.iter().map(Vec::as_slice))
        }
        let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
        let request = CorsRequest {
            origin: field(&origins),
            requested_method: field(&methods),
            requested_headers: &lines,
            sec_fetch_site: field(&site),
            credentials: if credentials { CredentialFields::Explicit } else { CredentialFields::Absent },
            ..CorsRequest::new(if is_options { b"OPTIONS" } else { b"GET" }, OWN)
        };
        check_total(&policy, &request)?;
        check_total(&policy, &CorsRequest { upgrade: RequestedUpgrade::WebSocket, ..request })?;
    }
}
