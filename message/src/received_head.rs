//! The head of a request as it was received, over any version of HTTP.

use http::{Method, Version};
use pingora_http::RequestHeader;

use crate::fields::{HeaderFields, KnownHeaders};

/// A request's head. It borrows from the buffer or the map that it was parsed into.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedHead<'a> {
    pub method: &'a Method,
    /// The target as it was sent.
    pub target: &'a [u8],
    pub version: Version,
    pub fields: HeaderFields<'a>,
    /// The fields that every request needs.
    pub known: KnownHeaders<'a>,
}

impl<'a> ReceivedHead<'a> {
    /// A head of HTTP/1.1 or HTTP/1.0, without a copy.
    pub fn new(method: &'a Method, target: &'a [u8], version: Version, fields: HeaderFields<'a>) -> Self {
        ReceivedHead { method, target, version, fields, known: KnownHeaders::of(fields) }
    }

    /// Whether the client waits for `100 Continue` before it sends its body. HTTP/1.0 requests
    /// never do, RFC 9110, section 10.1.1; over HTTP/2 the client's side sends it.
    pub fn expects_continue(&self) -> bool {
        self.version == Version::HTTP_11 && self.known.has_expect
    }
}

impl<'a> From<&'a RequestHeader> for ReceivedHead<'a> {
    fn from(header: &'a RequestHeader) -> Self {
        ReceivedHead::new(&header.method, header.raw_path(), header.version, (&header.headers).into())
    }
}
