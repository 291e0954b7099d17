//! The page of the demo, the same for every `Host`, and the API's counters beside it.
//!
//! The counters are served on the page's own origin, where reading them needs no CORS: both pages, the refused one
//! included, can show that the upstream never saw an `OPTIONS`. So is the source of the rule that decides about the page, read anew
//! each time, for a person to look at and change.

use std::io;
use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::counts::Counts;
use super::{Request, Response, json, whole};
use crate::config::files::read_bytes;

/// A rule is no longer than this: see `limits.rules.sourceBytes`.
const RULE_LEN_MAX: u64 = 64 << 10;

/// Self-contained: no script, style or image from elsewhere.
const PAGE: &str = include_str!("page.html");

pub(super) fn answer(request: &Request, counts: &Counts, rule: Option<&Path>) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return whole(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n");
    }
    match request.uri().path() {
        "/" => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "/requests" => json(StatusCode::OK, &counts.to_json()),
        "/rule" => match rule.map(read_rule) {
            Some(Ok(source)) => whole(StatusCode::OK, "text/plain; charset=utf-8", source),
            Some(Err(error)) => {
                whole(StatusCode::NOT_FOUND, "text/plain", format!("the rule cannot be read: {error}\n"))
            }
            None => whole(StatusCode::NOT_FOUND, "text/plain", "no rule was named with --rule\n"),
        },
        "/favicon.ico" => whole(StatusCode::OK, "image/x-icon", Bytes::new()),
        _ => whole(StatusCode::NOT_FOUND, "text/plain", "nothing here; the page is at /\n"),
    }
}

/// A small file, by whoever sits at this desk: read where it is asked for.
fn read_rule(path: &Path) -> io::Result<Vec<u8>> {
    read_bytes(path, RULE_LEN_MAX)
}
