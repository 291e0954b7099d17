//! The keys of a section and the words of a choice, read from their types.
//!
//! The derived `Deserialize` of a struct passes its field names to the deserializer before it asks
//! for a value, and that of an enum its variant names. `NameReader` returns these names as its
//! error, so the attributes that serde and `schemars` share (`rename_all`) decide them. Nothing is
//! allocated, and the names are constants in the binary.

use std::fmt;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// The field names of a struct or the variant names of an enum, in the order of their declaration.
pub(super) fn names<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(NameReader) {
        Err(Names(names)) => names,
        Ok(_) => &[],
    }
}

/// The variant of an enum that has this name.
pub(super) fn variant<T: DeserializeOwned>(name: &str) -> Option<T> {
    let deserializer: StrDeserializer<'_, Error> = name.into_deserializer();
    T::deserialize(deserializer).ok()
}

struct NameReader;

#[derive(Debug)]
struct Names(&'static [&'static str]);

impl<'de> Deserializer<'de> for NameReader {
    type Error = Names;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(variants))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only names are read")
    }
}

impl std::error::Error for Names {}

impl de::Error for Names {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Names(&[])
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn names_follow_the_attributes_of_serde() {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[expect(dead_code, reason = "only its field names are used")]
        struct Section {
            max_age: Option<u32>,
            #[serde(rename = "http2")]
            protocol: bool,
        }
        #[derive(Debug, Deserialize, PartialEq)]
        enum Choice {
            Http1,
            Auto,
        }
        assert_eq!(names::<Section>(), ["maxAge", "http2"]);
        assert_eq!(names::<Choice>(), ["Http1", "Auto"]);
        assert_eq!((variant("Http1"), variant("Auto")), (Some(Choice::Http1), Some(Choice::Auto)));
        assert_eq!(variant::<Choice>("auto"), None);
    }
}
