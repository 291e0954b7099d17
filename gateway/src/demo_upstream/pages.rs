//! The page of the demo, the same for every demo host, and its data.
//!
//! Everything here is served on the page's own origin, where reading needs no CORS. The counters
//! show on both pages that the upstream never received an `OPTIONS`. The configuration file and the
//! rule are read from disk for each request, since both can be edited. `/explain` forwards to the
//! gateway's admin listener, which refuses requests with an `Origin` and so cannot be called by the
//! page.

use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::json;

use super::counts::MethodCounts;
use super::{PageSources, Request, Response, explanation, full_response, json};
use crossgate_config::files::read_bytes;
use crossgate_message::host::parse_authority;

/// The limit on a rule's source (`limits.rules.sourceBytes`); enough for the demo's configuration.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Self-contained: no script, style or image from elsewhere.
const PAGE: &str = include_str!("page.html");

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) async fn answer(request: &Request, counts: &MethodCounts, sources: &PageSources) -> Response {
    if !is_demo_host(request) {
        return full_response(StatusCode::MISDIRECTED_REQUEST, TEXT, "use a name under localhost or an IP address\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return full_response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n");
    }
    match request.uri().path() {
        "/" => full_response(StatusCode::OK, "text/html; charset=utf-8", PAGE),
        "/requests" => json(StatusCode::OK, &counts.to_json()),
        "/settings" => json(StatusCode::OK, &settings(sources)),
        "/config" => file(sources.config.as_deref(), "--config"),
        "/rule" => file(sources.rule.as_deref(), "--rule"),
        "/explain" => explanation::answer(sources.admin, request.uri().query().unwrap_or_default()).await,
        "/favicon.ico" => full_response(StatusCode::OK, "image/x-icon", Bytes::new()),
        _ => full_response(StatusCode::NOT_FOUND, TEXT, "nothing here; the page is at /\n"),
    }
}

/// Checks `Host` against DNS rebinding: a foreign name that resolves to this machine must not make
/// the configuration readable.
fn is_demo_host(request: &Request) -> bool {
    let host = request.headers().get(header::HOST);
    let Some(Ok(authority)) = host.map(|host| parse_authority(host.as_bytes())) else {
        return false;
    };
    let name = authority.host.as_ref();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.starts_with('[')
        || name.parse::<std::net::IpAddr>().is_ok()
}

fn settings(sources: &PageSources) -> serde_json::Value {
    let PageSources { api, config, rule, admin: _, program } = sources;
    let shown = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    json!({ "api": api, "config": shown(config), "rule": shown(rule), "program": program })
}

fn file(path: Option<&Path>, option: &str) -> Response {
    let Some(path) = path else {
        return full_response(StatusCode::NOT_FOUND, TEXT, format!("no file is configured: pass one with {option}\n"));
    };
    match read_bytes(path, FILE_BYTES_MAX) {
        Ok(source) => full_response(StatusCode::OK, TEXT, source),
        Err(error) => full_response(StatusCode::NOT_FOUND, TEXT, format!("cannot read {}: {error}\n", path.display())),
    }
}
