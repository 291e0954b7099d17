//! What is refused when a script is loaded: each with its place, and a guess where one is near.
use super::*;

/// The first problem of a source: line, column, and a piece of its message.
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

/// The same for the body of `decide`, on a line of its own.
#[track_caller]
fn refused_body(body: &str, column: u32, piece: &str) {
    refused(&format!("fn decide(req) {{\n{body}\n}}"), 2, column, piece);
}

#[test]
fn what_is_not_on_the_list_cannot_be_called() {
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
fn a_typo_in_a_field_is_told_with_a_guess() {
    refused_body("if req.hots == \"a\" { allow() }", 8, "did you mean `host`?");
    refused_body("let r = req; if r.cookie == \"a\" { allow() }", 19, "expected one of origin");
    refused_body("if hst == \"a\" { allow() }", 4, "there is no variable `hst`");
}

#[test]
fn what_gets_round_the_limits_is_refused() {
    refused_body("let m = #{}; m[\"k\"] = 1;", 14, "cannot be changed");
    refused_body("let m = #{ k: 1 }; m.k = 2;", 20, "cannot be changed");
    refused_body("let a = [1]; a[0] += 2;", 14, "cannot be changed");
    refused_body("try { 1 / 0 } catch { allow() }", 1, "catches no errors");
    refused_body("throw \"x\";", 1, "throws nothing");
    refused_body("let f = |x| x; allow()", 9, "function pointer");
    refused_body("let f = Fn(\"decide\"); allow()", 9, "may not call `Fn`");
    refused_body("1 ** 2", 3, "no operator `**`");
    refused_body("let x = 1; x <<= 2;", 12, "no operator `<<=`");
    refused_body("this == 1", 1, "`this`");
}

#[test]
fn names_are_literals_that_are_known() {
    refused_body("req.header(req.host)", 5, "computed");
    refused_body("in_set(req.host, \"a\")", 1, "computed");
    refused_body("if in_set(\"partnes\", req.host) { allow() }", 11, "did you mean `partners`?");
    refused_body("if lookup(\"partners\", req.host) == 1 { allow() }", 11, "no table `partners`");
}

#[test]
fn decide_must_be_there_with_one_parameter() {
    refused("", 1, 1, "no function `decide`");
    refused("fn decide() { allow() }", 1, 13, "with one parameter");
    refused("fn decide(a, b) { allow() }", 1, 17, "with one parameter");
    refused("fn Decide(req) { allow() }", 1, 1, "no function `decide`");
    refused("fn decide(req) { allow() }\nlet x = 1;", 2, 1, "nothing runs beside the functions");
    refused("fn decide(req) { allow() }\nallow();", 2, 1, "nothing runs beside the functions");
    refused("const X = 1 + 1;\nfn decide(req) { allow() }", 1, 1, "not a literal");
    refused("const X = 1;\nfn decide(req) { let X = 2; allow() }", 2, 18, "a constant already");
    refused("fn allow() { 1 }\nfn decide(req) { allow() }", 1, 12, "means something already");
    refused("import \"x\" as y;\nfn decide(req) { allow() }", 1, 1, "expected");
    refused("fn decide(req) { \"a }", 1, 18, "expected a Rhai script");
}

#[test]
fn an_answer_that_is_lost_is_told() {
    refused_body("if req.host == \"a\" { allow() }\ndeny(\"no\")", 22, "this answer is lost");
    refused_body("deny(\"no\");\nallow()", 1, "this answer is lost");
    refused_body("if true { deny(\"x\"); allow() }", 11, "this answer is lost");
    assert!(compile("fn decide(req) { if req.host == \"a\" { return allow(); } deny(\"no\") }").is_ok());
}

#[test]
fn all_problems_of_a_script_are_told_at_once() {
    let problems = compile("fn decide(req) {\n  if req.hots == 1 { sleep(1) }\n  print(req.pth)\n}").unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(2, 10), (2, 22), (3, 3), (3, 13)], "{problems:#?}");
}

#[test]
fn what_a_script_names_is_known_beforehand() {
    let script = compile("fn decide(req) {\n if req.header(\"X-Plan\") == req.query(\"key\") { allow() } }").unwrap();
    let names = |list: &[(Box<str>, crossgate_policy::ScriptPlace)]| {
        list.iter().map(|(name, at)| (name.to_string(), at.line, at.column)).collect::<Vec<_>>()
    };
    assert_eq!(names(script.headers()), [("x-plan".to_owned(), 2, 16)]);
    assert_eq!(names(script.query_keys()), [("key".to_owned(), 2, 39)]);
}
