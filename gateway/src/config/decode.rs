//! The decoder: a walk over the located tree that reports every mistake and goes on.
//!
//! Each reading function answers `None` after it has reported what was wrong, so a caller takes what is there and moves on to
//! the next key. Nothing here knows a section; `settings`, `policies` and `tenants` do. Messages end with what would be
//! accepted, and unknown words come with the nearest known one.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::model::{Located, Text};
use super::scalars::{self, ShownDuration, ShownSize};
use super::sections::{Kind, Section};
use super::tree::{At, Key, Node, Value};

/// The longest name of a tenant, policy, upstream or set: they become metric labels and header values.
const NAME_LEN_MAX: usize = 64;
/// How alike two words must be for one to be taken for the other's misspelling.
const SIMILARITY_MIN: f64 = 0.6;
/// Known words among which a misspelt one is looked for, each at the cost of the product of both lengths.
const KNOWN_WORDS_MAX: usize = 256;

/// Reads one file's tree.
pub(super) struct Decoder<'f> {
    pub(super) file: &'f Path,
    pub(super) found: Diagnostics,
}

/// The entries of a mapping whose keys are all known, each at most once.
pub(super) struct Fields<'t> {
    section: &'static Section,
    at: At,
    entries: Vec<(&'static str, &'t Node)>,
}

impl<'t> Fields<'t> {
    /// The value of a key, if it is there.
    pub(super) fn find(&self, key: &str) -> Option<&'t Node> {
        debug_assert!(self.section.keys.contains(&key), "{key} is no key of {}", self.section.what);
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, node)| *node)
    }

    /// Where the mapping begins.
    pub(super) fn at(&self) -> At {
        self.at
    }
}

impl<'f> Decoder<'f> {
    pub(super) fn new(file: &'f Path) -> Self {
        Decoder { file, found: Diagnostics::default() }
    }

    /// Reports a mistake.
    pub(super) fn error(&mut self, at: At, message: impl Into<String>) {
        self.found.push(Diagnostic::error(self.file, at, message));
    }

    /// Reports a clash with an earlier place in the same file.
    pub(super) fn clash(&mut self, at: At, message: impl Into<String>, first: At) {
        self.found.push(Diagnostic::error(self.file, at, message).also(self.file, first));
    }

    /// Reports a value of the wrong kind.
    pub(super) fn wrong_type(&mut self, node: &Node, wanted: &str) {
        self.error(node.at, format!("expected {wanted}, found {}", describe(&node.value)));
    }

    /// A mapping with known keys.
    pub(super) fn fields<'t>(&mut self, node: &'t Node, section: &'static Section) -> Option<Fields<'t>> {
        let mut entries: Vec<(&'static str, &'t Node)> = Vec::new();
        let mut seen: Vec<(&'static str, At)> = Vec::new();
        for (key, value) in self.map(node, section.what)? {
            let Some(name) = section.keys.iter().copied().find(|known| **known == *key.name) else {
                self.unknown_key(key, section);
                continue;
            };
            match seen.iter().find(|(earlier, _)| *earlier == name) {
                Some((_, first)) => self.clash(key.at, format!("the key `{name}` is there twice; keep one"), *first),
                None => {
                    seen.push((name, key.at));
                    entries.push((name, value));
                }
            }
        }
        Some(Fields { section, at: node.at, entries })
    }

    fn unknown_key(&mut self, key: &Key, section: &Section) {
        let name = shown(&key.name);
        let hint = match self.found.wants_guesses().then(|| similar(&key.name, section.keys.iter().copied())).flatten()
        {
            _ if *key.name == *"<<" => "; merge keys are not supported, write the keys out".to_owned(),
            Some(known) => format!("; did you mean `{known}`?"),
            None => format!("; its keys are {}", listed(section.keys)),
        };
        self.error(key.at, format!("{} has no key {name}{hint}", section.what));
    }

    /// A mapping from names to things of one kind.
    pub(super) fn named<'t>(&mut self, node: &'t Node, kind: Kind) -> Vec<(Text, &'t Node)> {
        let mut named: Vec<(Text, &'t Node)> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for (key, value) in self.map(node, &format!("a mapping of {} names", kind.one())).unwrap_or_default() {
            if let Some(first) = seen.insert(&*key.name, key.at) {
                self.clash(
                    key.at,
                    format!("there are two {} called {}; rename one", kind.many(), shown(&key.name)),
                    first,
                );
            } else if self.check_name(&key.name, key.at) {
                named.push((Located { value: key.name.clone(), at: key.at }, value));
            }
        }
        named
    }

