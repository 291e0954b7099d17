//! Decodes `requestHeaders` and `responseHeaders`: fields that are set, added or removed.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::decode::{Decoder, SectionFields, show_text};
use super::node::{Position, YamlNode};
use super::sections;
use crossgate_message::field_edits::{self, FieldEdit, FieldEdits};

/// Maximum number of fields of one section.
const EDITS_MAX: usize = 64;
/// Maximum length of a value, in bytes.
const VALUE_LEN_MAX: usize = 4_096;

/// A name that a section has, and where it is written.
type NamedField = (HeaderName, Position);

/// Which messages a section changes.
#[derive(Debug, Clone, Copy)]
enum Messages {
    Requests,
    Responses,
}

impl Messages {
    fn why_fixed(self, name: &HeaderName, edit: FieldEdit) -> Option<&'static str> {
        match self {
            Messages::Requests => field_edits::why_request_field_is_fixed(name.as_str()),
            Messages::Responses => field_edits::why_response_field_is_fixed(name.as_str(), edit),
        }
    }
}

impl Decoder<'_> {
    pub(super) fn request_headers(&mut self, fields: &SectionFields<'_>) -> Option<Arc<FieldEdits>> {
        fields.find("requestHeaders").and_then(|node| self.header_edits(node, Messages::Requests))
    }

    pub(super) fn response_headers(&mut self, fields: &SectionFields<'_>) -> Option<Arc<FieldEdits>> {
        fields.find("responseHeaders").and_then(|node| self.header_edits(node, Messages::Responses))
    }

    fn header_edits(&mut self, node: &YamlNode, messages: Messages) -> Option<Arc<FieldEdits>> {
        let fields = self.fields(node, &sections::HEADER_EDITS)?;
        let mut edits = FieldEdits::default();
        let mut seen = Vec::new();
        for (key, edit) in [("set", FieldEdit::Set), ("add", FieldEdit::Add)] {
            for (name, value) in self.header_lines(fields.find(key), messages, edit, &mut seen) {
                match edit {
                    FieldEdit::Set => edits.set(name, value),
                    FieldEdit::Add | FieldEdit::Remove => edits.add(name, value),
                }
            }
        }
        for text in self.texts(fields.find("remove"), "header name", EDITS_MAX) {
            let name = self.edited_name(&text.value, text.at, (messages, FieldEdit::Remove), &mut seen);
            name.into_iter().for_each(|name| edits.remove(name));
        }
        if seen.len() > EDITS_MAX {
            self.error(node.at, format!("{} headers are too many, expected at most {EDITS_MAX}", seen.len()));
        }
        Some(Arc::new(edits))
    }

    /// Names with a value each.
    fn header_lines(
        &mut self,
        node: Option<&YamlNode>,
        messages: Messages,
        edit: FieldEdit,
        seen: &mut Vec<NamedField>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let entries = node.and_then(|node| self.map(node, "header names with a value each")).unwrap_or_default();
        let mut lines = Vec::new();
        for (key, value) in entries {
            let name = self.edited_name(&key.name, key.at, (messages, edit), seen);
            let value = self.parse_text(value, "a header value", header_value);
            lines.extend(name.zip(value));
        }
        lines
    }

    /// A name that this section may change, and has once.
    fn edited_name(
        &mut self,
        text: &str,
        at: Position,
        (messages, edit): (Messages, FieldEdit),
        seen: &mut Vec<NamedField>,
    ) -> Option<HeaderName> {
        let shown = show_text(text);
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            self.error(at, format!("invalid header name {shown}: write one such as x-edge"));
            return None;
        };
        if let Some(why) = messages.why_fixed(&name, edit) {
            self.error(at, format!("{shown} cannot be changed here: {why}; remove it"));
            return None;
        }
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) {
            self.clash(
                at,
                format!("{shown} is here twice, and only one of the changes can be meant; remove one"),
                *first,
            );
            return None;
        }
        seen.push((name.clone(), at));
        Some(name)
    }
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    if text.is_empty() {
        return Err("write a value, or list the name under `remove`".to_owned());
    }
    if text.len() > VALUE_LEN_MAX {
        return Err(format!("{} bytes are too many, expected at most {VALUE_LEN_MAX}", text.len()));
    }
    let has_outer_space = text.trim_matches([' ', '\t']) != text;
    let value = HeaderValue::from_str(text).ok().filter(|value| !has_outer_space && value.to_str().is_ok());
    value.ok_or_else(|| "write visible ASCII, with spaces only inside".to_owned())
}
