//! Header fields that an operator adds to messages or removes from them, and which names are not
//! the operator's to change.

use crossgate_policy::EditValue;
use http::{HeaderName, HeaderValue};

use crate::field_sink::FieldSink;
use crate::hop_by_hop;

/// Changes of the fields of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldEdits {
    /// The fields whose received lines are left out.
    replaced: Vec<HeaderName>,
    /// The lines that are appended.
    written: Vec<(HeaderName, HeaderValue)>,
}

impl FieldEdits {
    /// Replaces the received lines of a field by one.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.replaced.push(name.clone());
        self.written.push((name, value));
    }

    /// Appends a line to those received.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.written.push((name, value));
    }

    /// Removes the received lines of a field.
    pub fn remove(&mut self, name: HeaderName) {
        self.replaced.push(name);
    }

    /// These edits, except for the fields that `narrower` also changes, and then its own.
    #[must_use]
    pub fn overridden_by(&self, narrower: &FieldEdits) -> FieldEdits {
        let replaced = self.replaced.iter().filter(|name| !narrower.changes(name)).chain(&narrower.replaced);
        let written = self.written.iter().filter(|(name, _)| !narrower.changes(name)).chain(&narrower.written);
        FieldEdits { replaced: replaced.cloned().collect(), written: written.cloned().collect() }
    }

    fn changes(&self, name: &HeaderName) -> bool {
        self.replaced.contains(name) || self.written.iter().any(|(written, _)| written == name)
    }

    /// Whether the received lines of a field are left out. The name may be in any case.
    pub fn replaces(&self, name: &[u8]) -> bool {
        self.replaced.iter().any(|replaced| name.eq_ignore_ascii_case(replaced.as_str().as_bytes()))
    }

    /// Whether a server could take a received field for one that is left out: CGI and similar
    /// servers read `_`, and some `.`, as `-`. The name may be in any case.
    pub fn replaces_for_servers(&self, name: &[u8]) -> bool {
        self.replaced.iter().any(|replaced| hop_by_hop::is_same_for_servers(name, replaced.as_str().as_bytes()))
    }

    /// The lines that are appended, in the configured order.
    pub fn written(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.written.iter().map(|(name, value)| (name, value))
    }

    /// Appends the lines.
    pub fn write(&self, sink: &mut impl FieldSink) {
        self.written().for_each(|(name, value)| sink.own(name, EditValue::Rendered(value)));
    }
}

/// A way to change a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldEdit {
    Set,
    Add,
    Remove,
}

const OF_CONNECTION: &str = "it belongs to one connection";
const OF_FRAMING: &str = "it describes the body, which the gateway passes on as it is";
const OF_HANDSHAKE: &str = "it belongs to the handshake of a WebSocket";
const OF_GATEWAY: &str = "the gateway writes it, and servers rely on that";

/// Returns why a field of requests is not to be changed. The name is in lower case.
pub fn why_request_field_is_fixed(name: &str) -> Option<&'static str> {
    // Some servers take the other separators for `-`.
    let name = name.replace(['_', '.'], "-");
    let name = name.as_str();
    let begins_with = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match name {
        "origin" => Some("the policy decides on what the client sent"),
        _ if begins_with(&["access-control-request-", "sec-fetch-"]) => {
            Some("the policy decides on what the client sent")
        }
        "host" => Some("the key `host` of an upstream sets it"),
        "cookie" => Some("it says who the user is"),
        "cdn-loop" | "forwarded" | "via" | "x-real-ip" | "x-request-id" => Some(OF_GATEWAY),
        _ if begins_with(&["x-crossgate-", "x-forwarded-"]) => Some(OF_GATEWAY),
        "expect" => Some(OF_CONNECTION),
        _ => why_field_is_fixed(name),
    }
}

