//! Tests of a rule within its policy: when it runs, the verdict after its answer, and its limits.
use super::*;
use crossgate_policy::{
    CompileOutput, CorsRequest, DangerousSwitches, Decision, Outcome, OwnOrigin, Policy, PolicySpec, Reason,
    RequestField, RuleContext, SpecLocation, SpecProblem, Template, Verdict, check_rule,
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

fn with_rule(spec: &PolicySpec, source: &str) -> Result<Policy, Vec<(SpecLocation, String)>> {
    let pairs = |problems: Vec<crossgate_policy::SpecProblem>| {
        problems.into_iter().map(|problem| (problem.location, problem.message)).collect::<Vec<_>>()
    };
    let template = Template::compile_with_rule(spec, Some(Arc::new(body(source)))).map_err(pairs)?.value;
    Ok(Policy::extend(Arc::new(template), &[]).map_err(pairs)?.value)
}

fn run_policy(policy: &Policy, request: &CorsRequest<'_>) -> (Verdict, bool) {
    match policy.decide(request) {
        Decision::Static(verdict) => (verdict, false),
        Decision::Ask(call) => {
            let headers = HeaderMap::new();
            let context = RuleContext { tenant: "acme", route: "/", path: "/", query: "", headers: &headers };
            let run = call.rule().run(&call.input(&context), 0, never);
            (call.conclude(run.answer.as_ref().map_err(|error| error.kind)), true)
        }
    }
}

fn get<'a>(origin: &'a str) -> CorsRequest<'a> {
    CorsRequest { origin: RequestField::One(origin.as_bytes()), ..CorsRequest::new(b"GET", OWN) }
}

fn preflight<'a>(origin: &'a str, method: &'a str) -> CorsRequest<'a> {
    CorsRequest { requested_method: RequestField::One(method.as_bytes()), method: b"OPTIONS", ..get(origin) }
}

const GUESTS: &str = "if req.host == \"guest.test\" { allow() } else if req.host == \"no.test\" { deny(\"no\") } else if req.host == \"bad.test\" { 1 }";

#[test]
fn rule_runs_only_for_unmatched_well_formed_origins() {
    let policy = with_rule(&spec(), GUESTS).unwrap();
    for (request, reason, runs_rule) in [
        (get("https://listed.test"), Reason::Exact, false),
        (get("null"), Reason::NullOrigin, false),
        (get("https://guest.test/"), Reason::MalformedOrigin, false),
        (CorsRequest::new(b"GET", OWN), Reason::NonCors, false),
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
        let (verdict, has_run) = run_policy(&policy, &request);
        assert_eq!((verdict.reason, has_run), (reason, runs_rule), "{:?}", request.origin);
        let allows = matches!(reason, Reason::Exact | Reason::NonCors | Reason::SameOrigin | Reason::Rule);
        assert_eq!(verdict.outcome == Outcome::Allow, allows);
    }
    let (verdict, _) = run_policy(&policy, &get("https://guest.test"));
    assert_eq!(policy.entry_text(verdict.entry.unwrap()), "rule:test");
    assert_eq!(policy.rule().map(|rule| rule.script().name()), Some("test"));
}

#[test]
fn policy_that_overrides_a_rule_is_explained() {
    let policy = with_rule(&spec(), GUESTS).unwrap();
    let cause = |origin: &str| policy.explain(run_policy(&policy, &get(origin)).0, &get(origin)).cause;
    let expected = "plain `http` is refused with credentials, even if the rule allows the origin";
    assert_eq!(cause("http://guest.test").as_deref(), Some(expected));
    assert_eq!(cause("https://no.test"), None);
    let local = with_rule(&spec(), "if req.origin == \"file://\" || req.host == \".\" { allow() }").unwrap();
    for origin in ["file://", "app://."] {
        let (verdict, has_run) = run_policy(&local, &get(origin));
        assert_eq!((verdict.reason, has_run), (Reason::RuleDeny, true), "{origin}");
        let cause = local.explain(verdict, &get(origin)).cause.unwrap();
        assert_eq!(cause, "origins of local files are refused with credentials, even if the rule allows the origin");
    }
}

