//! Checks that with credentials no accepted regex matches an unlisted host, for generated
//! expressions and hosts. Each host has a name, `zq`, that no domain in the expressions contains.
//! Also checks that no byte, plain or percent-encoded, joins a listed host to another one.

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use crossgate_policy::{CorsRequest, OwnOrigin, Policy, PolicySpec, RequestField, Template};
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

/// The text before the unlisted name, the name itself, which contains `zq`, and the text after it.
const BEFORE: [&str; 8] = ["", "app.", "app.example.com.", "zone.", "example.", "app-", "a.b.", "example.com."];
const NAMES: [&str; 8] = ["zq", "zqexample", "zq-example", "appzq", "example-zq", "zqzq", "comzq", "app-zq"];
const UNDER: [&str; 9] =
    ["com", "de", "co.uk", "vercel.app", "s3.amazonaws.com", "foo.kawasaki.jp", "net", "comzq", "elb.amazonaws.com"];

fn expression() -> impl Strategy<Value = String> {
    let host = (vec(select(&HOST_PIECES[..]), 0..4), select(&ENDS[..]));
    (host, select(&PORTS[..])).prop_map(|((pieces, end), port)| format!("https://{}{end}{port}", pieces.concat()))
}

fn unlisted_origins() -> impl Iterator<Item = String> {
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

fn allows(policy: &Policy, origin: impl AsRef<[u8]>) -> bool {
    let request = CorsRequest { origin: RequestField::One(origin.as_ref()), ..CorsRequest::new(b"GET", OWN) };
    policy.decide(&request).without_rule().is_allowed()
}

/// Creates a policy with an exact origin, a wildcard and a star within a label, with credentials.
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

fn is_label_byte(text: &[u8]) -> bool {
    matches!(text, [b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'])
}

/// Returns every byte, plain and percent-encoded: some parser may take it for the end of a host.
fn separators() -> impl Iterator<Item = Vec<u8>> {
    (0..=255_u8).flat_map(|byte| [vec![byte], format!("%{byte:02x}").into_bytes(), format!("%{byte:02X}").into_bytes()])
}

/// Returns the separators that are allowed in the place of `#`.
fn allowed_separators(policy: &Policy, shape: &str) -> Vec<Vec<u8>> {
    let Some((before, after)) = shape.split_once('#') else { panic!("{shape}") };
    let origin = |separator: &Vec<u8>| [before.as_bytes(), separator, after.as_bytes()].concat();
    separators().filter(|separator| allows(policy, origin(separator))).collect()
}

#[test]
fn no_byte_joins_a_listed_host_to_another_domain() {
    let policy = listed();
    for host in ["example.com", "a.example.org", "pr-1.preview.example"] {
        assert!(allows(&policy, format!("https://{host}")));
        for shape in ["#.evil.test", ".#.evil.test", "#evil.test", ".#evil.test", "#@evil.test", "#/.evil.test"] {
            let shape = format!("https://{host}{shape}");
            assert_eq!(allowed_separators(&policy, &shape), [[0; 0]; 0], "{shape}");
        }
    }
}

#[test]
fn only_labels_match_before_a_wildcard_suffix() {
    let policy = listed();
    let of_labels: Vec<Vec<u8>> = separators().filter(|separator| is_label_byte(separator)).collect();
    assert_eq!(of_labels.len(), 26 + 10 + 2);
    for shape in [
        "https://#.example.org",
        "https://evil.test#.example.org",
        "https://evil.test.#.example.org",
        "https://pr-#.preview.example",
        "https://pr-1#2.preview.example",
    ] {
        assert_eq!(allowed_separators(&policy, shape), of_labels, "{shape}");
    }
    for shape in ["https://evil.test:#.example.org", "https://u@#.example.org", "https://evil.test/#.example.org"] {
        assert_eq!(allowed_separators(&policy, shape), [[0; 0]; 0], "{shape}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accepted_regex_allows_no_unlisted_origin(expression in expression()) {
        if let Some(policy) = policy(&expression, false) {
            let unlisted = unlisted_origins().find(|origin| allows(&policy, origin));
            prop_assert_eq!(unlisted, None, "{}", expression);
        }
    }

    #[test]
    fn refused_regex_message_shows_a_matching_origin(expression in expression()) {
        let spec = PolicySpec {
            allow_origin_regexes: vec![expression.clone()],
            allow_credentials: true,
            ..PolicySpec::default()
        };
        let Err(problems) = Template::compile(&spec) else { return Ok(()) };
        let message = &problems.first().unwrap().message;
        let Some((_, sample)) = message.split_once("such as `") else { panic!("{message}") };
        let sample = sample.split('`').next().unwrap_or_default();
        // The message shows only the end `..` of an origin if the search found no whole one.
        prop_assume!(!sample.starts_with(".."));
        prop_assert!(allows(&policy(&expression, true).unwrap(), sample), "{} {}", expression, sample);
    }
}
