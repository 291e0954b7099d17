//! Changes to Pingora's heads as plain maps of fields.
//!
//! Pingora keeps a second map with the spelling of each name next to the fields, and updates both
//! with every change. A change then costs twice, and each name is hashed and copied again. Names
//! are case-insensitive (RFC 9110, section 5.1), so the gateway gives up the spelling and changes
//! one map by constants. On the wire, common names have their usual spelling and all others are in
//! lower case, as HTTP/2 has them anyway.

use http::request::Parts as RequestParts;
use http::response::Parts as ResponseParts;
use http::{HeaderMap, HeaderName, Request, Response};
use pingora_http::{RequestHeader, ResponseHeader};

/// Changes the fields of a request head whose target is in origin form.
pub fn edit_request<R>(head: &mut RequestHeader, change: impl FnOnce(&mut HeaderMap) -> R) -> R {
    let ends_with_head = head.send_end_stream();
    let blank = RequestHeader::from(Request::new(()).into_parts().0);
    let mut parts = RequestParts::from(std::mem::replace(head, blank));
    let result = change(&mut parts.headers);
    *head = RequestHeader::from(parts);
    if ends_with_head == Some(false) {
        head.set_send_end_stream(false);
    }
    result
}

pub fn edit_response<R>(head: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap) -> R) -> R {
    // RFC 9112, section 4: a reason phrase is optional; only an unusual one has to be carried over.
    let usual = head.status.canonical_reason();
    let phrase = head.get_reason_phrase().filter(|phrase| Some(*phrase) != usual).map(str::to_owned);
    let blank = ResponseHeader::from(Response::new(()).into_parts().0);
    let mut parts = ResponseParts::from(std::mem::replace(head, blank));
    let result = change(&mut parts.headers);
    *head = ResponseHeader::from(parts);
    if let Some(phrase) = phrase {
        // The phrase was parsed from this head, so it is valid.
        let _valid = head.set_reason_phrase(Some(&phrase));
    }
    result
}

/// Removes every line of the fields whose names match. Allocates nothing if no name matches, which
/// is the usual case.
pub fn remove(fields: &mut HeaderMap, is_match: impl Fn(&HeaderName) -> bool) {
    let names = matching(fields, is_match);
    remove_all(fields, names);
}

/// The names that match, for [`remove_all`].
pub fn matching(fields: &HeaderMap, is_match: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    fields.keys().filter(|name| is_match(name)).cloned().collect()
}

pub fn remove_all(fields: &mut HeaderMap, names: Vec<HeaderName>) {
    for name in names {
        fields.remove(name);
    }
}
