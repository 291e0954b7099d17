//! What stands around the browser: the API behind the gateway and the pages' own server, which are one program, and a
//! relay that takes something away on the way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::{Connection, Exchange, RecordingUpstream, Then, Tunnel, accept, request};

const PAGE: &str = include_str!("page.html");

/// As far away as a near neighbour: see `streaming.rs`.
const DISTANCE: Duration = Duration::from_millis(20);

/// Does what the first segment of the path says. It knows nothing of CORS, and would redirect every `OPTIONS`.
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

/// Says what it was sent.
fn echo(exchange: &mut Exchange, status: u16, fields: &[(&str, &str)]) -> Then {
    let body = String::from_utf8(exchange.read_body().1).unwrap();
    let seen = &exchange.seen;
    let field = |name: &str| seen.headers.all(name).first().map(|value| (*value).to_owned());
    let told = json!({
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
    exchange.answer(status, &all, told.to_string().as_bytes())
}

fn tagged(exchange: &mut Exchange) -> Then {
    let fields = [("ETag", "\"1\""), ("Cache-Control", "no-cache"), ("Content-Type", "text/plain"), ("X-Shown", "1")];
    let is_known = exchange.seen.headers.all("if-none-match") == ["\"1\""];
    if is_known { exchange.answer(304, &fields, b"") } else { exchange.answer(200, &fields, b"tagged") }
}

/// A WebSocket that says `hello`.
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

/// Stands before a gateway and takes a field out of every answer.
pub(super) struct Relay {
    pub(super) server: RecordingUpstream,
    taken: Arc<Mutex<String>>,
    _tunnel: Option<Tunnel>,
}

impl Relay {
    /// Before a gateway that it may need a tunnel to.
    pub(super) fn before(gateway: SocketAddr, tunnel: Option<Tunnel>) -> Self {
        let taken = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&taken);
        let server = RecordingUpstream::start(move |exchange| {
            let taken = shared.lock().unwrap().clone();
            relay(exchange, gateway, &taken)
        });
        Self { server, taken, _tunnel: tunnel }
    }

    /// Takes that field from now on, and no other.
    pub(super) fn take(&self, name: &str) {
        name.clone_into(&mut self.taken.lock().unwrap());
    }
}

fn relay(exchange: &mut Exchange, gateway: SocketAddr, taken: &str) -> Then {
    let body = exchange.read_body().1;
    let seen = &exchange.seen;
    let own = ["host", "content-length", "connection"];
    let is_passed = |(name, _): &&(String, String)| !own.contains(&name.to_ascii_lowercase().as_str());
    let fields: Vec<(&str, &str)> =
        seen.headers.0.iter().filter(is_passed).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let bytes = request(&seen.method, &seen.target, seen.headers.one("host"), &fields, &body);
    let answer = Connection::ask(gateway, &bytes).unwrap();
    let own = [taken, "content-length", "transfer-encoding", "connection"];
    let is_passed = |(name, _): &&(String, String)| !own.contains(&name.to_ascii_lowercase().as_str());
    let fields: Vec<(&str, &str)> =
        answer.headers.0.iter().filter(is_passed).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    exchange.answer(answer.status, &fields, &answer.body)
}
