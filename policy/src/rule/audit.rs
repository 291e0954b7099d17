//! Audits a script when it is loaded: every call, property, operator and variable is checked
//! against [`callable`](super::callable).
//!
//! Rhai reports an unknown function only when it is called. The audit reports it before the script
//! serves requests, with a suggestion if a known name is similar. It also refuses `try`, since an
//! error must deny; changes of elements and properties, which bypass the size limits; function
//! pointers, whose calls are not counted; and statements outside functions, which never run.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the tree has many kinds of nodes; the walk descends into all others"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use rhai::{AST, ASTFlags, ASTNode, Dynamic, Expr, FnCallExpr, OpAssignment, ParseErrorType, Position, Stmt};

use super::advice;
use super::callable::{ASSIGNMENTS, FIELDS, FUNCTIONS, OPERATORS};
use super::data::RuleData;
use super::engine::RuleProgram;
use super::run::shown;
use super::{RuleLimits, ScriptLocation, ScriptProblem};

/// The least similarity of a suggested name, from 0 to 1.
const SIMILAR_MIN: f64 = 0.7;

/// The most problems that are reported for one script.
const PROBLEMS_MAX: usize = 50;

/// The parts of a request and the groups that a script names, and whether it uses the data files.
#[derive(Debug, Default)]
pub(super) struct NamedInputs {
    pub(super) headers: Vec<(Box<str>, ScriptLocation)>,
    pub(super) query_keys: Vec<(Box<str>, ScriptLocation)>,
    pub(super) groups: Vec<(Box<str>, ScriptLocation)>,
    /// The fields of `req`, as bits.
    pub(super) fields: u64,
    pub(super) uses_data: bool,
}

/// Returns the inputs that a source names, or every problem in it.
pub(super) fn audit(
    source: &str,
    data: &Arc<RuleData>,
    limits: &RuleLimits,
) -> Result<NamedInputs, Vec<ScriptProblem>> {
    if source.len() > limits.source_len {
        let message = format!("the script has {} bytes, expected at most {}", source.len(), limits.source_len);
        return Err(vec![problem(Position::new(1, 1), 1, message)]);
    }
    let program = RuleProgram::parse(source, data, limits)
        .map_err(|error| vec![syntax_problem(source, error.position(), error.err_type())])?;
    let mut audit = ScriptAudit::new(&program.ast, data);
    audit.top_level();
    audit.functions();
    program.ast.walk(&mut |path| {
        audit.node(path);
        true
    });
    audit.conclude()
}

fn syntax_problem(source: &str, position: Position, error: &ParseErrorType) -> ScriptProblem {
    let is_depth = matches!(error, ParseErrorType::ExprTooDeep | ParseErrorType::TooManyFunctions);
    let advised = advice::syntax(source, position).filter(|_| !is_depth);
    match (advised, u16::try_from(position.line().unwrap_or(1))) {
        (Some((column, width, message)), Ok(line)) => {
            let column = u16::try_from(column).unwrap_or(1);
            problem(Position::new(line, column), width, message)
        }
        _ => problem(position, 1, parse_message(error)),
    }
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
    let ScriptLocation { line, column } = location(position);
    ScriptProblem { line, column, width: u32::try_from(width.max(1)).unwrap_or(1), message }
}

fn location(position: Position) -> ScriptLocation {
    let number = |n: Option<usize>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1).max(1);
    ScriptLocation { line: number(position.line()), column: number(position.position()) }
}

struct ScriptAudit<'a> {
    ast: &'a AST,
    data: &'a RuleData,
    /// The functions of the script, with the number of their parameters.
    defined: Vec<(&'a str, usize)>,
    constants: BTreeSet<&'a str>,
    /// The keys of the script's map literals, which may follow the dot after an unknown value.
    keys: BTreeSet<String>,
    named: NamedInputs,
    problems: Vec<ScriptProblem>,
    /// The start of the last walked function body, and the answer in its last walked statement.
    last: Option<(Position, Option<Position>)>,
}

