//! The decoder: a walk over the located tree that reports every mistake and continues.
//!
//! Each reading function returns `None` after it has reported a mistake, so its caller continues
//! with the next key. This module has no section of its own; see `settings`, `policies`, `tenants`
//! and the others. Messages end with what would be accepted, and unknown words get the nearest
//! known one.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::diagnostics::{Diagnostic, Diagnostics};
use super::hints;
use super::keys;
use super::model::{Located, Text};
use super::node::{Position, YamlKey, YamlNode, YamlValue};
use super::scalars::{self, ShownDuration, ShownSize};
use super::sections::{ReferenceKind, Section};
use super::warnings::WarningCode;

/// Maximum length of the name of a tenant, policy, upstream or set, which becomes a metric label
/// and a header value.
const NAME_LEN_MAX: usize = 64;
/// Minimum similarity, from 0 to 1, of a misspelt word and the word that is suggested.
const SIMILARITY_MIN: f64 = 0.6;
/// Maximum number of known words to compare with a misspelt one. Each comparison costs the product
/// of both lengths.
const KNOWN_WORDS_MAX: usize = 256;

pub(super) struct Decoder<'f> {
    pub(super) file: &'f Path,
    pub(super) found: Diagnostics,
    /// The files with bodies that were read. `None` where none may be named.
    pub(super) body_files: Option<Vec<PathBuf>>,
}

/// The known entries of a mapping, each key at most once.
pub(super) struct SectionFields<'t> {
    section: &'static Section,
    at: Position,
    entries: Vec<(&'static str, &'t YamlNode)>,
}

impl<'t> SectionFields<'t> {
    pub(super) fn find(&self, key: &str) -> Option<&'t YamlNode> {
        debug_assert!(
            self.section.keys().contains(&key),
            "the schema does not declare {key} for {}",
            self.section.what
        );
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, node)| *node)
    }

    /// The start of the mapping.
    pub(super) fn at(&self) -> Position {
        self.at
    }
}

impl<'f> Decoder<'f> {
    pub(super) fn new(file: &'f Path) -> Self {
        Decoder { file, found: Diagnostics::default(), body_files: None }
    }

    pub(super) fn error(&mut self, at: Position, message: impl Into<String>) {
        self.found.push(Diagnostic::error(self.file, at, message));
    }

    /// Reports a value that is valid but risky.
    pub(super) fn warn(&mut self, code: WarningCode, at: Position, message: impl Into<String>) {
        self.found.push(Diagnostic::warning(code, self.file, at, message));
    }

    /// Reports a conflict with an earlier location in the same file.
    pub(super) fn clash(&mut self, at: Position, message: impl Into<String>, first: Position) {
        self.found.push(Diagnostic::error(self.file, at, message).also(self.file, first));
    }

    pub(super) fn wrong_type(&mut self, node: &YamlNode, wanted: &str) {
        self.wrong_type_meant(node, wanted, None);
    }

    /// Reports a value of the wrong type, with a correction for a likely mistake.
    pub(super) fn wrong_type_meant(&mut self, node: &YamlNode, wanted: &str, meant: Option<&str>) {
        if self.has_placeholder(node) {
            return;
        }
        let hint = meant.map(|meant| format!("; {meant}")).unwrap_or_default();
        self.error(node.at, format!("expected {wanted}, found {}{hint}", describe(&node.value)));
    }

