//! The sandbox: a Rhai engine that knows nothing but the functions of [`callable`](super::callable), with every limit set.
//!
//! Each copy of a script has an engine of its own, compiled from the source, so that threads share neither a lock nor a reference
//! count. The limits are written down here, since Rhai's defaults differ between debug and release builds.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use rhai::{
    AST, Array, Dynamic, Engine, EvalAltResult, INT, ImmutableString, Map, OptimizationLevel, ParseError, Scope,
};

use super::data::RuleData;
use super::run::{self, Fault};
use super::{RuleLimits, functions};

/// Expressions within expressions, blocks and brackets alike; parsing is recursive.
const EXPRESSION_DEPTH_MAX: usize = 48;
/// Functions of one script.
const FUNCTIONS_MAX: usize = 64;
/// Variables alive at one time.
const VARIABLES_MAX: usize = 64;

/// One compiled copy of a script, with an engine of its own.
pub(super) struct Program {
    pub(super) engine: Engine,
    pub(super) ast: AST,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Program {
    /// Compiles a source, whatever it calls.
    pub(super) fn parse(source: &str, data: &Arc<RuleData>, limits: &RuleLimits) -> Result<Self, ParseError> {
        let mut engine = sandbox(data, limits);
        let ast = engine.compile(source)?;
        see_constants(&mut engine, constants(&ast));
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
        // As written: the audit tells places, and nothing is evaluated while loading.
        .set_optimization_level(OptimizationLevel::None)
        .set_allow_shadowing(true)
        .set_fast_operators(true)
        .on_progress(run::progress);
    engine.register_iterator::<Array>().register_iterator::<Range<INT>>().register_iterator::<RangeInclusive<INT>>();
    functions::register(&mut engine, data, limits);
    engine
}

/// The constants at the top of a script. Their values are literals, which the audit sees to.
fn constants(ast: &AST) -> Vec<(ImmutableString, Dynamic)> {
    ast.iter_literal_variables(true, false).map(|(name, _, value)| (name.into(), value)).collect()
}

/// Functions do not see what stands beside them; a constant is looked up for them. The audit has refused other variables of
/// that name.
#[expect(deprecated, reason = "the attribute says that the call may change; the version is pinned")]
fn see_constants(engine: &mut Engine, constants: Vec<(ImmutableString, Dynamic)>) {
    if constants.is_empty() {
        return;
    }
    engine.on_var(move |name, _, _| {
        Ok(constants.iter().find(|(constant, _)| constant == name).map(|(_, value)| value.clone()))
    });
}

/// Calls `decide`.
pub(super) fn call(program: &Program, req: Dynamic) -> Result<Dynamic, Box<EvalAltResult>> {
    let options = rhai::CallFnOptions::new().eval_ast(false).rewind_scope(false);
    program.engine.call_fn_with_options(options, &mut Scope::new(), &program.ast, "decide", (req,))
}

/// An error that a host function makes.
pub(super) fn fault(fault: Fault) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(fault), rhai::Position::NONE))
}

/// Keys of a map, for messages.
pub(super) fn keys(map: &Map) -> impl Iterator<Item = &str> {
    map.keys().map(AsRef::as_ref)
}