    pub(super) fn map<'t>(&mut self, node: &'t Node, what: &str) -> Option<&'t [(Key, Node)]> {
        match &node.value {
            Value::Map(entries) => Some(entries),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::List(_) => {
                self.wrong_type(node, &format!("{what} (keys and values)"));
                None
            }
        }
    }

    /// A list of at most so many things.
    pub(super) fn list<'t>(&mut self, node: &'t Node, what: &str, max: usize) -> &'t [Node] {
        match &node.value {
            Value::List(items) if items.len() <= max => items,
            Value::List(items) => {
                self.error(node.at, format!("{} entries are too many; {what} has at most {max}", items.len()));
                &[]
            }
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Map(_) => {
                self.wrong_type(node, what);
                &[]
            }
        }
    }

    /// The value of a key that must be there.
    pub(super) fn required<'t>(&mut self, fields: &Fields<'t>, key: &str) -> Option<&'t Node> {
        let node = fields.find(key);
        if node.is_none() {
            self.error(fields.at, format!("{} needs the key `{key}`", fields.section.what));
        }
        node
    }

    /// A text.
    pub(super) fn text<'t>(&mut self, node: &'t Node, what: &str) -> Option<&'t str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.error(
                    node.at,
                    format!("expected {what}, found {}; put it in quotes if it is meant", describe(&node.value)),
                );
                None
            }
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.wrong_type(node, what);
                None
            }
        }
    }

    /// A text that somebody else will judge.
    pub(super) fn located_text(&mut self, node: &Node, what: &str) -> Option<Text> {
        self.text(node, what).map(|text| Located { value: text.into(), at: node.at })
    }

    /// A list of such texts; none if the key is not there.
    pub(super) fn texts(&mut self, node: Option<&Node>, what: &str, max: usize) -> Vec<Text> {
        let Some(node) = node else { return Vec::new() };
        let items = self.list(node, &format!("a list of {what}s"), max);
        let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        items.iter().filter_map(|item| self.located_text(item, &format!("{article} {what}"))).collect()
    }

    /// A name of something, by which other places refer to it.
    pub(super) fn name(&mut self, node: &Node, what: &str) -> Option<Text> {
        let name = self.located_text(node, what)?;
        self.check_name(&name.value, name.at).then_some(name)
    }

    fn check_name(&mut self, name: &str, at: At) -> bool {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let good = !name.is_empty() && name.len() <= NAME_LEN_MAX && name.bytes().all(known);
        if !good {
            let rule = format!("a name has 1 to {NAME_LEN_MAX} letters, digits, `-`, `_` and dots");
            self.error(at, format!("{} is no name; {rule}", shown(name)));
        }
        good
    }

    /// true or false.
    pub(super) fn flag(&mut self, node: &Node) -> Option<bool> {
        if let Value::Bool(flag) = node.value {
            return Some(flag);
        }
        self.wrong_type(node, "true or false");
        None
    }

    /// A whole number.
    pub(super) fn count(&mut self, node: &Node, range: RangeInclusive<u32>) -> Option<u32> {
        let count = match node.value {
            Value::Int(number) => u32::try_from(number).ok().filter(|count| range.contains(count)),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
        };
        if count.is_none() {
            self.wrong_type(node, &format!("a whole number from {} to {}", range.start(), range.end()));
        }
        count
    }

    /// A share between 0 and 1.
    pub(super) fn share(&mut self, node: &Node) -> Option<f64> {
        let share = match node.value {
            Value::Int(0) => Some(0.0),
            Value::Int(1) => Some(1.0),
            Value::Float(number) if (0.0..=1.0).contains(&number) => Some(number),
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => None,
        };
        if share.is_none() {
            self.wrong_type(node, "a number from 0 to 1, such as 0.1");
        }
        share
    }

    /// A duration, or a number of seconds.
    pub(super) fn duration(&mut self, node: &Node, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = duration_of(&node.value);
        let (low, high) = (ShownDuration(*range.start()), ShownDuration(*range.end()));
        self.in_range(
            node,
            duration,
            &range,
            &format!("a duration from {low} to {high}, such as 250ms, 30s, 10m or 1h"),
        )
    }

    /// A number of bytes.
    pub(super) fn size(&mut self, node: &Node, range: RangeInclusive<u64>) -> Option<u64> {
        let size = match &node.value {
            Value::Int(bytes) => u64::try_from(*bytes).ok(),
            Value::Text(text) => scalars::size(text),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
        };
        let (low, high) = (ShownSize(*range.start()), ShownSize(*range.end()));
        self.in_range(node, size, &range, &format!("a size from {low} to {high}, such as 8192, 64KiB or 10MiB"))
    }

    fn in_range<T: PartialOrd>(
        &mut self,
        node: &Node,
        value: Option<T>,
        range: &RangeInclusive<T>,
        wanted: &str,
    ) -> Option<T> {
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong_type(node, wanted);
        }
        value
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.text(node, &listed_or(&words))?;
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if chosen.is_none() {
            self.error(node.at, format!("{} is not known here; write {}", shown(text), listed_or(&words)));
        }
        chosen
    }

    /// What a text parses to.
    pub(super) fn parsed<T, E: Display>(
        &mut self,
        node: &Node,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node, what)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(node.at, format!("{} is not {what}; {error}", shown(text)));
                None
            }
        }
    }

    /// A path, relative to the file that names it.
    pub(super) fn path(&mut self, node: &Node) -> Option<PathBuf> {
        let text = self.text(node, "a path")?;
        if text.is_empty() {
            self.error(node.at, "the path is empty; write one, relative to this file");
            return None;
        }
        Some(self.file.parent().unwrap_or(Path::new("")).join(text))
    }
}

/// A duration as written, if it is one.
pub(super) fn duration_of(value: &Value) -> Option<Duration> {
    match value {
        Value::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        Value::Text(text) => scalars::duration(text),
        Value::Null | Value::Bool(_) | Value::Float(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// What a value is, for messages.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("{flag}"),
        Value::Int(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text {}", shown(text)),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "keys and values".to_owned(),
    }
}

/// Text of a file in a message: escaped, and not all of it.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    let escaped: String = text.chars().take(SHOWN_MAX + 1).flat_map(char::escape_debug).collect();
    let plain = escaped.replace("\\\"", "\"").replace("\\'", "'");
    match plain.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}..`", plain.get(..end).unwrap_or_default()),
        None => format!("`{plain}`"),
    }
}

/// The known word that this one may be a misspelling of. Among very many, or for a very long one, nothing is looked for.
pub(crate) fn similar<'k>(word: &str, known: impl ExactSizeIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > NAME_LEN_MAX || known.len() > KNOWN_WORDS_MAX {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let rated = known.map(|known| (strsim::normalized_damerau_levenshtein(&lower, &known.to_ascii_lowercase()), known));
    let best = rated.max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn listed_or(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => (*last).to_owned(),
        None => String::new(),
    }
}
