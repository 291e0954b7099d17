//! Tests of rules that answer groups: the terms of an answer, the names of groups in scripts, and
//! the checks that depend on the credentials of the answered group.
use super::*;
use crossgate_policy::{
    CompileOutput, CorsRequest, CrossSiteProtection, DangerousSwitches, Decision, GroupSpec, OwnOrigin, OwnOriginSpec,
    Policy, PolicySpec, Reason, RequestField, RuleContext, SpecLocation, SpecProblem, Template, Verdict, check_rule,
};

const OWN: OwnOrigin<'_> = OwnOrigin { host: "own.invalid", port: None, scheme: None };

/// A policy without credentials and two groups: `partners` with credentials and `public` without.
fn spec() -> PolicySpec {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let partners = GroupSpec {
        name: "partners".into(),
        allow_origins: texts(&["https://listed.test"]),
        allow_methods: Some(texts(&["DELETE"])),
        allow_headers: Some(texts(&["x-own"])),
        expose_headers: Some(texts(&["x-rate"])),
        allow_credentials: Some(true),
        max_age_seconds: Some(100),
        ..GroupSpec::default()
    };
    let public = GroupSpec {
        name: "public".into(),
        allow_methods: Some(texts(&["PATCH"])),
        tenants_may_add: true,
        ..GroupSpec::default()
    };
    PolicySpec { allow_methods: texts(&["PUT"]), groups: vec![partners, public], ..PolicySpec::default() }
}

fn listing(source: &str, groups: &[&str]) -> Arc<Rule> {
    let groups: Vec<Box<str>> = groups.iter().map(|group| (*group).into()).collect();
    Arc::new(body(source).with_groups(&groups))
}

fn template(spec: &PolicySpec, source: &str) -> Result<CompileOutput<Template>, Vec<SpecProblem>> {
    Template::compile_with_rule(spec, Some(listing(source, &["partners", "public"])))
}

fn extend(template: CompileOutput<Template>, own: &[OwnOriginSpec]) -> Policy {
    Policy::extend_groups(Arc::new(template.value), own).unwrap_or_else(|problems| panic!("{problems:?}")).value
}

fn policy(spec: &PolicySpec, source: &str) -> Policy {
    extend(template(spec, source).unwrap_or_else(|problems| panic!("{source}: {problems:?}")), &[])
}

fn decide(policy: &Policy, request: &CorsRequest<'_>) -> Verdict {
    match policy.decide(request) {
        Decision::Static(verdict) => verdict,
        Decision::Ask(call) => {
            let headers = HeaderMap::new();
            let context = RuleContext { tenant: "acme", route: "/", path: "/", query: "", headers: &headers };
            let run = call.rule().run(&call.input(&context), 0, never);
            call.conclude(run.answer.as_ref().map_err(|error| error.kind))
        }
    }
}

fn get<'a>(origin: &'a str) -> CorsRequest<'a> {
    CorsRequest { origin: RequestField::One(origin.as_bytes()), ..CorsRequest::new(b"GET", OWN) }
}

fn preflight<'a>(origin: &'a str, method: &'a str) -> CorsRequest<'a> {
    CorsRequest { requested_method: RequestField::One(method.as_bytes()), method: b"OPTIONS", ..get(origin) }
}

/// Returns the reason, the name of the group, and the fields without their common prefix.
fn answer(policy: &Policy, request: &CorsRequest<'_>) -> (Reason, Option<String>, Vec<String>) {
    let verdict = decide(policy, request);
    let line = |name: &HeaderName, value: &[u8]| {
        format!("{}: {}", name.as_str().trim_start_matches("access-control-"), value.escape_ascii())
    };
    let edits = policy.edits(&verdict, request).chain(policy.refusal_edits(&verdict, request));
    let fields = edits.map(|edit| line(&edit.name, edit.value.as_bytes())).collect();
    (verdict.reason, policy.group_name(verdict.group).map(str::to_owned), fields)
}

fn locations(problems: &[SpecProblem]) -> Vec<SpecLocation> {
    problems.iter().map(|problem| problem.location).collect()
}

