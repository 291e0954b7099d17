//! The head of a request for the direct exchange.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Version};
use pingora::http::RequestHeader;

use crate::exchange::direct::UploadFraming;
use crate::exchange::{BodyFraming, FIELDS_MAX};

/// How the body of a request goes to a server. `None` for an upgrade, which the proxy serves.
pub(super) fn upload_framing(framing: BodyFraming) -> Option<UploadFraming> {
    match framing {
        BodyFraming::Length(0) => Some(UploadFraming::NoBody),
        BodyFraming::Length(_) => Some(UploadFraming::Length),
        BodyFraming::Chunked(_) => Some(UploadFraming::Chunked),
        BodyFraming::Upgrade => None,
    }
}

/// The head in these bytes, which the head reader has accepted. `None` for a target in absolute
/// form, which is left to the proxy.
pub(super) fn plain_request(bytes: &Bytes) -> Option<RequestHeader> {
    let mut lines = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(bytes, &mut lines).ok()?;
    let target = parsed.path.filter(|target| status.is_complete() && target.starts_with(['/', '*']))?;
    let method = Method::from_bytes(parsed.method?.as_bytes()).ok()?;
    let mut request = RequestHeader::build_no_case(method, target.as_bytes(), Some(parsed.headers.len())).ok()?;
    for line in parsed.headers.iter() {
        let name = HeaderName::from_bytes(line.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).ok()?;
        request.append_header(name, value).ok()?;
    }
    request.set_version(if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 });
    Some(request)
}