#[test]
fn rule_answer_narrows_and_never_widens() {
    let edits = |source: &str, credentials| {
        let spec = PolicySpec { allow_credentials: credentials, max_age_seconds: 100, ..spec() };
        let policy = with_rule(&spec, source).unwrap();
        let request = preflight("https://guest.test", "PUT");
        let (verdict, _) = run_policy(&policy, &request);
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
fn rule_terms_apply_to_explained_refusals() {
    for (terms, has_credentials) in [("", true), ("#{ credentials: false }", false)] {
        let policy = with_rule(&spec(), &format!("if req.host == \"guest.test\" {{ allow({terms}) }}")).unwrap();
        let request = preflight("https://guest.test", "DELETE");
        let (verdict, _) = run_policy(&policy, &request);
        assert_eq!((verdict.outcome, verdict.reason), (Outcome::Deny, Reason::Method));
        let names = policy.refusal_edits(&verdict, &request).map(|edit| edit.name);
        let has_field = names.into_iter().any(|name| name == "access-control-allow-credentials");
        assert_eq!(has_field, has_credentials, "{terms}");
    }
    let policy = with_rule(&spec(), "if req.host == \"guest.test\" { deny(\"no\") }").unwrap();
    let request = preflight("https://guest.test", "DELETE");
    let (verdict, _) = run_policy(&policy, &request);
    assert_eq!(policy.refusal_edits(&verdict, &request).count(), 0, "a denied origin gets no fields");
}

#[test]
fn rule_that_allows_unlisted_origins_with_credentials_is_refused() {
    let refused = |spec: &PolicySpec, source: &str| with_rule(spec, source).err();
    for source in [
        "allow()",
        "if req.scheme == \"https\" { allow() }",
        "if req.host.ends_with(\".io\") { allow() }",
        "if req.kind == \"preflight\" { allow() }",
        "if !req.host.contains(\"evil\") { allow() }",
    ] {
        let problems = refused(&spec(), source).unwrap_or_else(|| panic!("{source} is accepted"));
        assert_eq!(problems[0].0, SpecLocation::Rule);
        assert!(problems[0].1.contains("dangerouslyAllowAnyOrigin"));
        assert!(refused(&PolicySpec { allow_credentials: false, ..spec() }, source).is_none(), "without credentials");
        let dangerously = DangerousSwitches { allow_any_origin: true, ..DangerousSwitches::default() };
        assert!(refused(&PolicySpec { dangerously, ..spec() }, source).is_none(), "with the override");
    }
    assert!(refused(&spec(), "allow(#{ credentials: false })").is_none(), "credentials withheld");
    let extensions = "if req.scheme.ends_with(\"-extension\") { allow() }";
    let problems = refused(&spec(), extensions).unwrap();
    assert!(
        problems[0].1.contains("`chrome-extension://any-name`")
            && problems[0].1.ends_with("`dangerouslyAllowAnyExtension` as well")
    );
    let dangerously = DangerousSwitches { allow_any_extension: true, ..DangerousSwitches::default() };
    assert!(refused(&PolicySpec { dangerously, ..spec() }, extensions).is_none());
    assert!(refused(&PolicySpec { dangerously, ..spec() }, "allow()").is_some());
    let one = with_rule(&spec(), "if req.tenant == \"open\" { allow() }").unwrap();
    assert!(one.check_tenant("acme").is_ok() && one.check_tenant("open").is_err());
}

#[test]
fn rule_that_conflicts_with_its_policy_is_refused() {
    let any =
        PolicySpec { allow_origins: vec!["https://a.test".into(), "*".into()], allow_credentials: false, ..spec() };
    let next_to_any = with_rule(&any, GUESTS).unwrap_err();
    assert_eq!(next_to_any[0].0, SpecLocation::Rule);
    let found = |spec| check_rule(&body(GUESTS), spec).into_iter().map(|problem| (problem.location, problem.message));
    assert_eq!(found(&any).collect::<Vec<_>>(), next_to_any);
    assert_eq!(found(&spec()).count(), 0);
    let script = Arc::new(compile("fn decide(req) { if req.header(\"x-a\") == req.query(\"k\") { deny() } }").unwrap());
    let listed = |headers: &[&str], query: &[&str]| {
        let headers: Vec<HeaderName> = headers.iter().map(|name| name.parse().unwrap()).collect();
        let query: Vec<Box<str>> = query.iter().map(|key| (*key).into()).collect();
        Template::compile_with_rule(&spec(), Some(Arc::new(Rule::new(1, &script, &headers, &query, 1))))
    };
    let messages = |result: Result<_, Vec<SpecProblem>>| {
        result
            .map(|_: CompileOutput<Template>| ())
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
    assert_eq!(listed(&["x-a", "x-b"], &["k"]).unwrap().warnings[0].location, SpecLocation::RuleHeaders(1));
}

#[test]
fn tenant_origins_combine_with_a_rule_unless_any() {
    let spec = PolicySpec { allow_credentials: false, ..spec() };
    let template = Arc::new(Template::compile_with_rule(&spec, Some(Arc::new(body(GUESTS)))).unwrap().value);
    let extend = |own: &[&str]| {
        let own: Vec<String> = own.iter().map(|origin| (*origin).to_owned()).collect();
        Policy::extend(Arc::clone(&template), &own)
    };
    let policy = extend(&["https://own.test"]).unwrap().value;
    assert_eq!(run_policy(&policy, &get("https://own.test")).0.reason, Reason::Exact);
    assert_eq!(run_policy(&policy, &get("https://guest.test")).0.reason, Reason::Rule);
    let problems = extend(&["https://own.test", "*"]).unwrap_err();
    assert_eq!(problems.iter().map(|problem| problem.location).collect::<Vec<_>>(), [SpecLocation::AllowOrigins(1)]);
}

#[test]
fn every_listed_header_is_in_vary() {
    let script = Arc::new(compile("fn decide(req) { if req.header(\"x-a\") == \"1\" { deny() } }").unwrap());
    let rule = Rule::new(1, &script, &["x-a".parse().unwrap()], &[], 1);
    let template = Template::compile_with_rule(&spec(), Some(Arc::new(rule))).unwrap().value;
    let policy = Policy::extend(Arc::new(template), &[]).unwrap().value;
    for kind in RequestKind::ALL {
        let tokens: Vec<&str> = policy.vary(kind).collect();
        assert_eq!(tokens.last(), Some(&"x-a"));
        assert_eq!(policy.vary_value(kind).unwrap().as_bytes(), tokens.join(", ").as_bytes());
    }
}

/// Returns the message that refuses a rule with this body in a policy with credentials.
fn refusal(source: &str) -> Option<String> {
    with_rule(&spec(), source).err()?.into_iter().next().map(|(_, message)| message)
}

#[test]
fn e_probes_use_the_literals_of_a_rule() {
    for (source, unlisted) in [
        ("if req.host.ends_with(\"x.dev\") { allow() }", "https://evilx.dev"),
        ("if req.host.ends_with(\"X.dev\".to_lower()) { allow() }", "https://evilx.dev"),
        ("if req.origin.ends_with(\"x.dev:8443\") { allow() }", "https://evilx.dev:8443"),
        ("if req.origin.ends_with(\"://x.dev\") || req.host.ends_with(\"y.dev\") { allow() }", "https://evily.dev"),
        ("if req.origin.starts_with(\"https://x.dev\") { allow() }", "https://x.dev.evil.example"),
        ("if req.host.starts_with(\"app.x.\") { allow() }", "https://app.x.evil.example"),
        ("if req.host.contains(\"x.dev\") { allow() }", "https://evilx.dev"),
        ("if req.host.contains(\"acme\") { allow() }", "https://evilacme.example"),
        ("if glob(\"https://*x.dev\", req.origin) { allow() }", "https://evilx.dev"),
        ("if glob(\"pr-*.vercel.app\", req.host) { allow() }", "https://pr-evil.vercel.app"),
        ("if req.host.starts_with(\"pr-\") && req.host.ends_with(\"x.dev\") { allow() }", "https://pr-evilx.dev"),
        ("if req.host.ends_with(\".dev\") { allow() }", "https://evil.dev"),
        ("if label(req.host, 0) == \"app\" { allow() }", "https://app.evil.example"),
        ("for d in [\"a.dev\", \"b.dev\"] { if req.host.ends_with(d) { return allow(); } }", "https://evila.dev"),
        ("switch req.port { 9443 => allow(), _ => () }", "https://evil.example:9443"),
    ] {
        let message = refusal(source).unwrap_or_else(|| panic!("{source} is accepted"));
        assert!(message.contains(&format!("such as `{unlisted}`")), "{source}: {message}");
    }
    for good in [
        "if req.host == \"x.dev\" || req.host.ends_with(\".x.dev\") { allow() }",
        "if host_under(req.host, \"x.dev\") { allow() }",
        "if glob(\"https://*.x.dev\", req.origin) || glob(\"https://pr-*-web.x.dev\", req.origin) { allow() }",
        "if req.host.starts_with(\"pr-\") && req.host.ends_with(\"-web.x.dev\") { allow() }",
        "if req.host.ends_with(\"localhost\") { allow() }",
        "if registrable_domain(req.host) == \"x.dev\" { allow() }",
        "if in_set(\"partners\", req.host) { allow() } else { deny(\"no evil or x.dev here\") }",
        "if lookup(\"owners\", req.host) == req.tenant { allow() }",
    ] {
        assert_eq!(refusal(good), None, "{good}");
    }
}

#[test]
fn e_probes_fill_the_listed_fields() {
    for (source, expected) in [
        (
            "if req.header(\"x-plan\") == \"pro\" { allow() }",
            "`https://any-name.example` with `pro` in its header or query",
        ),
        (
            "if req.header(\"x-plan\") != () { allow() }",
            "`https://any-name.example` with `any-name` in its header or query",
        ),
        (
            "switch req.query(\"k\") { \"a b&c\" => allow(), _ => () }",
            "`https://any-name.example` with `a b&c` in its header or query",
        ),
        (
            "if req.header(\"x-plan\") == \"pro\" && req.host.ends_with(\"x.dev\") { allow() }",
            "`https://evilx.dev` with `pro` in its",
        ),
        (
            "if req.path.starts_with(\"/public\") { allow() }",
            "`https://any-name.example` with `/public` in its path, method or host",
        ),
        ("if req.method == \"PUT\" { allow() }", "`https://any-name.example` with `PUT` in its path, method or host"),
        (
            "if req.api_host == \"open.test\" { allow() }",
            "`https://any-name.example` with `open.test` in its path, method or host",
        ),
        ("if req.requested_headers.contains(\"x-a\") { allow() }", "`https://any-name.example` with `x-a` in its"),
    ] {
        let message = refusal(source).unwrap_or_else(|| panic!("{source} is accepted"));
        assert!(message.contains(&format!("such as {expected}")), "{source}: {message}");
    }
    for good in [
        "if req.header(\"x-plan\") == \"pro\" && req.host == \"x.dev\" { allow() }",
        "if req.header(\"x-plan\") == \"pro\" { allow(#{ credentials: false }) }",
    ] {
        assert_eq!(refusal(good), None, "{good}");
    }
}
