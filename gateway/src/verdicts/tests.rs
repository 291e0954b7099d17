//! What is kept of rules' answers, and what a failing rule costs.

use super::*;
use crossgate_policy::{Kind, RuleData, RuleLimits, Script, Terms, split_origin};
use http::HeaderMap;

fn rule(verdicts: &Verdicts, body: &str) -> Arc<LiveRule> {
    let source = format!("fn decide(req) {{ {body} }}");
    let script = Script::compile("test", &source, &Arc::new(RuleData::default()), &RuleLimits::default());
    let script = script.unwrap_or_else(|problems| panic!("{problems:?}"));
    let headers = [http::HeaderName::from_static("x-plan")];
    LiveRule::new(Arc::new(Rule::new(verdicts.draw_number(), &Arc::new(script), &headers, &["key".into()], 2)))
}

fn ask(seat: &RuleSeat, origin: &str, path: &str, plan: &'static str) -> Asked {
    let (scheme, host, port) = split_origin(origin).unwrap();
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-plan"), plan.parse().unwrap())]);
    seat.ask(&RuleInput {
        origin,
        scheme,
        host,
        port,
        kind: Kind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path,
        query: "",
        requested_headers: &([] as [&[u8]; 0]),
        headers: &headers,
    })
}

const GUEST: &str = "https://guest.test";

#[test]
fn a_rule_that_reads_only_the_host_answers_ten_thousand_paths_from_one_entry() {
    let verdicts = Arc::new(Verdicts::default());
    let seat = RuleSeat::new(&verdicts, &rule(&verdicts, "if req.host == \"guest.test\" { allow() }"), "acme");
    for n in 0..10_000 {
        let asked = ask(&seat, GUEST, &format!("/{n}"), "gold");
        let source = if n == 0 { Source::Run } else { Source::Cache };
        assert_eq!((asked.answer, asked.source), (Ok(Answer::Allow(Terms::NONE)), source));
    }
    assert_eq!((seat.tenant.entries(), seat.tenant.counters.hits()), (1, 9_999));
}

#[test]
fn a_rule_that_reads_a_header_never_answers_for_another_value_of_it() {
    let verdicts = Arc::new(Verdicts::default());
    let body = "if req.host == \"guest.test\" && req.header(\"x-plan\") == \"gold\" { allow() } else { deny() }";
    let seat = RuleSeat::new(&verdicts, &rule(&verdicts, body), "acme");
    for _ in 0..3 {
        assert_eq!(ask(&seat, GUEST, "/", "gold").answer, Ok(Answer::Allow(Terms::NONE)));
        assert_eq!(ask(&seat, GUEST, "/", "silver").answer, Ok(Answer::Deny(None)));
        assert_eq!(ask(&seat, "https://other.test", "/", "gold").answer, Ok(Answer::Deny(None)));
    }
    assert_eq!(seat.tenant.entries(), 3, "two for the guest, and one for the other whatever its plan");
    assert_eq!(ask(&seat, "https://other.test", "/", "silver").source, Source::Cache);
}

#[test]
fn an_answer_is_kept_for_its_tenant_and_its_rule_alone() {
    let verdicts = Arc::new(Verdicts::default());
    let live = rule(&verdicts, "allow()");
    let (acme, globex) = (RuleSeat::new(&verdicts, &live, "acme"), RuleSeat::new(&verdicts, &live, "globex"));
    assert_eq!(ask(&acme, GUEST, "/", "").source, Source::Run);
    assert_eq!(ask(&globex, GUEST, "/", "").source, Source::Run);
    let again = RuleSeat::new(&verdicts, &live, "acme");
    assert_eq!(ask(&again, GUEST, "/", "").source, Source::Cache, "a tenant that is compiled anew keeps its answers");
    let newer = RuleSeat::new(&verdicts, &rule(&verdicts, "deny()"), "acme");
    let asked = ask(&newer, GUEST, "/", "");
    assert_eq!((asked.answer, asked.source), (Ok(Answer::Deny(None)), Source::Run));
    // A run of the older rule that ends late is kept under the older number.
    assert_eq!(ask(&acme, "https://late.test", "/", "").answer, Ok(Answer::Allow(Terms::NONE)));
    assert_eq!(ask(&newer, "https://late.test", "/", "").answer, Ok(Answer::Deny(None)));
}

