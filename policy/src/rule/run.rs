//! Runs a rule on one request, and returns the answer or the error, and the parts that were read.
//!
//! A host function that panics ends only its run. The progress of a run is in a thread-local, since
//! Rhai's progress hook gets no reference to the run.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Position};

use super::engine::{self, RuleProgram};
use super::functions::ScriptRequest;
use super::input::InputValues;
use super::{RuleAnswer, RuleError, RuleErrorKind, RuleRun};
use crate::verdict::RuleTerms;

/// The operations between two calls of `is_over`, which reads a clock.
const CHECK_INTERVAL: u64 = 128;

/// The longest message of an error, in characters.
const ERROR_LEN_MAX: usize = 200;

/// The value that `allow` and `deny` return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScriptAnswer {
    /// The origin is allowed, with the terms of this group, narrowed by these terms.
    Allow(Option<ImmutableString>, RuleTerms),
    /// The origin is denied, with this message.
    Deny(Option<Arc<str>>),
}

/// The error of a host function.
#[derive(Debug, Clone)]
pub(super) struct HostFault {
    pub(super) kind: RuleErrorKind,
    pub(super) message: String,
}

/// The progress of the run on this thread.
#[derive(Clone, Copy)]
struct RunProgress {
    operations: u64,
    is_over: fn() -> bool,
}

thread_local! {
    static PROGRESS: Cell<RunProgress> = const { Cell::new(RunProgress { operations: 0, is_over: never }) };
}

fn never() -> bool {
    false
}

/// Records the progress. Rhai calls this hook before every operation, and a value ends the run.
pub(super) fn progress(operations: u64) -> Option<Dynamic> {
    let mut now = PROGRESS.get();
    now.operations = operations;
    PROGRESS.set(now);
    (operations.is_multiple_of(CHECK_INTERVAL) && (now.is_over)()).then_some(Dynamic::UNIT)
}

pub(super) fn run(program: &RuleProgram, values: InputValues, groups: &[Box<str>], is_over: fn() -> bool) -> RuleRun {
    let values = Arc::new(values);
    PROGRESS.set(RunProgress { operations: 0, is_over });
    let req = Dynamic::from(ScriptRequest(Arc::clone(&values)));
    let result = catch_unwind(AssertUnwindSafe(|| engine::call(program, req)));
    let answer = match result {
        Ok(Ok(value)) => answer(value, groups),
        Ok(Err(error)) => Err(rule_error(&error)),
        Err(_) => Err(plain(RuleErrorKind::Panic, "a built-in function panicked".to_owned())),
    };
    RuleRun { answer, reads: values.reads(), operations: PROGRESS.get().operations }
}

fn answer(value: Dynamic, groups: &[Box<str>]) -> Result<RuleAnswer, RuleError> {
    if value.is_unit() {
        return Ok(RuleAnswer::Abstain);
    }
    let name = value.type_name();
    let message = format!("`decide` returned {name}, expected `allow()`, `deny(..)` or nothing");
    match value.try_cast::<ScriptAnswer>() {
        Some(ScriptAnswer::Allow(None, terms)) => Ok(RuleAnswer::Allow { group: None, terms }),
        Some(ScriptAnswer::Allow(Some(name), terms)) => {
            let listed = (0..).zip(groups).find(|(_, group)| ***group == *name);
            let (index, _) = listed.ok_or_else(|| plain(RuleErrorKind::Unlisted, unlisted(&name)))?;
            Ok(RuleAnswer::Allow { group: Some(index), terms })
        }
        Some(ScriptAnswer::Deny(message)) => Ok(RuleAnswer::Deny(message)),
        None => Err(plain(RuleErrorKind::Result, message)),
    }
}

fn unlisted(group: &str) -> String {
    shown(&format!("the group `{group}` is not listed, expected it in the policy's `rule`"))
}

fn plain(kind: RuleErrorKind, message: String) -> RuleError {
    RuleError { kind, line: None, column: None, message }
}

