//! Tests of cached answers of rules, and of the cost of failing rules.

use super::*;
use crossgate_policy::{RequestKind, RuleData, RuleLimits, Script, split_origin};
use http::HeaderMap;

fn rule(verdicts: &Verdicts, body: &str) -> Arc<CompiledRule> {
    let source = format!("fn decide(req) {{ {body} }}");
    let script = Script::compile("test", &source, &Arc::new(RuleData::default()), &RuleLimits::default());
    let script = script.unwrap_or_else(|problems| panic!("{problems:?}"));
    let headers = [http::HeaderName::from_static("x-plan")];
    CompiledRule::new(Arc::new(Rule::new(verdicts.draw_number(), &Arc::new(script), &headers, &["key".into()], 2)))
}

fn ask(tenant_rule: &TenantRule, origin: &str, path: &str, plan: &'static str) -> RuleOutcome {
    let (scheme, host, port) = split_origin(origin).unwrap();
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-plan"), plan.parse().unwrap())]);
    tenant_rule.decide(&RuleInput {
        origin,
        scheme,
        host,
        port,
        kind: RequestKind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path,
        query: "",
        api_host: "api.test",
        requested_headers: &([] as [&[u8]; 0]),
        headers: &headers,
    })
}

const GUEST: &str = "https://guest.test";

#[test]
fn rule_that_reads_only_the_host_needs_one_cache_entry() {
    let verdicts = Arc::new(Verdicts::default());
    let tenant_rule = TenantRule::new(&verdicts, &rule(&verdicts, "if req.host == \"guest.test\" { allow() }"), "acme");
    for n in 0..10_000 {
        let outcome = ask(&tenant_rule, GUEST, &format!("/{n}"), "gold");
        let source = if n == 0 { AnswerSource::Run } else { AnswerSource::Cache };
        assert_eq!((outcome.answer, outcome.source), (Ok(RuleAnswer::ALLOW), source));
    }
    assert_eq!((tenant_rule.tenant.entries(), tenant_rule.tenant.counters.hits()), (1, 9_999));
}

#[test]
fn cached_answer_depends_on_the_header_that_the_rule_read() {
    let verdicts = Arc::new(Verdicts::default());
    let body = "if req.host == \"guest.test\" && req.header(\"x-plan\") == \"gold\" { allow() } else { deny() }";
    let tenant_rule = TenantRule::new(&verdicts, &rule(&verdicts, body), "acme");
    for _ in 0..3 {
        assert_eq!(ask(&tenant_rule, GUEST, "/", "gold").answer, Ok(RuleAnswer::ALLOW));
        assert_eq!(ask(&tenant_rule, GUEST, "/", "silver").answer, Ok(RuleAnswer::Deny(None)));
        assert_eq!(ask(&tenant_rule, "https://other.test", "/", "gold").answer, Ok(RuleAnswer::Deny(None)));
    }
    assert_eq!(tenant_rule.tenant.entries(), 3, "two for the guest, and one for the other with any plan");
    assert_eq!(ask(&tenant_rule, "https://other.test", "/", "silver").source, AnswerSource::Cache);
}

#[test]
fn answers_are_cached_for_one_tenant_and_one_rule() {
    let verdicts = Arc::new(Verdicts::default());
    let compiled_rule = rule(&verdicts, "allow()");
    let (acme, globex) =
        (TenantRule::new(&verdicts, &compiled_rule, "acme"), TenantRule::new(&verdicts, &compiled_rule, "globex"));
    assert_eq!(ask(&acme, GUEST, "/", "").source, AnswerSource::Run);
    assert_eq!(ask(&globex, GUEST, "/", "").source, AnswerSource::Run);
    let again = TenantRule::new(&verdicts, &compiled_rule, "acme");
    assert_eq!(ask(&again, GUEST, "/", "").source, AnswerSource::Cache, "a recompiled tenant keeps its answers");
    let newer = TenantRule::new(&verdicts, &rule(&verdicts, "deny()"), "acme");
    let outcome = ask(&newer, GUEST, "/", "");
    assert_eq!((outcome.answer, outcome.source), (Ok(RuleAnswer::Deny(None)), AnswerSource::Run));
    // A late run of the older rule is cached under the older number.
    assert_eq!(ask(&acme, "https://late.test", "/", "").answer, Ok(RuleAnswer::ALLOW));
    assert_eq!(ask(&newer, "https://late.test", "/", "").answer, Ok(RuleAnswer::Deny(None)));
}

