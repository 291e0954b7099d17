//! Loading a script: its source is parsed, and everything in it is held against [`callable`](super::callable).
//!
//! Rhai finds out that a function does not exist when it calls it. Here every call, property, operator and variable is looked up before
//! the script is live, with a guess where one is near. What a rule could do harm or nothing with is refused: catching errors, which
//! must deny; changing elements and properties, which passes by the limits; function pointers, whose calls are not counted;
//! statements beside the functions, which never run.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the tree has many kinds of nodes; those not named are walked through"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use rhai::{AST, ASTFlags, ASTNode, Expr, FnCallExpr, OpAssignment, ParseErrorType, Position, Stmt};

use super::callable::{ASSIGNMENTS, FIELDS, FUNCTIONS, OPERATORS};
use super::data::RuleData;
use super::engine::Program;
use super::run::shown;
use super::{RuleLimits, ScriptPlace, ScriptProblem};

/// How near a name must be to be guessed, from 0 to 1.
const SIMILAR_MIN: f64 = 0.7;

/// The most problems that are told of one script.
const TOLD_MAX: usize = 50;

/// What a script names of a request and of the data beside it.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) headers: Vec<(Box<str>, ScriptPlace)>,
    pub(super) query_keys: Vec<(Box<str>, ScriptPlace)>,
    /// The fields of `req`, as bits.
    pub(super) fields: u64,
    pub(super) uses_data: bool,
}

/// Everything that is wrong with a source, or what it names.
pub(super) fn audit(source: &str, data: &Arc<RuleData>, limits: &RuleLimits) -> Result<Named, Vec<ScriptProblem>> {
    if source.len() > limits.source_len {
        let message = format!("the script has {} bytes, expected at most {}", source.len(), limits.source_len);
        return Err(vec![problem(Position::new(1, 1), 1, message)]);
    }
    let program = Program::parse(source, data, limits)
        .map_err(|error| vec![problem(error.position(), 1, parse_message(error.err_type()))])?;
    let mut audit = Audit::new(&program.ast, data);
    audit.top_level();
    audit.functions();
    program.ast.walk(&mut |path| {
        audit.node(path);
        true
    });
    audit.conclude()
}

fn parse_message(error: &ParseErrorType) -> String {
    match error {
        ParseErrorType::ExprTooDeep => "this is nested too deeply, expected simpler expressions and blocks".to_owned(),
        ParseErrorType::TooManyFunctions => "there are too many functions, expected at most 64".to_owned(),
        error => format!("{}, expected a Rhai script", shown(&lowered(&error.to_string()))),
    }
}

fn lowered(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

fn problem(position: Position, width: usize, message: String) -> ScriptProblem {
    let ScriptPlace { line, column } = place(position);
    ScriptProblem { line, column, width: u32::try_from(width.max(1)).unwrap_or(1), message }
}

fn place(position: Position) -> ScriptPlace {
    let number = |n: Option<usize>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1);
    ScriptPlace { line: number(position.line()), column: number(position.position()) }
}

struct Audit<'a> {
    ast: &'a AST,
    data: &'a RuleData,
    /// Functions of the script, with the number of their parameters.
    defined: Vec<(&'a str, usize)>,
    constants: BTreeSet<&'a str>,
    /// What may stand behind a dot where it is not known what stands before it.
    keys: BTreeSet<String>,
    named: Named,
    problems: Vec<ScriptProblem>,
    /// Which function's body was last walked through, and the answer at its end so far.
    last: Option<(Position, Option<Position>)>,
}

impl<'a> Audit<'a> {
    fn new(ast: &'a AST, data: &'a RuleData) -> Self {
        let defined = ast.iter_functions().map(|function| (function.name, function.params.len())).collect();
        let constants = ast.iter_literal_variables(true, false).map(|(name, ..)| name).collect();
        Self {
            ast,
            data,
            defined,
            constants,
            keys: map_keys(ast),
            named: Named::default(),
            problems: Vec::new(),
            last: None,
        }
    }

