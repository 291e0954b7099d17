//! A rule within its policy: when it is asked, what its answer makes of the verdict, and what it may not widen.
use super::*;
use crossgate_policy::{
    Compiled, Dangerously, Decision, Field, Outcome, OwnOrigin, Place, Policy, PolicySpec, Problem, Reason, Request,
    Surroundings, Template, Verdict, check_rule,
};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

fn spec() -> PolicySpec {
    PolicySpec {
        allow_origins: vec!["https://listed.test".into()],
        allow_methods: vec!["PUT".into()],
        allow_credentials: true,
        ..PolicySpec::default()
    }
}

fn with_rule(spec: &PolicySpec, source: &str) -> Result<Policy, Vec<(Place, String)>> {
    let told = |problems: Vec<crossgate_policy::Problem>| {
        problems.into_iter().map(|problem| (problem.place, problem.message)).collect::<Vec<_>>()
    };
    let template = Template::compile_with_rule(spec, Some(Arc::new(body(source)))).map_err(told)?.value;
    Ok(Policy::extend(Arc::new(template), &[]).map_err(told)?.value)
}

fn ask(policy: &Policy, request: &Request<'_>) -> (Verdict, bool) {
    match policy.decide(request) {
        Decision::Static(verdict) => (verdict, false),
        Decision::Ask(call) => {
            let headers = HeaderMap::new();
            let around = Surroundings { tenant: "acme", route: "/", path: "/", query: "", headers: &headers };
            let run = call.rule().run(&call.input(&around), 0, never);
            (call.conclude(run.answer.as_ref().map_err(|error| error.kind)), true)
        }
    }
}

fn get<'a>(origin: &'a str) -> Request<'a> {
    Request { origin: Field::One(origin.as_bytes()), ..Request::new(b"GET", OWN) }
}

fn preflight<'a>(origin: &'a str, method: &'a str) -> Request<'a> {
    Request { requested_method: Field::One(method.as_bytes()), method: b"OPTIONS", ..get(origin) }
}

const GUESTS: &str = "if req.host == \"guest.test\" { allow() } else if req.host == \"no.test\" { deny(\"no\") } else if req.host == \"bad.test\" { 1 }";

#[test]
fn a_rule_is_asked_where_nothing_matched_and_only_about_origins() {
    let policy = with_rule(&spec(), GUESTS).unwrap();
    for (request, reason, is_asked) in [
        (get("https://listed.test"), Reason::Exact, false),
        (get("null"), Reason::NullOrigin, false),
        (get("https://guest.test/"), Reason::MalformedOrigin, false),
        (Request::new(b"GET", OWN), Reason::NonCors, false),
        (get("https://own.invalid"), Reason::SameOrigin, false),
        (get("https://guest.test"), Reason::Rule, true),
        (get("https://no.test"), Reason::RuleDeny, true),
        (get("https://bad.test"), Reason::RuleError, true),
        (get("https://other.test"), Reason::NoMatch, true),
        (get("http://guest.test"), Reason::RuleDeny, true),
        (preflight("https://guest.test", "PUT"), Reason::Rule, true),
        (preflight("https://guest.test", "DELETE"), Reason::Method, true),
        (preflight("https://no.test", "DELETE"), Reason::RuleDeny, true),
    ] {
        let (verdict, asked) = ask(&policy, &request);
        assert_eq!((verdict.reason, asked), (reason, is_asked), "{:?}", request.origin);
        let allows = matches!(reason, Reason::Exact | Reason::NonCors | Reason::SameOrigin | Reason::Rule);
        assert_eq!(verdict.outcome == Outcome::Allow, allows);
    }
    let (verdict, _) = ask(&policy, &get("https://guest.test"));
    assert_eq!(policy.entry_text(verdict.entry.unwrap()), "rule:test");
    assert_eq!(policy.rule().map(|rule| rule.script().name()), Some("test"));
}

#[test]
fn what_overrules_a_rule_is_told() {
    let policy = with_rule(&spec(), GUESTS).unwrap();
    let cause = |origin: &str| policy.explain(ask(&policy, &get(origin)).0, &get(origin)).cause;
    let told = "plain `http` is refused with credentials, whatever the rule says";
    assert_eq!(cause("http://guest.test").as_deref(), Some(told));
    assert_eq!(cause("https://no.test"), None);
}

#[test]
fn an_answer_narrows_and_never_widens() {
    let edits = |source: &str, credentials| {
        let spec = PolicySpec { allow_credentials: credentials, max_age_seconds: 100, ..spec() };
        let policy = with_rule(&spec, source).unwrap();
        let request = preflight("https://guest.test", "PUT");
        let (verdict, _) = ask(&policy, &request);
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        policy
            .edits(&verdict, &request)
            .map(|edit| format!("{}: {}", edit.name, text(edit.value.as_bytes())))
            .collect::<Vec<_>>()
    };
    let origin = "access-control-allow-origin: https://guest.test";
    let methods = "access-control-allow-methods: PUT";
    let with = |terms: &str| format!("if req.host == \"guest.test\" {{ allow({terms}) }}");
    let credentials = "access-control-allow-credentials: true";
    for (terms, has_credentials, max_age) in [
        ("", true, 100),
        ("#{ maxAge: 5 }", true, 5),
        ("#{ maxAge: 0 }", true, 0),
        ("#{ maxAge: 1000, credentials: true }", true, 100),
        ("#{ credentials: false }", false, 100),
    ] {
        let age = format!("access-control-max-age: {max_age}");
        let expected: Vec<&str> =
            if has_credentials { vec![origin, credentials, methods, &age] } else { vec![origin, methods, &age] };
        assert_eq!(edits(&with(terms), true), expected, "{terms}");
    }
    assert_eq!(edits(&with("#{ credentials: true }"), false), [origin, methods, "access-control-max-age: 100"]);
}