impl<'a> ScriptAudit<'a> {
    fn new(ast: &'a AST, data: &'a RuleData) -> Self {
        let defined = ast.iter_functions().map(|function| (function.name, function.params.len())).collect();
        let constants = ast.iter_literal_variables(true, false).map(|(name, ..)| name).collect();
        Self {
            ast,
            data,
            defined,
            constants,
            keys: map_keys(ast),
            named: NamedInputs::default(),
            problems: Vec::new(),
            last: None,
        }
    }

    fn conclude(mut self) -> Result<NamedInputs, Vec<ScriptProblem>> {
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        self.problems.dedup();
        self.problems.truncate(PROBLEMS_MAX);
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
                    "statements outside functions never run, expected `const` with a literal, or functions",
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
                self.error(start, 1, format!("`{name}` is a built-in function, expected another name"));
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

    /// Refuses a variable with the name of a constant: functions resolve constants first.
    fn declared(&mut self, name: &str, position: Position) {
        if self.constants.contains(name) {
            self.error(position, name.len(), format!("`{name}` is a constant already, expected another name"));
        }
    }

    /// Reports answers in statements that are not the last of their block, since their value is
    /// discarded.
    fn block(&mut self, statements: &[Stmt]) {
        let Some((_, before)) = statements.split_last() else { return };
        for statement in before {
            if let Some(position) = discarded_answer(statement) {
                self.discarded(position);
            }
        }
    }

    /// Reports such answers in the body of a function, whose statements the walk visits one by one.
    fn function_statement(&mut self, statement: &Stmt) {
        let at = statement.position();
        let holds = |start: Position, end: Position| start <= at && at <= end;
        let mut bodies = self.ast.iter_fn_def().map(|function| &function.body);
        let Some(body) = bodies.find(|body| holds(body.start_position(), body.end_position())) else { return };
        let start = body.start_position();
        if let Some((_, Some(discarded))) = self.last.filter(|(last, _)| *last == start) {
            self.discarded(discarded);
        }
        self.last = Some((start, discarded_answer(statement)));
    }

    fn discarded(&mut self, position: Position) {
        self.error(
            position,
            1,
            "this answer is discarded, since other statements follow, expected `return` before it, or `else` after it",
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
                    "`try` is not available, since an error denies the origin, expected the code without it",
                );
            }
            Stmt::Return(_, flags, position) if flags.intersects(ASTFlags::BREAK) => {
                self.error(*position, 5, "`throw` is not available, expected `return deny(..)`");
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
            other => self.error(other.position(), 1, "unsupported statement, expected one that the manual lists"),
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
            Expr::Map(parts, _) => parts.0.iter().for_each(|(key, value)| self.option(&key.name, value)),
            Expr::ThisPtr(position) => self.error(*position, 4, "a rule has no `this`, expected a parameter"),
            Expr::DynamicConstant(value, position) if value.is_fnptr() => {
                self.error(*position, 1, "a rule has no function pointers, expected a call");
            }
            _ => {}
        }
    }

    /// Notes a group, which must be a literal, so that the answers of the script are known when it
    /// is loaded.
    fn option(&mut self, key: &str, value: &Expr) {
        match value {
            _ if key != "group" => {}
            Expr::StringConstant(name, position) => note(&mut self.named.groups, name, *position),
            other => {
                self.error(other.start_position(), 1, "the name of a group is computed, expected it in quotes");
            }
        }
    }