#[test]
fn rule_errors_open_the_breaker_and_cached_answers_still_serve() {
    let verdicts = Arc::new(Verdicts::default());
    let body = "if req.host == \"guest.test\" { allow() } else { loop {} }";
    let tenant_rule = TenantRule::new(&verdicts, &rule(&verdicts, body), "acme");
    assert_eq!(ask(&tenant_rule, GUEST, "/", "").source, AnswerSource::Run);
    // A new breaker, as if that success were long ago.
    let tenant_rule = TenantRule::new(&verdicts, &tenant_rule.compiled, "acme");
    let kinds: Vec<_> =
        (0..60).map(|_| ask(&tenant_rule, "https://bad.test", "/", "").answer.unwrap_err().kind).collect();
    assert!(kinds[..20].iter().all(|kind| *kind == RuleErrorKind::Operations), "{kinds:?}");
    assert!(kinds[20..].contains(&RuleErrorKind::Breaker), "{kinds:?}");
    assert!(tenant_rule.is_broken(Instant::now()));
    assert_eq!(ask(&tenant_rule, GUEST, "/", "").source, AnswerSource::Cache);
    assert!(tenant_rule.tenant.counters.errors(RuleErrorKind::Breaker) > 0);
}

#[test]
fn tenant_without_rule_time_is_denied_and_others_are_not() {
    let verdicts = Arc::new(Verdicts::default());
    verdicts.set_limits(
        CacheLimits::default(),
        RuleTimes { run: Duration::from_secs(1), per_second: Duration::from_nanos(1) },
    );
    let compiled_rule = rule(&verdicts, "deny()");
    let (acme, globex) =
        (TenantRule::new(&verdicts, &compiled_rule, "acme"), TenantRule::new(&verdicts, &compiled_rule, "globex"));
    ask(&acme, "https://a.test", "/", "");
    acme.tenant.budget.charge(Instant::now(), Duration::from_secs(1), verdicts.times());
    // Cached answers cost no time, so the rule must read a part to run again.
    let reading = TenantRule::new(&verdicts, &rule(&verdicts, "deny(req.host)"), "acme");
    assert_eq!(ask(&reading, "https://b.test", "/", "").answer.unwrap_err().kind, RuleErrorKind::Budget);
    assert!(ask(&globex, "https://b.test", "/", "").answer.is_ok());
}

#[test]
fn answers_beyond_the_remembered_read_sets_are_not_cached() {
    let verdicts = Arc::new(Verdicts::default());
    let parts = ["tenant", "route", "method", "kind", "scheme", "origin", "port", "requested_headers"];
    let branches: Vec<String> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| format!("if req.path == \"/{n}\" {{ let x = req.{part}; allow() }}"))
        .collect();
    let body = format!("{} else if req.path == \"/8\" {{ deny(req.host) }} else {{ deny() }}", branches.join(" else "));
    let tenant_rule = TenantRule::new(&verdicts, &rule(&verdicts, &body), "acme");
    for n in 0..8 {
        ask(&tenant_rule, GUEST, &format!("/{n}"), "");
        assert_eq!(ask(&tenant_rule, GUEST, &format!("/{n}"), "").source, AnswerSource::Cache, "{n}");
    }
    ask(&tenant_rule, GUEST, "/8", "");
    assert_eq!(ask(&tenant_rule, GUEST, "/8", "").source, AnswerSource::Run);
    assert_eq!(tenant_rule.tenant.entries(), 8);
}

#[test]
fn examining_a_rule_counts_and_caches_nothing() {
    let verdicts = Arc::new(Verdicts::default());
    let tenant_rule = TenantRule::new(&verdicts, &rule(&verdicts, "if req.host == \"guest.test\" { allow() }"), "acme");
    let headers = HeaderMap::new();
    let input = RuleInput {
        origin: GUEST,
        scheme: "https",
        host: "guest.test",
        port: None,
        kind: RequestKind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path: "/",
        query: "",
        api_host: "api.test",
        requested_headers: &([] as [&[u8]; 0]),
        headers: &headers,
    };
    assert!(!tenant_rule.run_uncounted(&input).cached);
    assert_eq!((tenant_rule.tenant.entries(), tenant_rule.tenant.counters.hits()), (0, 0));
    tenant_rule.decide(&input);
    let examined = tenant_rule.run_uncounted(&input);
    assert!(examined.cached && examined.run.operations > 0);
    assert_eq!((tenant_rule.tenant.entries(), tenant_rule.tenant.counters.hits()), (1, 0));
}

#[test]
fn dropped_tenant_rule_removes_its_answers() {
    let verdicts = Arc::new(Verdicts::default());
    let compiled_rule = rule(&verdicts, "allow()");
    let tenant_rule = TenantRule::new(&verdicts, &compiled_rule, "acme");
    ask(&tenant_rule, GUEST, "/", "");
    assert_eq!((verdicts.cache.len(), verdicts.tenants().len()), (1, 1));
    drop(tenant_rule);
    assert_eq!((verdicts.cache.len(), verdicts.tenants().len()), (0, 0));
}
