//! The source of a rule.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crossgate::scripts::compile_source;
use crossgate_policy::{
    MESSAGE_LEN_MAX, PolicySpec, RequestKind, Rule, RuleAnswer, RuleData, RuleErrorKind, RuleInput, RuleLimits,
    RuleRun, check_rule,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::diagnostics;

static DATA: LazyLock<Arc<RuleData>> = LazyLock::new(|| {
    let owned = crate::policies::owned;
    let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    let sets = ["partners", "s"].map(|name| (name.to_owned(), owned(&["partner.test", "app.shop.test"])));
    let tables =
        [("api_keys", "k", "https://app.shop.test"), ("customer_domains", "shop.test", "acme"), ("t", "a", "b")];
    Arc::new(RuleData::new(sets, tables.map(|(name, key, value)| (name.to_owned(), pair(key, value)))))
});

/// A script is refused with diagnostics, or every run ends within its limits. Runs with the same
/// key have the same answer.
///
/// # Panics
/// If this does not hold.
pub fn rule(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let limits = RuleLimits::default();
    match compile_source(Path::new("fuzz.rhai"), source, &DATA, &limits) {
        Err(found) => {
            assert!(found.has_errors());
            diagnostics::check(&found, source);
        }
        Ok(script) => {
            let headers: Vec<HeaderName> = script.headers().iter().filter_map(|(name, _)| name.parse().ok()).collect();
            let query: Vec<Box<str>> = script.query_keys().iter().map(|(key, _)| key.clone()).collect();
            let rule = Rule::new(1, &Arc::new(script), &headers, &query, 1);
            check_runs(&rule, &limits);
            let credentials = PolicySpec { allow_credentials: true, ..PolicySpec::default() };
            let _problems = check_rule(&rule, &credentials);
        }
    }
}

fn check_runs(rule: &Rule, limits: &RuleLimits) {
    let headers: HeaderMap =
        rule.headers().iter().take(2).map(|name| (name.clone(), HeaderValue::from_static("gold"))).collect();
    let none = HeaderMap::new();
    let page = input("https://app.shop.test", &headers);
    let others = [
        input("https://app.shop.test:8443", &headers),
        RuleInput { query: "key=k&a=%41", tenant: "other", ..page },
        RuleInput { method: b"PUT", kind: RequestKind::Preflight, requested_headers: &[b"x-a,X-B".as_slice()], ..page },
        RuleInput { headers: &none, path: "/a/b", route: "/a", ..page },
    ];
    let run = rule.run(&page, 0, || false);
    check_run(&run, limits);
    for other in &others {
        let again = rule.run(other, 0, || false);
        check_run(&again, limits);
        // An answer depends only on the inputs that the run read, so these are its cache key.
        let key = |input| {
            let mut key = Vec::new();
            rule.key(input, run.reads, &mut key);
            key
        };
        if key(&page) == key(other) {
            assert_eq!((&again.answer, again.reads), (&run.answer, run.reads));
        }
    }
}

fn check_run(run: &RuleRun, limits: &RuleLimits) {
    let is_plain = |text: &str| !text.chars().any(char::is_control);
    assert!(run.operations <= limits.operations + 1, "{}", run.operations);
    match &run.answer {
        Ok(RuleAnswer::Deny(Some(message))) => assert!(message.len() <= MESSAGE_LEN_MAX && is_plain(message)),
        Ok(RuleAnswer::Allow { terms, .. }) => assert!(terms.max_age_seconds.is_none_or(|seconds| seconds <= 86_400)),
        Ok(RuleAnswer::Deny(None) | RuleAnswer::Abstain) => {}
        Err(error) => {
            assert!(error.kind != RuleErrorKind::Panic && error.kind != RuleErrorKind::Time, "{error:?}");
            assert!(error.message.chars().count() <= 200 && is_plain(&error.message), "{error:?}");
        }
    }
}

fn input<'a>(origin: &'a str, headers: &'a HeaderMap) -> RuleInput<'a> {
    const NO_LINES: &[&[u8]; 0] = &[];
    let (scheme, host, port) = crossgate_policy::split_origin(origin).unwrap_or_default();
    RuleInput {
        origin,
        scheme,
        host,
        port,
        kind: RequestKind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path: "/",
        query: "",
        api_host: "api.test",
        requested_headers: NO_LINES,
        headers,
    }
}
