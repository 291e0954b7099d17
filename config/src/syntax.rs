//! Locations and messages for invalid YAML.
//!
//! The parser stops where reading becomes impossible, which can be far after the mistake, and
//! describes it in terms of its grammar. This module searches the line, and the text before it, for
//! common mistakes: a star without quotes, a tab, a colon without a space, a placeholder, an
//! unclosed bracket.

use super::diagnostics::lines;
use super::hints;
use super::node::Position;

/// A better position and message for a syntax error, if its cause is one of the common mistakes.
pub(super) fn advise(text: &str, at: Position, parser_message: &str) -> Option<(Position, String)> {
    placeholder(text, at)
        .or_else(|| bare_star(text, at))
        .or_else(|| tab(at, parser_message))
        .or_else(|| missing_space(text, at))
        .or_else(|| missing_space_after_dash(text, at))
        .or_else(|| unclosed_bracket(text, at).filter(|_| !parser_message.contains("quote")))
}

fn line(text: &str, number: u32) -> &str {
    lines(text).nth(number.saturating_sub(1) as usize).unwrap_or_default()
}

/// The text from a column to the end of its line.
fn from_column(line: &str, column: u32) -> &str {
    let start = line.char_indices().nth(column.saturating_sub(1) as usize).map_or(line.len(), |(start, _)| start);
    line.get(start..).unwrap_or_default()
}

fn width(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX).max(1)
}

fn placeholder(text: &str, at: Position) -> Option<(Position, String)> {
    let line = line(text, at.line);
    let start = line.find("${").or_else(|| line.find("{{"))?;
    let (before, rest) = line.split_at_checked(start)?;
    let found = hints::find_placeholder(rest)?;
    let column = width(before).saturating_add(u32::from(!before.is_empty()));
    Some((Position { column, width: width(found), ..at }, hints::placeholder_message(found)))
}

/// A star at the start of a text, which YAML reads as an alias.
fn bare_star(text: &str, at: Position) -> Option<(Position, String)> {
    let rest = from_column(line(text, at.line), at.column);
    let star = rest.split([' ', '\t', ',', ']', '}', '\r']).next().filter(|star| star.starts_with('*'))?;
    // With the name of an anchor after it, the star may be meant as an alias.
    let is_alias =
        star.len() > 1 && star.bytes().skip(1).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (!is_alias).then(|| {
        let message = format!("a text that begins with a star is an alias in YAML; write it in quotes: {star:?}");
        (Position { width: width(star), ..at }, message)
    })
}

fn tab(at: Position, parser_message: &str) -> Option<(Position, String)> {
    let message = "this line begins with a tab; indent with spaces";
    parser_message.contains("tab").then(|| (Position { column: 1, width: 1, ..at }, message.to_owned()))
}

/// The line of a mistake, and the last line before it that is neither blank nor a comment.
fn suspects(text: &str, at: Position) -> impl Iterator<Item = u32> {
    let has_content = |line: &str| !line.is_empty() && !line.starts_with('#');
    let before = (1..at.line).rev().find(|number| has_content(line(text, *number).trim()));
    [Some(at.line), before].into_iter().flatten()
}

fn missing_space_after_dash(text: &str, at: Position) -> Option<(Position, String)> {
    suspects(text, at).find_map(|number| {
        let line = line(text, number);
        let entry = line.trim_start_matches(' ').trim_end();
        let column = width(line).saturating_sub(width(entry)).saturating_add(1);
        hints::is_missing_space_after_dash(entry)
            .then(|| (Position { line: number, column, width: 1 }, "a space is missing after the dash".to_owned()))
    })
}

fn missing_space(text: &str, at: Position) -> Option<(Position, String)> {
    suspects(text, at).find_map(|number| {
        let line = line(text, number);
        let entry = line.trim_start_matches([' ', '-']);
        let (key, value) = hints::split_without_space(entry.trim_end())?;
        let column = width(line).saturating_sub(width(entry)).saturating_add(1);
        let message =
            format!("a space is missing after the colon; write {}", super::show_text(&format!("{key}: {value}")));
        Some((Position { line: number, column, width: width(key) }, message))
    })
}

