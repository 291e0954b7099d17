//! Suggestions for rule authors who use the syntax of another language.
//!
//! Rhai is similar to JavaScript, Python and C, so their keywords look right. Rhai's own messages
//! describe its grammar. This module replaces them if the word at the mistake is a known one.

use rhai::Position;

/// Words of other languages, and their counterparts in Rhai, which complete a message.
const WORDS: [(&str, &str); 14] = [
    ("or", "`||`"),
    ("and", "`&&`"),
    ("not", "`!( .. )`"),
    ("elif", "`else if`"),
    ("elsif", "`else if`"),
    ("null", ABSENT),
    ("nil", ABSENT),
    ("None", ABSENT),
    ("undefined", ABSENT),
    ("var", "`let`"),
    ("function", "`fn`"),
    ("def", "`fn`"),
    ("True", "`true`"),
    ("False", "`false`"),
];

const ABSENT: &str = "`()`, the value of an absent header or query key";

/// Functions that a rule does not have, and their replacements.
const FUNCTIONS: [(&[&str], &str); 4] = [
    (
        &["print", "debug", "log", "console", "printf", "println"],
        "a rule cannot write output, expected `deny(\"..\")` with a message, or `crossgate explain`, which lists what was read",
    ),
    (
        &["matches", "match", "test", "regex", "is_match"],
        "there are no regular expressions, expected `glob`, `host_under` or `==`",
    ),
    (&["get", "get_header"], "expected `req.header(\"name\")` or `req.query(\"key\")`"),
    (&["includes", "has"], "expected `contains`"),
];

/// Properties that `req` does not have, and their replacements.
const PROPERTIES: [(&[&str], &str); 3] = [
    (&["headers", "header"], "expected `req.header(\"name\")`"),
    (&["query", "queries", "params", "search", "searchParams", "args"], "expected `req.query(\"key\")`"),
    (&["url", "uri"], "expected `path`"),
];

fn lookup(table: &[(&[&str], &'static str)], name: &str) -> Option<&'static str> {
    table.iter().find(|(names, _)| names.contains(&name)).map(|(_, advice)| *advice)
}

/// Returns the counterpart of a word of another language.
pub(super) fn word(name: &str) -> Option<&'static str> {
    WORDS.iter().find(|(word, _)| *word == name).map(|(_, advice)| *advice)
}

/// Returns the replacement of a function of another language.
pub(super) fn function(name: &str) -> Option<&'static str> {
    lookup(&FUNCTIONS, name)
}

/// Returns the replacement of a property that requests have in other systems.
pub(super) fn property(name: &str) -> Option<&'static str> {
    lookup(&PROPERTIES, name)
}

/// Returns a better location and message for a syntax error: column, width and message.
pub(super) fn syntax(source: &str, position: Position) -> Option<(usize, usize, String)> {
    let line = source.lines().nth(position.line()?.checked_sub(1)?)?;
    let column = position.position()?.checked_sub(1)?;
    let start = line.char_indices().nth(column).map_or(line.len(), |(start, _)| start);
    let (before, rest) = line.split_at_checked(start)?;
    word_at(rest, column).or_else(|| word_before(before))
}

fn word_at(rest: &str, column: usize) -> Option<(usize, usize, String)> {
    if let Some(inner) = rest.strip_prefix('\'') {
        let text = inner.split('\'').next().unwrap_or_default();
        let message = format!("strings are in double quotes, expected `\"{text}\"`");
        return Some((column + 1, text.chars().count() + 2, message));
    }
    for (operator, advice) in
        [("===", "expected `==`"), ("!==", "expected `!=`"), ("?", "expected `if .. { .. } else { .. }`")]
    {
        if rest.starts_with(operator) {
            return Some((column + 1, operator.len(), format!("there is no operator `{operator}`, {advice}")));
        }
    }
    word_advice(leading_word(rest), column + 1)
}

/// Checks the word before the position: the parser stops after `not`.
fn word_before(before: &str) -> Option<(usize, usize, String)> {
    let trimmed = before.trim_end();
    let start = trimmed.rfind(|c: char| !is_word(c)).map_or(0, |at| at + 1);
    let word = trimmed.get(start..)?;
    word_advice(word, trimmed.get(..start)?.chars().count() + 1)
}

fn word_advice(name: &str, column: usize) -> Option<(usize, usize, String)> {
    word(name).map(|advice| (column, name.len(), format!("there is no `{name}` here, expected {advice}")))
}

fn leading_word(text: &str) -> &str {
    text.split(|c: char| !is_word(c)).next().unwrap_or_default()
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}
