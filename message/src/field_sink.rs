//! Where the fields of a head are written: as lines of HTTP/1.1, or into a map for HTTP/2.
//!
//! What is written is valid already: it was parsed from a head, or rendered from a checked
//! configuration. So no writer fails; a map drops what it cannot hold.

use bytes::BytesMut;
use crossgate_policy::EditValue;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::FieldLine;

/// Takes the fields of one head, in order.
pub trait FieldSink {
    /// Appends a line that was received.
    fn received(&mut self, line: FieldLine<'_>);

    /// Appends a line of the gateway's own.
    fn own(&mut self, name: &HeaderName, value: EditValue<'_>);
}

/// Lines of HTTP/1.1. Received names keep their spelling.
impl FieldSink for Vec<u8> {
    fn received(&mut self, line: FieldLine<'_>) {
        write_field(line.name(), line.value(), self);
    }

    fn own(&mut self, name: &HeaderName, value: EditValue<'_>) {
        write_field(name.as_str().as_bytes(), value.as_bytes(), self);
    }
}

/// Appends a field line.
pub fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl FieldSink for HeaderMap {
    fn received(&mut self, line: FieldLine<'_>) {
        match line {
            FieldLine::Typed { name, value } => drop(self.try_append(name, value.clone())),
            FieldLine::Bytes { name, value } => append(self, name, HeaderValue::from_bytes(value).ok()),
        }
    }

    fn own(&mut self, name: &HeaderName, value: EditValue<'_>) {
        if let Some(value) = field_value(value) {
            let _appended_or_full = self.try_append(name, value);
        }
    }
}

/// A map whose received values share one allocation.
#[derive(Debug)]
pub struct SharedFieldMap {
    fields: HeaderMap,
    values: BytesMut,
}

/// Room for the fields and the values of most responses.
const FIELDS_USUAL: usize = 16;
const VALUES_LEN_USUAL: usize = 512;

impl SharedFieldMap {
    /// An empty map with room for the fields of most heads.
    pub fn with_usual_capacity() -> Self {
        SharedFieldMap {
            fields: HeaderMap::with_capacity(FIELDS_USUAL),
            values: BytesMut::with_capacity(VALUES_LEN_USUAL),
        }
    }

    pub fn into_fields(self) -> HeaderMap {
        self.fields
    }

    fn value(&mut self, value: &[u8]) -> Option<HeaderValue> {
        self.values.extend_from_slice(value);
        HeaderValue::from_maybe_shared(self.values.split().freeze()).ok()
    }
}

impl FieldSink for SharedFieldMap {
    fn received(&mut self, line: FieldLine<'_>) {
        match line {
            FieldLine::Typed { .. } => self.fields.received(line),
            FieldLine::Bytes { name, value } => {
                let value = self.value(value);
                append(&mut self.fields, name, value);
            }
        }
    }

    fn own(&mut self, name: &HeaderName, value: EditValue<'_>) {
        let value = match value {
            EditValue::Fixed(value) => Some(value.clone()),
            EditValue::Narrowed(value) => Some(value),
            EditValue::Rendered(_) | EditValue::Request(_) => self.value(value.as_bytes()),
        };
        if let Some(value) = value {
            let _appended_or_full = self.fields.try_append(name, value);
        }
    }
}

fn append(fields: &mut HeaderMap, name: &[u8], value: Option<HeaderValue>) {
    if let (Ok(name), Some(value)) = (HeaderName::from_bytes(name), value) {
        let _appended_or_full = fields.try_append(name, value);
    }
}

/// Converts a rendered value. Fixed values are cloned; others are copied, because a clone would
/// count references in memory that all threads share.
pub fn field_value(value: EditValue<'_>) -> Option<HeaderValue> {
    match value {
        EditValue::Fixed(value) => Some(value.clone()),
        EditValue::Narrowed(value) => Some(value),
        EditValue::Rendered(_) | EditValue::Request(_) => HeaderValue::from_bytes(value.as_bytes()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ORIGIN, VARY};

    use super::*;

    static FIXED: HeaderValue = HeaderValue::from_static("Origin");

    fn fill(sink: &mut impl FieldSink) {
        let (name, value) = (HeaderName::from_static("x-b"), HeaderValue::from_static("2"));
        sink.received(FieldLine::Bytes { name: b"X-A", value: b"caf\xc3\xa9" });
        sink.received(FieldLine::Typed { name: &name, value: &value });
        sink.own(&VARY, EditValue::Fixed(&FIXED));
        sink.own(&ORIGIN, EditValue::Request(b"https://a.test"));
        sink.received(FieldLine::Bytes { name: b"x-a", value: b"" });
    }

    #[test]
    fn every_sink_takes_all_lines() {
        let mut lines = Vec::new();
        fill(&mut lines);
        let wanted = "X-A: caf\u{e9}\r\nx-b: 2\r\nvary: Origin\r\norigin: https://a.test\r\nx-a: \r\n";
        assert_eq!(lines, wanted.as_bytes());
        let (mut map, mut shared) = (HeaderMap::new(), SharedFieldMap::with_usual_capacity());
        fill(&mut map);
        fill(&mut shared);
        assert_eq!(map, shared.into_fields());
        let of_a: Vec<&[u8]> = map.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!((of_a, map.len()), (vec!["caf\u{e9}".as_bytes(), b""], 5));
    }
}
