//! Tests of the rule language: request fields, functions, operators, answers and errors.
use super::*;

#[test]
fn rule_reads_every_request_field() {
    for expression in [
        r#"req.origin == "https://pr-1.shop.test:8443""#,
        r#"req.scheme == "https" && req.host == "pr-1.shop.test" && req.port == 8443"#,
        r#"req.tenant == "acme" && req.route == "/" && req.method == "PUT" && req.path == "/orders/1""#,
        r#"req.kind == "actual" && req.requested_headers.is_empty()"#,
        r#"req.header("x-plan") == "gold, new""#,
        r#"req.header("X-Plan") == "gold, new""#,
        r#"req.header("x-none") == ()"#,
        r#"req.query("key") == "a b c" && req.query("none") == ()"#,
    ] {
        holds(expression);
    }
}

#[test]
fn helper_functions_match_the_manual() {
    for expression in [
        r#"host_under("a.b.test", "b.test") && host_under("b.test", "b.test")"#,
        r#"!host_under("ab.test", "b.test") && !host_under("b.test.evil", "b.test") && !host_under("b.test", "")"#,
        r#"label("a.b.test", 0) == "a" && label("a.b.test", 2) == "test" && label("a.b.test", 3) == ()"#,
        r#"label("a.b.test", -1) == () && label("127.0.0.1", 0) == ()"#,
        r#"registrable_domain("a.b.co.uk") == "b.co.uk" && registrable_domain("co.uk") == ()"#,
        r#"registrable_domain("127.0.0.1") == () && registrable_domain("[::1]") == ()"#,
        r#"glob("pr-*.shop.test", "pr-1.shop.test") && glob("*", "") && glob("a?c", "abc")"#,
        r#"!glob("pr-*.shop.test", "pr-1.shop.test.evil") && !glob("a?c", "ac") && !glob("", "a")"#,
        r#"in_set("partners", "partner.test") && !in_set("partners", "evil.test")"#,
        r#"lookup("owners", "shop.test") == "acme" && lookup("owners", "x") == ()"#,
    ] {
        holds(expression);
    }
}

#[test]
fn string_array_and_map_functions_work() {
    for expression in [
        r#""abc".len() == 3 && "é".len() == 1 && [1, 2].len() == 2"#,
        r#""abc".contains("b") && "abc".starts_with("a") && "abc".ends_with("c") && "abc".index_of("c") == 2"#,
        r#""abc".index_of("x") == -1 && "abc".sub_string(1) == "bc" && "abc".sub_string(1, 1) == "b""#,
        r#""Ab".to_lower() == "ab" && "Ab".to_upper() == "AB" && " a ".trim() == "a" && "".is_empty()"#,
        r#""a-b-c".split("-").len() == 3 && "a-b".split("-")[1] == "b""#,
        r#""a-b-c".before("-") == "a" && "a-b-c".after("-") == "b-c" && "a".after("-") == ()"#,
        r#""a" in ["a", "b"] && !("c" in ["a", "b"]) && "b" in "abc" && 3 in 1..5 && "k" in #{ k: 1 }"#,
        r#"#{ k: "v" }.k == "v" && #{ k: "v" }["k"] == "v" && [1, 2][1] == 2"#,
        r#"is_number("42") && !is_number("4x") && !is_number("") && !is_number("-1")"#,
        r#""n" + 1 == "n1" && `host ${req.host}` == "host pr-1.shop.test" && -1 == 0 - 1"#,
        r#"1 < 2 && 2 <= 2 && 3 > 2 && 7 % 4 == 3 && 6 / 2 == 3 && "a" < "b" && "a" != "b""#,
    ] {
        holds(expression);
    }
    check("let n = 0; for i in 0..4 { n += i; } for x in [1, 2] { n += x; } if n == 9 { allow() }", allow());
    check("switch req.method { \"PUT\" | \"GET\" => allow(), _ => deny() }", allow());
    check("let i = 0; while i < 3 { i += 1; if i == 2 { break; } } if i == 2 { allow() }", allow());
}