    fn variable(&mut self, name: &str, position: Position) {
        if !self.constants.contains(name) {
            let word = advice::word(name).map(|advice| format!("expected {advice}"));
            let known = word.or_else(|| advice::function(name).map(str::to_owned));
            let hint = known
                .or_else(|| guess(name, self.constants.iter().copied()))
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
        let hint = advice::property(name)
            .map(str::to_owned)
            .or_else(|| guess(name, FIELDS.into_iter()))
            .unwrap_or_else(|| format!("expected one of {}", FIELDS.join(", ")));
        self.error(position, name.len(), format!("`req` has no `{name}`; {hint}"));
    }

    fn call(&mut self, call: &FnCallExpr, position: Position, is_method: bool) {
        let name = call.name.as_str();
        let count = call.args.len() + usize::from(is_method);
        self.comparison(name, &call.args, position);
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
        let character = call.args.iter().find_map(|argument| match argument {
            Expr::CharConstant(char, position) => Some((*char, *position)),
            _ => None,
        });
        if let Some((char, position)) = character {
            let message =
                format!("a character in single quotes is not a string, expected `\"{char}\"` in double quotes");
            return self.error(position, 3, message);
        }
        self.literal(name, call, position, is_method);
    }

    /// Reports a comparison of two kinds of values, whose result is the same for every request.
    fn comparison(&mut self, operator: &str, operands: &[Expr], position: Position) {
        let [one, other] = operands else { return };
        let found = match operator {
            "==" | "!=" => never_equal(self.ast, one, other).or_else(|| never_equal(self.ast, other, one)),
            // `x in [..]` is a call of `contains` on the list.
            "contains" | "in" => never_in(self.ast, other, one).or_else(|| never_in(self.ast, one, other)),
            _ => None,
        };
        if let Some(message) = found {
            self.error(position, operator.len(), message);
        }
    }

    fn unknown(&mut self, name: &str, position: Position) {
        let known = FUNCTIONS.iter().map(|(name, _)| *name).chain(self.defined.iter().map(|(name, _)| *name));
        let hint = match self.defined.iter().find(|(defined, _)| *defined == name) {
            Some((_, count)) => format!("expected {count} arguments, and no dot before it"),
            None => advice::function(name)
                .map(str::to_owned)
                .or_else(|| guess(name, known))
                .unwrap_or_else(|| "expected a function that the manual lists".to_owned()),
        };
        self.error(position, name.len(), format!("a rule may not call `{name}`; {hint}"));
    }

    /// Checks that the name of a header, query key, set or table is a literal, so that the inputs
    /// of the script are known when it is loaded.
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

fn note(list: &mut Vec<(Box<str>, ScriptLocation)>, name: &str, position: Position) {
    if !list.iter().any(|(known, _)| **known == *name) {
        list.push((name.into(), location(position)));
    }
}

/// The kind of an expression's value, as far as its syntax determines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    Text,
    /// A string, or `()` if it is absent.
    MaybeText,
    Character,
    Number,
    Flag,
    List,
    Nothing,
}

impl ValueKind {
    fn can_equal(self, other: Self) -> bool {
        let is_text = |kind| matches!(kind, Self::Text | Self::MaybeText);
        let is_maybe_nothing = |kind| matches!(kind, Self::Nothing | Self::MaybeText);
        self == other || (is_text(self) && is_text(other)) || (is_maybe_nothing(self) && is_maybe_nothing(other))
    }
}

/// Returns the kind of a value that is read from the request, and its form in messages.
fn read_kind(expression: &Expr) -> Option<(ValueKind, String)> {
    let Expr::Dot(parts, ..) = expression else { return None };
    let name = match &parts.rhs {
        Expr::Property(property, _) => property.2.as_str(),
        Expr::MethodCall(call, _) => call.name.as_str(),
        _ => return None,
    };
    let kind = match name {
        _ if !is_req(&parts.lhs) => return None,
        "port" => ValueKind::Number,
        "requested_headers" => ValueKind::List,
        "header" | "query" => ValueKind::MaybeText,
        field if FIELDS.contains(&field) => ValueKind::Text,
        _ => return None,
    };
    let shown = if kind == ValueKind::MaybeText { format!("req.{name}(..)") } else { format!("req.{name}") };
    Some((kind, shown))
}

/// Returns the kind of a literal or a constant, and its form in messages.
fn literal_kind(ast: &AST, expression: &Expr) -> Option<(ValueKind, String)> {
    Some(match expression {
        Expr::StringConstant(text, _) => (ValueKind::Text, text.to_string()),
        Expr::IntegerConstant(number, _) => (ValueKind::Number, number.to_string()),
        Expr::BoolConstant(flag, _) => (ValueKind::Flag, flag.to_string()),
        Expr::Unit(_) => (ValueKind::Nothing, "()".to_owned()),
        Expr::CharConstant(char, _) => (ValueKind::Character, char.to_string()),
        Expr::Array(..) => (ValueKind::List, "the list".to_owned()),
        Expr::DynamicConstant(value, _) => return value_kind(value),
        Expr::Variable(parts, ..) => {
            let (.., value) = ast.iter_literal_variables(true, false).find(|(name, ..)| *name == parts.1.as_str())?;
            return value_kind(&value);
        }
        _ => return None,
    })
}

fn value_kind(value: &Dynamic) -> Option<(ValueKind, String)> {
    let kind = match () {
        () if value.is_string() => ValueKind::Text,
        () if value.is_char() => ValueKind::Character,
        () if value.is_int() => ValueKind::Number,
        () if value.is_bool() => ValueKind::Flag,
        () if value.is_array() => ValueKind::List,
        () => return None,
    };
    Some((kind, value.to_string()))
}

/// Returns the message for a value of the request that never equals a literal.
fn never_equal(ast: &AST, read: &Expr, literal: &Expr) -> Option<String> {
    let (kind, shown) = read_kind(read)?;
    let (other, text) = literal_kind(ast, literal)?;
    (!kind.can_equal(other)).then(|| format!("{}, {}", kind.never(&shown, other), kind.wanted(&text)))
}

/// Returns the message for a value of the request that is never in a list of literals.
fn never_in(ast: &AST, read: &Expr, list: &Expr) -> Option<String> {
    let (kind, shown) = read_kind(read)?;
    let items: Vec<(ValueKind, String)> = match list {
        Expr::Array(items, _) => items.iter().filter_map(|item| literal_kind(ast, item)).collect(),
        Expr::DynamicConstant(list, _) => list.as_array_ref().ok()?.iter().filter_map(value_kind).collect(),
        _ => return None,
    };
    let wrong = items.into_iter().find(|(item, _)| !kind.can_equal(*item));
    wrong.map(|(other, text)| format!("{}, {}", kind.never(&shown, other), kind.wanted(&text)))
}

impl ValueKind {
    fn never(self, shown: &str, other: Self) -> String {
        format!("`{shown}` is {}, which never equals {}", self.name(), other.name())
    }