/// Returns the message that refuses a rule with this body, which lists both groups.
fn refusal(spec: &PolicySpec, source: &str) -> Option<String> {
    let problems = template(spec, source).err()?;
    assert_eq!(locations(&problems), [SpecLocation::Rule], "{problems:?}");
    problems.into_iter().next().map(|problem| problem.message)
}

const GUESTS: &str = "switch req.host {
    \"partner.test\" => allow(#{ group: \"partners\" }),
    \"brief.test\" => allow(#{ group: \"partners\", maxAge: 5 }),
    \"long.test\" => allow(#{ group: \"partners\", maxAge: 1000, credentials: true }),
    \"bare.test\" => allow(#{ credentials: false, group: \"partners\" }),
    \"public.test\" => allow(#{ group: \"public\", credentials: true }),
    \"plain.test\" => allow(),
    \"no.test\" => deny(\"no\"),
    _ => (),
}";

#[test]
fn rule_answer_gives_the_terms_of_its_group() {
    let policy = policy(&spec(), GUESTS);
    let partners = |origin: &str, credentials: bool, last: &[&str]| {
        let fields = [Some(format!("allow-origin: {origin}")), credentials.then(|| "allow-credentials: true".into())];
        let fields = fields.into_iter().flatten().chain(last.iter().map(|field| (*field).to_owned()));
        (Reason::Rule, Some("partners".to_owned()), fields.collect::<Vec<String>>())
    };
    for (host, credentials, age) in
        [("partner", true, 100), ("brief", true, 5), ("long", true, 100), ("bare", false, 100)]
    {
        let origin = format!("https://{host}.test");
        let age = format!("max-age: {age}");
        let last = ["allow-methods: DELETE", "allow-headers: x-own", &age];
        assert_eq!(answer(&policy, &preflight(&origin, "DELETE")), partners(&origin, credentials, &last));
        assert_eq!(answer(&policy, &get(&origin)), partners(&origin, credentials, &["expose-headers: x-rate"]));
    }
    let allowed = |group: Option<&str>, fields: &[&str]| {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>();
        (Reason::Rule, group.map(str::to_owned), fields)
    };
    let public = ["allow-origin: https://public.test", "allow-methods: PATCH", "max-age: 600"];
    assert_eq!(answer(&policy, &preflight("https://public.test", "PATCH")), allowed(Some("public"), &public));
    let plain = ["allow-origin: https://plain.test", "allow-methods: PUT", "max-age: 600"];
    assert_eq!(answer(&policy, &preflight("https://plain.test", "PUT")), allowed(None, &plain));
    let entry = decide(&policy, &get("https://partner.test")).entry.unwrap();
    let names: Vec<_> = policy.entry_groups(entry).map(|group| policy.group_name(group)).collect();
    assert_eq!((policy.entry_text(entry), names), ("rule:test", vec![None, Some("partners"), Some("public")]));
}

#[test]
fn refused_preflight_of_a_rule_names_the_lists_of_its_group() {
    let policy = policy(&spec(), GUESTS);
    let (reason, group, fields) = answer(&policy, &preflight("https://partner.test", "PUT"));
    assert_eq!((reason, group.as_deref()), (Reason::Method, Some("partners")));
    let expected = [
        "allow-origin: https://partner.test",
        "allow-credentials: true",
        "allow-methods: DELETE",
        "allow-headers: x-own",
        "max-age: 0",
    ];
    assert_eq!(fields, expected);
    let (reason, _, fields) = answer(&policy, &preflight("https://bare.test", "PUT"));
    assert_eq!((reason, fields.contains(&"allow-credentials: true".to_owned())), (Reason::Method, false));
    assert_eq!(answer(&policy, &preflight("https://no.test", "DELETE")), (Reason::RuleDeny, None, Vec::new()));
    assert_eq!(answer(&policy, &preflight("https://other.test", "PUT")), (Reason::NoMatch, None, Vec::new()));
}

