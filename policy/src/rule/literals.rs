//! Extracts the literals of a source: quoted strings, and whole numbers that can be ports.
//!
//! The syntax tree contains neither the values of a `switch` nor literals that the parser has
//! joined, so the source is scanned for quotes, comments and digits. A literal that is found by
//! mistake only leads to one more probe of the rule.

/// The most literals of each kind.
const LITERALS_MAX: usize = 256;

/// The longest literal, in bytes: the length of the longest origin.
const LITERAL_LEN_MAX: usize = 326;

/// The quoted strings and the port numbers of a source, each once and in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SourceLiterals {
    pub(super) texts: Vec<Box<str>>,
    pub(super) ports: Vec<u16>,
}

impl SourceLiterals {
    pub(super) fn of(source: &str) -> Self {
        let mut literals = Self::default();
        let mut rest = source;
        while let Some(first) = rest.chars().next() {
            let len = match first {
                '"' | '`' | '\'' => literals.text(rest, first),
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
                '0'..='9' => literals.number(rest),
                'a'..='z' | 'A'..='Z' | '_' => {
                    rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                other => other.len_utf8(),
            };
            rest = rest.get(len.max(1)..).unwrap_or_default();
        }
        literals
    }

    /// Reads a quoted string and returns its length in the source.
    fn text(&mut self, rest: &str, quote: char) -> usize {
        let (mut text, mut is_escaped) = (String::new(), false);
        for (at, char) in rest.char_indices().skip(1) {
            match char {
                _ if is_escaped => {
                    is_escaped = false;
                    text.push(char);
                }
                '\\' if quote != '`' => is_escaped = true,
                _ if char == quote => {
                    let is_new = !self.texts.iter().any(|known| **known == *text);
                    if is_new && !text.is_empty() && text.len() <= LITERAL_LEN_MAX && self.texts.len() < LITERALS_MAX {
                        self.texts.push(text.into());
                    }
                    return at + 1;
                }
                _ => text.push(char),
            }
        }
        rest.len()
    }

    fn number(&mut self, rest: &str) -> usize {
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let port = rest.get(..len).and_then(|digits| digits.parse().ok()).filter(|port| *port > 0);
        let is_new = port.is_some_and(|port| !self.ports.contains(&port));
        self.ports.extend(port.filter(|_| is_new && self.ports.len() < LITERALS_MAX));
        len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_numbers_in_comments_are_ignored() {
        let source = "// \"no\" 1\nconst A = \"a.dev\"; /* \"no\" */ fn decide(req) {\n\
                      if x1 == 8443 && req.host == \"a\\\"b\" { `c.dev` } else { \"a.dev\" } 99999 0 'd' \"\" }\n\"open";
        let expected =
            SourceLiterals { texts: ["a.dev", "a\"b", "c.dev", "d"].map(Box::from).into(), ports: vec![8443] };
        assert_eq!(SourceLiterals::of(source), expected);
        assert_eq!(SourceLiterals::of(""), SourceLiterals::default());
    }
}
