//! With credentials no regex that compiles lets in a host of somebody else: over expressions put together from what people
//! write, and hosts put together from the same text and a name that stands in no expression.

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

fn lets_in(policy: &Policy, origin: &str) -> bool {
    let request = Request { origin: Field::One(origin.as_bytes()), ..Request::new(b"GET", OWN) };
    policy.decide(&request).without_asking().is_allowed()
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