#[test]
fn static_entry_decides_before_a_rule_for_another_group() {
    let policy = policy(&spec(), "if req.host == \"listed.test\" { allow(#{ group: \"public\" }) }");
    let (reason, group, _) = answer(&policy, &get("https://listed.test"));
    assert_eq!((reason, group.as_deref()), (Reason::Exact, Some("partners")));
}

#[test]
fn script_that_answers_an_unlisted_group_is_refused() {
    let source =
        "if req.host == \"a.test\" {\nallow(#{ group: \"partners\" })\n} else { allow(#{ group: \"public\" }) }";
    let check = |groups: &[&str]| check_rule(&listing(source, groups), &spec());
    let message = |group: &str, line: u32| {
        format!("the script test answers the group `{group}` in line {line}, expected it in the rule's `groups`")
    };
    let found = check(&[]);
    let messages: Vec<&str> = found.iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages, [message("partners", 3), message("public", 4)]);
    assert_eq!(locations(&found), [SpecLocation::Rule, SpecLocation::Rule]);
    assert_eq!(check(&["partners"]).into_iter().map(|one| one.message).collect::<Vec<_>>(), [message("public", 4)]);
    assert_eq!(check(&["public", "partners"]), []);
    assert_eq!(
        Template::compile_with_rule(&spec(), Some(listing(source, &[]))).map(|_| ()).map_err(|found| found.len()),
        Err(2)
    );
    // Without its list, a rule does not even answer.
    assert_eq!(run(&listing(source, &[])).answer.map_err(|error| error.kind), Err(RuleErrorKind::Unlisted));
    let answer = run(&listing(source, &["partners", "public"])).answer;
    assert_eq!(answer, Ok(RuleAnswer::Allow { group: Some(1), terms: RuleTerms::NONE }));
}

#[test]
fn computed_name_of_a_group_is_refused() {
    for (line, column) in [
        ("allow(#{ group: req.host })", 17),
        ("let name = \"partners\"; allow(#{ group: name })", 40),
        ("allow(#{ group: \"part\" + \"ners\" })", 24),
        ("allow(#{ maxAge: 5, group: 1 })", 28),
        ("allow(#{ group: () })", 17),
    ] {
        let problems = compile(&format!("fn decide(req) {{\n{line}\n}}")).unwrap_err();
        let first = problems.first().unwrap();
        assert!(first.message.contains("the name of a group is computed, expected it in quotes"), "{line}: {first:?}");
        assert_eq!((first.line, first.column), (2, column), "{line}");
    }
    let script =
        compile("fn decide(req) {\n if req.port == 1 { allow(#{ group: \"a\" }) } else { allow(#{ group: \"a\" }) } }");
    let script = script.unwrap();
    let groups: Vec<_> = script.groups().iter().map(|(name, at)| (&**name, at.line, at.column)).collect();
    assert_eq!(groups, [("a", 2, 37)]);
}

#[test]
fn options_do_not_reach_the_answer_without_a_known_name() {
    // The audit finds names in every map, also in those that are passed on.
    let passed = "let terms = #{ group: \"hidden\" }; allow(terms)";
    assert_eq!(body(passed).script().groups().iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["hidden"]);
    fails(passed, RuleErrorKind::Unlisted);
    fails("let terms = #{ group: \"\" }; allow(terms)", RuleErrorKind::Unlisted);
    fails("let terms = #{ groups: \"a\" }; allow(terms)", RuleErrorKind::Result);
}