    /// Reports a placeholder of another tool.
    fn has_placeholder(&mut self, node: &YamlNode) -> bool {
        let found = match &node.value {
            YamlValue::Text(text) => hints::find_placeholder(text),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Int(_)
            | YamlValue::Float(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => None,
        };
        if let Some(found) = found {
            self.error(node.at, hints::placeholder_message(found));
        }
        found.is_some()
    }

    pub(super) fn fields<'t>(&mut self, node: &'t YamlNode, section: &'static Section) -> Option<SectionFields<'t>> {
        let keys = section.keys();
        let mut entries: Vec<(&'static str, &'t YamlNode)> = Vec::new();
        let mut seen: Vec<(&'static str, Position)> = Vec::new();
        for (key, value) in self.section_map(node, section)? {
            let Some(name) = keys.iter().copied().find(|known| **known == *key.name) else {
                self.unknown_key(key, section);
                continue;
            };
            match seen.iter().find(|(earlier, _)| *earlier == name) {
                Some((_, first)) => self.clash(key.at, format!("duplicate key `{name}`; keep one"), *first),
                None => {
                    seen.push((name, key.at));
                    entries.push((name, value));
                }
            }
        }
        Some(SectionFields { section, at: node.at, entries })
    }

    fn unknown_key(&mut self, key: &YamlKey, section: &Section) {
        let name = show_text(&key.name);
        let hint =
            match self.found.wants_guesses().then(|| find_similar(&key.name, section.keys().iter().copied())).flatten()
            {
                // Merge keys belong to YAML 1.1. YAML 1.2 does not define them.
                _ if *key.name == *"<<" => "; merge keys are not supported, write the keys out".to_owned(),
                _ if hints::split_without_space(&key.name).is_some() => {
                    "; a space is missing after the colon".to_owned()
                }
                _ if is_private_network(&key.name) => WITHDRAWN.to_owned(),
                Some(known) => format!("; did you mean `{known}`?"),
                None => format!("; its keys are {}", join_quoted(section.keys())),
            };
        self.error(key.at, format!("{} has no key {name}{hint}", section.what));
    }

    /// A mapping from names to objects of one kind.
    pub(super) fn named<'t>(&mut self, node: &'t YamlNode, kind: ReferenceKind) -> Vec<(Text, &'t YamlNode)> {
        let mut named: Vec<(Text, &'t YamlNode)> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        for (key, value) in self.map(node, &format!("a mapping of {} names", kind.one())).unwrap_or_default() {
            if let Some(first) = seen.insert(&*key.name, key.at) {
                self.clash(
                    key.at,
                    format!("two {} have the name {}; rename one", kind.many(), show_text(&key.name)),
                    first,
                );
            } else if self.check_name(&key.name, key.at) {
                named.push((Located { value: key.name.clone(), at: key.at }, value));
            }
        }
        named
    }

    pub(super) fn map<'t>(&mut self, node: &'t YamlNode, what: &str) -> Option<&'t [(YamlKey, YamlNode)]> {
        self.map_of(node, what, None)
    }

    fn section_map<'t>(&mut self, node: &'t YamlNode, section: &'static Section) -> Option<&'t [(YamlKey, YamlNode)]> {
        self.map_of(node, section.what, section.form)
    }

    fn map_of<'t>(&mut self, node: &'t YamlNode, what: &str, form: Option<&str>) -> Option<&'t [(YamlKey, YamlNode)]> {
        let meant = match &node.value {
            YamlValue::Map(entries) => return Some(entries),
            YamlValue::Text(text) if hints::split_without_space(text).is_some() => {
                Some("a space is missing after the colon".to_owned())
            }
            YamlValue::Text(text) => form.map(|form| format!("write {}", form.replace('#', text))),
            YamlValue::Null | YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_) | YamlValue::List(_) => None,
        };
        self.wrong_type_meant(node, &format!("{what} (a mapping)"), meant.as_deref());
        None
    }

    /// A list of at most `max` values.
    pub(super) fn list<'t>(&mut self, node: &'t YamlNode, what: &str, max: usize) -> &'t [YamlNode] {
        self.list_of(node, what, max, None)
    }

    /// A list of at most `max` mappings.
    pub(super) fn section_list<'t>(
        &mut self,
        node: &'t YamlNode,
        what: &str,
        max: usize,
        section: &'static Section,
    ) -> &'t [YamlNode] {
        self.list_of(node, what, max, Some(section))
    }

    fn list_of<'t>(&mut self, node: &'t YamlNode, what: &str, max: usize, section: Option<&Section>) -> &'t [YamlNode] {
        let meant = match &node.value {
            YamlValue::List(items) if items.len() <= max => return items,
            YamlValue::List(items) => {
                self.error(node.at, format!("too many entries ({}); {what} has at most {max}", items.len()));
                return &[];
            }
            YamlValue::Text(text) if hints::is_missing_space_after_dash(text) => {
                Some("a space is missing after the dash".to_owned())
            }
            YamlValue::Text(text) => match section {
                Some(section) => section.form.map(|form| format!("write [{}]", hints::format_mappings(form, text))),
                None => Some(format!("write {}", hints::format_list(text))),
            },
            YamlValue::Map(_) => section.map(|_| "write a dash before the first key of each entry".to_owned()),
            YamlValue::Null | YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_) => None,
        };
        self.wrong_type_meant(node, what, meant.as_deref());
        &[]
    }

    /// The value of a required key.
    pub(super) fn required<'t>(&mut self, fields: &SectionFields<'t>, key: &str) -> Option<&'t YamlNode> {
        let node = fields.find(key);
        if node.is_none() {
            self.error(fields.at, format!("missing key `{key}` in {}", fields.section.what));
        }
        node
    }

    pub(super) fn text<'t>(&mut self, node: &'t YamlNode, what: &str) -> Option<&'t str> {
        match &node.value {
            YamlValue::Text(text) => Some(text),
            // The origin `null` without quotes is the null value of YAML.
            YamlValue::Null if what == "an origin" => {
                let message = "expected an origin, found nothing; remove the dash, or write the origin \"null\" in quotes, \
                               which needs dangerouslyAllowNull";
                self.error(node.at, message.to_owned());
                None
            }
            YamlValue::Int(port) if what == ADDRESS => {
                self.error(node.at, format!("expected {what}, found the number {port}; {ADDRESS_FORM}"));
                None
            }
            YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_) => {
                self.error(node.at, format!("expected {what}, found {}; write it in quotes", describe(&node.value)));
                None
            }
            YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => {
                self.wrong_type(node, what);
                None
            }
        }
    }

    /// A text that the policy engine will check.
    pub(super) fn located_text(&mut self, node: &YamlNode, what: &str) -> Option<Text> {
        if self.has_placeholder(node) {
            return None;
        }
        self.text(node, what).map(|text| Located { value: text.into(), at: node.at })
    }

    /// A list of such texts. An absent key is an empty list.
    pub(super) fn texts(&mut self, node: Option<&YamlNode>, what: &str, max: usize) -> Vec<Text> {
        let Some(node) = node else { return Vec::new() };
        let items = self.list(node, &format!("a list of {what}s"), max);
        let article = if what.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        items.iter().filter_map(|item| self.located_text(item, &format!("{article} {what}"))).collect()
    }

    /// A name that other parts of the configuration refer to.
    pub(super) fn name(&mut self, node: &YamlNode, what: &str) -> Option<Text> {
        let name = self.located_text(node, what)?;
        self.check_name(&name.value, name.at).then_some(name)
    }

    fn check_name(&mut self, name: &str, at: Position) -> bool {
        let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let good = !name.is_empty() && name.len() <= NAME_LEN_MAX && name.bytes().all(known);
        if !good {
            let wanted = format!("expected 1 to {NAME_LEN_MAX} letters, digits, `-`, `_` or dots");
            self.error(at, format!("invalid name {}: {wanted}", show_text(name)));
        }
        good
    }

    pub(super) fn flag(&mut self, node: &YamlNode) -> Option<bool> {
        if let YamlValue::Bool(flag) = node.value {
            return Some(flag);
        }
        self.wrong_type_meant(node, "true or false", hints::correct_boolean(&node.value));
        None
    }

    pub(super) fn count(&mut self, node: &YamlNode, range: RangeInclusive<u32>) -> Option<u32> {
        let count = match node.value {
            YamlValue::Int(number) => u32::try_from(number).ok().filter(|count| range.contains(count)),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Float(_)
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => None,
        };
        if count.is_none() {
            let wanted = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong_type_meant(node, &wanted, hints::correct_number(&node.value));
        }
        count
    }

    /// A share from 0 to 1.
    pub(super) fn share(&mut self, node: &YamlNode) -> Option<f64> {
        let share = match node.value {
            YamlValue::Int(0) => Some(0.0),
            YamlValue::Int(1) => Some(1.0),
            YamlValue::Float(number) if (0.0..=1.0).contains(&number) => Some(number),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Int(_)
            | YamlValue::Float(_)
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => None,
        };
        if share.is_none() {
            self.wrong_type_meant(node, "a number from 0 to 1, such as 0.1", hints::correct_number(&node.value));
        }
        share
    }

    /// A duration, or a number of seconds.
    pub(super) fn duration(&mut self, node: &YamlNode, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = duration_of(&node.value);
        let (low, high) = (ShownDuration(*range.start()), ShownDuration(*range.end()));
        self.in_range(
            node,
            duration,
            &range,
            &format!("a duration from {low} to {high}, such as 250ms, 30s, 10m or 1h"),
            hints::correct_duration(&node.value).as_deref(),
        )
    }

    /// A size in bytes.
    pub(super) fn size(&mut self, node: &YamlNode, range: RangeInclusive<u64>) -> Option<u64> {
        let size = match &node.value {
            YamlValue::Int(bytes) => u64::try_from(*bytes).ok(),
            YamlValue::Text(text) => scalars::size(text),
            YamlValue::Null | YamlValue::Bool(_) | YamlValue::Float(_) | YamlValue::List(_) | YamlValue::Map(_) => None,
        };
        let (low, high) = (ShownSize(*range.start()), ShownSize(*range.end()));
        let wanted = format!("a size from {low} to {high}, such as 8192, 64KiB or 10MiB");
        self.in_range(node, size, &range, &wanted, hints::correct_number(&node.value))
    }

    fn in_range<T: PartialOrd>(
        &mut self,
        node: &YamlNode,
        value: Option<T>,
        range: &RangeInclusive<T>,
        wanted: &str,
        meant: Option<&str>,
    ) -> Option<T> {
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong_type_meant(node, wanted, meant);
        }
        value
    }

    /// A variant of an enum of the schema.
    pub(super) fn variant<T: DeserializeOwned>(&mut self, node: &YamlNode) -> Option<T> {
        self.word(node, keys::names::<T>(), keys::variant)
    }

    /// One of these words.
    pub(super) fn choice<T: Copy>(&mut self, node: &YamlNode, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        self.word(node, &words, |text| choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value))
    }

    fn word<T>(&mut self, node: &YamlNode, words: &[&str], choose: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(node, &join_or(words))?;
        let chosen = choose(text);
        if chosen.is_none() && !self.has_placeholder(node) {
            let guess = hints::find_synonym(text, words).or_else(|| {
                find_similar(text, words.iter().copied()).filter(|word| !hints::is_other_number(text, word))
            });
            let guess = guess.map(|word| format!("did you mean {word}? ")).unwrap_or_default();
            self.error(node.at, format!("unknown value {}; {guess}write {}", show_text(text), join_or(words)));
        }
        chosen
    }

    /// Parses a text. Messages call it `what`, which begins with an article.
    pub(super) fn parse_text<T, E: Display>(
        &mut self,
        node: &YamlNode,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node, what)?;
        if self.has_placeholder(node) {
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let noun = what.split_once(' ').map_or(what, |(_, noun)| noun);
                self.error(node.at, format!("invalid {noun} {}: {error}", show_text(text)));
                None
            }
        }
    }

    /// Parses a text that contains a host. The message gives the text without scheme and path if
    /// the rest is valid.
    pub(super) fn parse_host<T, E: Display>(
        &mut self,
        node: &YamlNode,
        what: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.parse_text(node, what, |text| {
            parse(text).map_err(|error| match (hints::split_scheme(text), hints::strip_path(text)) {
                (Some((scheme, authority)), _) => {
                    let tls = if ["https", "wss"].contains(&scheme) { TLS_APART } else { "" };
                    match parse(authority) {
                        Ok(_) => format!(
                            "write {authority}, without scheme{}{tls}",
                            if text.ends_with(authority) { "" } else { " and path" }
                        ),
                        Err(error) => format!("remove the scheme; in {}, {error}{tls}", show_text(authority)),
                    }
                }
                (None, Some(authority)) if parse(authority).is_ok() => format!("write {authority}, without path"),
                (None, _) => error.to_string(),
            })
        })
    }

    /// A path, relative to the file that names it.
    pub(super) fn path(&mut self, node: &YamlNode) -> Option<PathBuf> {
        let text = self.text(node, "a path")?;
        if text.is_empty() {
            self.error(node.at, "empty path; write one, relative to this file");
            return None;
        }
        Some(self.file.parent().unwrap_or(Path::new("")).join(text))
    }
}