fn unclosed_bracket(text: &str, at: Position) -> Option<(Position, String)> {
    let (open, bracket) = BracketScanner::default().unclosed(text)?;
    let is_before = (open.line, open.column) <= (at.line, at.column);
    is_before.then(|| (open, format!("this `{bracket}` is not closed; write `{}` where it ends", closing(bracket))))
}

fn closing(bracket: char) -> char {
    if bracket == '[' { ']' } else { '}' }
}

/// A scanner that recognizes only brackets, quotes and comments.
#[derive(Default)]
struct BracketScanner {
    open: Vec<(Position, char)>,
    quote: Option<char>,
    is_escaped: bool,
    is_comment: bool,
    before: char,
    /// Whether a value may begin here: outside of brackets, `a[1]` is a plain text.
    is_start: bool,
}

impl BracketScanner {
    /// The bracket that is open when another kind of bracket closes, or at the end.
    fn unclosed(mut self, text: &str) -> Option<(Position, char)> {
        for (number, line) in (1..).zip(lines(text)) {
            (self.is_comment, self.is_start, self.before) = (false, true, ' ');
            for (column, char) in (1..).zip(line.chars()) {
                let wrong = self.read(char, Position { line: number, column, width: 1 });
                if wrong.is_some() {
                    return wrong;
                }
            }
        }
        self.open.pop()
    }

    fn read(&mut self, char: char, at: Position) -> Option<(Position, char)> {
        let before = std::mem::replace(&mut self.before, char);
        match (self.quote, char) {
            _ if self.is_comment => {}
            (Some('"'), _) if self.is_escaped => self.is_escaped = false,
            (Some('"'), '\\') => self.is_escaped = true,
            (Some(quote), _) => self.quote = Some(quote).filter(|quote| *quote != char),
            (None, '#') if before.is_whitespace() => self.is_comment = true,
            // Two single quotes in a single-quoted text are one character of it.
            (None, '"' | '\'') if self.is_start || (char == '\'' && before == '\'') => {
                self.quote = Some(char);
                self.is_start = false;
            }
            (None, '[' | '{') if self.is_start || !self.open.is_empty() => {
                self.open.push((at, char));
                self.is_start = true;
            }
            (None, ']' | '}') => {
                if let Some(open) = self.open.pop().filter(|(_, bracket)| closing(*bracket) != char) {
                    return Some(open);
                }
                self.is_start = false;
            }
            (None, ',') => self.is_start = !self.open.is_empty(),
            (None, _) if char.is_whitespace() => self.is_start |= matches!(before, ':' | '-' | '?'),
            (None, _) => self.is_start = false,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unclosed(text: &str) -> Option<(u32, u32)> {
        BracketScanner::default().unclosed(text).map(|(at, _)| (at.line, at.column))
    }

    #[test]
    fn brackets_in_texts_and_comments_are_ignored() {
        for text in [
            "a: [1, {b: 2}]\n",
            "a: \"[\"\nb: '['\nc: x[1\nd: it's [\n",
            "# [\na: 1 # {\n",
            "a: ['it''s [', \"\\\"[\"]\n",
            "a:\n  - [x,\n     y]\n  - {z: 1}\n",
            "]\n}\n",
        ] {
            assert_eq!(unclosed(text), None, "{text}");
        }
    }

    #[test]
    fn the_open_bracket_is_found() {
        for (text, place) in [
            ("a: [1\nb: 2\n", (1, 4)),
            ("a: { b: [1 }\n", (1, 9)),
            ("a:\n  - {x: 1\n  - [y]\n", (2, 5)),
            ("a: [b[1]\nc: d\n", (1, 4)),
        ] {
            assert_eq!(unclosed(text), Some(place), "{text}");
        }
    }
}
