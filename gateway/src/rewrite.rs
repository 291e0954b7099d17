//! Pingora's heads, changed as plain maps of fields.
//!
//! Pingora keeps beside the fields a second map of their names as they were spelled, and keeps both in step with every change: a
//! change costs twice, and each name is hashed and copied anew. Names mean the same in any case (RFC 9110, section 5.1), so the
//! spelling is given up, and what is left is one map that is changed by constants. On the wire the common names are then
//! written as usual and all others in lower case, as HTTP/2 has them anyway.

use http::request::Parts as RequestParts;
use http::response::Parts as ResponseParts;
use http::{HeaderMap, HeaderName, Request, Response};
use pingora::http::{RequestHeader, ResponseHeader};

/// Changes the fields of a request's head, whose target is in origin form.
pub fn request<R>(head: &mut RequestHeader, change: impl FnOnce(&mut HeaderMap) -> R) -> R {
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

/// Changes the fields of a response's head.
pub fn response<R>(head: &mut ResponseHeader, change: impl FnOnce(&mut HeaderMap) -> R) -> R {
    let usual = head.status.canonical_reason();
    let phrase = head.get_reason_phrase().filter(|phrase| Some(*phrase) != usual).map(str::to_owned);
    let blank = ResponseHeader::from(Response::new(()).into_parts().0);
    let mut parts = ResponseParts::from(std::mem::replace(head, blank));
    let result = change(&mut parts.headers);
    *head = ResponseHeader::from(parts);
    if let Some(phrase) = phrase {
        // It came with this head, so it can be said.
        let _said = head.set_reason_phrase(Some(&phrase));
    }
    result
}

/// Removes the fields whose names are of a kind, every line of them. Nothing is allocated where there is none, as nearly always.
pub fn remove(fields: &mut HeaderMap, is_one: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = fields.keys().filter(|name| is_one(name)).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}
