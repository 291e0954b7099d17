//! The demo API: reports which parts of a request it received, and does not implement CORS.
//!
//! `/orders` (GET, POST, PUT, PATCH) reports which parts of the request arrived; `/session` sets a
//! cookie; `/menu` may be cached for all users; `/slow` responds after a delay; `/events` is an
//! event stream. `/requests` returns the counters and is not counted itself, so reading them does
//! not change them. A plain `OPTIONS` is served like any other method: a preflight that came
//! through would be counted.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};

use super::counts::MethodCounts;
use super::{Body, Request, Response, full_response, json};

/// The limit on a request body; a longer one is refused.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// A host-only cookie with `SameSite=Lax`: browsers send it with requests of pages of the same site
/// only, as is their default.
const COOKIE: &str = "demo_session=42; Path=/; HttpOnly; SameSite=Lax";
const SLOW: Duration = Duration::from_secs(2);
const EVENT_EVERY: Duration = Duration::from_secs(1);
const EVENTS_MAX: u32 = 3_600;

pub(super) async fn answer(request: Request, counts: &MethodCounts) -> Response {
    let path = request.uri().path().to_owned();
    if path != "/requests" {
        counts.count(request.method());
    }
    match path.as_str() {
        "/requests" => json(StatusCode::OK, &counts.to_json()),
        "/orders" => orders(request).await,
        "/session" => session(),
        "/menu" => menu(),
        "/slow" => slow().await,
        "/events" => events(),
        _ => json(StatusCode::NOT_FOUND, &json!({ "error": "nothing here; try /orders, /requests, /slow or /events" })),
    }
}

async fn orders(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return json(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "send at most 64 KiB" }));
    };
    let received = received(&parts, &body.to_bytes());
    match parts.method {
        Method::GET | Method::HEAD => json(StatusCode::OK, &json!({ "orders": ["tea", "biscuits"], "saw": received })),
        Method::POST | Method::PUT | Method::PATCH => json(StatusCode::OK, &json!({ "stored": true, "saw": received })),
        _ => not_allowed(),
    }
}

/// The parts of the request that arrived.
fn received(parts: &http::request::Parts, body: &Bytes) -> Value {
    let present = |name: header::HeaderName| parts.headers.contains_key(name);
    json!({
        "method": parts.method.as_str(),
        "cookie": present(header::COOKIE),
        "authorization": present(header::AUTHORIZATION),
        "body": String::from_utf8_lossy(body),
    })
}

fn not_allowed() -> Response {
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "use GET, POST, PUT or PATCH" }));
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH"));
    response
}

fn session() -> Response {
    let mut response = json(StatusCode::OK, &json!({ "cookie": "set" }));
    response.headers_mut().insert(header::SET_COOKIE, header::HeaderValue::from_static(COOKIE));
    response
}

/// A response that caches may give to all users, cookies or not.
fn menu() -> Response {
    let mut response = json(StatusCode::OK, &json!({ "menu": ["tea", "biscuits"] }));
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=60"));
    response
}

async fn slow() -> Response {
    tokio::time::sleep(SLOW).await;
    json(StatusCode::OK, &json!({ "slept_seconds": SLOW.as_secs() }))
}

fn events() -> Response {
    let (sender, channel) = Channel::<Bytes>::new(1);
    tokio::spawn(send_events(sender));
    let mut response = full_response(StatusCode::OK, "text/event-stream", Bytes::new());
    *response.body_mut() = Body::new(channel);
    response
}

/// Sends events until the reader disconnects, for at most an hour.
async fn send_events(mut sender: Sender<Bytes>) {
    for number in 0..EVENTS_MAX {
        let event = format!("id: {number}\ndata: {{\"order\":{number}}}\n\n");
        if sender.send_data(event.into()).await.is_err() {
            return;
        }
        tokio::time::sleep(EVENT_EVERY).await;
    }
}
