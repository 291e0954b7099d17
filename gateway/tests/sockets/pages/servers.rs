//! Servers for the browser tests: the API behind the gateway and the server of the pages, which are
//! one program, and a relay that removes a field of the answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{Connection, Exchange, RecordingUpstream, Then, Tunnel, accept, request};

const PAGE: &str = include_str!("page.html");

/// Delay of a nearby server.
const DISTANCE: Duration = Duration::from_millis(20);

/// Behaves as the first segment of the path names. Has no CORS logic and redirects every `OPTIONS`.
pub(super) fn serve(exchange: &mut Exchange) -> Then {
    let target = exchange.seen.target.clone();
    let behaviour = target.split('/').nth(1).unwrap_or_default();
    let then = target.split_once("?then=").map_or("", |(_, then)| then);
    match (exchange.seen.method.as_str(), behaviour) {
        ("OPTIONS", _) => exchange.answer(301, &[("Location", "/echo/moved")], b""),
        (_, "page") => exchange.answer(200, &[("Content-Type", "text/html")], PAGE.as_bytes()),
        (_, "quiet-page") => {
            let fields = [("Content-Type", "text/html"), ("Referrer-Policy", "no-referrer")];
            exchange.answer(200, &fields, PAGE.as_bytes())
        }
        (_, "echo") => echo(exchange, 200, &[]),
        (_, "teapot") => echo(exchange, 418, &[]),
        (_, "kept") => echo(exchange, 200, &[("Cache-Control", "max-age=600")]),
        (_, "cookie") => echo(exchange, 200, &[("Set-Cookie", "session=1; Path=/")]),
        (_, "claims") => {
            let star = ("Access-Control-Allow-Origin", "*");
            echo(exchange, 200, &[star, star, ("Access-Control-Expose-Headers", "*, x-hidden")])
        }
        (_, "redirect") => exchange.answer(302, &[("Location", then)], b""),
        (_, "redirect-307") => exchange.answer(307, &[("Location", then)], b""),
        (_, "tagged") => tagged(exchange),
        (_, "silent") => Then::Stall,
        (_, "socket") => greet(exchange),
        _ => exchange.answer(404, &[], b""),
    }
}

/// Answers with the received request as JSON.
fn echo(exchange: &mut Exchange, status: u16, fields: &[(&str, &str)]) -> Then {
    let body = String::from_utf8(exchange.read_body().1).unwrap();
    let seen = &exchange.seen;
    let field = |name: &str| seen.headers.all(name).first().map(|value| (*value).to_owned());
    let received = json!({
        "method": seen.method,
        "origin": field("origin"),
        "site": field("sec-fetch-site"),
        "cookie": field("cookie"),
        "authorization": field("authorization"),
        "asked": field("x-asked"),
        "body": body,
    });
    let mut all = vec![("Content-Type", "application/json"), ("X-Shown", "1"), ("X-Hidden", "1")];
    if !fields.iter().any(|(name, _)| *name == "Cache-Control") {
        all.push(("Cache-Control", "no-store"));
    }
    all.extend(fields);
    exchange.answer(status, &all, received.to_string().as_bytes())
}

fn tagged(exchange: &mut Exchange) -> Then {
    let fields = [("ETag", "\"1\""), ("Cache-Control", "no-cache"), ("Content-Type", "text/plain"), ("X-Shown", "1")];
    let is_known = exchange.seen.headers.all("if-none-match") == ["\"1\""];
    if is_known { exchange.answer(304, &fields, b"") } else { exchange.answer(200, &fields, b"tagged") }
}

/// Opens a WebSocket and sends `hello`.
fn greet(exchange: &mut Exchange) -> Then {
    let key = accept(exchange.seen.headers.one("sec-websocket-key"));
    thread::sleep(DISTANCE);
    exchange.write(
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {key}\r\n\r\n")
            .as_bytes(),
    );
    exchange.write(b"\x81\x05hello");
    Then::Stall
}

/// Relay in front of a gateway that removes a field from every answer.
pub(super) struct Relay {
    pub(super) server: RecordingUpstream,
    removed: Arc<Mutex<String>>,
    _tunnel: Option<Tunnel>,
}

impl Relay {
    /// Starts a relay in front of a gateway, through a tunnel if the gateway uses TLS.
    pub(super) fn before(gateway: SocketAddr, tunnel: Option<Tunnel>) -> Self {
        let removed = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&removed);
        let server = RecordingUpstream::start(move |exchange| {
            let removed = shared.lock().unwrap().clone();
            relay(exchange, gateway, &removed)
        });
        Self { server, removed, _tunnel: tunnel }
    }

    /// Removes this field from now on, and no other.
    pub(super) fn remove(&self, name: &str) {
        name.clone_into(&mut self.removed.lock().unwrap());
    }
}

fn relay(exchange: &mut Exchange, gateway: SocketAddr, removed: &str) -> Then {
    let body = exchange.read_body().1;
    let seen = &exchange.seen;
    let own = ["host", "content-length", "connection"];
    let is_passed = |(name, _): &&(String, String)| !own.contains(&name.to_ascii_lowercase().as_str());
    let fields: Vec<(&str, &str)> =
        seen.headers.0.iter().filter(is_passed).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let bytes = request(&seen.method, &seen.target, seen.headers.one("host"), &fields, &body);
    let answer = Connection::ask(gateway, &bytes).unwrap();
    let own = [removed, "content-length", "transfer-encoding", "connection"];
    let is_passed = |(name, _): &&(String, String)| !own.contains(&name.to_ascii_lowercase().as_str());
    let fields: Vec<(&str, &str)> =
        answer.headers.0.iter().filter(is_passed).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    exchange.answer(answer.status, &fields, &answer.body)
}