/// Converts the innermost error of nested calls, with its location.
fn rule_error(error: &EvalAltResult) -> RuleError {
    let mut innermost = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) = innermost {
        innermost = inner;
    }
    let (kind, message) = classify(innermost);
    let position = innermost.position();
    RuleError { kind, line: line(position), column: column(position), message: shown(&message) }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors are of one kind, with the message of the crate")]
fn classify(error: &EvalAltResult) -> (RuleErrorKind, String) {
    use EvalAltResult as E;
    let kind = match error {
        E::ErrorTooManyOperations(_) => RuleErrorKind::Operations,
        E::ErrorTerminated(..) => RuleErrorKind::Time,
        E::ErrorDataTooLarge(..) => RuleErrorKind::Size,
        E::ErrorStackOverflow(_) | E::ErrorTooManyVariables(_) => RuleErrorKind::Depth,
        E::ErrorRuntime(value, _) => match value.read_lock::<HostFault>() {
            Some(fault) => return (fault.kind, fault.message.clone()),
            None => RuleErrorKind::Runtime,
        },
        _ => RuleErrorKind::Runtime,
    };
    if let E::ErrorFunctionNotFound(signature, _) = error
        && let Some(message) = on_absent(signature)
    {
        return (kind, message);
    }
    let message = match kind {
        RuleErrorKind::Operations => "too many operations".to_owned(),
        RuleErrorKind::Time => "the run took too long".to_owned(),
        _ => {
            let mut error = error.to_string();
            // The location is a separate field.
            if let Some(end) = error.rfind(" (line ") {
                error.truncate(end);
            }
            error
        }
    };
    (kind, message)
}

/// Returns the message for a call with `()`, the value of anything absent. The signature has a name
/// and the types of all arguments.
fn on_absent(signature: &str) -> Option<String> {
    let (name, arguments) = signature.split_once(" (")?;
    let is_absent = arguments.starts_with("()") || arguments.contains(", ()");
    is_absent.then(|| {
        format!(
            "`{name}` is called on `()`, the value of an absent header, query key, label or table entry, expected a \
             comparison with `()` before it, or `?? \"\"` after the value"
        )
    })
}

fn line(position: Position) -> Option<u32> {
    position.line().and_then(|line| u32::try_from(line).ok())
}

fn column(position: Position) -> Option<u32> {
    position.position().and_then(|column| u32::try_from(column).ok())
}

/// Prepares a message for a log line: truncated, without control characters, and with a readable
/// name of the string type.
pub(super) fn shown(message: &str) -> String {
    let message = message.replace("&str | ImmutableString | String", "string");
    message.chars().take(ERROR_LEN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Rule, RuleData, RuleInput, RuleLimits, Script};
    use crate::verdict::RequestKind;
    use http::HeaderMap;

    /// The audit refuses scripts that call `explode`, so the test skips it.
    #[test]
    fn panic_of_a_host_function_denies_and_later_runs_succeed() {
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
            kind: RequestKind::Actual,
            tenant: "acme",
            route: "/",
            method: b"GET",
            path: "/",
            query: "",
            api_host: "api.test",
            requested_headers: &no_lines,
            headers: &headers,
        };
        let source = "fn decide(req) { if req.host == \"a.test\" { explode() } }";
        let mut program = RuleProgram::parse(source, &data, &limits).unwrap();
        program.engine.register_fn("explode", || -> bool { std::panic::panic_any("boom") });
        for _ in 0..3 {
            let outcome = run(&program, InputValues::new(&rule, &input, rule.wanted), &[], never);
            assert_eq!(outcome.answer.unwrap_err().kind, RuleErrorKind::Panic);
            assert_eq!(rule.names(outcome.reads), ["host"]);
        }
        assert_eq!(rule.run(&input, 0, never).answer.unwrap_err().kind, RuleErrorKind::Result, "later runs work");
    }
}
