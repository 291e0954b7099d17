//! The head of a request for the direct exchange: what the parser of the head reader has found, as
//! positions in the bytes of the head.

use http::{Method, Version};

use super::head::Head;
use crate::exchange::BodyFraming;
use crate::exchange::direct::UploadFraming;
use crossgate_message::fields::{FieldSpans, HeaderFields};
use crossgate_message::received_head::ReceivedHead;

/// How the body of a request goes to a server. `None` for an upgrade, which the proxy serves.
pub(super) fn upload_framing(framing: BodyFraming) -> Option<UploadFraming> {
    match framing {
        BodyFraming::Length(0) => Some(UploadFraming::NoBody),
        BodyFraming::Length(_) => Some(UploadFraming::Length),
        BodyFraming::Chunked(_) => Some(UploadFraming::Chunked),
        BodyFraming::Upgrade => None,
    }
}

/// The request that a connection serves, used again for the next one.
#[derive(Debug)]
pub(super) struct ParsedRequest {
    head: Head,
    /// `None` where the parsers disagree about what a method is.
    method: Option<Method>,
    target: (usize, usize),
    version: Version,
    fields: FieldSpans,
}

impl Default for ParsedRequest {
    fn default() -> Self {
        let head = Head { len: 0, framing: BodyFraming::Length(0), has_plain_target: false, is_health_check: false };
        ParsedRequest { head, method: None, target: (0, 0), version: Version::HTTP_11, fields: FieldSpans::default() }
    }
}

impl ParsedRequest {
    /// Replaces the request by the one that was parsed from these bytes.
    pub(super) fn set(&mut self, bytes: &[u8], head: Head, request: &httparse::Request<'_, '_>) {
        self.head = head;
        self.method = Method::from_bytes(request.method.unwrap_or_default().as_bytes()).ok();
        let target = request.path.unwrap_or_default();
        let begin = (target.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
        self.target = (begin, begin.wrapping_add(target.len()));
        self.version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        self.fields.set(bytes, request.headers);
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    /// The head in its bytes. `None` for a target in absolute form, which is left to the proxy.
    pub(super) fn received<'a>(&'a self, bytes: &'a [u8]) -> Option<ReceivedHead<'a>> {
        let (begin, end) = self.target;
        let target = bytes.get(begin..end)?;
        let is_plain = matches!(target.first(), Some(b'/' | b'*'));
        let fields = HeaderFields::Spans(bytes, &self.fields);
        let method = self.method.as_ref().filter(|_| is_plain)?;
        Some(ReceivedHead::new(method, target, self.version, fields))
    }
}