/// Returns why a field of responses is not to be changed in this way. The name is in lower case.
pub fn why_response_field_is_fixed(name: &str, edit: FieldEdit) -> Option<&'static str> {
    match name {
        _ if name.starts_with("access-control-") => Some("the policy writes it"),
        "timing-allow-origin" => Some("the key `timingAllowOrigins` of a policy sets it"),
        "cross-origin-resource-policy" => Some("the key `crossOriginResourcePolicy` of a policy sets it"),
        "vary" if edit != FieldEdit::Add => Some("caches would mix up responses; members can only be added"),
        "set-cookie" => Some("it says who the user is"),
        "date" | "proxy-status" | "x-request-id" => Some(OF_GATEWAY),
        _ if name.starts_with("x-crossgate-") => Some(OF_GATEWAY),
        _ => why_field_is_fixed(name),
    }
}

fn why_field_is_fixed(name: &str) -> Option<&'static str> {
    match name {
        "content-encoding" | "content-length" | "content-range" => Some(OF_FRAMING),
        "proxy-authentication-info" => Some(OF_CONNECTION),
        _ if hop_by_hop::ends_request_hop(name.as_bytes()) => Some(OF_CONNECTION),
        _ if name.starts_with("sec-websocket-") => Some(OF_HANDSHAKE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn name(text: &'static str) -> HeaderName {
        HeaderName::from_static(text)
    }

    #[test]
    fn edits_of_a_route_override_those_of_its_tenant_by_field() {
        let value = HeaderValue::from_static;
        let mut tenant = FieldEdits::default();
        tenant.set(name("x-a"), value("1"));
        tenant.add(name("x-b"), value("1"));
        tenant.remove(name("x-c"));
        tenant.set(name("x-d"), value("1"));
        let mut route = FieldEdits::default();
        route.remove(name("x-a"));
        route.set(name("x-b"), value("2"));
        route.add(name("x-c"), value("2"));
        let merged = tenant.overridden_by(&route);
        let replaced = ["x-a", "x-b", "x-c", "x-d"].map(|text| merged.replaces(text.to_uppercase().as_bytes()));
        assert_eq!(replaced, [true, true, false, true]);
        let mut written = HeaderMap::new();
        merged.write(&mut written);
        let expected = [("x-b", "2"), ("x-c", "2"), ("x-d", "1")];
        assert_eq!(written, expected.map(|(text, two)| (name(text), value(two))).into_iter().collect());
    }

    #[test]
    fn servers_read_other_separators_as_the_removed_name() {
        let mut edits = FieldEdits::default();
        edits.remove(name("x-internal-id"));
        edits.remove(name("x_user"));
        for spelled in ["X-Internal-Id", "x_internal_id", "x.internal-id", "X-User"] {
            assert!(edits.replaces_for_servers(spelled.as_bytes()), "{spelled}");
        }
        assert!(!edits.replaces(b"x_internal_id"));
        assert!(!edits.replaces_for_servers(b"x-internal-ids"));
    }

    #[test]
    fn fields_of_others_are_fixed() {
        let both =
            ["connection", "te", "trailer", "upgrade", "content-length", "content-encoding", "sec-websocket-key"];
        let request = ["origin", "sec-fetch-site", "access-control-request-method", "host", "cookie", "expect"];
        let written = ["forwarded", "via", "cdn-loop", "x-forwarded-for", "x-real-ip", "x-crossgate-tenant"];
        let confusable = ["x_forwarded_for", "sec.fetch-site", "content_length"];
        for name in both.iter().chain(&request).chain(&written).chain(&confusable) {
            assert!(why_request_field_is_fixed(name).is_some(), "{name}");
        }
        let response = ["access-control-allow-origin", "set-cookie", "timing-allow-origin", "vary", "date"];
        let written = ["proxy-status", "cross-origin-resource-policy", "x-request-id", "x-crossgate-a"];
        for name in both.iter().chain(&response).chain(&written) {
            assert!(why_response_field_is_fixed(name, FieldEdit::Set).is_some(), "{name}");
        }
        assert_eq!(why_response_field_is_fixed("vary", FieldEdit::Add), None);
        for name in ["x-edge", "authorization", "strict-transport-security", "content-type", "cache-control"] {
            assert_eq!(why_request_field_is_fixed(name), None, "{name}");
            assert_eq!(why_response_field_is_fixed(name, FieldEdit::Remove), None, "{name}");
        }
    }
}