#[test]
fn errors_are_not_kept_and_open_the_breaker_while_kept_answers_still_answer() {
    let verdicts = Arc::new(Verdicts::default());
    let body = "if req.host == \"guest.test\" { allow() } else { loop {} }";
    let seat = RuleSeat::new(&verdicts, &rule(&verdicts, body), "acme");
    assert_eq!(ask(&seat, GUEST, "/", "").source, Source::Run);
    // As if that success were long ago.
    let seat = RuleSeat::new(&verdicts, &seat.live, "acme");
    let kinds: Vec<_> = (0..60).map(|_| ask(&seat, "https://bad.test", "/", "").answer.unwrap_err().kind).collect();
    assert!(kinds[..20].iter().all(|kind| *kind == RuleErrorKind::Operations), "{kinds:?}");
    assert!(kinds[20..].contains(&RuleErrorKind::Breaker), "{kinds:?}");
    assert!(seat.is_broken(Instant::now()));
    assert_eq!(ask(&seat, GUEST, "/", "").source, Source::Cache);
    assert!(seat.tenant.counters.errors(RuleErrorKind::Breaker) > 0);
}

#[test]
fn a_tenant_without_time_left_is_denied_and_the_other_is_not() {
    let verdicts = Arc::new(Verdicts::default());
    verdicts.set_limits(
        CacheLimits::default(),
        RuleTimes { run: Duration::from_secs(1), per_second: Duration::from_nanos(1) },
    );
    let live = rule(&verdicts, "deny()");
    let (acme, globex) = (RuleSeat::new(&verdicts, &live, "acme"), RuleSeat::new(&verdicts, &live, "globex"));
    ask(&acme, "https://a.test", "/", "");
    acme.tenant.budget.pay(Instant::now(), Duration::from_secs(1), verdicts.times());
    // What is kept costs no time, so the rule must read something to be run again.
    let reading = RuleSeat::new(&verdicts, &rule(&verdicts, "deny(req.host)"), "acme");
    assert_eq!(ask(&reading, "https://b.test", "/", "").answer.unwrap_err().kind, RuleErrorKind::Budget);
    assert!(ask(&globex, "https://b.test", "/", "").answer.is_ok());
}

#[test]
fn more_sets_of_parts_than_are_remembered_are_not_kept() {
    let verdicts = Arc::new(Verdicts::default());
    let parts = ["tenant", "route", "method", "kind", "scheme", "origin", "port", "requested_headers"];
    let branches: Vec<String> = parts
        .iter()
        .enumerate()
        .map(|(n, part)| format!("if req.path == \"/{n}\" {{ let x = req.{part}; allow() }}"))
        .collect();
    let body = format!("{} else if req.path == \"/8\" {{ deny(req.host) }} else {{ deny() }}", branches.join(" else "));
    let seat = RuleSeat::new(&verdicts, &rule(&verdicts, &body), "acme");
    for n in 0..8 {
        ask(&seat, GUEST, &format!("/{n}"), "");
        assert_eq!(ask(&seat, GUEST, &format!("/{n}"), "").source, Source::Cache, "{n}");
    }
    ask(&seat, GUEST, "/8", "");
    assert_eq!(ask(&seat, GUEST, "/8", "").source, Source::Run);
    assert_eq!(seat.tenant.entries(), 8);
}

#[test]
fn examining_counts_and_keeps_nothing() {
    let verdicts = Arc::new(Verdicts::default());
    let seat = RuleSeat::new(&verdicts, &rule(&verdicts, "if req.host == \"guest.test\" { allow() }"), "acme");
    let headers = HeaderMap::new();
    let input = RuleInput {
        origin: GUEST,
        scheme: "https",
        host: "guest.test",
        port: None,
        kind: Kind::Actual,
        tenant: "acme",
        route: "/",
        method: b"GET",
        path: "/",
        query: "",
        requested_headers: &([] as [&[u8]; 0]),
        headers: &headers,
    };
    assert!(!seat.examine(&input).cached);
    assert_eq!((seat.tenant.entries(), seat.tenant.counters.hits()), (0, 0));
    seat.ask(&input);
    let examined = seat.examine(&input);
    assert!(examined.cached && examined.run.operations > 0);
    assert_eq!((seat.tenant.entries(), seat.tenant.counters.hits()), (1, 0));
}

#[test]
fn with_the_tenant_go_its_answers() {
    let verdicts = Arc::new(Verdicts::default());
    let live = rule(&verdicts, "allow()");
    let seat = RuleSeat::new(&verdicts, &live, "acme");
    ask(&seat, GUEST, "/", "");
    assert_eq!((verdicts.cache.len(), verdicts.tenants().len()), (1, 1));
    drop(seat);
    assert_eq!((verdicts.cache.len(), verdicts.tenants().len()), (0, 0));
}