    fn conclude(mut self) -> Result<Named, Vec<ScriptProblem>> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        self.problems.truncate(TOLD_MAX);
        if self.problems.is_empty() { Ok(self.named) } else { Err(self.problems) }
    }

    fn error(&mut self, position: Position, width: usize, message: impl Into<String>) {
        self.problems.push(problem(position, width, message.into()));
    }

    fn top_level(&mut self) {
        for statement in self.ast.statements() {
            match statement {
                Stmt::Noop(_) => {}
                Stmt::Var(parts, flags, position) if flags.intersects(ASTFlags::CONSTANT) => {
                    if !self.constants.contains(parts.0.name.as_str()) {
                        self.error(
                            *position,
                            5,
                            "a constant is not a literal, expected a string, a number, true or false",
                        );
                    }
                }
                other => self.error(
                    other.position(),
                    1,
                    "nothing runs beside the functions, expected `const` with a literal, or functions",
                ),
            }
        }
    }

    fn functions(&mut self) {
        if !self.defined.contains(&("decide", 1)) {
            let position = self.position_of("decide").unwrap_or(Position::new(1, 1));
            self.error(
                position,
                1,
                "there is no function `decide` with one parameter, expected `fn decide(req) { .. }`",
            );
        }
        for function in self.ast.iter_fn_def() {
            let name = function.name.as_str();
            let start = function.body.start_position();
            if name.starts_with("anon$") {
                self.error(start, 1, "a rule has no function pointers, expected a function with a name");
            } else if FUNCTIONS.iter().any(|(known, _)| *known == name) {
                self.error(start, 1, format!("`{name}` means something already, expected another name"));
            }
            if function.this_type.is_some() {
                self.error(start, 1, "a rule has no methods, expected a function without a type before its name");
            }
            for parameter in &function.params {
                self.declared(parameter, start);
            }
        }
    }

    fn position_of(&self, function: &str) -> Option<Position> {
        Some(self.ast.iter_fn_def().find(|found| found.name.as_str() == function)?.body.start_position())
    }

    /// A variable that would hide a constant: functions see constants first.
    fn declared(&mut self, name: &str, position: Position) {
        if self.constants.contains(name) {
            self.error(position, name.len(), format!("`{name}` is a constant already, expected another name"));
        }
    }

    /// The answers of statements that are not the last of their block are lost, which nobody means.
    fn block(&mut self, statements: &[Stmt]) {
        let Some((_, before)) = statements.split_last() else { return };
        for statement in before {
            if let Some(position) = dropped_answer(statement) {
                self.lost(position);
            }
        }
    }

    /// The same for the statements of a function, of which the walk shows one after the other.
    fn function_statement(&mut self, statement: &Stmt) {
        let at = statement.position();
        let holds = |start: Position, end: Position| start <= at && at <= end;
        let mut bodies = self.ast.iter_fn_def().map(|function| &function.body);
        let Some(body) = bodies.find(|body| holds(body.start_position(), body.end_position())) else { return };
        let start = body.start_position();
        if let Some((_, Some(lost))) = self.last.filter(|(last, _)| *last == start) {
            self.lost(lost);
        }
        self.last = Some((start, dropped_answer(statement)));
    }

    fn lost(&mut self, position: Position) {
        self.error(
            position,
            1,
            "this answer is lost, since more follows, expected `return` before it, or `else` after it",
        );
    }

    fn node(&mut self, path: &[ASTNode<'_>]) {
        if let [ASTNode::Stmt(statement)] = path {
            self.function_statement(statement);
        }
        let (before, Some(node)) = (path.len().checked_sub(2).and_then(|index| path.get(index)), path.last()) else {
            return;
        };
        match node {
            ASTNode::Stmt(statement) => self.statement(statement),
            ASTNode::Expr(expression) => self.expression(expression, before),
            _ => {}
        }
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::TryCatch(_, position) => {
                self.error(
                    *position,
                    3,
                    "a rule catches no errors, since an error denies, expected the code without `try`",
                );
            }
            Stmt::Return(_, flags, position) if flags.intersects(ASTFlags::BREAK) => {
                self.error(*position, 5, "a rule throws nothing, expected `return deny(..)`");
            }
            Stmt::Var(parts, _, position) => {
                let is_top = self.ast.statements().iter().any(|top| std::ptr::eq(top, statement));
                if !is_top {
                    self.declared(&parts.0.name, *position);
                }
            }
            Stmt::Assignment(parts) => self.assignment(&parts.1.lhs, &parts.0),
            Stmt::FnCall(call, position) => self.call(call, *position, false),
            Stmt::Block(block) => self.block(block.statements()),
            Stmt::If(flow, _) => {
                self.block(flow.body.statements());
                self.block(flow.branch.statements());
            }
            Stmt::For(parts, position) => {
                self.declared(&parts.0.name, *position);
                self.block(parts.2.body.statements());
            }
            Stmt::While(flow, _) | Stmt::Do(flow, ..) => self.block(flow.body.statements()),
            Stmt::Noop(_) | Stmt::Switch(..) | Stmt::Expr(_) | Stmt::BreakLoop(..) | Stmt::Return(..) => {}
            other => self.error(other.position(), 1, "a rule has no such statement, see what a rule may use"),
        }
    }

    fn assignment(&mut self, target: &Expr, assignment: &OpAssignment) {
        match target {
            Expr::Variable(..) => {}
            other => self.error(
                other.start_position(),
                1,
                "elements and properties cannot be changed, expected a new array or map written as a literal",
            ),
        }
        let Some((.., operator, _, _)) = assignment.get_op_assignment_info() else { return };
        if !ASSIGNMENTS.contains(&operator) {
            self.error(
                target.start_position(),
                operator.len(),
                format!("a rule has no operator `{operator}`, expected {}", ASSIGNMENTS.join(" ")),
            );
        }
    }

    fn expression(&mut self, expression: &Expr, before: Option<&ASTNode<'_>>) {
        match expression {
            Expr::FnCall(call, position) => self.call(call, *position, false),
            Expr::MethodCall(call, position) => self.call(call, *position, true),
            Expr::Property(parts, position) => self.property(&parts.2, *position, before),
            Expr::Variable(parts, None, position) if parts.0.is_none() => self.variable(&parts.1, *position),
            Expr::ThisPtr(position) => self.error(*position, 4, "a rule has no `this`, expected a parameter"),
            Expr::DynamicConstant(value, position) if value.is_fnptr() => {
                self.error(*position, 1, "a rule has no function pointers, expected a call");
            }
            _ => {}
        }
    }

    fn variable(&mut self, name: &str, position: Position) {
        if !self.constants.contains(name) {
            let hint = guess(name, self.constants.iter().copied())
                .unwrap_or_else(|| "expected one that is declared".to_owned());
            self.error(position, name.len(), format!("there is no variable `{name}`; {hint}"));
        }
    }

    fn property(&mut self, name: &str, position: Position, before: Option<&ASTNode<'_>>) {
        let field = FIELDS.iter().position(|field| *field == name);
        if let Some(index) = field {
            self.named.fields |= 1 << index;
        }
        let is_req = matches!(before, Some(ASTNode::Expr(Expr::Dot(parts, ..))) if is_req(&parts.lhs));
        if field.is_some() || (!is_req && self.keys.contains(name)) {
            return;
        }
        let hint = guess(name, FIELDS.into_iter()).unwrap_or_else(|| format!("expected one of {}", FIELDS.join(", ")));
        self.error(position, name.len(), format!("`req` has no `{name}`; {hint}"));
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, is_method: bool) {
        let name = call.name.as_str();
        let count = call.args.len() + usize::from(is_method);
        if call.is_operator_call() {
            if !OPERATORS.contains(&name) && name != "contains" {
                self.error(
                    position,
                    name.len(),
                    format!("a rule has no operator `{name}`, expected one of {}", OPERATORS.join(" ")),
                );
            }
            return;
        }
        if self.defined.contains(&(name, count)) && !is_method {
            return;
        }
        let Some((_, counts)) = FUNCTIONS.iter().find(|(known, _)| *known == name) else {
            return self.unknown(name, position);
        };
        if !counts.contains(&count) {
            let wanted: Vec<String> =
                counts.iter().map(|n| n.saturating_sub(usize::from(is_method)).to_string()).collect();
            let message = format!("`{name}` is given {} arguments, expected {}", call.args.len(), wanted.join(" or "));
            self.error(position, name.len(), message);
            return;
        }
        self.literal(name, call, position, is_method);
    }

    fn unknown(&mut self, name: &str, position: Position) {
        let known = FUNCTIONS.iter().map(|(name, _)| *name).chain(self.defined.iter().map(|(name, _)| *name));
        let hint = match self.defined.iter().find(|(defined, _)| *defined == name) {
            Some((_, count)) => format!("expected {count} arguments, and no dot before it"),
            None => guess(name, known).unwrap_or_else(|| "expected one of those in the manual".to_owned()),
        };
        self.error(position, name.len(), format!("a rule may not call `{name}`; {hint}"));
    }

    /// Names of headers, query keys, sets and tables stand in the script itself, so that it can be told beforehand what it depends on.
    fn literal(&mut self, function: &str, call: &FnCallExpr, position: Position, is_method: bool) {
        let (index, what) = match function {
            "header" => (usize::from(!is_method), "header"),
            "query" => (usize::from(!is_method), "query key"),
            "in_set" => (0, "set"),
            "lookup" => (0, "table"),
            _ => return,
        };
        let Some(Expr::StringConstant(text, at)) =
            call.args.get(index).filter(|_| is_method || index == 0 || call.args.len() == 2)
        else {
            let message = format!("the name of a {what} is computed, expected it in quotes");
            return self.error(position, function.len(), message);
        };
        let (text, at) = (text.as_str(), *at);
        match function {
            "header" => note(&mut self.named.headers, &text.to_ascii_lowercase(), at),
            "query" => note(&mut self.named.query_keys, text, at),
            "in_set" => self.known(text, at, what, &self.data.set_names().collect::<Vec<_>>()),
            _ => self.known(text, at, what, &self.data.table_names().collect::<Vec<_>>()),
        }
    }

    fn known(&mut self, name: &str, position: Position, what: &str, known: &[&str]) {
        self.named.uses_data = true;
        if !known.contains(&name) {
            let hint =
                guess(name, known.iter().copied()).unwrap_or_else(|| format!("expected a {what} of the data files"));
            self.error(position, name.len() + 2, format!("there is no {what} `{name}`; {hint}"));
        }
    }
}