#[test]
fn strangers_are_refused_with_credentials() {
    let refused = |spec: &PolicySpec, source: &str| with_rule(spec, source).err();
    for source in [
        "allow()",
        "if req.scheme == \"https\" { allow() }",
        "if req.host.ends_with(\".io\") { allow() }",
        "if req.kind == \"preflight\" { allow() }",
        "if !req.host.contains(\"evil\") { allow() }",
    ] {
        let problems = refused(&spec(), source).unwrap_or_else(|| panic!("{source} is accepted"));
        assert_eq!(problems[0].0, Place::Rule);
        assert!(problems[0].1.contains("dangerouslyAllowAnyOrigin"));
        assert!(refused(&PolicySpec { allow_credentials: false, ..spec() }, source).is_none(), "without credentials");
        let dangerously = Dangerously { allow_any_origin: true, ..Dangerously::default() };
        assert!(refused(&PolicySpec { dangerously, ..spec() }, source).is_none(), "with the override");
    }
    assert!(refused(&spec(), "allow(#{ credentials: false })").is_none(), "credentials withheld");
    let one = with_rule(&spec(), "if req.tenant == \"open\" { allow() }").unwrap();
    assert!(one.check_tenant("acme").is_ok() && one.check_tenant("open").is_err());
}

#[test]
fn a_rule_and_its_policy_agree() {
    let any =
        PolicySpec { allow_origins: vec!["https://a.test".into(), "*".into()], allow_credentials: false, ..spec() };
    let beside_any = with_rule(&any, GUESTS).unwrap_err();
    assert_eq!(beside_any[0].0, Place::Rule);
    let told = |spec| check_rule(&body(GUESTS), spec).into_iter().map(|problem| (problem.place, problem.message));
    assert_eq!(told(&any).collect::<Vec<_>>(), beside_any);
    assert_eq!(told(&spec()).count(), 0);
    let script = Arc::new(compile("fn decide(req) { if req.header(\"x-a\") == req.query(\"k\") { deny() } }").unwrap());
    let listed = |headers: &[&str], query: &[&str]| {
        let headers: Vec<HeaderName> = headers.iter().map(|name| name.parse().unwrap()).collect();
        let query: Vec<Box<str>> = query.iter().map(|key| (*key).into()).collect();
        Template::compile_with_rule(&spec(), Some(Arc::new(Rule::new(1, &script, &headers, &query, 1))))
    };
    let messages = |result: Result<_, Vec<Problem>>| {
        result
            .map(|_: Compiled<Template>| ())
            .unwrap_err()
            .into_iter()
            .map(|problem| problem.message)
            .collect::<Vec<_>>()
    };
    let header = "the script test reads the header `x-a` in line 1, expected it in the rule's `headers`";
    let query = "the script test reads the query key `k` in line 1, expected it in the rule's `query`";
    assert_eq!(messages(listed(&[], &[])), [header, query]);
    assert_eq!(messages(listed(&["x-a"], &[])), [query]);
    assert!(listed(&["x-a"], &["k"]).unwrap().warnings.is_empty());
    assert_eq!(listed(&["x-a", "x-b"], &["k"]).unwrap().warnings[0].place, Place::RuleHeaders(1));
}

#[test]
fn a_tenants_own_origins_stand_beside_a_rule_unless_they_are_any() {
    let spec = PolicySpec { allow_credentials: false, ..spec() };
    let template = Arc::new(Template::compile_with_rule(&spec, Some(Arc::new(body(GUESTS)))).unwrap().value);
    let extend = |own: &[&str]| {
        let own: Vec<String> = own.iter().map(|origin| (*origin).to_owned()).collect();
        Policy::extend(Arc::clone(&template), &own)
    };
    let policy = extend(&["https://own.test"]).unwrap().value;
    assert_eq!(ask(&policy, &get("https://own.test")).0.reason, Reason::Exact);
    assert_eq!(ask(&policy, &get("https://guest.test")).0.reason, Reason::Rule);
    let problems = extend(&["https://own.test", "*"]).unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.place).collect::<Vec<_>>(), [Place::AllowOrigins(1)]);
}

#[test]
fn every_listed_header_is_in_vary() {
    let script = Arc::new(compile("fn decide(req) { if req.header(\"x-a\") == \"1\" { deny() } }").unwrap());
    let rule = Rule::new(1, &script, &["x-a".parse().unwrap()], &[], 1);
    let template = Template::compile_with_rule(&spec(), Some(Arc::new(rule))).unwrap().value;
    let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    for kind in Kind::ALL {
        let tokens: Vec<&str> = policy.vary(kind).collect();
        assert_eq!(tokens.last(), Some(&"x-a"));
        assert_eq!(policy.vary_value(kind).unwrap().as_bytes(), tokens.join(", ").as_bytes());
    }
}
