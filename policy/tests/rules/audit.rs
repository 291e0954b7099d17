//! Tests of the audit: refused scripts, with the location, the message and the suggestion.
use super::*;

/// Checks the first problem of a source: line, column, and a part of its message.
#[track_caller]
fn refused(source: &str, line: u32, column: u32, piece: &str) {
    let problems = compile(source).err().unwrap_or_else(|| panic!("accepted:\n{source}"));
    let first = problems.first().unwrap();
    assert!(
        first.message.contains(piece) && first.message.contains("expected") || first.message.contains("did you mean"),
        "{source}\n{problems:#?}"
    );
    assert_eq!((first.line, first.column), (line, column), "{source}\n{problems:#?}");
}

/// Checks the first problem of a body of `decide`, which is in line 2.
#[track_caller]
fn refused_body(body: &str, column: u32, piece: &str) {
    refused(&format!("fn decide(req) {{\n{body}\n}}"), 2, column, piece);
}

#[test]
fn unlisted_function_is_refused() {
    for name in [
        "sleep",
        "eval",
        "timestamp",
        "print",
        "debug",
        "parse_json",
        "open_file",
        "read_file",
        "env",
        "get_env",
        "http_get",
        "rand",
        "blob",
        "range",
        "call",
        "type_of",
        "is_def_fn",
        "is_def_var",
        "is_shared",
        "exit",
        "now",
        "chain",
    ] {
        let problems = compile(&format!("fn decide(req) {{ {name}(\"1\") }}")).err();
        assert!(problems.is_some(), "{name} is accepted");
    }
    for method in
        ["pad", "push", "replace", "map", "filter", "reduce", "drain", "truncate", "make_upper", "to_json", "tag"]
    {
        let problems = compile(&format!("fn decide(req) {{ req.host.{method}(1) }}")).err();
        assert!(problems.is_some(), "{method} is accepted");
    }
    refused_body("sleep(10)", 1, "may not call `sleep`");
    refused_body("let x = ends_wiht(req.host, \"a\");", 9, "`ends_with`");
    refused_body("if req.host.ends_wth(\"a\") { allow() }", 13, "did you mean `ends_with`?");
    refused_body("if req.host.ends_with(\"a\", 1) { allow() }", 13, "given 2 arguments, expected 1");
}

#[test]
fn misspelt_field_gets_a_suggestion() {
    refused_body("if req.hots == \"a\" { allow() }", 8, "did you mean `host`?");
    refused_body("let r = req; if r.cookie == \"a\" { allow() }", 19, "expected one of origin");
    refused_body("if hst == \"a\" { allow() }", 4, "there is no variable `hst`");
}

#[test]
fn syntax_that_bypasses_limits_is_refused() {
    refused_body("let m = #{}; m[\"k\"] = 1;", 14, "cannot be changed");
    refused_body("let m = #{ k: 1 }; m.k = 2;", 20, "cannot be changed");
    refused_body("let a = [1]; a[0] += 2;", 14, "cannot be changed");
    refused_body("try { 1 / 0 } catch { allow() }", 1, "`try` is not available");
    refused_body("throw \"x\";", 1, "`throw` is not available");
    refused_body("let f = |x| x; allow()", 9, "function pointer");
    refused_body("let f = Fn(\"decide\"); allow()", 9, "may not call `Fn`");
    refused_body("1 ** 2", 3, "no operator `**`");
    refused_body("let x = 1; x <<= 2;", 12, "no operator `<<=`");
    refused_body("this == 1", 1, "`this`");
}

#[test]
fn computed_or_unknown_names_are_refused() {
    refused_body("req.header(req.host)", 5, "computed");
    refused_body("in_set(req.host, \"a\")", 1, "computed");
    refused_body("if in_set(\"partnes\", req.host) { allow() }", 11, "did you mean `partners`?");
    refused_body("if lookup(\"partners\", req.host) == 1 { allow() }", 11, "no table `partners`");
}