    /// Returns the value to compare with instead of a literal.
    fn wanted(self, literal: &str) -> String {
        match self {
            Self::Number if literal.parse::<i64>().is_ok() => format!("expected `{literal}` without quotes"),
            Self::Number => "expected a number, the default port if the origin has none".to_owned(),
            Self::List => format!("expected `contains(\"{literal}\")`"),
            Self::Text if literal == "()" => "expected a comparison with a string".to_owned(),
            Self::Text | Self::MaybeText | Self::Character | Self::Flag | Self::Nothing => {
                format!("expected `\"{literal}\"` in double quotes")
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::MaybeText => "a string or `()`",
            Self::Character => "a character in single quotes",
            Self::Number => "a number",
            Self::Flag => "true or false",
            Self::List => "a list",
            Self::Nothing => "`()`",
        }
    }
}

/// Whether the expression is the variable `req`. Other variables with the same value are not
/// recognised.
fn is_req(expression: &Expr) -> bool {
    matches!(expression, Expr::Variable(parts, ..) if parts.1.as_str() == "req")
}

/// Returns the position of an answer that is the value of a statement.
fn discarded_answer(statement: &Stmt) -> Option<Position> {
    match statement {
        Stmt::FnCall(call, position) => is_answer(call).then_some(*position),
        Stmt::Expr(expression) => match &**expression {
            Expr::FnCall(call, position) => is_answer(call).then_some(*position),
            _ => None,
        },
        Stmt::If(flow, _) => {
            [&flow.body, &flow.branch].into_iter().find_map(|block| discarded_answer(block.statements().last()?))
        }
        Stmt::Block(block) => discarded_answer(block.statements().last()?),
        _ => None,
    }
}

fn is_answer(call: &FnCallExpr) -> bool {
    matches!(call.name.as_str(), "allow" | "deny")
}

/// Returns the keys of all map literals of the script.
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

/// Returns the end of a message that suggests a similar name.
fn guess<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
    let scored = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let best = scored.filter(|(score, _)| *score >= SIMILAR_MIN).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!("did you mean `{}`?", best.1))
}
