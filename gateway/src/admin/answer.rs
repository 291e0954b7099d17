//! A response of the admin listener, and its bytes.
//!
//! No response may be cached, sniffed, framed or used by a web page. Each one closes its
//! connection.

use std::time::SystemTime;

use http::StatusCode;
use serde::Serialize;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
/// The policy of responses that are not pages.
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'";

#[derive(Clone, Debug)]
pub(super) struct AdminResponse {
    status: StatusCode,
    content_type: &'static str,
    /// Additional fields.
    fields: Vec<(&'static str, String)>,
    content_policy: String,
    referrer_policy: &'static str,
    body: Vec<u8>,
    is_body_sent: bool,
}

impl AdminResponse {
    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        AdminResponse::new(status, TEXT, format!("{text}\n").into_bytes())
    }

    pub(super) fn metrics(text: String) -> Self {
        AdminResponse::new(StatusCode::OK, prometheus::TEXT_FORMAT, text.into_bytes())
    }

    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                AdminResponse::new(status, JSON, body)
            }
            Err(error) => AdminResponse::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(super) fn error(status: StatusCode, detail: &str) -> Self {
        AdminResponse::json(status, &serde_json::json!({ "error": detail }))
    }

    fn new(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        let (content_policy, referrer_policy) = (NO_CONTENT.to_owned(), "no-referrer");
        AdminResponse {
            status,
            content_type,
            fields: Vec::new(),
            content_policy,
            referrer_policy,
            body,
            is_body_sent: true,
        }
    }

    /// A page with its `Content-Security-Policy` and `Referrer-Policy`.
    pub(super) fn html(status: StatusCode, text: &str, content_policy: &str, referrer_policy: &'static str) -> Self {
        let answer = AdminResponse::new(status, HTML, text.as_bytes().to_vec());
        AdminResponse { content_policy: content_policy.to_owned(), referrer_policy, ..answer }
    }

    /// Redirects a browser by GET. The caller has checked that the target is on this listener.
    pub(super) fn redirect(target: String) -> Self {
        AdminResponse::text(StatusCode::SEE_OTHER, "see the Location field").with_field("Location", target)
    }

    pub(super) fn with_field(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// Removes the body for HEAD; `Content-Length` stays.
    pub(super) fn without_body(self) -> Self {
        AdminResponse { is_body_sent: false, ..self }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!(
            "HTTP/1.1 {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nContent-Security-Policy: {}\r\nReferrer-Policy: {}\r\n\
             Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n{fields}Connection: close\r\n\r\n",
            self.status,
            httpdate::fmt_http_date(SystemTime::now()),
            self.content_type,
            self.body.len(),
            self.content_policy,
            self.referrer_policy,
        );
        let mut bytes = head.into_bytes();
        if self.is_body_sent {
            bytes.extend(self.body);
        }
        bytes
    }
}
