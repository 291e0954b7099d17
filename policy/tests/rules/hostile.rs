//! Tests of hostile scripts: they are refused when loaded or stopped by a limit, in bounded memory.
use super::*;
use std::time::{Duration, Instant};

#[test]
fn endless_loops_end_at_the_operation_limit() {
    for source in [
        "loop {}",
        "while true {}",
        "do { } while true;",
        "for i in 0..9223372036854775807 {}",
        "let x = 0; loop { x += 1; if x > 10 { x = 0; } }",
    ] {
        let run = run(&body(source));
        assert_eq!(run.answer.unwrap_err().kind, RuleErrorKind::Operations, "{source}");
        assert!(run.operations <= RuleLimits::default().operations + 1, "{source}");
    }
}

#[test]
fn recursion_ends_at_the_depth_limit() {
    for source in [
        "fn f(n) { f(n + 1) }\nfn decide(req) { f(0) }",
        "fn f(n) { g(n) }\nfn g(n) { f(n) }\nfn decide(req) { f(0) }",
        "fn decide(req) { decide(req) }",
    ] {
        assert_eq!(run(&rule(source)).answer.unwrap_err().kind, RuleErrorKind::Depth, "{source}");
    }
}

#[test]
fn doubling_values_end_at_the_size_limit() {
    for source in [
        "let s = \"aaaaaaaa\"; loop { s += s; }",
        "let s = \"aaaaaaaa\"; loop { s = s + s; }",
        "let s = \"aaaaaaaa\"; loop { s = `${s}${s}`; }",
        "let a = [1, 2, 3, 4]; loop { a = [a, a, a, a]; }",
        "let a = [1, 2]; loop { a += a; }",
        "let m = #{ a: 1 }; loop { m = #{ a: m, b: m, c: m, d: m }; }",
        "let s = \"aaaaaaaa\"; loop { s = [s, s]; }",
        "\"a b c d e f g h\".split(\"\").len(); let s = req.path; loop { s += s.split(\"\").len(); s += s; }",
    ] {
        let kind = run(&body(source)).answer.unwrap_err().kind;
        assert!(
            matches!(kind, RuleErrorKind::Size | RuleErrorKind::Operations | RuleErrorKind::Runtime),
            "{source}: {kind:?}"
        );
    }
    fails("let s = \"aaaaaaaa\"; loop { s += s; }", RuleErrorKind::Size);
}

#[test]
fn too_many_variables_end_the_run() {
    let source: String = (0..200).map(|n| format!("let v{n} = {n};\n")).collect();
    fails(&source, RuleErrorKind::Depth);
}

#[test]
fn hostile_runs_stay_within_the_memory_bound() {
    const BYTES_MAX: u64 = 16 << 20;
    for source in [
        "let s = \"aaaaaaaa\"; loop { s += s; }",
        "let a = [\"aaaaaaaa\"]; loop { a = [a, a, a, a, a, a, a, a]; }",
        "let s = \"0123456789\"; for i in 0..8 { s = s + s; if s.len() > 2000 { break; } } loop { let t = s + s.len(); }",
        "let m = #{ a: \"0123456789\" }; loop { m = #{ a: m, b: m, c: m, d: m, e: m }; }",
    ] {
        let rule = body(source);
        let used = allocation_counter::measure(|| drop(run(&rule)));
        assert!(used.bytes_max < BYTES_MAX, "{source}: {} bytes", used.bytes_max);
        assert!(used.bytes_current <= 0, "{source}: {} bytes are kept", used.bytes_current);
    }
}

#[test]
fn deep_nesting_is_refused_when_loaded() {
    const DEPTH: usize = 20_000;
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("-", ""),
        ("!", ""),
        ("#{a:", "}"),
        ("if true {", "}"),
        ("f(", ")"),
        ("a.b(", ")"),
    ] {
        let begun = Instant::now();
        let source = format!("fn decide(req) {{ {}1{} }}", open.repeat(DEPTH), close.repeat(DEPTH));
        assert!(compile(&source).is_err(), "{open}");
        let unclosed = format!("fn decide(req) {{ {}", open.repeat(DEPTH));
        assert!(compile(&unclosed).is_err(), "{open}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{open}");
    }
    for chain in ["1 + ", "req.", "1 == 2 || ", "a ?? ", "if true {} else "] {
        let source = format!("fn decide(req) {{ {}1 }}", chain.repeat(10_000));
        assert!(compile(&source).is_err(), "{chain}");
    }
}

#[test]
fn large_sources_are_refused_when_loaded() {
    let comment = format!("fn decide(req) {{ allow() }} //{}", " ".repeat(1 << 20));
    assert!(compile(&comment).unwrap_err()[0].message.contains("expected at most 65536"));
    let functions: String = (0..5_000).map(|n| format!("fn f{n}(){{}}\n")).collect();
    assert!(compile(&(functions + "fn decide(req) { allow() }")).is_err());
    for source in
        ["fn decide(req) { \"", "fn decide(req) { `${", "/*", "fn", "\u{feff}", "\0", "fn decide(req) { '", "#!"]
    {
        assert!(compile(source).is_err(), "{source:?}");
    }
}

#[test]
fn run_ends_when_the_caller_ends_it() {
    let rule = body("loop {}");
    let run = with_input(&HeaderMap::new(), |input| rule.run(input, 0, || true));
    assert_eq!(run.answer.unwrap_err().kind, RuleErrorKind::Time);
    assert!(run.operations < 1_000, "{}", run.operations);
}

#[test]
fn arithmetic_that_overflows_denies() {
    for source in [
        "9223372036854775807 + 1",
        "let n = 9223372036854775807; n += 1;",
        "1 / 0",
        "1 % 0",
        "-(0 - 9223372036854775807 - 1)",
        "[1][5]",
    ] {
        fails(source, RuleErrorKind::Runtime);
    }
}

#[test]
fn glob_with_many_stars_takes_bounded_time() {
    let source = "let p = \"*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b\"; let t = \"aaaaaaaaaaaaaaaa\"; t += t; t += t; t += t; t += t; t += t; \
                  let n = 0; while n < 100 { n += 1; if glob(p, t) { return allow(); } } deny()";
    check(source, RuleAnswer::Deny(None));
}

// A run must not see state of another run, on any copy, thread or tenant.
#[test]
fn rule_runs_share_no_state() {
    let source = "const LIST = [1, 2];\nfn decide(req) { let l = LIST; l += 3; let r = req; r = 1; \
                  if l.len() == 3 && LIST.len() == 2 { allow() } else { deny(`${l.len()} ${LIST.len()}`) } }";
    let rule = Arc::new(rule(source));
    std::thread::scope(|scope| {
        for slot in 0..2 {
            let rule = Arc::clone(&rule);
            scope.spawn(move || {
                for tenant in ["a", "b"].into_iter().cycle().take(1_000) {
                    let run =
                        with_input(&HeaderMap::new(), |input| rule.run(&RuleInput { tenant, ..*input }, slot, never));
                    assert_eq!(run.answer, Ok(allow()));
                }
            });
        }
    });
}