#[test]
fn listed_group_must_exist_and_be_answered() {
    let source = "if req.host == \"a.test\" { allow(#{ group: \"partners\" }) }";
    let compiled = |groups: &[&str]| Template::compile_with_rule(&spec(), Some(listing(source, groups)));
    let problems = compiled(&["partners", "unknown"]).unwrap_err();
    assert_eq!(locations(&problems), [SpecLocation::RuleGroups(1)]);
    assert!(problems.iter().all(|one| one.message.ends_with("expected one of `partners`, `public`")), "{problems:?}");
    let warnings = compiled(&["public", "partners"]).unwrap().warnings;
    assert_eq!(locations(&warnings), [SpecLocation::RuleGroups(0)]);
    assert!(warnings.iter().all(|one| one.message.contains("the rule never answers `public`")), "{warnings:?}");
    assert!(compiled(&["partners"]).unwrap().warnings.is_empty());
    // A group that only a rule answers can be reached.
    let mut closed = spec();
    closed.groups.iter_mut().for_each(|group| group.tenants_may_add = false);
    let unreachable = Template::compile(&closed).unwrap().warnings;
    assert_eq!(
        unreachable.iter().map(|one| (one.group, one.location)).collect::<Vec<_>>(),
        [(Some(1), SpecLocation::Group)]
    );
    let answering = listing("if req.host == \"a.test\" { allow(#{ group: \"public\" }) }", &["public"]);
    assert!(Template::compile_with_rule(&closed, Some(answering)).unwrap().warnings.is_empty());
}

#[test]
fn unlisted_origins_are_probed_by_the_credentials_of_the_answered_group() {
    let named = "if req.host == \"a.test\" { allow(#{ group: \"partners\" }) } else";
    for open in ["allow()", "allow(#{ group: \"public\" })", "allow(#{ group: \"partners\", credentials: false })"] {
        assert_eq!(refusal(&spec(), &format!("{named} {{ {open} }}")), None, "{open}");
    }
    for open in ["allow(#{ group: \"partners\" })", "allow(#{ group: \"partners\", maxAge: 1 })"] {
        let source = format!("if req.host == \"a.test\" {{ allow(#{{ group: \"public\" }}) }} else {{ {open} }}");
        let message = refusal(&spec(), &source).unwrap_or_else(|| panic!("{open} is accepted"));
        assert!(message.contains("unlisted origins with credentials, such as `https://any-name.example`"), "{message}");
        let dangerously = DangerousSwitches { allow_any_origin: true, ..DangerousSwitches::default() };
        assert_eq!(refusal(&PolicySpec { dangerously, ..spec() }, &source), None);
    }
    let suffix =
        "if req.host.ends_with(\"x.dev\") { allow(#{ group: \"partners\" }) } else { allow(#{ group: \"public\" }) }";
    assert!(refusal(&spec(), suffix).unwrap().contains("`https://evilx.dev`"));
    // The policy's own credentials count only for answers without a group.
    let credentialed = || {
        let mut spec = PolicySpec { allow_credentials: true, ..spec() };
        spec.groups
            .iter_mut()
            .filter(|group| group.name == "public")
            .for_each(|group| group.allow_credentials = Some(false));
        spec
    };
    assert_eq!(refusal(&credentialed(), &format!("{named} {{ allow(#{{ group: \"public\" }}) }}")), None);
    let public = "if req.host == \"a.test\" { allow(#{ group: \"partners\" }) } else if req.host == \"b.test\" { allow(#{ group: \"public\" }) } else";
    assert!(refusal(&credentialed(), &format!("{public} {{ allow() }}")).is_some());
    let extensions =
        "if req.scheme == \"moz-extension\" { allow(#{ group: \"partners\" }) } else { allow(#{ group: \"public\" }) }";
    assert!(refusal(&spec(), extensions).unwrap().ends_with("`dangerouslyAllowAnyExtension` as well"));
}

#[test]
fn tenant_is_probed_by_the_credentials_of_the_answered_group() {
    let answer = |group: &str| {
        format!(
            "if req.tenant == \"open\" {{ allow(#{{ group: \"{group}\" }}) }} else if req.host == \"a.test\" {{ allow(#{{ group: \"{}\" }}) }}",
            if group == "public" { "partners" } else { "public" }
        )
    };
    let partners = policy(&spec(), &answer("partners"));
    assert_eq!(partners.check_tenant("acme"), Ok(()));
    let problem = partners.check_tenant("open").unwrap_err();
    assert_eq!(problem.location, SpecLocation::Rule);
    assert!(problem.message.contains("with credentials"), "{problem}");
    let public = policy(&spec(), &answer("public"));
    assert_eq!([public.check_tenant("acme"), public.check_tenant("open")], [Ok(()), Ok(())]);
}

