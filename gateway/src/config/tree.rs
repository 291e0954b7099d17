//! The located tree: YAML text as plain values that remember where they stand.
//!
//! Serde stops at the first mistake, so nothing is deserialized into a typed struct. The text becomes this tree, in which
//! every key and every value has its line and column, and the decoder walks it and reports everything it dislikes.
//! Repeated keys stay in the tree for the same reason. Aliases are followed, within the limits below; merge keys (`<<`)
//! are left as ordinary keys, which no section knows, and are so refused. YAML's own tags (`!!int 1`) are heeded, since JSON
//! and YAML writers emit them; any other tag is refused. No include, no second document.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Error, Location, Options, Spanned};

use super::scalars::ShownSize;

/// Nodes in one file: about 300,000 tenants of ten origins each, all in one file.
const NODES_MAX: usize = 8_000_000;
/// Nesting in one file. The schema needs seven.
const DEPTH_MAX: usize = 32;
/// Nodes that aliases may repeat in one file, so that a short file cannot unfold into a huge one.
const ALIASED_NODES_MAX: usize = 200_000;
/// Bytes of text in one file beyond twice its own: what aliases may repeat, for the same reason. The file itself is bounded
/// before it is read, and escapes at most double it.
const ALIASED_BYTES_MAX: usize = 16 << 20;
/// Anchors in one file, each with a copy of what it stands for while the file is read.
const ANCHORS_MAX: usize = 50_000;
/// Bytes of text in those copies.
const ANCHORED_BYTES_MAX: usize = 16 << 20;

/// Where something stands in its file, counted in characters from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// How many characters it covers, at least 1.
    pub width: u32,
}

impl At {
    /// The first character of a file, for mistakes of the file as a whole.
    pub const START: At = At { line: 1, column: 1, width: 1 };

    pub(super) fn of(location: Location) -> Self {
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        #[expect(clippy::useless_conversion, reason = "the crate's span offsets are u32 or u64, by its features")]
        let width = narrow(u64::from(location.span().len()));
        At { line: narrow(location.line()), column: narrow(location.column()), width }
    }
}

/// One value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// One key of a mapping and where it stands.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: At,
    pub(super) name: Box<str>,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Box<str>),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// Why a text is no YAML: one place, one message.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) at: At,
    pub(super) message: String,
}

/// Parses one document.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|error| syntax_error(&error))
}

fn options(len: usize) -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: NODES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_total_scalar_bytes: len.saturating_mul(2).saturating_add(ALIASED_BYTES_MAX),
            // One list that every tenant repeats is what anchors are for; what they unfold to is bounded instead.
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

fn syntax_error(error: &Error) -> SyntaxError {
    let error = without_wrapping(error);
    let location = error.location().filter(|location| *location != Location::UNKNOWN);
    let at = location.map_or(At::START, At::of);
    let message = own_words(error).unwrap_or_else(|| {
        let text = error.to_string();
        let suffix = location.map(|at| format!(" at line {}, column {}", at.line(), at.column()));
        suffix.and_then(|suffix| text.strip_suffix(&suffix).map(str::to_owned)).unwrap_or(text)
    });
    SyntaxError { at: At { width: 1, ..at }, message: format!("this cannot be read as YAML: {message}") }
}

fn without_wrapping(error: &Error) -> &Error {
    let error = error.without_snippet();
    if let Error::AliasError { error, .. } = error { without_wrapping(error) } else { error }
}

/// What the library says in words of its code, said in words of the file.
#[expect(clippy::wildcard_enum_match_arm, reason = "not our own enum, and it grows")]
fn own_words(error: &Error) -> Option<String> {
    Some(match error {
        Error::Budget { breach, .. } => exceeded(breach),
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            format!("aliases repeat too much; at most {ALIASED_NODES_MAX} values may come from them")
        }
        Error::MultipleDocuments { .. } => ONE_DOCUMENT.to_owned(),
        Error::NullIntoString { .. } => "a key is empty; write a text before the colon".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias stands inside what it repeats; repeat something that ends before it".to_owned()
        }
        Error::UnknownAnchor { .. } => "an alias repeats nothing; write its anchor (`&name`) before it".to_owned(),
        Error::InvalidScalar { .. } => "this is not what its tag says; leave the tag out".to_owned(),
        Error::UnsupportedTag { .. } => "this tag is not known; leave it out".to_owned(),
        // The scanner runs ahead of the budget, and has a limit of its own.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } if msg.contains("recursion limit exceeded") => {
            too_deep()
        }
        _ => return None,
    })
}

const ONE_DOCUMENT: &str = "there is a second document; put each into a file of its own";

fn too_deep() -> String {
    format!("it is nested too deeply; at most {DEPTH_MAX} levels are read")
}

/// Which limit a file exceeds, and what would be accepted.
#[expect(clippy::wildcard_enum_match_arm, reason = "not our own enum, and it grows")]
fn exceeded(breach: &BudgetBreach) -> String {
    match breach {
        BudgetBreach::Depth { .. } => too_deep(),
        BudgetBreach::Documents { .. } => ONE_DOCUMENT.to_owned(),
        BudgetBreach::Nodes { .. } => {
            format!("it has too many values; at most {NODES_MAX} are read, put tenants into more files of tenantsDir")
        }
        BudgetBreach::ScalarBytes { .. } => {
            let limit = ShownSize(ALIASED_BYTES_MAX as u64);
            format!("aliases repeat too much text; at most {limit} may come from them")
        }
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => {
            let limit = ShownSize(ANCHORED_BYTES_MAX as u64);
            format!(
                "it has too many anchors; at most {ANCHORS_MAX} are read, with {limit} of text and {ALIASED_NODES_MAX} aliases"
            )
        }
        _ => "it exceeds what is read of one file; put tenants into more files of tenantsDir".to_owned(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let mut at = At::of(spanned.defined);
        if matches!(spanned.value, Value::List(_) | Value::Map(_) | Value::Null) {
            at.width = 1;
        }
        Ok(Node { at, value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let key = Key { at: At::of(key.defined), name: key.value.into() };
            map.push((key, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}
