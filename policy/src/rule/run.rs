//! One run: the request in, the answer or what went wrong out, and what was read either way.
//!
//! A host function that panics ends its run and nothing else. What a run is allowed to take up is kept beside the thread while it lasts,
//! since Rhai's progress hook is told nothing of whose run it is in.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, Position};

use super::engine::{self, Program};
use super::functions::Req;
use super::input::Values;
use super::{Answer, RuleError, RuleErrorKind, RuleRun};

/// How often a run asks whether its time is over, in operations: a thousandth of the work between two looks at a clock.
const LOOK_EVERY: u64 = 128;

/// The longest message of an error, in characters.
const ERROR_LEN_MAX: usize = 200;

/// What `allow` and `deny` give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said(pub(super) Answer);

/// An error that a host function makes.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: RuleErrorKind,
    pub(super) message: String,
}

/// The run of this thread.
#[derive(Clone, Copy)]
struct Progress {
    operations: u64,
    is_over: fn() -> bool,
}

thread_local! {
    static PROGRESS: Cell<Progress> = const { Cell::new(Progress { operations: 0, is_over: never }) };
}

fn never() -> bool {
    false
}

/// Rhai calls it before every operation; a value ends the run.
pub(super) fn progress(operations: u64) -> Option<Dynamic> {
    let mut now = PROGRESS.get();
    now.operations = operations;
    PROGRESS.set(now);
    (operations.is_multiple_of(LOOK_EVERY) && (now.is_over)()).then_some(Dynamic::UNIT)
}

pub(super) fn run(program: &Program, values: Values, is_over: fn() -> bool) -> RuleRun {
    let values = Arc::new(values);
    PROGRESS.set(Progress { operations: 0, is_over });
    let req = Dynamic::from(Req(Arc::clone(&values)));
    let result = catch_unwind(AssertUnwindSafe(|| engine::call(program, req)));
    let answer = match result {
        Ok(Ok(value)) => answer(value),
        Ok(Err(error)) => Err(rule_error(&error)),
        Err(_) => Err(plain(RuleErrorKind::Panic, "a function of the gateway failed".to_owned())),
    };
    RuleRun { answer, reads: values.reads(), operations: PROGRESS.get().operations }
}

fn answer(value: Dynamic) -> Result<Answer, RuleError> {
    if value.is_unit() {
        return Ok(Answer::Abstain);
    }
    let name = value.type_name();
    let told = format!("`decide` gave {name}, expected `allow()`, `deny(..)` or nothing");
    value.try_cast::<Said>().map(|said| said.0).ok_or_else(|| plain(RuleErrorKind::Result, told))
}

fn plain(kind: RuleErrorKind, message: String) -> RuleError {
    RuleError { kind, line: None, column: None, message }
}

/// The error at the bottom of all calls, with its place.
fn rule_error(error: &EvalAltResult) -> RuleError {
    let mut innermost = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) = innermost {
        innermost = inner;
    }
    let (kind, message) = classify(innermost);
    let position = innermost.position();
    RuleError { kind, line: line(position), column: column(position), message: shown(&message) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors are of one kind, told as the crate tells them")]
fn classify(error: &EvalAltResult) -> (RuleErrorKind, String) {
    use EvalAltResult as E;
    let kind = match error {
        E::ErrorTooManyOperations(_) => RuleErrorKind::Operations,
        E::ErrorTerminated(..) => RuleErrorKind::Time,
        E::ErrorDataTooLarge(..) => RuleErrorKind::Size,
        E::ErrorStackOverflow(_) | E::ErrorTooManyVariables(_) => RuleErrorKind::Depth,
        E::ErrorRuntime(value, _) => match value.read_lock::<Fault>() {
            Some(fault) => return (fault.kind, fault.message.clone()),
            None => RuleErrorKind::Runtime,
        },
        _ => RuleErrorKind::Runtime,
    };
    let told = match kind {
        RuleErrorKind::Operations => "too many operations".to_owned(),
        RuleErrorKind::Time => "it took too long".to_owned(),
        _ => {
            let mut error = error.to_string();
            // The place is told apart from the message.
            if let Some(end) = error.rfind(" (line ") {
                error.truncate(end);
            }
            error
        }
    };
    (kind, told)
}

fn line(position: Position) -> Option<u32> {
    position.line().and_then(|line| u32::try_from(line).ok())
}

fn column(position: Position) -> Option<u32> {
    position.position().and_then(|column| u32::try_from(column).ok())
}

/// Capped, and fit for a log line. A type is named as an author knows it.
pub(super) fn shown(message: &str) -> String {
    let message = message.replace("&str | ImmutableString | String", "string");
    message.chars().take(ERROR_LEN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Rule, RuleData, RuleInput, RuleLimits, Script};
    use crate::verdict::Kind;
    use http::HeaderMap;

    /// The audit lets no script call what panics, so the program is made around it.
    #[test]
    fn a_host_function_that_panics_denies_and_harms_nobody() {
        let (data, limits) = (Arc::new(RuleData::default()), RuleLimits::default());
        let script = Script::compile("test", "fn decide(req) { req.host }", &data, &limits).unwrap();
        let rule = Rule::new(1, &Arc::new(script), &[], &[], 1);
        let headers = HeaderMap::new();
        let no_lines: [&[u8]; 0] = [];
        let input = RuleInput {
            origin: "https://a.test",
            scheme: "https",
            host: "a.test",
            port: None,
            kind: Kind::Actual,
            tenant: "acme",
            route: "/",
            method: b"GET",
            path: "/",
            query: "",
            requested_headers: &no_lines,
            headers: &headers,
        };
        let source = "fn decide(req) { if req.host == \"a.test\" { explode() } }";
        let mut program = Program::parse(source, &data, &limits).unwrap();
        program.engine.register_fn("explode", || -> bool { std::panic::panic_any("boom") });
        for _ in 0..3 {
            let told = run(&program, Values::new(&rule, &input, rule.wanted), never);
            assert_eq!(told.answer.unwrap_err().kind, RuleErrorKind::Panic);
            assert_eq!(rule.names(told.reads), ["host"]);
        }
        assert_eq!(rule.run(&input, 0, never).answer.unwrap_err().kind, RuleErrorKind::Result, "others run on");
    }
}
