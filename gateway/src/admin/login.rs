//! The login of the browser page: a form takes a token and returns a read-only cookie.
//!
//! This is the only endpoint that reads a request body. `access` has checked before that the form
//! comes from this listener. The cookie does not contain the token; `session` makes it.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use http::StatusCode;
use pingora::protocols::Stream;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::AdminState;
use super::answer::AdminResponse;
use super::explain_query::decode;
use super::page::{self, BrowserArrival};
use super::request::AdminRequest;
use super::session;

/// Fits a token and a target, percent-encoded.
const BODY_LEN_MAX: usize = 16 << 10;
/// The time in which a browser has to send the form.
const BODY_TIME: Duration = Duration::from_secs(1);

/// Reads the body of a form; `ahead` is its beginning.
///
/// # Errors
/// The error response.
pub(super) async fn read_body(io: &mut Stream, ahead: &[u8], request: &AdminRequest) -> Result<Vec<u8>, AdminResponse> {
    let Some(len) = request.content_length else {
        return Err(AdminResponse::error(
            StatusCode::LENGTH_REQUIRED,
            "missing Content-Length: expected a form with a length",
        ));
    };
    if len > BODY_LEN_MAX {
        return Err(AdminResponse::error(StatusCode::PAYLOAD_TOO_LARGE, "form too large: expected at most 16 KiB"));
    }
    let mut body = BytesMut::from(ahead);
    let whole = timeout(BODY_TIME, async {
        while body.len() < len {
            if io.read_buf(&mut body).await.unwrap_or(0) == 0 {
                return false;
            }
        }
        true
    });
    if !whole.await.unwrap_or(false) {
        return Err(AdminResponse::error(StatusCode::REQUEST_TIMEOUT, "the form was not received in time"));
    }
    body.truncate(len);
    Ok(body.to_vec())
}

/// Checks the token of a form. A valid one gets a cookie and a redirect to the page that the
/// browser requested.
pub(super) fn answer(request: &AdminRequest, body: &[u8], state: &AdminState) -> AdminResponse {
    let (mut token, mut next) = (String::new(), "/".to_owned());
    let body = String::from_utf8_lossy(body);
    for pair in body.split('&') {
        match pair.split_once('=') {
            Some(("token", value)) => token = decode(value),
            Some(("next", value)) => next = decode(value),
            Some(_) | None => {}
        }
    }
    // Open redirect: a link could carry a target on another site.
    if !page::is_local(&next) {
        next = "/".to_owned();
    }
    if !state.access.has_tokens() {
        return AdminResponse::redirect(next);
    }
    let known = state.access.token_equal_to(token.trim().as_bytes());
    let Some(value) = known.and_then(|token| session::issue(&token, SystemTime::now())) else {
        return page::login(StatusCode::UNAUTHORIZED, &next, Some("invalid token"), BrowserArrival::Direct);
    };
    // The listener has no TLS, but a proxy in front may have; the browser's `Origin` shows the
    // scheme. A browser rejects a `Secure` cookie from plain HTTP.
    let secure = if request.is_of_https() { "; Secure" } else { "" };
    let (name, age) = (session::cookie_name(&request.host), session::SESSION_TIME.as_secs());
    // `HttpOnly` hides the cookie from scripts; `SameSite=Strict` keeps browsers from sending it
    // with requests of other sites (CSRF).
    let cookie = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    AdminResponse::redirect(next).with_field("Set-Cookie", cookie)
}
