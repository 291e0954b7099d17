//! Tests of rules: the language, the audit, the limits of a run, the policy around a rule, and the
//! cache key, on which an answer must depend.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crossgate_policy::{
    RequestKind, Rule, RuleAnswer, RuleData, RuleErrorKind, RuleInput, RuleLimits, RuleReads, RuleRun, RuleTerms,
    Script, ScriptProblem,
};
use http::{HeaderMap, HeaderName};

#[path = "rules/audit.rs"]
mod audit;
#[path = "rules/cache.rs"]
mod cache;
#[path = "rules/groups.rs"]
mod groups;
#[path = "rules/hostile.rs"]
mod hostile;
#[path = "rules/language.rs"]
mod language;
#[path = "rules/manual.rs"]
mod manual;
#[path = "rules/policy.rs"]
mod policy;

fn data() -> Arc<RuleData> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let sets = [("partners".to_owned(), texts(&["partner.test", "other.test"]))];
    let tables = [("owners".to_owned(), vec![("shop.test".to_owned(), "acme".to_owned())])];
    Arc::new(RuleData::new(sets, tables))
}

fn compile(source: &str) -> Result<Script, Vec<ScriptProblem>> {
    Script::compile("test", source, &data(), &RuleLimits::default())
}

/// Creates a rule that lists the headers and query keys of its script.
fn rule(source: &str) -> Rule {
    let script = compile(source).unwrap_or_else(|problems| panic!("{source}\n{problems:#?}"));
    let headers: Vec<HeaderName> = script.headers().iter().map(|(name, _)| name.parse().unwrap()).collect();
    let query: Vec<Box<str>> = script.query_keys().iter().map(|(key, _)| key.clone()).collect();
    Rule::new(1, &Arc::new(script), &headers, &query, 2)
}

/// Creates a rule whose `decide` has this body.
fn body(body: &str) -> Rule {
    rule(&format!("fn decide(req) {{\n{body}\n}}"))
}

const NO_LINES: &[&[u8]; 0] = &[];

fn with_input<R>(headers: &HeaderMap, then: impl FnOnce(&RuleInput<'_>) -> R) -> R {
    then(&RuleInput {
        origin: "https://pr-1.shop.test:8443",
        scheme: "https",
        host: "pr-1.shop.test",
        port: Some(8443),
        kind: RequestKind::Actual,
        tenant: "acme",
        route: "/",
        method: b"PUT",
        path: "/orders/1",
        query: "key=a%20b+c&x=1&key=2",
        api_host: "api.test",
        requested_headers: NO_LINES,
        headers,
    })
}

fn never() -> bool {
    false
}

fn run(rule: &Rule) -> RuleRun {
    let headers = HeaderMap::from_iter(
        [("x-plan", "gold"), ("x-plan", "new")]
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())),
    );
    with_input(&headers, |input| rule.run(input, 0, never))
}

/// Checks the answer of a rule with this body.
#[track_caller]
fn check(source: &str, expected: RuleAnswer) {
    assert_eq!(run(&body(source)).answer, Ok(expected), "{source}");
}

fn allow() -> RuleAnswer {
    RuleAnswer::ALLOW
}

#[track_caller]
fn fails(source: &str, kind: RuleErrorKind) {
    let run = run(&body(source));
    assert_eq!(run.answer.as_ref().map_err(|error| error.kind), Err(kind), "{source}: {run:?}");
}

/// Checks that an expression is true in a rule.
#[track_caller]
fn holds(expression: &str) {
    check(&format!("if {expression} {{ allow() }} else {{ deny() }}"), allow());
}

fn reads(run: &RuleRun, rule: &Rule) -> Vec<String> {
    rule.names(RuleReads::from_bits(run.reads.bits()))
}