#[test]
fn script_without_decide_of_one_parameter_is_refused() {
    refused("", 1, 1, "no function `decide`");
    refused("fn decide() { allow() }", 1, 13, "with one parameter");
    refused("fn decide(a, b) { allow() }", 1, 17, "with one parameter");
    refused("fn Decide(req) { allow() }", 1, 1, "no function `decide`");
    refused("fn decide(req) { allow() }\nlet x = 1;", 2, 1, "statements outside functions never run");
    refused("fn decide(req) { allow() }\nallow();", 2, 1, "statements outside functions never run");
    refused("const X = 1 + 1;\nfn decide(req) { allow() }", 1, 1, "not a literal");
    refused("const X = 1;\nfn decide(req) { let X = 2; allow() }", 2, 18, "a constant already");
    refused("fn allow() { 1 }\nfn decide(req) { allow() }", 1, 12, "is a built-in function");
    refused("import \"x\" as y;\nfn decide(req) { allow() }", 1, 1, "expected");
    refused("fn decide(req) { \"a }", 1, 18, "expected a Rhai script");
}

#[test]
fn discarded_answer_is_refused() {
    refused_body("if req.host == \"a\" { allow() }\ndeny(\"no\")", 22, "this answer is discarded");
    refused_body("deny(\"no\");\nallow()", 1, "this answer is discarded");
    refused_body("if true { deny(\"x\"); allow() }", 11, "this answer is discarded");
    assert!(compile("fn decide(req) { if req.host == \"a\" { return allow(); } deny(\"no\") }").is_ok());
}

#[test]
fn all_problems_of_a_script_are_reported_together() {
    let problems = compile("fn decide(req) {\n  if req.hots == 1 { sleep(1) }\n  print(req.pth)\n}").unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 10), (2, 22), (3, 3), (3, 13)], "{problems:#?}");
}

#[test]
fn audit_collects_named_headers_and_query_keys() {
    let script = compile("fn decide(req) {\n if req.header(\"X-Plan\") == req.query(\"key\") { allow() } }").unwrap();
    let names = |list: &[(Box<str>, crossgate_policy::ScriptLocation)]| {
        list.iter().map(|(name, at)| (name.to_string(), at.line, at.column)).collect::<Vec<_>>()
    };
    assert_eq!(names(script.headers()), [("x-plan".to_owned(), 2, 16)]);
    assert_eq!(names(script.query_keys()), [("key".to_owned(), 2, 39)]);
}

#[test]
fn e_word_of_another_language_gets_its_counterpart() {
    for (body, column, expected) in [
        ("if req.host == \"a\" or req.host == \"b\" { allow() }", 20, "there is no `or` here, expected `||`"),
        ("if req.host == \"a\" and req.port == 1 { allow() }", 20, "there is no `and` here, expected `&&`"),
        ("if not req.host == \"a\" { allow() }", 4, "there is no `not` here, expected `!( .. )`"),
        (
            "if req.port == 1 { allow() } elif req.port == 2 { deny() }",
            30,
            "there is no `elif` here, expected `else if`",
        ),
        ("if req.query(\"k\") == null { deny() }", 22, "expected `()`, the value of an absent header or query key"),
        ("if req.query(\"k\") == nil { deny() }", 22, "expected `()`, the value of an absent header or query key"),
        (
            "if req.query(\"k\") == undefined { deny() }",
            22,
            "expected `()`, the value of an absent header or query key",
        ),
        ("if req.query(\"k\") == None { deny() }", 22, "expected `()`, the value of an absent header or query key"),
        ("if req.method == 'GET' { allow() }", 18, "strings are in double quotes, expected `\"GET\"`"),
        (
            "if req.method == 'G' { allow() }",
            15,
            "`req.method` is a string, which never equals a character in single quotes, expected `\"G\"` in double quotes",
        ),
        ("if req.host === \"a\" { allow() }", 13, "there is no operator `===`, expected `==`"),
        ("req.host == \"a\" ? allow() : deny()", 17, "there is no operator `?`, expected `if .. { .. } else { .. }`"),
        ("var x = 1; allow()", 1, "there is no `var` here, expected `let`"),
    ] {
        refused_body(body, column, expected);
    }
}

