//! The page of the demo, the same for every `Host`, and the API's counters beside it.
//!
//! The counters are served on the page's own origin, where reading them needs no CORS: both pages, the refused one
//! included, can show that the upstream never saw an `OPTIONS`.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::counts::Counts;
use super::{Request, Response, json, whole};

/// Self-contained: no script, style or image from elsewhere.
const PAGE: &str = include_str!("page.html");

pub(super) fn answer(request: &Request, counts: &Counts) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return whole(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n");
    }
    match request.uri().path() {
        "/" => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "/requests" => json(StatusCode::OK, &counts.to_json()),
        "/favicon.ico" => whole(StatusCode::OK, "image/x-icon", Bytes::new()),
        _ => whole(StatusCode::NOT_FOUND, "text/plain", "nothing here; the page is at /\n"),
    }
}
