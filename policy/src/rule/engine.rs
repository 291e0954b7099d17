//! The sandbox: a Rhai engine with only the functions of [`callable`](super::callable), and with
//! every limit set.
//!
//! Each copy of a script is compiled from the source and has its own engine, so that threads share
//! neither a lock nor a reference count. All limits are set here, since Rhai's defaults differ
//! between debug and release builds.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use rhai::{
    AST, Array, Dynamic, Engine, EvalAltResult, INT, ImmutableString, Map, OptimizationLevel, ParseError, Scope,
};

use super::data::RuleData;
use super::run::{self, HostFault};
use super::{RuleLimits, functions};

/// The deepest nesting of expressions, blocks and brackets. The parser is recursive.
const EXPRESSION_DEPTH_MAX: usize = 48;
/// The most functions of one script.
const FUNCTIONS_MAX: usize = 64;
/// The most variables in scope at one time.
const VARIABLES_MAX: usize = 64;

/// One compiled copy of a script, with its own engine.
pub(super) struct RuleProgram {
    pub(super) engine: Engine,
    pub(super) ast: AST,
}

impl std::fmt::Debug for RuleProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RuleProgram").finish_non_exhaustive()
    }
}

impl RuleProgram {
    /// Compiles a source. The audit checks the functions that it calls.
    pub(super) fn parse(source: &str, data: &Arc<RuleData>, limits: &RuleLimits) -> Result<Self, ParseError> {
        let mut engine = sandbox(data, limits);
        let ast = engine.compile(source)?;
        resolve_constants(&mut engine, constants(&ast));
        Ok(Self { engine, ast })
    }
}

fn sandbox(data: &Arc<RuleData>, limits: &RuleLimits) -> Engine {
    let mut engine = Engine::new_raw();
    engine
        .set_max_operations(limits.operations)
        .set_max_call_levels(limits.call_depth)
        .set_max_expr_depths(EXPRESSION_DEPTH_MAX, EXPRESSION_DEPTH_MAX)
        .set_max_functions(FUNCTIONS_MAX)
        .set_max_variables(VARIABLES_MAX)
        .set_max_string_size(limits.string_len)
        .set_max_array_size(limits.array_len)
        .set_max_map_size(limits.map_len)
        .set_max_strings_interned(0)
        // No optimisation: the audit needs the locations, and nothing must be evaluated while
        // loading.
        .set_optimization_level(OptimizationLevel::None)
        .set_allow_shadowing(true)
        .set_fast_operators(true)
        .on_progress(run::progress);
    engine.register_iterator::<Array>().register_iterator::<Range<INT>>().register_iterator::<RangeInclusive<INT>>();
    functions::register(&mut engine, data, limits);
    engine
}

/// Returns the constants at the top of a script. The audit ensures that their values are literals.
fn constants(ast: &AST) -> Vec<(ImmutableString, Dynamic)> {
    ast.iter_literal_variables(true, false).map(|(name, _, value)| (name.into(), value)).collect()
}

/// Makes the constants visible in functions, which in Rhai do not see the global scope. The audit
/// refuses other variables with the same name.
#[expect(deprecated, reason = "the attribute says that the call may change; the version is pinned")]
fn resolve_constants(engine: &mut Engine, constants: Vec<(ImmutableString, Dynamic)>) {
    if constants.is_empty() {
        return;
    }
    engine.on_var(move |name, _, _| {
        Ok(constants.iter().find(|(constant, _)| constant == name).map(|(_, value)| value.clone()))
    });
}

/// Calls the function `decide` of the script.
pub(super) fn call(program: &RuleProgram, req: Dynamic) -> Result<Dynamic, Box<EvalAltResult>> {
    let options = rhai::CallFnOptions::new().eval_ast(false).rewind_scope(false);
    program.engine.call_fn_with_options(options, &mut Scope::new(), &program.ast, "decide", (req,))
}

/// Creates the error of a host function.
pub(super) fn fault(fault: HostFault) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(fault), rhai::Position::NONE))
}

/// Returns the keys of a map.
pub(super) fn keys(map: &Map) -> impl Iterator<Item = &str> {
    map.keys().map(AsRef::as_ref)
}
