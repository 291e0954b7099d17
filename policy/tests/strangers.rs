//! With credentials no regex that compiles lets in a host of somebody else: over expressions put together from what people
//! write, and hosts put together from the same text and a name that stands in no expression. Nor does any byte, or the escape
//! of one, join a listed host to another.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use crossgate_policy::{Field, OwnOrigin, Policy, PolicySpec, Request, Template};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

const HOST_PIECES: [&str; 16] = [
    "app",
    "example",
    r"\.",
    r"\.",
    "-",
    ".",
    ".*",
    "[a-z0-9-]+",
    "[a-z]*",
    r"\w+",
    r"(.+\.)?",
    r"([a-z]+\.)*",
    "(app|zone)",
    "[^.]{1,9}",
    "q?",
    "(zq)*",
];
const ENDS: [&str; 12] = [
    r"example\.com",
    r"\.example\.com",
    "example.com",
    r"\.(com|de)",
    r"\.co\.uk",
    r"\.vercel\.app",
    r"\.s3\.amazonaws\.com",
    r"\.amazonaws\.com",
    r"\.kawasaki\.jp",
    r"\.example\.(com|net)",
    r"\.example\.com.*",
    r"\.example\.com[a-z.]*",
];
const PORTS: [&str; 4] = ["", "", r"(:\d+)?", r":[0-9]{4}"];

/// Before, within and after the name of somebody else, which has `zq` in it.
const BEFORE: [&str; 8] = ["", "app.", "app.example.com.", "zone.", "example.", "app-", "a.b.", "example.com."];
const NAMES: [&str; 8] = ["zq", "zqexample", "zq-example", "appzq", "example-zq", "zqzq", "comzq", "app-zq"];
const UNDER: [&str; 9] =
    ["com", "de", "co.uk", "vercel.app", "s3.amazonaws.com", "foo.kawasaki.jp", "net", "comzq", "elb.amazonaws.com"];

fn expression() -> impl Strategy<Value = String> {
    let host = (vec(select(&HOST_PIECES[..]), 0..4), select(&ENDS[..]));
    (host, select(&PORTS[..])).prop_map(|((pieces, end), port)| format!("https://{}{end}{port}", pieces.concat()))
}

fn strangers() -> impl Iterator<Item = String> {
    let names = BEFORE.iter().flat_map(|before| NAMES.iter().map(move |name| format!("{before}{name}")));
    let hosts = names.flat_map(|name| UNDER.iter().map(move |under| format!("{name}.{under}")));
    hosts.flat_map(|host| ["", ":8443"].map(|port| format!("https://{host}{port}")))
}

fn policy(expression: &str, allow_any_origin: bool) -> Option<Policy> {
    let mut spec = PolicySpec {
        allow_origin_regexes: vec![expression.to_owned()],
        allow_credentials: true,
        ..PolicySpec::default()
    };
    spec.dangerously.allow_any_origin = allow_any_origin;
    let template = Template::compile(&spec).ok()?;
    Some(Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value)
}

fn lets_in(policy: &Policy, origin: impl AsRef<[u8]>) -> bool {
    let request = Request { origin: Field::One(origin.as_ref()), ..Request::new(b"GET", OWN) };
    policy.decide(&request).without_asking().is_allowed()
}

/// An exact origin, a wildcard and a star within a label, with credentials.
fn listed() -> Policy {
    let origins = ["https://example.com", "https://*.example.org", "https://pr-*.preview.example"];
    let spec = PolicySpec {
        allow_origins: origins.map(str::to_owned).to_vec(),
        allow_credentials: true,
        ..PolicySpec::default()
    };
    let template = Template::compile(&spec).unwrap_or_else(|problems| panic!("{problems:?}"));
    Policy::extend(Arc::new(template.value), &[]).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

fn is_of_a_label(text: &[u8]) -> bool {
    matches!(text, [b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'])
}

/// What some parser may take for the end of a host: each byte, and its escape.
fn separators() -> impl Iterator<Item = Vec<u8>> {
    (0..=255_u8).flat_map(|byte| [vec![byte], format!("%{byte:02x}").into_bytes(), format!("%{byte:02X}").into_bytes()])
}

/// Asks with every separator in the place of `#`, and gives those that are let in.
fn let_in(policy: &Policy, shape: &str) -> Vec<Vec<u8>> {
    let Some((before, after)) = shape.split_once('#') else { panic!("{shape}") };
    let origin = |separator: &Vec<u8>| [before.as_bytes(), separator, after.as_bytes()].concat();
    separators().filter(|separator| lets_in(policy, origin(separator))).collect()
}

#[test]
fn no_byte_between_a_listed_host_and_a_domain_makes_a_match() {
    let policy = listed();
    for host in ["example.com", "a.example.org", "pr-1.preview.example"] {
        assert!(lets_in(&policy, format!("https://{host}")));
        for shape in ["#.evil.test", ".#.evil.test", "#evil.test", ".#evil.test", "#@evil.test", "#/.evil.test"] {
            let shape = format!("https://{host}{shape}");
            assert_eq!(let_in(&policy, &shape), [[0; 0]; 0], "{shape}");
        }
    }
}

#[test]
fn before_a_wildcards_suffix_nothing_matches_but_labels() {
    let policy = listed();
    let of_labels: Vec<Vec<u8>> = separators().filter(|separator| is_of_a_label(separator)).collect();
    assert_eq!(of_labels.len(), 26 + 10 + 2);
    for shape in [
        "https://#.example.org",
        "https://evil.test#.example.org",
        "https://evil.test.#.example.org",
        "https://pr-#.preview.example",
        "https://pr-1#2.preview.example",
    ] {
        assert_eq!(let_in(&policy, shape), of_labels, "{shape}");
    }
    for shape in ["https://evil.test:#.example.org", "https://u@#.example.org", "https://evil.test/#.example.org"] {
        assert_eq!(let_in(&policy, shape), [[0; 0]; 0], "{shape}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_stranger_is_let_in(expression in expression()) {
        if let Some(policy) = policy(&expression, false) {
            let stranger = strangers().find(|origin| lets_in(&policy, origin));
            prop_assert_eq!(stranger, None, "{}", expression);
        }
    }

    #[test]
    fn a_refusal_shows_what_is_let_in(expression in expression()) {
        let spec = PolicySpec {
            allow_origin_regexes: vec![expression.clone()],
            allow_credentials: true,
            ..PolicySpec::default()
        };
        let Err(problems) = Template::compile(&spec) else { return Ok(()) };
        let message = &problems.first().unwrap().message;
        let Some((_, sample)) = message.split_once("such as `") else { panic!("{message}") };
        let sample = sample.split('`').next().unwrap_or_default();
        // Where no origin at all has the end that strays, the end alone is shown.
        prop_assume!(!sample.starts_with(".."));
        prop_assert!(lets_in(&policy(&expression, true).unwrap(), sample), "{} {}", expression, sample);
    }
}