#[test]
fn e_property_of_other_systems_gets_its_replacement() {
    for (body, column, expected) in [
        (
            "if req.headers[\"x-plan\"] == \"a\" { allow() }",
            8,
            "`req` has no `headers`; expected `req.header(\"name\")`",
        ),
        ("if req.header[\"x-plan\"] == \"a\" { allow() }", 8, "`req` has no `header`; expected `req.header(\"name\")`"),
        ("if req.headers.get(\"x-plan\") == \"a\" { allow() }", 8, "expected `req.header(\"name\")`"),
        ("if req.query[\"k\"] == \"a\" { allow() }", 8, "`req` has no `query`; expected `req.query(\"key\")`"),
        ("if req.url == \"/a\" { allow() }", 8, "`req` has no `url`; expected `path`"),
        (
            "print(req.host); allow()",
            1,
            "a rule may not call `print`; a rule cannot write output, expected `deny(\"..\")`",
        ),
        ("console.log(req.host); allow()", 1, "a rule cannot write output"),
        (
            "if req.host.matches(\"a.*\") { allow() }",
            13,
            "there are no regular expressions, expected `glob`, `host_under` or `==`",
        ),
        ("if req.host.endsWith(\".a\") { allow() }", 13, "did you mean `ends_with`?"),
    ] {
        refused_body(body, column, expected);
    }
}

#[test]
fn e_comparison_that_never_holds_is_refused() {
    let port = "`req.port` is a number, which never equals a string, expected `443` without quotes";
    for (body, column, expected) in [
        ("if req.port == \"443\" { allow() }", 13, port),
        ("if \"443\" == req.port { allow() }", 10, port),
        ("if req.port != \"443\" { deny() }", 13, port),
        (
            "if req.port in [443, \"8443\"] { allow() }",
            13,
            "which never equals a string, expected `8443` without quotes",
        ),
        ("if req.port == () { allow() }", 13, "`req.port` is a number, which never equals `()`, expected a number"),
        (
            "if req.host == () { deny() }",
            13,
            "`req.host` is a string, which never equals `()`, expected a comparison with a string",
        ),
        (
            "if req.tenant == 5 { allow() }",
            15,
            "`req.tenant` is a string, which never equals a number, expected `\"5\"` in double quotes",
        ),
        (
            "if req.header(\"x\") == 5 { allow() }",
            20,
            "`req.header(..)` is a string or `()`, which never equals a number",
        ),
        (
            "if req.query(\"x\") == true { allow() }",
            19,
            "`req.query(..)` is a string or `()`, which never equals true or false",
        ),
        (
            "if req.requested_headers == \"x\" { allow() }",
            26,
            "is a list, which never equals a string, expected `contains(\"x\")`",
        ),
    ] {
        refused_body(body, column, expected);
    }
    refused("const PORT = \"443\";\nfn decide(req) { if req.port == PORT { allow() } }", 2, 30, port);
    for good in [
        "if req.port == 443 && req.host == \"a\" { allow() }",
        "if req.header(\"x\") == () || req.header(\"x\") == \"5\" { deny() }",
        "if req.port in [443, 8443] { deny() }",
        "let x = req.port; if x == \"443\" { deny() }",
        "if \"x\" in req.requested_headers { deny() }",
    ] {
        assert!(compile(&format!("fn decide(req) {{\n{good}\n}}")).is_ok(), "{good}");
    }
}

#[test]
fn e_call_on_an_absent_value_explains_unit() {
    let headers = HeaderMap::new();
    for (name, source) in [
        ("starts_with", "req.header(\"x-a\").starts_with(\"a\")"),
        ("starts_with", "starts_with(req.query(\"k\"), \"a\")"),
        ("len", "label(req.host, 9).len()"),
        ("host_under", "host_under(req.host, lookup(\"owners\", \"none\"))"),
        ("-", "1 - req.query(\"none\")"),
    ] {
        let rule = body(&format!("let x = {source}; allow()"));
        let error = with_input(&headers, |input| rule.run(input, 0, never)).answer.unwrap_err();
        assert_eq!(error.kind, RuleErrorKind::Runtime);
        let expected = format!(
            "`{name}` is called on `()`, the value of an absent header, query key, label or table entry, expected"
        );
        assert!(error.message.starts_with(&expected), "{}", error.message);
    }
}