#[test]
fn script_uses_its_own_constants_and_functions() {
    let source = "const HOSTS = [\"pr-1.shop.test\"];\nconst MAX = 60;\n\
                  fn known(host) { host in HOSTS }\nfn decide(req) { if known(req.host) { allow(#{ maxAge: MAX }) } }";
    let terms = RuleTerms { max_age_seconds: Some(60), without_credentials: false };
    assert_eq!(run(&rule(source)).answer, Ok(RuleAnswer::Allow { group: None, terms }));
}

#[test]
fn decide_returns_allow_deny_or_nothing() {
    check("allow()", allow());
    check(
        "allow(#{ credentials: false })",
        RuleAnswer::Allow { group: None, terms: RuleTerms { max_age_seconds: None, without_credentials: true } },
    );
    check(
        "allow(#{ credentials: true, maxAge: 0 })",
        RuleAnswer::Allow { group: None, terms: RuleTerms { max_age_seconds: Some(0), ..RuleTerms::NONE } },
    );
    check("deny(\"no\")", RuleAnswer::Deny(Some("no".into())));
    check("deny()", RuleAnswer::Deny(None));
    check("()", RuleAnswer::Abstain);
    check("if req.host == \"x\" { allow() }", RuleAnswer::Abstain);
    check("return deny(\"a\\nb\");", RuleAnswer::Deny(Some("a b".into())));
}

#[test]
fn long_denial_message_is_truncated() {
    let run = run(&body(&format!("deny(\"{}\")", "é".repeat(200))));
    assert_eq!(run.answer, Ok(RuleAnswer::Deny(Some("é".repeat(128).into()))));
}

#[test]
fn invalid_result_is_a_result_error() {
    for source in ["1", "true", "\"allow\"", "[allow()]", "#{ allow: true }", "'c'", "req", "req.header(\"x-plan\")"] {
        fails(source, RuleErrorKind::Result);
    }
    for terms in ["maxAge: -1", "maxAge: 86401", "maxAge: \"1\"", "credentials: 1", "origin: \"*\"", "maxage: 1"] {
        fails(&format!("allow(#{{ {terms} }})"), RuleErrorKind::Result);
    }
}

#[test]
fn runtime_error_reports_its_location() {
    let run = run(&rule("fn decide(req) {\n    let n = 1;\n    n / 0\n}"));
    let error = run.answer.unwrap_err();
    assert_eq!((error.kind, error.line, error.column), (RuleErrorKind::Runtime, Some(3), Some(7)), "{error:?}");
}

#[test]
fn only_actual_reads_are_recorded() {
    for (source, expected) in [
        ("allow()", vec![]),
        ("if req.host == \"\" { deny(req.path) }", vec!["host"]),
        ("let r = req; if r.host != \"\" { deny(r.path) }", vec!["host", "path"]),
        ("if req.header(\"x-plan\") == () { allow() }", vec!["header x-plan"]),
        ("if req.header(\"x-none\") == () || req.query(\"key\") == () { deny() }", vec!["header x-none"]),
        ("let x = req.query(\"key\"); 1 / 0", vec!["query key"]),
        ("if req.port == 1 && req.scheme == \"\" { }", vec!["port"]),
    ] {
        let rule = body(source);
        assert_eq!(reads(&run(&rule), &rule), expected, "{source}");
    }
    let through_function = rule("fn f(r) { r.tenant }\nfn decide(req) { if f(req) == \"acme\" { allow() } }");
    assert_eq!(reads(&run(&through_function), &through_function), ["tenant"]);
    assert!(run(&through_function).reads.has_tenant());
}

#[test]
fn reading_an_unlisted_header_is_an_error() {
    let script = Arc::new(compile("fn decide(req) { if req.header(\"x-plan\") == \"gold\" { allow() } }").unwrap());
    let run = run(&Rule::new(1, &script, &[], &[], 1));
    assert_eq!(run.answer.unwrap_err().kind, RuleErrorKind::Unlisted);
}