fn note(list: &mut Vec<(Box<str>, ScriptPlace)>, name: &str, position: Position) {
    if !list.iter().any(|(known, _)| **known == *name) {
        list.push((name.into(), place(position)));
    }
}

/// `req` by its name: what it is bound to elsewhere is not known here.
fn is_req(expression: &Expr) -> bool {
    matches!(expression, Expr::Variable(parts, ..) if parts.1.as_str() == "req")
}

/// Where a statement has an answer for its value.
fn dropped_answer(statement: &Stmt) -> Option<Position> {
    match statement {
        Stmt::FnCall(call, position) => is_answer(call).then_some(*position),
        Stmt::Expr(expression) => match &**expression {
            Expr::FnCall(call, position) => is_answer(call).then_some(*position),
            _ => None,
        },
        Stmt::If(flow, _) => {
            [&flow.body, &flow.branch].into_iter().find_map(|block| dropped_answer(block.statements().last()?))
        }
        Stmt::Block(block) => dropped_answer(block.statements().last()?),
        _ => None,
    }
}

fn is_answer(call: &FnCallExpr) -> bool {
    matches!(call.name.as_str(), "allow" | "deny")
}

/// The keys of all maps that the script writes.
fn map_keys(ast: &AST) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    ast.walk(&mut |path| {
        if let Some(ASTNode::Expr(Expr::Map(parts, _))) = path.last() {
            keys.extend(parts.0.iter().map(|(name, _)| name.name.to_string()));
        }
        true
    });
    keys
}

/// A name like one of these, as the end of a message.
fn guess<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.filter(|(score, _)| *score >= SIMILAR_MIN).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean `{}`?", best.1))
}