pub(super) const ADDRESS: &str = "an address";
pub(super) const ADDRESS_FORM: &str =
    "write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080 (names are not looked up)";

const TLS_APART: &str = " (the key `tls` enables TLS)";

const WITHDRAWN: &str = "; browsers removed Private Network Access and ask the user instead, so remove the key";

/// Whether a key stands for <https://wicg.github.io/private-network-access/>, or for its successor
/// Local Network Access, which has no header.
fn is_private_network(key: &str) -> bool {
    let letters: String = key.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase();
    letters.contains("privatenetwork") || letters.contains("localnetwork")
}

/// A number of seconds, or a duration with a unit.
pub(super) fn duration_of(value: &YamlValue) -> Option<Duration> {
    match value {
        YamlValue::Int(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
        YamlValue::Text(text) => scalars::duration(text),
        YamlValue::Null | YamlValue::Bool(_) | YamlValue::Float(_) | YamlValue::List(_) | YamlValue::Map(_) => None,
    }
}

/// A value in a message.
fn describe(value: &YamlValue) -> String {
    match value {
        YamlValue::Null => "nothing".to_owned(),
        YamlValue::Bool(flag) => format!("{flag}"),
        YamlValue::Int(number) => format!("the number {number}"),
        YamlValue::Float(number) => format!("the number {number}"),
        YamlValue::Text(text) => format!("the text {}", show_text(text)),
        YamlValue::List(_) => "a list".to_owned(),
        YamlValue::Map(_) => "a mapping".to_owned(),
    }
}

/// A text of a file in a message: escaped and shortened.
pub fn show_text(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    let escaped: String = text.chars().take(SHOWN_MAX + 1).flat_map(char::escape_debug).collect();
    let plain = escaped.replace("\\\"", "\"").replace("\\'", "'");
    match plain.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("`{}..`", plain.get(..end).unwrap_or_default()),
        None => format!("`{plain}`"),
    }
}

/// The known word nearest to a misspelt one. Very long words and very many known ones are not
/// compared.
pub fn find_similar<'k>(word: &str, known: impl ExactSizeIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > NAME_LEN_MAX || known.len() > KNOWN_WORDS_MAX {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let rated = known.map(|known| (strsim::normalized_damerau_levenshtein(&lower, &known.to_ascii_lowercase()), known));
    let best = rated
        .filter(|(_, known)| is_near(&lower, known))
        .max_by(|(a, x), (b, y)| a.total_cmp(b).then_with(|| y.cmp(x)))?;
    (best.0 >= SIMILARITY_MIN).then_some(best.1)
}

/// Whether so few characters differ that a typing mistake is likely: `timingAllowOrigins` is not
/// near `allowOrigins`.
fn is_near(lower: &str, known: &str) -> bool {
    const EDITS_MAX: usize = 4;
    strsim::damerau_levenshtein(lower, &known.to_ascii_lowercase()) <= EDITS_MAX
}

fn join_quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn join_or(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => (*last).to_owned(),
        None => String::new(),
    }
}