#[test]
fn plain_http_is_refused_by_the_credentials_of_the_answered_group() {
    let policy = policy(&spec(), GUESTS);
    for (origin, reason, group) in [
        ("http://partner.test", Reason::RuleDeny, Some("partners")),
        ("http://public.test", Reason::Rule, Some("public")),
        ("http://plain.test", Reason::Rule, None),
        ("https://partner.test", Reason::Rule, Some("partners")),
    ] {
        let (found, name, fields) = answer(&policy, &get(origin));
        assert_eq!(
            (found, name.as_deref(), fields.is_empty()),
            (reason, group, reason == Reason::RuleDeny),
            "{origin}"
        );
    }
    let request = get("http://partner.test");
    let cause = policy.explain(decide(&policy, &request), &request).cause;
    assert_eq!(cause.as_deref(), Some("plain `http` is refused with credentials, even if the rule allows the origin"));
    let dangerously = DangerousSwitches { allow_insecure_origins: true, ..DangerousSwitches::default() };
    let insecure = self::policy(&PolicySpec { dangerously, ..spec() }, GUESTS);
    assert_eq!(answer(&insecure, &get("http://partner.test")).0, Reason::Rule);
}

#[test]
fn rule_runs_before_a_star_next_to_groups() {
    let mut protected = PolicySpec { allow_origins: vec!["*".into()], ..spec() };
    protected.cross_site.protection = CrossSiteProtection::Protect;
    let of_template = policy(&protected, GUESTS);
    let own = [OwnOriginSpec { origin: "*".into(), group: None }];
    let of_tenant =
        extend(template(&PolicySpec { allow_origins: Vec::new(), ..protected.clone() }, GUESTS).unwrap(), &own);
    for policy in [of_template, of_tenant] {
        let first = |request: &CorsRequest<'_>| {
            let (reason, group, fields) = answer(&policy, request);
            (reason, group, fields.first().cloned())
        };
        let echo = |origin: &str| Some(format!("allow-origin: {origin}"));
        let partners = || Some("partners".to_owned());
        for (origin, reason, group, origin_field) in [
            ("https://partner.test", Reason::Rule, partners(), echo("https://partner.test")),
            ("https://listed.test", Reason::Exact, partners(), echo("https://listed.test")),
            ("https://plain.test", Reason::Rule, None, echo("https://plain.test")),
            // Denied by the rule, although `*` covers it.
            ("https://no.test", Reason::RuleDeny, None, None),
            // The rule abstains.
            ("https://other.test", Reason::Any, None, echo("*")),
            // The rule never runs.
            ("null", Reason::Any, None, echo("*")),
            ("https://partner.test/", Reason::Any, None, echo("*")),
        ] {
            assert_eq!(first(&get(origin)), (reason, group, origin_field), "{origin}");
        }
        assert_eq!(decide(&policy, &CorsRequest::new(b"GET", OWN)).reason, Reason::NonCors);
        assert!(policy.depends_on_origin());
    }
    // Without protection, the credentials of the group exclude `*`, with a rule as well.
    let problems = template(&PolicySpec { allow_origins: vec!["*".into()], ..spec() }, GUESTS).unwrap_err();
    assert_eq!(locations(&problems), [SpecLocation::AllowOrigins(0)]);
}

#[test]
fn origins_of_a_tenant_decide_before_the_rule() {
    let own = [
        OwnOriginSpec { origin: "https://partner.test".into(), group: Some("public".into()) },
        OwnOriginSpec { origin: "https://*.test".into(), group: None },
    ];
    let policy = extend(template(&spec(), GUESTS).unwrap(), &own[..1]);
    let (reason, group, _) = answer(&policy, &get("https://partner.test"));
    assert_eq!((reason, group.as_deref()), (Reason::Exact, Some("public")));
    let policy = extend(template(&spec(), GUESTS).unwrap(), &own);
    assert_eq!(answer(&policy, &get("https://brief.test")).0, Reason::Wildcard);
}
