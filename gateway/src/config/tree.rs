//! The located tree: YAML text as plain values that remember where they stand.
//!
//! Serde stops at the first mistake, so nothing is deserialized into a typed struct. The text becomes this tree, in which
//! every key and every value has its line and column, and the decoder walks it and reports everything it dislikes.
//! Repeated keys stay in the tree for the same reason. Aliases are followed, within the limits below; merge keys (`<<`)
//! are left as ordinary keys, which no section knows, and are so refused. No include, no tag, no second document.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, Options, Spanned};

/// Nodes in one file: about 300,000 tenants of ten origins each, all in one file.
const NODES_MAX: usize = 8_000_000;
/// Nesting in one file. The schema needs seven.
const DEPTH_MAX: usize = 32;
/// Nodes that aliases may repeat in one file, so that a short file cannot unfold into a huge one.
const ALIASED_NODES_MAX: usize = 200_000;

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
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| syntax_error(&error))
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: NODES_MAX,
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_total_scalar_bytes: usize::MAX,
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

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let location = error.location().filter(|location| *location != Location::UNKNOWN);
    let at = location.map_or(At::START, At::of);
    let text = error.without_snippet().to_string();
    let message = location.map_or(text.as_str(), |location| {
        let suffix = format!(" at line {}, column {}", location.line(), location.column());
        text.strip_suffix(&suffix).unwrap_or(&text)
    });
    SyntaxError { at: At { width: 1, ..at }, message: format!("this cannot be read as YAML: {message}") }
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
