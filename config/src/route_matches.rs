//! Decodes the conditions of a route: `headers` and `query`.

use http::HeaderName;

use super::decode::{Decoder, SectionFields, show_text};
use super::node::{YamlNode, YamlValue};
use super::sections;
use crossgate_message::route_match::{Expected, RouteConditions, why_unmatchable};

/// Maximum number of conditions in each of the two sections.
const CONDITIONS_MAX: usize = 16;
/// Maximum length of a value or of the name of a parameter, in bytes.
const VALUE_LEN_MAX: usize = 256;

impl Decoder<'_> {
    pub(super) fn route_conditions(&mut self, fields: &SectionFields<'_>) -> RouteConditions {
        let mut headers: Vec<(HeaderName, Expected)> = Vec::new();
        for (name, at, expected) in self.conditions(fields, "headers", "header names") {
            match HeaderName::from_bytes(name.as_bytes()) {
                Err(_) => {
                    let shown = show_text(&name);
                    self.error(at.at, format!("invalid header name {shown}: write one such as x-canary"));
                }
                Ok(known) => match why_unmatchable(&known) {
                    Some(why) => {
                        let shown = show_text(&name);
                        self.error(at.at, format!("no route can depend on {shown}: {why}; remove it"));
                    }
                    None if headers.iter().any(|(other, _)| *other == known) => {
                        self.error(at.at, format!("{} is here twice; remove one", show_text(&name)));
                    }
                    None => headers.push((known, expected)),
                },
            }
        }
        let mut query = Vec::new();
        for (name, at, expected) in self.conditions(fields, "query", "query parameters") {
            if name.is_empty() || name.len() > VALUE_LEN_MAX {
                self.error(at.at, format!("expected a name of 1 to {VALUE_LEN_MAX} bytes"));
            } else {
                query.push((name, expected));
            }
        }
        RouteConditions::new(headers, query)
    }

    fn conditions<'t>(
        &mut self,
        fields: &SectionFields<'t>,
        key: &str,
        what: &str,
    ) -> Vec<(Box<str>, &'t YamlNode, Expected)> {
        let Some(node) = fields.find(key) else { return Vec::new() };
        let entries = self.map(node, &format!("{what} with a value each")).unwrap_or_default();
        if entries.len() > CONDITIONS_MAX {
            self.error(node.at, format!("{} {what} are too many, expected at most {CONDITIONS_MAX}", entries.len()));
            return Vec::new();
        }
        let mut conditions = Vec::new();
        for (name, value) in entries {
            let expected = self.condition_value(value);
            conditions.extend(expected.map(|expected| (name.name.clone(), value, expected)));
        }
        conditions
    }

    fn condition_value(&mut self, node: &YamlNode) -> Option<Expected> {
        if let YamlValue::Map(_) = node.value {
            let fields = self.fields(node, &sections::PRESENCE)?;
            let present = self.required(&fields, "present")?;
            if self.flag(present)? {
                return Some(Expected::Present);
            }
            self.error(present.at, "a route cannot depend on an absent one; write a route without the condition");
            return None;
        }
        self.parse_text(node, "a value", |text| match text {
            _ if text.len() > VALUE_LEN_MAX => Err(format!("expected at most {VALUE_LEN_MAX} bytes")),
            _ if text.trim() != text => Err("write it without spaces around it".to_owned()),
            _ if text.chars().any(|c| c.is_control()) => Err("write it without control characters".to_owned()),
            _ => Ok(Expected::Value(text.into())),
        })
    }
}
