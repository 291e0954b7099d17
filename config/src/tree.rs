//! The located tree: YAML text as plain values with their locations.
//!
//! Serde stops at the first mistake, so nothing is deserialized into a typed struct. The text
//! becomes a tree in which every key and value has its line and column. The decoder walks it and
//! reports every mistake. Duplicate keys stay in the tree for the same reason.
//!
//! Aliases are expanded within the limits below. Merge keys (`<<`) stay ordinary keys, which the
//! decoder refuses as unknown. YAML's own tags (`!!int 1`) are accepted, since JSON and YAML
//! writers emit them. Other tags, includes and a second document are refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::node::{Position, YamlKey, YamlNode, YamlValue};
use super::scalars::ShownSize;
use super::syntax;

/// Maximum number of nodes in one file: about 300,000 tenants with ten origins each.
const NODES_MAX: usize = 8_000_000;
/// Maximum depth of nesting. The schema needs seven levels.
const DEPTH_MAX: usize = 32;
/// Maximum number of nodes from aliases, so that a short file cannot expand to a huge tree.
const ALIASED_NODES_MAX: usize = 200_000;
/// Maximum size of text from aliases, in addition to twice the size of the file. The size of the
/// file is limited before it is read, and escapes at most double it.
const ALIASED_BYTES_MAX: usize = 16 << 20;
/// Maximum number of anchors. The parser keeps a copy of the content of each.
const ANCHORS_MAX: usize = 50_000;
/// Maximum size of text in these copies.
const ANCHORED_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) at: Position,
    pub(super) message: String,
}

/// Parses one document.
pub(super) fn parse(text: &str) -> Result<YamlNode, SyntaxError> {
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|error| syntax_error(&error, text))
}

fn options(len: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: NODES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_total_scalar_bytes: len.saturating_mul(2).saturating_add(ALIASED_BYTES_MAX),
            // A list that every tenant repeats by an alias is legitimate. The limits on aliases
            // apply instead.
            enforce_alias_anchor_ratio: false,
            max_aliases: ALIASED_NODES_MAX,
            max_anchors: ANCHORS_MAX,
            max_recorded_anchor_bytes: ANCHORED_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_NODES_MAX,
        },
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn syntax_error(error: &Error, text: &str) -> SyntaxError {
    let error = without_wrapping(error);
    let location = error.location().filter(|location| *location != Location::UNKNOWN);
    let at = location.map_or(Position::START, Position::of);
    let at = Position { width: 1, ..at };
    let own = own_message(error);
    let may_be_star = matches!(error, Error::UnknownAnchor { .. });
    let library_message = || {
        let text = error.to_string();
        let suffix = location.map(|at| format!(" at line {}, column {}", at.line(), at.column()));
        suffix.and_then(|suffix| text.strip_suffix(&suffix).map(str::to_owned)).unwrap_or(text)
    };
    let advised = if own.is_none() || may_be_star { syntax::advise(text, at, &library_message()) } else { None };
    let (at, message) = advised.unwrap_or_else(|| (at, own.unwrap_or_else(library_message)));
    SyntaxError { at, message: format!("invalid YAML: {message}") }
}

fn without_wrapping(error: &Error) -> &Error {
    let error = error.without_snippet();
    if let Error::AliasError { error, .. } = error { without_wrapping(error) } else { error }
}

/// A message in terms of the file, for errors that the library describes in terms of its code.
#[expect(clippy::wildcard_enum_match_arm, reason = "not our own enum, and it grows")]
fn own_message(error: &Error) -> Option<String> {
    Some(match error {
        Error::Budget { breach, .. } => limit_message(breach),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("aliases expand to too many values; at most {ALIASED_NODES_MAX} are accepted")
        }
        Error::MultipleDocuments { .. } => ONE_DOCUMENT.to_owned(),
        Error::NullIntoString { .. } => "empty key; write a text before the colon".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "alias inside its own anchor; write the alias after the end of the anchored value".to_owned()
        }
        Error::UnknownAnchor { .. } => "unknown anchor; write the anchor (`&name`) before its alias".to_owned(),
        Error::InvalidScalar { .. } => "the value does not match its tag; remove the tag".to_owned(),
        Error::UnsupportedTag { .. } => "unknown tag; remove it".to_owned(),
        // The scanner runs ahead of the budget and has its own limit.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } if msg.contains("recursion limit exceeded") => {
            depth_message()
        }
        _ => return None,
    })
}

const ONE_DOCUMENT: &str = "second document; write each document to its own file";

fn depth_message() -> String {
    format!("too many levels of nesting; at most {DEPTH_MAX} are accepted")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our own enum, and it grows")]
fn limit_message(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => depth_message(),
        BudgetBreach::Documents { .. } => ONE_DOCUMENT.to_owned(),
        BudgetBreach::Nodes { .. } => {
            format!("too many values; at most {NODES_MAX} are accepted, so put tenants into more files of tenantsDir")
        }
        BudgetBreach::ScalarBytes { .. } => {
            let limit = ShownSize(ALIASED_BYTES_MAX as u64);
            format!("aliases expand to too much text; at most {limit} is accepted")
        }
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => {
            let limit = ShownSize(ANCHORED_BYTES_MAX as u64);
            format!(
                "too many anchors or aliases; at most {ANCHORS_MAX} anchors with {limit} of text and {ALIASED_NODES_MAX} aliases are accepted"
            )
        }
        _ => "file over the limits of the parser; put tenants into more files of tenantsDir".to_owned(),
    }
}

impl<'de> Deserialize<'de> for YamlNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<YamlValue>::deserialize(deserializer)?;
        let mut at = Position::of(spanned.defined);
        if matches!(spanned.value, YamlValue::List(_) | YamlValue::Map(_) | YamlValue::Null) {
            at.width = 1;
        }
        Ok(YamlNode { at, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for YamlValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = YamlValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<YamlValue, E> {
        Ok(YamlValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<YamlValue, E> {
        Ok(YamlValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<YamlValue, E> {
        Ok(YamlValue::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<YamlValue, E> {
        Ok(YamlValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<YamlValue, E> {
        Ok(YamlValue::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<YamlValue, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(YamlValue::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<YamlValue, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let key = YamlKey { at: Position::of(key.defined), name: key.value.into() };
            map.push((key, entries.next_value()?));
        }
        Ok(YamlValue::Map(map))
    }
}
