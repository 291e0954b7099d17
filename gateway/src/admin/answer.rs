//! An answer of the admin listener, and its bytes.
//!
//! Every answer says that nobody may store or sniff it, and that the connection ends with it.

use std::time::SystemTime;

use http::StatusCode;
use serde::Serialize;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// One answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    /// A field that goes with the status.
    field: Option<(&'static str, &'static str)>,
    body: Vec<u8>,
    is_body_sent: bool,
}

impl Answer {
    pub(super) fn text(status: StatusCode, text: &str) -> Self {
        Answer::new(status, TEXT, format!("{text}\n").into_bytes())
    }

    pub(super) fn metrics(text: String) -> Self {
        Answer::new(StatusCode::OK, prometheus::TEXT_FORMAT, text.into_bytes())
    }

    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_vec_pretty(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Answer::new(status, JSON, body)
            }
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(super) fn error(status: StatusCode, detail: &str) -> Self {
        Answer::json(status, &serde_json::json!({ "error": detail }))
    }

    fn new(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Self {
        Answer { status, content_type, field: None, body, is_body_sent: true }
    }

    pub(super) fn with_field(self, name: &'static str, value: &'static str) -> Self {
        Answer { field: Some((name, value)), ..self }
    }

    /// The answer to `HEAD`: the length stays.
    pub(super) fn without_body(self) -> Self {
        Answer { is_body_sent: false, ..self }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let field = self.field.map(|(name, value)| format!("{name}: {value}\r\n"));
        let head = format!(
            "HTTP/1.1 {}\r\nDate: {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\n{}Connection: close\r\n\r\n",
            self.status,
            httpdate::fmt_http_date(SystemTime::now()),
            self.content_type,
            self.body.len(),
            field.unwrap_or_default(),
        );
        let mut bytes = head.into_bytes();
        if self.is_body_sent {
            bytes.extend(self.body);
        }
        bytes
    }
}
